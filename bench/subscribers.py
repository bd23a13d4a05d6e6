"""Many WebSocket clients that subscribe to a balance each.

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

from bench.environment import Server, precise_cpu_seconds
from bench.http_client import AnsweredCharge, RatePlan, charge_at_rate
from bench.report import percentile

SUBPROTOCOL: Final = Subprotocol("graphql-transport-ws")
SUBSCRIPTION: Final = "subscription { balance { available held owed version status } }"
CONNECT_AT_ONCE: Final = 100
CONNECT_TIMEOUT_SECONDS: Final = 900
DRAIN_SECONDS: Final = 0.5
"""How long to wait for pushes after the last charge, repeatedly, until each charge was seen or the maximum is over."""
MAXIMUM_DRAIN_SECONDS: Final = 15.0

Push = tuple[int, float, bytes]
"""Number of the subscriber, time of arrival, message."""


class SubscribersFailed(Exception):
    """A subscriber was disconnected or received something other than its balance."""


def match_pushes(charges: Sequence[AnsweredCharge], pushes: Iterable[Push]) -> dict[str, float]:
    """Latencies of pushes. `pushes` are in order of arrival.

    A charge is seen with the first push to its account whose version is that of the charge or a later one. Latencies
    are from sending the charge, and from its response (0 where the push arrived first). `unseen`: charges without push.
    """
    by_subscriber: dict[int, list[tuple[int, float]]] = {}
    count = 0
    for number, arrived_at, message in pushes:
        count += 1
        version = int(json.loads(message)["payload"]["data"]["balance"]["version"])
        by_subscriber.setdefault(number, []).append((version, arrived_at))
    after_sending, after_response = [], []
    for charge in charges:
        received = by_subscriber.get(charge.task_number, [])
        place = bisect_left(received, charge.version, key=lambda push: push[0])
        if place < len(received):
            arrived_at = received[place][1]
            after_sending.append((arrived_at - charge.sent_at) * 1_000)
            after_response.append(max(arrived_at - charge.answered_at, 0.0) * 1_000)
    return {
        "charges": len(charges),
        "pushes": count,
        "unseen": len(charges) - len(after_sending),
        "p50_ms": percentile(after_sending, 50),
        "p99_ms": percentile(after_sending, 99),
        "p99_after_response_ms": percentile(after_response, 99),
    }


class Subscribers:
    """Clients of one server. A method raises SubscribersFailed if one of them has failed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._subscribers: list[Subscriber] = []
        self._kept: list[Push] | None = None
        self._error: str | None = None
        self.pushes = 0

    async def connect(self, tokens: list[str]) -> float:
        """Connect one subscriber for each token. Returns the seconds until each has received its first balance."""
        numbers = iter(range(len(tokens)))
        loop = asyncio.get_running_loop()

        async def connect_some() -> None:
            for number in numbers:
                subscriber = Subscriber(self, number, self._server.port, tokens[number])
                self._subscribers.append(subscriber)
                await loop.create_connection(lambda: subscriber, "127.0.0.1", self._server.port)  # noqa: B023  called at once
                await subscriber.is_ready

        started_at = time.perf_counter()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS), asyncio.TaskGroup() as group:
                for _ in range(CONNECT_AT_ONCE):
                    group.create_task(connect_some())
        except ExceptionGroup:
            self._check()
            raise
        return time.perf_counter() - started_at

    async def idle_cpu(self, seconds: float) -> float:
        """The part of a core that the server uses while nothing happens."""
        started_at, used = time.perf_counter(), precise_cpu_seconds([self._server.pid])
        await asyncio.sleep(seconds)
        self._check()
        return (precise_cpu_seconds([self._server.pid]) - used) / (time.perf_counter() - started_at)

    async def charge(self, plan: RatePlan) -> dict[str, float]:
        """Send charges at a fixed rate, match them with pushes, and measure the CPU of the server that pushes."""
        self._kept = []
        started_at, used = time.perf_counter(), precise_cpu_seconds([self._server.pid])
        charges = await charge_at_rate(plan)
        charging_seconds = time.perf_counter() - started_at
        while True:
            await asyncio.sleep(DRAIN_SECONDS)
            seen = match_pushes(charges, self._kept)
            seconds = time.perf_counter() - started_at
            if not seen["unseen"] or seconds > charging_seconds + MAXIMUM_DRAIN_SECONDS:
                break
        self._kept = None
        self._check()
        used = precise_cpu_seconds([self._server.pid]) - used
        return {"seconds": seconds, "charging_seconds": charging_seconds, "server_cpu_seconds": used, **seen}

    async def disconnect(self) -> None:
        subscribers, self._subscribers = self._subscribers, []
        for subscriber in subscribers:
            subscriber.disconnect()
        for subscriber in subscribers:
            await subscriber.is_closed.wait()
        self._check()

    def received(self, number: int, message: bytes) -> None:
        self.pushes += 1
        if self._kept is not None:
            self._kept.append((number, time.perf_counter(), message))

    def failed(self, error: str) -> None:
        self._error = self._error or error

    def _check(self) -> None:
        if self._error:
            raise SubscribersFailed(self._error)


class Subscriber(asyncio.Protocol):
    """One subscription over graphql-transport-ws. Without a task of its own, because there are up to 10,000."""

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
                self._all.received(self._number, payload)
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
            self.is_ready.set_exception(SubscribersFailed(error))
        self._is_leaving = True
        self._transport.close()
