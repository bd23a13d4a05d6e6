"""The subscribers: many WebSockets that follow a balance each, in a lean process of their own.

It is told what to do by lines of JSON on stdin and answers each with a line on stdout; at the end of stdin it ends:

- `listen` (port, tokens): connect one subscriber for each token, a hundred at a time;
- `idle` (server_pid, seconds): only measure what the server uses meanwhile;
- `charge` (server_pid, and a `Steady` plan): charge the accounts listened to at a steady rate, and see when each charge
  arrives as a push; the charges go to whatever port the plan says;
- `pushes`: how many have arrived so far;
- `hang_up`: close them all.

Charges are sent from here so that one clock sees both ends.
"""

import asyncio
import base64
import json
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final, cast

import uvloop

from bench.cpu import fine_cpu_seconds
from bench.frames import CLOSE, PING, PONG, TEXT, Frames, masked
from bench.pacing import Steady, charge_steadily
from bench.pushes import Arrival, told

DOCUMENT: Final = "subscription { balance { available held owed version status } }"
"""The header's."""
AT_ONCE: Final = 100
"""Subscribers that connect at the same time."""
LISTEN_SECONDS: Final = 900
DRAIN_SECONDS: Final = 0.5
"""After the last charge, for what is still on its way; again and again, until each was seen or so many have passed:"""
LONGEST_DRAIN_SECONDS: Final = 15.0
LINE_BYTES: Final = 1 << 26

SUBSCRIBE: Final = json.dumps({"id": "1", "type": "subscribe", "payload": {"query": DOCUMENT}}).encode()


class Disturbed(Exception):
    """A subscriber was told something else than its balance, or cut off."""


@dataclass(slots=True)
class Audience:
    """All subscribers."""

    listeners: list["Listener"] = field(default_factory=list)
    pushes: int = 0
    kept: list[Arrival] | None = None
    """Where arrivals are kept while somebody wants to look at them."""
    fault: str | None = None

    def pushed(self, place: int, payload: bytes) -> None:
        self.pushes += 1
        if self.kept is not None:
            self.kept.append(Arrival(place, time.perf_counter(), payload))

    async def listen(self, *, port: int, tokens: list[str]) -> dict[str, Any]:
        """Returns when all have their first balance."""
        places: Iterator[int] = iter(range(len(tokens)))
        loop = asyncio.get_running_loop()

        async def some() -> None:
            for place in places:
                listener = Listener(self, place, port, tokens[place])
                self.listeners.append(listener)
                await loop.create_connection(lambda: listener, "127.0.0.1", port)  # noqa: B023  called at once
                await listener.ready

        begun = time.perf_counter()
        async with asyncio.timeout(LISTEN_SECONDS), asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(some())
        return {"listening": len(tokens), "seconds": time.perf_counter() - begun}

    async def idle(self, *, server_pid: int, seconds: float) -> dict[str, Any]:
        before, used = time.perf_counter(), fine_cpu_seconds([server_pid])
        await asyncio.sleep(seconds)
        used = fine_cpu_seconds([server_pid]) - used
        return {"seconds": time.perf_counter() - before, "server_cpu_seconds": used}

    async def charge(self, *, server_pid: int, **plan: Any) -> dict[str, Any]:
        self.kept = []
        before, used = time.perf_counter(), fine_cpu_seconds([server_pid])
        charges = await charge_steadily(Steady(**plan))
        charging_seconds = time.perf_counter() - before
        while True:
            await asyncio.sleep(DRAIN_SECONDS)
            seen = told(charges, self.kept)
            if not seen.unseen or time.perf_counter() - before > charging_seconds + LONGEST_DRAIN_SECONDS:
                break
        used = fine_cpu_seconds([server_pid]) - used
        seconds = time.perf_counter() - before
        self.kept = None
        return {
            "seconds": seconds,
            "charging_seconds": charging_seconds,
            "server_cpu_seconds": used,
            **asdict(seen),
        }

    async def hang_up(self) -> dict[str, Any]:
        listeners, self.listeners = self.listeners, []
        for listener in listeners:
            listener.hang_up()
        for listener in listeners:
            await listener.gone.wait()
        return {"hung_up": len(listeners)}

    async def carry_out(self, order: dict[str, Any]) -> dict[str, Any]:
        """Raises: Disturbed."""
        match order.pop("do"):
            case "listen":
                answer = await self.listen(**order)
            case "idle":
                answer = await self.idle(**order)
            case "charge":
                answer = await self.charge(**order)
            case "pushes":
                answer = {"pushes": self.pushes}
            case "hang_up":
                answer = await self.hang_up()
            case other:
                raise ValueError(f"nobody knows how to {other}")
        if self.fault:
            raise Disturbed(self.fault)
        return answer


class Listener(asyncio.Protocol):
    """One subscriber on a connection of its own."""

    transport: asyncio.Transport

    def __init__(self, audience: Audience, place: int, port: int, token: str) -> None:
        self._audience = audience
        self._place = place
        self._port = port
        self._token = token
        self._head = b""
        self._frames: Frames | None = None
        self._leaving = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own does not descend from it
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.transport.write(
            f"GET /graphql HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self._frames is None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self._fail(f"no WebSocket: {head[:200]!r}")
                return
            self._frames, self._head = Frames(), b""
            hello = {"type": "connection_init", "payload": {"authorization": f"Bearer {self._token}"}}
            self._say(json.dumps(hello).encode())
            if not data:
                return
        for opcode, payload in self._frames.feed(data):
            self._take(opcode, payload)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        if not self._leaving:
            self._fail(f"a subscriber was cut off: {exc}")

    def hang_up(self) -> None:
        self._leaving = True
        self.transport.write(masked(CLOSE, (1000).to_bytes(2, "big")))
        self.transport.close()

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.transport.write(masked(PONG, payload))
        elif opcode == TEXT and b'"next"' in payload and b'"errors"' not in payload:
            if self.ready.done():
                self._audience.pushed(self._place, payload)
            else:
                self.ready.set_result(None)
        elif opcode == TEXT and b'"connection_ack"' in payload:
            self._say(SUBSCRIBE)
        elif opcode != PONG and not self._leaving:
            self._fail(f"a subscriber was told: {payload[:500]!r}")

    def _say(self, text: bytes) -> None:
        self.transport.write(masked(TEXT, text))

    def _fail(self, fault: str) -> None:
        self._audience.fault = self._audience.fault or fault
        if not self.ready.done():
            self.ready.set_exception(Disturbed(fault))
        self._leaving = True
        self.transport.close()


async def main() -> None:
    """Carry out what stdin says, line by line."""
    orders = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    audience = Audience()
    while line := await orders.readline():
        print(json.dumps(await audience.carry_out(json.loads(line))), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
