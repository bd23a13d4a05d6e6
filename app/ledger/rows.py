"""The rows of the books as sets: what a posting reads after the lock, and what it leaves behind."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from app.db.set_writes import SetStatement, SetWrite
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import AccountState, GrantSource, GrantState, Hold, HoldStatus

ACCOUNT_COLUMNS: Final = (
    "id, owner_id, seq, version, grant_count, hold_count, open_holds, notification_count, posted, held, frozen, owed, last_mac,"
    " last_entry_at, next_change_at, low_balance_threshold"
)

GRANT_COLUMNS: Final = (
    "account_id, number, source, credits, remaining, claimed, priority, starts_at, expires_at, is_started, is_open, actor,"
    " reason, top_up_id, pays_debt, created_at"
)

HOLD_COLUMNS: Final = (
    "account_id, number, task_id, block_run_id, parent_budget, credits, captured, released, allocated, closing_reserve, claims, status,"
    " timeout_seconds, placed_at, expires_at, closed_at, terms, priced_credits, request_hash, capture_request_hash, actor"
)

_ENTRIES: Final = SetStatement(
    "entries",
    """
    INSERT INTO entry (account_id, seq, version, kind, credits, owed, balance_after, at, actor, reason, task_id,
                       block_run_id, top_up_id, request_id, draws, hold_number, mac)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[],
                         $7::bigint[], $8::timestamptz[], $9::text[], $10::text[], $11::text[],
                         $12::text[], $13::text[], $14::text[], $15::jsonb[], $16::int[], $17::bytea[])
    RETURNING 1
    """,
    17,
)

# The version that was locked guards the absolute figures: nobody can have written the row in between.
_ACCOUNTS: Final = SetStatement(
    "accounts",
    """
    UPDATE account AS a SET seq = v.seq, version = v.version, grant_count = v.grant_count, hold_count = v.hold_count,
        open_holds = v.open_holds, notification_count = v.notification_count, posted = v.posted, held = v.held, frozen = v.frozen,
        owed = v.owed, last_mac = v.last_mac, last_entry_at = v.last_entry_at, next_change_at = v.next_change_at,
        low_balance_threshold = v.low_balance_threshold
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[], $6::int[], $7::int[], $8::int[],
                $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bytea[], $14::timestamptz[],
                $15::timestamptz[], $16::bigint[])
        AS v(id, locked_version, seq, version, grant_count, hold_count, open_holds, notification_count, posted, held, frozen, owed, last_mac,
             last_entry_at, next_change_at, low_balance_threshold)
    WHERE a.id = v.id AND a.version = v.locked_version
    RETURNING 1
    """,
    16,
)

_NEW_LOTS: Final = SetStatement(
    "new grants",
    """
    INSERT INTO credit_grant (account_id, number, source, credits, remaining, claimed, priority, starts_at, expires_at,
                              is_started, is_open, actor, reason, top_up_id, pays_debt, created_at)
    SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::int[],
                         $8::timestamptz[], $9::timestamptz[], $10::bool[], $11::bool[], $12::text[], $13::text[],
                         $14::text[], $15::bool[], $16::timestamptz[])
    RETURNING 1
    """,
    16,
)

_LOTS: Final = SetStatement(
    "grants",
    """
    UPDATE credit_grant AS g SET remaining = v.remaining, claimed = v.claimed, is_started = v.is_started, is_open = v.is_open
    FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::bool[], $6::bool[])
        AS v(account_id, number, remaining, claimed, is_started, is_open)
    WHERE g.account_id = v.account_id AND g.number = v.number
    RETURNING 1
    """,
    6,
)

_NEW_HOLDS: Final = SetStatement(
    "new holds",
    """
    INSERT INTO hold (account_id, number, task_id, block_run_id, parent_budget, credits, captured, released, allocated, closing_reserve,
                      claims, remaining, status, timeout_seconds, placed_at, expires_at, closed_at, terms, priced_credits,
                      request_hash, capture_request_hash, actor, request_id)
    SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::int[], $6::bigint[], $7::bigint[],
                         $8::bigint[], $9::bigint[], $10::bigint[], $11::jsonb[], $12::bigint[], $13::text[],
                         $14::int[], $15::timestamptz[], $16::timestamptz[], $17::timestamptz[], $18::jsonb[],
                         $19::bigint[], $20::bytea[], $21::bytea[], $22::text[], $23::text[])
    RETURNING 1
    """,
    23,
)

_HOLDS: Final = SetStatement(
    "holds",
    """
    UPDATE hold AS h SET parent_budget = v.parent_budget, credits = v.credits, captured = v.captured, released = v.released,
        allocated = v.allocated, closing_reserve = v.closing_reserve, claims = v.claims, remaining = v.remaining, status = v.status,
        expires_at = v.expires_at, closed_at = v.closed_at, priced_credits = v.priced_credits,
        capture_request_hash = v.capture_request_hash
    FROM unnest($1::bigint[], $2::int[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                $8::bigint[], $9::jsonb[], $10::bigint[], $11::text[], $12::timestamptz[], $13::timestamptz[],
                $14::bigint[], $15::bytea[])
        AS v(account_id, number, parent_budget, credits, captured, released, allocated, closing_reserve, claims, remaining, status,
             expires_at, closed_at, priced_credits, capture_request_hash)
    WHERE h.account_id = v.account_id AND h.number = v.number
    RETURNING 1
    """,
    15,
)


def account_from_row(record: Any, clock: datetime, key: bytes) -> AccountState:
    """An account as it was locked, from its ACCOUNT_COLUMNS by name."""
    last = record["last_entry_at"]
    posted, held, frozen = record["posted"], record["held"], record["frozen"]
    return AccountState(
        account_id=record["id"],
        owner_id=record["owner_id"],
        seq=record["seq"],
        version=record["version"],
        locked_version=record["version"],
        locked_available=max(0, posted - held - frozen),
        locked_posted=posted,
        grant_count=record["grant_count"],
        hold_count=record["hold_count"],
        open_holds=record["open_holds"],
        notification_count=record["notification_count"],
        locked_notification_count=record["notification_count"],
        posted=posted,
        held=held,
        frozen=frozen,
        owed=record["owed"],
        last_mac=bytes(record["last_mac"]),
        last_entry_at=last,
        next_change_at=record["next_change_at"],
        low_balance_threshold=record["low_balance_threshold"],
        # The database's clock, read after the lock, and never before the account's last entry.
        at=clock if last is None or clock >= last else last,
        signing_key=key,
    )


def grant_from_row(row: Sequence[Any]) -> GrantState:
    """A grant from its columns: account_id, number, source and so on, in the order of LOT_COLUMNS."""
    (_, number, source, credits, remaining, claimed, priority, starts_at, expires_at, started, open_, actor, reason,
     top_up_id, pays_debt, created_at) = row  # fmt: skip
    return GrantState(
        number=number,
        source=GrantSource(source),
        credits=credits,
        remaining=remaining,
        claimed=claimed,
        priority=priority,
        starts_at=starts_at,
        expires_at=expires_at,
        is_started=started,
        is_open=open_,
        actor=actor,
        reason=reason,
        top_up_id=top_up_id,
        pays_debt=pays_debt,
        created_at=created_at,
    )


def hold_from_row(row: Sequence[Any]) -> Hold:
    """A hold from its columns, in the order of HOLD_COLUMNS."""
    (_, number, task_id, block_run_id, within, credits, captured, released, lent, reserve, claims, status,
     timeout_seconds, placed_at, expires_at, closed_at, terms, priced, fingerprint, capture_fingerprint,
     actor) = row  # fmt: skip
    return Hold(
        number=number,
        task_id=task_id,
        block_run_id=block_run_id,
        parent_budget=within,
        credits=credits,
        captured=captured,
        released=released,
        allocated=lent,
        closing_reserve=reserve,
        claims=dict(json.loads(claims)),
        status=HoldStatus(status),
        timeout_seconds=timeout_seconds,
        placed_at=placed_at,
        expires_at=expires_at,
        closed_at=closed_at,
        terms=json.loads(terms) if terms else None,
        priced_credits=priced,
        request_hash=bytes(fingerprint) if fingerprint else None,
        capture_request_hash=bytes(capture_fingerprint) if capture_fingerprint else None,
        actor=actor,
    )


def add_account_writes(book: AccountState, write: SetWrite) -> bool:
    """What a book has become, as rows to write. Returns: whether there is anything."""
    changed = book.version != book.locked_version or book.changed_grants or book.new_grants
    # A next change that was only a bound has to move on, though nothing has come of it.
    due = book.next_change_at is not None and book.next_change_at <= book.at
    if not (
        changed
        or book.changed_holds
        or book.new_holds
        or book.notification_count != book.locked_notification_count
        or due
    ):
        return False
    for posted in book.new_entries:
        line = posted.line
        write.add(
            _ENTRIES,
            (line.account_id, line.seq, line.version, line.kind, line.credits, line.owed, line.balance_after, line.at,
             line.actor, line.reason, line.task_id, line.block_run_id, line.top_up_id, line.request_id,
             _pairs(line.draws), line.hold_number, posted.mac),
        )  # fmt: skip
    for number in book.new_grants:
        lot = book.grants[number]
        write.add(
            _NEW_LOTS,
            (book.account_id, number, lot.source.value, lot.credits, lot.remaining, lot.claimed, lot.priority,
             lot.starts_at, lot.expires_at, lot.is_started, lot.is_open, lot.actor, lot.reason, lot.top_up_id,
             lot.pays_debt, lot.created_at),
        )  # fmt: skip
    for number in book.changed_grants - book.new_grants:
        lot = book.grants[number]
        write.add(_LOTS, (book.account_id, number, lot.remaining, lot.claimed, lot.is_started, lot.is_open))
    for number in book.new_holds:
        _gather_new_hold(book, book.holds[number], write)
    for number in book.changed_holds:
        hold = book.holds[number]
        write.add(
            _HOLDS,
            (book.account_id, number, hold.parent_budget, hold.credits, hold.captured, hold.released, hold.allocated, hold.closing_reserve,
             _pairs(sorted(hold.claims.items())), hold.remaining, hold.status.value, hold.expires_at, hold.closed_at,
             hold.priced_credits, hold.capture_request_hash),
        )  # fmt: skip
    write.add(
        _ACCOUNTS,
        (book.account_id, book.locked_version, book.seq, book.version, book.grant_count, book.hold_count, book.open_holds,
         book.notification_count, book.posted, book.held, book.frozen, book.owed, book.last_mac, book.last_entry_at,
         balance_changes.next_change_at(book), book.low_balance_threshold),
    )  # fmt: skip
    return True


def _gather_new_hold(book: AccountState, hold: Hold, write: SetWrite) -> None:
    write.add(
        _NEW_HOLDS,
        (book.account_id, hold.number, hold.task_id, hold.block_run_id, hold.parent_budget, hold.credits, hold.captured,
         hold.released, hold.allocated, hold.closing_reserve, _pairs(sorted(hold.claims.items())), hold.remaining,
         hold.status.value, hold.timeout_seconds, hold.placed_at, hold.expires_at, hold.closed_at,
         orjson.dumps(hold.terms).decode() if hold.terms is not None else None, hold.priced_credits, hold.request_hash,
         hold.capture_request_hash, hold.actor, hold.request_id),
    )  # fmt: skip


def _pairs(pairs: Sequence[tuple[int, int]]) -> str:
    return "[" + ",".join([f"[{number},{credits}]" for number, credits in pairs]) + "]"
