"""The benchmark's own HTTP client: lean, because it shares the machine with the server it measures.

`python -m bench.http_client` reads a `LoadPlan` as JSON from stdin, keeps every connection busy, waits for all
responses, and writes a `LoadResult` to stdout. `charge_at_rate` sends charges at a fixed rate instead.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final, Self, cast

import uvloop

from bench import workload
from bench.environment import cpu_seconds
from bench.report import percentile
from bench.workload import LoadPlan, LoadResult

CONNECT_TIMEOUT_SECONDS: Final = 10
RESPONSE_TIMEOUT_SECONDS: Final = 60
RATE_CONNECTIONS: Final = 64
"""A charge that finds no free connection waits for one; the wait is part of its latency."""


class ChargeFailed(Exception):
    """A charge sent at a fixed rate was refused or not answered."""


class Connection(asyncio.Protocol):
    """A connection that carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._response: asyncio.Future[bytes] | None = None

    @classmethod
    async def open(cls, port: int) -> Self:
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is not a subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._response is not None and not self._response.done() and is_complete(self._received):
            self._response.set_result(self._received)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._response is not None and not self._response.done():
            self._response.set_exception(ConnectionError("the server closed the connection"))

    async def send(self, request: bytes) -> bytes:
        """The whole response. Raises: ConnectionError."""
        if self._transport is None:
            raise ConnectionError("the server closed the connection")
        self._received = b""
        self._response = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._response

    async def query(self, key: str, document: str, variables: dict[str, Any]) -> Any:
        """The JSON of a GraphQL response. Raises: ConnectionError, TimeoutError."""
        body = json.dumps({"query": document, "variables": variables}).encode()
        async with asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
            response = await self.send(workload.http_head(key, len(body)).encode() + body)
        return json.loads(response.partition(b"\r\n\r\n")[2])

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def is_complete(response: bytes) -> bool:
    """Whether the response has arrived completely. Raises: ValueError: it has no Content-Length."""
    head_end = response.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    start = response.find(b"\r\ncontent-length:", 0, head_end)
    if start < 0:
        raise ValueError(f"a response without content-length: {response[:head_end]!r}")
    length = response[start + len(b"\r\ncontent-length:") : response.find(b"\r\n", start + 2)]
    return len(response) >= head_end + 4 + int(length)


class LoadRun:
    """Counts the responses to the requests of one plan."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        marker, self._markers = workload.MARKERS[plan.request]
        self._marker = marker.encode()
        self._is_measuring = False
        self._is_over = False
        self._latencies: list[float] = []
        self._charges = 0
        self.acknowledged = 0
        self.refused = 0
        self.refusal: str | None = None

    def count(self, response: bytes, seconds: float) -> None:
        successes, expected = response.count(self._marker), self._markers
        if self._plan.counts_responses:
            successes, expected = int(successes == expected), 1
        self.acknowledged += successes
        if self._is_measuring:
            self._charges += successes
            self._latencies.append(seconds)
        if successes != expected:
            self.refused += expected - successes
            self.refusal = self.refusal or response[-500:].decode(errors="replace")

    async def run(self) -> LoadResult:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            connections = [await Connection.open(self._plan.port) for _ in range(self._plan.connections)]
        next_request = workload.request_factory(self._plan)

        async def keep_sending(connection: Connection) -> None:
            while not self._is_over:
                sent_at = time.perf_counter()
                try:
                    response = await connection.send(next_request())
                except ConnectionError as error:
                    self.count(str(error).encode(), time.perf_counter() - sent_at)
                    return
                self.count(response, time.perf_counter() - sent_at)
            connection.close()

        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(keep_sending(connection))
            await asyncio.sleep(self._plan.warm_up_seconds)
            self._is_measuring, before = True, self._usage()
            await asyncio.sleep(self._plan.seconds)
            self._is_measuring, self._is_over, after = False, True, self._usage()
            draining = asyncio.get_running_loop().call_later(
                RESPONSE_TIMEOUT_SECONDS, sys.exit, "responses are missing"
            )
        draining.cancel()
        seconds, server, database = (end - start for start, end in zip(before, after, strict=True))
        return LoadResult(
            charges=self._charges,
            seconds=seconds,
            p50_ms=percentile(self._latencies, 50) * 1_000,
            p99_ms=percentile(self._latencies, 99) * 1_000,
            server_cpu_seconds=server,
            database_cpu_seconds=database,
            acknowledged=self.acknowledged,
            refused=self.refused,
            refusal=self.refusal,
        )

    def _usage(self) -> tuple[float, float, float]:
        return time.perf_counter(), cpu_seconds(self._plan.server_pids), cpu_seconds(self._plan.database_pids)


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePlan:
    """Charges to random tasks `{load}-000000` to the last of `tasks`, `per_second` for `seconds`.

    The clock alone says when a charge is sent, however long responses take. `run` prefixes all block run ids.
    """

    port: int
    key: str
    load: workload.Load
    tasks: int
    run: str
    per_second: float
    seconds: float


@dataclass(frozen=True, slots=True)
class AnsweredCharge:
    """`task_number`: which task was charged. `version`: that of the balance after the charge. Times in seconds."""

    task_number: int
    sent_at: float
    answered_at: float
    version: int


async def charge_at_rate(plan: RatePlan) -> list[AnsweredCharge]:
    """Send the charges and wait for every response. Raises: ChargeFailed."""
    free: asyncio.Queue[Connection] = asyncio.Queue()
    connections = [await Connection.open(plan.port) for _ in range(RATE_CONNECTIONS)]
    for connection in connections:
        free.put_nowait(connection)
    chance = random.Random(plan.run)  # noqa: S311  the same order in every run, not a secret
    started_at = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            sent = []
            for number in range(max(round(plan.per_second * plan.seconds), 1)):
                await asyncio.sleep(started_at + number / plan.per_second - time.perf_counter())
                sent.append(group.create_task(_charge(plan, chance.randrange(plan.tasks), number, free)))
    except* (ChargeFailed, ConnectionError, TimeoutError) as errors:
        raise ChargeFailed(f"a charge at a fixed rate failed: {errors.exceptions[0]!r}") from None
    finally:
        for connection in connections:
            connection.close()
    return [task.result() for task in sent]


async def _charge(plan: RatePlan, task_number: int, number: int, free: asyncio.Queue[Connection]) -> AnsweredCharge:
    charge = {
        "taskId": workload.task_id(plan.load, task_number),
        "blockRunId": f"{plan.run}-{number:08d}",
        "block": workload.BLOCK,
        "settings": workload.SETTINGS,
    }
    sent_at = time.perf_counter()
    connection = await free.get()
    response = await connection.query(plan.key, workload.CHARGE, {"input": charge})
    free.put_nowait(connection)
    match response:
        case {"data": {"charge": {"__typename": "ChargeSuccess", "balance": {"version": version}}}}:
            return AnsweredCharge(task_number, sent_at, time.perf_counter(), int(version))
    raise ChargeFailed(f"a charge was answered with {response}")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(LoadRun(LoadPlan(**json.load(sys.stdin))).run())
    json.dump(asdict(result), sys.stdout)
