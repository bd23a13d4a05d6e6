"""Reading notices, and marking them read. `notices` gives and clears them.

An account's notices are numbered under its lock, in the order in which they commit, so who has seen those up to a
number has missed none of them. Numbers rise and leave gaps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.audit_log import records
from app.audit_log.records import AuditContext
from app.db import pools
from app.db.set_writes import SetWrite
from app.ledger.notifications import NotificationKind

COLUMNS: Final = "n.account_id, n.number, n.kind, n.agent_id, n.message, n.at, n.read_at, n.resolved_at"

_PAGE: Final = f"""
    SELECT {COLUMNS} FROM notification AS n WHERE n.account_id = $1 AND n.number < $2 ORDER BY n.number DESC LIMIT $3
"""  # noqa: S608  our own constant

# By an index of its own, a short one.
_UNREAD_PAGE: Final = f"""
    SELECT {COLUMNS} FROM notification AS n WHERE n.account_id = $1 AND n.number < $2 AND n.read_at IS NULL
    ORDER BY n.number DESC LIMIT $3
"""  # noqa: S608  our own constant

_AFTER: Final = f"""
    SELECT {COLUMNS} FROM notification AS n WHERE n.account_id = $1 AND n.number > $2 ORDER BY n.number LIMIT $3
"""  # noqa: S608  our own constant

_LAST: Final = "SELECT notification_count FROM account WHERE id = $1"

_BY_NUMBER: Final = f"""
    SELECT {COLUMNS} FROM unnest($1::bigint[], $2::int[]) AS k(account_id, number)
    JOIN notification AS n ON n.account_id = k.account_id AND n.number = k.number
"""  # noqa: S608  our own constant

# The account's row is locked before the first notice is, as in a posting, so that the two cannot wait for each other.
# A null list of numbers means all of them.
_MARK: Final = f"""
    WITH locked AS MATERIALIZED (
        SELECT id FROM account WHERE id = $1 FOR NO KEY UPDATE
    ), marked AS (
        UPDATE notification AS n SET read_at = clock_timestamp() FROM locked
        WHERE n.account_id = locked.id AND n.read_at IS NULL AND ($2::int[] IS NULL OR n.number = ANY($2))
        RETURNING {COLUMNS}
    )
    SELECT * FROM marked ORDER BY number DESC LIMIT $3
"""  # noqa: S608  our own constant

MAX_NOTIFICATION_NUMBER: Final = 2**31 - 1
"""No notice has a higher number."""

MARK_READ_LIMIT: Final = 100
"""How many of the notices that were marked are given back, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A notice as it stands. `agent_id`: the agent that it is about; None where it is about the account."""

    account_id: int
    number: int
    kind: NotificationKind
    agent_id: str | None
    message: str
    at: datetime
    read_at: datetime | None
    resolved_at: datetime | None


async def list_notifications(
    account_id: int, *, before_number: int = MAX_NOTIFICATION_NUMBER, limit: int, unread_only: bool = False
) -> list[Notification]:
    """Notices below a number, newest first."""
    sql = _UNREAD_PAGE if unread_only else _PAGE
    return notifications_from_rows(await pools.fetch(sql, account_id, before_number, limit))


async def list_notifications_after(account_id: int, number: int, limit: int) -> list[Notification]:
    """Notices above a number, oldest first."""
    return notifications_from_rows(await pools.fetch(_AFTER, account_id, number, limit))


async def last_notification_number(account_id: int) -> int:
    """Notices from now on have higher numbers than this."""
    found = await pools.fetch(_LAST, account_id)
    return int(found[0]["notification_count"]) if found else 0


async def get_notifications(keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Notification]:
    """Notices by (account, number)."""
    pairs = [
        (account_id, number) for account_id, number in dict.fromkeys(keys) if 0 <= number <= MAX_NOTIFICATION_NUMBER
    ]
    found = notifications_from_rows(
        await pools.fetch(_BY_NUMBER, [account_id for account_id, _ in pairs], [number for _, number in pairs])
    )
    return {(notice.account_id, notice.number): notice for notice in found}


async def mark_read(
    account_id: int, numbers: Sequence[int] | None, *, audit: AuditContext | None = None
) -> list[Notification]:
    """Mark these notices of an account as read, all that are unread where `numbers` is None; what was read stays so.

    Returns: as they stand, newest first: those of `numbers` that exist, or the newest 100 of all that were unread.
    """
    chosen = None if numbers is None else [number for number in numbers if 0 < number <= MAX_NOTIFICATION_NUMBER]
    marked = await pools.run_with_retries(lambda: _marked(account_id, chosen, audit))
    if chosen is None:
        return notifications_from_rows(marked)
    found = await get_notifications((account_id, number) for number in chosen)
    return sorted(found.values(), key=lambda notice: -notice.number)


async def _marked(account_id: int, numbers: list[int] | None, audit: AuditContext | None) -> Sequence[Any]:
    """The rows that were unread, marked: one statement, and where an act leaves a record one transaction."""
    if audit is None:
        return await pools.fetch(_MARK, account_id, numbers, MARK_READ_LIMIT)
    write = SetWrite()
    async with pools.transaction() as connection:
        _, marked = await connection.execute_query(_MARK, [account_id, numbers, MARK_READ_LIMIT])
        if marked:
            after = {"read": [record["number"] for record in marked]}
            records.append_record(
                write, audit, account_id=account_id, subject="notices", before={"read": []}, after=after
            )
        await write.execute(connection)
    return marked


def notifications_from_rows(found: Iterable[Any]) -> list[Notification]:
    """Notices from their COLUMNS."""
    return [
        Notification(
            account_id=account_id,
            number=number,
            kind=NotificationKind(kind),
            agent_id=agent_id or None,
            message=message,
            at=at,
            read_at=read_at,
            resolved_at=cleared_at,
        )
        for account_id, number, kind, agent_id, message, at, read_at, cleared_at in found
    ]
