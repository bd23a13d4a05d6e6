"""Telling ahead that credits will expire: once per grant and step (30, 7 and 1 days unless a setting says otherwise).

What is told is never taken back when credits come: they do not keep the others from expiring.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from app.db import pools
from app.ledger import notifications, posting
from app.ledger.notifications import NotificationKind
from app.ledger.posting import ExtraRead, Posting
from app.ledger.rules.account_state import AccountState, GrantState

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
    WHERE g.is_open AND g.is_started AND g.expires_at IS NOT NULL AND g.remaining > g.claimed
      AND g.expires_at > (SELECT at FROM clock)
      AND g.expires_at <= (SELECT at + make_interval(hours => 24 * $2::int) FROM clock)
      AND NOT EXISTS (
        SELECT FROM notification AS n WHERE n.account_id = g.account_id AND n.kind = 'EXPIRING' AND n.agent_id = ''
          AND n.subject = step.subject AND n.resolved_at IS NULL OFFSET 0)
      AND NOT EXISTS (
        SELECT FROM notification AS n WHERE n.account_id = g.account_id AND n.kind = 'EXPIRING' AND n.subject = step.subject
          AND n.resolved_at IS NOT NULL OFFSET 0)
    ORDER BY g.expires_at LIMIT $3
"""

_TOLD: Final = """
    SELECT ROW(n.account_id, n.subject) FROM notification AS n
    WHERE n.account_id = ANY($1::bigint[]) AND n.kind = 'EXPIRING' AND n.subject = ANY($2::text[])
"""

_AT_ONCE: Final = 256


async def notify_expiring_grants(days: Sequence[int], *, limit: int = _AT_ONCE) -> int:
    """Tell the owners of grants that expire within `days`, the next to expire first. Returns: how many were told.

    It is 0 once all are told, or while another process tells those that are left.
    """
    untold = [tuple(record) for record in await pools.fetch(_UNTOLD, list(days), max(days), limit)]
    if not untold:
        return 0
    account_ids = [account_id for account_id, _ in untold]
    subjects = {expiry_subject(number, step) for _, number in untold for step in days}

    async def decide(posting: Posting) -> int:
        # Decided anew under the lock: meanwhile another process may have told it, or somebody spent the credits.
        told = {(account_id, said) for account_id, said in posting.rows[0]}
        given = 0
        for account_id, number in untold:
            book = posting.accounts[account_id]
            lot = book.grants.get(number)
            step = expiry_step(lot, days, at=book.at) if lot is not None else None
            if lot is not None and step is not None and (account_id, expiry_subject(number, step)) not in told:
                _give(posting, book, lot, step)
                given += 1
        return given

    return await posting.post(account_ids, decide, reads=[ExtraRead(_TOLD, (account_ids, sorted(subjects)))])


def expiry_step(lot: GrantState, days: Iterable[int], *, at: datetime) -> int | None:
    """The smallest of `days` within which a grant expires that has something left; None: nothing to tell of."""
    if lot.expires_at is None or not lot.is_open or not lot.spendable or lot.expires_at <= at:
        return None
    left = lot.expires_at - at
    return min((step for step in days if left <= timedelta(days=step)), default=None)


def expiry_subject(number: int, step: int) -> str:
    """By what a grant's notice of one step is known; the statement above writes the same."""
    return f"grant {number}, {step} days"


def _give(posting: Posting, book: AccountState, lot: GrantState, step: int) -> None:
    if lot.expires_at is None:
        raise ValueError(f"grant {lot.number} does not expire")
    message = notifications.expiring_message(lot.spendable, lot.expires_at)
    notifications.notify(
        book, posting.write, NotificationKind.EXPIRING, message, subject=expiry_subject(lot.number, step)
    )
    posting.publish_change(book.account_id)
