"""Reversals of block runs and of whole tasks: never more than was charged, into the grants that paid."""

from asyncio import gather
from typing import Any

import pytest

from app.db import pools
from app.errors import BlockRunNotFound, IdempotencyConflict, InvalidInput, ReversalExceedsCharge, TaskNotFound
from app.ledger import posting, queries
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import holds, lifecycle, reversals
from app.tasks import queries as task_queries
from app.tasks.charging import charge_many
from app.tasks.reversals import Reversal, TaskReversal
from app.tasks.rules import TaskState, TaskStatus
from app.verify.verifier import verify_ledger
from tests.factories import (
    block_run_request,
    capture_request,
    get_balance,
    get_figures,
    get_task,
    grant_credits,
    hold_request,
    publish_rate_cards,
    seconds_from_now,
    start_task,
    try_charge,
    unique_id,
    wait_until,
)
from tests.factories import charge_block_run as charged_once

pytestmark = pytest.mark.anyio


async def reverse(task: TaskState, credits: int | None = None, **more: Any) -> Reversal:
    asked = {"reason": "it failed", "idempotency_key": unique_id("reversal"), "actor": "operator:test"} | more
    return await reversals.reverse_charge(task.task_id, asked.pop("run", "run"), credits=credits, **asked)


@pytest.fixture
async def charged(db: str, rate_cards: RateCardCache) -> TaskState:
    """A task with one block run of 10 credits, drawn from grants of 4 and 100."""
    await grant_credits("alice", 4, priority=-1)
    await grant_credits("alice", 100)
    task = await start_task("alice")
    await charge_many([(task.account_id, block_run_request(task, block_run_id="run"))], rate_cards)
    return task


async def test_credits_return_to_their_grants_the_last_drawn_first(charged: TaskState) -> None:
    first = await reverse(charged, 7)
    assert (first.credits, first.entry.draws, first.task.total, first.balance.posted) == (
        7,
        ((2, 6), (1, 1)),
        3,
        101,
    )
    rest = await reverse(charged)
    assert (rest.credits, rest.entry.draws, rest.task.total, rest.balance.posted) == (3, ((1, 3),), 0, 104)
    grants = await queries.list_grants(charged.account_id, before_number=99, limit=9)
    assert [(grant.number, grant.remaining) for grant in grants] == [(2, 100), (1, 4)]
    [run] = (await task_queries.block_runs_of_tasks([(charged.account_id, charged.task_id)], limit=9)).popitem()[1]
    assert (run.cost, run.reversed) == (10, 10)


async def test_a_reversal_never_exceeds_the_charge(charged: TaskState) -> None:
    await reverse(charged, 8)
    with pytest.raises(ReversalExceedsCharge) as refused:
        await reverse(charged, 3)
    assert (refused.value.requested_credits, refused.value.reversible_credits) == (3, 2)
    await reverse(charged, 2)
    with pytest.raises(ReversalExceedsCharge):
        await reverse(charged)
    assert (await get_balance(charged.account_id)).posted == 104


async def test_twenty_concurrent_reversals_of_3_give_back_9(charged: TaskState) -> None:
    done = await gather(*(reverse(charged, 3) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(one, Reversal) for one in done) == 3
    assert sum(isinstance(one, ReversalExceedsCharge) for one in done) == 17
    assert (await get_balance(charged.account_id)).posted == 103


async def test_a_replay_returns_the_first_result(charged: TaskState) -> None:
    first = await reverse(charged, 3, idempotency_key="k")
    again = await reverse(charged, 3, idempotency_key="k")
    assert (again.replayed, again.entry, again.credits) == (True, first.entry, 3)
    with pytest.raises(IdempotencyConflict):
        await reverse(charged, 4, idempotency_key="k")
    assert (await get_balance(charged.account_id)).posted == 97


async def test_a_charge_of_an_ended_task_is_reversed(charged: TaskState) -> None:
    await lifecycle.finish_task(charged.task_id, TaskStatus.FAILED)
    assert (await reverse(charged)).task.status is TaskStatus.FAILED


async def test_free_and_unknown_block_runs_cannot_be_reversed(charged: TaskState, rate_cards: RateCardCache) -> None:
    await charge_many(
        [(charged.account_id, block_run_request(charged, block_run_id="note", block="NoteBlock"))], rate_cards
    )
    with pytest.raises(ReversalExceedsCharge):
        await reverse(charged, run="note")
    other = await start_task("alice")
    for task, run in ((charged, "nothing"), (other, "run")):
        with pytest.raises(BlockRunNotFound):
            await reverse(task, run=run)
    for wrong in ({"credits": 0}, {"credits": -1}, {"reason": ""}, {"idempotency_key": ""}):
        with pytest.raises(InvalidInput):
            await reverse(charged, **wrong)


async def reverse_all(task: TaskState | str, **more: Any) -> TaskReversal:
    asked = {"reason": "it failed", "idempotency_key": unique_id("reversal"), "actor": "operator:test"} | more
    return await reversals.reverse_task(task if isinstance(task, str) else task.task_id, **asked)


async def lines(task: TaskState, kind: str) -> list[tuple[str | None, int, tuple[tuple[int, int], ...]]]:
    """The account's entries of a kind, oldest first: (block run, credits, draws)."""
    page = await queries.list_entries(task.account_id, before_seq=999, limit=999, kinds=[kind])
    return [(entry.block_run_id, entry.credits, entry.draws) for entry in reversed(page)]


async def test_reversing_a_task_returns_its_cost_to_the_grants(charged: TaskState, rate_cards: RateCardCache) -> None:
    for more in ({"block_run_id": "two"}, {"block_run_id": "free", "block": "NoteBlock"}):
        await charged_once(charged, rate_cards, **more)
    other = await start_task("alice")
    await charged_once(other, rate_cards)

    done = await reverse_all(charged, actor="operator:o", reason="all failed")

    assert (done.credits, done.entries, done.replayed, done.balance.posted) == (20, 2, False, 94)
    assert (done.task.total, done.task.charged, done.task.reversed, done.task.steps) == (0, 20, 20, 3)
    assert await lines(charged, "REVERSAL") == [("run", 10, ((2, 6), (1, 4))), ("two", 10, ((2, 10),))]
    page = await queries.list_entries(charged.account_id, before_seq=99, limit=1)
    assert (page[0].actor, page[0].reason) == ("operator:o", "all failed")
    grants = await queries.list_grants(charged.account_id, before_number=99, limit=9)
    assert [(grant.number, grant.remaining) for grant in grants] == [(2, 90), (1, 4)]
    runs = (await task_queries.block_runs_of_tasks([(charged.account_id, charged.task_id)], limit=9)).popitem()[1]
    assert {run.block_run_id: (run.cost, run.reversed) for run in runs} == {
        "run": (10, 10), "two": (10, 10), "free": (0, 0),
    }  # fmt: skip
    assert (await verify_ledger()).violations == []


async def test_earlier_reversals_are_not_repeated(charged: TaskState, rate_cards: RateCardCache) -> None:
    await charged_once(charged, rate_cards, block_run_id="two")
    await charged_once(charged, rate_cards, block_run_id="three")
    await reverse(charged, 7)
    await reverse(charged, run="two")

    done = await reverse_all(charged)

    assert (done.credits, done.entries, done.task.total, done.balance.posted) == (13, 2, 0, 104)
    assert (await lines(charged, "REVERSAL"))[2:] == [("run", 3, ((1, 3),)), ("three", 10, ((2, 10),))]
    with pytest.raises(ReversalExceedsCharge):
        await reverse(charged, 1)
    assert (await verify_ledger()).violations == []


async def test_the_same_key_reverses_a_task_once_and_another_key_finds_nothing_left(charged: TaskState) -> None:
    first = await reverse_all(charged, idempotency_key="k")
    again = await reverse_all(charged, idempotency_key="k")
    assert (again.replayed, again.credits, again.entries, again.balance) == (True, 10, 1, first.balance)

    other = await reverse_all(charged, idempotency_key="k2")

    assert (other.replayed, other.credits, other.entries) == (False, 0, 0)
    assert (other.task, other.balance) == (first.task, first.balance)
    with pytest.raises(IdempotencyConflict):
        await reverse_all(charged, idempotency_key="k", reason="another")
    assert (await reverse_all(charged, idempotency_key="k2")).replayed
    assert (await get_balance(charged.account_id)) == first.balance
    assert (await verify_ledger()).violations == []


async def test_concurrent_reversals_of_a_task_and_its_block_run_give_back_once(charged: TaskState) -> None:
    done = await gather(
        *(reverse_all(charged) for _ in range(5)), *(reverse(charged, 3) for _ in range(5)), return_exceptions=True
    )

    given = [one.credits for one in done if isinstance(one, (Reversal, TaskReversal))]
    assert sum(given) == 10
    assert {type(one) for one in done} <= {Reversal, TaskReversal, ReversalExceedsCharge}
    assert (await get_balance(charged.account_id)).posted == 104
    assert (await verify_ledger()).violations == []


async def test_credits_returned_to_an_expired_grant_expire_at_once_with_an_entry(rate_cards: RateCardCache) -> None:
    grant = await grant_credits("alice", 14, expires_at=await seconds_from_now(1))
    await grant_credits("alice", 100)
    task = await start_task("alice")
    for name in ("one", "two"):
        await charged_once(task, rate_cards, block_run_id=name)
    assert grant.grant.expires_at is not None
    await wait_until(grant.grant.expires_at)

    done = await reverse_all(task)

    assert (done.credits, done.entries, done.task.total, done.balance.posted) == (20, 2, 0, 100)
    page = await queries.list_entries(task.account_id, before_seq=99, limit=4)
    assert [(one.kind, one.credits, one.draws) for one in reversed(page)] == [
        ("REVERSAL", 10, ((1, 10),)),
        ("EXPIRY", -10, ((1, 10),)),
        ("REVERSAL", 10, ((2, 6), (1, 4))),
        ("EXPIRY", -4, ((1, 4),)),
    ]
    assert len({one.at for one in page}) == 1
    assert (await verify_ledger()).violations == []


async def test_reversing_a_task_does_not_reverse_its_children(charged: TaskState, rate_cards: RateCardCache) -> None:
    child = await start_task("alice", parent_task_id=charged.task_id)
    await charged_once(child, rate_cards)

    done = await reverse_all(charged)

    assert (done.credits, done.balance.posted) == (10, 94)
    [state] = (await task_queries.tasks_by_id([(child.account_id, child.task_id)])).values()
    assert (state.charged, state.reversed) == (10, 0)
    assert (await verify_ledger()).violations == []


async def test_reversing_a_free_task_writes_no_entry(rate_cards: RateCardCache, db: str) -> None:
    await grant_credits("alice", 10)
    empty = await start_task("alice")
    free = await start_task("alice")
    free = (await charged_once(free, rate_cards, block="NoteBlock")).task
    before = await get_balance(free.account_id)

    for task in (empty, free):
        done = await reverse_all(task)
        assert (done.credits, done.entries, done.replayed, done.task, done.balance) == (0, 0, False, task, before)
    assert await lines(free, "REVERSAL") == []


@pytest.mark.parametrize("end", [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED])
async def test_an_ended_task_is_reversed(charged: TaskState, end: TaskStatus) -> None:
    await (
        lifecycle.cancel_task(charged.task_id)
        if end is TaskStatus.CANCELLED
        else lifecycle.finish_task(charged.task_id, end)
    )

    done = await reverse_all(charged)

    assert (done.credits, done.task.status, done.balance.posted) == (10, end, 104)


async def test_credits_paid_by_budgets_and_holds_return_to_the_account(db: str) -> None:
    prices = await publish_rate_cards()
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=40)
    hold, open_hold = hold_request(task, 20), hold_request(task, 5)
    await charged_once(task, prices)
    for request in (hold, open_hold):
        await holds.place_hold(request, prices)
    await holds.capture_hold(capture_request(hold, 12))

    done = await reverse_all(task)

    # The hold and the budget are unchanged.
    assert (done.credits, done.balance.posted, done.balance.held, done.balance.available) == (22, 100, 18, 82)
    [budget, captured, open_hold] = await pools.fetch("SELECT captured, remaining, allocated FROM hold ORDER BY number")
    assert [tuple(row) for row in (budget, captured, open_hold)] == [(10, 13, 17), (12, 0, 0), (0, 5, 0)]
    assert (await verify_ledger()).violations == []


async def test_a_reversed_stopped_task_stays_stopped(charged: TaskState, rate_cards: RateCardCache) -> None:
    for _ in range(9):
        await charged_once(charged, rate_cards)
    assert isinstance(await try_charge(charged, rate_cards), BaseException)

    done = await reverse_all(charged)

    assert (done.credits, done.entries, done.task.status, done.balance.available) == (100, 10, TaskStatus.STOPPED, 104)


async def test_an_unknown_task_and_a_missing_reason_or_key_are_refused(charged: TaskState) -> None:
    with pytest.raises(TaskNotFound):
        await reverse_all("nowhere")
    for wrong in ({"reason": ""}, {"reason": "x" * 1001}, {"idempotency_key": ""}):
        with pytest.raises(InvalidInput):
            await reverse_all(charged, **wrong)
    assert (await get_balance(charged.account_id)).posted == 94


async def a_task_of_eleven_block_runs(rate_cards: RateCardCache, monkeypatch: pytest.MonkeyPatch) -> TaskState:
    """11 block runs of 10 credits, one of 0; 4 credits of the sixth are reversed. A transaction reverses at most 5."""
    monkeypatch.setattr(reversals, "BLOCK_RUNS_PER_TRANSACTION", 5)
    await grant_credits("alice", 100, priority=-1)
    await grant_credits("alice", 100)
    task = await start_task("alice")
    runs = [block_run_request(task, block_run_id=f"run-{number}") for number in range(11)]
    runs.insert(3, block_run_request(task, block="NoteBlock"))
    await charge_many([(task.account_id, run) for run in runs], rate_cards)
    await reverse(task, 4, run="run-6")
    return task


def interrupt_after(transactions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process fail after so many transactions of a reversal."""
    post, left = posting.post, [transactions]

    async def post_some(*arguments: Any, **named: Any) -> Any:
        if not left[0]:
            raise ConnectionError
        left[0] -= 1
        return await post(*arguments, **named)

    monkeypatch.setattr(posting, "post", post_some)


async def test_a_large_task_is_reversed_in_several_transactions(
    rate_cards: RateCardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await a_task_of_eleven_block_runs(rate_cards, monkeypatch)

    done = await reverse_all(task, idempotency_key="all")

    assert (done.credits, done.entries, done.task.total, done.replayed) == (106, 11, 0, False)
    assert await get_figures(task) == (200, 0, 200)
    [counted] = await pools.fetch("SELECT count(DISTINCT xmin::text) AS n FROM entry WHERE kind = 'REVERSAL'")
    assert counted["n"] == 1 + 3
    again = await reverse_all(task, idempotency_key="all")
    assert (again.credits, again.entries, again.replayed) == (106, 11, True)
    assert (await verify_ledger()).violations == []


@pytest.mark.parametrize("transactions", [1, 2])
async def test_an_interrupted_reversal_continues_and_counts_the_whole(
    rate_cards: RateCardCache, monkeypatch: pytest.MonkeyPatch, transactions: int
) -> None:
    task = await a_task_of_eleven_block_runs(rate_cards, monkeypatch)
    with monkeypatch.context() as patched:
        interrupt_after(transactions, patched)
        with pytest.raises(ConnectionError):
            await reverse_all(task, idempotency_key="all")
    left = {1: 66, 2: 20}[transactions]
    assert (await get_task(task)).total == left  # what was committed stays
    with pytest.raises(IdempotencyConflict):
        await reverse_all(task, idempotency_key="all", reason="another")
    with pytest.raises(IdempotencyConflict):
        await reverse(task, run="run-9", idempotency_key="all")
    late = await charged_once(task, rate_cards)  # after the request: it is not reversed
    other = await reverse(task, run="run-10")

    done = await reverse_all(task, idempotency_key="all")

    assert (done.credits, done.entries, done.replayed) == (106 - other.credits, 10, False)
    assert (await get_task(task)).total == late.block_run.cost == 10
    again = await reverse_all(task, idempotency_key="all")
    assert (again.credits, again.entries, again.replayed) == (96, 10, True)
    assert (await reverse_all(task)).credits == 10  # a new request reverses it
    assert (await verify_ledger()).violations == []


async def test_concurrent_repetitions_of_a_large_reversal_return_the_same_result(
    rate_cards: RateCardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await a_task_of_eleven_block_runs(rate_cards, monkeypatch)

    results = await gather(*(reverse_all(task, idempotency_key="all") for _ in range(5)), reverse_all(task))

    assert {(one.credits, one.entries) for one in results[:5]} == {(106 - results[5].credits, 11 - results[5].entries)}
    assert await get_figures(task) == (200, 0, 200)
    assert len(await lines(task, "REVERSAL")) == 1 + 11
    assert (await verify_ledger()).violations == []
