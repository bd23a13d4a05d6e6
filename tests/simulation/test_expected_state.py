import pytest

from examples.simulation.expected_state import ExpectedState, ExpectedTask, OwnerAgent

PAIR = OwnerAgent("anna", "triage")


@pytest.fixture
def tally() -> ExpectedState:
    tally = ExpectedState()
    tally.record_start("t1", PAIR)
    return tally


def test_a_charge_counts_once_however_often_it_is_answered(tally: ExpectedState) -> None:
    tally.record_charge("t1", "r1", credits=5, seq=2, replayed=False)
    for _ in range(3):
        tally.record_charge("t1", "r1", credits=5, seq=2, replayed=True)

    assert tally.tasks["t1"] == ExpectedTask(PAIR, charged=5, steps=1)
    assert tally.events["replays"] == 3
    assert tally.problems == []


def test_a_charge_whose_first_reply_was_lost_counts_by_its_replay(tally: ExpectedState) -> None:
    tally.record_charge("t1", "r1", credits=5, seq=2, replayed=True)

    assert tally.tasks["t1"].charged == 5
    assert tally.problems == []


def test_of_two_replies_at_once_the_replay_may_arrive_first(tally: ExpectedState) -> None:
    tally.record_charge("t1", "r1", credits=5, seq=2, replayed=True)
    tally.record_charge("t1", "r1", credits=5, seq=2, replayed=False)

    assert tally.tasks["t1"].charged == 5
    assert tally.problems == []


def test_a_block_run_that_moves_credits_twice_is_a_problem(tally: ExpectedState) -> None:
    tally.record_charge("t1", "r1", credits=5, seq=2, replayed=False)
    tally.record_charge("t1", "r1", credits=5, seq=2, replayed=False)

    assert tally.problems == ["block run r1 was charged twice"]


@pytest.mark.parametrize(("credits", "seq"), [(6, 2), (5, 3)])
def test_a_replay_that_says_something_else_is_a_problem(tally: ExpectedState, credits: int, seq: int) -> None:
    tally.record_charge("t1", "r1", credits=5, seq=2, replayed=False)
    tally.record_charge("t1", "r1", credits=credits, seq=seq, replayed=True)

    assert len(tally.problems) == 1
    assert tally.problems[0].startswith("block run r1 was answered with ")
    assert tally.tasks["t1"].charged == 5


def test_the_same_block_run_id_of_two_owners_is_two_block_runs(tally: ExpectedState) -> None:
    tally.record_start("t2", OwnerAgent("bo", "triage"))
    tally.record_charge("t1", "r1", credits=5, seq=2, replayed=False)
    tally.record_charge("t2", "r1", credits=7, seq=2, replayed=False)

    assert (tally.tasks["t1"].charged, tally.tasks["t2"].charged, tally.block_runs) == (5, 7, 2)
    assert tally.problems == []


def test_operations_count_once_by_their_key(tally: ExpectedState) -> None:
    for _ in range(2):
        tally.record_grant("anna", "g", 10)
        tally.record_top_up("anna", "u", 500)
        tally.record_reversal("t1", "v", 3)

    assert (tally.granted["anna"], tally.topped_up["anna"], tally.tasks["t1"].reversed) == (10, 500, 3)
    assert tally.problems == []


def test_an_operation_that_is_answered_with_two_amounts_is_a_problem(tally: ExpectedState) -> None:
    tally.record_grant("anna", "g", 10)
    tally.record_grant("anna", "g", 11)

    assert tally.problems == ["operation g was answered with 11 and with 10"]
    assert tally.granted["anna"] == 10
