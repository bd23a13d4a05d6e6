"""Telling ahead that credits will expire: once per grant and step (30, 7 and 1 days unless a setting says otherwise).

What is told is never taken back when credits come: they do not keep the others from expiring.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from app import database
from app.ledger import notices, posting
from app.ledger.book import Book, Lot
from app.ledger.notices import NoticeKind
from app.ledger.posting import Posting, Read

# Grants that expire within the largest of the days ($1), and whose step has not been told. A notice that stands is
# found by its index, and only who has none is looked for among the account's cleared ones; OFFSET 0 keeps both look-ups
# per grant, whatever the planner thinks of the tables.
_UNTOLD: Final = """
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at)
    SELECT g.account_id, g.number FROM credit_grant AS g
    CROSS JOIN LATERAL (
        SELECT format('grant %s, %s days', g.number, min(d.days)) AS subject FROM unnest($1::int[]) AS d(days)
        WHERE g.expires_at <= (SELECT at FROM clock) + make_interval(hours => 24 * d.days)
    ) AS step
    WHERE g.open AND g.started AND g.expires_at IS NOT NULL AND g.remaining > g.claimed
      AND g.expires_at > (SELECT at FROM clock)
      AND g.expires_at <= (SELECT at + make_interval(hours => 24 * $2::int) FROM clock)
      AND NOT EXISTS (
        SELECT FROM notice AS n WHERE n.account_id = g.account_id AND n.kind = 'EXPIRING' AND n.agent_id = ''
          AND n.subject = step.subject AND n.cleared_at IS NULL OFFSET 0)
      AND NOT EXISTS (
        SELECT FROM notice AS n WHERE n.account_id = g.account_id AND n.kind = 'EXPIRING' AND n.subject = step.subject
          AND n.cleared_at IS NOT NULL OFFSET 0)
    ORDER BY g.expires_at LIMIT $3
"""

_TOLD: Final = """
    SELECT ROW(n.account_id, n.subject) FROM notice AS n
    WHERE n.account_id = ANY($1::bigint[]) AND n.kind = 'EXPIRING' AND n.subject = ANY($2::text[])
"""

_AT_ONCE: Final = 256


async def give_notices(days: Sequence[int], *, limit: int = _AT_ONCE) -> int:
    """Tell the owners of grants that expire within `days`, the next to expire first. Returns: how many were told.

    It is 0 once all are told, or while another process tells those that are left.
    """
    untold = [tuple(record) for record in await database.fetch(_UNTOLD, list(days), max(days), limit)]
    if not untold:
        return 0
    account_ids = [account_id for account_id, _ in untold]
    subjects = {subject(number, step) for _, number in untold for step in days}

    async def decide(posting: Posting) -> int:
        # Decided anew under the lock: meanwhile another process may have told it, or somebody spent the credits.
        told = {(account_id, said) for account_id, said in posting.rows[0]}
        given = 0
        for account_id, number in untold:
            book = posting.books[account_id]
            lot = book.lots.get(number)
            step = step_of(lot, days, at=book.at) if lot is not None else None
            if lot is not None and step is not None and (account_id, subject(number, step)) not in told:
                _give(posting, book, lot, step)
                given += 1
        return given

    return await posting.post(account_ids, decide, reads=[Read(_TOLD, (account_ids, sorted(subjects)))])


def step_of(lot: Lot, days: Iterable[int], *, at: datetime) -> int | None:
    """The smallest of `days` within which a grant expires that has something left; None: nothing to tell of."""
    if lot.expires_at is None or not lot.open or not lot.spendable or lot.expires_at <= at:
        return None
    left = lot.expires_at - at
    return min((step for step in days if left <= timedelta(days=step)), default=None)


def subject(number: int, step: int) -> str:
    """By what a grant's notice of one step is known; the statement above writes the same."""
    return f"grant {number}, {step} days"


def _give(posting: Posting, book: Book, lot: Lot, step: int) -> None:
    if lot.expires_at is None:
        raise ValueError(f"grant {lot.number} does not expire")
    message = notices.expiring_message(lot.spendable, lot.expires_at)
    notices.give(book, posting.write, NoticeKind.EXPIRING, message, subject=subject(lot.number, step))
    posting.announce(book.account_id)
