"""The arithmetic of the end: the replies against what the API says. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from examples.simulation.actual_state import ActualAccount, ActualState
from examples.simulation.expected_state import ExpectedState


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSummary:
    """What one agent did for all owners."""

    agent_id: str
    tasks: int
    block_runs: int
    charged: int
    reversed: int

    @property
    def cost(self) -> int:
        return self.charged - self.reversed

    @property
    def average(self) -> float:
        """Cost of a task."""
        return self.cost / self.tasks if self.tasks else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditTotals:
    """The same credits, found in three ways."""

    task_costs: int
    """By the API, over all tasks."""
    charges_less_reversals: int
    """By the replies."""
    left_the_accounts: int
    """By the accounts' entries."""

    @property
    def agree(self) -> bool:
        return self.task_costs == self.charges_less_reversals == self.left_the_accounts


def credit_totals(tally: ExpectedState, seen: ActualState) -> CreditTotals:
    return CreditTotals(
        task_costs=sum(task.total for task in seen.tasks.values()),
        charges_less_reversals=sum(task.charged - task.reversed for task in tally.tasks.values()),
        left_the_accounts=sum(spent(account) for account in seen.accounts.values()),
    )


def spent(account: ActualAccount) -> int:
    return -account.by_kind["CHARGE"] - account.by_kind["REVERSAL"]


def agent_summaries(tally: ExpectedState) -> list[AgentSummary]:
    """By agent, dearest first."""
    agents: dict[str, Counter[str]] = {}
    for task in tally.tasks.values():
        agents.setdefault(task.pair.agent_id, Counter()).update(
            tasks=1, block_runs=task.steps, charged=task.charged, reversed=task.reversed
        )
    lines = [
        AgentSummary(
            agent_id=agent_id,
            tasks=found["tasks"],
            block_runs=found["block_runs"],
            charged=found["charged"],
            reversed=found["reversed"],
        )
        for agent_id, found in agents.items()
    ]
    return sorted(lines, key=lambda line: (-line.cost, line.agent_id))


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest of the values that at least so many percent do not exceed."""
    return sorted(values)[max(0, ceil(len(values) * percent / 100) - 1)]


def differences(tally: ExpectedState, seen: ActualState) -> list[str]:
    """Everything in which the API and the replies do not agree."""
    return [*tally.problems, *_of_tasks(tally, seen), *_of_agents(tally, seen), *_of_accounts(tally, seen)]


def _of_tasks(tally: ExpectedState, seen: ActualState) -> Iterator[str]:
    for task_id in seen.tasks.keys() - tally.tasks.keys():
        yield f"task {task_id} exists, and no reply said that it was started"
    for task_id, task in tally.tasks.items():
        found = seen.tasks.get(task_id)
        if found is None:
            yield f"task {task_id} was started and is not there"
            continue
        yield from _unequal(f"task {task_id}, status", found.status, task.status)
        yield from _unequal(f"task {task_id}, block runs", found.steps, task.steps)
        yield from _unequal(f"task {task_id}, charged", found.charged, task.charged)
        yield from _unequal(f"task {task_id}, reversed", found.reversed, task.reversed)
        yield from _unequal(f"task {task_id}, total", found.total, task.charged - task.reversed)


def _of_agents(tally: ExpectedState, seen: ActualState) -> Iterator[str]:
    totals: Counter[object] = Counter()
    counts: Counter[object] = Counter()
    for task in tally.tasks.values():
        totals[task.pair] += task.charged - task.reversed
        counts[task.pair] += 1
    for pair, found in seen.agents.items():
        named = f"agent {pair.agent_id} of {pair.owner_id}"
        yield from _unequal(f"{named}, total", found.total, totals[pair])
        yield from _unequal(f"{named}, tasks", found.tasks, counts[pair])


def _of_accounts(tally: ExpectedState, seen: ActualState) -> Iterator[str]:
    charged: Counter[str] = Counter()
    reversed_: Counter[str] = Counter()
    for task in tally.tasks.values():
        charged[task.pair.owner_id] += task.charged
        reversed_[task.pair.owner_id] += task.reversed
    for owner_id, account in seen.accounts.items():
        kinds = account.by_kind
        named = f"account of {owner_id}"
        yield from _unequal(f"{named}, charges", -kinds["CHARGE"], charged[owner_id])
        yield from _unequal(f"{named}, reversals", kinds["REVERSAL"], reversed_[owner_id])
        yield from _unequal(f"{named}, grants", kinds["GRANT"], tally.granted[owner_id])
        yield from _unequal(f"{named}, top-ups", kinds["TOP_UP"], tally.topped_up[owner_id])
        yield from _unequal(f"{named}, posted and the sum of its entries", account.posted, kinds.total())
        yield from _unequal(f"{named}, posted and what its grants have left", account.posted, account.left_in_grants)
        if kinds["EXPIRY"] > 0 or account.available < 0:
            yield f"{named}: impossible figures: {account}"
        if unknown := kinds.keys() - {"CHARGE", "REVERSAL", "GRANT", "TOP_UP", "EXPIRY"}:
            yield f"{named}: entries that nobody asked for: {sorted(unknown)}"


def _unequal(what: str, by_the_api: object, by_the_replies: object) -> Iterator[str]:
    if by_the_api != by_the_replies:
        yield f"{what}: {by_the_api} by the API, {by_the_replies} by the replies"
