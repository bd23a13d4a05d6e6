"""The expected state, computed from the responses: tasks, charges, reversals, grants, top-ups, and contradictions."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class OwnerAgent(NamedTuple):
    """An agent of one owner, for which the API returns a total."""

    owner_id: str
    agent_id: str


class Charge(NamedTuple):
    """A charge. `seq` is the number of its entry, or None if it cost 0."""

    task_id: str
    credits: int
    seq: int | None


class TaskFigures(NamedTuple):
    """The figures of a task that are compared. `total` is charged minus reversed."""

    status: str
    block_runs: int
    charged: int
    reversed: int
    total: int


@dataclass(slots=True)
class ExpectedTask:
    owner_agent: OwnerAgent
    status: str = "RUNNING"
    charged: int = 0
    reversed: int = 0
    block_run_count: int = 0

    @property
    def cost(self) -> int:
        return self.charged - self.reversed

    @property
    def figures(self) -> TaskFigures:
        return TaskFigures(self.status, self.block_run_count, self.charged, self.reversed, self.cost)


@dataclass(slots=True)
class ExpectedState:
    """The expected state, updated with every response. `problems` describes responses of an incorrect server."""

    tasks: dict[str, ExpectedTask] = field(default_factory=dict)
    charges: dict[tuple[str, str], Charge] = field(default_factory=dict)
    """By owner id and block run id."""
    granted: Counter[str] = field(default_factory=Counter)
    """Granted credits by owner id."""
    topped_up: Counter[str] = field(default_factory=Counter)
    """Bought credits by owner id."""
    events: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    _first_charges: set[tuple[str, str]] = field(default_factory=set)
    _amounts: dict[str, int] = field(default_factory=dict)

    def record_start(self, task_id: str, owner_agent: OwnerAgent) -> None:
        self.tasks[task_id] = ExpectedTask(owner_agent)

    def record_charge(self, task_id: str, block_run_id: str, *, credits: int, seq: int | None, replayed: bool) -> None:
        """Record a response to a charge. Several responses to the same charge count once."""
        task = self.tasks[task_id]
        key = (task.owner_agent.owner_id, block_run_id)
        charge = Charge(task_id, credits, seq)
        first = self.charges.setdefault(key, charge)
        if first != charge:
            self.problems.append(f"block run {block_run_id} was answered with {charge} and with {first}")
        elif first is charge:
            task.charged += credits
            task.block_run_count += 1
        if replayed:
            self.events["replays"] += 1
        elif key in self._first_charges:
            self.problems.append(f"block run {block_run_id} was charged twice")
        else:
            self._first_charges.add(key)

    def record_reversal(self, task_id: str, key: str, credits: int) -> None:
        """Record a response to a reversal with the idempotency key `key`. Several responses count once."""
        if self._is_first(key, credits):
            self.tasks[task_id].reversed += credits
            self.events["reversals"] += 1

    def record_grant(self, owner_id: str, key: str, credits: int) -> None:
        if self._is_first(key, credits):
            self.granted[owner_id] += credits
            self.events["grants"] += 1

    def record_top_up(self, owner_id: str, key: str, credits: int) -> None:
        if self._is_first(key, credits):
            self.topped_up[owner_id] += credits
            self.events["top-ups"] += 1

    def _is_first(self, key: str, credits: int) -> bool:
        first = self._amounts.get(key)
        if first is not None and first != credits:
            self.problems.append(f"operation {key} was answered with {credits} and with {first}")
        self._amounts.setdefault(key, credits)
        return first is None
