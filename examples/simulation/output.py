"""What is shown of a day: a bar while it lasts (plain lines where there is no terminal), and tables at its end."""

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.simulation.reconciliation import agent_summaries, credit_totals, percentile
from examples.simulation.runner import SimulationResult

LINE_EVERY_SECONDS: Final = 5.0
PLAIN_WIDTH: Final = 120


def console() -> Console:
    """Standard output; in a file or a pipe wide enough for the tables."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


class ProgressOutput(AbstractContextManager["ProgressOutput"]):
    """Watches a day go by. `verbose`: tells everything that happens."""

    def __init__(self, console: Console, *, verbose: bool) -> None:
        self.console = console
        self._verbose = verbose
        self._tasks = self._done = 0
        self._began = self._told_at = time.monotonic()
        columns = TextColumn("Playing"), BarColumn(), MofNCompleteColumn(), TextColumn("tasks"), TimeElapsedColumn()
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._row = self._bar.add_task("Playing", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        if self._verbose:
            self.console.print(text, markup=False)

    def begin(self, tasks: int) -> None:
        self._tasks = tasks
        self._began = self._told_at = time.monotonic()
        self._bar.update(self._row, total=tasks)
        if not self.console.is_terminal:
            self.console.print(f"Playing {tasks:,} tasks")

    def moved_on(self) -> None:
        self._done += 1
        self._bar.update(self._row, completed=self._done)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._told_at >= LINE_EVERY_SECONDS:
            self._told_at = now
            self.console.print(f"  {self._done:,} of {self._tasks:,} tasks after {now - self._began:.0f} s")


def print_results(console: Console, played: SimulationResult) -> None:
    """The tables, the sums, and every difference."""
    console.print(f"\nRun {played.run_id}: what the agents did")
    console.print(_agents(played))
    console.print("What was asked")
    console.print(_operations(played))
    for line in (*_figures(played), *_header(played), *played.notes):
        console.print(line, markup=False)
    console.print(_sums(played))
    for difference in played.differences:
        console.print(f"  DIFFERENT  {difference}", markup=False)
    verdict = f"{len(played.differences):,} differences" if played.differences else "the API and the replies agree"
    console.print(f"Reconciliation: {verdict}")


def _agents(played: SimulationResult) -> Table:
    table = Table("agent")
    for name in ("tasks", "block runs", "charged", "reversed", "cost", "average a task"):
        table.add_column(name, justify="right")
    lines = agent_summaries(played.tally)
    for line in lines:
        table.add_row(
            line.agent_id.removeprefix(f"{played.run_id}-"),
            f"{line.tasks:,}",
            f"{line.block_runs:,}",
            f"{line.charged:,}",
            f"{line.reversed:,}",
            f"{line.cost:,}",
            f"{line.average:,.1f}",
        )
    table.add_section()
    tasks, cost = sum(line.tasks for line in lines), sum(line.cost for line in lines)
    table.add_row(
        "all",
        f"{tasks:,}",
        f"{sum(line.block_runs for line in lines):,}",
        f"{sum(line.charged for line in lines):,}",
        f"{sum(line.reversed for line in lines):,}",
        f"{cost:,}",
        f"{cost / max(tasks, 1):,.1f}",
    )
    return table


def _operations(played: SimulationResult) -> Table:
    table = Table("operation")
    for name in ("requests", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right")
    latencies = played.client.latencies
    for name, values in sorted(latencies.items(), key=lambda item: -len(item[1])):
        p50, p99 = (f"{percentile(values, percent) * 1000:,.1f}" for percent in (50, 99))
        table.add_row(name, f"{len(values):,}", p50, p99)
    return table


def _figures(played: SimulationResult) -> list[str]:
    requests = sum(len(values) for values in played.client.latencies.values())
    runs = played.tally.block_runs
    told = {**played.tally.events, **played.client.events}
    rate = f"{runs / played.seconds:,.0f} block runs a second"
    return [
        f"{runs:,} block runs and {requests:,} requests in {played.seconds:.1f} s: {rate}",
        "; ".join(f"{name} {count:,}" for name, count in sorted(told.items())),
    ]


def _header(played: SimulationResult) -> list[str]:
    header = played.header
    return [f"The header that was followed got {len(header.items):,} items and ends at version {header.version:,}"]


def _sums(played: SimulationResult) -> Table:
    found = credit_totals(played.tally, played.seen)
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_row("Sum of the tasks' costs", f"{found.task_costs:,}")
    table.add_row("Charges - reversals in the replies", f"{found.charges_less_reversals:,}")
    table.add_row("What left the accounts", f"{found.left_the_accounts:,}")
    return table
