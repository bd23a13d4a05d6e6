"""Resuming stopped tasks, with and without adding to their budgets."""

from asyncio import gather
from datetime import timedelta
from typing import Any

import pytest

from app.db import pools
from app.errors import (
    BillingError,
    BudgetReached,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidInput,
    TaskEnded,
    TaskNotFound,
    TaskNotStopped,
)
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import lifecycle, stop_and_resume
from app.tasks.lifecycle import TaskChange
from app.tasks.rules import SignalKind, StopReason, TaskState, TaskStatus
from app.tasks.stop_and_resume import ResumeTaskRequest
from app.verify.verifier import verify_ledger
from tests.factories import (
    charge_block_run,
    get_balance,
    get_figures,
    get_task,
    grant_credits,
    seconds_from_now,
    start_task,
    try_charge,
    wait_until,
)

pytestmark = pytest.mark.anyio


async def resume(task: TaskState | str, add_budget: int | None = None, key: str | None = None) -> TaskChange:
    task_id = task if isinstance(task, str) else task.task_id
    return await stop_and_resume.resume_task(
        ResumeTaskRequest(task_id=task_id, add_budget=add_budget, idempotency_key=key, actor="user:alice")
    )


async def refused(task: TaskState, kind: type[BillingError], add_budget: int | None = None) -> BillingError:
    """The error that refuses the resumption, after checking that nothing changed."""
    before = await get_task(task), await get_balance(task.account_id)
    with pytest.raises(kind) as error:
        await resume(task, add_budget)
    assert (await get_task(task), await get_balance(task.account_id)) == before
    assert await pools.fetch("SELECT FROM operation WHERE kind = 'resumeTask'") == []
    return error.value


async def budget_of(task: TaskState) -> dict[str, Any]:
    """The row of the task's own budget."""
    [row] = await pools.fetch("SELECT * FROM hold WHERE task_id = $1 AND block_run_id IS NULL", task.task_id)
    return dict(row)


async def a_stopped_task(rate_cards: RateCardCache, *, budget: int | None = None) -> TaskState:
    """A task whose block run "a" was paid, and "b" was not: 5 credits are missing in the account or in its budget."""
    await grant_credits("alice", 15 if budget is None else 100)
    task = await start_task("alice", budget=budget)
    await charge_block_run(task, rate_cards, block_run_id="a")
    refusal = await try_charge(task, rate_cards, block_run_id="b")
    assert isinstance(refusal, (InsufficientCredits, BudgetReached))
    return await get_task(task)


async def test_a_task_continues_where_it_stopped(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards)
    assert (task.status, task.required, task.shortfall) == (TaskStatus.STOPPED, 10, 5)
    await grant_credits("alice", 5)

    done = await resume(task)

    assert (done.replayed, done.task.version) == (False, task.version + 1)
    assert (done.task.status, done.task.stop_reason, done.task.required, done.task.shortfall) == (
        TaskStatus.RUNNING, None, None, None,
    )  # fmt: skip
    assert await get_task(task) == done.task
    again = await charge_block_run(task, rate_cards, block_run_id="a")
    assert (again.replayed, again.balance.available) == (True, 10)
    new = await charge_block_run(task, rate_cards, block_run_id="b")
    assert (new.replayed, new.task.total, new.block_run.position, new.balance.available) == (False, 20, 2, 0)
    assert (await verify_ledger()).violations == []


async def test_a_resumption_raises_the_version_that_orders_signals(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards)
    before = await get_balance(task.account_id)

    await resume(task)

    assert (await get_balance(task.account_id)).version == before.version + 1
    assert await get_figures(task) == (5, 0, 5)


async def test_a_running_task_is_not_resumed(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards)
    await grant_credits("alice", 100)
    running = (await resume(task)).task

    error = await refused(running, TaskNotStopped)

    assert isinstance(error, TaskNotStopped)
    assert error.status is TaskStatus.RUNNING


async def test_the_budget_of_a_running_task_is_raised_once_per_key(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=20)
    await charge_block_run(task, rate_cards)
    before = await budget_of(task)

    first = await resume(task, 30, key="more")
    again = await resume(task, 30, key="more")

    assert (first.replayed, again.replayed, first.task.status) == (False, True, TaskStatus.RUNNING)
    assert first.task.version == (await get_task(task)).version
    after = await budget_of(task)
    assert (after["credits"], after["remaining"], after["status"]) == (50, 40, "OPEN")
    assert after["expires_at"] > before["expires_at"]
    assert await get_figures(task) == (90, 40, 50)
    with pytest.raises(IdempotencyConflict):
        await resume(task, 31, key="more")
    assert (await resume(task, 5, key="other")).replayed is False
    assert await get_figures(task) == (90, 45, 45)
    assert (await verify_ledger()).violations == []


async def test_a_running_task_without_a_budget_is_given_one(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")

    done = await resume(task, 30, key="more")

    assert done.task.budget_hold is not None
    assert await get_figures(task) == (100, 30, 70)
    assert [type(await try_charge(done.task, rate_cards)).__name__ for _ in range(4)] == [
        *["Charge"] * 3, "BudgetReached",
    ]  # fmt: skip


async def test_adding_to_a_running_task_needs_a_key_and_refusals_change_nothing(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 50)
    task = await start_task("alice", budget=20)
    child = await start_task("alice", parent_task_id=task.task_id)

    error = await refused(task, TaskNotStopped, 10)
    assert error.message.endswith("To add to the budget of a running task, send addBudget and idempotencyKey.")
    with pytest.raises(TaskNotStopped):
        await resume(task, key="nothing-to-add")
    with pytest.raises(InsufficientCredits) as short:
        await resume(task, 31, key="more")
    assert (short.value.required_credits, short.value.available_credits, short.value.shortfall_credits) == (31, 30, 1)
    with pytest.raises(InvalidInput):
        await resume(child, 1, key="more")
    await pools.fetch("UPDATE account SET owed = 3 RETURNING 1")
    with pytest.raises(InsufficientCredits):
        await resume(task, 1, key="more")
    await pools.fetch("UPDATE account SET owed = 0 RETURNING 1")

    assert await get_figures(task) == (50, 20, 30)
    assert (await resume(task, 30, key="more")).replayed is False  # no refusal was saved with the key
    assert await get_figures(task) == (50, 50, 0)


async def test_concurrent_additions_with_one_key_add_once_and_with_different_keys_each(
    rate_cards: RateCardCache,
) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=10)

    same = await gather(*(resume(task, 10, key="same") for _ in range(10)))
    assert sorted(one.replayed for one in same) == [False] + [True] * 9
    different = await gather(*(resume(task, 10, key=f"k{number}") for number in range(10)), return_exceptions=True)

    assert sorted(type(one).__name__ for one in different) == ["InsufficientCredits"] * 2 + ["TaskChange"] * 8
    assert await get_figures(task) == (100, 100, 0)
    assert (await verify_ledger()).violations == []


async def test_added_credits_restore_the_closing_reserve_of_a_running_task(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 200)
    task = await start_task("alice", budget=30, closing_reserve=20)
    await charge_block_run(task, rate_cards, closing=True)
    await charge_block_run(task, rate_cards, closing=True)
    row = await budget_of(task)
    assert (row["remaining"], row["closing_reserve"]) == (10, 10)

    await resume(task, 5, key="one")
    row = await budget_of(task)
    assert (row["remaining"], row["closing_reserve"]) == (15, 15)
    await resume(task, 40, key="two")
    row = await budget_of(task)
    assert (row["remaining"], row["closing_reserve"]) == (55, 20)

    assert [type(await try_charge(task, rate_cards)).__name__ for _ in range(4)] == [
        *["Charge"] * 3, "BudgetReached",
    ]  # fmt: skip
    assert (await charge_block_run(task, rate_cards, closing=True)).block_run.cost == 10
    assert (await verify_ledger()).violations == []


async def test_a_stopped_task_gets_its_block_run_before_the_closing_reserve_is_restored(
    rate_cards: RateCardCache,
) -> None:
    await grant_credits("alice", 200)
    task = await start_task("alice", budget=30, closing_reserve=20)
    await charge_block_run(task, rate_cards)
    assert isinstance(await try_charge(task, rate_cards, block_run_id="b"), BudgetReached)
    for _ in range(2):
        await charge_block_run(task, rate_cards, closing=True)
    stopped = await get_task(task)
    assert (stopped.required, stopped.shortfall) == (10, 10)

    await resume(task, 15, key="more")

    row = await budget_of(task)
    assert (row["remaining"], row["closing_reserve"]) == (15, 5)
    assert (await charge_block_run(task, rate_cards, block_run_id="b")).signal is SignalKind.STOP
    await resume(task, 40, key="again")
    row = await budget_of(task)
    assert (row["remaining"], row["closing_reserve"]) == (45, 20)


async def test_an_expired_budget_is_reopened_with_its_closing_reserve(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=30, closing_reserve=10, budget_timeout_seconds=1)
    await wait_until((await budget_of(task))["expires_at"])
    assert (await get_task(task)).stop_reason is StopReason.BUDGET_EXPIRED

    await resume(task, 4)
    row = await budget_of(task)
    assert (row["remaining"], row["closing_reserve"]) == (4, 3)  # one credit is left for other work

    await resume(task, 20, key="more")
    row = await budget_of(task)
    assert (row["remaining"], row["closing_reserve"]) == (24, 10)


@pytest.mark.parametrize("end", [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED])
async def test_an_ended_task_is_not_resumed(rate_cards: RateCardCache, end: TaskStatus) -> None:
    task = await a_stopped_task(rate_cards)
    await grant_credits("alice", 100)
    await (
        lifecycle.cancel_task(task.task_id) if end is TaskStatus.CANCELLED else lifecycle.finish_task(task.task_id, end)
    )

    error = await refused(task, TaskEnded)

    assert isinstance(error, TaskEnded)
    assert error.status is end


async def test_no_task_resumes_with_nothing_available(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards)
    spender = await start_task("alice")
    for _ in range(5):
        await charge_block_run(spender, rate_cards, block="SearchTheWebBlock")
    assert await get_figures(task) == (0, 0, 0)

    error = await refused(task, InsufficientCredits)

    assert isinstance(error, InsufficientCredits)
    assert (error.required_credits, error.available_credits) == (1, 0)


async def test_no_task_resumes_while_the_account_has_debt(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards)
    await pools.fetch("UPDATE account SET owed = 7 WHERE id = $1 RETURNING 1", task.account_id)

    error = await refused(task, InsufficientCredits)

    assert isinstance(error, InsufficientCredits)
    assert (error.required_credits, error.available_credits, error.shortfall_credits) == (1, 5, 7)
    await refused(task, InsufficientCredits, add_budget=5)


async def test_an_unknown_task_is_not_found(db: str) -> None:
    with pytest.raises(TaskNotFound):
        await resume("nowhere")


async def test_a_task_with_a_spent_budget_resumes_with_more_budget(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards, budget=15)
    assert await get_figures(task) == (90, 5, 85)

    done = await resume(task, add_budget=20)

    assert (done.task.status, done.task.budget_hold) == (TaskStatus.RUNNING, task.budget_hold)
    assert await get_figures(task) == (90, 25, 65)
    assert (await charge_block_run(task, rate_cards, block_run_id="a")).replayed
    assert (await charge_block_run(task, rate_cards, block_run_id="b")).task.total == 20
    [row] = await pools.fetch("SELECT credits, captured, remaining, status FROM hold")
    assert tuple(row) == (35, 20, 15, "OPEN")
    assert (await verify_ledger()).violations == []


async def test_a_task_resumes_without_more_budget_only_if_some_is_left(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards, budget=15)
    assert (await resume(task)).task.status is TaskStatus.RUNNING
    for _ in range(5):
        await charge_block_run(task, rate_cards, block="SearchTheWebBlock")
    assert await get_figures(task) == (85, 0, 85)
    assert isinstance(await try_charge(task, rate_cards), BudgetReached)

    error = await refused(await get_task(task), BudgetReached)

    assert isinstance(error, BudgetReached)
    assert (error.task_id, error.required_credits, error.remaining_credits) == (task.task_id, 1, 0)


async def test_more_budget_than_is_available_is_refused(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards, budget=15)

    error = await refused(task, InsufficientCredits, add_budget=86)

    assert isinstance(error, InsufficientCredits)
    assert (error.required_credits, error.available_credits) == (86, 85)
    assert (await resume(task, add_budget=85)).task.status is TaskStatus.RUNNING
    assert await get_figures(task) == (90, 90, 0)


@pytest.mark.parametrize("add", [0, -1, 2**53])
async def test_an_invalid_amount_is_refused(rate_cards: RateCardCache, add: int) -> None:
    task = await a_stopped_task(rate_cards, budget=15)

    error = await refused(task, InvalidInput, add_budget=add)

    assert isinstance(error, InvalidInput)
    assert [problem.path for problem in error.problems] == ["addBudget"]


async def test_a_task_without_a_budget_can_be_given_one(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards)
    await grant_credits("alice", 40)

    done = await resume(task, add_budget=30)

    assert done.task.budget_hold == 1
    assert await get_figures(task) == (45, 30, 15)
    paid = await charge_block_run(task, rate_cards, block_run_id="b")
    assert paid.entry is not None
    assert paid.entry.hold_number == 1
    await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)
    assert await get_figures(task) == (35, 0, 35)
    assert (await verify_ledger()).violations == []


async def test_the_same_key_adds_once(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards, budget=15)

    done = await gather(*(resume(task, 20, "k") for _ in range(10)))

    assert sorted(one.replayed for one in done) == [False] + [True] * 9
    assert await get_figures(task) == (90, 25, 65)
    await lifecycle.cancel_task(task.task_id)
    late = await resume(task, 20, "k")
    assert (late.replayed, late.task.status) == (True, TaskStatus.CANCELLED)
    for other in (21, None):
        with pytest.raises(IdempotencyConflict):
            await resume(task, other, "k")
    assert await get_figures(task) == (90, 0, 90)
    assert (await verify_ledger()).violations == []


async def test_a_refusal_is_not_saved_with_the_idempotency_key(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards, budget=15)
    with pytest.raises(InsufficientCredits):
        await resume(task, 100, "k")
    await grant_credits("alice", 50)

    assert (await resume(task, 100, "k")).replayed is False
    assert await get_figures(task) == (140, 105, 35)


async def test_of_many_concurrent_resumptions_without_a_key_one_adds(rate_cards: RateCardCache) -> None:
    task = await a_stopped_task(rate_cards, budget=15)

    done = await gather(*(resume(task, 5) for _ in range(10)), return_exceptions=True)

    assert sorted(type(one).__name__ for one in done) == ["TaskChange"] + ["TaskNotStopped"] * 9
    assert await get_figures(task) == (90, 10, 80)


async def test_an_expired_budget_needs_new_credits(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=40, budget_timeout_seconds=1)
    spent = await charge_block_run(task, rate_cards, block_run_id="a")
    await wait_until(spent.block_run.charged_at + timedelta(seconds=1))
    expired = await get_task(task)
    assert expired.stop_reason is StopReason.BUDGET_EXPIRED

    error = await refused(expired, BudgetReached)
    assert isinstance(error, BudgetReached)
    assert (error.required_credits, error.remaining_credits) == (1, 0)
    done = await resume(task, add_budget=15)

    assert (done.task.status, done.task.budget_hold, done.task.stop_reason) == (
        TaskStatus.RUNNING,
        task.budget_hold,
        None,
    )
    assert await get_figures(task) == (90, 15, 75)
    [row] = await pools.fetch("SELECT credits, captured, released, remaining, status, closed_at FROM hold")
    assert tuple(row) == (55, 10, 30, 15, "OPEN", None)
    assert (await charge_block_run(task, rate_cards, block_run_id="a")).replayed
    assert (await charge_block_run(task, rate_cards)).task.total == 20
    assert (await verify_ledger()).violations == []


async def test_a_resumption_after_an_expiry_applies_the_expiry_itself(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=40, budget_timeout_seconds=1)
    await wait_until(await seconds_from_now(1))

    assert (await resume(task, add_budget=15)).task.status is TaskStatus.RUNNING

    assert await get_figures(task) == (100, 15, 85)
    assert (await verify_ledger()).violations == []


async def test_a_child_that_draws_on_the_parents_budget_cannot_add_to_it(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    parent = await start_task("alice", budget=15)
    child = await start_task("alice", parent_task_id=parent.task_id)
    await charge_block_run(child, rate_cards)
    assert isinstance(await try_charge(child, rate_cards), BudgetReached)

    error = await refused(child, InvalidInput, add_budget=20)

    assert isinstance(error, InvalidInput)
    assert [problem.path for problem in error.problems] == ["addBudget"]
    assert parent.task_id in error.message
    assert (await resume(child)).task.status is TaskStatus.RUNNING  # the parent's budget has 5 left
    assert (await charge_block_run(child, rate_cards, block="SearchTheWebBlock")).entry is not None
    assert (await verify_ledger()).violations == []


async def test_a_nested_budget_gets_more_from_the_parents_budget_or_from_the_account_after_its_end(
    rate_cards: RateCardCache,
) -> None:
    await grant_credits("alice", 100)
    parent = await start_task("alice", budget=40)
    child = await start_task("alice", parent_task_id=parent.task_id, budget=15)
    await charge_block_run(child, rate_cards)
    assert isinstance(await try_charge(child, rate_cards), BudgetReached)

    with pytest.raises(BudgetReached) as error:
        await resume(child, add_budget=26)
    assert (error.value.task_id, error.value.remaining_credits) == (parent.task_id, 25)
    await resume(child, add_budget=10)
    assert await get_figures(parent) == (90, 30, 60)
    await charge_block_run(child, rate_cards)
    assert isinstance(await try_charge(child, rate_cards), BudgetReached)
    await lifecycle.finish_task(parent.task_id, TaskStatus.COMPLETED)
    assert await get_figures(parent) == (80, 5, 75)
    await resume(child, add_budget=75)
    assert await get_figures(parent) == (80, 80, 0)
    assert (await verify_ledger()).violations == []

    await lifecycle.finish_task(child.task_id, TaskStatus.COMPLETED)
    assert await get_figures(parent) == (80, 0, 80)
    assert (await verify_ledger()).violations == []


async def test_each_block_run_is_charged_once_over_many_stops_and_resumptions(
    rate_cards: RateCardCache,
) -> None:
    await grant_credits("alice", 5)
    task = await start_task("alice")
    for number in range(20):
        assert isinstance(await try_charge(task, rate_cards, block_run_id=f"run-{number}"), InsufficientCredits)
        await grant_credits("alice", 10)
        calls = await gather(resume(task), resume(task), return_exceptions=True)
        assert sorted(type(one).__name__ for one in calls) == ["TaskChange", "TaskNotStopped"]
        runs = await gather(*(charge_block_run(task, rate_cards, block_run_id=f"run-{number}") for _ in range(3)))
        assert sorted(one.replayed for one in runs) == [False, True, True]

    now = await get_task(task)
    assert (now.status, now.total, now.steps) == (TaskStatus.RUNNING, 200, 20)
    assert await get_figures(task) == (5, 0, 5)
    assert (await verify_ledger()).violations == []
