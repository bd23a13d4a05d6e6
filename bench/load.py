"""The bench's own client, for where wrk is not installed: many connections, each sending its next request when the last
one is answered.

A process of its own, and a lean one: it shares the machine with what it measures. Requests are bytes with a
number or two filled in, replies are only searched for a mark. It is given a `Plan` on stdin, writes a `Tally` on
stdout, and waits for every reply, so that what it counts as acknowledged is all that can have been charged.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Final, cast

import uvloop

from bench import scenarios
from bench.cpu import cpu_seconds
from bench.requests import MARKS, Plan, requests_of
from bench.tally import Tally, percentile

CONNECT_SECONDS: Final = 10
DRAIN_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Usage:
    """What has been used so far, in seconds."""

    at: float
    server: float
    database: float
    client: float


@dataclass(slots=True)
class Load:
    """One run of a plan."""

    plan: Plan
    next_request: Callable[[], bytes]
    mark: bytes
    items: int
    """Marks in a reply that is as it should be."""
    counts_items: bool = True
    """Whether each mark is one charge; False: the whole reply is one read."""
    begun: Usage | None = None
    ended: Usage | None = None
    charges: int = 0
    latencies: list[float] = field(default_factory=list)
    acknowledged: int = 0
    refused: int = 0
    refusal: str | None = None
    closed: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def answered(self, reply: bytes, sent_at: float) -> None:
        marks = reply.count(self.mark)
        good = marks if self.counts_items else int(marks == self.items)
        wanted = self.items if self.counts_items else 1
        self.acknowledged += good
        if self.begun is not None and self.ended is None:
            self.charges += good
            self.latencies.append(time.perf_counter() - sent_at)
        if good != wanted:
            self.refused += wanted - good
            self.refusal = self.refusal or reply[-500:].decode(errors="replace")

    def lost(self) -> None:
        self.closed += 1
        if self.closed == self.plan.connections:
            self.done.set()

    def usage(self) -> Usage:
        server, database = cpu_seconds(self.plan.server_pids), cpu_seconds(self.plan.database_pids)
        return Usage(time.perf_counter(), server, database, time.process_time())

    async def run(self) -> Tally:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            made = [
                await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.plan.port)
                for _ in range(self.plan.connections)
            ]
        for _, connection in made:
            connection.send()
        await asyncio.sleep(self.plan.warm_up_seconds)
        begun = self.begun = self.usage()
        await asyncio.sleep(self.plan.seconds)
        ended = self.ended = self.usage()
        async with asyncio.timeout(DRAIN_SECONDS):
            await self.done.wait()
        return Tally(
            charges=self.charges,
            seconds=ended.at - begun.at,
            p50_ms=percentile(self.latencies, 50) * 1000,
            p99_ms=percentile(self.latencies, 99) * 1000,
            server_cpu_seconds=ended.server - begun.server,
            database_cpu_seconds=ended.database - begun.database,
            client_cpu_seconds=ended.client - begun.client,
            acknowledged=self.acknowledged,
            refused=self.refused,
            refusal=self.refusal,
        )


class Connection(asyncio.Protocol):
    """One caller: a request, its whole reply, the next request. `send` begins it, when every caller is connected."""

    transport: asyncio.Transport

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self._waiting = False
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own does not descend from it

    def data_received(self, data: bytes) -> None:
        reply = self._received + data if self._received else data
        if not is_whole(reply):
            self._received = reply
            return
        self._received = b""
        self._waiting = False
        self._load.answered(reply, self._sent_at)
        if self._load.ended is None:
            self.send()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting:
            self._load.answered(b"the server closed the connection", self._sent_at)
        self._load.lost()

    def send(self) -> None:
        self._waiting = True
        self._sent_at = time.perf_counter()
        self.transport.write(self._load.next_request())


def is_whole(reply: bytes) -> bool:
    """Whether all of an HTTP response is there. It must say its length: chunked ones are never whole."""
    head_end = reply.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    at = reply.find(b"\r\ncontent-length:", 0, head_end)
    if at < 0:
        raise ValueError(f"a response without content-length: {reply[:head_end]!r}")
    length = reply[at + len(b"\r\ncontent-length:") : reply.find(b"\r\n", at + 2)]
    return len(reply) >= head_end + 4 + int(length)


def load_of(plan: Plan) -> Load:
    mark, items = MARKS[plan.kind]
    return Load(plan, requests_of(plan), mark.encode(), items, counts_items=plan.kind not in scenarios.READS)


async def carry_out(plan: Plan) -> Tally:
    return await load_of(plan).run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tally = runner.run(carry_out(Plan(**json.load(sys.stdin))))
    json.dump(asdict(tally), sys.stdout)
