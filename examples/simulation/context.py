"""The state that all parts of a running simulation share: ids, the client, the expected state, and the owners."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from examples.simulation.client import Client, Tokens
from examples.simulation.expected_state import ExpectedState, OwnerAgent
from examples.simulation.workload import OwnerProfile, Task, Workload


@dataclass(slots=True)
class Owner:
    """An owner. `top_up_count` counts completed top-ups. It ensures that concurrent tasks do not top up repeatedly."""

    id: str
    profile: OwnerProfile
    token: str
    top_up_count: int = 0
    top_up_lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True, kw_only=True)
class Context:
    """The shared state.

    `log` is called with a text for every event. `task_done` is called for each task that has ended or will not start.
    """

    run_id: str
    workload: Workload
    client: Client
    tokens: Tokens
    owners: list[Owner]
    log: Callable[[str], None]
    task_done: Callable[[], None]
    expected: ExpectedState = field(default_factory=ExpectedState)
    price_mismatches: list[str] = field(default_factory=list)
    """Amounts that differ from the rate card read at the start. They are errors if that card is still in force."""
    last_expiry_at: datetime | None = None
    """When the last promotional grant expires, by the server's clock. After that, accounts change only by requests."""

    def task_id(self, task: Task) -> str:
        return f"{self.run_id}-task-{task.number}"

    def agent_id(self, agent: int) -> str:
        return f"{self.run_id}-{self.workload.agents[agent].name}"

    def owner_agent(self, task: Task) -> OwnerAgent:
        return OwnerAgent(self.owners[task.owner].id, self.agent_id(task.agent))

    def add_problem(self, text: str) -> None:
        self.expected.problems.append(text)

    def skip_children(self, task: Task) -> None:
        """Count the descendants of a task as done."""
        for child in task.children:
            self.task_done()
            self.skip_children(child)
