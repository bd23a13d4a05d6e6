"""Compares the expected state (from the responses) with the actual state (read at the end)."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from examples.simulation.actual_state import ActualState, AgentFigures
from examples.simulation.expected_state import ExpectedState, OwnerAgent, TaskFigures

ENTRY_KINDS = {"CHARGE", "REVERSAL", "GRANT", "TOP_UP", "EXPIRY"}


class AccountFigures(NamedTuple):
    charges: int
    reversals: int
    grants: int
    top_ups: int


Figures = TaskFigures | AgentFigures | AccountFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditTotals:
    """The spent credits, computed in three ways: from the costs of the tasks, the responses, and the entries."""

    task_costs: int
    charges_less_reversals: int
    spent_by_accounts: int

    @property
    def agree(self) -> bool:
        return self.task_costs == self.charges_less_reversals == self.spent_by_accounts


def credit_totals(expected: ExpectedState, actual: ActualState) -> CreditTotals:
    return CreditTotals(
        task_costs=sum(task.total for task in actual.tasks.values()),
        charges_less_reversals=sum(task.cost for task in expected.tasks.values()),
        spent_by_accounts=sum(account.spent for account in actual.accounts.values()),
    )


def agent_totals(expected: ExpectedState) -> dict[str, Counter[str]]:
    """Return the totals of each agent over all owners, the highest cost first."""
    totals: dict[str, Counter[str]] = {}
    for task in expected.tasks.values():
        totals.setdefault(task.owner_agent.agent_id, Counter()).update(
            {
                "tasks": 1,
                "block runs": task.block_run_count,
                "charged": task.charged,
                "reversed": task.reversed,
                "cost": task.cost,
            }
        )
    return dict(sorted(totals.items(), key=lambda item: (-item[1]["cost"], item[0])))


def differences(expected: ExpectedState, actual: ActualState) -> list[str]:
    """Return every difference between the API and the responses, and every problem in the responses themselves."""
    return [
        *expected.problems,
        *_task_differences(expected, actual),
        *_agent_differences(expected, actual),
        *_account_differences(expected, actual),
    ]


def _task_differences(expected: ExpectedState, actual: ActualState) -> Iterator[str]:
    for task_id in actual.tasks.keys() - expected.tasks.keys():
        yield f"task {task_id} exists, and no response said that it was started"
    for task_id, task in expected.tasks.items():
        found = actual.tasks.get(task_id)
        if found is None:
            yield f"task {task_id} was started and does not exist"
            continue
        yield from _compare(f"task {task_id}", found, task.figures)


def _agent_differences(expected: ExpectedState, actual: ActualState) -> Iterator[str]:
    totals: Counter[OwnerAgent] = Counter()
    counts: Counter[OwnerAgent] = Counter()
    for task in expected.tasks.values():
        totals[task.owner_agent] += task.cost
        counts[task.owner_agent] += 1
    for key, found in actual.agents.items():
        yield from _compare(f"agent {key.agent_id} of {key.owner_id}", found, AgentFigures(totals[key], counts[key]))


def _account_differences(expected: ExpectedState, actual: ActualState) -> Iterator[str]:
    charged: Counter[str] = Counter()
    reversed_: Counter[str] = Counter()
    for task in expected.tasks.values():
        charged[task.owner_agent.owner_id] += task.charged
        reversed_[task.owner_agent.owner_id] += task.reversed
    for owner_id, account in actual.accounts.items():
        sums, name = account.entry_sums, f"account of {owner_id}"
        amounts = AccountFigures(-sums["CHARGE"], sums["REVERSAL"], sums["GRANT"], sums["TOP_UP"])
        granted, topped_up = expected.granted[owner_id], expected.topped_up[owner_id]
        yield from _compare(name, amounts, AccountFigures(charged[owner_id], reversed_[owner_id], granted, topped_up))
        if account.posted != sums.total():
            yield f"{name}: posted is {account.posted}, the sum of its entries {sums.total()}"
        if account.posted != account.remaining_in_grants:
            yield f"{name}: posted is {account.posted}, its grants have {account.remaining_in_grants} remaining"
        if sums["EXPIRY"] > 0 or account.available < 0:
            yield f"{name}: impossible amounts: {account}"
        if unknown := sums.keys() - ENTRY_KINDS:
            yield f"{name}: entries of kinds that the simulation does not cause: {sorted(unknown)}"


def _compare(name: str, actual: Figures, expected: Figures) -> Iterator[str]:
    for field, found, wanted in zip(actual._fields, actual, expected, strict=True):
        if found != wanted:
            yield f"{name}, {field.replace('_', ' ')}: {found} in the API, {wanted} in the responses"
