"""Finds the account of a task. A task never changes its account, so the process caches the account ids."""

from collections.abc import Iterable
from typing import Final

from app.bounded_waits import SHARED_READ_SECONDS, wait_at_most
from app.db import pools
from app.errors import TaskNotFound

_FIND: Final = "SELECT task_id, account_id FROM task_account WHERE task_id = ANY($1::text[])"
_CACHE_SIZE: Final = 200_000
_account_ids: dict[str, int] = {}


def cached_account(task_id: str) -> int | None:
    """Return the cached account id of a task, or None."""
    return _account_ids.get(task_id)


async def find_account(task_id: str) -> int | None:
    """Return the account id of a task, or None if the task does not exist."""
    return cached_account(task_id) or (await find_accounts([task_id])).get(task_id)


async def require_account(task_id: str) -> int:
    """Return the account id of a task. Raises: TaskNotFound."""
    account_id = await find_account(task_id)
    if account_id is None:
        raise TaskNotFound(task_id=task_id)
    return account_id


async def find_accounts(task_ids: Iterable[str]) -> dict[str, int]:
    """Return the account ids of the tasks that exist, by task id."""
    wanted = list(dict.fromkeys(task_ids))
    found = {task_id: number for task_id in wanted if (number := _account_ids.get(task_id)) is not None}
    if missing := [task_id for task_id in wanted if task_id not in found]:
        for record in await wait_at_most(SHARED_READ_SECONDS, pools.fetch(_FIND, missing)):
            found[record["task_id"]] = record["account_id"]
            cache_account(record["task_id"], record["account_id"])
    return found


def cache_account(task_id: str, account_id: int) -> None:
    """Cache the account of a task, after the transaction that wrote it has committed."""
    if len(_account_ids) >= _CACHE_SIZE:
        _account_ids.clear()
    _account_ids[task_id] = account_id


def clear_cache() -> None:
    """Empty the cache, for a database that was emptied or replaced."""
    _account_ids.clear()
