"""The subscriptions balance and taskCost: every change is sent, and versions always rise."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.db import pools
from app.ledger.due_changes_sweep import DueChangesSweep
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import lifecycle, reversals
from app.tasks.charging import charge_many
from app.tasks.rules import TaskStatus
from tests.api.conftest import ALICE, BOB, SERVICE, Api
from tests.factories import (
    block_run_request,
    charge_block_run,
    grant_credits,
    reverse_block_run,
    start_task,
    wait_until,
)

pytestmark = pytest.mark.anyio

BALANCE = "subscription($since: Long) { balance(sinceVersion: $since) { available version status } }"
COST = "subscription($task: ID!) { taskCost(taskId: $task) { total version status byBlock { block credits } } }"


async def item(stream: Any, field: str = "balance") -> Any:
    """The next item, within two seconds."""
    async with asyncio.timeout(2):
        return (await anext(stream))["data"][field]


async def test_every_change_of_the_balance_is_sent_from_the_first_credit_on(
    api: Api, rate_cards: RateCardCache
) -> None:
    header = api.subscribe(ALICE, BALANCE)
    assert await item(header) == {"available": 0, "version": 0, "status": "EMPTY"}
    await grant_credits("alice", 60)
    assert await item(header) == {"available": 60, "version": 1, "status": "OK"}
    task = await start_task("alice")
    run = block_run_request(task, block_run_id="run")
    await charge_many([(task.account_id, run)], rate_cards)
    assert await item(header) == {"available": 50, "version": 2, "status": "OK"}
    await charge_many([(task.account_id, block_run_request(task))], rate_cards)
    assert await item(header) == {"available": 40, "version": 3, "status": "LOW"}
    await reversals.reverse_charge(
        task.task_id, "run", credits=None, reason="failed", idempotency_key="k", actor="operator:o"
    )
    assert await item(header) == {"available": 50, "version": 4, "status": "OK"}
    await header.aclose()


async def test_an_expiry_is_sent(api: Api) -> None:
    await grant_credits("alice", 60)
    await grant_credits("alice", 5, expires_at=datetime.now(UTC) + timedelta(seconds=0.4))
    header = api.subscribe(ALICE, BALANCE)
    assert await item(header) == {"available": 65, "version": 2, "status": "OK"}
    await asyncio.sleep(0.45)
    assert await DueChangesSweep().apply_all() == 1
    assert await item(header) == {"available": 60, "version": 3, "status": "OK"}
    await header.aclose()


async def test_a_slow_subscriber_receives_fewer_items_and_the_newest(api: Api, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 1000)
    header = api.subscribe(ALICE, BALANCE)
    assert (await item(header))["version"] == 1
    task = await start_task("alice")
    for _ in range(20):
        await charge_many([(task.account_id, block_run_request(task))], rate_cards)
    await asyncio.sleep(0.1)
    assert await item(header) == {"available": 800, "version": 21, "status": "OK"}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await anext(header)


async def test_a_subscriber_with_a_version_waits_for_a_newer_one(api: Api) -> None:
    await grant_credits("alice", 10)
    header = api.subscribe(ALICE, BALANCE, since=1)
    waiting = asyncio.create_task(item(header))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await grant_credits("alice", 10)
    assert (await waiting)["version"] == 2
    await header.aclose()


async def test_the_sweep_sends_a_balance_whose_notification_was_lost(api: Api) -> None:
    await grant_credits("alice", 10)
    header = api.subscribe(ALICE, BALANCE)
    assert (await item(header))["version"] == 1
    feed = api.state.change_feed
    waiting = asyncio.create_task(item(header))
    await asyncio.sleep(0.1)  # the notification of the first grant may arrive after the snapshot
    api.listener.cancel()
    await grant_credits("alice", 10)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await feed.sweep()
    assert (await waiting)["version"] == 2
    await header.aclose()


async def test_a_replay_sends_nothing(api: Api, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    run = block_run_request(task)
    await charge_many([(task.account_id, run)], rate_cards)
    cost = api.subscribe(ALICE, COST, task=task.task_id)
    assert (await item(cost, "taskCost"))["version"] == 2
    waiting = asyncio.create_task(item(cost, "taskCost"))
    await charge_many([(task.account_id, run)], rate_cards)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    waiting.cancel()


async def test_the_cost_of_a_task_is_sent_until_it_ends(api: Api, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    cost = api.subscribe(ALICE, COST, task=task.task_id)
    assert await item(cost, "taskCost") == {"total": 0, "version": 1, "status": "RUNNING", "byBlock": []}
    await charge_many([(task.account_id, block_run_request(task))], rate_cards)
    assert await item(cost, "taskCost") == {
        "total": 10,
        "version": 2,
        "status": "RUNNING",
        "byBlock": [{"block": "ReplicateModelBlock", "credits": 10}],
    }
    await charge_many([(task.account_id, block_run_request(task, block="NoteBlock"))], rate_cards)
    assert (await item(cost, "taskCost"))["version"] == 3  # a cost of 0 does not change the balance, but is sent
    await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)
    last = await item(cost, "taskCost")
    assert (last["total"], last["status"]) == (10, "COMPLETED")
    with pytest.raises(StopAsyncIteration):
        await anext(cost)


PARTS = """subscription($task: ID!) { taskCost(taskId: $task) { version total ...Parts } }
    fragment Parts on TaskCost { held childrenTotal ... on TaskCost { blocks: byBlock { credits count } } }"""


async def test_a_change_of_a_nested_task_is_sent_to_subscribers_of_its_ancestors(
    api: Api, rate_cards: RateCardCache
) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=50)
    cost = api.subscribe(ALICE, PARTS, task=task.task_id)
    nothing = {"version": 1, "total": 0, "held": 50, "childrenTotal": 0, "blocks": []}
    assert await item(cost, "taskCost") == nothing

    child = await start_task("alice", parent_task_id=task.task_id, budget=30)
    assert await item(cost, "taskCost") == nothing | {"version": 2, "held": 20}
    inner = await start_task("alice", parent_task_id=child.task_id)
    assert await item(cost, "taskCost") == nothing | {"version": 3, "held": 20}
    charged = await charge_block_run(inner, rate_cards)
    assert await item(cost, "taskCost") == nothing | {"version": 4, "held": 20, "childrenTotal": 10}
    requests = [block_run_request(one) for one in (task, child, inner)]
    await charge_many([(task.account_id, one) for one in requests], rate_cards)
    last = {"version": 5, "total": 10, "held": 10, "childrenTotal": 30, "blocks": [{"credits": 10, "count": 1}]}
    assert await item(cost, "taskCost") == last  # one version for the whole batch
    await reverse_block_run(charged.block_run, 4)
    assert await item(cost, "taskCost") == last | {"version": 6, "childrenTotal": 26}
    await lifecycle.finish_task(child.task_id, TaskStatus.COMPLETED)  # what is left of its budget returns
    assert await item(cost, "taskCost") == last | {"version": 7, "held": 10, "childrenTotal": 26}
    await cost.aclose()


async def test_an_expired_budget_of_a_nested_task_is_sent_to_subscribers_of_its_parent(api: Api) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=50)
    child = await start_task("alice", parent_task_id=task.task_id, budget=30, budget_timeout_seconds=1)
    cost = api.subscribe(ALICE, PARTS, task=task.task_id)
    assert (await item(cost, "taskCost"))["held"] == 20
    [hold] = await pools.fetch("SELECT expires_at FROM hold WHERE task_id = $1", child.task_id)
    await wait_until(hold["expires_at"])
    await DueChangesSweep().apply_all()

    found = await item(cost, "taskCost")

    assert (found["version"], found["held"]) == (3, 50)
    await cost.aclose()


async def test_each_version_of_a_task_cost_shows_one_state_while_nested_tasks_are_charged(
    api: Api, rate_cards: RateCardCache
) -> None:
    """All parts of an item are equal at any time: every batch charges the task and its child, 10 credits each."""
    await grant_credits("alice", 10_000)
    task = await start_task("alice")
    child = await start_task("alice", parent_task_id=task.task_id)
    query = """subscription($task: ID!) { taskCost(taskId: $task) {
        version total charged childrenTotal byBlock { credits count } } }"""
    streams = [api.subscribe(ALICE, query, task=task.task_id) for _ in range(3)]

    async def charge() -> None:
        for _ in range(40):
            items = [(task.account_id, block_run_request(one)) for one in (task, child)]
            await charge_many(items, rate_cards)
        await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)

    async def states(stream: Any) -> list[Any]:
        return [one["data"]["taskCost"] async for one in stream]

    _, *seen = await asyncio.gather(charge(), *map(states, streams))

    for found in seen:
        versions = [one["version"] for one in found]
        assert versions == sorted(set(versions))
        assert found[-1]["total"] == 400
        for one in found:
            blocks = sum(block["credits"] for block in one["byBlock"])
            assert one["total"] == one["charged"] == one["childrenTotal"] == blocks


async def test_a_task_of_another_user_completes_without_an_item_like_a_missing_one(api: Api) -> None:
    await grant_credits("alice", 10)
    task = await start_task("alice")
    for task_id in (task.task_id, "nowhere"):
        with pytest.raises(StopAsyncIteration):
            await item(api.subscribe(BOB, COST, task=task_id), "taskCost")


async def test_subscribers_read_again_after_the_listening_connection_was_lost(api: Api, db: str) -> None:
    await grant_credits("alice", 10)
    header = api.subscribe(ALICE, BALANCE)
    assert (await item(header))["version"] == 1
    killed = await pools.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query ILIKE '%credits_probe%' AND pid <> pg_backend_pid()"
    )
    assert len(killed) == 1
    await grant_credits("alice", 10)
    async with asyncio.timeout(4):
        assert (await anext(header))["data"]["balance"]["version"] == 2
    await header.aclose()


async def test_a_service_subscribes_to_the_owner_that_it_names(api: Api) -> None:
    await grant_credits("alice", 10)
    header = api.subscribe(SERVICE, 'subscription { balance(ownerId: "alice") { available } }')
    assert await item(header) == {"available": 10}
    await header.aclose()
