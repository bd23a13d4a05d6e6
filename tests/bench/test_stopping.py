"""How long it takes to be told to stop: what is counted, and how it is told."""

import asyncio
import time
from typing import Any

import pytest

from bench import scenarios
from bench.charges import Failed
from bench.stopping import Delays, Executor

pytestmark = pytest.mark.anyio


def a_message(kind: str, owner_id: str) -> Any:
    signal = {"kind": kind, "ownerId": owner_id, "taskIds": None}
    return {"id": "1", "type": "next", "payload": {"data": {"taskSignals": signal}}}


async def test_the_first_stop_of_an_owner_counts_and_nobody_elses() -> None:
    executor = Executor({name: asyncio.get_running_loop().create_future() for name in ("one", "two")})
    before = time.perf_counter()

    for kind, owner in (("RESUME", "one"), ("STOP", "three"), ("STOP", "one"), ("RESUME", "two"), ("STOP", "one")):
        executor.take(a_message(kind, owner), at=time.perf_counter())

    first = await executor.stopped("one")
    assert before < first < time.perf_counter()
    assert not executor.told["two"].done()
    for wrong in ({"type": "error", "payload": []}, {"type": "next", "payload": {"errors": [{}]}}):
        with pytest.raises(Failed):
            executor.take(wrong, at=0.0)


def test_delays_are_told_by_their_median_and_their_worst() -> None:
    delays = Delays(title="servers idle", milliseconds=[7.0, 30.26, 8.14, 9.0])

    assert (delays.median_ms, delays.worst_ms) == (8.57, 30.26)
    assert delays.said == "servers idle: median 8.6 ms, worst 30.3 ms of 4"


def test_every_account_is_emptied_once() -> None:
    idle, busy = (scenarios.stop_numbers(busy=busy) for busy in (False, True))

    assert len(idle) == len(busy) == scenarios.STOPS + scenarios.STOP_REHEARSALS == 105
    assert len({scenarios.stop_owner(number) for number in (*idle, *busy)}) == 210
    assert scenarios.stop_task(7) == "task-of-stop-007"
