"""Notices as clients see them: listed, pushed, marked read, cleared by credits."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.errors import InsufficientCredits
from app.ledger import expiry_notifications
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
    ... on MarkNotificationsReadSuccess { notifications { id kind readAt } } ... on NotificationNotFoundError { notificationId } } }"""
SET = """mutation($input: SetLowBalanceThresholdInput!) { setLowBalanceThreshold(input: $input) { __typename
    ... on SetLowBalanceThresholdSuccess { replayed account { lowBalanceThreshold } balance { status version } }
    ... on UserError { message } } }"""
FOLLOW = "subscription { notifications { id kind } }"


async def notifications(api: Api, viewer: Any = ALICE, **variables: Any) -> list[Any]:
    found = await api.data(viewer, LIST, **variables)
    return [edge["node"] for edge in found["account"]["notifications"]["edges"]]


async def kinds(api: Api, **variables: Any) -> list[str]:
    return [notice["kind"] for notice in await notifications(api, **variables)]


async def spend(credits: int, rate_cards: RateCardCache) -> None:
    """Ten credits at a time, out of one task."""
    task = await start_task("alice")
    runs = [block_run_request(task) for _ in range(credits // 10)]
    await charge_many([(task.account_id, run) for run in runs], rate_cards)


async def tick(agent_id: str, task_id: str | None = None) -> None:
    """A scheduled run that finds no credits."""
    asked = StartTaskRequest(
        task_id=task_id or unique_id("tick"),
        owner_id="alice",
        agent_id=agent_id,
        trigger=TaskTrigger.SCHEDULED,
        actor="service:scheduler",
    )
    with pytest.raises(InsufficientCredits):
        await lifecycle.start_task(asked)


async def set_threshold(api: Api, credits: int, key: str = "key-1", viewer: Any = ALICE, **more: Any) -> Any:
    asked = {"credits": credits, "idempotencyKey": key} | more
    return (await api.data(viewer, SET, input=asked))["setLowBalanceThreshold"]


async def test_a_balance_that_falls_below_its_threshold_is_told_once_at_each_fall(
    api: Api, rate_cards: RateCardCache
) -> None:
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


async def test_setting_a_threshold_is_no_fall_and_one_that_no_longer_binds_clears(
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


async def test_an_empty_account_and_each_agent_that_it_stopped_are_told_until_credits_come(
    api: Api, rate_cards: RateCardCache
) -> None:
    await grant_credits("alice", 25)
    await spend(20, rate_cards)
    for agent in ("writer", "writer", "painter"):
        task = await start_task("alice", agent_id=agent)
        await charge_many([(task.account_id, block_run_request(task))], rate_cards)
    told = [(notice["kind"], notice["agentId"]) for notice in await notifications(api, unread=True)]
    assert told == [("OUT_OF_CREDITS", "painter"), ("OUT_OF_CREDITS", "writer")]
    await grant_credits("alice", 500)
    assert await kinds(api, unread=True) == []


async def test_skipped_schedules_are_told_once_per_agent_however_often_they_tick(api: Api) -> None:
    for _ in range(3):
        await tick("writer")
        await tick("painter")
    assert sorted((n["kind"], n["agentId"]) for n in await notifications(api)) == [
        ("SCHEDULE_SKIPPED", "painter"),
        ("SCHEDULE_SKIPPED", "writer"),
    ]
    skipped = await api.data(ALICE, '{ agent(agentId: "writer") { skippedStarts { edges { node { reason } } } } }')
    assert [edge["node"]["reason"] for edge in skipped["agent"]["skippedStarts"]["edges"]] == ["OUT_OF_CREDITS"] * 3
    await grant_credits("alice", 10)
    assert await kinds(api, unread=True) == []


async def test_credits_about_to_expire_are_told_once_for_each_step_by_whoever_looks(api: Api) -> None:
    now = datetime.now(UTC)
    await grant_credits("alice", 10, expires_at=now + timedelta(days=5))
    await grant_credits("alice", 20, expires_at=now + timedelta(days=20))
    await grant_credits("alice", 40, expires_at=now + timedelta(days=60))
    assert sum(await asyncio.gather(*(expiry_notifications.notify_expiring_grants((30, 7, 1)) for _ in range(4)))) == 2
    assert await expiry_notifications.notify_expiring_grants((30, 7, 1)) == 0
    texts = sorted(notice["message"].split(" will ")[0] for notice in await notifications(api))
    assert texts == ["10 credits", "20 credits"]
    await grant_credits("alice", 1_000)
    assert await kinds(api, unread=True) == ["EXPIRING", "EXPIRING"]
    assert await expiry_notifications.notify_expiring_grants((90,)) == 3


async def test_notices_are_marked_by_their_owner_a_service_or_an_operator(api: Api) -> None:
    for agent in ("a", "b", "c"):
        await tick(agent)
    newest, *_, oldest = [notice["id"] for notice in await notifications(api)]
    marked = (await api.data(ALICE, MARK, input={"notificationIds": [oldest]}))["markNotificationsRead"][
        "notifications"
    ]
    assert [one["id"] for one in marked] == [oldest]
    assert marked[0]["readAt"] is not None
    again = (await api.data(ALICE, MARK, input={"notificationIds": [oldest]}))["markNotificationsRead"]["notifications"]
    assert again == marked
    assert newest in [notice["id"] for notice in await notifications(api, unread=True)]
    for viewer, asked in ((BOB, {"notificationIds": [newest]}), (ALICE, {"notificationIds": ["nonsense"]})):
        answer = (await api.data(viewer, MARK, input=asked))["markNotificationsRead"]
        assert answer["__typename"] == "NotificationNotFoundError"
    code, _ = await api.error(BOB, MARK, input={"ownerId": "alice"})
    assert code == "FORBIDDEN"
    assert (
        len((await api.data(SERVICE, MARK, input={"ownerId": "alice"}))["markNotificationsRead"]["notifications"]) == 2
    )
    assert await kinds(api, unread=True) == []
    assert (await api.data(OPERATOR, MARK, input={"ownerId": "alice"}))["markNotificationsRead"]["notifications"] == []


async def test_notices_come_in_pages_and_are_nodes_of_their_owner_alone(api: Api) -> None:
    for agent in ("a", "b", "c"):
        await tick(agent)
    first = (await api.data(ALICE, LIST, first=2))["account"]["notifications"]
    rest = (await api.data(ALICE, LIST, first=2, after=first["pageInfo"]["endCursor"]))["account"]["notifications"]
    agents = [edge["node"]["agentId"] for edge in (*first["edges"], *rest["edges"])]
    assert agents == ["c", "b", "a"]
    assert (first["pageInfo"]["hasNextPage"], rest["pageInfo"]["hasNextPage"]) == (True, False)
    query = "query($id: ID!) { node(id: $id) { ... on Notification { agentId } } }"
    named = first["edges"][0]["node"]["id"]
    assert (await api.data(ALICE, query, id=named))["node"] == {"agentId": "c"}
    assert (await api.data(BOB, query, id=named))["node"] is None


async def test_a_follower_gets_the_unread_ones_and_then_each_new_one_once(api: Api) -> None:
    followed = api.subscribe(ALICE, FOLLOW)
    waiting = asyncio.ensure_future(anext(followed))  # before there is an account
    await asyncio.sleep(0.1)
    await tick("a")
    async with asyncio.timeout(10):
        got = [(await waiting)["data"]["notifications"]["id"]]
        await tick("b")
        await tick("a")
        await tick("c")
        got += [(await anext(followed))["data"]["notifications"]["id"] for _ in range(2)]
    await followed.aclose()
    assert got == [notice["id"] for notice in reversed(await notifications(api))]
    later = api.subscribe(ALICE, FOLLOW)
    async with asyncio.timeout(10):
        assert [(await anext(later))["data"]["notifications"]["id"] for _ in range(3)] == got
    await later.aclose()
