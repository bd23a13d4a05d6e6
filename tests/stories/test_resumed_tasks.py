"""After a top-up stopped tasks are resumed where they stopped, and nothing is charged twice."""

import asyncio
from asyncio import gather
from typing import Any

import asyncpg
import pytest

from tests.factories import unique_id
from tests.soak import sized
from tests.stories.conftest import Platform, pushed, successes
from tests.stories.operations import SIGNALS

pytestmark = pytest.mark.anyio

STOPS = sized(4, soak=10)
"""Stops of each task."""

WAITING = """{ account { balance { available }
    resumableTasks { edges { node { shortfall required task { taskId status stopReason } } } } } }"""
# Tasks that are running and stopped at once, and tasks whose cost differs from their entries.
CONTRADICTIONS = """
    SELECT count(*) FROM task AS t JOIN account AS a ON a.id = t.account_id WHERE a.owner_id = $1 AND (
        (t.status = 'STOPPED') <> (t.stop_reason IS NOT NULL)
        OR (t.status = 'RUNNING' AND (t.shortfall IS NOT NULL OR t.required IS NOT NULL))
        OR t.steps <> (SELECT count(*) FROM block_run AS b WHERE b.account_id = a.id AND b.task_id = t.task_id)
        OR t.charged <> (SELECT coalesce(-sum(e.credits), 0) FROM entry AS e
                         WHERE e.account_id = a.id AND e.task_id = t.task_id AND e.kind = 'CHARGE'))
"""


async def waiting(platform: Platform) -> dict[str, Any]:
    """The resumable tasks of the user, by task id."""
    edges = (await platform.ask("user", WAITING))["account"]["resumableTasks"]["edges"]
    return {edge["node"]["task"]["taskId"]: edge["node"] for edge in edges}


async def test_a_user_tops_up_and_resumes_the_stopped_task(platform: Platform) -> None:
    await platform.grant("alice", 30)
    task, unwanted = await platform.start("alice"), await platform.start("alice")
    done, refused = unique_id("run"), unique_id("run")
    first = await platform.charge(task, done)
    rest = (await platform.balance("alice"))["available"]
    await platform.charge(unwanted, unique_id("run"), items=rest)
    assert (await platform.charge(task, refused, items=400))["shortfall"] == 400
    assert (await platform.charge(unwanted, unique_id("run")))["shortfall"] == 10
    async with platform.subscribed("service", SIGNALS, owners=["alice"]) as executor:
        assert (await pushed(executor, "taskSignals"))["taskIds"] is None
        assert set((await pushed(executor, "taskSignals"))["taskIds"]) == {task, unwanted}

        found = await waiting(platform)
        assert (found[task]["shortfall"], found[task]["required"]) == (400, 400)
        assert (found[unwanted]["shortfall"], found[unwanted]["task"]["stopReason"]) == (10, "OUT_OF_CREDITS")
        assert await platform.resume(task) == {
            "__typename": "InsufficientCreditsError", "required": 1, "available": 0, "shortfall": 1,
        }  # fmt: skip
        cancelled = await platform.done("cancelTask", "user", taskId=unwanted)
        assert (cancelled["task"]["status"], set(await waiting(platform))) == ("CANCELLED", {task})

        await platform.top_up(500)
        received = await pushed(executor, "taskSignals")
        assert (received["kind"], received["taskIds"], received["reason"]) == ("RESUME", None, None)
        resumed = await platform.done("resumeTask", "user", taskId=task)
        assert (resumed["task"]["status"], await waiting(platform)) == ("RUNNING", {})
        assert (await pushed(executor, "taskSignals"))["taskIds"] == [task]
        assert await platform.do("resumeTask", "user", taskId=unwanted) == {
            "__typename": "TaskEndedError", "status": "CANCELLED",
        }  # fmt: skip

        replay = await platform.charge(task, done)
        assert (replay["replayed"], replay["entry"]) == (True, first["entry"])
        paid = await platform.charge(task, refused, items=400)
        assert (paid["replayed"], paid["task"]["cost"]["total"], paid["balance"]["available"]) == (False, 410, 100)
    await platform.done("finishTask", taskId=task, status="COMPLETED")
    await platform.audited("alice")


async def an_executor(platform: Platform, owner: str, task: str) -> tuple[int, int, list[str]]:
    """Block runs one after the other, each sent twice concurrently, until the task was stopped and resumed STOPS times.

    Returns: how often it was stopped, the credits granted for it, its block runs.
    """
    stops, granted, runs = 0, 0, list[str]()
    while stops < STOPS:
        runs.append(unique_id("run"))
        while not (paid := successes(answers := await gather(*(platform.charge(task, runs[-1]) for _ in range(2))))):
            kinds = sorted(answer["__typename"] for answer in answers)
            assert kinds == ["InsufficientCreditsError", "TaskStoppedError"]
            stops += 1
            granted += await grant_and_resume(platform, owner, task)
        assert sorted(answer["replayed"] for answer in paid) == [False, True]
        assert paid[0]["entry"] == paid[1]["entry"]
    return stops, granted, runs


async def grant_and_resume(platform: Platform, owner: str, task: str) -> int:
    """Grant credits and resume the task twice concurrently: it is resumed once. Others may spend the credits first.

    Returns: the credits granted.
    """
    granted = 0
    while True:
        await platform.grant(owner, 10)
        granted += 10
        kinds = {answer["__typename"] for answer in await gather(*(platform.resume(task) for _ in range(2)))}
        if kinds != {"InsufficientCreditsError"}:
            assert kinds in (
                {"ResumeTaskSuccess", "TaskNotStoppedError"},
                {"ResumeTaskSuccess", "InsufficientCreditsError"},
            )
            return granted


async def test_tasks_are_stopped_topped_up_and_resumed_many_times_under_load(
    platform: Platform, snapshots: asyncpg.Connection
) -> None:
    owner = unique_id("story")
    await platform.grant(owner, 1)
    tasks = [await platform.start(owner) for _ in range(10)]
    over = asyncio.Event()

    async def contradictions() -> int:
        looks = 0
        while not over.is_set():
            assert await snapshots.fetchval(CONTRADICTIONS, owner) == 0
            looks += 1
        return looks

    async def all_of_them() -> list[tuple[int, int, list[str]]]:
        try:
            return list(await gather(*(an_executor(platform, owner, task) for task in tasks)))
        finally:
            over.set()

    done, looks = await gather(all_of_them(), contradictions())

    assert looks > 10
    runs = [run for _, _, some in done for run in some]
    assert sum(stops for stops, _, _ in done) >= 10 * STOPS
    assert len(set(runs)) == len(runs)
    charged = await snapshots.fetch(
        "SELECT block_run_id, count(*) AS times, sum(-credits)::bigint AS credits FROM entry"
        " WHERE block_run_id = ANY($1::text[]) AND kind = 'CHARGE' GROUP BY block_run_id", runs,
    )  # fmt: skip
    assert sorted(tuple(row) for row in charged) == sorted((run, 1, 10) for run in runs)
    for task, (_, _, some) in zip(tasks, done, strict=True):
        state = await platform.task(task)
        assert (state["status"], state["stopReason"], state["blockRunCount"]) == ("RUNNING", None, len(some))
        assert state["cost"]["total"] == 10 * len(some)
    assert (await platform.balance(owner))["available"] == 1 + sum(granted for _, granted, _ in done) - 10 * len(runs)
    await platform.audited(owner)
