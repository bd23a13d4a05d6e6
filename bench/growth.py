"""Growth: whether a charge or a page of history costs more when the account has more entries.

For each size there is a database and a server, so that every round measures all sizes. The database has one account
with that number of entries, all made by charges. Pages of the largest account's history are read at its beginning and
in its middle.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.auth import development_keys
from app.engine.pagination import encode_cursor
from bench import databases, environment, workload
from bench.environment import BenchmarkFailed, Server, cpu_seconds, progress
from bench.http_client import Connection, RatePlan, charge_at_rate
from bench.report import Column, Figures, Goal, Rounds, Section, percentile
from bench.workload import Extent

CHARGE: Final = "charge"
PAGE: Final = "page"
TITLES: Final = {CHARGE: "a charge, entries in the ledger", PAGE: "a page of the history, at entry"}
PER_SECOND: Final = 200
PAGE_SIZE: Final = 50
FLAT: Final = 1.3
"""A cost that grows by at most this factor counts as constant."""

HISTORY: Final = (
    "query History($after: String) { account { entries(first: 50, after: $after) {"
    " edges { node { id seq kind credits balanceAfter effectiveAt } } pageInfo { hasNextPage endCursor } } } }"
)
ACCOUNT: Final = f"SELECT ARRAY[id, seq] FROM account WHERE owner_id = '{workload.HOT_OWNER}'"  # noqa: S608  our own constant

COLUMNS: Final = (
    Column(title="p50 ms", figure="p50_ms", form=".1f"),
    Column(title="server µs", figure="server_micros", form=",.0f"),
    Column(title="PostgreSQL µs", figure="database_micros", form=",.0f"),
)
CAPTION: Final = (
    "Medians of {rounds} interleaved rounds. Charges arrive at {per_second:g}/s for {seconds:g} s; a page of 50 "
    "entries is read {pages} times. µs: CPU of the server's and of PostgreSQL's processes for one of them. Ratios are "
    "within a round, to the smallest size."
)


def section(rounds: Rounds, extent: Extent) -> Section:
    """Each size is compared with the smallest of the same kind."""
    names = sorted({name for measured in rounds for name in measured}, key=_parts)
    rows = {name: (TITLES[kind], f"{size:,}") for name in names for kind, size in [_parts(name)]}

    def against(name: str) -> str:
        return next(other for other in names if _parts(other)[0] == _parts(name)[0])

    return Section(
        name="growth",
        rounds=rounds,
        labels=("", "size"),
        rows=rows,
        columns=(
            *COLUMNS,
            Column(title="CPU, smallest = 1", figure="micros", form=".2f", against=against),
            Column(title="p50, smallest = 1", figure="p50_ms", form=".2f", against=against),
        ),
        caption=CAPTION.format(
            rounds=extent.rounds, per_second=PER_SECOND, seconds=extent.growth_seconds, pages=extent.pages
        ),
        goals=[
            Goal(
                text=f"CPU of {title}: {size} against the smallest", name=name, other=against(name), figure="micros",
                clients=1, bound=FLAT, aim=FLAT,
            )
            for name, (title, size) in rows.items()
            if against(name) != name
        ],
    )  # fmt: skip


def _parts(name: str) -> tuple[str, int]:
    kind, size = name.split("-")
    return kind, int(size)


@dataclass(frozen=True, slots=True)
class _Ledger:
    """A database whose account has `entries`, and the server on it."""

    entries: int
    url: str
    key: str
    server: Server
    database_pid: int

    def cpu(self) -> tuple[float, float]:
        return cpu_seconds([self.server.pid]), cpu_seconds([self.database_pid])


async def measure(directory: Path, extent: Extent) -> tuple[list[dict[str, Figures]], tuple[bool, str]]:
    """Return the figures of all rounds, and the result of verifying the largest ledger.

    Raises: BenchmarkFailed: a charge was refused, or a page has other entries than expected.
    """
    rounds: list[dict[str, Figures]] = []
    async with _started(directory, extent) as ledgers:
        largest = ledgers[-1]
        for ledger in ledgers:
            await _measure_charges(ledger, run="warm", seconds=1.0)
        for number in range(extent.rounds):
            progress(f"round {number + 1} of {extent.rounds}")
            step = -1 if number % 2 else 1  # every second round is reversed
            measured: dict[str, Figures] = {}
            for ledger in ledgers[::step]:
                measured[f"{CHARGE}-{ledger.entries}"] = await _measure_charges(
                    ledger, run=f"round-{number:03d}", seconds=extent.growth_seconds
                )
            for depth in (1, largest.entries // 2)[::step]:
                measured[f"{PAGE}-{depth}"] = await _measure_page(largest, depth, extent.pages)
            rounds.append(measured)
        progress("verifying the largest ledger")
        return rounds, await asyncio.to_thread(environment.verify_ledger, largest.url)


@asynccontextmanager
async def _started(directory: Path, extent: Extent) -> AsyncIterator[list[_Ledger]]:
    """Start a server for each ledger, in ascending size. Each ledger is a copy of the one before with more entries."""
    with ExitStack() as stack:
        postgres = stack.enter_context(environment.temporary_postgres(directory / "growth"))
        urls: dict[int, str] = {}
        template, key = None, ""
        for entries in extent.entries:
            name = f"entries_{entries}"
            progress(f"filling {name}")
            urls[entries] = url = await databases.create(postgres.url, name, template=template)
            key = key or await databases.fill(url, many=0, hot=True)
            await databases.charge(url, workload.task_ids("hot"), entries)
            template = name
        progress("starting the servers")
        ledgers = []
        for entries, url in urls.items():
            settings, name = environment.server_settings(url), f"entries_{entries}"
            running = environment.running_server(name, "app", "serve", directory=directory, **settings)
            server = stack.enter_context(running)
            await databases.query_tasks(server.url, key, workload.task_ids("hot"))
            ledgers.append(_Ledger(entries, url, key, server, postgres.server.pid))
        yield ledgers


async def _measure_charges(ledger: _Ledger, *, run: str, seconds: float) -> Figures:
    plan = RatePlan(
        port=ledger.server.port, key=ledger.key, load="hot", tasks=workload.HOT_TASKS, run=run, per_second=PER_SECOND,
        seconds=seconds,
    )  # fmt: skip
    before = ledger.cpu()
    charges = await charge_at_rate(plan)
    return _figures(before, ledger.cpu(), [charge.answered_at - charge.sent_at for charge in charges])


async def _measure_page(ledger: _Ledger, depth: int, requests: int) -> Figures:
    """Measure the page that begins with the entry at `depth`; the newest entry is at 1. Raises: BenchmarkFailed."""
    account_id, newest = await databases.fetch(ledger.url, ACCOUNT)
    variables = {"after": None if depth == 1 else encode_cursor("entries", account_id, newest - depth + 2)}
    token = development_keys.user_token(workload.HOT_OWNER)
    connection = await Connection.open(ledger.server.port)
    try:
        response = await connection.query(token, HISTORY, variables)
        first = newest - depth + 1
        edges = response["data"]["account"]["entries"]["edges"] if "errors" not in response else []
        if [int(edge["node"]["seq"]) for edge in edges] != list(range(first, first - PAGE_SIZE, -1)):
            raise BenchmarkFailed(f"the page at depth {depth:,} has other entries: {str(response)[:500]}")
        before, latencies = ledger.cpu(), []
        for _ in range(requests):
            sent_at = time.perf_counter()
            await connection.query(token, HISTORY, variables)
            latencies.append(time.perf_counter() - sent_at)
        return _figures(before, ledger.cpu(), latencies)
    finally:
        connection.close()


def _figures(before: tuple[float, float], after: tuple[float, float], latencies: list[float]) -> Figures:
    server, postgres = ((end - start) * 1e6 / len(latencies) for start, end in zip(before, after, strict=True))
    return {
        "p50_ms": percentile(latencies, 50) * 1_000,
        "server_micros": server,
        "database_micros": postgres,
        "micros": server + postgres,
    }
