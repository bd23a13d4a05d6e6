"""Charges at a steady rate, whatever the server's answers take: the clock says when each is sent."""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import Any, Final, Self, cast

from bench import scenarios
from bench.load import is_whole

CONNECTIONS: Final = 64
"""A charge that finds none free waits for one; that wait is counted."""
ANSWER_SECONDS: Final = 30


class Unpaced(Exception):
    """A charge was refused, or not answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """What to send: charges of random tasks `{load}-000000` to the last of `tasks`. `run` begins all block run ids."""

    port: int
    key: str
    load: str
    tasks: int
    run: str
    per_second: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Charge:
    """One that was acknowledged: whose (the task's number), when, and the balance's version that it made."""

    place: int
    sent_at: float
    answered_at: float
    version: int


class Caller(asyncio.Protocol):
    """One connection, for one request at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._received = b""
        self._reply: asyncio.Future[bytes] | None = None

    @classmethod
    async def connected(cls, port: int) -> Self:
        _, caller = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return caller

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own does not descend from it

    def data_received(self, data: bytes) -> None:
        self._received += data
        if is_whole(self._received) and self._reply is not None and not self._reply.done():
            self._reply.set_result(self._received)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(Unpaced(f"the server closed the connection: {exc}"))

    async def ask(self, request: bytes) -> Any:
        """The reply's JSON. Raises: Unpaced. TimeoutError."""
        self._received = b""
        self._reply = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        async with asyncio.timeout(ANSWER_SECONDS):
            reply = await self._reply
        return json.loads(reply.partition(b"\r\n\r\n")[2])


def asking(key: str, document: str, variables: dict[str, Any]) -> bytes:
    """The bytes of a GraphQL request."""
    body = json.dumps({"query": document, "variables": variables}).encode()
    head = (
        "POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def charge_steadily(plan: Steady) -> list[Charge]:
    """Send them all and wait for every answer. Raises: Unpaced: one was not admitted."""
    free: asyncio.Queue[Caller] = asyncio.Queue()
    callers = [await Caller.connected(plan.port) for _ in range(CONNECTIONS)]
    for caller in callers:
        free.put_nowait(caller)
    chance = random.Random(plan.run)  # noqa: S311  spreads the load, and the same way each time
    count = max(round(plan.per_second * plan.seconds), 1)
    begun = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            sent = []
            for number in range(count):
                await asyncio.sleep(begun + number / plan.per_second - time.perf_counter())
                sent.append(group.create_task(_charge(plan, chance.randrange(plan.tasks), number, free)))
    except* (Unpaced, TimeoutError) as faults:
        raise Unpaced(f"charges at a steady rate failed: {faults.exceptions[0]!r}") from None
    finally:
        for caller in callers:
            caller.transport.close()
    return [task.result() for task in sent]


async def _charge(plan: Steady, place: int, number: int, free: asyncio.Queue[Caller]) -> Charge:
    item = {
        "taskId": f"{plan.load}-{place:06d}",
        "blockRunId": f"{plan.run}-{number:08d}",
        "block": scenarios.BLOCK,
        "settings": scenarios.SETTINGS,
    }
    request = asking(plan.key, scenarios.CHARGE, {"input": item})
    sent_at = time.perf_counter()
    caller = await free.get()
    reply = await caller.ask(request)
    free.put_nowait(caller)
    answered_at = time.perf_counter()
    match reply:
        case {"data": {"charge": {"__typename": "ChargeSuccess", "balance": {"version": version}}}}:
            return Charge(place, sent_at, answered_at, int(version))
    raise Unpaced(f"a charge was answered with {reply}")
