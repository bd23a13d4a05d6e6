"""The table's arithmetic: medians over rounds, and ratios of what was measured in the same round."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich import box
from rich.table import Table

from bench.charges import Verdict
from bench.scenarios import ALONE, Contender, Load, Measurement
from bench.stopping import Delays
from bench.tally import Tally

Rounds = Sequence[Mapping[str, Tally]]
"""What each round measured, by the measurement's name."""

Figure = Callable[[Tally], float]

MICROS: Final = 1_000_000


def rate(tally: Tally) -> float:
    """Charges a second, or reads."""
    return tally.charges / tally.seconds


def server_micros(tally: Tally) -> float:
    """CPU of the server for one charge or read, in µs."""
    return tally.server_cpu_seconds * MICROS / tally.charges if tally.charges else 0.0


def database_micros(tally: Tally) -> float:
    """CPU of PostgreSQL for one charge or read, in µs."""
    return tally.database_cpu_seconds * MICROS / tally.charges if tally.charges else 0.0


def median(rounds: Rounds, name: str, figure: Figure) -> float:
    return statistics.median(figure(measured[name]) for measured in rounds)


def ratio(rounds: Rounds, name: str, other: str, figure: Figure) -> float | None:
    """The median of the rounds' ratios: what one round's noise does to both falls out. None: one was not measured."""
    found = [
        figure(measured[name]) / divisor
        for measured in rounds
        if name in measured and other in measured and (divisor := figure(measured[other]))
    ]
    return statistics.median(found) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement's medians, and what its rate is of others' at the same load."""

    name: str
    title: str
    accounts: str
    clients: int
    per_second: float
    p50_ms: float
    p99_ms: float
    server_micros: float | None
    database_micros: float | None
    of_reference: float | None
    of_cached: float | None
    of_single: float | None
    of_pgbench: float | None
    of_floor_cpu: float | None
    """Its server CPU, where the plain route's is 1."""


def row(measurement: Measurement, rounds: Rounds) -> Row:
    def against(contender: Contender, figure: Figure = rate, load: Load = measurement.load) -> float | None:
        # Who is alone is compared with who is alone; a crowd at this server with the usual one at another.
        alone = f"-{ALONE}" if measurement.connections == ALONE and figure is rate else ""
        other = f"{contender}-{load}{alone}"
        if measurement.contender == contender:
            return None
        return ratio(rounds, measurement.name, other, figure)

    has_books = measurement.contender != "floor"
    is_server = measurement.contender != "pgbench"
    return Row(
        name=measurement.name,
        title=measurement.title,
        accounts=("10,000" if measurement.load in {"many", "balance"} else "1") if has_books else "",
        clients=measurement.clients,
        per_second=median(rounds, measurement.name, rate),
        p50_ms=median(rounds, measurement.name, lambda tally: tally.p50_ms),
        p99_ms=median(rounds, measurement.name, lambda tally: tally.p99_ms),
        server_micros=median(rounds, measurement.name, server_micros) if is_server else None,
        database_micros=median(rounds, measurement.name, database_micros) if has_books else None,
        of_reference=against("reference") if has_books else None,
        of_cached=against("cached") if has_books else None,
        of_single=against("single") if has_books else None,
        of_pgbench=against("pgbench") if has_books else None,
        of_floor_cpu=against("floor", server_micros, "many") if is_server else None,
    )


COLUMNS: Final[dict[str, Callable[[Row], str]]] = {
    "accounts": lambda row: row.accounts,
    "clients": lambda row: str(row.clients),
    "per second": lambda row: f"{row.per_second:,.0f}",
    "p50 ms": lambda row: f"{row.p50_ms:.1f}",
    "p99 ms": lambda row: f"{row.p99_ms:.1f}",
    "server µs": lambda row: _number(row.server_micros, ",.0f"),
    "PostgreSQL µs": lambda row: _number(row.database_micros, ",.0f"),
    "reference = 1": lambda row: _number(row.of_reference, ".2f"),
    "with caches = 1": lambda row: _number(row.of_cached, ".2f"),
    "list size 1 = 1": lambda row: _number(row.of_single, ".2f"),
    "pgbench = 1": lambda row: _number(row.of_pgbench, ".2f"),
    "route's CPU = 1": lambda row: _number(row.of_floor_cpu, ".2f"),
}


def table(rows: Sequence[Row]) -> Table:
    """Markdown, so that what the terminal shows can stand in a README."""
    shown = Table(box=box.MARKDOWN)
    shown.add_column("", no_wrap=True)
    for title in COLUMNS:
        shown.add_column(title, justify="right", no_wrap=True)
    for one in rows:
        shown.add_row(one.title, *(cell(one) for cell in COLUMNS.values()))
    return shown


CAPTION: Final = (
    "Medians of {rounds} interleaved rounds of {seconds:g} s. Per second are charges, at the reads and the route "
    "requests. p50 and p99 are a request's latency; µs are the CPU of the server's processes, and of PostgreSQL's, for "
    "one charge or read. A ratio is the median of the rounds' own: of charges/s (reads/s) on the same accounts, and of "
    "server CPU to the plain route's."
)


def of_budget(rounds: Rounds) -> float | None:
    """Charges/s inside one budget, where those of the same task without one are 1."""
    return ratio(rounds, "gathered-budget", "gathered-task", rate)


def data(
    *,
    machine: Mapping[str, Any],
    rows: Sequence[Row],
    rounds: Rounds,
    verdicts: Sequence[Verdict],
    delays: Sequence[Delays] = (),
) -> dict[str, Any]:
    """All of it as data: what the machine is, the table, the books, and every round as it was measured."""
    return {
        "machine": machine,
        "table": [asdict(one) for one in rows],
        "budget": of_budget(rounds),
        "stop": [asdict(one) | {"median_ms": one.median_ms, "worst_ms": one.worst_ms} for one in delays],
        "books": [asdict(verdict) for verdict in verdicts],
        "rounds": [{name: asdict(tally) for name, tally in measured.items()} for measured in rounds],
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
