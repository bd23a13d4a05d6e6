"""Notifications: created, listed, sent to subscribers, marked as read, resolved by credits."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.errors import InsufficientCredits
from app.ledger.expiry_notifications import ExpiryNotifications
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import lifecycle
from app.tasks.charging import charge_many
from app.tasks.lifecycle import StartTaskRequest
from app.tasks.rules import TaskTrigger
from tests.api.conftest import ALICE, BOB, OPERATOR, SERVICE, Api
from tests.factories import block_run_request, grant_credits, start_task, unique_id

pytestmark = pytest.mark.anyio

LIST = """query($owner: ID, $unread: Boolean! = false, $after: String, $first: Int! = 25) {
    account(ownerId: $owner) { lowBalanceThreshold notifications(unreadOnly: $unread, after: $after, first: $first) {
        edges { node { id kind agentId message readAt resolvedAt } } pageInfo { hasNextPage endCursor } } } }"""
MARK = """mutation($input: MarkNotificationsReadInput!) { markNotificationsRead(input: $input) { __typename
    ... on MarkNotificationsReadSuccess { notifications { id kind readAt } }
    ... on NotificationNotFoundError { notificationId } } }"""
SET = """mutation($input: SetLowBalanceThresholdInput!) { setLowBalanceThreshold(input: $input) { __typename
    ... on SetLowBalanceThresholdSuccess { replayed account { lowBalanceThreshold } balance { status version } }
    ... on UserError { message } } }"""
SUBSCRIBE = "subscription { notifications { id kind } }"


async def notifications(api: Api, caller: Any = ALICE, **variables: Any) -> list[Any]:
    found = await api.data(caller, LIST, **variables)
    return [edge["node"] for edge in found["account"]["notifications"]["edges"]]


async def kinds(api: Api, **variables: Any) -> list[str]:
    return [one["kind"] for one in await notifications(api, **variables)]


async def spend(credits: int, rate_cards: RateCardCache) -> None:
    """Spend credits, ten at a time, in one task."""
    task = await start_task("alice")
    runs = [block_run_request(task) for _ in range(credits // 10)]
    await charge_many([(task.account_id, run) for run in runs], rate_cards)


async def skip_start(agent_id: str, task_id: str | None = None) -> None:
    """A scheduled task that does not start for lack of credits."""
    input = StartTaskRequest(
        task_id=task_id or unique_id("start"),
        owner_id="alice",
        agent_id=agent_id,
        trigger=TaskTrigger.SCHEDULED,
        actor="service:scheduler",
    )
    with pytest.raises(InsufficientCredits):
        await lifecycle.start_task(input)


async def set_threshold(api: Api, credits: int, key: str = "key-1", caller: Any = ALICE, **more: Any) -> Any:
    input = {"credits": credits, "idempotencyKey": key} | more
    return (await api.data(caller, SET, input=input))["setLowBalanceThreshold"]


async def test_each_fall_below_the_threshold_creates_one_notification(api: Api, rate_cards: RateCardCache) -> None:
    await set_threshold(api, 100)
    await grant_credits("alice", 120)
    await spend(20, rate_cards)
    assert await kinds(api) == []
    await spend(10, rate_cards)
    await spend(10, rate_cards)
    assert await kinds(api, unread=True) == ["LOW_BALANCE"]
    await grant_credits("alice", 100)
    assert await kinds(api, unread=True) == []
    [cleared] = await notifications(api)
    assert cleared["resolvedAt"] == cleared["readAt"] is not None
    await spend(100, rate_cards)
    assert await kinds(api) == ["LOW_BALANCE", "LOW_BALANCE"]
    assert await kinds(api, unread=True) == ["LOW_BALANCE"]


async def test_setting_the_threshold_creates_no_notification_and_may_resolve_one(
    api: Api, rate_cards: RateCardCache
) -> None:
    await grant_credits("alice", 70)
    first = await set_threshold(api, 100)
    assert first == {
        "__typename": "SetLowBalanceThresholdSuccess",
        "replayed": False,
        "account": {"lowBalanceThreshold": 100},
        "balance": {"status": "LOW", "version": 2},
    }
    assert await kinds(api) == []
    assert (await set_threshold(api, 100))["replayed"] is True
    assert (await set_threshold(api, 90))["__typename"] == "IdempotencyConflictError"
    await set_threshold(api, 65, "key-2")
    await spend(10, rate_cards)
    assert await kinds(api, unread=True) == ["LOW_BALANCE"]
    assert (await set_threshold(api, 60, "key-3"))["balance"]["status"] == "OK"
    assert await kinds(api, unread=True) == []
    assert (await set_threshold(api, -1, "key-4"))["__typename"] == "InvalidInputError"


async def test_out_of_credits_is_notified_per_account_and_agent_until_resolved(
    api: Api, rate_cards: RateCardCache
) -> None:
    await grant_credits("alice", 25)
    await spend(20, rate_cards)
    for agent in ("writer", "writer", "painter"):
        task = await start_task("alice", agent_id=agent)
        await charge_many([(task.account_id, block_run_request(task))], rate_cards)
    found = [(one["kind"], one["agentId"]) for one in await notifications(api, unread=True)]
    assert found == [("OUT_OF_CREDITS", "painter"), ("OUT_OF_CREDITS", "writer")]
    await grant_credits("alice", 500)
    assert await kinds(api, unread=True) == []


async def test_skipped_schedules_are_notified_once_per_agent(api: Api) -> None:
    for _ in range(3):
        await skip_start("writer")
        await skip_start("painter")
    assert sorted((n["kind"], n["agentId"]) for n in await notifications(api)) == [
        ("SCHEDULE_SKIPPED", "painter"),
        ("SCHEDULE_SKIPPED", "writer"),
    ]
    skipped = await api.data(ALICE, '{ agent(agentId: "writer") { skippedStarts { edges { node { reason } } } } }')
    assert [edge["node"]["reason"] for edge in skipped["agent"]["skippedStarts"]["edges"]] == ["OUT_OF_CREDITS"] * 3
    await grant_credits("alice", 10)
    assert await kinds(api, unread=True) == []


async def test_each_step_before_an_expiry_is_notified_once(api: Api) -> None:
    now = datetime.now(UTC)
    await grant_credits("alice", 10, expires_at=now + timedelta(days=5))
    await grant_credits("alice", 20, expires_at=now + timedelta(days=20))
    await grant_credits("alice", 40, expires_at=now + timedelta(days=60))
    assert sum(await asyncio.gather(*(ExpiryNotifications((30, 7, 1)).notify() for _ in range(4)))) == 2
    assert await ExpiryNotifications((30, 7, 1)).notify() == 0
    texts = sorted(one["message"].split(" will ")[0] for one in await notifications(api))
    assert texts == ["10 credits", "20 credits"]
    await grant_credits("alice", 1_000)
    assert await kinds(api, unread=True) == ["EXPIRING", "EXPIRING"]
    assert await ExpiryNotifications((90,)).notify() == 3


async def test_the_owner_services_and_operators_mark_notifications_as_read(api: Api) -> None:
    for agent in ("a", "b", "c"):
        await skip_start(agent)
    newest, *_, oldest = [one["id"] for one in await notifications(api)]
    marked = (await api.data(ALICE, MARK, input={"notificationIds": [oldest]}))["markNotificationsRead"][
        "notifications"
    ]
    assert [one["id"] for one in marked] == [oldest]
    assert marked[0]["readAt"] is not None
    again = (await api.data(ALICE, MARK, input={"notificationIds": [oldest]}))["markNotificationsRead"]["notifications"]
    assert again == marked
    assert newest in [one["id"] for one in await notifications(api, unread=True)]
    for caller, input in ((BOB, {"notificationIds": [newest]}), (ALICE, {"notificationIds": ["invalid"]})):
        answer = (await api.data(caller, MARK, input=input))["markNotificationsRead"]
        assert answer["__typename"] == "NotificationNotFoundError"
    code, _ = await api.error(BOB, MARK, input={"ownerId": "alice"})
    assert code == "FORBIDDEN"
    assert (
        len((await api.data(SERVICE, MARK, input={"ownerId": "alice"}))["markNotificationsRead"]["notifications"]) == 2
    )
    assert await kinds(api, unread=True) == []
    assert (await api.data(OPERATOR, MARK, input={"ownerId": "alice"}))["markNotificationsRead"]["notifications"] == []


async def test_notifications_are_paginated_and_are_nodes_of_their_owner(api: Api) -> None:
    for agent in ("a", "b", "c"):
        await skip_start(agent)
    first = (await api.data(ALICE, LIST, first=2))["account"]["notifications"]
    rest = (await api.data(ALICE, LIST, first=2, after=first["pageInfo"]["endCursor"]))["account"]["notifications"]
    agents = [edge["node"]["agentId"] for edge in (*first["edges"], *rest["edges"])]
    assert agents == ["c", "b", "a"]
    assert (first["pageInfo"]["hasNextPage"], rest["pageInfo"]["hasNextPage"]) == (True, False)
    query = "query($id: ID!) { node(id: $id) { ... on Notification { agentId } } }"
    named = first["edges"][0]["node"]["id"]
    assert (await api.data(ALICE, query, id=named))["node"] == {"agentId": "c"}
    assert (await api.data(BOB, query, id=named))["node"] is None


async def test_a_subscriber_receives_unread_notifications_and_then_each_new_one_once(api: Api) -> None:
    stream = api.subscribe(ALICE, SUBSCRIBE)
    waiting = asyncio.ensure_future(anext(stream))  # before the account exists
    await asyncio.sleep(0.1)
    await skip_start("a")
    async with asyncio.timeout(10):
        got = [(await waiting)["data"]["notifications"]["id"]]
        await skip_start("b")
        await skip_start("a")
        await skip_start("c")
        got += [(await anext(stream))["data"]["notifications"]["id"] for _ in range(2)]
    await stream.aclose()
    assert got == [one["id"] for one in reversed(await notifications(api))]
    later = api.subscribe(ALICE, SUBSCRIBE)
    async with asyncio.timeout(10):
        assert [(await anext(later))["data"]["notifications"]["id"] for _ in range(3)] == got
    await later.aclose()
