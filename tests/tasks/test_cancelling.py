"""Cancelling a task: the open tasks nested in it are cancelled too, and their budgets return."""

from asyncio import gather, sleep

import pytest

from app.audit_log.records import AuditContext
from app.auth.caller import Scope
from app.db import pools
from app.errors import BillingError, TaskEnded, TaskNotFound
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import holds, lifecycle, stop_and_resume
from app.tasks.rules import SignalKind, StopReason, TaskState, TaskStatus
from app.tasks.signals import SignalTracker
from app.tasks.stop_and_resume import ResumeTaskRequest
from app.verify.verifier import verify_ledger
from tests.factories import (
    capture_request,
    charge_block_run,
    get_figures,
    get_task,
    grant_credits,
    hold_request,
    publish_rate_cards,
    start_task,
    try_charge,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def prices(db: str) -> RateCardCache:
    """Prices: 1 credit for each item, 10 for a block run of the factories."""
    return await publish_rate_cards()


async def statuses(*tasks: TaskState) -> list[str]:
    return [(await get_task(task)).status.value for task in tasks]


async def test_open_descendants_at_any_depth_are_cancelled_and_their_budgets_return(prices: RateCardCache) -> None:
    await grant_credits("alice", 200)
    root = await start_task("alice", budget=100)
    child = await start_task("alice", parent_task_id=root.task_id, budget=50)
    grandchild = await start_task("alice", parent_task_id=child.task_id, budget=20)
    drawing = await start_task("alice", parent_task_id=grandchild.task_id)
    stopped = await start_task("alice", parent_task_id=root.task_id, budget=5)
    await try_charge(stopped, prices)
    other, apart = await start_task("alice"), await start_task("alice", budget=30)
    for task in (child, grandchild, drawing):
        await charge_block_run(task, prices)
    assert await statuses(stopped) == ["STOPPED"]
    assert await get_figures(root) == (170, 100, 70)

    done = await lifecycle.cancel_task(root.task_id)

    assert (done.task.status, done.replayed, done.cancelled_children) == (TaskStatus.CANCELLED, False, 4)
    assert await statuses(child, grandchild, drawing, stopped) == ["CANCELLED"] * 4
    assert await statuses(other, apart) == ["RUNNING"] * 2
    assert await get_figures(root) == (170, 30, 140)
    assert {
        row["status"] for row in await pools.fetch("SELECT status FROM hold WHERE task_id <> $1", apart.task_id)
    } == {"CAPTURED"}
    late = await try_charge(drawing, prices)
    assert isinstance(late, TaskEnded)
    with pytest.raises(TaskEnded):
        await start_task("alice", parent_task_id=child.task_id)
    with pytest.raises(TaskEnded):
        await stop_and_resume.resume_task(ResumeTaskRequest(task_id=stopped.task_id, actor="user:alice"))
    assert (await verify_ledger()).violations == []


async def test_a_repeated_cancellation_changes_nothing(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    root = await start_task("alice")
    child = await start_task("alice", parent_task_id=root.task_id, budget=10)
    first = await lifecycle.cancel_task(root.task_id)
    ended = await get_task(child)

    again = await lifecycle.cancel_task(root.task_id)

    assert (again.task, again.replayed, again.cancelled_children) == (first.task, True, 0)
    assert await get_task(child) == ended
    assert (await lifecycle.cancel_task(child.task_id)).replayed


async def test_nested_tasks_that_have_ended_stay_as_they_are_but_their_open_children_are_cancelled(
    prices: RateCardCache,
) -> None:
    await grant_credits("alice", 100)
    root = await start_task("alice")
    completed = await start_task("alice", parent_task_id=root.task_id)
    below = await start_task("alice", parent_task_id=completed.task_id)
    failed = await start_task("alice", parent_task_id=root.task_id)
    await lifecycle.finish_task(completed.task_id, TaskStatus.COMPLETED)
    await lifecycle.finish_task(failed.task_id, TaskStatus.FAILED)
    before = await get_task(completed), await get_task(failed)

    done = await lifecycle.cancel_task(root.task_id)

    assert done.cancelled_children == 1
    assert await statuses(completed, failed, below) == ["COMPLETED", "FAILED", "CANCELLED"]
    after = await get_task(completed), await get_task(failed)
    assert [task.ended_at for task in after] == [task.ended_at for task in before]


async def test_a_child_is_cancelled_without_its_parent_and_siblings(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    root = await start_task("alice", budget=50)
    one, two = [await start_task("alice", parent_task_id=root.task_id, budget=10) for _ in range(2)]

    assert (await lifecycle.cancel_task(one.task_id)).cancelled_children == 0

    assert await statuses(root, one, two) == ["RUNNING", "CANCELLED", "RUNNING"]
    [row] = await pools.fetch("SELECT remaining FROM hold WHERE task_id = $1", root.task_id)
    assert row["remaining"] == 40  # the budget of the child returns to its parent's


async def test_finishing_a_task_does_not_end_the_tasks_nested_in_it(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    root = await start_task("alice")
    child = await start_task("alice", parent_task_id=root.task_id)

    await lifecycle.finish_task(root.task_id, TaskStatus.COMPLETED)

    assert (await charge_block_run(child, prices)).task.status is TaskStatus.RUNNING
    with pytest.raises(TaskEnded):  # and an ended task is not cancelled
        await lifecycle.cancel_task(root.task_id)
    assert await statuses(child) == ["RUNNING"]


async def test_another_owner_cancels_neither_the_task_nor_its_children(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    root = await start_task("alice")
    child = await start_task("alice", parent_task_id=root.task_id)

    with pytest.raises(TaskNotFound):
        await lifecycle.cancel_task(root.task_id, owner_ids=["bob"])

    assert await statuses(root, child) == ["RUNNING"] * 2


async def test_a_hold_of_a_cancelled_child_can_still_be_captured(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    root = await start_task("alice")
    child = await start_task("alice", parent_task_id=root.task_id, budget=40)
    hold = hold_request(child, 25)
    await holds.place_hold(hold, prices)

    await lifecycle.cancel_task(root.task_id)
    assert await get_figures(root) == (100, 25, 75)
    await holds.capture_hold(capture_request(hold, 5))

    assert await get_figures(root) == (95, 0, 95)
    assert (await verify_ledger()).violations == []


async def test_many_nested_tasks_are_cancelled_in_bounded_transactions(
    prices: RateCardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "TASKS_PER_TRANSACTION", 4)
    await grant_credits("alice", 100)
    root = await start_task("alice")
    children = [await start_task("alice", parent_task_id=root.task_id, budget=2) for _ in range(5)]
    below = [await start_task("alice", parent_task_id=child.task_id) for child in children]
    audit = AuditContext(action="cancelTask", actor="operator:otto", scope=Scope.ADMIN)

    done = await lifecycle.cancel_task(root.task_id, audit=audit)

    assert done.cancelled_children == 10
    assert await statuses(root, *children, *below) == ["CANCELLED"] * 11
    assert await get_figures(root) == (100, 0, 100)
    per_transaction = await pools.fetch("SELECT count(*) FROM audit_record GROUP BY xmin::text ORDER BY min(id)")
    assert [row["count"] for row in per_transaction] == [5, 4, 2]
    assert (await verify_ledger()).violations == []


async def test_an_interrupted_cancellation_is_continued_by_a_repetition(
    prices: RateCardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "TASKS_PER_TRANSACTION", 2)
    await grant_credits("alice", 100)
    root = await start_task("alice")
    children = [await start_task("alice", parent_task_id=root.task_id, budget=10) for _ in range(5)]
    end_task, calls = lifecycle._end_task, []

    async def end_once(*args: object, **more: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise ConnectionError("the server was stopped")
        return await end_task(*args, **more)  # type: ignore[arg-type]  # any arguments

    monkeypatch.setattr(lifecycle, "_end_task", end_once)
    with pytest.raises(ConnectionError):
        await lifecycle.cancel_task(root.task_id)
    assert sorted(await statuses(*children)) == ["CANCELLED"] * 2 + ["RUNNING"] * 3

    again = await lifecycle.cancel_task(root.task_id)

    assert (again.replayed, again.cancelled_children) == (True, 3)
    assert await statuses(*children) == ["CANCELLED"] * 5
    assert await get_figures(root) == (100, 0, 100)


async def test_no_task_stays_open_below_a_task_that_is_cancelled_while_others_start_and_charge(
    prices: RateCardCache,
) -> None:
    await grant_credits("alice", 10_000)
    root = await start_task("alice", budget=5_000)
    tree = [root]

    async def grow(number: int) -> None:
        for step in range(6):
            parent = tree[(number + step) % len(tree)]
            try:
                child = await start_task("alice", parent_task_id=parent.task_id, budget=20 if step % 2 else None)
            except BillingError:
                return
            tree.append(child)
            await try_charge(child, prices)

    cancelled = []

    async def cancel(delay: float) -> None:
        await sleep(delay)
        cancelled.append((await lifecycle.cancel_task(root.task_id)).cancelled_children)

    await gather(*(grow(number) for number in range(6)), cancel(0.02), cancel(0.03))

    assert sum(cancelled) == len(tree) - 1
    assert set(await statuses(*tree)) == {"CANCELLED"}
    posted, held, available = await get_figures(root)
    assert (held, available) == (0, posted)
    assert (await verify_ledger()).violations == []


async def test_a_cancellation_signals_credits_that_return_and_resumes_no_cancelled_task(prices: RateCardCache) -> None:
    await grant_credits("alice", 40)
    root = await start_task("alice", budget=20)
    stopped = await start_task("alice", parent_task_id=root.task_id, budget=15)
    outside = await start_task("alice")
    for _ in range(2):
        await charge_block_run(outside, prices)
    await charge_block_run(stopped, prices)
    await try_charge(stopped, prices)
    tracker = SignalTracker(["alice"])
    initial = await tracker.initial_signals()
    assert [(one.kind, one.task_ids, one.reason) for one in initial] == [
        (SignalKind.STOP, None, StopReason.OUT_OF_CREDITS),
        (SignalKind.STOP, (stopped.task_id,), StopReason.BUDGET_REACHED),
    ]

    await lifecycle.cancel_task(root.task_id)

    signals = await tracker.new_signals(None)
    assert [(one.kind, one.task_ids) for one in signals] == [(SignalKind.RESUME, None)]
