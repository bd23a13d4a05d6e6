"""Charges and reads: the contenders (docs/performance.md), each measurement, and the check of the ledgers."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from bench import databases, environment, pgbench, wrk
from bench.environment import Server, progress
from bench.report import Column, Goal, Rounds, Section
from bench.workload import BATCH_SIZE, LIBRARY_TASKS, MANY_ACCOUNTS, Load, LoadPlan, LoadResult, Request, task_ids

Contender = Literal["server", "unbatched", "interpreted", "workers", "batch", "stock", "route", "pgbench"]

PAUSE_SECONDS: Final = 0.2  # before each measurement

SETTINGS: Final[Mapping[Contender, Mapping[str, str]]] = {
    "server": {},
    "unbatched": {"BATCH_LIMIT": "1"},
    "interpreted": {"COMPILE_OPERATIONS": "off"},
    "workers": {"WORKERS": "2"},
}
"""The contenders that are this server with their own ledger, and their settings."""
REFERENCE_SERVERS: Final[Mapping[Contender, tuple[str, str]]] = {
    "stock": ("bench.reference_servers", "pages"),
    "route": ("bench.reference_servers", "route"),
}
TITLES: Final[Mapping[Contender, str]] = {
    "server": "this server",
    "unbatched": "this server, batches of 1",
    "interpreted": "this server, documents not compiled",
    "workers": "this server, two workers",
    "batch": f"this server, chargeBatch({BATCH_SIZE})",
    "stock": "stock Strawberry",
    "route": "a plain Starlette route",
    "pgbench": "pgbench, a minimal function",
}
RECORDED: Final = "SELECT count(*) FROM block_run WHERE cost > 0"


@dataclass(frozen=True, slots=True)
class Measurement:
    contender: Contender
    load: Load
    clients: int

    @property
    def name(self) -> str:
        return f"{self.contender}-{self.load}-{self.clients}"

    @property
    def title(self) -> str:
        if self.load == "balance":
            return "pgbench, a row by primary key" if self.contender == "pgbench" else "this server, balance query"
        page = f", page of {LIBRARY_TASKS} tasks" if self.load == "library" else ""
        return f"{TITLES[self.contender]}{page}"

    @property
    def accounts(self) -> str:
        if self.ledger is None:
            return ""
        return f"{MANY_ACCOUNTS:,}" if self.load in ("many", "balance") else "1"

    @property
    def ledger(self) -> Contender | None:
        """The contender whose database is used; None if no database is used."""
        if self.contender == "route":
            return None
        return "server" if self.contender in ("batch", "stock") else self.contender

    @property
    def process(self) -> Contender:
        """The contender whose process responds."""
        return "server" if self.contender == "batch" else self.contender

    @property
    def request(self) -> Request:
        if self.load in ("balance", "library"):
            return self.load
        if self.contender in ("batch", "route"):
            return self.contender
        return "charge"


ALL: Final = (
    Measurement("unbatched", "many", 64),
    Measurement("interpreted", "many", 64),
    Measurement("server", "many", 64),
    Measurement("batch", "many", 16),
    Measurement("pgbench", "many", 32),
    Measurement("unbatched", "hot", 64),
    Measurement("server", "hot", 64),
    Measurement("batch", "hot", 16),
    Measurement("pgbench", "hot", 32),
    Measurement("server", "many", 256),
    Measurement("workers", "many", 256),
    Measurement("server", "hot", 256),
    Measurement("server", "many", 1),
    Measurement("pgbench", "many", 1),
    Measurement("server", "balance", 64),
    Measurement("pgbench", "balance", 32),
    Measurement("server", "library", 16),
    Measurement("stock", "library", 16),
    Measurement("route", "many", 64),
)


def _pgbench_for(name: str) -> str | None:
    """The pgbench measurement of the same load, with one client if the measurement has one, otherwise with 32."""
    _, load, clients = name.split("-")
    return None if load == "library" or name.startswith("route") else f"pgbench-{load}-{1 if clients == '1' else 32}"


def _unbatched_for(name: str) -> str | None:
    """The measurement of the same load with batches of one charge. None for one client: it has no batches."""
    contender, load, clients = name.split("-")
    is_comparable = contender not in ("pgbench", "route") and load in ("many", "hot") and clients != "1"
    return f"unbatched-{load}-64" if is_comparable else None


_ROUTE: Final = "route-many-64"
COLUMNS: Final = (
    Column(title="per second", figure="per_second", form=",.0f"),
    Column(title="p50 ms", figure="p50_ms", form=".1f"),
    Column(title="p99 ms", figure="p99_ms", form=".1f"),
    Column(title="server µs", figure="server_micros", form=",.0f"),
    Column(title="PostgreSQL µs", figure="database_micros", form=",.0f"),
    Column(title="batches of 1 = 1", figure="per_second", form=".2f", against=_unbatched_for),
    Column(title="pgbench = 1", figure="per_second", form=".2f", against=_pgbench_for),
    Column(title="route's CPU = 1", figure="server_micros", form=".2f", against=lambda _: _ROUTE),
)
CAPTION: Final = (
    "Medians of {rounds} interleaved rounds of {seconds:g} s. Per second: charges; for reads and the route, requests. "
    "p50 and p99: latency of a request. µs: CPU of the server's and of PostgreSQL's processes for one charge or read. "
    "The last columns are ratios within a round: of the rate, and of server CPU."
)


def _goal(text: str, name: str, other: str, bound: float, aim: float, *, figure: str = "per_second") -> Goal:
    clients = int(name.rpartition("-")[2])
    return Goal(text=text, name=name, other=other, figure=figure, clients=clients, bound=bound, aim=aim)


_MANY, _HOT, _PGBENCH, _PGBENCH_HOT = "server-many-64", "server-hot-64", "pgbench-many-32", "pgbench-hot-32"
GOALS: Final = (
    _goal("single charges, 10,000 accounts, against pgbench's minimal charge", _MANY, _PGBENCH, 0.5, 0.8),
    _goal("the same with 256 clients", "server-many-256", _PGBENCH, 0.65, 1.0),
    _goal("single charges, one hot account, against pgbench on one row", _HOT, _PGBENCH_HOT, 3.5, 6),
    _goal("chargeBatch(100), 10,000 accounts, against pgbench", "batch-many-16", _PGBENCH, 1.2, 2),
    _goal("chargeBatch(100), one account, against pgbench on one row", "batch-hot-16", _PGBENCH_HOT, 8, 13),
    _goal("single charges, 10,000 accounts, against batches of 1", _MANY, "unbatched-many-64", 1.5, 1.5),
    _goal("single charges, one hot account, against batches of 1", _HOT, "unbatched-hot-64", 4, 4),
    _goal("CPU of a charge, against a plain Starlette route", _MANY, _ROUTE, 2.5, 1.5, figure="server_micros"),
    _goal("p50 of a charge, one client, against pgbench", "server-many-1", "pgbench-many-1", 5, 2.5, figure="p50_ms"),
    _goal("balance query, against pgbench's read by key", "server-balance-64", "pgbench-balance-32", 0.25, 0.4),
    _goal("library page, against the same on stock Strawberry", "server-library-16", "stock-library-16", 4, 10),
)


def select(names: Collection[str]) -> list[Measurement]:
    """The measurements with one of these names, contenders or loads. Raises: ValueError: a name does not exist."""
    known = {part for one in ALL for part in (one.name, one.contender, one.load)}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"There is no {', '.join(unknown)}. Names: {', '.join(sorted(known))}.")
    return [one for one in ALL if {one.name, one.contender, one.load} & set(names)]


def needed_for_goals() -> list[Measurement]:
    names = {name for goal in GOALS for name in (goal.name, goal.other)}
    return [one for one in ALL if one.name in names]


def section(measurements: Sequence[Measurement], rounds: Rounds, *, seconds: float) -> Section:
    return Section(
        name="charges",
        rounds=rounds,
        labels=("", "accounts", "clients"),
        rows={one.name: (one.title, one.accounts, str(one.clients)) for one in measurements},
        columns=COLUMNS,
        goals=GOALS,
        caption=CAPTION.format(rounds=len(rounds), seconds=seconds),
    )


@dataclass(slots=True)
class Contenders:
    """The running contenders."""

    directory: Path
    database_pids: list[int]
    key: str = "none"
    """A service key of all ledgers."""
    urls: dict[Contender, str] = field(default_factory=dict)
    servers: dict[Contender, Server] = field(default_factory=dict)
    acknowledged: dict[Contender, int] = field(default_factory=dict)
    """Charges that were acknowledged to clients, by ledger."""

    async def measure(self, measurement: Measurement, *, number: int, seconds: float) -> LoadResult:
        """Raises: BenchmarkFailed: a request was refused, or a client failed."""
        run = f"{measurement.name}-{number:03d}"
        await asyncio.sleep(PAUSE_SECONDS)
        if measurement.contender == "pgbench":
            await pgbench.remove_entries(self.urls["pgbench"])
            result = await asyncio.to_thread(
                pgbench.run, self.urls["pgbench"], measurement.load, clients=measurement.clients, seconds=seconds,
                directory=self.directory, name=run, database_pids=self.database_pids,
            )  # fmt: skip
        else:
            server = self.servers[measurement.process]
            plan = LoadPlan(
                request=measurement.request, load=measurement.load, port=server.port,
                key=self.key, run=run, connections=measurement.clients, seconds=seconds, server_pids=[server.pid],
                database_pids=self.database_pids if measurement.ledger else [],
            )  # fmt: skip
            result = await asyncio.to_thread(wrk.send_load, plan)
        result.check(run)
        if measurement.ledger in self.acknowledged and measurement.request in ("charge", "batch"):
            self.acknowledged[measurement.ledger] += result.acknowledged
        return result

    async def verify_ledgers(self) -> dict[str, tuple[bool, str]]:
        """By contender: whether its ledger is valid and has exactly the acknowledged charges, and a text about it."""
        found: dict[str, tuple[bool, str]] = {}
        for contender, acknowledged in self.acknowledged.items():
            is_valid, text = await asyncio.to_thread(environment.verify_ledger, self.urls[contender])
            recorded = await databases.fetch(self.urls[contender], RECORDED)
            text = f"{text}; {recorded:,} charges recorded, {acknowledged:,} acknowledged"
            found[contender] = is_valid and recorded == acknowledged, text
        return found


@asynccontextmanager
async def started(measurements: list[Measurement], directory: Path) -> AsyncIterator[Contenders]:
    """Start the servers that these measurements need, with filled databases, and warm them up."""
    loads = {one.load for one in measurements}
    with ExitStack() as stack:
        progress("starting PostgreSQL")
        postgres = stack.enter_context(environment.temporary_postgres(directory / "postgres"))
        found = Contenders(directory, [postgres.server.pid])
        await _create_databases(found, measurements, postgres.url)
        progress("starting the servers")
        for contender in sorted({one.process for one in measurements} - {"pgbench"}):
            server = found.servers[contender] = stack.enter_context(_server(found, contender))
            if contender in SETTINGS:
                tasks = [task for load in sorted(loads) for task in task_ids(load)]
                await databases.query_tasks(server.url, found.key, tasks)
        await _warm_up(found, measurements)
        yield found


async def _create_databases(found: Contenders, measurements: list[Measurement], server_url: str) -> None:
    """Fill the first ledger. The others are copies of it."""
    ledgers = {one.ledger for one in measurements}
    loads = {one.load for one in measurements}
    for contender in [one for one in SETTINGS if one in ledgers]:
        progress(f"creating the accounts of {contender}")
        template = next(iter(found.urls), None)
        url = found.urls[contender] = await databases.create(server_url, contender, template=template)
        if template is None:
            many = MANY_ACCOUNTS if loads & {"many", "balance"} else 0
            found.key = await databases.fill(url, many=many, hot="hot" in loads)
        found.acknowledged[contender] = 0
    if "pgbench" in ledgers:
        found.urls["pgbench"] = await databases.create(server_url, "pgbench")
        await pgbench.create(found.urls["pgbench"])
    if "library" in loads:
        progress("creating the library page")
        found.acknowledged["server"] = await databases.fill_library(found.urls["server"])


def _server(found: Contenders, contender: Contender) -> AbstractContextManager[Server]:
    url = found.urls.get("server" if contender == "stock" else contender, "")  # the route has no database
    settings = environment.server_settings(url, **SETTINGS.get(contender, {}))
    command = REFERENCE_SERVERS.get(contender, ("app", "serve"))
    return environment.running_server(contender, *command, directory=found.directory, **settings)


async def _warm_up(found: Contenders, measurements: list[Measurement]) -> None:
    """Take one short measurement of each kind. Then servers have filled their caches, and PostgreSQL has statistics."""
    done: set[tuple[Contender, str]] = set()
    for measurement in measurements:
        kind = (measurement.process, measurement.load if measurement.load in ("balance", "library") else "charges")
        if kind not in done:
            done.add(kind)
            progress(f"warming up {measurement.name}")
            await found.measure(measurement, number=0, seconds=1)
            if measurement.ledger is not None:
                await databases.analyze(found.urls[measurement.ledger])
