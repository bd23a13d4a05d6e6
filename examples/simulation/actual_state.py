"""Reads the actual state at the end: tasks, agents and accounts, through the API with an operator's token."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from examples.simulation import documents
from examples.simulation.client import Client, UnexpectedResponse
from examples.simulation.expected_state import OwnerAgent, TaskFigures

READERS: Final = 8


class AgentFigures(NamedTuple):
    total: int
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActualAccount:
    """An account. `entry_sums`: the signed sum of the entries of each kind. `remaining_in_grants`: of all grants."""

    posted: int
    available: int
    version: int
    entry_sums: Counter[str]
    remaining_in_grants: int

    @property
    def spent(self) -> int:
        return -self.entry_sums["CHARGE"] - self.entry_sums["REVERSAL"]


@dataclass(slots=True)
class ActualState:
    tasks: dict[str, TaskFigures] = field(default_factory=dict)
    agents: dict[OwnerAgent, AgentFigures] = field(default_factory=dict)
    accounts: dict[str, ActualAccount] = field(default_factory=dict)


async def read_actual_state(
    client: Client, token: str, owner_ids: Iterable[str], agents: Iterable[OwnerAgent]
) -> ActualState:
    """Read all pages of the accounts and agents. The accounts must not change meanwhile."""
    state, readers = ActualState(), asyncio.Semaphore(READERS)

    async def read_account(owner_id: str) -> None:
        async with readers:
            state.accounts[owner_id] = await _account(client, token, owner_id)

    async def read_agent(agent: OwnerAgent) -> None:
        async with readers:
            await _read_agent(client, token, agent, state)

    async with asyncio.TaskGroup() as group:
        for owner_id in owner_ids:
            group.create_task(read_account(owner_id))
        for agent in agents:
            group.create_task(read_agent(agent))
    return state


async def _account(client: Client, token: str, owner_id: str) -> ActualAccount:
    entry_sums: Counter[str] = Counter()
    balance: dict[str, Any] = {}
    async for account in _pages(client, token, documents.ENTRIES, "entries", ownerId=owner_id):
        balance = account["balance"]
        for edge in account["entries"]["edges"]:
            entry_sums[edge["node"]["kind"]] += edge["node"]["credits"]
    remaining = 0
    async for account in _pages(client, token, documents.GRANTS, "grants", ownerId=owner_id):
        remaining += sum(edge["node"]["remaining"] for edge in account["grants"]["edges"])
    return ActualAccount(
        posted=balance["posted"],
        available=balance["available"],
        version=balance["version"],
        entry_sums=entry_sums,
        remaining_in_grants=remaining,
    )


async def _read_agent(client: Client, token: str, key: OwnerAgent, state: ActualState) -> None:
    pages = _pages(client, token, documents.AGENT_TASKS, "tasks", ownerId=key.owner_id, agentId=key.agent_id)
    async for agent in pages:
        state.agents[key] = AgentFigures(agent["cost"]["total"], agent["cost"]["taskCount"])
        for edge in agent["tasks"]["edges"]:
            task, cost = edge["node"], edge["node"]["cost"]
            state.tasks[task["taskId"]] = TaskFigures(
                status=task["status"],
                block_runs=task["blockRunCount"],
                charged=cost["charged"],
                reversed=cost["reversed"],
                total=cost["total"],
            )


async def _pages(
    client: Client, token: str, operation: documents.Operation, connection: str, **variables: str
) -> AsyncIterator[Any]:
    after = None
    while True:
        found = await client.execute(token, operation, after=after, **variables)
        if found is None:
            raise UnexpectedResponse(f"{operation.name} {variables} does not exist")
        yield found
        page = found[connection]["pageInfo"]
        if not page["hasNextPage"]:
            return
        after = page["endCursor"]
