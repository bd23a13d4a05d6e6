"""The arithmetic of the table of growth."""

import pytest

from bench import growth_report, growth_rounds
from bench.growth_report import Point, Sample


def a_sample(subject: str, size: int, *, server: float = 300.0, database: float = 200.0, p50_ms: float = 2.0) -> Sample:
    return Sample(
        point=Point(subject, size), requests=100, server_micros=server, database_micros=database, p50_ms=p50_ms
    )


ROUNDS = [
    [a_sample("charge", 10), a_sample("charge", 100, server=400.0), a_sample("page", 1), a_sample("page", 50)],
    [a_sample("page", 50), a_sample("page", 1), a_sample("charge", 100, p50_ms=3.0), a_sample("charge", 10)],
    [a_sample("charge", 10, server=4_800.0), a_sample("charge", 100, server=7_300.0), a_sample("page", 1)],
]


def test_a_ratio_is_to_the_smallest_of_the_same_subject_and_round() -> None:
    assert growth_report.ratio(ROUNDS, Point("charge", 100), lambda one: one.micros) == 1.2  # of 1.2, 1 and 1.5
    assert growth_report.ratio(ROUNDS, Point("page", 50), lambda one: one.micros) == 1.0
    assert growth_report.ratio(ROUNDS, Point("charge", 10), lambda one: one.micros) is None


def test_rows_are_medians_in_order_of_subject_and_size() -> None:
    rows = growth_report.rows(ROUNDS)

    assert [(row.subject, row.size) for row in rows] == [("charge", 10), ("charge", 100), ("page", 1), ("page", 50)]
    assert (rows[1].server_micros, rows[1].database_micros, rows[1].p50_ms) == (400.0, 200.0, 2.0)
    assert [(row.of_cpu, row.of_p50) for row in rows] == [(None, None), (1.2, 1.0), (None, None), (1.0, 1.0)]


def test_whatever_has_a_smaller_one_has_a_goal() -> None:
    grown = [[a_sample("charge", 10), a_sample("charge", 100, server=450.1), a_sample("charge", 1_000, server=450.0)]]

    goals = growth_report.goals(grown)

    assert [(goal.found, goal.reached) for goal in goals] == [(1.3002, False), (1.3, True)]


def test_the_table_is_markdown_with_a_line_for_each_row() -> None:
    table = growth_report.table(growth_report.rows(ROUNDS))

    assert [list(column.cells)[1] for column in table.columns] == ["charge", "100", "2.0", "400", "200", "1.20", "1.00"]


@pytest.mark.parametrize(
    ("entries", "depths"),
    [
        (1_000_000, [1, 10_000, 500_000]),
        (100_000, [1, 10_000]),
        (10_050, [1, 10_000]),
        (10_049, [1, 9_999]),
        (40, [1]),
    ],
)
def test_pages_are_as_deep_as_the_account_has_whole_ones(entries: int, depths: list[int]) -> None:
    assert growth_rounds.depths(entries) == depths
