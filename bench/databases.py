"""The databases that are measured: accounts with credits and running tasks, created by the functions of `app`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import httpx

from app.auth import service_keys
from app.db import database_url, migrations, pools
from app.ledger import accounts, grants, posting
from app.ledger.grants import GrantRequest
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import Cause, GrantSource
from app.live.change_notifier import NOTIFIER
from app.pricing import publishing
from app.pricing.rate_card_cache import RateCardCache
from app.settings import get_settings
from app.state import configure_ledger
from app.tasks import lifecycle, rows, task_accounts
from app.tasks.charging import Charge, charge_many
from app.tasks.lifecycle import StartTaskRequest
from app.tasks.rules import ChargeRequest, TaskState, TaskStatus
from bench import workload
from bench.environment import BenchmarkFailed
from bench.workload import owner_id, task_id

BATCH: Final = 256
"""Accounts created, or charges made, in one transaction."""
CONNECTIONS: Final = 12
QUERY_SIZE: Final = 100
OPERATOR: Final = "operator:bench"
EXECUTOR: Final = "service:bench"
REASON: Final = "benchmark"
TASKS: Final = "query Tasks($taskIds: [ID!]!) { tasks(taskIds: $taskIds) { taskId } }"


async def fetch(url: str, sql: str) -> Any:
    """Run statements on a new connection. Returns the value of a single SELECT."""
    connection = await database_url.connect(url)
    try:
        return await (connection.fetchval if sql.startswith("SELECT") else connection.execute)(sql)
    finally:
        await connection.close()


async def create(server_url: str, name: str, *, template: str | None = None) -> str:
    """Create a database and return its URL. `template`: the database to copy; it must have no connections."""
    await fetch(server_url, f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


async def analyze(url: str) -> None:
    """Do what autovacuum does after a while. The tables must have rows, or PostgreSQL keeps plans for empty tables."""
    await fetch(url, "VACUUM ANALYZE")


@asynccontextmanager
async def open_ledger(url: str) -> AsyncIterator[str]:
    """Open this process's pools on a database and migrate it. Yields a service key that may charge."""
    configure_ledger(get_settings())
    accounts.clear_cache()
    task_accounts.clear_cache()
    await pools.connect(url, posting_connections=CONNECTIONS, read_connections=CONNECTIONS)
    try:
        await migrations.apply()
        await publishing.publish_default_card()
        yield await service_keys.development_key("bench")
    finally:
        await NOTIFIER.flush()
        await pools.disconnect()


async def fill(url: str, *, many: int, hot: bool) -> str:
    """Create `many` accounts with one task each and, if `hot`, one account with 64 tasks. Returns the service key."""
    async with open_ledger(url) as key:
        if hot:
            await _create_account(workload.HOT_OWNER)
            for task in workload.task_ids("hot"):
                await _start_task(workload.HOT_OWNER, task)
        if many:
            await _create_account(owner_id(0))
            first = await _start_task(owner_id(0), task_id("many", 0))
            for start in range(1, many, BATCH):
                await _copy_account(first, range(start, min(start + BATCH, many)))
    return key


async def _create_account(owner: str) -> None:
    request = GrantRequest(
        owner_id=owner, credits=workload.GRANTED_CREDITS, source=GrantSource.PROMOTIONAL, reason=REASON, key="bench",
        actor=OPERATOR,
    )  # fmt: skip
    await grants.grant_credits(request)


async def _start_task(owner: str, task: str, agent: str = "agent") -> TaskState:
    request = StartTaskRequest(task_id=task, owner_id=owner, agent_id=agent, actor=EXECUTOR)
    return (await lifecycle.start_task(request)).task


async def _copy_account(first: TaskState, numbers: Sequence[int]) -> None:
    """Add a grant and a running task like `first` to each account, in one transaction."""
    account_ids = await asyncio.gather(*(accounts.get_or_create_account(owner_id(number)) for number in numbers))
    cause = Cause(actor=OPERATOR, reason=REASON)

    async def decide(opened: Posting) -> None:
        for account_id, number in zip(account_ids, numbers, strict=True):
            account = opened.accounts[account_id]
            balance_changes.add_grant(account, workload.GRANTED_CREDITS, cause, source=GrantSource.PROMOTIONAL)
            task = first._replace(account_id=account_id, task_id=task_id("many", number), started_at=account.at)
            rows.insert_task(opened.write, task, request_hash=b"benchmark", actor=EXECUTOR)

    await posting.post(account_ids, decide)


async def charge(url: str, tasks: Sequence[str], count: int) -> None:
    """Charge these tasks in turn until the ledger has `count` entries. Raises: BenchmarkFailed."""
    first = await fetch(url, "SELECT count(*) FROM entry")
    async with open_ledger(url):
        rate_cards = RateCardCache()
        for start in range(first, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            await _charge([(tasks[number % len(tasks)], f"fill-{number:08d}") for number in numbers], rate_cards)
    await analyze(url)


async def _charge(runs: Sequence[tuple[str, str]], rate_cards: RateCardCache) -> None:
    """Charge block runs, given as (task id, block run id). Raises: BenchmarkFailed."""
    found = await task_accounts.find_accounts([task for task, _ in runs])
    requests = [
        ChargeRequest(task_id=task, block_run_id=run, block=workload.BLOCK, settings=workload.SETTINGS, actor=EXECUTOR)
        for task, run in runs
    ]
    outcomes = await charge_many([(found[request.task_id], request) for request in requests], rate_cards)
    if refused := [outcome for outcome in outcomes if not isinstance(outcome, Charge)]:
        raise BenchmarkFailed(f"a charge that prepares the ledger was refused: {refused[0]}")


async def fill_library(url: str) -> int:
    """Create an account with a page of tasks, every second one completed. Returns the number of charges."""
    async with open_ledger(url):
        rate_cards = RateCardCache()
        await _create_account(workload.LIBRARY_OWNER)
        for number in range(workload.LIBRARY_TASKS):
            task = f"library-task-{number:02d}"
            await _start_task(workload.LIBRARY_OWNER, task, workload.LIBRARY_AGENT)
            await _charge([(task, f"{task}-{run}") for run in range(workload.LIBRARY_RUNS)], rate_cards)
            if number % 2:
                await lifecycle.finish_task(task, TaskStatus.COMPLETED)
    return workload.LIBRARY_TASKS * workload.LIBRARY_RUNS


async def query_tasks(url: str, key: str, tasks: Sequence[str]) -> None:
    """Query each task once, so that the server has cached its account, as after starting it.

    Raises: BenchmarkFailed: a task is not found.
    """
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        for start in range(0, len(tasks), QUERY_SIZE):
            request = {"query": TASKS, "variables": {"taskIds": tasks[start : start + QUERY_SIZE]}}
            response = (await client.post("/graphql", json=request)).json()
            if "errors" in response or None in response["data"]["tasks"]:
                raise BenchmarkFailed(f"the benchmark's own tasks are not found: {response}")
