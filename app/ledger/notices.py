"""Notices: what a person is told about an account, as rows. Some follow from the books, others are given by the rooms.

One stands per account, kind, agent and subject until it is cleared: what happens again meanwhile adds nothing. Notices
of want are cleared when credits come; cleared ones count as read and stay in the list.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final

from app.ledger.book import Book
from app.sets import Part, Write


class NoticeKind(StrEnum):
    """What a notice is about."""

    LOW_BALANCE = "LOW_BALANCE"
    OUT_OF_CREDITS = "OUT_OF_CREDITS"
    SCHEDULE_SKIPPED = "SCHEDULE_SKIPPED"
    EXPIRING = "EXPIRING"
    AUTO_TOP_UP_BLOCKED = "AUTO_TOP_UP_BLOCKED"
    TOP_UP_FAILED = "TOP_UP_FAILED"


OF_WANT: Final = (NoticeKind.OUT_OF_CREDITS, NoticeKind.SCHEDULE_SKIPPED)
"""Cleared by whatever replenishes the account."""

_NEW: Final = Part(
    "notices",
    """
    INSERT INTO notice (account_id, number, kind, agent_id, subject, message, at)
    SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
    ON CONFLICT (account_id, kind, agent_id, subject) WHERE cleared_at IS NULL DO NOTHING
    RETURNING 1
    """,
    7,
    exact=False,
)

_CLEARED: Final = Part(
    "cleared notices",
    """
    UPDATE notice AS n SET cleared_at = v.at, read_at = coalesce(n.read_at, v.at)
    FROM unnest($1::bigint[], $2::text[], $3::timestamptz[]) AS v(account_id, kind, at)
    WHERE n.account_id = v.account_id AND n.kind = v.kind AND n.cleared_at IS NULL
    RETURNING 1
    """,
    3,
    exact=False,
)


def give(book: Book, write: Write, kind: NoticeKind, message: str, *, agent_id: str = "", subject: str = "") -> None:
    """Tell it, unless the same stands already. The caller announces the account."""
    book.notice_count += 1
    write.add(_NEW, (book.account_id, book.notice_count, kind.value, agent_id, subject, message, book.at))


def clear(book: Book, write: Write, kind: NoticeKind) -> None:
    """What these notices said is no longer so."""
    write.add(_CLEARED, (book.account_id, kind.value, book.at))


def threshold(book: Book, low_balance_at: int) -> int:
    """Below this the balance is low: the account's own figure, or else everybody's."""
    return low_balance_at if book.low_balance_at is None else book.low_balance_at


def replenished(book: Book) -> bool:
    """Whether this posting has made credits available that were not there: from nothing, or by a credit."""
    after = book.available
    return after > book.locked_available and (book.locked_available == 0 or book.posted > book.locked_posted)


def emptied(book: Book) -> bool:
    """Whether this posting has used up what was available."""
    return book.available == 0 < book.locked_available


def follow(book: Book, write: Write, *, low_balance_at: int) -> None:
    """What the change of this book has people told, or tells them no longer."""
    before, after = book.locked_available, book.available
    if before == after:
        return
    low = threshold(book, low_balance_at)
    if after < low <= before:
        give(book, write, NoticeKind.LOW_BALANCE, f"{_credits(after)} left: less than {low:,}.")
    elif before < low <= after:
        clear(book, write, NoticeKind.LOW_BALANCE)
    if emptied(book):
        give(
            book,
            write,
            NoticeKind.OUT_OF_CREDITS,
            "No credits are left: running agents stop, and scheduled ones do not start until credits are added.",
        )
    elif replenished(book):
        for kind in OF_WANT:
            clear(book, write, kind)


def expiring_message(credits: int, at: datetime) -> str:
    """What an EXPIRING notice says."""
    counted = f"{credits:,} credit{'' if credits == 1 else 's'}"
    return f"{counted} will expire on {at:%Y-%m-%d at %H:%M} UTC if nothing spends them before."


def _credits(credits: int) -> str:
    return f"{credits:,} credit is" if credits == 1 else f"{credits:,} credits are"
