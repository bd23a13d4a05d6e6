"""Postings: concurrency, replays, due changes, and append-only entries."""

import asyncio
from asyncio import gather
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from app.credits import MAX_CREDITS
from app.db import pools
from app.errors import BalanceLimitReached, GrantNotFound, IdempotencyConflict, InvalidInput
from app.ledger import accounts, grants, posting, queries
from app.ledger.due_changes_sweep import DueChangesSweep
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import AccountBalance, Cause, EntryKind
from app.verify.verifier import verify_ledger
from tests.factories import get_balance, grant_credits, seconds_from_now, start_task, unique_id, wait_until

pytestmark = pytest.mark.anyio

CAUSE = Cause(actor="service:test")


async def charge(account_id: int, credits: int) -> int:
    async def decide(posting: Posting) -> int:
        return balance_changes.charge(posting.accounts[account_id], credits, CAUSE).balance_after

    return await posting.post([account_id], decide)


async def list_kinds(account_id: int) -> list[tuple[str, int]]:
    page = await queries.list_entries(account_id, before_seq=MAX_CREDITS, limit=100)
    return [(entry.kind, entry.credits) for entry in reversed(page)]


async def test_concurrent_first_grants_of_an_owner_both_count(db: str) -> None:
    owners = [unique_id("owner") for _ in range(40)]
    await gather(*(grant_credits(owner, 5) for owner in owners for _ in range(2)))
    found = await accounts.find_account_ids(owners)
    assert len(set(found.values())) == 40
    assert {figures.posted for figures in (await queries.get_balances(list(found.values()))).values()} == {10}


async def test_concurrent_reads_see_only_committed_states(db: str) -> None:
    account = (await grant_credits("alice", 1000)).balance.account_id

    async def read() -> list[AccountBalance]:
        return [await get_balance(account) for _ in range(10)]

    reading = asyncio.create_task(read())
    await gather(*(charge(account, 100) for _ in range(5)), *(grant_credits("alice", 200) for _ in range(3)))
    states = await reading
    assert (await get_balance(account)).posted == 1100
    by_version = {figures.version: figures.posted for figures in states}
    written = await pools.fetch("SELECT version, balance_after FROM entry WHERE account_id = $1", account)
    assert by_version.items() <= {record["version"]: record["balance_after"] for record in written}.items()


async def test_a_replayed_grant_returns_the_first_result_and_another_request_conflicts(db: str) -> None:
    first = await grant_credits("alice", 10, key="k")
    again = await grant_credits("alice", 10, key="k")
    assert (again.replayed, again.entry, again.grant.number) == (True, first.entry, first.grant.number)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for credits, other in ((11, {}), (10, {"reason": "another"}), (10, {"expires_at": tomorrow})):
        with pytest.raises(IdempotencyConflict):
            await grant_credits("alice", credits, key="k", **other)
    assert (await get_balance(first.balance.account_id)).posted == 10
    assert (await grant_credits("bob", 10, key="k")).replayed is False  # keys are unique per account


async def test_twenty_concurrent_replays_make_one_grant(db: str) -> None:
    done = await gather(*(grant_credits("alice", 10, key="k") for _ in range(20)))
    assert sorted(one.replayed for one in done) == [False] + [True] * 19
    assert (await get_balance(done[0].balance.account_id)).posted == 10


async def test_a_grant_is_revoked_once(db: str) -> None:
    given = await grant_credits("alice", 10)
    account = given.balance.account_id
    await charge(account, 4)
    revoked = await grants.revoke_grant(account, 1, reason="mistake", key="r", actor="operator:o")
    assert (revoked.revoked_credits, revoked.balance.posted, revoked.replayed) == (6, 0, False)
    again = await grants.revoke_grant(account, 1, reason="mistake", key="r", actor="operator:o")
    assert (again.revoked_credits, again.entry, again.replayed) == (6, revoked.entry, True)
    with pytest.raises(GrantNotFound):
        await grants.revoke_grant(account, 9, reason="mistake", key="r9", actor="operator:o")
    with pytest.raises(GrantNotFound):
        await grants.revoke_grant(account + 1, 1, reason="mistake", key="r9", actor="operator:o")
    with pytest.raises(InvalidInput):
        await grants.revoke_grant(account, 1, reason=" ", key="r8", actor="operator:o")


async def test_reads_and_postings_apply_due_changes(db: str) -> None:
    now = datetime.now(UTC)
    given = await grant_credits("alice", 10, expires_at=now + timedelta(seconds=0.3))
    account = given.balance.account_id
    await grant_credits("alice", 7, starts_at=now + timedelta(seconds=0.2))
    assert (await get_balance(account)).available == 10
    await asyncio.sleep(0.35)
    figures = await get_balance(account)
    assert (figures.available, figures.version) == (7, 3)
    page = await queries.list_entries(account, before_seq=99, limit=9)
    assert [(one.kind, one.credits) for one in page] == [("EXPIRY", -10), ("GRANT", 7), ("GRANT", 10)]
    assert page[0].at == given.grant.expires_at
    assert await charge(account, 7) == 0


async def test_concurrent_readers_apply_a_due_change_once(db: str) -> None:
    account = (
        await grant_credits("alice", 10, expires_at=datetime.now(UTC) + timedelta(seconds=0.2))
    ).balance.account_id
    await asyncio.sleep(0.25)
    read = await gather(*(get_balance(account) for _ in range(10)), DueChangesSweep().apply_all())
    assert {figures.posted for figures in read if isinstance(figures, AccountBalance)} == {0}
    assert await list_kinds(account) == [("GRANT", 10), ("EXPIRY", -10)]
    assert await DueChangesSweep().apply_all() == 0


async def test_a_refused_grant_records_nothing(db: str) -> None:
    account = (await grant_credits("alice", MAX_CREDITS)).balance.account_id
    with pytest.raises(BalanceLimitReached):
        await grant_credits("alice", 1, key="over")
    assert await list_kinds(account) == [("GRANT", MAX_CREDITS)]
    assert (await charge(account, MAX_CREDITS)) == 0
    assert (await grant_credits("alice", 1, key="over")).replayed is False  # a refusal is not saved


async def test_an_exception_rolls_the_posting_back(db: str) -> None:
    account = (await grant_credits("alice", 10)).balance.account_id

    async def decide(posting: Posting) -> None:
        balance_changes.charge(posting.accounts[account], 5, CAUSE)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await posting.post([account], decide)
    assert await list_kinds(account) == [("GRANT", 10)]


async def test_postings_of_the_same_accounts_in_any_order_do_not_deadlock(db: str) -> None:
    first, second = [(await grant_credits(owner, 1000)).balance.account_id for owner in ("alice", "bob")]

    async def both(one: int, other: int) -> None:
        async def decide(posting: Posting) -> None:
            for account in (one, other):
                balance_changes.charge(posting.accounts[account], 1, CAUSE)

        await posting.post([one, other], decide)

    await gather(*(both(*pair) for pair in [(first, second), (second, first)] * 20))
    assert [(await get_balance(account)).posted for account in (first, second)] == [960, 960]


async def test_a_posting_runs_again_after_a_serialization_failure(db: str) -> None:
    account = (await grant_credits("alice", 10)).balance.account_id
    attempts = 0

    async def decide(posting: Posting) -> None:
        nonlocal attempts
        attempts += 1
        balance_changes.charge(posting.accounts[account], 1, CAUSE)
        if attempts < 3:
            raise asyncpg.SerializationError

    await posting.post([account], decide)
    assert (attempts, (await get_balance(account)).posted) == (3, 9)


@pytest.mark.parametrize(
    "sql", ["UPDATE entry SET credits = 1", "DELETE FROM entry", "TRUNCATE entry", "TRUNCATE entry CASCADE"]
)
async def test_entries_cannot_be_changed_or_deleted(db: str, sql: str) -> None:
    account = (await grant_credits("alice", 10)).balance.account_id
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="rows of entry are never changed or deleted"):
        await pools.fetch(sql)
    assert await list_kinds(account) == [(EntryKind.GRANT, 10)]


async def test_a_posting_waits_for_the_lock_and_sees_what_was_committed(db: str) -> None:
    account = (await grant_credits("alice", 10)).balance.account_id
    inside, leave = asyncio.Event(), asyncio.Event()

    async def slowly(posting: Posting) -> None:
        balance_changes.charge(posting.accounts[account], 10, CAUSE)
        inside.set()
        await leave.wait()

    slow = asyncio.create_task(posting.post([account], slowly))
    await inside.wait()
    late = asyncio.create_task(charge(account, 1))
    await asyncio.sleep(0.05)
    assert not late.done()
    leave.set()
    await slow
    with pytest.raises(Exception, match="This requires 1 credit; available: 0"):
        await late


async def test_very_many_due_changes_are_committed_in_several_transactions(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "DUE_CHANGES_PER_TRANSACTION", 3)
    at = await seconds_from_now(1)
    for _ in range(8):
        await grant_credits("alice", 10, expires_at=at)
    task = await start_task("alice", budget=25, budget_timeout_seconds=1)
    await grant_credits("alice", 5)
    await wait_until(await seconds_from_now(1))

    again = await grant_credits("alice", 1)  # any posting applies them first

    assert (again.balance.posted, again.balance.held) == (6, 0)
    found = await pools.fetch("SELECT count(*) AS n, count(DISTINCT xmin::text) AS t FROM entry WHERE kind = 'EXPIRY'")
    assert (found[0]["n"], found[0]["t"] >= 3) == (
        9,
        True,
    )  # one grant expires in two parts, because the budget claims half of it
    [hold] = await pools.fetch("SELECT status FROM hold WHERE task_id = $1", task.task_id)
    assert hold["status"] == "EXPIRED"
    [account] = await pools.fetch("SELECT next_change_at FROM account WHERE id = $1", task.account_id)
    assert account["next_change_at"] is None
    assert (await verify_ledger()).violations == []
