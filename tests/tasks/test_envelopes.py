"""A task's budget: what it keeps for the task, what it stops, and how its rest comes back."""

from asyncio import gather
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import pytest

from app import database
from app.audit import audit
from app.errors import (
    BudgetReached,
    HoldClosed,
    InsufficientCredits,
    InvalidInput,
    PriceNotFound,
    TaskEnded,
    TaskStopped,
)
from app.ledger import statements
from app.ledger.book import HoldStatus
from app.pricing.catalogue import Catalogue
from app.tasks import costs, holding, lifecycle
from app.tasks.charging import Charged
from app.tasks.lifecycle import Changed
from app.tasks.rules import SignalKind, Status, StopReason, TaskState
from tests.factories import (
    a_capture,
    a_catalogue_of,
    a_hold,
    a_task,
    balance,
    charged,
    granted,
    in_seconds,
    outcome,
    past,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def prices(db: str) -> Catalogue:
    """A credit for an item, 10 for a block run of the usual kind."""
    return await a_catalogue_of()


async def figures(task: TaskState) -> tuple[int, int, int]:
    """(posted, held, available) of the task's account."""
    now = await balance(task.account_id)
    return now.posted, now.held, now.available


async def a_state(task: TaskState) -> TaskState:
    """The task as a reader sees it."""
    return (await costs.tasks_by_id([(task.account_id, task.task_id)]))[task.account_id, task.task_id]


async def envelope_of(task: TaskState) -> dict[str, object]:
    """The row of the envelope that a task draws on."""
    [row] = await database.fetch("SELECT *, claims::text AS claimed FROM hold WHERE number = $1", task.envelope)
    return dict(row)


async def test_a_budget_keeps_its_credits_whatever_other_tasks_spend(prices: Catalogue) -> None:
    await granted("alice", 100)
    mine = await a_task("alice", budget=40)
    other = await a_task("alice")
    assert await figures(mine) == (100, 40, 60)

    spent = [await outcome(other, prices) for _ in range(7)]
    assert [type(one) for one in spent] == [Charged] * 6 + [InsufficientCredits]
    assert await figures(mine) == (40, 40, 0)

    for left in (30, 20, 10, 0):
        one = await charged(mine, prices)
        assert one.entry is not None
        assert (one.entry.line.hold, one.entry.line.balance_after) == (mine.envelope, left)
        assert one.signal == (None if left else SignalKind.STOP)
    assert await figures(mine) == (0, 0, 0)
    assert (await audit()).breaks == []


async def test_a_budget_is_never_passed_though_the_account_has_more(prices: Catalogue) -> None:
    await granted("alice", 100)
    task = await a_task("alice", budget=25)
    for _ in range(2):
        await charged(task, prices)

    refusal = await outcome(task, prices)

    assert isinstance(refusal, BudgetReached)
    assert (refusal.task_id, refusal.required_credits, refusal.remaining_credits, refusal.shortfall_credits) == (
        task.task_id, 10, 5, 5,
    )  # fmt: skip
    stopped = await a_state(task)
    assert (stopped.status, stopped.stop_reason, stopped.required, stopped.lacked, stopped.total) == (
        Status.STOPPED, StopReason.BUDGET_REACHED, 10, 5, 20,
    )  # fmt: skip
    assert await figures(task) == (80, 5, 75)
    again = await outcome(task, prices)
    assert isinstance(again, TaskStopped)
    assert again.stop_reason is StopReason.BUDGET_REACHED
    assert await figures(task) == (80, 5, 75)
    assert (await audit()).breaks == []


@pytest.mark.parametrize("end", ["COMPLETED", "FAILED", "CANCELLED"])
@pytest.mark.parametrize("stopped", [False, True])
async def test_the_rest_comes_back_however_the_task_ends(prices: Catalogue, end: str, stopped: bool) -> None:
    await granted("alice", 100)
    task = await a_task("alice", budget=15)
    await charged(task, prices)
    if stopped:
        assert isinstance(await outcome(task, prices), BudgetReached)
    assert await figures(task) == (90, 5, 85)

    ending: Awaitable[Changed]
    ending = lifecycle.cancel(task.task_id) if end == "CANCELLED" else lifecycle.finish(task.task_id, Status(end))
    done = await ending

    assert (done.task.status, done.task.total) == (Status(end), 10)
    assert await figures(task) == (90, 0, 90)
    row = await envelope_of(task)
    assert (row["status"], row["captured"], row["released"], row["claimed"]) == ("CAPTURED", 10, 5, "[]")
    assert (await audit()).breaks == []


async def test_a_budget_lapses_without_a_job_and_its_task_is_stopped(prices: Catalogue) -> None:
    await granted("alice", 100)
    task = await a_task("alice", budget=40, budget_timeout_seconds=1)
    spent = await charged(task, prices)
    lapses_at = (await envelope_of(task))["expires_at"]
    assert lapses_at == spent.block_run.at + timedelta(seconds=1)

    await past(spent.block_run.at + timedelta(seconds=1))
    stopped = await a_state(task)

    assert (stopped.status, stopped.stop_reason, stopped.total) == (Status.STOPPED, StopReason.BUDGET_EXPIRED, 10)
    assert await figures(task) == (90, 0, 90)
    row = await envelope_of(task)
    assert (row["status"], row["captured"], row["released"], row["closed_at"]) == ("EXPIRED", 10, 30, lapses_at)
    # It never falls back on the account, though that has plenty.
    late = await outcome(task, prices)
    assert isinstance(late, TaskStopped)
    assert late.stop_reason is StopReason.BUDGET_EXPIRED
    assert await figures(task) == (90, 0, 90)
    assert (await charged(task, prices, block="NoteBlock")).task.status is Status.STOPPED
    assert (await audit()).breaks == []


async def test_a_charge_that_arrives_after_the_lapse_finds_it_and_the_stop_is_written(prices: Catalogue) -> None:
    await granted("alice", 100)
    task = await a_task("alice", budget=40, budget_timeout_seconds=1)
    await past(await in_seconds(1))

    # Nobody has read the account meanwhile: the charge is the first to see what time has done.
    refusal = await outcome(task, prices)

    assert isinstance(refusal, TaskStopped)
    assert refusal.stop_reason is StopReason.BUDGET_EXPIRED
    [row] = await database.fetch("SELECT status, stop_reason, charged FROM task")
    assert tuple(row) == ("STOPPED", "BUDGET_EXPIRED", 0)
    assert await figures(task) == (100, 0, 100)
    assert (await audit()).breaks == []


async def test_a_stop_for_want_of_budget_keeps_its_reason_when_the_budget_lapses(prices: Catalogue) -> None:
    await granted("alice", 100)
    task = await a_task("alice", budget=15, budget_timeout_seconds=1)
    await charged(task, prices)
    assert isinstance(await outcome(task, prices), BudgetReached)

    await past(await in_seconds(1))

    stopped = await a_state(task)
    assert stopped.status is Status.STOPPED
    assert await figures(task) == (90, 0, 90)
    assert (stopped.stop_reason, stopped.required, stopped.lacked) == (StopReason.BUDGET_REACHED, 10, 5)
    # What closes its work has nothing to draw on any more, the account neither.
    late = await outcome(task, prices, closing=True)
    assert isinstance(late, TaskStopped)
    assert await figures(task) == (90, 0, 90)
    assert (await audit()).breaks == []


async def test_charges_renew_the_timeout_and_so_does_work_in_a_nested_task(prices: Catalogue) -> None:
    await granted("alice", 100)
    task = await a_task("alice", budget=60, budget_timeout_seconds=100)
    child = await a_task("alice", parent_task_id=task.task_id, budget=30, budget_timeout_seconds=50)

    for block in ("ReplicateModelBlock", "NoteBlock"):
        one = await charged(task, prices, block=block)
        assert (await envelope_of(task))["expires_at"] == one.block_run.at + timedelta(seconds=100)
    inner = await charged(child, prices)
    assert (await envelope_of(task))["expires_at"] == inner.block_run.at + timedelta(seconds=100)
    assert (await envelope_of(child))["expires_at"] == inner.block_run.at + timedelta(seconds=50)
    placed = await holding.place(a_hold(child, 5), prices)
    assert (await envelope_of(task))["expires_at"] == placed.hold.placed_at + timedelta(seconds=100)
    before = placed.hold.placed_at + timedelta(seconds=100)
    assert isinstance(await outcome(task, prices, block="Nothing"), PriceNotFound)
    assert (await envelope_of(task))["expires_at"] == before  # what was refused renews nothing


async def test_no_budget_outlives_its_grants_by_more_than_a_day(prices: Catalogue) -> None:
    grant = await granted("alice", 40, expires_at=await in_seconds(0.5))
    task = await a_task("alice", budget=40, budget_timeout_seconds=86_400)
    assert grant.lot.expires_at is not None
    await past(grant.lot.expires_at)

    one = await charged(task, prices)

    assert (await envelope_of(task))["expires_at"] == grant.lot.expires_at + timedelta(hours=24)
    assert one.block_run.at > grant.lot.expires_at
    await lifecycle.finish(task.task_id, Status.COMPLETED)
    assert await figures(task) == (0, 0, 0)  # released after the expiry, the rest has left
    kinds = [(e.line.kind, e.line.credits) for e in await statements.entries(task.account_id, before_seq=9, limit=9)]
    assert kinds == [("EXPIRY", -30), ("CHARGE", -10), ("GRANT", 40)]
    assert (await audit()).breaks == []


async def test_a_nested_budget_is_taken_from_its_parents_and_returns_to_it(prices: Catalogue) -> None:
    await granted("alice", 100)
    parent = await a_task("alice", budget=60)
    child = await a_task("alice", parent_task_id=parent.task_id, budget=25)
    assert child.envelope != parent.envelope
    assert await figures(parent) == (100, 60, 40)
    outer = await envelope_of(parent)
    assert (outer["remaining"], outer["lent"], outer["claimed"]) == (35, 25, "[[1, 35]]")

    await charged(child, prices)
    assert await figures(parent) == (90, 50, 40)
    done = await lifecycle.finish(child.task_id, Status.COMPLETED)

    assert (done.task.total, (await a_state(parent)).total) == (10, 0)
    assert await figures(parent) == (90, 50, 40)
    outer, inner = await envelope_of(parent), await envelope_of(child)
    assert (outer["remaining"], outer["lent"], outer["captured"]) == (50, 10, 0)
    assert (inner["status"], inner["captured"], inner["released"]) == ("CAPTURED", 10, 15)
    assert (await audit()).breaks == []
    await lifecycle.finish(parent.task_id, Status.COMPLETED)
    assert await figures(parent) == (90, 0, 90)
    assert (await audit()).breaks == []


async def test_a_nested_budget_above_its_parents_rest_is_refused_and_nothing_moves(prices: Catalogue) -> None:
    await granted("alice", 100)
    parent = await a_task("alice", budget=30)

    with pytest.raises(BudgetReached) as refused:
        await a_task("alice", parent_task_id=parent.task_id, budget=31)

    assert (refused.value.task_id, refused.value.required_credits, refused.value.remaining_credits) == (
        parent.task_id, 31, 30,
    )  # fmt: skip
    assert await a_state(parent) == parent
    assert [tuple(row) for row in await database.fetch("SELECT count(*) FROM task")] == [(1,)]
    assert await figures(parent) == (100, 30, 70)
    assert (await audit()).breaks == []


async def test_a_nested_task_without_a_budget_draws_on_its_parents(prices: Catalogue) -> None:
    await granted("alice", 100)
    parent = await a_task("alice", budget=25)
    child = await a_task("alice", parent_task_id=parent.task_id)
    grandchild = await a_task("alice", parent_task_id=child.task_id)
    assert child.envelope == grandchild.envelope == parent.envelope

    await charged(child, prices)
    await charged(grandchild, prices)
    refusal = await outcome(child, prices)

    assert isinstance(refusal, BudgetReached)
    assert (refusal.task_id, refusal.remaining_credits) == (parent.task_id, 5)
    assert [(await a_state(one)).status for one in (parent, child, grandchild)] == [
        Status.RUNNING, Status.STOPPED, Status.RUNNING,
    ]  # fmt: skip
    await lifecycle.finish(child.task_id, Status.FAILED)  # not its envelope: nothing comes back
    assert await figures(parent) == (80, 5, 75)
    assert (await audit()).breaks == []


async def test_of_a_parent_whose_budget_is_spent_no_child_starts(prices: Catalogue) -> None:
    await granted("alice", 100)
    parent = await a_task("alice", budget=10)
    await charged(parent, prices)

    with pytest.raises(BudgetReached) as refused:
        await a_task("alice", parent_task_id=parent.task_id)

    assert (refused.value.task_id, refused.value.required_credits, refused.value.remaining_credits) == (
        parent.task_id, 1, 0,
    )  # fmt: skip


async def test_a_child_starts_from_its_parents_budget_though_the_account_has_nothing_else(prices: Catalogue) -> None:
    await granted("alice", 20)
    parent = await a_task("alice", budget=20)
    child = await a_task("alice", parent_task_id=parent.task_id)

    assert (await charged(child, prices)).signal is None
    with pytest.raises(InsufficientCredits):
        await a_task("alice")


async def test_a_child_that_draws_on_its_parents_budget_is_stopped_when_the_parent_has_ended(prices: Catalogue) -> None:
    await granted("alice", 100)
    parent = await a_task("alice", budget=40)
    child = await a_task("alice", parent_task_id=parent.task_id)

    await lifecycle.finish(parent.task_id, Status.COMPLETED)
    assert await figures(parent) == (100, 0, 100)
    free = await charged(child, prices, block="NoteBlock")
    assert (free.task.status, free.signal) == (Status.RUNNING, SignalKind.STOP)
    refusal = await outcome(child, prices)

    assert isinstance(refusal, TaskStopped)
    stopped = await a_state(child)
    assert (stopped.status, stopped.stop_reason, stopped.lacked) == (Status.STOPPED, StopReason.BUDGET_EXPIRED, 10)
    assert await figures(parent) == (100, 0, 100)
    with pytest.raises(TaskEnded):
        await a_task("alice", parent_task_id=parent.task_id)
    assert (await audit()).breaks == []


async def test_a_childs_own_budget_outlives_its_parent_and_then_returns_to_the_account(prices: Catalogue) -> None:
    await granted("alice", 100)
    parent = await a_task("alice", budget=40)
    child = await a_task("alice", parent_task_id=parent.task_id, budget=25)

    await lifecycle.finish(parent.task_id, Status.COMPLETED)
    assert await figures(parent) == (100, 25, 75)
    await charged(child, prices)
    assert await figures(parent) == (90, 15, 75)
    await lifecycle.finish(child.task_id, Status.COMPLETED)

    assert await figures(parent) == (90, 0, 90)
    assert (await audit()).breaks == []


async def test_budgets_one_in_the_other_lapse_together_and_all_comes_back(prices: Catalogue) -> None:
    await granted("alice", 100)
    parent = await a_task("alice", budget=60, budget_timeout_seconds=1)
    child = await a_task("alice", parent_task_id=parent.task_id, budget=25, budget_timeout_seconds=1)
    heir = await a_task("alice", parent_task_id=child.task_id)

    await past(await in_seconds(1))

    states = [await a_state(one) for one in (parent, child, heir)]
    assert {(one.status, one.stop_reason) for one in states} == {(Status.STOPPED, StopReason.BUDGET_EXPIRED)}
    assert await figures(parent) == (100, 0, 100)
    assert (await audit()).breaks == []


async def test_a_budget_above_what_is_available_is_refused_and_nothing_is_written(prices: Catalogue) -> None:
    await granted("alice", 100)
    first = await a_task("alice", budget=40)

    with pytest.raises(InsufficientCredits) as refused:
        await a_task("alice", task_id="other", budget=61)

    assert (refused.value.required_credits, refused.value.available_credits) == (61, 60)
    assert await figures(first) == (100, 40, 60)
    assert await database.fetch("SELECT FROM task_account WHERE task_id = 'other'") == []
    assert (await a_task("alice", task_id="other", budget=60)).status is Status.RUNNING
    assert await figures(first) == (100, 100, 0)
    assert (await audit()).breaks == []


@pytest.mark.parametrize(
    ("asked", "paths"),
    [
        ({"budget_timeout_seconds": 60}, ["budgetTimeoutSeconds"]),
        ({"budget": 10, "budget_timeout_seconds": 0}, ["budgetTimeoutSeconds"]),
        ({"budget": 10, "budget_timeout_seconds": 86_401}, ["budgetTimeoutSeconds"]),
        ({"budget": 0}, ["budget"]),
        ({"budget": -1}, ["budget"]),
        ({"budget": 2**53}, ["budget"]),
        ({"budget": 10, "landing_reserve": 11}, ["landingReserve"]),
        ({"budget": 10, "landing_reserve": -1}, ["landingReserve"]),
        ({"landing_reserve": 1}, ["landingReserve"]),
        ({"budget": 0, "budget_timeout_seconds": 0, "landing_reserve": 1},
         ["budget", "budgetTimeoutSeconds", "landingReserve"]),
    ],
)  # fmt: skip
async def test_a_budget_that_makes_no_sense_is_refused(db: str, asked: dict[str, Any], paths: list[str]) -> None:
    await granted("alice", 100)

    with pytest.raises(InvalidInput) as refused:
        await a_task("alice", **asked)

    assert [problem.path for problem in refused.value.problems] == paths
    assert await database.fetch("SELECT FROM task") == []
    assert await database.fetch("SELECT FROM hold") == []


async def test_only_closing_work_uses_the_landing_reserve(prices: Catalogue) -> None:
    await granted("alice", 100)
    task = await a_task("alice", budget=30, landing_reserve=10)
    for _ in range(2):
        await charged(task, prices)

    refusal = await outcome(task, prices)
    assert isinstance(refusal, BudgetReached)
    assert (refusal.required_credits, refusal.remaining_credits) == (10, 0)
    assert (await a_state(task)).stop_reason is StopReason.BUDGET_REACHED
    landed = await charged(task, prices, closing=True)

    assert (landed.task.status, landed.task.total, landed.block_run.cost) == (Status.STOPPED, 30, 10)
    assert await figures(task) == (70, 0, 70)
    assert isinstance(await outcome(task, prices, closing=True), BudgetReached)
    assert await figures(task) == (70, 0, 70)
    assert (await audit()).breaks == []


async def test_closing_work_is_no_other_way_to_the_account(prices: Catalogue) -> None:
    await granted("alice", 15)
    task = await a_task("alice")
    await charged(task, prices, closing=True)
    assert isinstance(await outcome(task, prices), InsufficientCredits)
    await granted("alice", 100)

    assert isinstance(await outcome(task, prices, closing=True), TaskStopped)
    assert await figures(task) == (105, 0, 105)


async def test_no_hold_and_no_nested_budget_takes_the_landing_reserve(prices: Catalogue) -> None:
    await granted("alice", 100)
    task = await a_task("alice", budget=30, landing_reserve=10)

    with pytest.raises(BudgetReached) as refused:
        await a_task("alice", parent_task_id=task.task_id, budget=21)
    assert refused.value.remaining_credits == 20
    with pytest.raises(BudgetReached) as refused:
        await holding.place(a_hold(task, 21), prices)
    assert (refused.value.required_credits, refused.value.remaining_credits) == (21, 20)
    assert (await a_state(task)).stop_reason is StopReason.BUDGET_REACHED  # as a charge that cannot be paid
    assert (await charged(task, prices, closing=True)).task.total == 10


async def test_a_hold_inside_a_budget_claims_from_it_and_returns_to_it(prices: Catalogue) -> None:
    await granted("alice", 100)
    task = await a_task("alice", budget=40)
    one, two = a_hold(task, 25), a_hold(task, 10)

    placed = await holding.place(one, prices)
    assert (placed.hold.within, placed.hold.remaining) == (task.envelope, 25)
    assert await figures(task) == (100, 40, 60)
    await holding.place(two, prices)
    row = await envelope_of(task)
    assert (row["remaining"], row["lent"]) == (5, 35)
    assert isinstance(await outcome(task, prices), BudgetReached)

    captured = await holding.capture(a_capture(one, 12))
    assert captured.entry is not None
    assert (captured.entry.line.hold, captured.task.total) == (placed.hold.number, 12)
    assert await figures(task) == (88, 28, 60)
    await holding.void(task.task_id, two.block_run_id)
    row = await envelope_of(task)
    assert (row["remaining"], row["lent"], row["captured"]) == (28, 12, 0)
    assert await figures(task) == (88, 28, 60)
    assert (await audit()).breaks == []
    await lifecycle.finish(task.task_id, Status.COMPLETED)
    assert await figures(task) == (88, 0, 88)
    assert (await audit()).breaks == []


async def test_a_hold_inside_a_budget_that_has_ended_returns_to_the_account(prices: Catalogue) -> None:
    await granted("alice", 100)
    task = await a_task("alice", budget=40)
    hold = a_hold(task, 25)
    await holding.place(hold, prices)

    await lifecycle.finish(task.task_id, Status.FAILED)
    assert await figures(task) == (100, 25, 75)
    await holding.capture(a_capture(hold, 5))

    assert await figures(task) == (95, 0, 95)
    assert (await a_state(task)).total == 5
    assert (await audit()).breaks == []


async def test_a_hold_that_lapses_inside_a_budget_returns_to_it(prices: Catalogue) -> None:
    await granted("alice", 100)
    task = await a_task("alice", budget=40)
    hold = a_hold(task, 25, timeout_seconds=1)
    placed = await holding.place(hold, prices)

    await past(placed.hold.expires_at)

    assert await figures(task) == (100, 40, 60)
    row = await envelope_of(task)
    assert (row["remaining"], row["lent"], row["status"]) == (40, 0, "OPEN")
    with pytest.raises(HoldClosed) as closed:
        await holding.capture(a_capture(hold, 1))
    assert closed.value.status is HoldStatus.EXPIRED
    assert (await a_state(task)).status is Status.RUNNING
    assert (await audit()).breaks == []


async def test_a_grant_that_expires_under_a_budget_pays_for_the_task_until_it_ends(prices: Catalogue) -> None:
    grant = await granted("alice", 30, expires_at=await in_seconds(0.5))
    await granted("alice", 100)
    task = await a_task("alice", budget=20)
    hold = a_hold(task, 8)
    await holding.place(hold, prices)
    assert grant.lot.expires_at is not None
    await past(grant.lot.expires_at)
    assert await figures(task) == (120, 20, 100)

    await charged(task, prices)
    await holding.void(task.task_id, hold.block_run_id)  # neither to the budget nor to the account: it has expired
    assert await figures(task) == (102, 2, 100)
    await lifecycle.finish(task.task_id, Status.COMPLETED)

    assert await figures(task) == (100, 0, 100)
    page = await statements.entries(task.account_id, before_seq=99, limit=9)
    assert [(one.line.kind, one.line.credits) for one in reversed(page)] == [
        ("GRANT", 30), ("GRANT", 100), ("EXPIRY", -10), ("CHARGE", -10), ("EXPIRY", -8), ("EXPIRY", -2),
    ]  # fmt: skip
    assert (await audit()).breaks == []


async def test_the_same_start_with_a_budget_is_the_same_task_and_holds_once(db: str) -> None:
    await granted("alice", 100)

    done = await gather(*(a_task("alice", task_id="t", budget=40) for _ in range(10)))

    assert {one.envelope for one in done} == {1}
    assert await figures(done[0]) == (100, 40, 60)


async def test_block_runs_at_once_in_a_budget_pass_neither_it_nor_the_account(prices: Catalogue) -> None:
    await granted("alice", 100)
    mine, other = await a_task("alice", budget=40), await a_task("alice")

    done = await gather(*(outcome(task, prices) for _ in range(12) for task in (mine, other)))

    admitted = [one.task.task_id for one in done if isinstance(one, Charged)]
    assert (admitted.count(mine.task_id), admitted.count(other.task_id)) == (4, 6)
    assert await figures(mine) == (0, 0, 0)
    assert (await audit()).breaks == []
