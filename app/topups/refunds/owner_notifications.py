"""Notifications to the owner about disputes and refunds: one for each, until the dispute ends or the refund fails.

Each change of a refund or dispute is also an event for outgoing webhooks.
"""

import hashlib
from typing import Final

from app.ledger import notifications
from app.ledger.account_events import AccountEvent, TopUpDisputed, TopUpRefunded, record_event
from app.ledger.notifications import NotificationKind
from app.ledger.posting import Posting
from app.ledger.rules.account_state import AccountState
from app.topups.provider import DisputeStatus
from app.topups.refunds.amounts import DisputeRow, RefundRow
from app.topups.rules import TopUpRow, format_money

_MAX_SUBJECT_LENGTH: Final = 64


def notify_owner(
    posting: Posting,
    account: AccountState,
    top_up: TopUpRow,
    before: RefundRow | DisputeRow | None,
    after: RefundRow | DisputeRow,
) -> None:
    """Add and resolve the notifications that follow from a changed refund or dispute. `before` is None if it is new."""
    causes_before = _describe(before, top_up) if before is not None else {}
    causes_after = _describe(after, top_up)
    subject = _subject(after.id if isinstance(after, RefundRow) else after.dispute_ref)
    for kind in causes_before.keys() - causes_after.keys():
        notifications.resolve(account, posting.write, kind, subject=subject)
        posting.publish_change(account.account_id)
    for kind in causes_after.keys() - causes_before.keys():
        notifications.notify(account, posting.write, kind, causes_after[kind], subject=subject)
        posting.publish_change(account.account_id)
    if before is None or (before.status, before.credits) != (after.status, after.credits):
        record_event(account, _event(after, top_up))


def _event(row: RefundRow | DisputeRow, top_up: TopUpRow) -> AccountEvent:
    if isinstance(row, RefundRow):
        return TopUpRefunded(
            top_up_id=top_up.id,
            refund_id=row.id,
            status=row.status,
            credits=row.credits,
            debt_credits=row.debt_credits,
            amount_minor=row.amount_minor,
            currency=top_up.currency,
        )
    return TopUpDisputed(
        top_up_id=top_up.id,
        dispute_id=row.dispute_ref,
        status=row.status,
        credits=row.credits,
        frozen_credits=row.frozen_credits,
    )


def _describe(row: RefundRow | DisputeRow, top_up: TopUpRow) -> dict[NotificationKind, str]:
    """Return the kinds and texts of the notifications that the current state of a refund or dispute requires."""
    payment = f"payment of {format_money(top_up.paid_minor, top_up.currency)}"
    taken = f"{_count(row.credits)} taken back"
    if row.debt_credits:
        taken += f"; {row.debt_credits:,} of them had been spent or are held, and are owed"
    if isinstance(row, RefundRow):
        refunded = f"{format_money(row.amount_minor, top_up.currency)} of a {payment} were refunded: {taken}."
        return {NotificationKind.REFUNDED: refunded} if row.is_effective else {}
    match row.status:
        case DisputeStatus.OPEN:
            frozen = f"{_count(row.frozen_credits)} frozen until the bank has decided"
            return {NotificationKind.DISPUTED: f"A {payment} is disputed: {frozen}."}
        case DisputeStatus.LOST:
            return {NotificationKind.DISPUTE_LOST: f"The bank has returned money of a {payment} to the buyer: {taken}."}
        case DisputeStatus.WON:
            return {}


def _count(credits: int) -> str:
    return "1 credit is" if credits == 1 else f"{credits:,} credits are"


def _subject(ref: str) -> str:
    """Return the subject of the notifications: the id, or a hash of one that is too long."""
    return ref if len(ref) <= _MAX_SUBJECT_LENGTH else hashlib.sha256(ref.encode()).hexdigest()
