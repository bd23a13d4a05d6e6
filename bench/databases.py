"""The databases of the contenders: their accounts, each with credits and a running task, and the key that charges."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
from tortoise import Tortoise

from app.auth import service_keys
from app.db import migrations, pools
from app.ledger import accounts, grants, posting
from app.ledger.grants import GrantRequest
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import Cause, GrantSource
from app.pricing import publishing
from app.settings import get_settings
from app.state import configure_ledger
from app.tasks import lifecycle, rows, task_accounts
from app.tasks.lifecycle import StartTaskRequest
from app.tasks.rules import TaskState, TaskStatus
from bench import reference, reference_rows, scenarios
from bench.scenarios import Load

AT_ONCE: Final = 12
"""Accounts made at once: each posting waits for its commit."""

LIST: Final = 256
"""Accounts made by one posting, of the many."""
REASON: Final = "for the bench"
EXECUTOR: Final = "service:bench"
HOT_OWNER: Final = "hot"
PAGE: Final = 100
LOOK: Final = "query Look($taskIds: [ID!]!) { tasks(taskIds: $taskIds) { taskId } }"

Advanced = Callable[[int], object]
"""Called with how many more accounts are ready."""


async def create_database(server_url: str, name: str, *, template: str | None = None) -> str:
    """A database of this name on the server; its address. A template must have no connections."""
    connection = await asyncpg.connect(**pools.connection_arguments(server_url))
    await connection.execute(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
    await connection.close()
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


async def fill_product(url: str, loads: Collection[Load], advanced: Advanced) -> str:
    """This server's books for these loads, made by its own use cases; the service key that may charge."""
    async with books(url) as key:
        if "hot" in loads:
            await _make(HOT_OWNER, task_ids("hot"))
        if "task" in loads:
            await _make("one-task", task_ids("task"))
        if "budget" in loads:
            await _make("one-budget", task_ids("budget"), budget=scenarios.GRANTED_CREDITS)
        await _make_many(scenarios.MANY_ACCOUNTS if "many" in loads else 0, advanced)
        return key


async def fill_stops(url: str) -> str:
    """Accounts that one charge empties, and the hot account; the service key that may charge."""
    async with books(url) as key:
        await _make(HOT_OWNER, task_ids("hot"))
        for busy in (False, True):
            for number in scenarios.stop_numbers(busy=busy):
                owner, task = scenarios.stop_owner(number), scenarios.stop_task(number)
                await _make(owner, [task], credits=scenarios.STOP_CREDITS)
        return key


async def fill_owners(url: str, count: int, advanced: Advanced) -> str:
    """So many accounts, `owner-000000` and so on, with the task `many-000000` and so on; the key that may charge."""
    async with books(url) as key:
        await _make_many(count, advanced)
        return key


def task_ids(load: Load) -> list[str]:
    """All tasks of a load."""
    return [scenarios.task_id(load, number) for number in range(scenarios.task_count(load))]


def owner_id(number: int) -> str:
    """Whose the task of that number is, of the many."""
    return f"owner-{number:06d}"


@asynccontextmanager
async def books(url: str) -> AsyncIterator[str]:
    """The use cases, working on a new database at `url`; the service key that may charge there."""
    configure_ledger(get_settings())
    accounts.clear_cache()
    task_accounts.clear_cache()
    await pools.connect(url, posting_connections=AT_ONCE, read_connections=AT_ONCE)
    try:
        await migrations.apply()
        await publishing.publish_default_card()
        yield await service_keys.development_key("bench")
    finally:
        await pools.disconnect()


async def _make_many(count: int, advanced: Advanced) -> None:
    for start in range(0, count, LIST):
        numbers = range(start, min(start + LIST, count))
        await _make_list(numbers)
        advanced(len(numbers))


async def _make_list(numbers: Sequence[int]) -> None:
    """What `_make` makes of each of these accounts, in one posting for all of them."""
    account_ids = await asyncio.gather(*(accounts.get_or_create_account(owner_id(number)) for number in numbers))
    cause = Cause(actor="operator:bench", reason=REASON)
    starts = {
        account_id: StartTaskRequest(
            task_id=scenarios.task_id("many", number), owner_id=owner_id(number), agent_id="agent", actor=EXECUTOR
        )
        for account_id, number in zip(account_ids, numbers, strict=True)
    }

    async def decide(opened: Posting) -> None:
        for account_id, start in starts.items():
            book = opened.accounts[account_id]
            balance_changes.add_grant(book, scenarios.GRANTED_CREDITS, cause, source=GrantSource.PROMOTIONAL)
            task = TaskState(
                account_id, start.task_id, start.agent_id, TaskStatus.RUNNING, None, start.trigger, None, book.at, None,
                0, 0, 0, None, None, None, 1,
            )  # fmt: skip
            rows.insert_task(opened.write, task, request_hash=start.request_hash(), actor=start.actor)

    await posting.post(account_ids, decide)


async def _make(
    owner_id: str, task_ids: Iterable[str], *, credits: int = scenarios.GRANTED_CREDITS, budget: int | None = None
) -> None:
    await grants.grant_credits(
        GrantRequest(
            owner_id=owner_id,
            credits=credits,
            source=GrantSource.PROMOTIONAL,
            reason=REASON,
            key="bench",
            actor="operator:bench",
        )
    )
    for task_id in task_ids:
        await lifecycle.start_task(
            StartTaskRequest(task_id=task_id, owner_id=owner_id, agent_id="agent", budget=budget, actor=EXECUTOR)
        )


async def fill_reference(url: str) -> str:
    """The reference server's tables and rows; the service key that may charge."""
    async with reference.connected(url):
        await Tortoise.generate_schemas()
        many = range(scenarios.MANY_ACCOUNTS)
        task_accounts = [HOT_OWNER, *map(owner_id, many)]
        await reference_rows.Account.bulk_create(
            [
                reference_rows.Account(id=place, owner_id=owner_id, balance=scenarios.GRANTED_CREDITS)
                for place, owner_id in enumerate(task_accounts)
            ]
        )
        of_account = [(scenarios.task_id("hot", number), 0) for number in range(scenarios.HOT_TASKS)]
        of_account += [(scenarios.task_id("many", number), number + 1) for number in many]
        await reference_rows.Task.bulk_create(
            [reference_rows.Task(id=task_id, account_id=account_id) for task_id, account_id in of_account]
        )
        return await service_keys.development_key("bench")


async def introduce(url: str, key: str, loads: Collection[Load]) -> None:
    """Have a server look at every task once, so that it knows them as one that has started them does."""
    await introduce_tasks(url, key, [task_id for load in sorted(loads) for task_id in task_ids(load)])


async def introduce_tasks(url: str, key: str, tasks: Sequence[str]) -> None:
    """The same of these tasks."""
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
    connection = await asyncpg.connect(**pools.connection_arguments(url))
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
