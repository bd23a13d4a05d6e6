"""Reads balances, entries, grants and holds.

Reads of balances and holds first apply the due changes of the accounts. Reads of entries and grants do not.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tortoise.expressions import F

from app.bounded_waits import SHARED_READ_SECONDS, wait_at_most
from app.db import failures, pools
from app.db.pools import Connection
from app.db.tables import key_columns
from app.ledger import models, posting
from app.ledger.rows import ENTRIES, GRANTS, HOLDS
from app.ledger.rules.account_state import AccountBalance, EntryKind, GrantState, Hold, HoldStatus, LedgerEntry

AccountKey = tuple[int, int]
"""An account id, with the number of a grant or hold or the seq of an entry."""

_CONCURRENT_DUE_CHANGES: Final = 4
"""For how many accounts one read writes due changes at the same time."""

_BALANCES: Final = """
    SELECT id, owner_id, version, posted, held, frozen, owed, low_balance_threshold,
           greatest(clock_timestamp(), last_entry_at) AS as_of,
           coalesce(next_change_at <= clock_timestamp(), false) AS is_due
    FROM account WHERE id = ANY($1::bigint[])
"""

_DUE: Final = "SELECT id FROM account WHERE id = ANY($1::bigint[]) AND next_change_at <= clock_timestamp()"

_ENTRIES_BY_SEQ: Final = f"""
    SELECT {ENTRIES.columns("e")} FROM unnest($1::bigint[], $2::bigint[]) AS k(account_id, seq)
    JOIN entry AS e ON e.account_id = k.account_id AND e.seq = k.seq
"""  # noqa: S608  our own constant

# If the list of kinds is NULL, entries of all kinds are selected.
_ENTRIES: Final = f"""
    SELECT {ENTRIES.columns("e")} FROM entry AS e
    WHERE e.account_id = $1 AND e.seq < $2 AND ($3::text[] IS NULL OR e.kind = ANY($3))
    ORDER BY e.seq DESC LIMIT $4
"""  # noqa: S608  our own constant

# Used if CHARGE is not among the kinds. The redundant condition makes the planner use the small index of entries that
# are not charges.
_ENTRIES_BESIDE_CHARGES: Final = f"""
    SELECT {ENTRIES.columns("e")} FROM entry AS e
    WHERE e.account_id = $1 AND e.seq < $2 AND e.kind = ANY($3::text[]) AND e.kind <> 'CHARGE'
    ORDER BY e.seq DESC LIMIT $4
"""  # noqa: S608  our own constant

_GRANTS_BY_NUMBER: Final = f"""
    SELECT {GRANTS.columns("g")} FROM unnest($1::bigint[], $2::int[]) AS k(account_id, number)
    JOIN credit_grant AS g ON g.account_id = k.account_id AND g.number = k.number
"""  # noqa: S608  our own constant

_HOLDS_BY_NUMBER: Final = f"""
    SELECT {HOLDS.columns("h")} FROM unnest($1::bigint[], $2::int[]) AS k(account_id, number)
    JOIN hold AS h ON h.account_id = k.account_id AND h.number = k.number
"""  # noqa: S608  our own constant

# `timeout_seconds > 0` is always true. It lets the planner use the index of open holds by task (migration 0002).
_HELD_BY_TASK: Final = """
    SELECT h.account_id, h.task_id, sum(h.remaining)::bigint AS held
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    JOIN hold AS h ON h.account_id = k.account_id AND h.task_id = k.task_id AND h.status = 'OPEN'
        AND h.timeout_seconds > 0
    GROUP BY h.account_id, h.task_id
"""

_NEXT_EXPIRIES: Final = """
    SELECT account_id, expires_at, sum(remaining)::bigint AS credits FROM (
        SELECT account_id, expires_at, remaining, min(expires_at) OVER (PARTITION BY account_id) AS first
        FROM credit_grant
        WHERE account_id = ANY($1::bigint[]) AND is_open AND is_started AND remaining > 0 AND expires_at IS NOT NULL
    ) AS expiring WHERE expires_at = first GROUP BY account_id, expires_at
"""


@dataclass(frozen=True, slots=True)
class NextExpiry:
    """Credits that expire at the time `at`, unless they are spent before."""

    credits: int
    at: datetime


async def get_balances(account_ids: Sequence[int]) -> dict[int, AccountBalance]:
    """Return the current balances of the accounts, in one statement. If a change is due, postings apply it first.

    Raises: PartialFailure: the due changes of some accounts could not be written.
    """
    records = await wait_at_most(SHARED_READ_SECONDS, pools.fetch(_BALANCES, list(account_ids)))
    if due := [record["id"] for record in records if record["is_due"]]:
        await apply_due_changes_of_each(due)
        records = await wait_at_most(SHARED_READ_SECONDS, pools.fetch(_BALANCES, list(account_ids)))
    return {record["id"]: _balance(record) for record in records}


async def read_settled_balances(account_ids: Sequence[int]) -> dict[int, AccountBalance]:
    """Return the balances of those accounts that have no due changes. This takes one statement and no posting."""
    records = await wait_at_most(SHARED_READ_SECONDS, pools.fetch(_BALANCES, list(account_ids)))
    return {record["id"]: _balance(record) for record in records if not record["is_due"]}


async def empty_balance(owner_id: str) -> AccountBalance:
    """Return the balance of an owner without an account: zero, at version 0."""
    [record] = await pools.fetch("SELECT clock_timestamp() AS now")
    return AccountBalance(
        account_id=0, owner_id=owner_id, version=0, posted=0, held=0, frozen=0, owed=0, as_of=record["now"]
    )


async def ensure_due_changes_applied(account_ids: Iterable[int]) -> bool:
    """Apply due changes before other rows of these accounts are read. Return whether there were any.

    Raises: PartialFailure: the due changes of some accounts could not be written.
    """
    records = await pools.fetch(_DUE, list(dict.fromkeys(account_ids)))
    if records:
        await apply_due_changes_of_each([record["id"] for record in records])
    return bool(records)


async def apply_due_changes_of_each(account_ids: Sequence[int]) -> None:
    """Apply the due changes of each account in its own transaction, so that a failure concerns only its own account.

    Raises: PartialFailure: some of the accounts failed.
    """
    failed: dict[int, Exception] = {}
    limit = asyncio.Semaphore(_CONCURRENT_DUE_CHANGES)

    async def apply(account_id: int) -> None:
        async with limit:
            try:
                await posting.apply_due_changes([account_id])
            except Exception as failure:
                if failures.is_connection_failure(failure):
                    raise
                failed[account_id] = failure

    await asyncio.gather(*(apply(account_id) for account_id in account_ids))
    if failed:
        raise failures.PartialFailure(failed) from next(iter(failed.values()))


async def get_entries(
    keys: Iterable[AccountKey], *, connection: Connection | None = None
) -> dict[AccountKey, LedgerEntry]:
    """Return entries by (account id, seq). If `connection` is given, the entries are read in its transaction."""
    values: list[Any] = list(key_columns(keys))
    if connection is None:
        records = await pools.fetch(_ENTRIES_BY_SEQ, *values)
    else:
        _, records = await connection.execute_query(_ENTRIES_BY_SEQ, values)
    return {(entry.account_id, entry.seq): entry for entry in map(ENTRIES.read, records)}


async def list_entries(
    account_id: int, *, before_seq: int, limit: int, kinds: Sequence[str] | None = None
) -> list[LedgerEntry]:
    """Return entries with a seq below `before_seq`, newest first. `kinds=None` selects all kinds."""
    chosen = list(kinds) if kinds is not None else None
    sql = _ENTRIES if chosen is None or EntryKind.CHARGE in chosen else _ENTRIES_BESIDE_CHARGES
    return [ENTRIES.read(record) for record in await pools.fetch(sql, account_id, before_seq, chosen, limit)]


async def list_grants(
    account_id: int, *, before_number: int, limit: int, spendable_only: bool = False
) -> list[GrantState]:
    """Return grants with a number below `before_number`, newest first."""
    query = models.Grant.filter(account_id=account_id, number__lt=before_number).order_by("-number").limit(limit)
    if spendable_only:
        query = query.filter(is_open=True, is_started=True, remaining__gt=F("claimed"))
    return await GRANTS.fetch(query)


async def get_grants(keys: Iterable[AccountKey]) -> dict[AccountKey, GrantState]:
    """Return grants by (account id, number)."""
    found = map(GRANTS.read, await pools.fetch(_GRANTS_BY_NUMBER, *key_columns(keys)))
    return {(grant.account_id, grant.number): grant for grant in found}


async def get_next_expiries(account_ids: Sequence[int]) -> dict[int, NextExpiry]:
    """Return the earliest expiry of each account that has one, with the credits that expire then if not spent."""
    return {
        record["account_id"]: NextExpiry(record["credits"], record["expires_at"])
        for record in await pools.fetch(_NEXT_EXPIRIES, list(account_ids))
    }


async def list_holds(account_id: int, *, before_number: int, limit: int, open_only: bool) -> list[Hold]:
    """Return holds with a number below `before_number`, newest first."""
    await ensure_due_changes_applied([account_id])
    query = models.Hold.filter(account_id=account_id, number__lt=before_number).order_by("-number").limit(limit)
    if open_only:
        query = query.filter(status=HoldStatus.OPEN)
    return await HOLDS.fetch(query)


async def get_holds(keys: Iterable[AccountKey]) -> dict[AccountKey, Hold]:
    """Return holds by (account id, number)."""
    columns = key_columns(keys)
    await ensure_due_changes_applied(columns[0])
    found = map(HOLDS.read, await pools.fetch(_HOLDS_BY_NUMBER, *columns))
    return {(hold.account_id, hold.number): hold for hold in found}


async def get_held_by_task(tasks: Iterable[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """Return the credits held for each task (account id, task id), by its budget and its holds; 0 if there are none."""
    held = dict.fromkeys(tasks, 0)
    accounts, task_ids = key_columns(held)
    await ensure_due_changes_applied(accounts)
    for record in await pools.fetch(_HELD_BY_TASK, accounts, task_ids):
        held[record["account_id"], record["task_id"]] = record["held"]
    return held


def _balance(record: Any) -> AccountBalance:
    return AccountBalance(
        account_id=record["id"],
        owner_id=record["owner_id"],
        version=record["version"],
        posted=record["posted"],
        held=record["held"],
        frozen=record["frozen"],
        owed=record["owed"],
        low_balance_threshold=record["low_balance_threshold"],
        as_of=record["as_of"],
    )
