"""Prints the progress of the simulation, and tables at the end."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from math import ceil
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.simulation.reconciliation import agent_totals, credit_totals
from examples.simulation.runner import SimulationResult

LINE_EVERY_SECONDS: Final = 5.0
WIDTH: Final = 120
"""The width of tables if the output is a file or a pipe."""


def standard_output() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


class ProgressOutput(AbstractContextManager["ProgressOutput"]):
    """Shows a progress bar in a terminal, otherwise a line every few seconds. `verbose`: prints every event too."""

    def __init__(self, console: Console, *, verbose: bool) -> None:
        self.console = console
        self._verbose = verbose
        self._tasks = self._done = 0
        self._started_at = self._printed_at = time.monotonic()
        columns = TextColumn("Running"), BarColumn(), MofNCompleteColumn(), TextColumn("tasks"), TimeElapsedColumn()
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._row = self._bar.add_task("Running", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def log(self, text: str) -> None:
        if self._verbose:
            self.console.print(text, markup=False)

    def begin(self, tasks: int) -> None:
        self._tasks = tasks
        self._started_at = self._printed_at = time.monotonic()
        self._bar.update(self._row, total=tasks)
        if not self.console.is_terminal:
            self.console.print(f"Running {tasks:,} tasks")

    def task_done(self) -> None:
        self._done += 1
        self._bar.update(self._row, completed=self._done)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._printed_at >= LINE_EVERY_SECONDS:
            self._printed_at = now
            self.console.print(f"  {self._done:,} of {self._tasks:,} tasks after {now - self._started_at:.0f} s")


def print_results(console: Console, result: SimulationResult) -> None:
    """Print tables, totals, and every difference."""
    console.print(f"\nRun {result.run_id}: what the agents did")
    console.print(_agents_table(result))
    console.print("Requests")
    console.print(_requests_table(result))
    for line in (*_figures(result), *result.notes):
        console.print(line, markup=False)
    console.print(_totals_table(result))
    for difference in result.differences:
        console.print(f"  DIFFERENT  {difference}", markup=False)
    count = len(result.differences)
    console.print(f"Reconciliation: {f'{count:,} differences' if count else 'the API and the responses agree'}")


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest of the values that is at least as large as `percent` percent of them."""
    return sorted(values)[max(0, ceil(len(values) * percent / 100) - 1)]


def _table(first: str, *others: str) -> Table:
    table = Table(first)
    for title in others:
        table.add_column(title, justify="right")
    return table


def _agents_table(result: SimulationResult) -> Table:
    columns = ("tasks", "block runs", "charged", "reversed", "cost")
    table = _table("agent", *columns, "average a task")

    def add(name: str, totals: Counter[str]) -> None:
        table.add_row(name, *(f"{totals[column]:,}" for column in columns), f"{totals['cost'] / totals['tasks']:,.1f}")

    agents = agent_totals(result.expected)
    for agent_id, totals in agents.items():
        add(agent_id.removeprefix(f"{result.run_id}-"), totals)
    if agents:
        table.add_section()
        add("all", sum(agents.values(), Counter()))
    return table


def _requests_table(result: SimulationResult) -> Table:
    table = _table("operation", "requests", "p50 ms", "p99 ms")
    for name, seconds in sorted(result.client.latencies.items(), key=lambda item: -len(item[1])):
        p50, p99 = (f"{percentile(seconds, percent) * 1000:,.1f}" for percent in (50, 99))
        table.add_row(name, f"{len(seconds):,}", p50, p99)
    return table


def _figures(result: SimulationResult) -> list[str]:
    requests = sum(len(values) for values in result.client.latencies.values())
    runs = len(result.expected.charges)
    events = {**result.expected.events, **result.client.events}
    rate = f"{runs / result.seconds:,.0f} block runs a second"
    header = result.header
    return [
        f"{runs:,} block runs and {requests:,} requests in {result.seconds:.1f} s: {rate}",
        "; ".join(f"{name} {count:,}" for name, count in sorted(events.items())),
        f"The balance subscription received {len(header.items):,} items and ends at version {header.version:,}",
    ]


def _totals_table(result: SimulationResult) -> Table:
    totals = credit_totals(result.expected, result.actual)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_row("Sum of the tasks' costs", f"{totals.task_costs:,}")
    table.add_row("Charges - reversals in the responses", f"{totals.charges_less_reversals:,}")
    table.add_row("Spent by the accounts", f"{totals.spent_by_accounts:,}")
    return table
