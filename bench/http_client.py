"""An HTTP client that uses little CPU, because it runs on the same machine as the server that it measures.

`python -m bench.http_client` reads a `LoadPlan` as JSON from stdin, keeps every connection busy, waits for all
responses, and writes a `LoadResult` to stdout. `charge_at_rate` sends charges at a fixed rate instead.
"""

import asyncio
import json
import random
import re
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import uvloop

from bench import workload
from bench.environment import BenchmarkFailed, cpu_seconds
from bench.report import percentile
from bench.workload import LoadPlan, LoadResult

CONNECT_TIMEOUT_SECONDS: Final = 10
RESPONSE_TIMEOUT_SECONDS: Final = 60
RATE_CONNECTIONS: Final = 64
"""A charge that finds no free connection waits for one; the wait is part of its latency."""
CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Connection:
    """A connection that carries one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, request: bytes) -> bytes:
        """The whole response. Raises: ConnectionError; ValueError: it has no Content-Length."""
        self._writer.write(request)
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            if (length := CONTENT_LENGTH.search(head)) is None:
                raise ValueError(f"a response without content-length: {head!r}")
            return head + await self._reader.readexactly(int(length[1]))
        except asyncio.IncompleteReadError:
            raise ConnectionError("the server closed the connection") from None

    async def query(self, key: str, document: str, variables: dict[str, Any]) -> Any:
        """The JSON of a GraphQL response. Raises: ConnectionError, TimeoutError."""
        body = json.dumps({"query": document, "variables": variables}).encode()
        async with asyncio.timeout(RESPONSE_TIMEOUT_SECONDS):
            response = await self.send(workload.http_head(key, len(body)).encode() + body)
        return json.loads(response.partition(b"\r\n\r\n")[2])

    def close(self) -> None:
        self._writer.close()


class LoadRun:
    """Counts the responses to the requests of one plan."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        marker, self._markers = workload.MARKERS[plan.request]
        self._marker = marker.encode()
        self._is_over = False
        self._latencies_ms: list[float] = []
        self._charges = 0
        self.acknowledged = 0
        self.refused = 0
        self.refusal: str | None = None

    def count(self, response: bytes, seconds: float) -> None:
        successes, expected = response.count(self._marker), self._markers
        if self._plan.counts_responses:
            successes, expected = int(successes == expected), 1
        self.acknowledged += successes
        if not self._is_over:
            self._charges += successes
            self._latencies_ms.append(seconds * 1_000)
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
            before = self._usage()
            await asyncio.sleep(self._plan.seconds)
            self._is_over, after = True, self._usage()
            give_up = asyncio.get_running_loop().call_later(RESPONSE_TIMEOUT_SECONDS, sys.exit, "responses are missing")
        give_up.cancel()
        seconds, server, database = (end - start for start, end in zip(before, after, strict=True))
        return LoadResult(
            charges=self._charges,
            seconds=seconds,
            p50_ms=percentile(self._latencies_ms, 50),
            p99_ms=percentile(self._latencies_ms, 99),
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

    Charges are sent at fixed times, however long the responses take. `run` prefixes all block run ids.
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
    """`task_number` is the charged task; `version` is that of the balance after the charge. Times are in seconds."""

    task_number: int
    sent_at: float
    answered_at: float
    version: int


async def charge_at_rate(plan: RatePlan) -> list[AnsweredCharge]:
    """Send the charges and wait for every response. Raises: BenchmarkFailed."""
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
    except* (BenchmarkFailed, ConnectionError, TimeoutError) as errors:
        raise BenchmarkFailed(f"a charge at a fixed rate failed: {errors.exceptions[0]!r}") from None
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
    raise BenchmarkFailed(f"a charge was answered with {response}")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(LoadRun(LoadPlan(**json.load(sys.stdin))).run())
    json.dump(asdict(result), sys.stdout)
