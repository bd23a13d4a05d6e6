"""The databases of the contenders: their accounts, each with credits and a running task, and the key that charges."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
from tortoise import Tortoise

from app import database, migrating
from app.callers import keys
from app.ledger import accounts, grants
from app.ledger.book import Source
from app.ledger.grants import GrantRequest
from app.main import open_books
from app.pricing import publishing
from app.settings import settings
from app.tasks import lifecycle, owners
from app.tasks.lifecycle import StartRequest
from bench import reference, reference_rows, scenarios

AT_ONCE: Final = 12
"""Accounts made at once: each posting waits for its commit."""

HOT_OWNER: Final = "hot"
PAGE: Final = 100
LOOK: Final = "query Look($taskIds: [ID!]!) { tasks(taskIds: $taskIds) { taskId } }"

Advanced = Callable[[int], object]
"""Called with how many more accounts are ready."""


async def create_database(server_url: str, name: str, *, template: str | None = None) -> str:
    """A database of this name on the server; its address. A template must have no connections."""
    connection = await asyncpg.connect(**database.credentials(server_url))
    await connection.execute(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
    await connection.close()
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


async def fill_product(url: str, advanced: Advanced) -> str:
    """This server's books, made by its own use cases; the service key that may charge."""
    open_books(settings())
    accounts.forget()
    owners.forget()
    await database.connect(url, posting_connections=AT_ONCE, read_connections=AT_ONCE)
    try:
        await migrating.apply()
        await publishing.load_default()
        key = await keys.development_key("bench")
        await _make(HOT_OWNER, [scenarios.task_id("hot", number) for number in range(scenarios.HOT_TASKS)])
        numbers = iter(range(scenarios.MANY_ACCOUNTS))

        async def make_some() -> None:
            for number in numbers:
                await _make(f"owner-{number}", [scenarios.task_id("many", number)])
                advanced(1)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(make_some())
        return key
    finally:
        await database.disconnect()


async def _make(owner_id: str, task_ids: Iterable[str]) -> None:
    await grants.grant(
        GrantRequest(
            owner_id=owner_id,
            credits=scenarios.GRANTED_CREDITS,
            source=Source.PROMOTIONAL,
            reason="for the bench",
            key="bench",
            actor="operator:bench",
        )
    )
    for task_id in task_ids:
        await lifecycle.start(StartRequest(task_id=task_id, owner_id=owner_id, agent_id="agent", actor="service:bench"))


async def fill_reference(url: str) -> str:
    """The reference server's tables and rows; the service key that may charge."""
    async with reference.connected(url):
        await Tortoise.generate_schemas()
        many = range(scenarios.MANY_ACCOUNTS)
        owners = [HOT_OWNER, *(f"owner-{number}" for number in many)]
        await reference_rows.Account.bulk_create(
            [
                reference_rows.Account(id=place, owner_id=owner_id, balance=scenarios.GRANTED_CREDITS)
                for place, owner_id in enumerate(owners)
            ]
        )
        of_account = [(scenarios.task_id("hot", number), 0) for number in range(scenarios.HOT_TASKS)]
        of_account += [(scenarios.task_id("many", number), number + 1) for number in many]
        await reference_rows.Task.bulk_create(
            [reference_rows.Task(id=task_id, account_id=account_id) for task_id, account_id in of_account]
        )
        return await keys.development_key("bench")


async def introduce(url: str, key: str) -> None:
    """Have a server look at every task once, so that it knows them as one that has started them does."""
    tasks = [scenarios.task_id("many", number) for number in range(scenarios.MANY_ACCOUNTS)]
    tasks += [scenarios.task_id("hot", number) for number in range(scenarios.HOT_TASKS)]
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        for start in range(0, len(tasks), PAGE):
            asked = {"query": LOOK, "variables": {"taskIds": tasks[start : start + PAGE]}}
            answer = (await client.post("/graphql", json=asked)).json()
            if "errors" in answer or None in answer["data"]["tasks"]:
                raise RuntimeError(f"the bench's own tasks are not found: {answer}")


async def settle(url: str) -> None:
    """Tidy up and count rows, as PostgreSQL itself does after a while. On empty tables it would do harm: a plan made
    for those is kept."""
    connection = await asyncpg.connect(**database.credentials(url))
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
