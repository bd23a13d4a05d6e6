"""What the API says at the end of the day, read by the platform's backend: tasks, agents and accounts."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from examples.simulation.client import Client, UnexpectedResponse
from examples.simulation.documents import AGENT_TASKS, ENTRIES, GRANTS, Operation
from examples.simulation.expected_state import OwnerAgent

READERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ActualTask:
    status: str
    steps: int
    total: int
    charged: int
    reversed: int


@dataclass(frozen=True, slots=True)
class ActualAgent:
    total: int
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActualAccount:
    posted: int
    available: int
    version: int
    by_kind: Counter[str]
    """The sum of the entries of each kind, signed."""
    left_in_grants: int


@dataclass(slots=True)
class ActualState:
    tasks: dict[str, ActualTask] = field(default_factory=dict)
    agents: dict[OwnerAgent, ActualAgent] = field(default_factory=dict)
    accounts: dict[str, ActualAccount] = field(default_factory=dict)


async def read_actual_state(
    client: Client, token: str, owner_ids: Iterable[str], pairs: Iterable[OwnerAgent]
) -> ActualState:
    """All of it, page by page. Nothing may change meanwhile."""
    seen, places = ActualState(), asyncio.Semaphore(READERS)

    async def account(owner_id: str) -> None:
        async with places:
            seen.accounts[owner_id] = await _account(client, token, owner_id)

    async def agent(pair: OwnerAgent) -> None:
        async with places:
            await _agent(client, token, pair, seen)

    async with asyncio.TaskGroup() as group:
        for owner_id in owner_ids:
            group.create_task(account(owner_id))
        for pair in pairs:
            group.create_task(agent(pair))
    return seen


async def _account(client: Client, token: str, owner_id: str) -> ActualAccount:
    by_kind: Counter[str] = Counter()
    balance: dict[str, Any] = {}
    async for found in _pages(client, token, ENTRIES, "entries", ownerId=owner_id):
        balance = found["balance"]
        for edge in found["entries"]["edges"]:
            by_kind[edge["node"]["kind"]] += edge["node"]["credits"]
    left = 0
    async for found in _pages(client, token, GRANTS, "grants", ownerId=owner_id):
        left += sum(edge["node"]["remaining"] for edge in found["grants"]["edges"])
    return ActualAccount(
        posted=balance["posted"],
        available=balance["available"],
        version=balance["version"],
        by_kind=by_kind,
        left_in_grants=left,
    )


async def _agent(client: Client, token: str, pair: OwnerAgent, seen: ActualState) -> None:
    async for found in _pages(client, token, AGENT_TASKS, "tasks", ownerId=pair.owner_id, agentId=pair.agent_id):
        seen.agents[pair] = ActualAgent(found["cost"]["total"], found["cost"]["tasks"])
        for edge in found["tasks"]["edges"]:
            node, cost = edge["node"], edge["node"]["cost"]
            seen.tasks[node["taskId"]] = ActualTask(
                status=node["status"],
                steps=node["steps"],
                total=cost["total"],
                charged=cost["charged"],
                reversed=cost["reversed"],
            )


async def _pages(
    client: Client, token: str, operation: Operation, connection: str, **variables: str
) -> AsyncIterator[Any]:
    after = None
    while True:
        found = await client.execute(token, operation, after=after, **variables)
        if found is None:
            raise UnexpectedResponse(f"{operation.name} {variables} is not there")
        yield found
        page = found[connection]["pageInfo"]
        if not page["hasNextPage"]:
            return
        after = page["endCursor"]
