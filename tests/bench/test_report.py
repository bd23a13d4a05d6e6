"""Medians, ratios, goals and tables of a benchmark."""

import pytest
from rich.console import Console
from rich.table import Table

from bench import report
from bench.report import Column, Goal, GoalResult, Section

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
    assert report.ratio(ROUNDS, "b", "a", "rate") == 2.0  # of 2, 3 and 1
    assert report.median(ROUNDS, "a", "p50_ms") == 6.0


def test_without_both_figures_there_is_no_ratio_and_a_rate_of_zero_counts() -> None:
    assert report.ratio(ROUNDS, "b", "a", "p50_ms") is None
    assert report.ratio(ROUNDS, "b", "c", "rate") is None
    assert report.median(ROUNDS, "b", "p50_ms") is None
    assert report.ratio([{"a": {"rate": 0.0}, "b": {"rate": 5.0}}], "a", "b", "rate") == 0.0
    assert report.ratio([{"a": {"rate": 5.0}, "b": {"rate": 0.0}}], "a", "b", "rate") is None


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
    assert section.as_json()["table"]["b"] == {"rate": 2_000.0, "p50": None, "a = 1": 2.0}


@pytest.mark.parametrize(
    ("lower_is_better", "found", "verdict"),
    [
        (False, 3.49, "not reached"),
        (False, 3.5, "reached"),
        (False, 6.0, "aim reached"),
        (True, 6.01, "not reached"),
        (True, 6.0, "reached"),
        (True, 3.5, "aim reached"),
    ],
)
def test_a_goal_is_reached_at_its_bound(lower_is_better: bool, found: float, verdict: str) -> None:
    at_least, aim = (6.0, 3.5) if lower_is_better else (3.5, 6.0)
    goal = Goal(text="", name="a", clients=1, at_least=at_least, aim=aim, lower_is_better=lower_is_better)

    assert GoalResult(goal, found).verdict == verdict


def test_goals_that_the_rounds_can_decide_are_shown_as_a_table_and_as_json() -> None:
    goals = [
        Goal(text="ratio", name="b", other="a", figure="rate", clients=64, at_least=3, aim=4),
        Goal(text="latency", name="a", figure="p50_ms", clients=1, at_least=10, aim=6, lower_is_better=True),
        Goal(text="not measured", name="c", figure="rate", clients=1, at_least=1, aim=1),
    ]

    results = report.goal_results(goals, ROUNDS)

    assert cells_of(report.goals_table(results))[2:] == [
        ["ratio", "64", "3", "4", "2", "not reached"],
        ["latency", "1", "≤ 10", "≤ 6", "6", "aim reached"],
    ]
    assert results[0].as_json() == {
        "text": "ratio", "name": "b", "other": "a", "figure": "rate", "clients": 64, "at_least": 3, "aim": 4,
        "lower_is_better": False, "found": 2.0, "verdict": "not reached",
    }  # fmt: skip
