"""Reads of the books: balances, entries by cursor, grants. Whatever is due by time is settled before it is read."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.db import pools
from app.db.pools import Connection
from app.ledger import posting
from app.ledger.rows import GRANT_COLUMNS, grant_from_row
from app.ledger.rules.account_state import AccountBalance, EntryKind, GrantState, LedgerEntry
from app.ledger.rules.hash_chain import EntryContent

ENTRY_COLUMNS: Final = (
    "e.account_id, e.seq, e.version, e.kind, e.credits, e.owed, e.balance_after, e.at, e.actor, e.reason, e.task_id,"
    " e.block_run_id, e.top_up_id, e.request_id, e.draws, e.hold_number, e.mac"
)

_BALANCES: Final = """
    SELECT id, owner_id, version, posted, held, frozen, owed, low_balance_threshold, clock_timestamp() AS as_of,
           coalesce(next_change_at <= clock_timestamp(), false) AS due
    FROM account WHERE id = ANY($1::bigint[])
"""

_DUE: Final = "SELECT id FROM account WHERE id = ANY($1::bigint[]) AND next_change_at <= clock_timestamp()"

_ENTRIES_BY_SEQ: Final = f"""
    SELECT {ENTRY_COLUMNS} FROM unnest($1::bigint[], $2::bigint[]) AS k(account_id, seq)
    JOIN entry AS e ON e.account_id = k.account_id AND e.seq = k.seq
"""  # noqa: S608  our own constant

# A null list of kinds means all of them.
_ENTRIES: Final = f"""
    SELECT {ENTRY_COLUMNS} FROM entry AS e
    WHERE e.account_id = $1 AND e.seq < $2 AND ($3::text[] IS NULL OR e.kind = ANY($3))
    ORDER BY e.seq DESC LIMIT $4
"""  # noqa: S608  our own constant

# The same for kinds without CHARGE: what looks redundant opens the index of entries beside charges, a short one.
_ENTRIES_BESIDE_CHARGES: Final = f"""
    SELECT {ENTRY_COLUMNS} FROM entry AS e
    WHERE e.account_id = $1 AND e.seq < $2 AND e.kind = ANY($3::text[]) AND e.kind <> 'CHARGE'
    ORDER BY e.seq DESC LIMIT $4
"""  # noqa: S608  our own constant

_LOTS: Final = f"""
    SELECT {GRANT_COLUMNS} FROM credit_grant AS g
    WHERE g.account_id = $1 AND g.number < $2
      AND (NOT $3 OR (g.is_open AND g.is_started AND g.remaining > g.claimed))
    ORDER BY g.number DESC LIMIT $4
"""  # noqa: S608  our own constant

_LOTS_BY_NUMBER: Final = f"""
    SELECT {GRANT_COLUMNS} FROM unnest($1::bigint[], $2::int[]) AS k(wanted_account, wanted_number)
    JOIN credit_grant AS g ON g.account_id = k.wanted_account AND g.number = k.wanted_number
"""  # noqa: S608  our own constant

# What leaves at the earliest expiry, if nothing is spent before.
_NEXT_EXPIRY: Final = """
    SELECT account_id, expires_at, sum(remaining) AS credits FROM (
        SELECT account_id, expires_at, remaining, min(expires_at) OVER (PARTITION BY account_id) AS first
        FROM credit_grant
        WHERE account_id = ANY($1::bigint[]) AND is_open AND is_started AND remaining > 0 AND expires_at IS NOT NULL
    ) AS expiring WHERE expires_at = first GROUP BY account_id, expires_at
"""


@dataclass(frozen=True, slots=True)
class NextExpiry:
    """Credits that leave at an instant."""

    credits: int
    at: datetime


@dataclass(frozen=True, slots=True)
class AccountGrant:
    """A grant and the account that it belongs to."""

    account_id: int
    grant: GrantState


async def get_balances(account_ids: Sequence[int]) -> dict[int, AccountBalance]:
    """The figures of each account, settled to now: one statement; a posting only where time has changed something."""
    records = await pools.fetch(_BALANCES, list(account_ids))
    if due := [record["id"] for record in records if record["due"]]:
        await posting.apply_due_changes(due)
        records = await pools.fetch(_BALANCES, list(account_ids))
    return {record["id"]: _figures(record) for record in records}


async def ensure_due_changes_applied(account_ids: Iterable[int]) -> None:
    """Have what is due by time done with, before something else of these accounts is read."""
    records = await pools.fetch(_DUE, list(dict.fromkeys(account_ids)))
    if records:
        await posting.apply_due_changes(record["id"] for record in records)


async def empty_balance(owner_id: str) -> AccountBalance:
    """The figures of an owner for whom nothing was ever written: all zero, at version 0."""
    [record] = await pools.fetch("SELECT clock_timestamp() AS now")
    return AccountBalance(
        account_id=0, owner_id=owner_id, version=0, posted=0, held=0, frozen=0, owed=0, as_of=record["now"]
    )


async def get_entries(
    keys: Iterable[tuple[int, int]], *, connection: Connection | None = None
) -> dict[tuple[int, int], LedgerEntry]:
    """Entries by (account, seq)."""
    pairs = list(dict.fromkeys(keys))
    values: list[Any] = [[account_id for account_id, _ in pairs], [seq for _, seq in pairs]]
    if connection is None:
        records = await pools.fetch(_ENTRIES_BY_SEQ, *values)
    else:
        _, records = await connection.execute_query(_ENTRIES_BY_SEQ, values)
    return {(record["account_id"], record["seq"]): entry_from_row(record) for record in records}


async def list_entries(
    account_id: int, *, before_seq: int, limit: int, kinds: Sequence[str] | None = None
) -> list[LedgerEntry]:
    """Entries below a seq, newest first."""
    chosen = list(kinds) if kinds is not None else None
    sql = _ENTRIES if chosen is None or EntryKind.CHARGE in chosen else _ENTRIES_BESIDE_CHARGES
    found = await pools.fetch(sql, account_id, before_seq, chosen, limit)
    return [entry_from_row(record) for record in found]


async def list_grants(
    account_id: int, *, before_number: int, limit: int, spendable_only: bool = False
) -> list[GrantState]:
    """Grants below a number, newest first."""
    found = await pools.fetch(_LOTS, account_id, before_number, spendable_only, limit)
    return [_lot(record).grant for record in found]


async def get_grants(keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], GrantState]:
    """Grants by (account, number)."""
    pairs = list(dict.fromkeys(keys))
    found = await pools.fetch(_LOTS_BY_NUMBER, [account_id for account_id, _ in pairs], [number for _, number in pairs])
    return {(lot.account_id, lot.grant.number): lot.grant for lot in map(_lot, found)}


async def get_next_expiries(account_ids: Sequence[int]) -> dict[int, NextExpiry]:
    """For each account that has one, what leaves at its earliest expiry if nothing is spent before."""
    return {
        record["account_id"]: NextExpiry(int(record["credits"]), record["expires_at"])
        for record in await pools.fetch(_NEXT_EXPIRY, list(account_ids))
    }


def entry_from_row(record: Any) -> LedgerEntry:
    """An entry from its columns, in the order of ENTRY_COLUMNS."""
    (account_id, seq, version, kind, credits, owed, balance_after, at, actor, reason, task_id, block_run_id, top_up_id,
     request_id, draws, hold, mac) = record  # fmt: skip
    line = EntryContent(
        account_id=account_id,
        seq=seq,
        version=version,
        kind=kind,
        credits=credits,
        owed=owed,
        balance_after=balance_after,
        at=at,
        actor=actor,
        reason=reason,
        task_id=task_id,
        block_run_id=block_run_id,
        top_up_id=top_up_id,
        request_id=request_id,
        draws=tuple((number, drawn) for number, drawn in json.loads(draws)),
        hold_number=hold,
    )
    return LedgerEntry(line, bytes(mac))


def _figures(record: Any) -> AccountBalance:
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


def _lot(record: Any) -> AccountGrant:
    return AccountGrant(record[0], grant_from_row(record))
