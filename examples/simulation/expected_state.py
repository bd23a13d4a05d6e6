"""What the replies said: every amount by what identifies it, and every reply that contradicts another."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class OwnerAgent(NamedTuple):
    """An agent for one owner: what the API sums up."""

    owner_id: str
    agent_id: str


class Charge(NamedTuple):
    task_id: str
    credits: int
    seq: int | None
    """Its entry; none at cost 0."""


@dataclass(slots=True)
class ExpectedTask:
    pair: OwnerAgent
    status: str = "RUNNING"
    charged: int = 0
    reversed: int = 0
    steps: int = 0


@dataclass(slots=True)
class ExpectedState:
    """Grows with the replies. `problems`: what no sound server would have said."""

    tasks: dict[str, ExpectedTask] = field(default_factory=dict)
    charges: dict[tuple[str, str], Charge] = field(default_factory=dict)
    """By owner and block run."""
    granted: Counter[str] = field(default_factory=Counter)
    topped_up: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    _moved: set[tuple[str, str]] = field(default_factory=set)
    _keys: dict[str, int] = field(default_factory=dict)

    def record_start(self, task_id: str, pair: OwnerAgent) -> None:
        self.tasks[task_id] = ExpectedTask(pair)

    def record_charge(self, task_id: str, block_run_id: str, *, credits: int, seq: int | None, replayed: bool) -> None:
        """One reply that says the block run is paid; the same charge may be answered many times, and moves once."""
        task = self.tasks[task_id]
        key = (task.pair.owner_id, block_run_id)
        charge = Charge(task_id, credits, seq)
        first = self.charges.setdefault(key, charge)
        if first != charge:
            self.problems.append(f"block run {block_run_id} was answered with {charge} and with {first}")
        elif first is charge:
            task.charged += credits
            task.steps += 1
        if replayed:
            self.events["replays"] += 1
        elif key in self._moved:
            self.problems.append(f"block run {block_run_id} was charged twice")
        else:
            self._moved.add(key)

    def record_reversal(self, task_id: str, key: str, credits: int) -> None:
        """One reply to a reversal; `key` is its idempotency key."""
        if self._first(key, credits):
            self.tasks[task_id].reversed += credits
            self.events["reversals"] += 1

    def record_grant(self, owner_id: str, key: str, credits: int) -> None:
        if self._first(key, credits):
            self.granted[owner_id] += credits
            self.events["grants"] += 1

    def record_top_up(self, owner_id: str, key: str, credits: int) -> None:
        if self._first(key, credits):
            self.topped_up[owner_id] += credits
            self.events["top-ups"] += 1

    @property
    def block_runs(self) -> int:
        return len(self.charges)

    def _first(self, key: str, credits: int) -> bool:
        first = self._keys.get(key)
        if first is not None and first != credits:
            self.problems.append(f"operation {key} was answered with {credits} and with {first}")
        self._keys.setdefault(key, credits)
        return first is None
