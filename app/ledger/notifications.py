"""Notifications to a person about an account: adds them in postings, lists them and marks them as read.

There is at most one unresolved notification for each kind, agent and subject. If the same thing happens again before it
is resolved, no notification is added. Notifications about missing credits are resolved when credits are added. A
resolved notification counts as read and stays in the list.

Numbers are assigned under the account's lock, in the order in which postings commit. So after a reader has seen a
number, no notification with a lower number appears. Numbers have gaps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from app.audit_log import records
from app.audit_log.records import AuditContext
from app.db import failures, pools
from app.db.set_writes import SetStatement, SetWrite
from app.db.tables import Table, key_columns
from app.ledger import models
from app.ledger.account_events import BalanceLow, BalanceReplenished, OutOfCredits, record_event
from app.ledger.rules.account_state import AccountState
from app.wording import counted


class NotificationKind(StrEnum):
    """What a notification is about."""

    LOW_BALANCE = "LOW_BALANCE"
    OUT_OF_CREDITS = "OUT_OF_CREDITS"
    SCHEDULE_SKIPPED = "SCHEDULE_SKIPPED"
    EXPIRING = "EXPIRING"
    AUTO_TOP_UP_BLOCKED = "AUTO_TOP_UP_BLOCKED"
    TOP_UP_FAILED = "TOP_UP_FAILED"
    DISPUTED = "DISPUTED"
    DISPUTE_LOST = "DISPUTE_LOST"
    REFUNDED = "REFUNDED"
    IN_DEBT = "IN_DEBT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A notification about an agent (`agent_id`), or about the account if `agent_id` is None.

    `subject` distinguishes notifications of one kind, for example by the grant that expires.
    """

    account_id: int
    number: int
    kind: NotificationKind
    agent_id: str | None
    subject: str
    message: str
    at: datetime
    read_at: datetime | None = None
    resolved_at: datetime | None = None


NOTIFICATIONS: Final = Table(
    models.Notification,
    Notification,
    key=("account_id", "number"),
    decode={"agent_id": lambda text: text or None},
)

RESOLVED_BY_CREDITS: Final = (NotificationKind.OUT_OF_CREDITS, NotificationKind.SCHEDULE_SKIPPED)
"""The kinds that are resolved when credits become available."""

MAX_NUMBER: Final = 2**31 - 1
"""The highest possible number of a notification."""

MARK_READ_LIMIT: Final = 100
"""The maximum number of notifications that `mark_read` returns if it marks all notifications."""

_INSERT: Final = NOTIFICATIONS.insert(
    columns=("account_id", "number", "kind", "agent_id", "subject", "message", "at"),
    on_conflict="ON CONFLICT (account_id, kind, agent_id, subject) WHERE resolved_at IS NULL DO NOTHING",
    checks_row_count=False,
)

_RESOLVE: Final = SetStatement(
    "resolved notifications",
    """
    UPDATE notification AS n
    SET resolved_at = greatest(v.at, n.at), read_at = coalesce(n.read_at, greatest(v.at, n.at))
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::timestamptz[]) AS v(account_id, kind, subject, at)
    WHERE n.account_id = v.account_id AND n.kind = v.kind AND n.subject = coalesce(v.subject, n.subject)
      AND n.resolved_at IS NULL
    RETURNING 1
    """,
    4,
    checks_row_count=False,
)

_BY_NUMBER: Final = f"""
    SELECT {NOTIFICATIONS.columns("n")} FROM unnest($1::bigint[], $2::int[]) AS k(account_id, number)
    JOIN notification AS n ON n.account_id = k.account_id AND n.number = k.number
"""  # noqa: S608  our own constant

# The account row is locked first, as in a posting, so that this statement and a posting cannot deadlock. If the list of
# numbers is NULL, all notifications are marked.
_MARK_READ: Final = f"""
    WITH locked AS MATERIALIZED (
        SELECT id FROM account WHERE id = $1 FOR NO KEY UPDATE
    ), marked AS (
        UPDATE notification AS n SET read_at = greatest(clock_timestamp(), n.at) FROM locked
        WHERE n.account_id = locked.id AND n.read_at IS NULL AND ($2::int[] IS NULL OR n.number = ANY($2))
        RETURNING {NOTIFICATIONS.columns("n")}
    )
    SELECT * FROM marked ORDER BY number DESC LIMIT $3
"""  # noqa: S608  our own constant


def notify(
    account: AccountState,
    write: SetWrite,
    kind: NotificationKind,
    message: str,
    *,
    agent_id: str = "",
    subject: str = "",
) -> None:
    """Add a notification, unless there is an unresolved one of the same kind, agent and subject.

    The caller publishes the change of the account.
    """
    account.notification_count += 1
    notification = Notification(
        account_id=account.account_id,
        number=account.notification_count,
        kind=kind,
        agent_id=agent_id,
        subject=subject,
        message=message,
        at=account.at,
    )
    write.add_row(_INSERT, notification)


def resolve(account: AccountState, write: SetWrite, kind: NotificationKind, *, subject: str | None = None) -> None:
    """Resolve the notifications of a kind and subject, because they are no longer true. `subject=None`: any subject."""
    write.add(_RESOLVE, (account.account_id, kind, subject, account.at))


def effective_low_balance_threshold(account: AccountState, default_credits: int) -> int:
    """Return the account's own threshold, or the default if it has none. A balance below it is low."""
    return default_credits if account.low_balance_threshold is None else account.low_balance_threshold


def is_replenished(account: AccountState) -> bool:
    """Return whether this posting made credits available: there were none before, or credits were added."""
    available = account.available
    return available > account.locked_available and (
        account.locked_available == 0 or account.posted > account.locked_posted
    )


def is_emptied(account: AccountState) -> bool:
    """Return whether this posting used up the available credits."""
    return account.available == 0 < account.locked_available


def notify_balance_change(account: AccountState, write: SetWrite, *, low_balance_threshold: int) -> None:
    """Add and resolve the notifications that follow from the change of the debt and of the available credits."""
    if account.owed and not account.locked_owed:
        owed = f"{account.owed:,} credit{'' if account.owed == 1 else 's'}"
        message = f"The account owes {owed}: no agent can start until a top-up has paid the debt."
        notify(account, write, NotificationKind.IN_DEBT, message)
    elif account.locked_owed and not account.owed:
        resolve(account, write, NotificationKind.IN_DEBT)
    before, after = account.locked_available, account.available
    if before == after:
        return
    threshold = effective_low_balance_threshold(account, low_balance_threshold)
    if after < threshold <= before:
        message = f"{counted(after, 'credit is', 'credits are')} left: less than {threshold:,}."
        notify(account, write, NotificationKind.LOW_BALANCE, message)
        record_event(account, BalanceLow(threshold=threshold))
    elif before < threshold <= after:
        resolve(account, write, NotificationKind.LOW_BALANCE)
    if is_emptied(account):
        message = "No credits are left: running agents stop, and scheduled ones do not start until credits are added."
        notify(account, write, NotificationKind.OUT_OF_CREDITS, message)
        record_event(account, OutOfCredits())
    elif is_replenished(account):
        record_event(account, BalanceReplenished())
        for kind in RESOLVED_BY_CREDITS:
            resolve(account, write, kind)


def expiring_message(credits: int, at: datetime) -> str:
    """Return the message of an EXPIRING notification."""
    return f"{counted(credits, 'credit')} will expire on {at:%Y-%m-%d at %H:%M} UTC if nothing spends them before."


async def list_notifications(
    account_id: int, *, before_number: int = MAX_NUMBER, limit: int, unread_only: bool = False
) -> list[Notification]:
    """Return notifications with a number below `before_number`, newest first."""
    query = models.Notification.filter(account_id=account_id, number__lt=before_number)
    if unread_only:
        query = query.filter(read_at__isnull=True)
    return await NOTIFICATIONS.fetch(query.order_by("-number").limit(limit))


async def list_notifications_after(account_id: int, number: int, limit: int) -> list[Notification]:
    """Return notifications with a number above `number`, oldest first."""
    query = models.Notification.filter(account_id=account_id, number__gt=number).order_by("number").limit(limit)
    return await NOTIFICATIONS.fetch(query)


async def last_notification_number(account_id: int) -> int:
    """Return the highest number assigned so far. Later notifications have higher numbers."""
    account = await models.Account.get_or_none(id=account_id).only("notification_count")
    return account.notification_count if account is not None else 0


async def get_notifications(keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Notification]:
    """Return the notifications that exist, by (account id, number)."""
    existing = [(account_id, number) for account_id, number in keys if 0 <= number <= MAX_NUMBER]
    found = await pools.fetch(_BY_NUMBER, *key_columns(existing))
    return {(one.account_id, one.number): one for one in map(NOTIFICATIONS.read, found)}


async def mark_read(
    account_id: int, numbers: Sequence[int] | None, *, audit: AuditContext | None = None
) -> list[Notification]:
    """Mark notifications of an account as read. If `numbers` is None, all unread ones are marked.

    Returns: the notifications in `numbers` that exist; if `numbers` is None, the newest 100 of those that were unread.
    The newest comes first.
    """
    chosen = None if numbers is None else [number for number in numbers if 0 < number <= MAX_NUMBER]
    marked = await failures.run_with_retries(lambda: _mark_read(account_id, chosen, audit))
    if chosen is None:
        return list(map(NOTIFICATIONS.read, marked))
    found = await get_notifications((account_id, number) for number in chosen)
    return sorted(found.values(), key=lambda notification: -notification.number)


async def _mark_read(account_id: int, numbers: list[int] | None, audit: AuditContext | None) -> Sequence[Any]:
    """Return the rows that were unread. This takes one statement, or one transaction if there is an audit record."""
    if audit is None:
        return await pools.fetch(_MARK_READ, account_id, numbers, MARK_READ_LIMIT)
    write = SetWrite()
    async with pools.transaction() as connection:
        _, marked = await connection.execute_query(_MARK_READ, [account_id, numbers, MARK_READ_LIMIT])
        if marked:
            records.append_record(
                write,
                audit,
                account_id=account_id,
                subject="notifications",
                before={"read": []},
                after={"read": [record["number"] for record in marked]},
            )
        await write.execute(connection)
    return marked
