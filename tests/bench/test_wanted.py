"""The goals: which rounds tell of them, and what they say."""

from dataclasses import replace

from rich.console import Console

from bench import scenarios, wanted
from bench.goals import Goal
from bench.tally import Tally

TALLY = Tally(charges=1_000, seconds=2.0, p50_ms=4.0, p99_ms=9.0, server_cpu_seconds=0.5, database_cpu_seconds=0.25)


def a_tally(charges: int) -> Tally:
    return replace(TALLY, charges=charges)


def the_goal(**tallies: Tally) -> Goal:
    """Of one round of two measurements, whose names are given with _ for -."""
    [goal] = wanted.goals([{name.replace("_", "-"): tally for name, tally in tallies.items()}])
    return goal


def test_a_ratio_is_taken_within_a_round() -> None:
    quiet = {"single-many": a_tally(1_000), "gathered-many": a_tally(3_000)}
    noisy = {"single-many": a_tally(100), "gathered-many": a_tally(300)}

    [goal] = wanted.goals([quiet, noisy, {"single-many": a_tally(1_000), "gathered-many": a_tally(300)}])

    assert (goal.found, goal.at_least, wanted.verdict(goal)) == (3.0, 1.5, "aim reached")  # of the medians: 0.3


def test_a_goal_is_reached_at_its_mark_and_its_aim_at_its_own() -> None:
    found = [the_goal(gathered_hot=a_tally(charges), pgbench_hot=a_tally(1_000)) for charges in (3_499, 3_500, 6_000)]

    assert [(goal.at_least, goal.aim, goal.clients) for goal in found] == [(3.5, 6, 64)] * 3
    assert [wanted.verdict(goal) for goal in found] == ["not reached", "reached", "aim reached"]


def test_of_cpu_and_latency_less_is_better() -> None:
    slow, quick = (
        the_goal(gathered_many_1=replace(TALLY, p50_ms=p50_ms), pgbench_many_1=replace(TALLY, p50_ms=1.0))
        for p50_ms in (5.1, 2.5)
    )
    dear = the_goal(gathered_many=replace(TALLY, server_cpu_seconds=1.0), floor_many=TALLY)

    assert [(goal.clients, goal.found, wanted.verdict(goal)) for goal in (slow, quick)] == [
        (1, 5.1, "not reached"), (1, 2.5, "aim reached"),
    ]  # fmt: skip
    assert (dear.found, wanted.verdict(dear)) == (2.0, "reached")


def test_a_server_that_answered_nothing_is_not_the_quickest() -> None:
    nothing = {"gathered-many": replace(TALLY, charges=0), "floor-many": TALLY}
    something = {"gathered-many": replace(TALLY, server_cpu_seconds=2.0), "floor-many": TALLY}

    assert wanted.goals([nothing]) == []
    assert [goal.found for goal in wanted.goals([nothing, something, nothing])] == [4.0]


def test_without_both_sides_there_is_no_goal() -> None:
    assert wanted.goals([{"gathered-many": TALLY}]) == []
    assert wanted.goals([]) == []


def test_every_goal_is_of_two_measurements_that_there_are_and_a_full_run_tells_of_all() -> None:
    whole = [{measurement.name: TALLY for measurement in scenarios.ALL}]

    goals = wanted.goals(whole)

    assert [goal.text for goal in goals] == [one.text for one in wanted.WANTED]
    assert {goal.found for goal in goals} == {1.0}
    assert all(one.aim <= one.at_least if one.lower_is_better else one.aim >= one.at_least for one in wanted.WANTED)


def test_the_goals_are_shown_as_markdown_and_said_as_data() -> None:
    goals = wanted.goals([{"gathered-many": a_tally(2_500), "floor-many": TALLY, "pgbench-many": a_tally(10_000)}])
    console = Console(width=220)

    with console.capture() as captured:
        console.print(wanted.table(goals))

    lines = [line for line in captured.get().splitlines() if line.strip()]
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    assert cells[0] == ["goal", "clients", "at least", "aim", "found", "verdict"]
    assert [row[1:] for row in cells[2:]] == [
        ["64", "0.5", "0.8", "0.25", "not reached"],
        ["64", "≤ 2.5", "≤ 1.5", "0.4", "aim reached"],
    ]
    assert wanted.said(goals[1]) == {
        "text": "server CPU of a charge, against a plain Starlette route", "clients": 64, "at_least": 2.5, "aim": 1.5,
        "found": 0.4, "lower_is_better": True, "verdict": "aim reached",
    }  # fmt: skip


def test_what_the_goals_are_about_is_measured_without_the_rest() -> None:
    names = [measurement.name for measurement in wanted.measurements()]

    assert len(names) == len(set(names)) == 17
    assert {"gathered-many", "pgbench-many-1", "stock-library", "floor-many"} <= set(names)
    assert not {"reference-many", "plain-many", "gathered-task"} & set(names)
