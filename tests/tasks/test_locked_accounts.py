"""An account that another transaction has locked delays only its own requests, and those for a limited time."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from app.db import failures, pools
from app.db.database_url import connection_arguments
from app.db.failures import AccountsLocked, Answer
from app.ledger import account_locks, posting, queries
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import lifecycle, stop_and_resume
from app.tasks.charging import Charge, ChargeQueue, ChargeResult
from app.tasks.rules import TaskState, TaskStatus
from tests.conftest import LEDGER_KEY
from tests.factories import block_run_request, get_balance, get_task, grant_credits, start_task, unique_id

pytestmark = pytest.mark.anyio

LOCK_SECONDS = 1.0
WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = 'credits-posting'
"""


@pytest.fixture
async def charge_queue(rate_cards: RateCardCache) -> AsyncIterator[ChargeQueue]:
    """Charges of all accounts are in one queue. A locked account is waited for one second."""
    stop_and_resume.configure_ledger(LEDGER_KEY, lock_seconds=LOCK_SECONDS)
    queue = ChargeQueue(rate_cards, queues=1, batch_limit=256, queue_limit=4096, lock_seconds=LOCK_SECONDS)
    yield queue
    await queue.close()


@pytest.fixture
async def other(db: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of somebody else."""
    connection = await asyncpg.connect(**connection_arguments(db))
    yield connection
    await connection.close()


@asynccontextmanager
async def locked(other: asyncpg.Connection, *tasks: TaskState) -> AsyncIterator[None]:
    """The accounts of these tasks are locked by somebody else."""
    async with other.transaction():
        await other.execute(
            "SELECT FROM account WHERE id = ANY($1::bigint[]) FOR UPDATE", [task.account_id for task in tasks]
        )
        yield


async def tasks_of_owners(count: int) -> list[TaskState]:
    tasks = []
    for _ in range(count):
        owner = unique_id("owner")
        await grant_credits(owner, 1_000)
        tasks.append(await start_task(owner))
    return tasks


async def charge_all(queue: ChargeQueue, tasks: Sequence[TaskState]) -> list[ChargeResult | BaseException]:
    charges = (queue.charge(block_run_request(task)) for task in tasks)
    return list(await asyncio.gather(*charges, return_exceptions=True))


async def test_charges_of_other_accounts_in_the_same_queue_go_on(
    charge_queue: ChargeQueue, other: asyncpg.Connection
) -> None:
    blocked, *others = await tasks_of_owners(4)
    async with locked(other, blocked):
        waiting = asyncio.create_task(charge_all(charge_queue, [blocked] * 3))
        await asyncio.sleep(0)

        for _ in range(3):
            assert {type(result) for result in await charge_all(charge_queue, others)} == {Charge}
        assert not waiting.done()

        assert {type(result) for result in await waiting} == {AccountsLocked}
    assert [(await get_balance(task.account_id)).posted for task in [blocked, *others]] == [1_000, *[970] * 3]


async def test_charges_of_a_locked_account_are_executed_in_order_once_it_is_free(
    charge_queue: ChargeQueue, other: asyncpg.Connection
) -> None:
    blocked, free = await tasks_of_owners(2)
    async with locked(other, blocked):
        first = [asyncio.create_task(charge_queue.charge(block_run_request(blocked))) for _ in range(3)]
        assert isinstance(await charge_queue.charge(block_run_request(free)), Charge)
        await asyncio.sleep(0.3)
        later = [asyncio.create_task(charge_queue.charge(block_run_request(blocked))) for _ in range(3)]
        await asyncio.sleep(0.1)

    charged = await asyncio.gather(*first, *later)

    assert [one.entry.seq for one in charged if isinstance(one, Charge) and one.entry] == [2, 3, 4, 5, 6, 7]
    assert isinstance(await charge_queue.charge(block_run_request(blocked)), Charge)


async def test_a_charge_that_was_refused_because_of_a_lock_can_be_sent_again(
    charge_queue: ChargeQueue, other: asyncpg.Connection
) -> None:
    [blocked] = await tasks_of_owners(1)
    request = block_run_request(blocked)
    async with locked(other, blocked):
        begun = time.monotonic()
        with pytest.raises(AccountsLocked) as raised:
            await charge_queue.charge(request)
        assert LOCK_SECONDS <= time.monotonic() - begun < LOCK_SECONDS + account_locks.WAIT_SECONDS + 2
    assert raised.value.account_ids == {blocked.account_id}

    charged = await charge_queue.charge(request)

    assert isinstance(charged, Charge)
    assert (charged.replayed, charged.balance.posted) == (False, 990)


async def test_a_batch_has_a_result_for_each_item_if_some_accounts_are_locked(
    charge_queue: ChargeQueue, other: asyncpg.Connection
) -> None:
    tasks = await tasks_of_owners(6)
    async with locked(other, *tasks[::2]):
        results = await charge_queue.charge_batch([block_run_request(task) for task in tasks])

    assert [type(result) for result in results] == [AccountsLocked, Charge] * 3


async def test_postings_of_a_locked_account_leave_connections_to_others(
    charge_queue: ChargeQueue, other: asyncpg.Connection
) -> None:
    blocked, free = await tasks_of_owners(2)
    owner = (await get_balance(blocked.account_id)).owner_id
    free_owner = (await get_balance(free.account_id)).owner_id
    before = await get_balance(blocked.account_id)
    async with locked(other, blocked):
        starts = [asyncio.create_task(start_task(owner)) for _ in range(12)]
        await asyncio.sleep(0.1)
        assert [record["count"] for record in await pools.fetch(WAITING)] == [1]

        async with asyncio.timeout(LOCK_SECONDS - 0.2):
            await start_task(free_owner)
            assert isinstance(await charge_queue.charge(block_run_request(free)), Charge)
        results = await asyncio.gather(*starts, return_exceptions=True)

    assert {type(result) for result in results} == {AccountsLocked}
    assert (await get_balance(blocked.account_id)).version == before.version


async def test_charges_are_answered_in_time_while_other_postings_of_the_account_keep_coming(
    charge_queue: ChargeQueue, other: asyncpg.Connection
) -> None:
    [blocked] = await tasks_of_owners(1)
    owner = (await get_balance(blocked.account_id)).owner_id
    waited: list[float] = []

    async def charge() -> None:
        begun = time.monotonic()
        with pytest.raises(AccountsLocked):
            await charge_queue.charge(block_run_request(blocked))
        waited.append(time.monotonic() - begun)

    async with locked(other, blocked):
        requests: list[asyncio.Task[object]] = []
        for _ in range(10):
            requests += [asyncio.create_task(charge()), asyncio.create_task(start_task(owner))]
            await asyncio.sleep(0.2)
        await asyncio.gather(*requests, return_exceptions=True)

    assert len(waited) == 10
    assert max(waited) < LOCK_SECONDS + account_locks.WAIT_SECONDS + 1


async def test_postings_of_many_locked_accounts_leave_connections_to_others(
    charge_queue: ChargeQueue, other: asyncpg.Connection
) -> None:
    *blocked, free = await tasks_of_owners(11)
    async with locked(other, *blocked):
        ends = [asyncio.create_task(lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)) for task in blocked]
        charges = asyncio.create_task(charge_all(charge_queue, blocked))
        await asyncio.sleep(0.3)

        for _ in range(3):
            assert isinstance(await charge_queue.charge(block_run_request(free)), Charge)
        assert (await lifecycle.finish_task(free.task_id, TaskStatus.COMPLETED)).task.status is TaskStatus.COMPLETED

        results = await asyncio.gather(*ends, return_exceptions=True)
        assert {failures.answer_to(one) for one in results if isinstance(one, BaseException)} == {Answer.UNAVAILABLE}
        assert len(results) == 10
        assert {failures.answer_to(one) for one in await charges if isinstance(one, BaseException)} == {
            Answer.UNAVAILABLE
        }
    assert {(await get_task(task)).status for task in blocked} == {TaskStatus.RUNNING}


async def test_a_posting_that_waits_is_executed_once_the_account_is_free(
    charge_queue: ChargeQueue, other: asyncpg.Connection
) -> None:
    [blocked] = await tasks_of_owners(1)
    async with locked(other, blocked):
        ending = asyncio.create_task(lifecycle.finish_task(blocked.task_id, TaskStatus.COMPLETED))
        await asyncio.sleep(0.4)  # longer than the first attempt

    assert (await ending).task.status is TaskStatus.COMPLETED


async def test_a_locked_table_delays_for_a_limited_time(charge_queue: ChargeQueue, other: asyncpg.Connection) -> None:
    tasks = await tasks_of_owners(3)
    async with other.transaction():
        await other.execute("LOCK TABLE account IN EXCLUSIVE MODE")
        results = await charge_all(charge_queue, tasks)
        with pytest.raises(AccountsLocked):
            await lifecycle.finish_task(tasks[0].task_id, TaskStatus.COMPLETED)

    answers = {failures.answer_to(one) for one in results if isinstance(one, BaseException)}
    assert (len(results), answers) == (3, {Answer.UNAVAILABLE})
    assert {type(result) for result in await charge_all(charge_queue, tasks)} == {Charge}


async def test_a_sweep_leaves_out_an_account_that_is_locked_after_it_was_selected(
    charge_queue: ChargeQueue, other: asyncpg.Connection
) -> None:
    blocked, free = await tasks_of_owners(2)
    async with locked(other, blocked):
        with pytest.raises(AccountsLocked) as raised:
            await posting.apply_due_changes([blocked.account_id, free.account_id])

    assert raised.value.account_ids == {blocked.account_id}


async def test_many_postings_of_one_account_are_all_executed(charge_queue: ChargeQueue) -> None:
    [task] = await tasks_of_owners(1)
    owner = (await get_balance(task.account_id)).owner_id

    results = await asyncio.gather(
        *(start_task(owner) for _ in range(40)), *(charge_queue.charge(block_run_request(task)) for _ in range(40))
    )

    assert len(results) == 80
    assert (await get_balance(task.account_id)).posted == 600
    assert account_locks._turns == {}


async def test_a_cancelled_posting_gives_its_turn_to_the_next_one(
    charge_queue: ChargeQueue, other: asyncpg.Connection
) -> None:
    [blocked] = await tasks_of_owners(1)
    async with locked(other, blocked):
        ending = [asyncio.create_task(lifecycle.finish_task(blocked.task_id, TaskStatus.COMPLETED)) for _ in range(3)]
        await asyncio.sleep(0.1)
        for task in ending[:2]:
            task.cancel()
        for task in ending[:2]:
            with suppress(asyncio.CancelledError):
                await task

    assert (await ending[2]).task.status is TaskStatus.COMPLETED
    assert account_locks._turns == {}


async def test_reads_are_not_delayed_by_a_lock(charge_queue: ChargeQueue, other: asyncpg.Connection) -> None:
    [blocked] = await tasks_of_owners(1)
    async with locked(other, blocked), asyncio.timeout(1):
        assert (await queries.get_balances([blocked.account_id]))[blocked.account_id].posted == 1_000


async def test_an_account_that_was_locked_for_long_does_not_delay_its_queue_again(
    charge_queue: ChargeQueue, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked, free = await tasks_of_owners(2)
    async with locked(other, blocked):
        assert [type(one) for one in await charge_all(charge_queue, [blocked])] == [AccountsLocked]
        batches: list[set[int]] = []
        monkeypatch.setattr(charge_queue._charges._queues[0], "_call", recorded(charge_queue._post, batches))

        results = await charge_all(charge_queue, [blocked, free])

        assert [type(one) for one in results] == [AccountsLocked, Charge]
        assert batches == [{free.account_id}]
    assert [type(one) for one in await charge_all(charge_queue, [blocked, blocked])] == [Charge, Charge]
    await charge_all(charge_queue, [blocked])
    assert batches[1:] == [{blocked.account_id}]


def recorded(post: Any, batches: list[set[int]]) -> Any:
    async def record_and_post(items: Any) -> Any:
        batches.append({account_id for account_id, _ in items})
        return await post(items)

    return record_and_post
