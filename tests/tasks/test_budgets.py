"""Budgets of tasks: what they pay, what they stop, and when the rest is released."""

from asyncio import gather
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import pytest

from app.db import pools
from app.errors import (
    BudgetReached,
    HoldClosed,
    InsufficientCredits,
    InvalidInput,
    PriceNotFound,
    TaskEnded,
    TaskStopped,
)
from app.ledger import queries
from app.ledger.rules.account_state import HoldStatus
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import holds, lifecycle
from app.tasks.charging import Charge
from app.tasks.lifecycle import TaskChange
from app.tasks.rules import SignalKind, StopReason, TaskState, TaskStatus
from app.verify.verifier import verify_ledger
from tests.factories import (
    capture_request,
    charge_block_run,
    get_figures,
    get_task,
    grant_credits,
    hold_request,
    publish_rate_cards,
    seconds_from_now,
    start_task,
    try_charge,
    wait_until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def prices(db: str) -> RateCardCache:
    """Prices: 1 credit for each item, 10 for a block run of the factories."""
    return await publish_rate_cards()


async def budget_row(task: TaskState) -> dict[str, object]:
    """The row of the budget that a task draws on."""
    [row] = await pools.fetch("SELECT *, claims::text AS claimed FROM hold WHERE number = $1", task.budget_hold)
    return dict(row)


async def test_a_budget_keeps_its_credits_while_other_tasks_spend(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    mine = await start_task("alice", budget=40)
    other = await start_task("alice")
    assert await get_figures(mine) == (100, 40, 60)

    spent = [await try_charge(other, prices) for _ in range(7)]
    assert [type(one) for one in spent] == [Charge] * 6 + [InsufficientCredits]
    assert await get_figures(mine) == (40, 40, 0)

    for left in (30, 20, 10, 0):
        one = await charge_block_run(mine, prices)
        assert one.entry is not None
        assert (one.entry.hold_number, one.entry.balance_after) == (mine.budget_hold, left)
        assert one.signal == (None if left else SignalKind.STOP)
    assert await get_figures(mine) == (0, 0, 0)
    assert (await verify_ledger()).violations == []


async def test_a_budget_is_never_exceeded_even_if_the_account_has_more(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=25)
    for _ in range(2):
        await charge_block_run(task, prices)

    refusal = await try_charge(task, prices)

    assert isinstance(refusal, BudgetReached)
    assert (refusal.task_id, refusal.required_credits, refusal.remaining_credits, refusal.shortfall_credits) == (
        task.task_id, 10, 5, 5,
    )  # fmt: skip
    stopped = await get_task(task)
    assert (stopped.status, stopped.stop_reason, stopped.required, stopped.shortfall, stopped.total) == (
        TaskStatus.STOPPED, StopReason.BUDGET_REACHED, 10, 5, 20,
    )  # fmt: skip
    assert await get_figures(task) == (80, 5, 75)
    again = await try_charge(task, prices)
    assert isinstance(again, TaskStopped)
    assert again.stop_reason is StopReason.BUDGET_REACHED
    assert await get_figures(task) == (80, 5, 75)
    assert (await verify_ledger()).violations == []


@pytest.mark.parametrize("end", ["COMPLETED", "FAILED", "CANCELLED"])
@pytest.mark.parametrize("stopped", [False, True])
async def test_the_rest_is_released_however_the_task_ends(prices: RateCardCache, end: str, stopped: bool) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=15)
    await charge_block_run(task, prices)
    if stopped:
        assert isinstance(await try_charge(task, prices), BudgetReached)
    assert await get_figures(task) == (90, 5, 85)

    ending: Awaitable[TaskChange]
    ending = (
        lifecycle.cancel_task(task.task_id)
        if end == "CANCELLED"
        else lifecycle.finish_task(task.task_id, TaskStatus(end))
    )
    done = await ending

    assert (done.task.status, done.task.total) == (TaskStatus(end), 10)
    assert await get_figures(task) == (90, 0, 90)
    row = await budget_row(task)
    assert (row["status"], row["captured"], row["released"], row["claimed"]) == ("CAPTURED", 10, 5, "[]")
    assert (await verify_ledger()).violations == []


async def test_a_budget_expires_without_a_job_and_its_task_is_stopped(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=40, budget_timeout_seconds=1)
    spent = await charge_block_run(task, prices)
    expires_at = (await budget_row(task))["expires_at"]
    assert expires_at == spent.block_run.charged_at + timedelta(seconds=1)

    await wait_until(spent.block_run.charged_at + timedelta(seconds=1))
    stopped = await get_task(task)

    assert (stopped.status, stopped.stop_reason, stopped.total) == (TaskStatus.STOPPED, StopReason.BUDGET_EXPIRED, 10)
    assert await get_figures(task) == (90, 0, 90)
    row = await budget_row(task)
    assert (row["status"], row["captured"], row["released"], row["closed_at"]) == ("EXPIRED", 10, 30, expires_at)
    # It never draws on the account, although credits are available.
    late = await try_charge(task, prices)
    assert isinstance(late, TaskStopped)
    assert late.stop_reason is StopReason.BUDGET_EXPIRED
    assert await get_figures(task) == (90, 0, 90)
    assert (await charge_block_run(task, prices, block="NoteBlock")).task.status is TaskStatus.STOPPED
    assert (await verify_ledger()).violations == []


async def test_a_charge_after_the_expiry_applies_it_and_the_task_is_stopped(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=40, budget_timeout_seconds=1)
    await wait_until(await seconds_from_now(1))

    # Nothing has read the account meanwhile, so the charge applies the expiry.
    refusal = await try_charge(task, prices)

    assert isinstance(refusal, TaskStopped)
    assert refusal.stop_reason is StopReason.BUDGET_EXPIRED
    [row] = await pools.fetch("SELECT status, stop_reason, charged FROM task")
    assert tuple(row) == ("STOPPED", "BUDGET_EXPIRED", 0)
    assert await get_figures(task) == (100, 0, 100)
    assert (await verify_ledger()).violations == []


async def test_a_task_stopped_by_its_budget_keeps_the_reason_when_the_budget_expires(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=15, budget_timeout_seconds=1)
    await charge_block_run(task, prices)
    assert isinstance(await try_charge(task, prices), BudgetReached)

    await wait_until(await seconds_from_now(1))

    stopped = await get_task(task)
    assert stopped.status is TaskStatus.STOPPED
    assert await get_figures(task) == (90, 0, 90)
    assert (stopped.stop_reason, stopped.required, stopped.shortfall) == (StopReason.BUDGET_REACHED, 10, 5)
    # Closing work has no budget left, and does not draw on the account.
    late = await try_charge(task, prices, closing=True)
    assert isinstance(late, TaskStopped)
    assert await get_figures(task) == (90, 0, 90)
    assert (await verify_ledger()).violations == []


async def test_charges_of_the_task_and_of_nested_tasks_restart_the_timeout(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=60, budget_timeout_seconds=100)
    child = await start_task("alice", parent_task_id=task.task_id, budget=30, budget_timeout_seconds=50)

    for block in ("ReplicateModelBlock", "NoteBlock"):
        one = await charge_block_run(task, prices, block=block)
        assert (await budget_row(task))["expires_at"] == one.block_run.charged_at + timedelta(seconds=100)
    inner = await charge_block_run(child, prices)
    assert (await budget_row(task))["expires_at"] == inner.block_run.charged_at + timedelta(seconds=100)
    assert (await budget_row(child))["expires_at"] == inner.block_run.charged_at + timedelta(seconds=50)
    placed = await holds.place_hold(hold_request(child, 5), prices)
    assert (await budget_row(task))["expires_at"] == placed.hold.placed_at + timedelta(seconds=100)
    before = placed.hold.placed_at + timedelta(seconds=100)
    assert isinstance(await try_charge(task, prices, block="Nothing"), PriceNotFound)
    assert (await budget_row(task))["expires_at"] == before  # a refused charge does not restart it


async def test_a_budget_expires_a_day_after_its_grants_at_the_latest(prices: RateCardCache) -> None:
    grant = await grant_credits("alice", 40, expires_at=await seconds_from_now(0.5))
    task = await start_task("alice", budget=40, budget_timeout_seconds=86_400)
    assert grant.grant.expires_at is not None
    await wait_until(grant.grant.expires_at)

    one = await charge_block_run(task, prices)

    assert (await budget_row(task))["expires_at"] == grant.grant.expires_at + timedelta(hours=24)
    assert one.block_run.charged_at > grant.grant.expires_at
    await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)
    assert await get_figures(task) == (0, 0, 0)  # the rest has expired with its release
    kinds = [(e.kind, e.credits) for e in await queries.list_entries(task.account_id, before_seq=9, limit=9)]
    assert kinds == [("EXPIRY", -30), ("CHARGE", -10), ("GRANT", 40)]
    assert (await verify_ledger()).violations == []


async def test_a_nested_budget_comes_from_the_parents_budget_and_returns_to_it(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    parent = await start_task("alice", budget=60)
    child = await start_task("alice", parent_task_id=parent.task_id, budget=25)
    assert child.budget_hold != parent.budget_hold
    assert await get_figures(parent) == (100, 60, 40)
    outer = await budget_row(parent)
    assert (outer["remaining"], outer["allocated"], outer["claimed"]) == (35, 25, "[[1, 35]]")

    await charge_block_run(child, prices)
    assert await get_figures(parent) == (90, 50, 40)
    done = await lifecycle.finish_task(child.task_id, TaskStatus.COMPLETED)

    assert (done.task.total, (await get_task(parent)).total) == (10, 0)
    assert await get_figures(parent) == (90, 50, 40)
    outer, inner = await budget_row(parent), await budget_row(child)
    assert (outer["remaining"], outer["allocated"], outer["captured"]) == (50, 10, 0)
    assert (inner["status"], inner["captured"], inner["released"]) == ("CAPTURED", 10, 15)
    assert (await verify_ledger()).violations == []
    await lifecycle.finish_task(parent.task_id, TaskStatus.COMPLETED)
    assert await get_figures(parent) == (90, 0, 90)
    assert (await verify_ledger()).violations == []


async def test_a_nested_budget_above_the_rest_of_the_parents_is_refused_and_nothing_moves(
    prices: RateCardCache,
) -> None:
    await grant_credits("alice", 100)
    parent = await start_task("alice", budget=30)

    with pytest.raises(BudgetReached) as refused:
        await start_task("alice", parent_task_id=parent.task_id, budget=31)

    assert (refused.value.task_id, refused.value.required_credits, refused.value.remaining_credits) == (
        parent.task_id, 31, 30,
    )  # fmt: skip
    assert await get_task(parent) == parent
    assert [tuple(row) for row in await pools.fetch("SELECT count(*) FROM task")] == [(1,)]
    assert await get_figures(parent) == (100, 30, 70)
    assert (await verify_ledger()).violations == []


async def test_a_nested_task_without_a_budget_draws_on_the_parents_budget(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    parent = await start_task("alice", budget=25)
    child = await start_task("alice", parent_task_id=parent.task_id)
    grandchild = await start_task("alice", parent_task_id=child.task_id)
    assert child.budget_hold == grandchild.budget_hold == parent.budget_hold

    await charge_block_run(child, prices)
    await charge_block_run(grandchild, prices)
    refusal = await try_charge(child, prices)

    assert isinstance(refusal, BudgetReached)
    assert (refusal.task_id, refusal.remaining_credits) == (parent.task_id, 5)
    assert [(await get_task(one)).status for one in (parent, child, grandchild)] == [
        TaskStatus.RUNNING, TaskStatus.STOPPED, TaskStatus.RUNNING,
    ]  # fmt: skip
    await lifecycle.finish_task(child.task_id, TaskStatus.FAILED)  # the budget is the parent's: nothing is released
    assert await get_figures(parent) == (80, 5, 75)
    assert (await verify_ledger()).violations == []


async def test_no_child_starts_if_the_budget_of_its_parent_is_spent(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    parent = await start_task("alice", budget=10)
    await charge_block_run(parent, prices)

    with pytest.raises(BudgetReached) as refused:
        await start_task("alice", parent_task_id=parent.task_id)

    assert (refused.value.task_id, refused.value.required_credits, refused.value.remaining_credits) == (
        parent.task_id, 1, 0,
    )  # fmt: skip


async def test_a_child_starts_from_the_parents_budget_even_if_the_account_has_nothing_else(
    prices: RateCardCache,
) -> None:
    await grant_credits("alice", 20)
    parent = await start_task("alice", budget=20)
    child = await start_task("alice", parent_task_id=parent.task_id)

    assert (await charge_block_run(child, prices)).signal is None
    with pytest.raises(InsufficientCredits):
        await start_task("alice")


async def test_a_child_that_draws_on_the_parents_budget_is_stopped_after_the_parent_ends(
    prices: RateCardCache,
) -> None:
    await grant_credits("alice", 100)
    parent = await start_task("alice", budget=40)
    child = await start_task("alice", parent_task_id=parent.task_id)

    await lifecycle.finish_task(parent.task_id, TaskStatus.COMPLETED)
    assert await get_figures(parent) == (100, 0, 100)
    free = await charge_block_run(child, prices, block="NoteBlock")
    assert (free.task.status, free.signal) == (TaskStatus.RUNNING, SignalKind.STOP)
    refusal = await try_charge(child, prices)

    assert isinstance(refusal, TaskStopped)
    stopped = await get_task(child)
    assert (stopped.status, stopped.stop_reason, stopped.shortfall) == (
        TaskStatus.STOPPED,
        StopReason.BUDGET_EXPIRED,
        10,
    )
    assert await get_figures(parent) == (100, 0, 100)
    with pytest.raises(TaskEnded):
        await start_task("alice", parent_task_id=parent.task_id)
    assert (await verify_ledger()).violations == []


async def test_a_childs_own_budget_stays_open_after_the_parent_ends_and_returns_to_the_account(
    prices: RateCardCache,
) -> None:
    await grant_credits("alice", 100)
    parent = await start_task("alice", budget=40)
    child = await start_task("alice", parent_task_id=parent.task_id, budget=25)

    await lifecycle.finish_task(parent.task_id, TaskStatus.COMPLETED)
    assert await get_figures(parent) == (100, 25, 75)
    await charge_block_run(child, prices)
    assert await get_figures(parent) == (90, 15, 75)
    await lifecycle.finish_task(child.task_id, TaskStatus.COMPLETED)

    assert await get_figures(parent) == (90, 0, 90)
    assert (await verify_ledger()).violations == []


async def test_nested_budgets_expire_together_and_everything_is_released(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    parent = await start_task("alice", budget=60, budget_timeout_seconds=1)
    child = await start_task("alice", parent_task_id=parent.task_id, budget=25, budget_timeout_seconds=1)
    heir = await start_task("alice", parent_task_id=child.task_id)

    await wait_until(await seconds_from_now(1))

    states = [await get_task(one) for one in (parent, child, heir)]
    assert {(one.status, one.stop_reason) for one in states} == {(TaskStatus.STOPPED, StopReason.BUDGET_EXPIRED)}
    assert await get_figures(parent) == (100, 0, 100)
    assert (await verify_ledger()).violations == []


async def test_a_budget_above_what_is_available_is_refused_and_nothing_is_written(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    first = await start_task("alice", budget=40)

    with pytest.raises(InsufficientCredits) as refused:
        await start_task("alice", task_id="other", budget=61)

    assert (refused.value.required_credits, refused.value.available_credits) == (61, 60)
    assert await get_figures(first) == (100, 40, 60)
    assert await pools.fetch("SELECT FROM task_account WHERE task_id = 'other'") == []
    assert (await start_task("alice", task_id="other", budget=60)).status is TaskStatus.RUNNING
    assert await get_figures(first) == (100, 100, 0)
    assert (await verify_ledger()).violations == []


@pytest.mark.parametrize(
    ("asked", "paths"),
    [
        ({"budget_timeout_seconds": 60}, ["budgetTimeoutSeconds"]),
        ({"budget": 10, "budget_timeout_seconds": 0}, ["budgetTimeoutSeconds"]),
        ({"budget": 10, "budget_timeout_seconds": 86_401}, ["budgetTimeoutSeconds"]),
        ({"budget": 0}, ["budget"]),
        ({"budget": -1}, ["budget"]),
        ({"budget": 2**53}, ["budget"]),
        ({"budget": 10, "closing_reserve": 11}, ["closingReserve"]),
        ({"budget": 10, "closing_reserve": -1}, ["closingReserve"]),
        ({"closing_reserve": 1}, ["closingReserve"]),
        ({"budget": 0, "budget_timeout_seconds": 0, "closing_reserve": 1},
         ["budget", "budgetTimeoutSeconds", "closingReserve"]),
    ],
)  # fmt: skip
async def test_an_invalid_budget_is_refused(db: str, asked: dict[str, Any], paths: list[str]) -> None:
    await grant_credits("alice", 100)

    with pytest.raises(InvalidInput) as refused:
        await start_task("alice", **asked)

    assert [problem.path for problem in refused.value.problems] == paths
    assert await pools.fetch("SELECT FROM task") == []
    assert await pools.fetch("SELECT FROM hold") == []


async def test_only_closing_work_uses_the_closing_reserve(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=30, closing_reserve=10)
    for _ in range(2):
        await charge_block_run(task, prices)

    refusal = await try_charge(task, prices)
    assert isinstance(refusal, BudgetReached)
    assert (refusal.required_credits, refusal.remaining_credits) == (10, 0)
    assert (await get_task(task)).stop_reason is StopReason.BUDGET_REACHED
    landed = await charge_block_run(task, prices, closing=True)

    assert (landed.task.status, landed.task.total, landed.block_run.cost) == (TaskStatus.STOPPED, 30, 10)
    assert await get_figures(task) == (70, 0, 70)
    assert isinstance(await try_charge(task, prices, closing=True), BudgetReached)
    assert await get_figures(task) == (70, 0, 70)
    assert (await verify_ledger()).violations == []


async def test_closing_work_without_a_budget_is_refused_like_other_work(prices: RateCardCache) -> None:
    await grant_credits("alice", 15)
    task = await start_task("alice")
    await charge_block_run(task, prices, closing=True)
    assert isinstance(await try_charge(task, prices), InsufficientCredits)
    await grant_credits("alice", 100)

    assert isinstance(await try_charge(task, prices, closing=True), TaskStopped)
    assert await get_figures(task) == (105, 0, 105)


async def test_holds_and_nested_budgets_cannot_use_the_closing_reserve(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=30, closing_reserve=10)

    with pytest.raises(BudgetReached) as refused:
        await start_task("alice", parent_task_id=task.task_id, budget=21)
    assert refused.value.remaining_credits == 20
    with pytest.raises(BudgetReached) as refused:
        await holds.place_hold(hold_request(task, 21), prices)
    assert (refused.value.required_credits, refused.value.remaining_credits) == (21, 20)
    assert (await get_task(task)).stop_reason is StopReason.BUDGET_REACHED  # as for a charge that cannot be paid
    assert (await charge_block_run(task, prices, closing=True)).task.total == 10


async def test_a_hold_within_a_budget_claims_from_it_and_returns_to_it(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=40)
    one, two = hold_request(task, 25), hold_request(task, 10)

    placed = await holds.place_hold(one, prices)
    assert (placed.hold.parent_budget, placed.hold.remaining) == (task.budget_hold, 25)
    assert await get_figures(task) == (100, 40, 60)
    await holds.place_hold(two, prices)
    row = await budget_row(task)
    assert (row["remaining"], row["allocated"]) == (5, 35)
    assert isinstance(await try_charge(task, prices), BudgetReached)

    captured = await holds.capture_hold(capture_request(one, 12))
    assert captured.entry is not None
    assert (captured.entry.hold_number, captured.task.total) == (placed.hold.number, 12)
    assert await get_figures(task) == (88, 28, 60)
    await holds.void_hold(task.task_id, two.block_run_id)
    row = await budget_row(task)
    assert (row["remaining"], row["allocated"], row["captured"]) == (28, 12, 0)
    assert await get_figures(task) == (88, 28, 60)
    assert (await verify_ledger()).violations == []
    await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)
    assert await get_figures(task) == (88, 0, 88)
    assert (await verify_ledger()).violations == []


async def test_a_hold_within_a_closed_budget_returns_to_the_account(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=40)
    hold = hold_request(task, 25)
    await holds.place_hold(hold, prices)

    await lifecycle.finish_task(task.task_id, TaskStatus.FAILED)
    assert await get_figures(task) == (100, 25, 75)
    await holds.capture_hold(capture_request(hold, 5))

    assert await get_figures(task) == (95, 0, 95)
    assert (await get_task(task)).total == 5
    assert (await verify_ledger()).violations == []


async def test_a_hold_that_expires_within_a_budget_returns_to_it(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=40)
    hold = hold_request(task, 25, timeout_seconds=1)
    placed = await holds.place_hold(hold, prices)

    await wait_until(placed.hold.expires_at)

    assert await get_figures(task) == (100, 40, 60)
    row = await budget_row(task)
    assert (row["remaining"], row["allocated"], row["status"]) == (40, 0, "OPEN")
    with pytest.raises(HoldClosed) as closed:
        await holds.capture_hold(capture_request(hold, 1))
    assert closed.value.status is HoldStatus.EXPIRED
    assert (await get_task(task)).status is TaskStatus.RUNNING
    assert (await verify_ledger()).violations == []


async def test_a_grant_that_expires_while_claimed_by_a_budget_pays_until_the_task_ends(prices: RateCardCache) -> None:
    grant = await grant_credits("alice", 30, expires_at=await seconds_from_now(0.5))
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=20)
    hold = hold_request(task, 8)
    await holds.place_hold(hold, prices)
    assert grant.grant.expires_at is not None
    await wait_until(grant.grant.expires_at)
    assert await get_figures(task) == (120, 20, 100)

    await charge_block_run(task, prices)
    await holds.void_hold(task.task_id, hold.block_run_id)  # its grant has expired, so it is released to neither
    assert await get_figures(task) == (102, 2, 100)
    await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)

    assert await get_figures(task) == (100, 0, 100)
    page = await queries.list_entries(task.account_id, before_seq=99, limit=9)
    assert [(one.kind, one.credits) for one in reversed(page)] == [
        ("GRANT", 30), ("GRANT", 100), ("EXPIRY", -10), ("CHARGE", -10), ("EXPIRY", -8), ("EXPIRY", -2),
    ]  # fmt: skip
    assert (await verify_ledger()).violations == []


async def test_a_repeated_start_with_a_budget_holds_once(db: str) -> None:
    await grant_credits("alice", 100)

    done = await gather(*(start_task("alice", task_id="t", budget=40) for _ in range(10)))

    assert {one.budget_hold for one in done} == {1}
    assert await get_figures(done[0]) == (100, 40, 60)


async def test_concurrent_block_runs_exceed_neither_the_budget_nor_the_account(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    mine, other = await start_task("alice", budget=40), await start_task("alice")

    done = await gather(*(try_charge(task, prices) for _ in range(12) for task in (mine, other)))

    accepted = [one.task.task_id for one in done if isinstance(one, Charge)]
    assert (accepted.count(mine.task_id), accepted.count(other.task_id)) == (4, 6)
    assert await get_figures(mine) == (0, 0, 0)
    assert (await verify_ledger()).violations == []
