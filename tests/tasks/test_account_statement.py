"""The account statement: groups by task, pinned pages and filters, compared with the entries."""

import asyncio
import random
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import pytest

from app.ledger import queries
from app.ledger.rules.account_state import EntryKind, LedgerEntry
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import account_statement
from app.tasks.account_statement import StatementGroup, StatementPosition
from app.tasks.charging import Charge, charge_many
from app.tasks.rules import BlockRunState, TaskState
from tests.factories import block_run_request, grant_credits, reverse_block_run, start_task

pytestmark = pytest.mark.anyio

GroupSummary = tuple[str | None, tuple[str, ...], int, int, int, int]
"""Task id, kinds, credits, number of entries, first seq and last seq of a group."""


async def charge(rate_cards: RateCardCache, *tasks: TaskState) -> list[BlockRunState]:
    """One block run of 10 credits in each of those tasks, in that order."""
    outcomes = await charge_many([(task.account_id, block_run_request(task)) for task in tasks], rate_cards)
    assert all(isinstance(outcome, Charge) for outcome in outcomes), outcomes
    return [outcome.block_run for outcome in outcomes if isinstance(outcome, Charge)]


def summary(group: StatementGroup) -> GroupSummary:
    kinds = tuple(str(kind) for kind in group.kinds)
    return group.task_id, kinds, group.credits, group.entries, group.first.seq, group.last.seq


def by_hand(
    entries: Sequence[LedgerEntry],
    kinds: Collection[EntryKind] | None = None,
    from_at: datetime | None = None,
    to_at: datetime | None = None,
) -> list[GroupSummary]:
    """The expected statement, computed from all entries."""
    groups: dict[str | int, list[LedgerEntry]] = {}
    for entry in sorted(entries, key=lambda entry: entry.seq):
        line = entry
        chosen = kinds is None or line.kind in kinds
        if chosen and (from_at is None or line.at >= from_at) and (to_at is None or line.at < to_at):
            of_task = line.task_id if line.kind in {"CHARGE", "REVERSAL"} else None
            groups.setdefault(of_task or line.seq, []).append(entry)
    lines = [
        (
            key if isinstance(key, str) else None,
            tuple(sorted({entry.kind for entry in some})),
            sum(entry.credits for entry in some),
            len(some),
            some[0].seq,
            some[-1].seq,
        )
        for key, some in groups.items()
    ]
    return sorted(lines, key=lambda line: -line[-1])


async def in_pages(
    account_id: int,
    size: int,
    kinds: Collection[EntryKind] | None = None,
    from_at: datetime | None = None,
    to_at: datetime | None = None,
) -> list[GroupSummary]:
    found: list[GroupSummary] = []
    after: StatementPosition | None = None
    while True:
        page = await account_statement.statement_page(
            account_id, limit=size, after=after, kinds=kinds, from_at=from_at, to_at=to_at
        )
        if not page.groups:
            return found
        assert len(page.groups) <= size
        found += map(summary, page.groups)
        after = page.position_of(page.groups[-1])


async def test_a_task_is_one_group_placed_by_its_last_entry(db: str, rate_cards: RateCardCache) -> None:
    account_id = (await grant_credits("alice", 100)).balance.account_id  # 1
    one, two = await start_task("alice"), await start_task("alice")
    [first, *_] = await charge(rate_cards, one, two, one)  # 2, 3, 4
    await grant_credits("alice", 5)  # 5
    await reverse_block_run(first, 4)  # 6
    groups = (await account_statement.statement_page(account_id, limit=9)).groups
    assert [summary(group) for group in groups] == [
        (one.task_id, ("CHARGE", "REVERSAL"), -16, 3, 2, 6),
        (None, ("GRANT",), 5, 1, 5, 5),
        (two.task_id, ("CHARGE",), -10, 1, 3, 3),
        (None, ("GRANT",), 100, 1, 1, 1),
    ]
    assert [group.last.balance_after for group in groups] == [79, 75, 80, 100]
    assert sum(group.credits for group in groups) == 79


async def test_writes_between_pages_do_not_move_groups(db: str, rate_cards: RateCardCache) -> None:
    account_id = (await grant_credits("alice", 1_000)).balance.account_id
    one, two, three = [await start_task("alice") for _ in range(3)]
    runs = await charge(rate_cards, one, two, three, two)
    entries = await queries.list_entries(account_id, before_seq=99, limit=99)
    first = await account_statement.statement_page(account_id, limit=1)
    # Meanwhile tasks on this page and on later pages are charged and reversed.
    await charge(rate_cards, three, two, one)
    await reverse_block_run(runs[0], 10)
    await grant_credits("alice", 7)
    rest = await account_statement.statement_page(account_id, limit=9, after=first.position_of(first.groups[0]))
    assert [summary(group) for group in first.groups + rest.groups] == by_hand(entries)
    assert (rest.pinned_seq, first.pinned_seq) == (5, 5)
    fresh = (await account_statement.statement_page(account_id, limit=9)).groups
    assert [(group.task_id, group.entries) for group in fresh[:2]] == [(None, 1), (one.task_id, 3)]


async def test_pages_of_any_size_equal_the_groups_of_all_entries(db: str, rate_cards: RateCardCache) -> None:
    chance = random.Random(6)  # noqa: S311  a history that is the same in every run
    account_id = (await grant_credits("alice", 5_000)).balance.account_id
    tasks = [await start_task("alice") for _ in range(6)]
    runs: list[BlockRunState] = []
    for _ in range(40):
        match chance.randrange(8):
            case 0:
                await grant_credits("alice", chance.randint(1, 9))
            case 1 if runs:
                await reverse_block_run(runs.pop(chance.randrange(len(runs))), chance.randint(1, 10))
            case _:
                runs += await charge(rate_cards, *chance.choices(tasks, k=chance.randint(1, 3)))
    entries = await queries.list_entries(account_id, before_seq=9_999, limit=9_999)
    instants = [entry.at for entry in chance.sample(entries, 4)]
    periods = [(None, None), (instants[0], None), (None, instants[1]), (min(instants[2:]), max(instants[2:]))]
    for kinds in (
        None,
        [EntryKind.CHARGE],
        [EntryKind.REVERSAL],
        [EntryKind.GRANT, EntryKind.REVERSAL],
        [EntryKind.EXPIRY],
        [],
    ):
        for from_at, to_at in periods:
            expected = by_hand(entries, kinds, from_at, to_at)
            for size in (1, 2, 100):
                assert await in_pages(account_id, size, kinds, from_at, to_at) == expected, (kinds, from_at, to_at)


async def test_a_page_continues_after_a_task_with_many_block_runs(db: str, rate_cards: RateCardCache) -> None:
    account_id = (await grant_credits("alice", 10_000)).balance.account_id
    old, long, other = [await start_task("alice") for _ in range(3)]
    await charge(rate_cards, old, *[long] * 500, other, *[long] * 400)
    assert await in_pages(account_id, 2) == [
        (long.task_id, ("CHARGE",), -9_000, 900, 3, 903),
        (other.task_id, ("CHARGE",), -10, 1, 503, 503),
        (old.task_id, ("CHARGE",), -10, 1, 2, 2),
        (None, ("GRANT",), 10_000, 1, 1, 1),
    ]


async def test_due_changes_are_in_the_first_page(db: str) -> None:
    balance = (await grant_credits("alice", 50)).balance
    grant = (await grant_credits("alice", 7, starts_at=datetime.now().astimezone() + timedelta(seconds=0.2))).grant
    assert grant.starts_at is not None
    await asyncio.sleep(0.25)
    page = await account_statement.statement_page(balance.account_id, limit=9)
    assert [summary(group) for group in page.groups] == [
        (None, ("GRANT",), 7, 1, 2, 2),
        (None, ("GRANT",), 50, 1, 1, 1),
    ]
    assert page.groups[0].last.at == grant.starts_at


async def test_an_account_without_entries_and_an_unknown_account_have_empty_statements(db: str) -> None:
    later = datetime.now().astimezone() + timedelta(days=1)
    empty = (await grant_credits("alice", 7, starts_at=later)).balance.account_id
    for account_id in (empty, empty + 1):
        page = await account_statement.statement_page(account_id, limit=9, from_at=datetime.now().astimezone())
        assert (page.groups, page.pinned_seq) == ([], 0)
