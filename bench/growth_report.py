"""The table of growth: medians over rounds, and ratios to the smallest of the same round."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.table import Table

from bench.goals import Goal

FLAT: Final = 1.3
"""What costs at most so many times as much is flat."""


@dataclass(frozen=True, slots=True)
class Point:
    """Something whose cost may grow with `size`: entries in the books, or how deep in a list a page lies."""

    subject: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one round found at one point: CPU and median latency of one request."""

    point: Point
    requests: int
    server_micros: float
    database_micros: float
    p50_ms: float

    @property
    def micros(self) -> float:
        """CPU of the server and of PostgreSQL."""
        return self.server_micros + self.database_micros


Round = Sequence[Sample]
Figure = Callable[[Sample], float]


def ratio(rounds: Sequence[Round], point: Point, figure: Figure) -> float | None:
    """The median of the rounds' ratios to the smallest size of the same subject; None: it is that, or was not
    measured."""
    found = []
    for samples in rounds:
        family = {one.point.size: one for one in samples if one.point.subject == point.subject}
        if point.size in family and (smallest := min(family)) != point.size and figure(family[smallest]):
            found.append(figure(family[point.size]) / figure(family[smallest]))
    return statistics.median(found) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One point's medians."""

    subject: str
    size: int
    p50_ms: float
    server_micros: float
    database_micros: float
    of_cpu: float | None
    """CPU, where that of the smallest is 1."""
    of_p50: float | None


def rows(rounds: Sequence[Round]) -> list[Row]:
    """By subject in the order of the first round, by size."""
    points = dict.fromkeys(one.point for samples in rounds for one in samples)
    subjects = list(dict.fromkeys(point.subject for point in points))

    def row(point: Point) -> Row:
        def median(figure: Figure) -> float:
            return statistics.median(figure(one) for samples in rounds for one in samples if one.point == point)

        return Row(
            subject=point.subject,
            size=point.size,
            p50_ms=median(lambda one: one.p50_ms),
            server_micros=median(lambda one: one.server_micros),
            database_micros=median(lambda one: one.database_micros),
            of_cpu=ratio(rounds, point, lambda one: one.micros),
            of_p50=ratio(rounds, point, lambda one: one.p50_ms),
        )

    return [row(point) for point in sorted(points, key=lambda point: (subjects.index(point.subject), point.size))]


def goals(rounds: Sequence[Round]) -> list[Goal]:
    """That the CPU at each size stays that of the smallest."""
    return [
        Goal(
            text=f"CPU of {row.subject}: {row.size:,} against the smallest",
            clients=1, at_least=FLAT, aim=FLAT, found=row.of_cpu, lower_is_better=True,
        )
        for row in rows(rounds)
        if row.of_cpu is not None
    ]  # fmt: skip


def table(found: Sequence[Row]) -> Table:
    """Markdown, so that what the terminal shows can stand in a README."""
    shown = Table(box=box.MARKDOWN)
    shown.add_column("", no_wrap=True)
    for title in ("size", "p50 ms", "server µs", "PostgreSQL µs", "CPU, smallest = 1", "p50, smallest = 1"):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in found:
        ratios = ["" if value is None else f"{value:.2f}" for value in (row.of_cpu, row.of_p50)]
        figures = [f"{row.size:,}", f"{row.p50_ms:.1f}", f"{row.server_micros:,.0f}", f"{row.database_micros:,.0f}"]
        shown.add_row(row.subject, *figures, *ratios)
    return shown
