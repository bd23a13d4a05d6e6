"""The comparison of the responses with the actual state."""

from collections import Counter
from dataclasses import replace

import pytest

from examples.simulation.actual_state import ActualAccount, ActualState, AgentFigures
from examples.simulation.expected_state import ExpectedState, OwnerAgent, TaskFigures
from examples.simulation.output import percentile
from examples.simulation.reconciliation import (
    CreditTotals,
    agent_totals,
    credit_totals,
    differences,
)

ANNA_TRIAGE, ANNA_DIGEST, BO_TRIAGE = (
    OwnerAgent("anna", "triage"),
    OwnerAgent("anna", "digest"),
    OwnerAgent("bo", "triage"),
)


def responses() -> ExpectedState:
    """Anna: 100 granted, 500 bought; her tasks cost 10 + 5 - 4 and 20. Bo: 50 granted, a task that cost 0 and 7."""
    expected = ExpectedState()
    expected.record_grant("anna", "anna-grant", 100)
    expected.record_top_up("anna", "anna-top-up", 500)
    expected.record_grant("bo", "bo-grant", 50)
    expected.record_start("t1", ANNA_TRIAGE)
    expected.record_charge("t1", "t1-1", credits=10, seq=3, replayed=False)
    expected.record_charge("t1", "t1-2", credits=5, seq=4, replayed=False)
    expected.record_reversal("t1", "t1-1-part", 4)
    expected.record_start("t2", ANNA_DIGEST)
    expected.record_charge("t2", "t2-1", credits=20, seq=6, replayed=False)
    expected.record_start("t3", BO_TRIAGE)
    expected.record_charge("t3", "t3-1", credits=0, seq=None, replayed=False)
    expected.record_charge("t3", "t3-2", credits=7, seq=2, replayed=False)
    for task in expected.tasks.values():
        task.status = "COMPLETED"
    return expected


def api_state() -> ActualState:
    """The state of a correct server after those responses; ten of Anna's credits have expired."""
    return ActualState(
        tasks={
            "t1": TaskFigures(status="COMPLETED", block_runs=2, total=11, charged=15, reversed=4),
            "t2": TaskFigures(status="COMPLETED", block_runs=1, total=20, charged=20, reversed=0),
            "t3": TaskFigures(status="COMPLETED", block_runs=2, total=7, charged=7, reversed=0),
        },
        agents={ANNA_TRIAGE: AgentFigures(11, 1), ANNA_DIGEST: AgentFigures(20, 1), BO_TRIAGE: AgentFigures(7, 1)},
        accounts={
            "anna": ActualAccount(
                posted=559,
                available=559,
                version=7,
                entry_sums=Counter({"GRANT": 100, "TOP_UP": 500, "CHARGE": -35, "REVERSAL": 4, "EXPIRY": -10}),
                remaining_in_grants=559,
            ),
            "bo": ActualAccount(
                posted=43,
                available=43,
                version=2,
                entry_sums=Counter({"GRANT": 50, "CHARGE": -7}),
                remaining_in_grants=43,
            ),
        },
    )


def test_a_correct_server_has_no_differences_and_equal_totals() -> None:
    assert differences(responses(), api_state()) == []
    assert credit_totals(responses(), api_state()) == CreditTotals(
        task_costs=38, charges_less_reversals=38, spent_by_accounts=38
    )
    assert credit_totals(responses(), api_state()).agree


def test_each_wrong_value_of_a_task_is_a_difference() -> None:
    actual = api_state()
    actual.tasks["t2"] = TaskFigures(status="FAILED", block_runs=2, total=21, charged=22, reversed=1)

    assert differences(responses(), actual) == [
        "task t2, status: FAILED in the API, COMPLETED in the responses",
        "task t2, block runs: 2 in the API, 1 in the responses",
        "task t2, charged: 22 in the API, 20 in the responses",
        "task t2, reversed: 1 in the API, 0 in the responses",
        "task t2, total: 21 in the API, 20 in the responses",
    ]
    assert not credit_totals(responses(), actual).agree


def test_missing_and_unknown_tasks_are_differences() -> None:
    actual = api_state()
    actual.tasks["t9"] = actual.tasks.pop("t3")

    assert differences(responses(), actual) == [
        "task t9 exists, and no response said that it was started",
        "task t3 was started and does not exist",
    ]


def test_an_agent_total_that_is_not_the_sum_of_its_tasks_is_a_difference() -> None:
    actual = api_state()
    actual.agents[ANNA_TRIAGE] = AgentFigures(12, 2)

    assert differences(responses(), actual) == [
        "agent triage of anna, total: 12 in the API, 11 in the responses",
        "agent triage of anna, tasks: 2 in the API, 1 in the responses",
    ]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("CHARGE", "account of anna, charges: 34 in the API, 35 in the responses"),
        ("REVERSAL", "account of anna, reversals: 5 in the API, 4 in the responses"),
        ("GRANT", "account of anna, grants: 101 in the API, 100 in the responses"),
        ("TOP_UP", "account of anna, top ups: 501 in the API, 500 in the responses"),
    ],
)
def test_one_credit_too_many_in_an_account_is_a_difference(kind: str, text: str) -> None:
    actual = api_state()
    anna = actual.accounts["anna"]
    kinds = anna.entry_sums + Counter()  # a copy without the negative sums
    kinds.update(CHARGE=-35, EXPIRY=-10)
    kinds[kind] += 1
    actual.accounts["anna"] = replace(anna, entry_sums=kinds, posted=560, available=560, remaining_in_grants=560)

    assert differences(responses(), actual) == [text]


def test_a_balance_that_differs_from_its_entries_or_grants_is_a_difference() -> None:
    actual = api_state()
    actual.accounts["bo"] = replace(actual.accounts["bo"], posted=44)

    assert differences(responses(), actual) == [
        "account of bo: posted is 44, the sum of its entries 43",
        "account of bo: posted is 44, its grants have 43 remaining",
    ]


def test_an_entry_of_an_unexpected_kind_is_a_difference() -> None:
    actual = api_state()
    bo = actual.accounts["bo"]
    actual.accounts["bo"] = replace(
        bo, posted=44, remaining_in_grants=44, entry_sums=bo.entry_sums | Counter({"ADJUSTMENT": 1})
    )

    assert any("does not cause: ['ADJUSTMENT']" in text for text in differences(responses(), actual))


def test_problems_in_the_responses_are_differences() -> None:
    expected = responses()
    expected.problems.append("something odd")

    assert differences(expected, api_state()) == ["something odd"]


def test_agents_are_totalled_over_all_owners_highest_cost_first() -> None:
    totals = agent_totals(responses())

    assert list(totals) == ["digest", "triage"]
    assert totals["triage"] == {"tasks": 2, "block runs": 4, "charged": 22, "reversed": 4, "cost": 18}


def test_percentiles_are_measured_values() -> None:
    values = [float(value) for value in range(200, 0, -1)]

    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (100.0, 198.0, 200.0)
    assert percentile([3.0], 50) == percentile([3.0], 99) == 3.0
