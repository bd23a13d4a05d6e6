"""Schedules: with nothing available a tick is skipped, told once, and nothing exists that could fail."""

from asyncio import gather
from typing import Any

import pytest

from tests.factories import unique_id
from tests.stories.conftest import Platform

pytestmark = pytest.mark.anyio

CAN_RUN = "canRun { ok reason }"


async def tick(platform: Platform, owner: str, task: str, agent: str = "agent") -> Any:
    """What a scheduler asks for when an agent is due."""
    return await platform.do("startTask", taskId=task, ownerId=owner, agentId=agent, trigger="SCHEDULED")


async def skipped(platform: Platform, owner: str, agent: str = "agent") -> list[tuple[str, str]]:
    """The agent's skipped ticks, newest first."""
    query = """query($owner: ID!, $agent: ID!) { agent(agentId: $agent, ownerId: $owner) {
        skippedStarts { edges { node { taskId reason } } } } }"""
    found = (await platform.ask("service", query, owner=owner, agent=agent))["agent"]
    return [(edge["node"]["taskId"], edge["node"]["reason"]) for edge in found["skippedStarts"]["edges"]]


async def notifications(platform: Platform, owner: str) -> list[tuple[str, bool]]:
    """For which agents it was told that ticks are skipped, newest first, and whether that still holds."""
    found = await platform.account(owner, "notifications { edges { node { kind agentId resolvedAt } } }")
    return [
        (edge["node"]["agentId"], edge["node"]["resolvedAt"] is None)
        for edge in found["notifications"]["edges"]
        if edge["node"]["kind"] == "SCHEDULE_SKIPPED"
    ]


async def test_a_schedule_without_credits_is_skipped_until_a_top_up(
    workers: tuple[Platform, Platform],
) -> None:
    here, there = workers
    owner = unique_id("story")
    await here.grant(owner, 10)
    assert await there.account(owner, CAN_RUN) == {"canRun": {"ok": True, "reason": None}}
    first = unique_id("tick")
    assert (await tick(here, owner, first))["task"]["status"] == "RUNNING"
    await here.charge(first, unique_id("run"))
    assert await there.account(owner, CAN_RUN) == {"canRun": {"ok": False, "reason": "OUT_OF_CREDITS"}}

    ticks = [unique_id("tick") for _ in range(10)]
    before = await here.balance(owner)
    told = [await tick(platform, owner, one) for platform, one in zip((here, there) * 5, ticks, strict=True)]
    assert told == [{"__typename": "InsufficientCreditsError", "required": 1, "available": 0, "shortfall": 1}] * 10
    assert (await tick(there, owner, ticks[0]))["__typename"] == "InsufficientCreditsError"  # and is skipped once
    await tick(there, owner, unique_id("tick"), agent="another")
    assert await skipped(here, owner) == [(one, "OUT_OF_CREDITS") for one in reversed(ticks)]
    assert [await here.task(one) for one in ticks] == [None] * 10
    assert await here.balance(owner) == before
    assert await notifications(here, owner) == [("another", True), ("agent", True)]

    await here.grant(owner, 100)
    assert await there.account(owner, CAN_RUN) == {"canRun": {"ok": True, "reason": None}}
    assert await notifications(here, owner) == [("another", False), ("agent", False)]
    assert (await tick(there, owner, unique_id("tick")))["task"]["status"] == "RUNNING"
    assert (await tick(here, owner, ticks[-1]))["task"]["status"] == "RUNNING"  # asked for again, it runs now
    await here.audited(owner)


async def test_an_owner_who_never_had_credits_has_its_ticks_skipped_too(platform: Platform) -> None:
    owner, one = unique_id("story"), unique_id("tick")
    told = await gather(*(tick(platform, owner, one) for _ in range(6)))
    assert {answer["__typename"] for answer in told} == {"InsufficientCreditsError"}
    assert await skipped(platform, owner) == [(one, "OUT_OF_CREDITS")]
    assert await platform.task(one) is None
    by_hand = await platform.do("startTask", taskId=unique_id("task"), ownerId=owner, agentId="agent")
    assert by_hand["__typename"] == "InsufficientCreditsError"
    assert len(await skipped(platform, owner)) == 1
