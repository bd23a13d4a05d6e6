"""Holds over the API: placing, capture, void and expiry, with concurrent callers on two workers."""

import random
from asyncio import gather, sleep, timeout
from typing import Any

import pytest

from tests.factories import unique_id
from tests.graphql_client import subscribe
from tests.stories.conftest import Platform, pushed
from tests.stories.operations import SIGNALS

pytestmark = pytest.mark.anyio


async def funded(platform: Platform, credits: int) -> tuple[str, str]:
    """An owner with these credits, and a running task."""
    owner = unique_id("story")
    await platform.grant(owner, credits)
    return owner, await platform.start(owner)


async def state_of(platform: Platform, owner: str, block_run: str) -> Any:
    """The hold of a block run, read over the API."""
    found = await platform.account(
        owner, "holds(first: 100, openOnly: false) { edges { node { blockRunId status captured remaining closedAt } } }"
    )
    return next(edge["node"] for edge in found["holds"]["edges"] if edge["node"]["blockRunId"] == block_run)


async def test_held_credits_are_unavailable_until_the_capture_releases_the_rest(platform: Platform) -> None:
    owner, task = await funded(platform, 50)
    other, run, void = await platform.start(owner), unique_id("run"), unique_id("run")

    held = await platform.hold(task, run, 30)
    assert held["hold"] == {
        "blockRunId": run, "credits": 30, "captured": 0, "remaining": 30, "priced": None, "status": "OPEN",
    }  # fmt: skip
    assert held["balance"] == {"available": 20, "posted": 50, "held": 30, "version": 2}
    assert (await platform.task(task))["cost"] | {"version": 0} == {
        "total": 0, "charged": 0, "reversed": 0, "held": 30, "version": 0,
    }  # fmt: skip
    assert await platform.charge(other, unique_id("run"), items=21) | {"__typename": ""} == {
        "__typename": "", "required": 21, "available": 20, "shortfall": 1,
    }  # fmt: skip
    over = await platform.capture(task, run, 31)
    assert over == {"__typename": "HoldExceededError", "required": 31, "held": 30, "shortfall": 1}

    captured = await platform.capture(task, run, 12)
    assert (captured["cost"], captured["balance"]["available"], captured["balance"]["held"]) == (12, 38, 0)
    again = await platform.capture(task, run, 12)
    assert again == captured | {"replayed": True}
    assert (await platform.hold(task, run, 30))["replayed"] is True

    assert (await platform.hold(task, void, 38))["balance"]["available"] == 0
    voided = await platform.void(task, void)
    assert (voided["hold"]["status"], voided["balance"]["available"]) == ("VOIDED", 38)
    assert await platform.void(task, void) == voided | {"replayed": True}
    assert await platform.capture(task, void, 1) == {
        "__typename": "HoldClosedError", "blockRunId": void, "status": "VOIDED",
    }  # fmt: skip
    assert await platform.entries(owner) == [("GRANT", 50), ("CHARGE", -12)]
    await platform.audited(owner)


async def test_a_hold_that_is_not_captured_expires_on_time(platform: Platform) -> None:
    owner, task = await funded(platform, 40)
    run = unique_id("run")
    await platform.hold(task, run, 40, timeout_seconds=1)
    query = "balance { available asOf } holds(openOnly: false) { edges { node { status expiresAt closedAt } } }"

    seen = [await platform.account(owner, query)]
    async with timeout(5):
        while seen[-1]["balance"]["available"] == 0:
            seen.append(await platform.account(owner, query))

    *before, after = seen
    assert before
    [hold] = [edge["node"] for edge in after["holds"]["edges"]]
    assert (hold["status"], hold["closedAt"]) == ("EXPIRED", hold["expiresAt"])
    assert all(one["balance"]["asOf"] < hold["expiresAt"] for one in before)
    assert hold["expiresAt"] <= after["balance"]["asOf"]
    for late in (await platform.capture(task, run, 1), await platform.void(task, run)):
        assert late == {"__typename": "HoldClosedError", "blockRunId": run, "status": "EXPIRED"}
    assert (await platform.charge(task, unique_id("run"), items=40))["cost"] == 40
    await platform.audited(owner)


async def test_of_concurrent_captures_voids_and_expiries_one_wins(platform: Platform) -> None:
    chance = random.Random(1)  # noqa: S311  an order, no secret
    owner, task = await funded(platform, 200)
    runs = [unique_id("run") for _ in range(8)]

    async def one(run: str, call: str, after_seconds: float) -> Any:
        await sleep(after_seconds)
        return await (platform.void(task, run) if call == "void" else platform.capture(task, run, 20))

    async def meet(place: int, run: str) -> list[tuple[str, Any]]:
        """Fifty calls for one hold: for some holds at once, for others about the time of expiry."""
        calls = ["void"] * 25 + ["capture"] * 25
        chance.shuffle(calls)
        begin, timeout_seconds = ((0.0, 10), (0.9, 1), (0.97, 1), (1.1, 1))[place % 4]
        held = await platform.hold(task, run, 25, timeout_seconds=timeout_seconds)
        assert held["__typename"] == "PlaceHoldSuccess"
        results = await gather(*(one(run, call, begin + chance.random() * 0.1) for call in calls))
        return list(zip(calls, results, strict=True))

    ends = await gather(*(meet(place, run) for place, run in enumerate(runs)))

    charged = 0
    statuses = []
    for run, results in zip(runs, ends, strict=True):
        hold = await state_of(platform, owner, run)
        status = hold["status"]
        statuses.append(status)
        refused = {"__typename": "HoldClosedError", "blockRunId": run, "status": status}
        winner = {"CAPTURED": "capture", "VOIDED": "void", "EXPIRED": "expiry"}[status]
        won = [answer for call, answer in results if call == winner]
        assert all(answer == refused for call, answer in results if call != winner)
        assert sorted(answer["replayed"] for answer in won) == ([False] + [True] * 24 if won else [])
        assert all(answer["hold"] == won[0]["hold"] for answer in won)
        if winner == "capture":
            assert {(answer["cost"], answer["entry"]["mac"]) for answer in won} == {(20, won[0]["entry"]["mac"])}
            charged += 20
        assert (hold["captured"], hold["remaining"]) == (20 if winner == "capture" else 0, 0)
        retried = [await platform.capture(task, run, 20), await platform.void(task, run)]
        assert [one["__typename"] for one in retried].count("HoldClosedError") == (1 if won else 2)
        assert [one["replayed"] for one in retried if "replayed" in one] == ([True] if won else [])
    assert [statuses[3], statuses[7]] == ["EXPIRED", "EXPIRED"]
    assert set(statuses[0::4]) <= {"CAPTURED", "VOIDED"}
    assert (await platform.task(task))["cost"]["total"] == charged
    assert await platform.account(owner, "balance { available held }") == {
        "balance": {"available": 200 - charged, "held": 0}
    }
    await platform.audited(owner)


async def test_a_task_that_holds_the_last_credits_gets_no_stop_signal(
    workers: tuple[Platform, Platform],
) -> None:
    here, there = workers
    owner, task = await funded(here, 30)
    other, run = await there.start(owner), unique_id("run")
    async with there.connected("service") as executor:
        await subscribe(executor, SIGNALS, owners=[owner])
        assert (await here.hold(task, run, 30))["balance"]["available"] == 0

        # The signal concerns all tasks without a hold; of the replies, only those of such tasks have it.
        stop = await pushed(executor, "taskSignals")
        assert (stop["kind"], stop["taskIds"], stop["reason"]) == ("STOP", None, "OUT_OF_CREDITS")
        mine = await here.charge(task, unique_id("run"), block="NoteBlock")
        others = await there.charge(other, unique_id("run"), block="NoteBlock")
        assert (mine["signal"], mine["cost"], others["signal"], others["cost"]) == (None, 0, "STOP", 0)
        assert [(await there.task(one))["status"] for one in (task, other)] == ["RUNNING", "RUNNING"]

        assert (await there.capture(task, run, 25))["balance"]["available"] == 5
        go_on = await pushed(executor, "taskSignals")
        assert (go_on["kind"], go_on["taskIds"], go_on["version"] > stop["version"]) == ("RESUME", None, True)
    await here.audited(owner)
