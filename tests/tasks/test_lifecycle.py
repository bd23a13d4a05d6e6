"""Starting and ending tasks; skipped starts of scheduled tasks."""

from asyncio import gather
from typing import Any

import pytest

from app.db import pools
from app.errors import IdempotencyConflict, InsufficientCredits, TaskEnded, TaskNotFound, TaskStopped
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import costs, lifecycle, queries
from app.tasks.charging import charge_many
from app.tasks.lifecycle import StartTaskRequest, TaskChange
from app.tasks.rules import TaskStatus, TaskTrigger
from tests.factories import block_run_request, get_balance, grant_credits, start_task

pytestmark = pytest.mark.anyio


async def test_the_same_task_started_twenty_times_concurrently_is_one_task(db: str) -> None:
    await grant_credits("alice", 10)
    request = StartTaskRequest(
        task_id="t", owner_id="alice", agent_id="a", trigger=TaskTrigger.SCHEDULED, actor="service:s"
    )
    done = await gather(*(lifecycle.start_task(request) for _ in range(20)))
    assert sorted(one.replayed for one in done) == [False] + [True] * 19
    assert {one.task for one in done} == {done[0].task}
    assert (done[0].task.trigger, done[0].task.status) == (TaskTrigger.SCHEDULED, TaskStatus.RUNNING)


async def test_a_task_id_started_concurrently_for_two_owners_belongs_to_one(db: str) -> None:
    for owner in ("alice", "bob"):
        await grant_credits(owner, 10)
    for number in range(10):
        requests = [
            StartTaskRequest(task_id=f"t{number}", owner_id=owner, agent_id="a", actor="service:s")
            for owner in ("alice", "bob")
        ]
        done = await gather(*(lifecycle.start_task(request) for request in requests), return_exceptions=True)
        assert sorted(type(one).__name__ for one in done) == ["IdempotencyConflict", "TaskChange"]
    assert len(await pools.fetch("SELECT FROM task")) == 10


async def test_no_task_starts_with_nothing_available(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 10)
    task = await start_task("alice")
    await charge_many([(task.account_id, block_run_request(task))], rate_cards)
    with pytest.raises(InsufficientCredits) as refused:
        await start_task("alice", task_id="t2")
    assert (refused.value.required_credits, refused.value.available_credits) == (1, 0)
    assert await pools.fetch("SELECT FROM task_account WHERE task_id = 't2'") == []
    again = await lifecycle.start_task(
        StartTaskRequest(task_id=task.task_id, owner_id="alice", agent_id="agent", actor="service:test")
    )
    assert again.replayed  # the first result, independent of the current balance


async def test_a_task_ends_once(db: str) -> None:
    await grant_credits("alice", 10)
    task = await start_task("alice")
    first = await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)
    assert (first.task.status, first.replayed) == (TaskStatus.COMPLETED, False)
    assert first.task.ended_at is not None
    again = await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)
    assert (again.task, again.replayed) == (first.task, True)
    with pytest.raises(TaskEnded):
        await lifecycle.finish_task(task.task_id, TaskStatus.FAILED)
    with pytest.raises(TaskEnded):
        await lifecycle.cancel_task(task.task_id)
    with pytest.raises(TaskNotFound):
        await lifecycle.cancel_task("nowhere")


async def test_of_two_concurrent_ends_one_wins(db: str) -> None:
    await grant_credits("alice", 10)
    for _ in range(10):
        task = await start_task("alice")
        done = await gather(
            lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED),
            lifecycle.cancel_task(task.task_id),
            return_exceptions=True,
        )
        assert sorted(type(one).__name__ for one in done) == ["TaskChange", "TaskEnded"]


async def test_a_stopped_task_can_end(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 5)
    task = await start_task("alice")
    await charge_many([(task.account_id, block_run_request(task))], rate_cards)
    done = await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)
    assert (done.task.status, done.task.stop_reason) == (TaskStatus.COMPLETED, None)


async def test_a_child_belongs_to_the_parents_account_and_its_cost_counts_once(
    db: str, rate_cards: RateCardCache
) -> None:
    for owner in ("alice", "bob"):
        await grant_credits(owner, 100)
    parent = await start_task("alice")
    child = await start_task("alice", parent_task_id=parent.task_id)
    grandchild = await start_task("alice", parent_task_id=child.task_id)
    for task in (parent, child, grandchild):
        await charge_many([(task.account_id, block_run_request(task))], rate_cards)
    keys = [(task.account_id, task.task_id) for task in (parent, child, grandchild)]
    assert list((await costs.descendant_costs(keys)).values()) == [20, 10, 0]
    assert [task.total for task in (await queries.tasks_by_id(keys)).values()] == [10, 10, 10]
    assert (await get_balance(parent.account_id)).posted == 70
    with pytest.raises(TaskNotFound):
        await start_task("bob", parent_task_id=parent.task_id)
    await lifecycle.finish_task(child.task_id, TaskStatus.FAILED)
    with pytest.raises(TaskEnded):
        await start_task("alice", parent_task_id=child.task_id)


async def test_no_child_of_a_stopped_task_starts(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 5)
    task = await start_task("alice")
    await charge_many([(task.account_id, block_run_request(task))], rate_cards)
    with pytest.raises(TaskStopped):
        await start_task("alice", parent_task_id=task.task_id)


async def test_another_request_with_the_same_task_id_is_a_conflict(db: str) -> None:
    await grant_credits("alice", 5)
    await start_task("alice", task_id="t")
    with pytest.raises(IdempotencyConflict):
        await start_task("alice", task_id="t", agent_id="another")


async def ticks() -> list[tuple[str, str, str]]:
    """The scheduled runs that did not start: (task id, agent, reason)."""
    found = await pools.fetch("SELECT task_id, agent_id, reason FROM skipped_start ORDER BY task_id")
    return [tuple(row) for row in found]


async def skipped_notifications() -> list[tuple[str, bool]]:
    """The SCHEDULE_SKIPPED notifications: (agent, whether it is unresolved)."""
    found = await pools.fetch(
        "SELECT agent_id, resolved_at IS NULL FROM notification WHERE kind = 'SCHEDULE_SKIPPED' ORDER BY number"
    )
    return [tuple(row) for row in found]


async def scheduled(task_id: str, *, owner_id: str = "alice", agent_id: str = "agent", **more: Any) -> TaskChange:
    request = StartTaskRequest(
        task_id=task_id, owner_id=owner_id, agent_id=agent_id, trigger=TaskTrigger.SCHEDULED, actor="service:s", **more
    )
    return await lifecycle.start_task(request)


async def test_a_scheduled_task_with_nothing_available_is_skipped_and_does_not_exist(
    db: str, rate_cards: RateCardCache
) -> None:
    await grant_credits("alice", 10)
    task = await start_task("alice")
    await charge_many([(task.account_id, block_run_request(task))], rate_cards)
    before = await get_balance(task.account_id)

    with pytest.raises(InsufficientCredits) as refused:
        await scheduled("tick")

    assert (refused.value.required_credits, refused.value.available_credits) == (1, 0)
    assert refused.value.balance == before
    assert await ticks() == [("tick", "agent", "OUT_OF_CREDITS")]
    assert await skipped_notifications() == [("agent", True)]
    assert await pools.fetch("SELECT FROM task WHERE task_id = 'tick'") == []
    assert await pools.fetch("SELECT FROM task_account WHERE task_id = 'tick'") == []
    assert await get_balance(task.account_id) == before


async def test_a_start_by_a_webhook_is_recorded_like_a_scheduled_one(db: str) -> None:
    for number in range(3):
        with pytest.raises(InsufficientCredits):
            await start_task("alice", task_id=f"hook-{number}", trigger=TaskTrigger.WEBHOOK)
    with pytest.raises(InsufficientCredits):
        await scheduled("tick")  # the same agent: no second notification

    assert await ticks() == [
        ("hook-0", "agent", "OUT_OF_CREDITS"), ("hook-1", "agent", "OUT_OF_CREDITS"),
        ("hook-2", "agent", "OUT_OF_CREDITS"), ("tick", "agent", "OUT_OF_CREDITS"),
    ]  # fmt: skip
    assert await skipped_notifications() == [("agent", True)]
    [row] = await pools.fetch("SELECT message FROM notification")
    assert row["message"].startswith('A run started by a webhook of agent "agent" did not start: ')
    assert await pools.fetch("SELECT FROM task") == []

    await grant_credits("alice", 10)
    assert await skipped_notifications() == [("agent", False)]
    assert (await start_task("alice", task_id="hook-0", trigger=TaskTrigger.WEBHOOK)).status is TaskStatus.RUNNING


async def test_a_manual_task_is_refused_and_not_recorded(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 10)
    task = await start_task("alice")
    await charge_many([(task.account_id, block_run_request(task))], rate_cards)

    with pytest.raises(InsufficientCredits):
        await start_task("alice", trigger=TaskTrigger.MANUAL)

    assert await ticks() == []
    assert await skipped_notifications() == []


async def test_a_skipped_start_of_an_owner_without_account_is_recorded(db: str) -> None:
    with pytest.raises(InsufficientCredits):
        await scheduled("tick", owner_id="nobody")

    assert await ticks() == [("tick", "agent", "OUT_OF_CREDITS")]
    assert await pools.fetch("SELECT FROM task") == []


async def test_skipped_starts_give_one_notification_per_agent_until_credits_are_added(
    db: str, rate_cards: RateCardCache
) -> None:
    await grant_credits("alice", 10)
    task = await start_task("alice")
    await charge_many([(task.account_id, block_run_request(task))], rate_cards)

    for number in range(5):
        for agent in ("one", "two"):
            with pytest.raises(InsufficientCredits):
                await scheduled(f"{agent}-{number}", agent_id=agent)
    assert len(await ticks()) == 10
    assert await skipped_notifications() == [("one", True), ("two", True)]

    await grant_credits("alice", 10)
    assert await skipped_notifications() == [("one", False), ("two", False)]
    started = await scheduled("one-9", agent_id="one")
    await charge_many([(task.account_id, block_run_request(started.task))], rate_cards)
    with pytest.raises(InsufficientCredits):
        await scheduled("one-10", agent_id="one")
    assert await skipped_notifications() == [("one", False), ("two", False), ("one", True)]


async def test_the_same_skipped_start_is_recorded_once_and_can_start_later(db: str) -> None:
    for _ in range(3):
        with pytest.raises(InsufficientCredits):
            await scheduled("tick")
    done = await gather(*(scheduled("tick") for _ in range(10)), return_exceptions=True)
    assert {type(one) for one in done} == {InsufficientCredits}
    assert await ticks() == [("tick", "agent", "OUT_OF_CREDITS")]

    await grant_credits("alice", 10)
    started = await scheduled("tick")

    assert (started.replayed, started.task.status, started.task.trigger) == (
        False,
        TaskStatus.RUNNING,
        TaskTrigger.SCHEDULED,
    )


async def test_a_scheduled_budget_above_what_is_available_is_skipped(db: str) -> None:
    await grant_credits("alice", 10)

    with pytest.raises(InsufficientCredits) as refused:
        await scheduled("tick", budget=11)

    assert (refused.value.required_credits, refused.value.available_credits) == (11, 10)
    assert await ticks() == [("tick", "agent", "OUT_OF_CREDITS")]
    assert await pools.fetch("SELECT FROM hold") == []


async def test_an_account_with_debt_starts_no_task_and_skipped_starts_say_so(db: str) -> None:
    given = await grant_credits("alice", 10)
    await pools.fetch("UPDATE account SET owed = 3 WHERE id = $1 RETURNING 1", given.balance.account_id)

    with pytest.raises(InsufficientCredits) as refused:
        await scheduled("tick")

    assert (refused.value.required_credits, refused.value.available_credits) == (1, 10)
    assert refused.value.shortfall_credits == 3
    assert await ticks() == [("tick", "agent", "IN_DEBT")]
    with pytest.raises(InsufficientCredits):
        await start_task("alice")
    assert await pools.fetch("SELECT FROM task") == []


async def test_a_scheduled_child_of_a_stopped_task_is_refused_and_not_skipped(
    db: str, rate_cards: RateCardCache
) -> None:
    await grant_credits("alice", 5)
    task = await start_task("alice")
    await charge_many([(task.account_id, block_run_request(task))], rate_cards)

    with pytest.raises(TaskStopped):
        await start_task("alice", parent_task_id=task.task_id, trigger=TaskTrigger.SCHEDULED)

    assert await ticks() == []


async def test_a_stopped_task_that_was_cancelled_stays_cancelled(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 5)
    task = await start_task("alice")
    await charge_many([(task.account_id, block_run_request(task))], rate_cards)
    done = await lifecycle.cancel_task(task.task_id)
    await grant_credits("alice", 100)

    [late] = await charge_many([(task.account_id, block_run_request(task))], rate_cards)

    assert isinstance(late, TaskEnded)
    assert (await lifecycle.cancel_task(task.task_id)).task == done.task
    assert (await get_balance(task.account_id)).posted == 105
