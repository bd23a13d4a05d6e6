from collections import Counter
from dataclasses import replace

import pytest

from examples.simulation.actual_state import ActualAccount, ActualAgent, ActualState, ActualTask
from examples.simulation.expected_state import ExpectedState, OwnerAgent
from examples.simulation.reconciliation import (
    AgentSummary,
    CreditTotals,
    agent_summaries,
    credit_totals,
    differences,
    percentile,
)

ANNA_TRIAGE, ANNA_DIGEST, BO_TRIAGE = (
    OwnerAgent("anna", "triage"),
    OwnerAgent("anna", "digest"),
    OwnerAgent("bo", "triage"),
)


def replies() -> ExpectedState:
    """Anna: 100 granted, 500 bought; her tasks cost 10 + 5 - 4 and 20. Bo: 50 granted, a task that cost 0 and 7."""
    tally = ExpectedState()
    tally.record_grant("anna", "anna-grant", 100)
    tally.record_top_up("anna", "anna-top-up", 500)
    tally.record_grant("bo", "bo-grant", 50)
    tally.record_start("t1", ANNA_TRIAGE)
    tally.record_charge("t1", "t1-1", credits=10, seq=3, replayed=False)
    tally.record_charge("t1", "t1-2", credits=5, seq=4, replayed=False)
    tally.record_reversal("t1", "t1-1-part", 4)
    tally.record_start("t2", ANNA_DIGEST)
    tally.record_charge("t2", "t2-1", credits=20, seq=6, replayed=False)
    tally.record_start("t3", BO_TRIAGE)
    tally.record_charge("t3", "t3-1", credits=0, seq=None, replayed=False)
    tally.record_charge("t3", "t3-2", credits=7, seq=2, replayed=False)
    for task in tally.tasks.values():
        task.status = "COMPLETED"
    return tally


def the_api() -> ActualState:
    """What a sound server says after those replies; ten of Anna's credits have expired."""
    return ActualState(
        tasks={
            "t1": ActualTask(status="COMPLETED", steps=2, total=11, charged=15, reversed=4),
            "t2": ActualTask(status="COMPLETED", steps=1, total=20, charged=20, reversed=0),
            "t3": ActualTask(status="COMPLETED", steps=2, total=7, charged=7, reversed=0),
        },
        agents={ANNA_TRIAGE: ActualAgent(11, 1), ANNA_DIGEST: ActualAgent(20, 1), BO_TRIAGE: ActualAgent(7, 1)},
        accounts={
            "anna": ActualAccount(
                posted=559,
                available=559,
                version=7,
                by_kind=Counter({"GRANT": 100, "TOP_UP": 500, "CHARGE": -35, "REVERSAL": 4, "EXPIRY": -10}),
                left_in_grants=559,
            ),
            "bo": ActualAccount(
                posted=43, available=43, version=2, by_kind=Counter({"GRANT": 50, "CHARGE": -7}), left_in_grants=43
            ),
        },
    )


def test_a_sound_day_has_no_differences_and_one_sum() -> None:
    assert differences(replies(), the_api()) == []
    assert credit_totals(replies(), the_api()) == CreditTotals(
        task_costs=38, charges_less_reversals=38, left_the_accounts=38
    )
    assert credit_totals(replies(), the_api()).agree


def test_a_task_that_costs_otherwise_is_named_once_for_each_figure() -> None:
    seen = the_api()
    seen.tasks["t2"] = ActualTask(status="FAILED", steps=2, total=21, charged=22, reversed=1)

    assert differences(replies(), seen) == [
        "task t2, status: FAILED by the API, COMPLETED by the replies",
        "task t2, block runs: 2 by the API, 1 by the replies",
        "task t2, charged: 22 by the API, 20 by the replies",
        "task t2, reversed: 1 by the API, 0 by the replies",
        "task t2, total: 21 by the API, 20 by the replies",
    ]
    assert not credit_totals(replies(), seen).agree


def test_a_task_that_is_lost_or_made_up_is_named() -> None:
    seen = the_api()
    seen.tasks["t9"] = seen.tasks.pop("t3")

    assert differences(replies(), seen) == [
        "task t9 exists, and no reply said that it was started",
        "task t3 was started and is not there",
    ]


def test_an_agent_whose_sum_is_not_that_of_its_tasks_is_named() -> None:
    seen = the_api()
    seen.agents[ANNA_TRIAGE] = ActualAgent(12, 2)

    assert differences(replies(), seen) == [
        "agent triage of anna, total: 12 by the API, 11 by the replies",
        "agent triage of anna, tasks: 2 by the API, 1 by the replies",
    ]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("CHARGE", "account of anna, charges: 34 by the API, 35 by the replies"),
        ("REVERSAL", "account of anna, reversals: 5 by the API, 4 by the replies"),
        ("GRANT", "account of anna, grants: 101 by the API, 100 by the replies"),
        ("TOP_UP", "account of anna, top-ups: 501 by the API, 500 by the replies"),
    ],
)
def test_a_credit_too_many_in_an_account_is_named(kind: str, told: str) -> None:
    seen = the_api()
    anna = seen.accounts["anna"]
    kinds = anna.by_kind + Counter()  # a copy without the negative sums
    kinds.update(CHARGE=-35, EXPIRY=-10)
    kinds[kind] += 1
    seen.accounts["anna"] = replace(anna, by_kind=kinds, posted=560, available=560, left_in_grants=560)

    assert differences(replies(), seen) == [told]


def test_a_balance_that_is_not_its_entries_or_not_its_grants_is_named() -> None:
    seen = the_api()
    seen.accounts["bo"] = replace(seen.accounts["bo"], posted=44)

    assert differences(replies(), seen) == [
        "account of bo, posted and the sum of its entries: 44 by the API, 43 by the replies",
        "account of bo, posted and what its grants have left: 44 by the API, 43 by the replies",
    ]


def test_an_entry_of_a_kind_that_nobody_asked_for_is_named() -> None:
    seen = the_api()
    bo = seen.accounts["bo"]
    seen.accounts["bo"] = replace(bo, posted=44, left_in_grants=44, by_kind=bo.by_kind | Counter({"ADJUSTMENT": 1}))

    assert any("nobody asked for: ['ADJUSTMENT']" in told for told in differences(replies(), seen))


def test_what_contradicts_itself_in_the_replies_is_a_difference_too() -> None:
    tally = replies()
    tally.problems.append("something odd")

    assert differences(tally, the_api()) == ["something odd"]


def test_the_lines_of_agents_are_over_all_owners_dearest_first() -> None:
    assert agent_summaries(replies()) == [
        AgentSummary(agent_id="digest", tasks=1, block_runs=1, charged=20, reversed=0),
        AgentSummary(agent_id="triage", tasks=2, block_runs=4, charged=22, reversed=4),
    ]
    assert [(line.cost, line.average) for line in agent_summaries(replies())] == [(20, 20.0), (18, 9.0)]


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(200, 0, -1)]

    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (100.0, 198.0, 200.0)
    assert percentile([3.0], 50) == percentile([3.0], 99) == 3.0
