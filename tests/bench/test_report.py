"""Medians, ratios, goals and tables of a benchmark."""

import pytest
from rich.console import Console
from rich.table import Table

from bench import report
from bench.report import Column, Goal, Section

ROUNDS = [
    {"a": {"rate": 1_000.0, "p50_ms": 4.0}, "b": {"rate": 2_000.0}},
    {"a": {"rate": 500.0, "p50_ms": 8.0}, "b": {"rate": 1_500.0}},
    {"a": {"rate": 4_000.0, "p50_ms": 6.0}, "b": {"rate": 4_000.0}},
]


def cells_of(table: Table) -> list[list[str]]:
    console = Console(width=220)
    with console.capture() as captured:
        console.print(table)
    lines = [line for line in captured.get().splitlines() if line.strip()]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(
    ("values", "p50", "p99"), [([], 0.0, 0.0), ([3.0], 3.0, 3.0), ([float(n) for n in range(101)], 50.0, 99.0)]
)
def test_percentiles_are_interpolated(values: list[float], p50: float, p99: float) -> None:
    assert (report.percentile(values, 50), report.percentile(values, 99)) == (p50, p99)


def test_a_ratio_is_the_median_of_the_ratios_within_each_round() -> None:
    assert report.median(ROUNDS, "rate", "b", "a") == 2.0  # of 2, 3 and 1
    assert report.median(ROUNDS, "p50_ms", "a") == 6.0


def test_without_both_figures_there_is_no_ratio_and_a_rate_of_zero_counts() -> None:
    assert report.median(ROUNDS, "p50_ms", "b", "a") is None
    assert report.median(ROUNDS, "rate", "b", "c") is None
    assert report.median([{"a": {"rate": 0.0}, "b": {"rate": 5.0}}], "rate", "a", "b") == 0.0
    assert report.median([{"a": {"rate": 5.0}, "b": {"rate": 0.0}}], "rate", "a", "b") is None


def test_the_results_table_is_markdown_with_empty_cells_for_missing_figures() -> None:
    columns = [
        Column(title="rate", figure="rate", form=",.0f"),
        Column(title="p50", figure="p50_ms", form=".1f"),
        Column(title="a = 1", figure="rate", form=".2f", against=lambda _: "a"),
    ]
    section = Section(
        name="", rounds=ROUNDS, labels=["", "clients"], rows={"a": ["A", "1"], "b": ["B", "2"]}, columns=columns,
        goals=[], caption="",
    )  # fmt: skip
    table = section.table()

    assert cells_of(table)[0] == ["", "clients", "rate", "p50", "a = 1"]
    assert cells_of(table)[2:] == [["A", "1", "1,000", "6.0", ""], ["B", "2", "2,000", "", "2.00"]]


@pytest.mark.parametrize(
    ("figure", "found", "verdict"),
    [
        ("per_second", 3.49, "not reached"),
        ("per_second", 3.5, "reached"),
        ("per_second", 6.0, "aim reached"),
        ("p50_ms", 6.01, "not reached"),
        ("p50_ms", 6.0, "reached"),
        ("p50_ms", 3.5, "aim reached"),
    ],
)
def test_a_goal_is_reached_at_its_bound(figure: str, found: float, verdict: str) -> None:
    bound, aim = (6.0, 3.5) if figure == "p50_ms" else (3.5, 6.0)

    assert Goal(text="", name="a", figure=figure, clients=1, bound=bound, aim=aim).verdict(found) == verdict


def test_goals_that_the_rounds_can_decide_are_shown() -> None:
    rounds = [{"a": {"per_second": 1_000.0, "p50_ms": 6.0}, "b": {"per_second": 2_000.0}}]
    goals = [
        Goal(text="ratio", name="b", other="a", clients=64, bound=3, aim=4),
        Goal(text="latency", name="a", figure="p50_ms", clients=1, bound=10, aim=6),
        Goal(text="not measured", name="c", clients=1, bound=1, aim=1),
    ]

    assert cells_of(report.goals_table(report.goal_results(goals, rounds)))[2:] == [
        ["ratio", "64", "3", "4", "2", "not reached"],
        ["latency", "1", "≤ 10", "≤ 6", "6", "aim reached"],
    ]
