"""Out of credits: what stops, from when, and what goes on untouched."""

from asyncio import gather
from collections.abc import Sequence

import pytest

from app import database
from app.audit import audit
from app.errors import InsufficientCredits, TaskStopped
from app.pricing.catalogue import Catalogue
from app.tasks import costs, holding
from app.tasks.charging import Charged, Charger, Outcome, charge_many
from app.tasks.rules import SignalKind, Status, StopReason, TaskState
from tests.factories import (
    a_block_run,
    a_catalogue_of,
    a_hold,
    a_task,
    balance,
    charged,
    granted,
    outcome,
    some_tasks,
)

pytestmark = pytest.mark.anyio


async def a_state(task: TaskState) -> TaskState:
    """The task as a reader sees it."""
    return (await costs.tasks_by_id([(task.account_id, task.task_id)]))[task.account_id, task.task_id]


async def row_of(task: TaskState) -> tuple[object, ...]:
    """The whole row, and which write made it: another write would leave another xmin."""
    [row] = await database.fetch("SELECT t.*, xmin::text FROM task AS t WHERE task_id = $1", task.task_id)
    return tuple(row)


async def test_only_the_refused_charge_stops_its_task_and_no_other_row_is_written(catalogue: Catalogue) -> None:
    one, two, three = await some_tasks(3, sharing_credits=25)
    await charged(two, catalogue)
    before = [await row_of(task) for task in (two, three)]

    last = await charged(one, catalogue)
    assert (last.balance.available, last.task.status) == (5, Status.RUNNING)
    refusal = await outcome(one, catalogue)

    assert isinstance(refusal, InsufficientCredits)
    assert (refusal.required_credits, refusal.available_credits, refusal.shortfall_credits) == (10, 5, 5)
    stopped = await a_state(one)
    assert (stopped.status, stopped.stop_reason, stopped.required, stopped.lacked) == (
        Status.STOPPED, StopReason.OUT_OF_CREDITS, 10, 5,
    )  # fmt: skip
    assert (stopped.total, stopped.steps) == (10, 1)
    assert [await row_of(task) for task in (two, three)] == before
    assert (await a_state(two)).status is Status.RUNNING
    assert (await audit()).breaks == []


async def test_using_up_the_last_credit_stops_nothing(catalogue: Catalogue) -> None:
    one, two = await some_tasks(2, sharing_credits=10)
    before = await row_of(two)

    last = await charged(one, catalogue)

    assert (last.balance.available, last.task.status, last.signal) == (0, Status.RUNNING, SignalKind.STOP)
    assert await row_of(two) == before
    assert [(await a_state(task)).status for task in (one, two)] == [Status.RUNNING, Status.RUNNING]


async def test_from_its_stop_on_a_task_takes_no_paid_charge_though_credits_have_come(catalogue: Catalogue) -> None:
    [task] = await some_tasks(1, sharing_credits=5)
    assert isinstance(await outcome(task, catalogue), InsufficientCredits)
    await granted("alice", 1000)
    stopped = await a_state(task)

    refusals = await gather(*(outcome(task, catalogue) for _ in range(10)))

    assert {type(one) for one in refusals} == {TaskStopped}
    assert {one.stop_reason for one in refusals if isinstance(one, TaskStopped)} == {StopReason.OUT_OF_CREDITS}
    assert await a_state(task) == stopped
    assert (await balance(task.account_id)).posted == 1005


async def test_what_costs_nothing_is_admitted_on_a_stopped_task(catalogue: Catalogue) -> None:
    [task] = await some_tasks(1, sharing_credits=5)
    assert isinstance(await outcome(task, catalogue), InsufficientCredits)

    for more in ({"block": "NoteBlock"}, {"uses_own_key": True}):
        free = await charged(task, catalogue, **more)
        assert (free.block_run.cost, free.entry, free.task.status) == (0, None, Status.STOPPED)
    now = await a_state(task)
    assert (now.steps, now.total, now.required, now.lacked) == (2, 0, 10, 5)


async def test_what_was_charged_before_the_stop_is_answered_after_it(catalogue: Catalogue) -> None:
    [task] = await some_tasks(1, sharing_credits=15)
    first = await charged(task, catalogue, block_run_id="run")
    assert isinstance(await outcome(task, catalogue), InsufficientCredits)

    again = await charged(task, catalogue, block_run_id="run")

    assert (again.replayed, again.entry, again.block_run) == (True, first.entry, first.block_run)
    assert (again.task.status, again.balance.available) == (Status.STOPPED, 5)


async def test_the_signal_is_stop_exactly_where_nothing_is_left_to_pay_with(catalogue: Catalogue) -> None:
    await granted("alice", 60)
    with_budget = await a_task("alice", budget=20)
    plain, other = await a_task("alice"), await a_task("alice")

    assert [(await charged(plain, catalogue)).signal for _ in range(4)] == [None, None, None, SignalKind.STOP]
    assert (await charged(other, catalogue, block="NoteBlock")).signal is SignalKind.STOP
    assert (await charged(with_budget, catalogue)).signal is None
    assert (await charged(with_budget, catalogue)).signal is SignalKind.STOP

    await granted("alice", 1)
    assert (await charged(other, catalogue, block="NoteBlock")).signal is None
    assert (await charged(with_budget, catalogue, block="NoteBlock")).signal is SignalKind.STOP  # its budget is spent


async def test_a_task_that_holds_the_last_credits_is_told_nothing_until_its_hold_is_gone(db: str) -> None:
    prices = await a_catalogue_of()
    await granted("alice", 30)
    task, other = await a_task("alice"), await a_task("alice")
    hold = a_hold(task, 20)
    await holding.place(hold, prices)

    mine = await charged(task, prices)
    assert (mine.balance.available, mine.signal) == (0, None)
    assert (await charged(other, prices, block="NoteBlock")).signal is SignalKind.STOP
    voided = await holding.void(task.task_id, hold.block_run_id)
    assert voided.balance.available == 20

    assert [(await charged(task, prices)).signal for _ in range(2)] == [None, SignalKind.STOP]


async def test_in_a_list_the_second_item_stops_its_task_and_no_other(catalogue: Catalogue) -> None:
    one, two = await some_tasks(2, sharing_credits=15)
    items = [
        a_block_run(one),
        a_block_run(one),
        a_block_run(one),
        a_block_run(two),
        a_block_run(one, block="NoteBlock"),
    ]

    outcomes = await charge_many([(one.account_id, item) for item in items], catalogue)

    assert [type(done) for done in outcomes] == [
        Charged,
        InsufficientCredits,
        TaskStopped,
        InsufficientCredits,
        Charged,
    ]
    assert [(await a_state(task)).required for task in (one, two)] == [10, 10]
    assert [(await a_state(task)).lacked for task in (one, two)] == [5, 5]
    assert (await balance(one.account_id)).available == 5
    assert (await audit()).breaks == []


def counted(outcomes: Sequence[Outcome]) -> dict[str, int]:
    names = [type(one).__name__ for one in outcomes]
    return {name: names.count(name) for name in names}


async def test_of_two_hundred_block_runs_at_once_on_credits_for_a_hundred_exactly_a_hundred_run(
    catalogue: Catalogue,
) -> None:
    tasks = await some_tasks(200, sharing_credits=1000)
    charger = Charger(catalogue, lanes=4, batch_limit=16, queue_limit=4096)
    try:
        outcomes = await gather(*(charger.charge(a_block_run(task)) for task in tasks))
    finally:
        await charger.close()

    assert counted(outcomes) == {"Charged": 100, "InsufficientCredits": 100}
    assert min(one.balance.available for one in outcomes if isinstance(one, Charged)) == 0
    await check_stopped(tasks, outcomes)


async def test_the_same_in_lists_over_several_transactions_at_once(catalogue: Catalogue) -> None:
    tasks = await some_tasks(200, sharing_credits=1000)
    lists = [tasks[start::10] for start in range(10)]

    done = await gather(
        *(charge_many([(task.account_id, a_block_run(task)) for task in some], catalogue) for some in lists)
    )

    outcomes = [one for some in done for one in some]
    assert counted(outcomes) == {"Charged": 100, "InsufficientCredits": 100}
    await check_stopped([task for some in lists for task in some], outcomes)


async def check_stopped(tasks: Sequence[TaskState], outcomes: Sequence[Outcome]) -> None:
    """Each task whose charge was refused is stopped, each other one is not, and nothing is left."""
    states = await costs.tasks_by_id([(task.account_id, task.task_id) for task in tasks])
    for task, done in zip(tasks, outcomes, strict=True):
        paid = isinstance(done, Charged)
        state = states[task.account_id, task.task_id]
        assert (state.status, state.total) == ((Status.RUNNING, 10) if paid else (Status.STOPPED, 0))
    now = await balance(tasks[0].account_id)
    assert (now.posted, now.held, now.available) == (0, 0, 0)
    assert (await audit()).breaks == []


async def test_of_two_hundred_block_runs_of_one_task_a_hundred_run_and_then_it_is_stopped(catalogue: Catalogue) -> None:
    [task] = await some_tasks(1, sharing_credits=1000)
    charger = Charger(catalogue, lanes=4, batch_limit=16, queue_limit=4096)
    try:
        outcomes = await gather(*(charger.charge(a_block_run(task)) for _ in range(200)))
    finally:
        await charger.close()

    assert counted(outcomes) == {"Charged": 100, "InsufficientCredits": 1, "TaskStopped": 99}
    state = await a_state(task)
    assert (state.status, state.total, state.steps) == (Status.STOPPED, 1000, 100)
    assert (await audit()).breaks == []


async def test_of_many_stops_for_one_cause_one_notice_stands_for_each_agent(catalogue: Catalogue) -> None:
    await granted("alice", 5)
    tasks = [await a_task("alice", agent_id=agent) for agent in ("one", "one", "two")]

    for task in tasks:
        assert isinstance(await outcome(task, catalogue), InsufficientCredits)

    told = await database.fetch("SELECT kind, agent_id FROM notice WHERE kind = 'OUT_OF_CREDITS' ORDER BY agent_id")
    assert [tuple(row) for row in told] == [("OUT_OF_CREDITS", "one"), ("OUT_OF_CREDITS", "two")]
    await granted("alice", 100)
    assert await database.fetch("SELECT FROM notice WHERE kind = 'OUT_OF_CREDITS' AND cleared_at IS NULL") == []
