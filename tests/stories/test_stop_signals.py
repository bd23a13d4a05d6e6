"""Running out of credits under load: exactly what is paid for runs, and executors on all workers receive signals."""

import asyncio
import json
from asyncio import gather
from collections import Counter
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from websockets.asyncio.client import ClientConnection

from tests.factories import unique_id
from tests.graphql_client import subscribe
from tests.stories.conftest import Platform, pushed, successes
from tests.stories.operations import SIGNALS

pytestmark = pytest.mark.anyio

COSTS_AND_ENTRIES = """
    SELECT t.task_id, t.charged - t.reversed AS cost, t.version,
           (SELECT coalesce(-sum(e.credits), 0) FROM entry AS e
            WHERE e.account_id = t.account_id AND e.task_id = t.task_id)::bigint AS entries,
           (SELECT coalesce(sum(e.credits), 0) FROM entry AS e WHERE e.account_id = t.account_id)::bigint AS posted,
           a.posted AS shown, a.posted - a.held - a.frozen AS available
    FROM account AS a JOIN task AS t ON t.account_id = a.id WHERE a.owner_id = $1
"""


async def signal(socket: ClientConnection) -> dict[str, Any]:
    """The next signal."""
    return dict(await pushed(socket, "taskSignals"))


async def test_of_200_block_runs_with_credits_for_100_exactly_100_run(
    platform: Platform, workers: tuple[Platform, Platform], snapshots: asyncpg.Connection
) -> None:
    owner, reader = unique_id("story"), workers[0]
    await platform.grant(owner, 1_000)
    tasks = [await platform.start(owner) for _ in range(20)]
    runs = [(task, unique_id("run")) for _ in range(10) for task in tasks]
    over = asyncio.Event()
    ask = """query($owner: ID!, $tasks: [ID!]!) { tasks(taskIds: $tasks) { taskId cost { charged reversed version } }
        account(ownerId: $owner) { balance { available posted held version } } }"""
    charges = "entries(first: 100, kinds: [CHARGE]) { edges { node { credits task { taskId } } } }"

    async def in_one_snapshot() -> int:
        """Reads of consistent snapshots. Returns how many of them found a change."""
        seen = set()
        while not over.is_set():
            for row in await snapshots.fetch(COSTS_AND_ENTRIES, owner):
                assert row["cost"] == row["entries"]
                assert row["shown"] == row["posted"]
                assert row["available"] >= 0
                seen.add(row["posted"])
        return len(seen)

    async def as_a_client() -> int:
        """Read costs, entries and costs again: a cost that has not changed equals its entries. Returns how often."""
        compared = 0
        last = False
        while not last:
            last = over.is_set()
            before = await reader.ask("service", ask, owner=owner, tasks=tasks)
            edges = (await reader.account(owner, charges))["entries"]["edges"]
            after = await reader.ask("service", ask, owner=owner, tasks=tasks)
            sums: Counter[str] = Counter()
            for edge in edges:
                sums[edge["node"]["task"]["taskId"]] -= edge["node"]["credits"]
            for one, two in zip(before["tasks"], after["tasks"], strict=True):
                low, high = (task["cost"]["charged"] - task["cost"]["reversed"] for task in (one, two))
                assert low <= sums[one["taskId"]] <= high
                compared += one["cost"]["version"] == two["cost"]["version"]
            for balance in (before["account"]["balance"], after["account"]["balance"]):
                assert balance["available"] == balance["posted"] - balance["held"] >= 0
        return compared

    async def charge_all() -> list[Any]:
        try:
            return list(await gather(*(platform.charge(task, run) for task, run in runs)))
        finally:
            over.set()

    answers, moved, compared = await gather(charge_all(), in_one_snapshot(), as_a_client())

    assert moved > 1
    assert compared >= len(tasks)
    assert len(successes(answers)) == 100
    refused = Counter(answer["__typename"] for answer in answers if answer["__typename"] != "ChargeSuccess")
    assert set(refused) <= {"InsufficientCreditsError", "TaskStoppedError"}
    states = [await platform.task(task) for task in tasks]
    stopped = [state for state in states if state["status"] == "STOPPED"]
    assert len(stopped) == refused["InsufficientCreditsError"]  # each stopped by exactly one refused charge
    assert sum(state["cost"]["total"] for state in states) == 1_000
    assert sum(state["blockRunCount"] for state in states) == 100
    assert (await platform.balance(owner))["available"] == 0
    await platform.audited(owner)


async def test_two_workers_charge_the_same_block_runs_before_and_after_a_top_up(
    workers: tuple[Platform, Platform],
) -> None:
    here, there = workers
    owner, run, small = unique_id("story"), unique_id("run"), unique_id("run")
    await here.grant(owner, 15)
    task = await here.start(owner)

    once = await gather(here.charge(task, small), there.charge(task, small))
    assert sorted(answer["replayed"] for answer in once) == [False, True]
    assert once[0]["entry"] == once[1]["entry"]
    both = await gather(here.charge(task, run), there.charge(task, run))
    assert sorted(answer["__typename"] for answer in both) == ["InsufficientCreditsError", "TaskStoppedError"]
    refused = min(both, key=lambda answer: answer["__typename"])
    assert refused == {"__typename": "InsufficientCreditsError", "required": 10, "available": 5, "shortfall": 5}
    assert (await there.charge(task, small))["replayed"] is True  # independent of the task's status

    await there.grant(owner, 100)
    assert (await here.charge(task, run))["__typename"] == "TaskStoppedError"
    assert (await there.resume(task))["task"]["status"] == "RUNNING"
    both = await gather(here.charge(task, run), there.charge(task, run))
    assert sorted(answer["replayed"] for answer in both) == [False, True]
    assert both[0]["entry"] == both[1]["entry"]
    assert await here.entries(owner) == [("GRANT", 15), ("CHARGE", -10), ("GRANT", 100), ("CHARGE", -10)]
    await here.audited(owner)


async def test_executors_on_another_worker_receive_stop_and_resume_signals(workers: tuple[Platform, Platform]) -> None:
    here, there = workers
    owner = unique_id("story")
    await here.grant(owner, 20)
    one, two = [await here.start(owner) for _ in range(2)]
    async with there.connected("service") as executor, there.connected("service") as everybodys:
        await subscribe(executor, SIGNALS, owners=[owner])
        await subscribe(everybodys, SIGNALS)
        received: list[dict[str, Any]] = []

        async def next_signal() -> dict[str, Any]:
            """The next signal, which both subscribers receive with the version of the account."""
            received.append(await signal(executor))
            mine = await signal(everybodys)
            while mine["ownerId"] != owner:
                mine = await signal(everybodys)
            assert mine == received[-1]
            assert received[-1].pop("version") == (await here.balance(owner))["version"] >= len(received)
            return received[-1] | {"ownerId": ""}

        assert (await here.charge(one, unique_id("run")))["signal"] is None
        assert (await here.charge(one, unique_id("run")))["signal"] == "STOP"
        assert await next_signal() == {"kind": "STOP", "ownerId": "", "taskIds": None, "reason": "OUT_OF_CREDITS"}
        run = unique_id("run")
        assert (await here.charge(two, run))["__typename"] == "InsufficientCreditsError"
        assert await next_signal() == {"kind": "STOP", "ownerId": "", "taskIds": [two], "reason": "OUT_OF_CREDITS"}
        await here.grant(owner, 5)
        assert await next_signal() == {"kind": "RESUME", "ownerId": "", "taskIds": None, "reason": None}
        assert (await there.resume(two))["__typename"] == "ResumeTaskSuccess"
        assert await next_signal() == {"kind": "RESUME", "ownerId": "", "taskIds": [two], "reason": None}
        assert (await here.charge(two, run))["shortfall"] == 5
        assert await next_signal() == {"kind": "STOP", "ownerId": "", "taskIds": [two], "reason": "OUT_OF_CREDITS"}
        await here.grant(owner, 5)  # now the refused block run can be paid
        assert await next_signal() == {"kind": "RESUME", "ownerId": "", "taskIds": [two], "reason": None}
    await here.audited(owner)


async def test_a_subscriber_that_reconnects_first_receives_the_current_stops(
    workers: tuple[Platform, Platform],
) -> None:
    here, there = workers
    owner = unique_id("story")
    await here.grant(owner, 15)
    task, other = [await here.start(owner) for _ in range(2)]
    async with there.connected("service") as executor:
        await subscribe(executor, SIGNALS, owners=[owner])
        await here.charge(task, unique_id("run"))
        await here.charge(task, unique_id("run"))
        last = await signal(executor)
        assert (last["kind"], last["taskIds"]) == ("STOP", [task])

    # The connection is lost, and the signals sent meanwhile are missed.
    await here.grant(owner, 95)
    await gather(*(platform.charge(other, unique_id("run")) for platform in (here, there) for _ in range(5)))
    for platform in (here, there):
        async with platform.connected("service") as executor:
            await subscribe(executor, SIGNALS, owners=[owner])
            whole, named = await signal(executor), await signal(executor)
            assert (whole["kind"], whole["taskIds"], whole["reason"]) == ("STOP", None, "OUT_OF_CREDITS")
            assert (named["kind"], named["taskIds"], named["reason"]) == ("STOP", [task], "OUT_OF_CREDITS")
            assert last["version"] < whole["version"] == named["version"] == (await here.balance(owner))["version"]
            await here.grant(owner, 1)
            assert (await signal(executor))["kind"] == "RESUME"
            await here.charge(other, unique_id("run"), items=1)
            assert (await signal(executor))["kind"] == "STOP"


async def test_signal_versions_never_fall_under_rapid_changes(
    workers: tuple[Platform, Platform],
) -> None:
    here, there = workers
    owner = unique_id("story")
    await here.grant(owner, 10)
    task = await here.start(owner)
    async with there.connected("service") as executor:
        await subscribe(executor, SIGNALS, owners=[owner])
        for _ in range(10):
            await gather(here.charge(task, unique_id("run")), there.grant(owner, 10), there.resume(task))
            await gather(here.grant(owner, 10), there.charge(task, unique_id("run")), here.resume(task))
        while (await here.balance(owner))["available"]:
            answer = await here.charge(task, unique_id("run"))
            if answer["__typename"] != "ChargeSuccess":
                await here.resume(task)
        final = (await here.balance(owner))["version"]
        seen = [await signal(executor)]
        while seen[-1]["version"] < final:
            seen.append(await signal(executor))
    versions = [one["version"] for one in seen]
    assert versions == sorted(versions)
    assert (versions[-1], seen[-1]["kind"]) == (final, "STOP")
    whole = [one["kind"] for one in seen if one["taskIds"] is None]
    assert ("STOP", "STOP") not in pairwise(whole), seen


async def test_signals_are_for_services(platform: Platform) -> None:
    async with platform.subscribed("user", SIGNALS, owners=["alice"]) as socket:
        message = json.loads(await socket.recv())
    assert (message["type"], message["payload"][0]["extensions"]["code"]) == ("error", "FORBIDDEN")
