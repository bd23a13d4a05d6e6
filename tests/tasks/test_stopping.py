"""Out of credits: which tasks stop, and what continues."""

from asyncio import gather
from collections.abc import Sequence

import pytest

from app.db import pools
from app.errors import InsufficientCredits, TaskStopped
from app.ledger.rules.account_state import GrantSource
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import holds, queries, stop_and_resume
from app.tasks.charging import Charge, ChargeQueue, ChargeResult, charge_many
from app.tasks.rules import SignalKind, StopReason, TaskState, TaskStatus
from app.tasks.stop_and_resume import ResumeTaskRequest
from app.verify.verifier import verify_ledger
from tests.factories import (
    block_run_request,
    charge_block_run,
    get_balance,
    get_task,
    grant_credits,
    hold_request,
    publish_rate_cards,
    start_task,
    start_tasks,
    try_charge,
)

pytestmark = pytest.mark.anyio


async def row_of(task: TaskState) -> tuple[object, ...]:
    """The whole row, with xmin: another write would change it."""
    [row] = await pools.fetch("SELECT t.*, xmin::text FROM task AS t WHERE task_id = $1", task.task_id)
    return tuple(row)


async def test_only_the_refused_charge_stops_its_task_and_no_other_row_is_written(rate_cards: RateCardCache) -> None:
    one, two, three = await start_tasks(3, sharing_credits=25)
    await charge_block_run(two, rate_cards)
    before = [await row_of(task) for task in (two, three)]

    last = await charge_block_run(one, rate_cards)
    assert (last.balance.available, last.task.status) == (5, TaskStatus.RUNNING)
    refusal = await try_charge(one, rate_cards)

    assert isinstance(refusal, InsufficientCredits)
    assert (refusal.required_credits, refusal.available_credits, refusal.shortfall_credits) == (10, 5, 5)
    stopped = await get_task(one)
    assert (stopped.status, stopped.stop_reason, stopped.required, stopped.shortfall) == (
        TaskStatus.STOPPED, StopReason.OUT_OF_CREDITS, 10, 5,
    )  # fmt: skip
    assert (stopped.total, stopped.steps) == (10, 1)
    assert [await row_of(task) for task in (two, three)] == before
    assert (await get_task(two)).status is TaskStatus.RUNNING
    assert (await verify_ledger()).violations == []


async def test_spending_the_last_credit_stops_no_task(rate_cards: RateCardCache) -> None:
    one, two = await start_tasks(2, sharing_credits=10)
    before = await row_of(two)

    last = await charge_block_run(one, rate_cards)

    assert (last.balance.available, last.task.status, last.signal) == (0, TaskStatus.RUNNING, SignalKind.STOP)
    assert await row_of(two) == before
    assert [(await get_task(task)).status for task in (one, two)] == [TaskStatus.RUNNING, TaskStatus.RUNNING]


async def test_a_stopped_task_accepts_no_paid_charge_even_after_a_grant(rate_cards: RateCardCache) -> None:
    [task] = await start_tasks(1, sharing_credits=5)
    assert isinstance(await try_charge(task, rate_cards), InsufficientCredits)
    await grant_credits("alice", 1000)
    stopped = await get_task(task)

    refusals = await gather(*(try_charge(task, rate_cards) for _ in range(10)))

    assert {type(one) for one in refusals} == {TaskStopped}
    assert {one.stop_reason for one in refusals if isinstance(one, TaskStopped)} == {StopReason.OUT_OF_CREDITS}
    assert await get_task(task) == stopped
    assert (await get_balance(task.account_id)).posted == 1005


async def test_a_free_block_run_is_accepted_on_a_stopped_task(rate_cards: RateCardCache) -> None:
    [task] = await start_tasks(1, sharing_credits=5)
    assert isinstance(await try_charge(task, rate_cards), InsufficientCredits)

    for more in ({"block": "NoteBlock"}, {"uses_own_key": True}):
        free = await charge_block_run(task, rate_cards, **more)
        assert (free.block_run.cost, free.entry, free.task.status) == (0, None, TaskStatus.STOPPED)
    now = await get_task(task)
    assert (now.steps, now.total, now.required, now.shortfall) == (2, 0, 10, 5)


async def test_a_charge_before_the_stop_is_replayed_after_it(rate_cards: RateCardCache) -> None:
    [task] = await start_tasks(1, sharing_credits=15)
    first = await charge_block_run(task, rate_cards, block_run_id="run")
    assert isinstance(await try_charge(task, rate_cards), InsufficientCredits)

    again = await charge_block_run(task, rate_cards, block_run_id="run")

    assert (again.replayed, again.entry, again.block_run) == (True, first.entry, first.block_run)
    assert (again.task.status, again.balance.available) == (TaskStatus.STOPPED, 5)


async def test_the_signal_is_stop_exactly_if_nothing_is_left_to_pay_with(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 60)
    with_budget = await start_task("alice", budget=20)
    plain, other = await start_task("alice"), await start_task("alice")

    assert [(await charge_block_run(plain, rate_cards)).signal for _ in range(4)] == [None, None, None, SignalKind.STOP]
    assert (await charge_block_run(other, rate_cards, block="NoteBlock")).signal is SignalKind.STOP
    assert (await charge_block_run(with_budget, rate_cards)).signal is None
    assert (await charge_block_run(with_budget, rate_cards)).signal is SignalKind.STOP

    await grant_credits("alice", 1)
    assert (await charge_block_run(other, rate_cards, block="NoteBlock")).signal is None
    assert (
        await charge_block_run(with_budget, rate_cards, block="NoteBlock")
    ).signal is SignalKind.STOP  # its budget is spent


async def test_the_charge_that_leaves_only_the_closing_reserve_carries_stop(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=35, closing_reserve=15)
    child = await start_task("alice", parent_task_id=task.task_id)
    plain = await start_task("alice")

    assert (await charge_block_run(task, rate_cards, block_run_id="a")).signal is None
    assert (await charge_block_run(child, rate_cards, block_run_id="b")).signal is SignalKind.STOP
    assert (await charge_block_run(task, rate_cards, block_run_id="a")).signal is SignalKind.STOP  # a replay
    assert (await charge_block_run(plain, rate_cards)).signal is None
    assert (await get_task(task)).status is TaskStatus.RUNNING
    closing = await charge_block_run(task, rate_cards, closing=True)
    assert (closing.signal, closing.block_run.cost) == (SignalKind.STOP, 10)


async def test_all_charges_of_a_batch_that_leaves_only_the_closing_reserve_carry_stop(
    rate_cards: RateCardCache,
) -> None:
    await grant_credits("alice", 100)
    task, plain = await start_task("alice", budget=30, closing_reserve=10), await start_task("alice")
    requests = [block_run_request(one) for one in (task, plain, task)]

    outcomes = await charge_many([(task.account_id, request) for request in requests], rate_cards)

    assert [one.signal for one in outcomes if isinstance(one, Charge)] == [SignalKind.STOP, None, SignalKind.STOP]


async def test_a_task_that_holds_the_last_credits_gets_no_signal_until_its_hold_is_closed(db: str) -> None:
    prices = await publish_rate_cards()
    await grant_credits("alice", 30)
    task, other = await start_task("alice"), await start_task("alice")
    hold = hold_request(task, 20)
    await holds.place_hold(hold, prices)

    mine = await charge_block_run(task, prices)
    assert (mine.balance.available, mine.signal) == (0, None)
    assert (await charge_block_run(other, prices, block="NoteBlock")).signal is SignalKind.STOP
    voided = await holds.void_hold(task.task_id, hold.block_run_id)
    assert voided.balance.available == 20

    assert [(await charge_block_run(task, prices)).signal for _ in range(2)] == [None, SignalKind.STOP]


async def test_an_item_of_a_batch_stops_its_task_and_no_other(rate_cards: RateCardCache) -> None:
    one, two = await start_tasks(2, sharing_credits=15)
    items = [
        block_run_request(one),
        block_run_request(one),
        block_run_request(one),
        block_run_request(two),
        block_run_request(one, block="NoteBlock"),
    ]

    outcomes = await charge_many([(one.account_id, item) for item in items], rate_cards)

    assert [type(done) for done in outcomes] == [
        Charge,
        InsufficientCredits,
        TaskStopped,
        InsufficientCredits,
        Charge,
    ]
    assert [(await get_task(task)).required for task in (one, two)] == [10, 10]
    assert [(await get_task(task)).shortfall for task in (one, two)] == [5, 5]
    assert (await get_balance(one.account_id)).available == 5
    assert (await verify_ledger()).violations == []


def counted(outcomes: Sequence[ChargeResult]) -> dict[str, int]:
    names = [type(one).__name__ for one in outcomes]
    return {name: names.count(name) for name in names}


async def test_of_200_concurrent_block_runs_with_credits_for_100_exactly_100_run(
    rate_cards: RateCardCache,
) -> None:
    tasks = await start_tasks(200, sharing_credits=1000)
    charge_queue = ChargeQueue(rate_cards, queues=4, batch_limit=16, queue_limit=4096)
    try:
        outcomes = await gather(*(charge_queue.charge(block_run_request(task)) for task in tasks))
    finally:
        await charge_queue.close()

    assert counted(outcomes) == {"Charge": 100, "InsufficientCredits": 100}
    assert min(one.balance.available for one in outcomes if isinstance(one, Charge)) == 0
    await check_stopped(tasks, outcomes)


async def test_the_same_in_batches_over_several_concurrent_transactions(rate_cards: RateCardCache) -> None:
    tasks = await start_tasks(200, sharing_credits=1000)
    lists = [tasks[start::10] for start in range(10)]

    done = await gather(
        *(charge_many([(task.account_id, block_run_request(task)) for task in some], rate_cards) for some in lists)
    )

    outcomes = [one for some in done for one in some]
    assert counted(outcomes) == {"Charge": 100, "InsufficientCredits": 100}
    await check_stopped([task for some in lists for task in some], outcomes)


async def check_stopped(tasks: Sequence[TaskState], outcomes: Sequence[ChargeResult]) -> None:
    """Exactly the tasks whose charge was refused are stopped, and no credits are left."""
    states = await queries.tasks_by_id([(task.account_id, task.task_id) for task in tasks])
    for task, done in zip(tasks, outcomes, strict=True):
        paid = isinstance(done, Charge)
        state = states[task.account_id, task.task_id]
        assert (state.status, state.total) == ((TaskStatus.RUNNING, 10) if paid else (TaskStatus.STOPPED, 0))
    now = await get_balance(tasks[0].account_id)
    assert (now.posted, now.held, now.available) == (0, 0, 0)
    assert (await verify_ledger()).violations == []


async def test_of_200_block_runs_of_one_task_100_run_and_then_it_is_stopped(
    rate_cards: RateCardCache,
) -> None:
    [task] = await start_tasks(1, sharing_credits=1000)
    charge_queue = ChargeQueue(rate_cards, queues=4, batch_limit=16, queue_limit=4096)
    try:
        outcomes = await gather(*(charge_queue.charge(block_run_request(task)) for _ in range(200)))
    finally:
        await charge_queue.close()

    assert counted(outcomes) == {"Charge": 100, "InsufficientCredits": 1, "TaskStopped": 99}
    state = await get_task(task)
    assert (state.status, state.total, state.steps) == (TaskStatus.STOPPED, 1000, 100)
    assert (await verify_ledger()).violations == []


async def test_many_stops_give_one_notification_per_agent(rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 5)
    tasks = [await start_task("alice", agent_id=agent) for agent in ("one", "one", "two")]

    for task in tasks:
        assert isinstance(await try_charge(task, rate_cards), InsufficientCredits)

    found = await pools.fetch("SELECT kind, agent_id FROM notification WHERE kind = 'OUT_OF_CREDITS' ORDER BY agent_id")
    assert [tuple(row) for row in found] == [("OUT_OF_CREDITS", "one"), ("OUT_OF_CREDITS", "two")]
    await grant_credits("alice", 100)
    assert await pools.fetch("SELECT FROM notification WHERE kind = 'OUT_OF_CREDITS' AND resolved_at IS NULL") == []


@pytest.mark.parametrize(("owed", "frozen"), [(0, 0), (7, 0), (0, 20), (7, 20), (0, 5), (7, 3)])
@pytest.mark.parametrize("request_kind", ["charge", "placeHold", "startTask", "startTask with a budget", "resumeTask"])
async def test_the_shortfall_is_exactly_what_must_be_bought(db: str, request_kind: str, owed: int, frozen: int) -> None:
    """Added credits first replace frozen ones that are already spent, then pay debt."""
    prices = await publish_rate_cards()
    tasks = await start_tasks(4, sharing_credits=5)
    assert isinstance(await try_charge(tasks[3], prices), InsufficientCredits)  # it can be resumed
    await pools.fetch("UPDATE account SET owed = $1, frozen = $2 RETURNING 1", owed, frozen)
    left = iter(tasks)

    async def send() -> object:
        match request_kind:
            case "charge":
                return await try_charge(next(left), prices)
            case "placeHold":
                return await holds.place_hold(hold_request(next(left), 10), prices)
            case "startTask":
                return await start_task("alice")
            case "startTask with a budget":
                return await start_task("alice", budget=10)
        request = ResumeTaskRequest(task_id=tasks[3].task_id, add_budget=10, actor="service:test")
        return await stop_and_resume.resume_task(request)

    async def refusal() -> InsufficientCredits | None:
        try:
            result = await send()
        except InsufficientCredits as error:
            return error
        return result if isinstance(result, InsufficientCredits) else None

    required = 1 if request_kind == "startTask" else 10
    first = await refusal()
    if first is None:
        assert (request_kind, owed, frozen) == ("startTask", 0, 0)
        return
    assert first.shortfall_credits == owed + max(0, required - 5 + frozen)
    if first.shortfall_credits > 1:
        await grant_credits("alice", first.shortfall_credits - 1, source=GrantSource.PURCHASED)
        last = await refusal()
        assert last is not None
        assert last.shortfall_credits == 1
    await grant_credits("alice", 1, source=GrantSource.PURCHASED)
    assert await refusal() is None
