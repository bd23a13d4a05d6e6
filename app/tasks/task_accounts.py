"""Which account a task belongs to. A task keeps its account for ever, so what was found is remembered."""

from collections.abc import Iterable
from typing import Final

from app.db import pools

_FIND: Final = "SELECT task_id, account_id FROM task_account WHERE task_id = ANY($1::text[])"
_REMEMBERED: Final = 200_000
_account_ids: dict[str, int] = {}


def cached_account(task_id: str) -> int | None:
    """The account of a task that was found before, or None."""
    return _account_ids.get(task_id)


async def find_account(task_id: str) -> int | None:
    """The account of a task, or None where there is no such task."""
    return cached_account(task_id) or (await find_accounts([task_id])).get(task_id)


async def find_accounts(task_ids: Iterable[str]) -> dict[str, int]:
    """The accounts of those tasks that exist."""
    wanted = list(dict.fromkeys(task_ids))
    found = {task_id: number for task_id in wanted if (number := _account_ids.get(task_id)) is not None}
    if missing := [task_id for task_id in wanted if task_id not in found]:
        for record in await pools.fetch(_FIND, missing):
            found[record["task_id"]] = record["account_id"]
            cache_account(record["task_id"], record["account_id"])
    return found


def cache_account(task_id: str, account_id: int) -> None:
    """Keep what a committed transaction has written."""
    if len(_account_ids) >= _REMEMBERED:
        _account_ids.clear()
    _account_ids[task_id] = account_id


def clear_cache() -> None:
    """Drop what is remembered: for a database that was emptied or replaced."""
    _account_ids.clear()
