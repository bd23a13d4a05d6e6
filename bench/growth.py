"""Growth: whether a charge or a page of history costs more in a larger ledger.

Charges are measured with so many entries in their one account, and with so many in a ledger of 1,000 accounts; pages of
an account's history at its beginning and deep in it. Each size is a database of its own with a server of its own, so
that every round visits all sizes. All entries are made by the charge path.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from app.auth import development_keys
from app.engine.pagination import encode_cursor
from bench import databases, environment, workload
from bench.charges import LedgerCheck, MeasurementFailed
from bench.environment import Server, precise_cpu_seconds
from bench.http_client import Connection, RatePlan, charge_at_rate
from bench.report import Column, Figures, Goal, Rounds, Section, percentile

ACCOUNT: Final = "account"
LEDGER: Final = "ledger"
PAGE: Final = "page"
TITLES: Final = {
    ACCOUNT: "a charge, entries in its one account",
    LEDGER: "a charge, entries in the ledger",
    PAGE: "a page of the history, at entry",
}
LEDGER_ACCOUNTS: Final = 1_000
DEPTHS: Final = (1, 10_000, 500_000)
"""Entries at which a page begins; the last one begins page 10,000."""
PAGE_SIZE: Final = 50
WARM_UP_SECONDS: Final = 1.0
FLAT: Final = 1.3
"""A cost that grows by at most this factor counts as constant."""

HISTORY: Final = (
    "query History($after: String) { account { entries(first: 50, after: $after) {"
    " edges { node { id seq kind credits balanceAfter effectiveAt } } pageInfo { hasNextPage endCursor } } } }"
)
HOT_ACCOUNT: Final = f"SELECT id FROM account WHERE owner_id = '{workload.HOT_OWNER}'"  # noqa: S608  our own constant
NEWEST_ENTRY: Final = f"SELECT seq FROM account WHERE owner_id = '{workload.HOT_OWNER}'"  # noqa: S608  our own constant


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`entries`: the sizes, ascending. `pages`: how many times a page is read in a round."""

    entries: tuple[int, ...] = (10_000, 100_000)
    rounds: int = 5
    seconds: float = 4.0
    per_second: float = 200.0
    pages: int = 200


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


def section(rounds: Rounds, options: Options) -> Section:
    """Each size is compared with the smallest of the same kind."""
    names = sorted({name for measured in rounds for name in measured}, key=_parts)
    smallest = {kind: name for name in reversed(names) for kind in [_parts(name)[0]]}

    def against(name: str) -> str:
        return smallest[_parts(name)[0]]

    rows = {name: (TITLES[kind], f"{size:,}") for name in names for kind, size in [_parts(name)]}
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
        caption=CAPTION.format(**asdict(options)),
        goals=[
            Goal(
                text=f"CPU of {title}: {size} against the smallest", name=name, other=against(name), figure="micros",
                clients=1, at_least=FLAT, aim=FLAT, lower_is_better=True,
            )
            for name, (title, size) in rows.items()
            if against(name) != name
        ],
    )  # fmt: skip


def _parts(name: str) -> tuple[str, int]:
    kind, size = name.split("-")
    return kind, int(size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ledger:
    """A database of one size, and the server on it."""

    kind: str
    size: int
    url: str
    key: str
    server: Server
    database_pids: list[int]

    @property
    def load(self) -> workload.Load:
        return "hot" if self.kind == ACCOUNT else "many"

    def cpu(self) -> tuple[float, float]:
        return precise_cpu_seconds([self.server.pid]), precise_cpu_seconds(self.database_pids)


def _tasks(kind: str) -> list[str]:
    if kind == ACCOUNT:
        return workload.task_ids("hot")
    return [workload.task_id("many", number) for number in range(LEDGER_ACCOUNTS)]


async def measure(
    directory: Path, options: Options, report: Callable[[str], object]
) -> tuple[list[dict[str, Figures]], list[LedgerCheck]]:
    """All rounds, and the verification of the largest ledgers. `report` receives each step as a text.

    Raises: FillFailed, ChargeFailed, ServerFailed; MeasurementFailed: a page has other entries than expected.
    """
    rounds: list[dict[str, Figures]] = []
    async with _started(directory, options, report) as ledgers:
        for ledger in ledgers:
            await _measure_charges(ledger, options, run="warm", seconds=WARM_UP_SECONDS)
        largest = [ledger for ledger in ledgers if ledger.size == max(options.entries)]
        [history] = [ledger for ledger in largest if ledger.kind == ACCOUNT]
        for number in range(options.rounds):
            report(f"round {number + 1} of {options.rounds}")
            step = -1 if number % 2 else 1  # every second round is reversed
            measured: dict[str, Figures] = {}
            for ledger in ledgers[::step]:
                measured[f"{ledger.kind}-{ledger.size}"] = await _measure_charges(
                    ledger, options, run=f"round-{number:03d}", seconds=options.seconds
                )
            for depth in depths(history.size)[::step]:
                measured[f"{PAGE}-{depth}"] = await _measure_page(history, depth, options.pages)
            rounds.append(measured)
        report("verifying the largest ledgers")
        checks = []
        for ledger in largest:
            is_exact, text = await asyncio.to_thread(environment.verify_ledger, ledger.url)
            checks.append(LedgerCheck(contender=TITLES[ledger.kind], is_exact=is_exact, text=text))
    return rounds, checks


@asynccontextmanager
async def _started(directory: Path, options: Options, report: Callable[[str], object]) -> AsyncIterator[list[_Ledger]]:
    with ExitStack() as stack:
        postgres = stack.enter_context(environment.temporary_postgres(directory / "growth"))
        prepared: list[tuple[str, int, str, str]] = []
        for kind in (ACCOUNT, LEDGER):
            template, key = None, ""
            for size in options.entries:  # each is a copy of the one before, filled up
                name = f"{kind}_{size}"
                report(f"filling {name}")
                url = await databases.create(postgres.url, name, template=template)
                if template is None:
                    key = await databases.fill(url, many=LEDGER_ACCOUNTS if kind == LEDGER else 0, hot=kind == ACCOUNT)
                await databases.charge(url, _tasks(kind), size)
                prepared.append((kind, size, url, key))
                template = name
        report("starting the servers")
        ledgers = []
        for kind, size, url, key in prepared:
            settings = environment.server_settings(url)
            running = environment.running_server(f"{kind}_{size}", "app", "serve", directory=directory, **settings)
            server = stack.enter_context(running)
            await databases.query_tasks(server.url, key, _tasks(kind))
            ledgers.append(
                _Ledger(kind=kind, size=size, url=url, key=key, server=server, database_pids=[postgres.server.pid])
            )
        yield ledgers


def depths(entries: int) -> list[int]:
    """The `DEPTHS` at which an account with so many entries has a full page; if only one, its last full page too."""
    last = max(entries - PAGE_SIZE, 1)
    found = [depth for depth in DEPTHS if depth <= last]
    return found if len(found) > 1 else list(dict.fromkeys((1, last)))


async def _measure_charges(ledger: _Ledger, options: Options, *, run: str, seconds: float) -> Figures:
    plan = RatePlan(
        port=ledger.server.port, key=ledger.key, load=ledger.load, tasks=len(_tasks(ledger.kind)),
        run=run, per_second=options.per_second, seconds=seconds,
    )  # fmt: skip
    before = ledger.cpu()
    charges = await charge_at_rate(plan)
    return _figures(before, ledger.cpu(), [charge.answered_at - charge.sent_at for charge in charges])


async def _measure_page(ledger: _Ledger, depth: int, requests: int) -> Figures:
    """The page that begins with the entry at `depth` (the newest entry is at 1). Raises: MeasurementFailed."""
    account_id = await databases.fetch_number(ledger.url, HOT_ACCOUNT)
    newest = await databases.fetch_number(ledger.url, NEWEST_ENTRY)
    variables = {"after": None if depth == 1 else encode_cursor("entries", account_id, newest - depth + 2)}
    token = development_keys.user_token(workload.HOT_OWNER)
    connection = await Connection.open(ledger.server.port)
    try:
        response = await connection.query(token, HISTORY, variables)
        first = newest - depth + 1
        if _entry_numbers(response) != list(range(first, first - PAGE_SIZE, -1)):
            raise MeasurementFailed(f"the page at depth {depth:,} has other entries: {str(response)[:500]}")
        before, latencies = ledger.cpu(), []
        for _ in range(requests):
            sent_at = time.perf_counter()
            await connection.query(token, HISTORY, variables)
            latencies.append(time.perf_counter() - sent_at)
        return _figures(before, ledger.cpu(), latencies)
    finally:
        connection.close()


def _entry_numbers(response: Any) -> list[int]:
    match response:
        case {"data": {"account": {"entries": {"edges": edges}}}}:
            return [int(edge["node"]["seq"]) for edge in edges]
    return []


def _figures(before: tuple[float, float], after: tuple[float, float], latencies: list[float]) -> Figures:
    server, postgres = ((end - start) * 1e6 / len(latencies) for start, end in zip(before, after, strict=True))
    return {
        "p50_ms": percentile(latencies, 50) * 1_000,
        "server_micros": server,
        "database_micros": postgres,
        "micros": server + postgres,
    }
