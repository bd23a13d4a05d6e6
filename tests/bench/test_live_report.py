"""The arithmetic of the table of pushes, and the verdict on a goal."""

import pytest

from bench import live_report, wanted
from bench.goals import Goal
from bench.live_report import Contender, Sample
from bench.requests import Plan, requests_of


def a_sample(contender: Contender, *, cpu: float, p99_ms: float = 40.0, with_: float | None = None) -> Sample:
    """1,000 pushes in 10 s and one to drain, 0.01 of a core used idly."""
    return Sample(
        contender=contender, subscribers=1_000, accepted_per_second=500.0, kib_per_subscriber=20.0, idle_cpu=0.01,
        seconds=11.0, charging_seconds=10.0, server_cpu_seconds=cpu, charges=1_100, pushes=1_000, unseen=0, p50_ms=20.0,
        p99_ms=p99_ms, p50_after_answer_ms=10.0, p99_after_answer_ms=30.0,
        charges_without=None if with_ is None else 2_000.0, charges_with=with_,
        pushes_with=None if with_ is None else 900.0,
    )  # fmt: skip


def test_a_push_costs_what_the_server_uses_beyond_idling() -> None:
    sample = a_sample("live", cpu=0.13)

    assert sample.micros_per_push == pytest.approx(20.0)
    assert sample.pushes_per_second == 100.0


def test_a_row_holds_medians_and_nothing_where_nothing_was_measured() -> None:
    samples = [
        a_sample("live", cpu=cpu, with_=with_) for cpu, with_ in ((0.13, 1_000.0), (0.12, 1_900.0), (0.2, 1_800.0))
    ]

    [ours, stock] = live_report.rows([*samples, a_sample("stock", cpu=0.31)])

    assert ours.figures["CPU µs a push"] == pytest.approx(20.0)
    assert ours.figures["with"] == 1_800.0
    assert (stock.title, stock.figures["with"]) == ("stock Strawberry subscription", None)


def test_goals_are_of_rounds_and_of_the_usual_count() -> None:
    rounds = [
        (a_sample("live", cpu=0.12, with_=1_800.0), a_sample("stock", cpu=0.31)),
        (a_sample("live", cpu=0.21, p99_ms=90.0, with_=2_000.0), a_sample("stock", cpu=2.11)),
        (a_sample("live", cpu=0.31, p99_ms=60.0, with_=1_600.0), a_sample("stock", cpu=0.31)),
    ]

    goals = live_report.goals([one for pair in rounds for one in pair], 1_000)

    assert [goal.found for goal in goals] == [pytest.approx(0.05), 60.0, 0.9]  # of ratios 0.05, 0.05 and 1
    assert [(goal.reached, goal.aimed) for goal in goals] == [(True, True), (True, False), (True, False)]
    assert live_report.goals([one for pair in rounds for one in pair], 5_000) == []


def test_the_table_is_markdown_with_a_line_for_each_row() -> None:
    found = live_report.table(live_report.rows([a_sample("live", cpu=0.13), a_sample("stock", cpu=0.31)]))

    assert found.row_count == 2
    assert [str(column.header) for column in found.columns] == ["", *live_report.COLUMNS]


@pytest.mark.parametrize(
    ("found", "reached", "aimed", "verdict"),
    [(0.05, True, True, "aim reached"), (0.2, True, False, "reached"), (0.21, False, False, "not reached")],
)
def test_a_goal_from_above(found: float, reached: bool, aimed: bool, verdict: str) -> None:
    goal = Goal(text="CPU", clients=1, at_least=0.2, aim=0.1, found=found, lower_is_better=True)

    assert (goal.reached, goal.aimed) == (reached, aimed)
    assert wanted.verdict(goal) == verdict


def test_a_goal_from_below() -> None:
    goal = Goal(text="kept", clients=64, at_least=0.85, aim=0.95, found=0.9)

    assert wanted.verdict(goal) == "reached"


def test_requests_charge_another_run_of_an_account_that_is_listened_to_and_say_their_length() -> None:
    plan = Plan(
        kind="charge", load="many", port=1, key="k", run="run", connections=1, warm_up_seconds=0, seconds=1,
        server_pids=[], database_pids=[], tasks=3,
    )  # fmt: skip
    next_request = requests_of(plan)

    requests = [next_request() for _ in range(50)]

    for number, request in enumerate(requests):
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert f'"run-{number:08d}"'.encode() in body
    assert {bytes(request.partition(b'"taskId":"')[2][:11]) for request in requests} == {
        b"many-000000", b"many-000001", b"many-000002",
    }  # fmt: skip
