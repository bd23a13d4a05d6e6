"""What is measured: names, ledgers and goals of charges and reads, of live balances and of growth."""

import pytest

from bench import charges, growth, live, report
from bench.charges import Measurement
from bench.report import Figures
from bench.workload import Extent

FIGURES: Figures = {"per_second": 500.0, "p50_ms": 4.0, "p99_ms": 9.0, "server_micros": 250.0, "database_micros": 125.0}


def names(*chosen: str) -> list[str]:
    return [measurement.name for measurement in charges.select(chosen)]


def test_a_contender_a_load_or_one_measurement_can_be_selected() -> None:
    assert names("batch", "route") == ["batch-many-16", "batch-hot-16", "route-many-64"]
    assert names("server-hot-64") == ["server-hot-64"]
    assert all("-hot-" in name for name in names("hot"))
    assert names() == []
    with pytest.raises(ValueError, match=r"There is no nonsense. Names: balance, batch, "):
        names("nonsense", "hot")


def test_every_measurement_has_its_own_name_and_the_batch_and_stock_use_the_servers_ledger() -> None:
    assert len({measurement.name for measurement in charges.ALL}) == len(charges.ALL)
    [batch, stock, route, interpreted] = [
        Measurement("batch", "hot", 16), Measurement("stock", "library", 16), Measurement("route", "many", 64),
        Measurement("interpreted", "many", 64),
    ]  # fmt: skip
    assert (batch.process, batch.ledger, batch.request) == ("server", "server", "batch")
    assert (stock.process, stock.ledger, stock.request) == ("stock", "server", "library")
    assert (route.process, route.ledger, route.request) == ("route", None, "route")
    assert (interpreted.process, interpreted.ledger, interpreted.request) == ("interpreted", "interpreted", "charge")


def test_a_full_run_decides_every_goal_and_a_quick_run_measures_what_the_goals_compare() -> None:
    rounds = [{measurement.name: FIGURES for measurement in charges.ALL}]

    results = report.goal_results(charges.GOALS, rounds)

    assert results == [(goal, 1.0) for goal in charges.GOALS]
    quick = {measurement.name for measurement in charges.needed_for_goals()}
    assert quick == {name for goal in charges.GOALS for name in (goal.name, goal.other)}
    assert not {"interpreted-many-64", "workers-many-256"} & quick


@pytest.mark.parametrize("goal", [*charges.GOALS, *live.section([], Extent()).goals], ids=lambda goal: goal.text)
def test_an_aim_is_at_least_as_high_as_the_bound(goal: report.Goal) -> None:
    assert goal.verdict(goal.bound) == ("aim reached" if goal.bound == goal.aim else "reached")
    assert goal.verdict(goal.aim) == "aim reached"


@pytest.mark.parametrize(
    ("name", "pgbench", "unbatched"),
    [
        ("server-many-64", "pgbench-many-32", "unbatched-many-64"),
        ("server-many-256", "pgbench-many-32", "unbatched-many-64"),
        ("server-many-1", "pgbench-many-1", None),
        ("server-balance-64", "pgbench-balance-32", None),
        ("server-library-16", None, None),
        ("route-many-64", None, None),
    ],
)
def test_a_measurement_is_compared_with_the_same_load(name: str, pgbench: str | None, unbatched: str | None) -> None:
    against = {column.title: column.against for column in charges.COLUMNS if column.against}

    assert against["pgbench = 1"](name) == pgbench
    assert against["batches of 1 = 1"](name) == unbatched


def test_live_rounds_alternate_their_order_and_large_numbers_come_last() -> None:
    plan = live._plan(Extent(subscribers=10, rounds=2, more_subscribers=(50,)))

    assert plan == [[("server", 10), ("stock", 10)], [("stock", 10), ("server", 10)], [("server", 50)]]


def test_live_goals_compare_with_the_stock_subscription_of_the_same_round() -> None:
    rounds = [
        {
            "server-10": {"micros_per_push": micros, "p99_ms": 60.0, "throughput_kept": 0.9},
            "stock-10": {"micros_per_push": 400.0, "p99_ms": 90.0},
        }
        for micros in (20.0, 60.0, 400.0)
    ]

    section = live.section(rounds, Extent(subscribers=10))
    results = report.goal_results(section.goals, rounds)

    assert [(found, goal.verdict(found)) for goal, found in results] == [
        (pytest.approx(0.15), "reached"), (60.0, "reached"), (0.9, "reached"),
    ]  # fmt: skip
    assert section.rows["stock-10"] == ("stock Strawberry subscription", "10")


def test_growth_is_compared_with_the_smallest_size_of_the_same_kind() -> None:
    rounds = [
        {
            "page-1": {"micros": 200.0}, "page-50": {"micros": 100.0}, "charge-100": {"micros": 650.1},
            "charge-1000": {"micros": 650.0}, "charge-10": {"micros": 500.0},
        }
    ]  # fmt: skip

    section = growth.section(rounds, Extent())
    results = report.goal_results(section.goals, rounds)

    assert list(section.rows) == ["charge-10", "charge-100", "charge-1000", "page-1", "page-50"]
    assert [(goal.name, goal.verdict(found)) for goal, found in results] == [
        ("charge-100", "not reached"), ("charge-1000", "aim reached"), ("page-50", "aim reached"),
    ]  # fmt: skip
