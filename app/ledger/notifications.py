"""Notices: what a person is told about an account, as rows. Some follow from the books, others are given by the rooms.

One stands per account, kind, agent and subject until it is cleared: what happens again meanwhile adds nothing. Notices
of want are cleared when credits come; cleared ones count as read and stay in the list.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final

from app.db.set_writes import SetStatement, SetWrite
from app.ledger.rules.account_state import AccountState


class NotificationKind(StrEnum):
    """What a notice is about."""

    LOW_BALANCE = "LOW_BALANCE"
    OUT_OF_CREDITS = "OUT_OF_CREDITS"
    SCHEDULE_SKIPPED = "SCHEDULE_SKIPPED"
    EXPIRING = "EXPIRING"
    AUTO_TOP_UP_BLOCKED = "AUTO_TOP_UP_BLOCKED"
    TOP_UP_FAILED = "TOP_UP_FAILED"


RESOLVED_BY_CREDITS: Final = (NotificationKind.OUT_OF_CREDITS, NotificationKind.SCHEDULE_SKIPPED)
"""Cleared by whatever replenishes the account."""

_NEW: Final = SetStatement(
    "notices",
    """
    INSERT INTO notification (account_id, number, kind, agent_id, subject, message, at)
    SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
    ON CONFLICT (account_id, kind, agent_id, subject) WHERE resolved_at IS NULL DO NOTHING
    RETURNING 1
    """,
    7,
    checks_row_count=False,
)

_CLEARED: Final = SetStatement(
    "cleared notices",
    """
    UPDATE notification AS n SET resolved_at = v.at, read_at = coalesce(n.read_at, v.at)
    FROM unnest($1::bigint[], $2::text[], $3::timestamptz[]) AS v(account_id, kind, at)
    WHERE n.account_id = v.account_id AND n.kind = v.kind AND n.resolved_at IS NULL
    RETURNING 1
    """,
    3,
    checks_row_count=False,
)


def notify(
    book: AccountState, write: SetWrite, kind: NotificationKind, message: str, *, agent_id: str = "", subject: str = ""
) -> None:
    """Tell it, unless the same stands already. The caller announces the account."""
    book.notification_count += 1
    write.add(_NEW, (book.account_id, book.notification_count, kind.value, agent_id, subject, message, book.at))


def resolve(book: AccountState, write: SetWrite, kind: NotificationKind) -> None:
    """What these notices said is no longer so."""
    write.add(_CLEARED, (book.account_id, kind.value, book.at))


def effective_low_balance_threshold(book: AccountState, default_credits: int) -> int:
    """Below this the balance is low: the account's own figure, or else everybody's."""
    return default_credits if book.low_balance_threshold is None else book.low_balance_threshold


def is_replenished(book: AccountState) -> bool:
    """Whether this posting has made credits available that were not there: from nothing, or by a credit."""
    after = book.available
    return after > book.locked_available and (book.locked_available == 0 or book.posted > book.locked_posted)


def is_emptied(book: AccountState) -> bool:
    """Whether this posting has used up what was available."""
    return book.available == 0 < book.locked_available


def notify_balance_change(book: AccountState, write: SetWrite, *, low_balance_threshold: int) -> None:
    """What the change of this book has people told, or tells them no longer."""
    before, after = book.locked_available, book.available
    if before == after:
        return
    low = effective_low_balance_threshold(book, low_balance_threshold)
    if after < low <= before:
        notify(book, write, NotificationKind.LOW_BALANCE, f"{_credits(after)} left: less than {low:,}.")
    elif before < low <= after:
        resolve(book, write, NotificationKind.LOW_BALANCE)
    if is_emptied(book):
        notify(
            book,
            write,
            NotificationKind.OUT_OF_CREDITS,
            "No credits are left: running agents stop, and scheduled ones do not start until credits are added.",
        )
    elif is_replenished(book):
        for kind in RESOLVED_BY_CREDITS:
            resolve(book, write, kind)


def expiring_message(credits: int, at: datetime) -> str:
    """What an EXPIRING notice says."""
    counted = f"{credits:,} credit{'' if credits == 1 else 's'}"
    return f"{counted} will expire on {at:%Y-%m-%d at %H:%M} UTC if nothing spends them before."


def _credits(credits: int) -> str:
    return f"{credits:,} credit is" if credits == 1 else f"{credits:,} credits are"
