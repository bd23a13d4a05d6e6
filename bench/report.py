"""Results of a benchmark: medians over rounds, ratios within a round, goals, and the tables that show them.

Absolute rates say more about the machine than about the server, so every comparison is a ratio of two measurements of
the same round; the reported ratio is the median over the rounds.
"""

import operator
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

Figures = Mapping[str, float]
"""The figures of one measurement by name, for example {"p50_ms": 4.1}. A figure that was not measured is absent."""
Rounds = Sequence[Mapping[str, Figures]]
"""The figures of each round, by the name of the measurement."""
HIGHER_IS_BETTER = frozenset({"per_second", "throughput_kept"})
"""Figures whose goals are lower bounds; all other figures are costs and latencies."""


def percentile(values: Sequence[float], percent: int) -> float:
    """Linear interpolation between the closest ranks; 0 for no values."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def median(rounds: Rounds, figure: str, name: str, other: str | None = None) -> float | None:
    """The median over the rounds of one figure of `name`, or of its ratio to that of `other` in the same round.

    None if no round has the figures.
    """
    found = []
    for measured in rounds:
        value = measured.get(name, {}).get(figure)
        divisor = 1.0 if other is None else measured.get(other, {}).get(figure)
        if value is not None and divisor:
            found.append(value / divisor)
    return statistics.median(found) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table: the median of a figure, or its ratio to the measurement that `against` names."""

    title: str
    figure: str
    form: str
    against: Callable[[str], str | None] | None = None

    def cell(self, rounds: Rounds, name: str) -> str:
        other = self.against(name) if self.against else None
        if self.against and other in (None, name):
            return ""
        value = median(rounds, self.figure, name, other)
        return "" if value is None else format(value, self.form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound on a figure of `name`, or on its ratio to `other`, and a better value that is aimed at."""

    text: str
    name: str
    other: str | None = None
    figure: str = "per_second"
    clients: int
    bound: float
    aim: float

    def verdict(self, found: float) -> str:
        holds = operator.ge if self.figure in HIGHER_IS_BETTER else operator.le
        if holds(found, self.aim):
            return "aim reached"
        return "reached" if holds(found, self.bound) else "not reached"


def goal_results(goals: Iterable[Goal], rounds: Rounds) -> list[tuple[Goal, float]]:
    """The goals for which these rounds have figures, each with its figure or ratio."""
    results = ((goal, median(rounds, goal.figure, goal.name, goal.other)) for goal in goals)
    return [(goal, found) for goal, found in results if found is not None]


def goals_table(results: Iterable[tuple[Goal, float]]) -> Table:
    rows = []
    for goal, found in results:
        sign = "" if goal.figure in HIGHER_IS_BETTER else "≤ "
        bounds = f"{sign}{goal.bound:g}", f"{sign}{goal.aim:g}"
        rows.append([goal.text, f"{goal.clients:,}", *bounds, f"{found:.3g}", goal.verdict(found)])
    return markdown_table(("goal", "clients", "at least", "aim", "found", "verdict"), rows)


def markdown_table(titles: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table that can be copied from the terminal into a Markdown document. The first column is left-aligned."""
    table = Table(box=box.MARKDOWN)
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The results of one kind of measurement. `rows`: the cells under `labels`, by the name of the measurement."""

    name: str
    rounds: Rounds
    labels: Sequence[str]
    rows: Mapping[str, Sequence[str]]
    columns: Sequence[Column]
    goals: Sequence[Goal]
    caption: str

    def table(self) -> Table:
        return markdown_table(
            [*self.labels, *(column.title for column in self.columns)],
            (
                [*cells, *(column.cell(self.rounds, name) for column in self.columns)]
                for name, cells in self.rows.items()
            ),
        )
