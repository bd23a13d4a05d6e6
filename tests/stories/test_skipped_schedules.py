"""Scheduled tasks that start with nothing available are skipped, with one notification per agent."""

from typing import Any

import pytest

from tests.factories import unique_id
from tests.stories.conftest import Platform

pytestmark = pytest.mark.anyio

CAN_RUN = "canRun { ok reason }"


async def tick(platform: Platform, owner: str, task: str, agent: str = "agent") -> Any:
    """Start a scheduled task, as a scheduler does."""
    return await platform.do("startTask", taskId=task, ownerId=owner, agentId=agent, trigger="SCHEDULED")


async def skipped(platform: Platform, owner: str, agent: str = "agent") -> list[tuple[str, str]]:
    """The skipped starts of the agent, newest first: (task id, reason)."""
    query = """query($owner: ID!, $agent: ID!) { agent(agentId: $agent, ownerId: $owner) {
        skippedStarts { edges { node { taskId reason } } } } }"""
    found = (await platform.ask("service", query, owner=owner, agent=agent))["agent"]
    return [(edge["node"]["taskId"], edge["node"]["reason"]) for edge in found["skippedStarts"]["edges"]]


async def notifications(platform: Platform, owner: str) -> list[tuple[str, bool]]:
    """The SCHEDULE_SKIPPED notifications, newest first: (agent id, whether it is unresolved)."""
    found = await platform.account(owner, "notifications { edges { node { kind agentId resolvedAt } } }")
    return [
        (edge["node"]["agentId"], edge["node"]["resolvedAt"] is None)
        for edge in found["notifications"]["edges"]
        if edge["node"]["kind"] == "SCHEDULE_SKIPPED"
    ]


async def test_scheduled_tasks_are_skipped_until_credits_are_added(
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
    answers = [await tick(platform, owner, one) for platform, one in zip((here, there) * 5, ticks, strict=True)]
    assert answers == [{"__typename": "InsufficientCreditsError", "required": 1, "available": 0, "shortfall": 1}] * 10
    assert (await tick(there, owner, ticks[0]))["__typename"] == "InsufficientCreditsError"  # recorded once
    await tick(there, owner, unique_id("tick"), agent="another")
    assert await skipped(here, owner) == [(one, "OUT_OF_CREDITS") for one in reversed(ticks)]
    assert [await here.task(one) for one in ticks] == [None] * 10
    assert await here.balance(owner) == before
    assert await notifications(here, owner) == [("another", True), ("agent", True)]

    await here.grant(owner, 100)
    assert await there.account(owner, CAN_RUN) == {"canRun": {"ok": True, "reason": None}}
    assert await notifications(here, owner) == [("another", False), ("agent", False)]
    assert (await tick(there, owner, unique_id("tick")))["task"]["status"] == "RUNNING"
    assert (await tick(here, owner, ticks[-1]))["task"]["status"] == "RUNNING"  # the same id can start now
    await here.audited(owner)
