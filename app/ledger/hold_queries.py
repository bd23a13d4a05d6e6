"""Reads of holds: by page, by key, and what tasks hold. What is due by time is settled before it is read."""

from collections.abc import Iterable
from typing import Final

from app.db import pools
from app.ledger import queries
from app.ledger.rows import HOLD_COLUMNS, hold_from_row
from app.ledger.rules.account_state import Hold

Key = tuple[int, int]
"""An account and the number of a hold."""

_PAGE: Final = f"""
    SELECT {HOLD_COLUMNS} FROM hold AS h
    WHERE h.account_id = $1 AND h.number < $2 AND (NOT $3 OR h.status = 'OPEN')
    ORDER BY h.number DESC LIMIT $4
"""  # noqa: S608  our own constant

_BY_NUMBER: Final = f"""
    SELECT {HOLD_COLUMNS} FROM unnest($1::bigint[], $2::int[]) AS k(wanted_account, wanted_number)
    JOIN hold AS h ON h.account_id = k.wanted_account AND h.number = k.wanted_number
"""  # noqa: S608  our own constant

# `timeout_seconds > 0` is always true, and opens the index of open holds by task (migration 0004).
_HELD: Final = """
    SELECT h.account_id, h.task_id, sum(h.remaining)::bigint AS held
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    JOIN hold AS h ON h.account_id = k.account_id AND h.task_id = k.task_id AND h.status = 'OPEN'
        AND h.timeout_seconds > 0
    GROUP BY h.account_id, h.task_id
"""


async def list_holds(account_id: int, *, before_number: int, limit: int, open_only: bool) -> list[Hold]:
    """Holds below a number, newest first."""
    await queries.ensure_due_changes_applied([account_id])
    return [hold_from_row(record) for record in await pools.fetch(_PAGE, account_id, before_number, open_only, limit)]


async def get_holds(keys: Iterable[Key]) -> dict[Key, Hold]:
    """Those holds that exist."""
    pairs = list(dict.fromkeys(keys))
    accounts = [account_id for account_id, _ in pairs]
    await queries.ensure_due_changes_applied(accounts)
    found = await pools.fetch(_BY_NUMBER, accounts, [number for _, number in pairs])
    return {(record["account_id"], record["number"]): hold_from_row(record) for record in found}


async def get_held_by_task(tasks: Iterable[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """What is claimed now for each task (account, task id): by its own envelope and its holds; 0 where nothing is."""
    found = dict.fromkeys(tasks, 0)
    accounts = [account_id for account_id, _ in found]
    await queries.ensure_due_changes_applied(accounts)
    for account_id, task_id, credits in await pools.fetch(_HELD, accounts, [task_id for _, task_id in found]):
        found[account_id, task_id] = credits
    return found
