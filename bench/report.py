"""Results of a benchmark: medians over rounds, ratios within a round, goals, and the tables that show them.

Absolute rates say more about the machine than about the server, so every comparison is a ratio of two measurements of
the same round; the reported ratio is the median over the rounds.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

Figures = Mapping[str, float]
"""The figures of one measurement by name, for example {"p50_ms": 4.1}. A figure that was not measured is absent."""
Rounds = Sequence[Mapping[str, Figures]]
"""What each round measured, by the name of the measurement."""


def percentile(values: Sequence[float], percent: int) -> float:
    """Linear interpolation between the closest ranks; 0 for no values."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def median(rounds: Rounds, name: str, figure: str) -> float | None:
    """The median of one figure over the rounds; None where no round has it."""
    found = [measured[name][figure] for measured in rounds if figure in measured.get(name, {})]
    return statistics.median(found) if found else None


def ratio(rounds: Rounds, name: str, other: str, figure: str) -> float | None:
    """The median over the rounds of `name`'s figure divided by `other`'s of the same round.

    None where no round has both figures.
    """
    found = []
    for measured in rounds:
        value, divisor = (measured.get(one, {}).get(figure) for one in (name, other))
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

    def value(self, rounds: Rounds, name: str) -> float | None:
        if self.against is None:
            return median(rounds, name, self.figure)
        other = self.against(name)
        return None if other is None or other == name else ratio(rounds, name, other, self.figure)


def markdown_table(titles: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table that can be copied from the terminal into a Markdown document. The first column is left-aligned."""
    table = Table(box=box.MARKDOWN)
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound on a figure of `name`, or on its ratio to `other`. `lower_is_better`: both bounds are upper bounds."""

    text: str
    name: str
    other: str | None = None
    figure: str = "per_second"
    clients: int
    at_least: float
    aim: float
    lower_is_better: bool = False


@dataclass(frozen=True, slots=True)
class GoalResult:
    goal: Goal
    found: float

    @property
    def verdict(self) -> str:
        if self._holds(self.goal.aim):
            return "aim reached"
        return "reached" if self._holds(self.goal.at_least) else "not reached"

    def as_json(self) -> dict[str, Any]:
        return asdict(self.goal) | {"found": self.found, "verdict": self.verdict}

    def _holds(self, bound: float) -> bool:
        if self.goal.lower_is_better:
            return self.found <= bound
        return self.found >= bound


def goal_results(goals: Iterable[Goal], rounds: Rounds) -> list[GoalResult]:
    """The goals that these rounds can decide."""
    results = []
    for goal in goals:
        if goal.other is None:
            found = median(rounds, goal.name, goal.figure)
        else:
            found = ratio(rounds, goal.name, goal.other, goal.figure)
        if found is not None:
            results.append(GoalResult(goal, found))
    return results


def goals_table(results: Iterable[GoalResult]) -> Table:
    def cells(result: GoalResult) -> list[str]:
        goal, bound = result.goal, "≤ " if result.goal.lower_is_better else ""
        figures = [f"{bound}{goal.at_least:g}", f"{bound}{goal.aim:g}", f"{result.found:.3g}"]
        return [goal.text, f"{goal.clients:,}", *figures, result.verdict]

    return markdown_table(("goal", "clients", "at least", "aim", "found", "verdict"), map(cells, results))


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
        def cell(column: Column, name: str) -> str:
            value = column.value(self.rounds, name)
            return "" if value is None else format(value, column.form)

        return markdown_table(
            [*self.labels, *(column.title for column in self.columns)],
            ([*cells, *(cell(column, name) for column in self.columns)] for name, cells in self.rows.items()),
        )

    def as_json(self) -> dict[str, Any]:
        table = {name: {column.title: column.value(self.rounds, name) for column in self.columns} for name in self.rows}
        return {"table": table, "rounds": self.rounds}
