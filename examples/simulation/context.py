"""What everybody who acts in a day shares: the names of this run, the client, the tally, each owner's standing."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from examples.simulation.client import Client, Tokens, UnexpectedResponse
from examples.simulation.expected_state import ExpectedState, OwnerAgent
from examples.simulation.profiles import OwnerProfile
from examples.simulation.workload import Task, Workload


@dataclass(slots=True)
class Owner:
    """An owner during the day. `credited` counts its top-ups: of many tasks that find it empty, one tops it up."""

    id: str
    habit: OwnerProfile
    token: str
    top_up_count: int = 0
    topping_up: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True, kw_only=True)
class Context:
    run_id: str
    day: Workload
    client: Client
    tokens: Tokens
    owners: list[Owner]
    log: Callable[[str], None]
    """Tells what happens, for whoever wants all of it."""
    task_done: Callable[[], None]
    """Called once for each task that is over or will not be."""
    expected: ExpectedState = field(default_factory=ExpectedState)
    price_mismatches: list[str] = field(default_factory=list)
    """Amounts that are not what the card said at the beginning: wrong, unless a new card has come into force since."""
    last_expiry_at: datetime | None = None
    """When the last promotional grant has expired, by the server's clock: from then on time alone changes nothing."""

    def task_id(self, task: Task) -> str:
        return f"{self.run_id}-task-{task.number}"

    def agent_id(self, agent: int) -> str:
        return f"{self.run_id}-{self.day.agents[agent].name}"

    def pair(self, task: Task) -> OwnerAgent:
        return OwnerAgent(self.owners[task.owner].id, self.agent_id(task.agent))

    def add_problem(self, text: str) -> None:
        self.expected.problems.append(text)

    def add_price_mismatch(self, text: str) -> None:
        self.price_mismatches.append(text)

    def skip(self, tasks: int) -> None:
        for _ in range(tasks):
            self.task_done()


def descendants(task: Task) -> int:
    """How many tasks are nested in it, at any depth."""
    return sum(1 + descendants(child) for child in task.children)


def expect_success(answer: Any, what: str) -> Any:
    """The success. Raises: Unexpected: it is a refusal, for which there is no reason."""
    if answer["__typename"].endswith("Success"):
        return answer
    raise UnexpectedResponse(f"{what} was refused: {answer['__typename']}: {answer.get('message')}")
