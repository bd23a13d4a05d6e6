"""The expected state counts every charge, grant, top-up and reversal once, and records contradictions."""

import pytest

from examples.simulation.expected_state import ExpectedState, ExpectedTask, OwnerAgent

TRIAGE = OwnerAgent("anna", "triage")


@pytest.fixture
def expected() -> ExpectedState:
    expected = ExpectedState()
    expected.record_start("t1", TRIAGE)
    return expected


def test_a_charge_counts_once_however_often_it_is_answered(expected: ExpectedState) -> None:
    expected.record_charge("t1", "r1", credits=5, seq=2, replayed=False)
    for _ in range(3):
        expected.record_charge("t1", "r1", credits=5, seq=2, replayed=True)

    assert expected.tasks["t1"] == ExpectedTask(TRIAGE, charged=5, block_run_count=1)
    assert expected.events["replays"] == 3
    assert expected.problems == []


def test_a_charge_whose_first_response_was_lost_counts_by_its_replay(expected: ExpectedState) -> None:
    expected.record_charge("t1", "r1", credits=5, seq=2, replayed=True)

    assert expected.tasks["t1"].charged == 5
    assert expected.problems == []


def test_a_replay_may_arrive_before_the_first_response(expected: ExpectedState) -> None:
    expected.record_charge("t1", "r1", credits=5, seq=2, replayed=True)
    expected.record_charge("t1", "r1", credits=5, seq=2, replayed=False)

    assert expected.tasks["t1"].charged == 5
    assert expected.problems == []


def test_a_block_run_that_is_charged_twice_is_a_problem(expected: ExpectedState) -> None:
    expected.record_charge("t1", "r1", credits=5, seq=2, replayed=False)
    expected.record_charge("t1", "r1", credits=5, seq=2, replayed=False)

    assert expected.problems == ["block run r1 was charged twice"]


@pytest.mark.parametrize(("credits", "seq"), [(6, 2), (5, 3)])
def test_a_replay_with_other_values_is_a_problem(expected: ExpectedState, credits: int, seq: int) -> None:
    expected.record_charge("t1", "r1", credits=5, seq=2, replayed=False)
    expected.record_charge("t1", "r1", credits=credits, seq=seq, replayed=True)

    assert len(expected.problems) == 1
    assert expected.problems[0].startswith("block run r1 was answered with ")
    assert expected.tasks["t1"].charged == 5


def test_owners_may_use_the_same_block_run_id(expected: ExpectedState) -> None:
    expected.record_start("t2", OwnerAgent("bo", "triage"))
    expected.record_charge("t1", "r1", credits=5, seq=2, replayed=False)
    expected.record_charge("t2", "r1", credits=7, seq=2, replayed=False)

    assert (expected.tasks["t1"].charged, expected.tasks["t2"].charged, len(expected.charges)) == (5, 7, 2)
    assert expected.problems == []


def test_operations_count_once_by_their_idempotency_key(expected: ExpectedState) -> None:
    for _ in range(2):
        expected.record_grant("anna", "g", 10)
        expected.record_top_up("anna", "u", 500)
        expected.record_reversal("t1", "v", 3)

    assert (expected.granted["anna"], expected.topped_up["anna"], expected.tasks["t1"].reversed) == (10, 500, 3)
    assert expected.problems == []


def test_an_operation_that_is_answered_with_two_amounts_is_a_problem(expected: ExpectedState) -> None:
    expected.record_grant("anna", "g", 10)
    expected.record_grant("anna", "g", 11)

    assert expected.problems == ["operation g was answered with 11 and with 10"]
    assert expected.granted["anna"] == 10
