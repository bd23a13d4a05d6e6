"""Notifications that a grant will expire.

A *step* is a number of days before the expiry (by default 30, 7 and 1). There is one notification for each grant and
step. Added credits do not resolve it, because the grant still expires.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from app.db import pools
from app.db.isolated_sweeps import IsolatedSweep
from app.db.tables import RowSelect
from app.ledger import notifications, posting
from app.ledger.account_events import GrantExpiring, record_event
from app.ledger.notifications import NotificationKind
from app.ledger.posting import ExtraRead, Posting
from app.ledger.rules.account_state import GrantState

# Selects grants that expire within the largest step ($2) and have no notification yet for their step ($1: all steps),
# except those of the accounts in $4.
# Unresolved notifications are found by their index. Only for grants without one, resolved notifications are searched.
# OFFSET 0 prevents the planner from replacing these two look-ups by joins.
_WITHOUT_NOTIFICATION: Final = """
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at)
    SELECT g.account_id, g.number FROM credit_grant AS g
    CROSS JOIN LATERAL (
        SELECT format('grant %s, %s days', g.number, min(d.days)) AS subject FROM unnest($1::int[]) AS d(days)
        WHERE g.expires_at <= (SELECT at FROM clock) + make_interval(hours => 24 * d.days)
    ) AS step
    WHERE g.is_open AND g.is_started AND g.expires_at IS NOT NULL AND g.remaining > g.claimed
      AND g.account_id <> ALL($4::bigint[])
      AND g.expires_at > (SELECT at FROM clock)
      AND g.expires_at <= (SELECT at + make_interval(hours => 24 * $2::int) FROM clock)
      AND NOT EXISTS (
        SELECT FROM notification AS n WHERE n.account_id = g.account_id AND n.kind = 'EXPIRING' AND n.agent_id = ''
          AND n.subject = step.subject AND n.resolved_at IS NULL OFFSET 0)
      AND NOT EXISTS (
        SELECT FROM notification AS n WHERE n.account_id = g.account_id AND n.kind = 'EXPIRING'
          AND n.subject = step.subject AND n.resolved_at IS NOT NULL OFFSET 0)
    ORDER BY g.expires_at LIMIT $3
"""

_EXISTING: Final = RowSelect(
    ["n.account_id", "n.subject"],
    """
    FROM notification AS n
    WHERE n.account_id = ANY($1::bigint[]) AND n.kind = 'EXPIRING' AND n.subject = ANY($2::text[])
    """,
)


class ExpiryNotifications:
    """Notifications of one process. An account that cannot be notified is logged and set aside for a while."""

    def __init__(self, days: Sequence[int]) -> None:
        """`days` are the steps: the numbers of days before an expiry at which the owner is notified."""
        self._days = days
        self._isolated = IsolatedSweep("expiry notifications of account")

    async def notify(self, *, limit: int = 256) -> int:
        """Notify owners. The earliest expiry comes first.

        Returns: the number of added notifications, without those that another process added at the same time.
        """
        missing: dict[int, list[int]] = {}
        for record in await pools.fetch(
            _WITHOUT_NOTIFICATION, list(self._days), max(self._days), limit, self._isolated.items_set_aside()
        ):
            missing.setdefault(record["account_id"], []).append(record["number"])

        async def notify_accounts(account_ids: Sequence[int]) -> int:
            return await self._notify_accounts({account_id: missing[account_id] for account_id in account_ids})

        return await self._isolated.run(list(missing), notify_accounts)

    async def _notify_accounts(self, missing: Mapping[int, Sequence[int]]) -> int:
        """Notify the owners of the grants in `missing` (grant numbers by account id), in one transaction."""
        subjects = {
            expiry_subject(number, step) for numbers in missing.values() for number in numbers for step in self._days
        }

        async def decide(posting: Posting) -> int:
            # Decide again under the lock: another process may have notified, or the credits may have been spent.
            existing = {(row["account_id"], row["subject"]) for row in posting.rows[0]}
            added = 0
            for account_id, number in [(one, number) for one, numbers in missing.items() for number in numbers]:
                account = posting.accounts[account_id]
                grant = account.grants.get(number)
                step = expiry_step(grant, self._days, at=account.at) if grant is not None else None
                if grant is None or step is None or (account_id, expiry_subject(number, step)) in existing:
                    continue
                _notify(posting, grant, step)
                added += 1
            return added

        read = ExtraRead(_EXISTING, (list(missing), sorted(subjects)))
        return await posting.post(missing, decide, reads=[read])


def expiry_step(grant: GrantState, days: Iterable[int], *, at: datetime) -> int | None:
    """Return the smallest step within which the grant expires, or None if no notification is needed."""
    if grant.expires_at is None or not grant.is_open or not grant.spendable or grant.expires_at <= at:
        return None
    left = grant.expires_at - at
    return min((step for step in days if left <= timedelta(days=step)), default=None)


def expiry_subject(number: int, step: int) -> str:
    """Return the subject of a grant's notification for one step. `_WITHOUT_NOTIFICATION` builds the same text."""
    return f"grant {number}, {step} days"


def _notify(posting: Posting, grant: GrantState, step: int) -> None:
    if grant.expires_at is None:
        raise ValueError(f"grant {grant.number} does not expire")
    message = notifications.expiring_message(grant.spendable, grant.expires_at)
    notifications.notify(
        posting.accounts[grant.account_id],
        posting.write,
        NotificationKind.EXPIRING,
        message,
        subject=expiry_subject(grant.number, step),
    )
    record_event(
        posting.accounts[grant.account_id], GrantExpiring(credits=grant.spendable, expires_at=grant.expires_at)
    )
    posting.publish_change(grant.account_id)
