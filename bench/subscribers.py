"""Many WebSocket clients, each of which subscribes to a balance.

They run in the process of the benchmark, which also sends the charges that are measured, so that one clock times a
charge and its push.
"""

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from bench.environment import BenchmarkFailed, Server, cpu_seconds
from bench.http_client import AnsweredCharge, RatePlan, charge_at_rate
from bench.report import percentile

SUBPROTOCOL: Final = Subprotocol("graphql-transport-ws")
SUBSCRIPTION: Final = "subscription { balance { available held owed version status } }"
CONNECT_AT_ONCE: Final = 100
CONNECT_TIMEOUT_SECONDS: Final = 900
DRAIN_SECONDS: Final = 0.5
"""The time between two checks, after the last charge, whether every charge was pushed."""
MAXIMUM_DRAIN_SECONDS: Final = 15.0

Push = tuple[int, float, bytes]
"""Number of the subscriber, time of arrival, message."""


def push_latencies(charges: Sequence[AnsweredCharge], pushes: Iterable[Push]) -> list[float]:
    """Milliseconds from sending a charge to its push, without charges that were not pushed.

    A charge is pushed with the first push to its account whose version is that of the charge or a later one. `pushes`
    are in order of arrival.
    """
    by_subscriber: dict[int, list[tuple[int, float]]] = {}
    for number, arrived_at, message in pushes:
        version = int(json.loads(message)["payload"]["data"]["balance"]["version"])
        by_subscriber.setdefault(number, []).append((version, arrived_at))
    latencies = []
    for charge in charges:
        received = by_subscriber.get(charge.task_number, [])
        place = bisect_left(received, charge.version, key=lambda push: push[0])
        if place < len(received):
            latencies.append((received[place][1] - charge.sent_at) * 1_000)
    return latencies


class Subscribers:
    """Clients of one server. A method raises BenchmarkFailed if one of them has failed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._subscribers: list[Subscriber] = []
        self._error: str | None = None
        self.pushes: list[Push] = []

    async def connect(self, tokens: list[str]) -> None:
        """Connect one subscriber for each token, until each has received its first balance."""
        numbers = iter(range(len(tokens)))
        loop = asyncio.get_running_loop()

        async def connect_some() -> None:
            for number in numbers:
                subscriber = Subscriber(self, number, self._server.port, tokens[number])
                self._subscribers.append(subscriber)
                await loop.create_connection(lambda: subscriber, "127.0.0.1", self._server.port)  # noqa: B023  called at once
                await subscriber.is_ready

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS), asyncio.TaskGroup() as group:
                for _ in range(CONNECT_AT_ONCE):
                    group.create_task(connect_some())
        except ExceptionGroup:
            self.check()
            raise

    async def charge(self, plan: RatePlan) -> dict[str, float]:
        """Send charges at a fixed rate until each was pushed. Returns figures, with the CPU of the server that pushes.

        The CPU that the server uses in the same time without charges is subtracted.
        """
        idle_started_at, idle = time.perf_counter(), cpu_seconds([self._server.pid])
        await asyncio.sleep(max(plan.seconds / 2, 0.5))
        self.pushes = []
        started_at, used = time.perf_counter(), cpu_seconds([self._server.pid])
        idle_share = (used - idle) / (started_at - idle_started_at)
        charges = await charge_at_rate(plan)
        give_up_at = time.perf_counter() + MAXIMUM_DRAIN_SECONDS
        latencies: list[float] = []
        while len(latencies) < len(charges):
            self.check()
            if time.perf_counter() > give_up_at:
                raise BenchmarkFailed(f"{len(charges) - len(latencies)} charges of {plan.run} were not pushed")
            await asyncio.sleep(DRAIN_SECONDS)
            latencies = push_latencies(charges, self.pushes)
        used = cpu_seconds([self._server.pid]) - used - idle_share * (time.perf_counter() - started_at)
        return {
            "micros_per_push": used * 1e6 / len(self.pushes),
            "p50_ms": percentile(latencies, 50),
            "p99_ms": percentile(latencies, 99),
        }

    async def disconnect(self) -> None:
        subscribers, self._subscribers = self._subscribers, []
        for subscriber in subscribers:
            subscriber.disconnect()
        for subscriber in subscribers:
            await subscriber.is_closed.wait()
        self.check()

    def failed(self, error: str) -> None:
        self._error = self._error or error

    def check(self) -> None:
        if self._error:
            raise BenchmarkFailed(self._error)


class Subscriber(asyncio.Protocol):
    """One subscription over graphql-transport-ws. It has no asyncio task, because there are up to 10,000."""

    def __init__(self, subscribers: Subscribers, number: int, port: int, token: str) -> None:
        self._all = subscribers
        self._number = number
        self._token = token
        self._websocket = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/graphql"), subprotocols=[SUBPROTOCOL])
        self._transport: asyncio.Transport
        self._is_leaving = False
        self.is_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is not a subclass
        self._websocket.send_request(self._websocket.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._websocket.receive_data(data)
        for event in self._websocket.events_received():
            if isinstance(event, Frame):
                self._handle(event)
            elif self._websocket.handshake_exc is None:
                self._send({"type": "connection_init", "payload": {"authorization": f"Bearer {self._token}"}})
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed.set()
        if not self._is_leaving:
            self._fail(f"a subscriber was disconnected: {exc or self._websocket.handshake_exc}")

    def disconnect(self) -> None:
        if not self._is_leaving:
            self._is_leaving = True
            self._websocket.send_close(1000)
            self._flush()
            self._transport.close()

    def _handle(self, frame: Frame) -> None:
        payload = bytes(frame.data)
        if frame.opcode is Opcode.TEXT and b'"next"' in payload and b'"errors"' not in payload:
            if self.is_ready.done():
                self._all.pushes.append((self._number, time.perf_counter(), payload))
            else:
                self.is_ready.set_result(None)
        elif frame.opcode is Opcode.TEXT and b'"connection_ack"' in payload:
            self._send({"id": "1", "type": "subscribe", "payload": {"query": SUBSCRIPTION}})
        elif frame.opcode not in (Opcode.PING, Opcode.PONG) and not self._is_leaving:  # pings are answered already
            self._fail(f"a subscriber received {payload[:500]!r}")

    def _send(self, message: dict[str, Any]) -> None:
        self._websocket.send_text(json.dumps(message).encode())

    def _flush(self) -> None:
        for data in self._websocket.data_to_send():
            self._transport.write(data)

    def _fail(self, error: str) -> None:
        self._all.failed(error)
        if not self.is_ready.done():
            self.is_ready.set_exception(BenchmarkFailed(error))
        self._is_leaving = True
        self._transport.close()
