"""Charging in batches: each item has its own result, and a block run is charged once."""

from asyncio import create_task, gather, sleep
from collections.abc import AsyncIterator

import pytest

from app.db import pools
from app.errors import IdempotencyConflict, InsufficientCredits, PriceNotFound, TaskEnded, TaskNotFound, TaskStopped
from app.ledger import queries
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import charging, lifecycle, task_accounts
from app.tasks.charging import Charge, ChargeQueue, charge_many
from app.tasks.rules import TaskStatus
from tests.factories import block_run_request, get_balance, grant_credits, start_task, start_tasks

pytestmark = pytest.mark.anyio


@pytest.fixture
async def charge_queue(rate_cards: RateCardCache) -> AsyncIterator[ChargeQueue]:
    charge_queue = ChargeQueue(rate_cards, queues=2, batch_limit=256, queue_limit=4096)
    yield charge_queue
    await charge_queue.close()


async def test_a_charge_changes_the_entry_the_task_and_the_balance_together(charge_queue: ChargeQueue) -> None:
    await grant_credits("alice", 70)
    task = await start_task("alice")
    charged = await charge_queue.charge(block_run_request(task, block_run_id="run-a"))
    assert isinstance(charged, Charge)
    assert charged.entry is not None
    assert (charged.entry.credits, charged.entry.balance_after, charged.entry.seq) == (-10, 60, 2)
    assert (charged.task.total, charged.task.steps, charged.balance.available) == (10, 1, 60)
    assert (await get_balance(task.account_id)) == charged.balance


async def test_twenty_concurrent_charges_never_overdraw(charge_queue: ChargeQueue) -> None:
    tasks = await start_tasks(20, sharing_credits=70)
    outcomes = await gather(*(charge_queue.charge(block_run_request(task)) for task in tasks))
    assert [type(outcome) for outcome in outcomes].count(Charge) == 7
    assert [type(outcome) for outcome in outcomes].count(InsufficientCredits) == 13
    assert (await get_balance(tasks[0].account_id)).available == 0


async def test_the_same_block_run_sent_twenty_times_concurrently_moves_credits_once(charge_queue: ChargeQueue) -> None:
    [task] = await start_tasks(1, sharing_credits=1000)
    run = block_run_request(task)
    outcomes = await gather(*(charge_queue.charge(run) for _ in range(20)))
    charged = [outcome for outcome in outcomes if isinstance(outcome, Charge)]
    assert len(charged) == 20
    assert sum(not one.replayed for one in charged) == 1
    assert {one.entry for one in charged} == {charged[0].entry}
    assert (await get_balance(task.account_id)).posted == 990


async def test_the_accounts_of_tasks_started_by_other_workers_are_looked_up_together(
    charge_queue: ChargeQueue, statements_sent: list[str]
) -> None:
    tasks = await start_tasks(20, sharing_credits=1000)
    task_accounts.clear_cache()  # as if another process had started them
    statements_sent.clear()
    requests = [*map(block_run_request, tasks), block_run_request("nobody's")]
    outcomes = await gather(*map(charge_queue.charge, requests))
    assert [type(outcome) for outcome in outcomes] == [*[Charge] * 20, TaskNotFound]
    assert statements_sent == [task_accounts._FIND]


async def test_a_charge_whose_account_is_being_looked_up_is_completed_by_close(rate_cards: RateCardCache) -> None:
    charge_queue = ChargeQueue(rate_cards, queues=2, batch_limit=256, queue_limit=4096)
    [task] = await start_tasks(1, sharing_credits=1000)
    task_accounts.clear_cache()
    charge = create_task(charge_queue.charge(block_run_request(task)))
    await sleep(0)
    await charge_queue.close()
    await sleep(0)  # lets it take its result
    assert charge.done()
    assert isinstance(charge.result(), Charge)


async def test_charges_that_hang_are_a_problem_until_they_end(
    charge_queue: ChargeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charging, "HANG_SECONDS", -1.0)
    assert charge_queue.find_problem() is None
    [task] = await start_tasks(1, sharing_credits=1000)
    async with pools.transaction() as connection:
        await connection.execute_query("SELECT FROM account WHERE id = $1 FOR UPDATE", [task.account_id])
        charge = create_task(charge_queue.charge(block_run_request(task)))
        for _ in range(20):
            await sleep(0)  # the batch begins, and waits for the lock
        assert charge_queue.find_problem() == "charges have not ended for 0 s"
        monkeypatch.setattr(charging, "HANG_SECONDS", 8.0)
        assert charge_queue.find_problem() is None
    assert isinstance(await charge, Charge)


async def test_a_replay_is_answered_after_the_task_has_ended(charge_queue: ChargeQueue) -> None:
    [task] = await start_tasks(1, sharing_credits=100)
    run = block_run_request(task)
    first = await charge_queue.charge(run)
    await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)
    again = await charge_queue.charge(run)
    assert isinstance(first, Charge)
    assert isinstance(again, Charge)
    assert (again.replayed, again.entry, again.block_run) == (True, first.entry, first.block_run)
    assert isinstance(await charge_queue.charge(block_run_request(task)), TaskEnded)


async def test_another_request_with_the_same_block_run_id_is_a_conflict_in_any_task(charge_queue: ChargeQueue) -> None:
    one, two = await start_tasks(2, sharing_credits=100)
    await charge_queue.charge(block_run_request(one, block_run_id="run"))
    for other in (
        block_run_request(one, block_run_id="run", block="FactCheckerBlock"),
        block_run_request(two, block_run_id="run"),
    ):
        assert isinstance(await charge_queue.charge(other), IdempotencyConflict)
    assert (await get_balance(one.account_id)).posted == 90


async def test_two_owners_may_use_the_same_block_run_id(charge_queue: ChargeQueue) -> None:
    await grant_credits("alice", 100)
    await grant_credits("bob", 100)
    one, two = await start_task("alice"), await start_task("bob")

    done = [await charge_queue.charge(block_run_request(task, block_run_id="run")) for task in (one, two)]

    assert [charge.replayed for charge in done if isinstance(charge, Charge)] == [False, False]
    assert [(await get_balance(task.account_id)).posted for task in (one, two)] == [90, 90]


async def test_a_charge_that_cannot_be_paid_stops_its_task_and_only_free_block_runs_are_accepted_afterwards(
    charge_queue: ChargeQueue,
) -> None:
    [task] = await start_tasks(1, sharing_credits=5)
    refusal = await charge_queue.charge(block_run_request(task))
    assert isinstance(refusal, InsufficientCredits)
    assert (refusal.required_credits, refusal.available_credits, refusal.shortfall_credits) == (10, 5, 5)
    assert isinstance(await charge_queue.charge(block_run_request(task, block="FactCheckerBlock")), TaskStopped)
    free = await charge_queue.charge(block_run_request(task, block="NoteBlock"))
    assert isinstance(free, Charge)
    assert (free.block_run.cost, free.entry, free.task.status, free.task.steps) == (0, None, TaskStatus.STOPPED, 1)


async def test_items_of_a_batch_see_the_effects_of_earlier_items_and_have_their_own_results(
    rate_cards: RateCardCache,
) -> None:
    [task] = await start_tasks(1, sharing_credits=25)
    twice = block_run_request(task)
    items = [
        twice,
        block_run_request(task, block="Nothing"),
        twice,
        block_run_request(task),
        block_run_request(task),
        block_run_request(task),
    ]
    outcomes = await charge_many([(task.account_id, item) for item in items], rate_cards)
    assert [type(outcome) for outcome in outcomes] == [
        Charge, PriceNotFound, Charge, Charge, InsufficientCredits, TaskStopped,
    ]  # fmt: skip
    assert [outcome.balance.available for outcome in outcomes if isinstance(outcome, Charge)] == [15, 15, 5]
    page = await queries.list_entries(task.account_id, before_seq=99, limit=10)
    assert [entry.seq for entry in page] == [3, 2, 1]


async def test_results_of_a_batch_are_in_order_and_name_the_unknown_task(charge_queue: ChargeQueue) -> None:
    [task] = await start_tasks(1, sharing_credits=25)
    outcomes = await charge_queue.charge_batch(
        [block_run_request(task), block_run_request("nowhere"), block_run_request(task)]
    )
    assert [type(outcome) for outcome in outcomes] == [Charge, TaskNotFound, Charge]
