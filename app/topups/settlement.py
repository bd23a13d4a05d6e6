"""Doing what a provider tells, exactly once: `settle`.

Webhook, return page and sweep settle by the same function, under the account's lock: whoever flips the row posts, the
others find it done. Inbox row, top-up, entries and grants change in one transaction.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from app.audit_log.records import AuditContext
from app.ledger import notifications, posting
from app.ledger.notifications import NotificationKind
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes as books
from app.ledger.rules.account_state import Cause, GrantSource
from app.topups import customers, inbox, rows
from app.topups.event_outcomes import EventNotApplied, EventOutcome
from app.topups.provider import Dispute, ProviderEvent, Refund
from app.topups.refunds import dispute_effects, locked_top_up, refund_effects
from app.topups.refunds.locked_top_up import LockedTopUp
from app.topups.rules import (
    UNPAID_STATUSES,
    Payment,
    PaymentStatus,
    Reference,
    TopUpRow,
    TopUpStatus,
    derive_status,
    find_mismatches,
)

__all__ = ["EventOutcome", "settle"]

log = logging.getLogger(__name__)


async def settle(event: ProviderEvent, *, audit: AuditContext | None = None) -> EventOutcome:
    """Do what an event says, once: inbox row, top-up, entry and grant change together or not at all.

    An event that is not about a top-up of ours, or that disagrees with it, is parked and credits nothing. After a
    failure, which is raised, the event waits in the inbox to be tried again. `act`: who had the provider asked.
    """
    await inbox.store_event(event)
    reference = await _whose(event)

    async def decide(posting: Posting) -> EventOutcome:
        [waiting, *found] = posting.rows
        if not waiting:
            return EventOutcome.DUPLICATE
        if (parked_as := waiting[0][1]) is not None:
            return EventOutcome(parked_as)
        if reference is None or not found[0]:
            return _of_nobody(posting, event)
        try:
            outcome = await _follow(posting, event, found, audit)
        except EventNotApplied as why:
            return _set_aside(posting, event, why.outcome, why.reason)
        inbox.mark_handled(posting, event, outcome)
        return outcome

    reads = [inbox.select_unhandled(event)]
    if reference is not None:
        reads += (
            [rows.select_top_up(*reference)]
            if isinstance(event.object, Payment)
            else locked_top_up.select_locked_top_up(reference)
        )
    try:
        return await posting.post([reference.account_id] if reference else [], decide, reads=reads)
    except Exception as fault:
        await _note_failure(event, fault)
        raise


async def _follow(
    posting: Posting, event: ProviderEvent, found: Sequence[Any], audit: AuditContext | None
) -> EventOutcome:
    """Do what an event about this top-up says. Raises: Disagrees, before anything has moved."""
    if isinstance(event.object, Payment):
        top_up = rows.from_row(found[0][0])
        if wrong := find_mismatches(top_up, event.object):
            raise EventNotApplied("; ".join(wrong))
        outcome = _paid(posting, top_up, event.object, audit)
        if event.object.status is PaymentStatus.PAID:
            customers.save_card(posting, top_up, event.object)
        return outcome
    case = await locked_top_up.load_locked_top_up(posting, found)
    if case is None or case.top_up.status in UNPAID_STATUSES:
        raise EventNotApplied("The top-up was not paid.")
    outcome = _given_back(case, event.object)
    if case.changed_ids:
        case.write_changes(posting)
    return outcome


def _given_back(case: LockedTopUp, told: Refund | Dispute) -> EventOutcome:
    return (
        refund_effects.apply_refund_event(case, told)
        if isinstance(told, Refund)
        else dispute_effects.apply_dispute_event(case, told)
    )


def _of_nobody(posting: Posting, event: ProviderEvent) -> EventOutcome:
    """A payment that we did not ask for is parked; what follows from a payment waits until that is settled."""
    if isinstance(event.object, Payment):
        return _set_aside(posting, event, EventOutcome.PARKED_UNKNOWN, "There is no top-up of this reference.")
    reason = f"Payment {event.object.payment_ref} is not settled yet."
    return _set_aside(posting, event, EventOutcome.WAITING, reason)


async def _whose(event: ProviderEvent) -> Reference | None:
    """The top-up that an event is about: by our own reference, or by the payment that paid it."""
    if isinstance(event.object, Payment):
        return Reference.parse(event.object.reference)
    return await rows.find_by_payment(event.object.payment_ref)


def _paid(posting: Posting, top_up: TopUpRow, payment: Payment, audit: AuditContext | None) -> EventOutcome:
    """Flip the row if the event says so. A payment also makes the entry and the grant, which never expires, and those
    of the bonus, which does.
    """
    status = derive_status(top_up.status, payment.status)
    if status is None:
        return EventOutcome.UNCHANGED
    book = posting.accounts[top_up.account_id]
    changed = top_up._replace(
        status=status,
        provider_ref=top_up.provider_ref if payment.provider_ref_is_payment else payment.provider_ref,
        payment_ref=payment.payment_ref or top_up.payment_ref,
        decline_reason=payment.decline_reason,
        tax_lines=payment.tax_lines,
    )
    if status is TopUpStatus.PAID:
        changed = changed._replace(paid_at=book.at)
        cause = Cause(actor=top_up.actor, top_up_id=top_up.id)
        books.add_grant(book, top_up.credits, cause, source=GrantSource.PURCHASED)
        if top_up.bonus_credits:
            expires_at = book.at + timedelta(days=top_up.bonus_days or 0)
            books.add_grant(book, top_up.bonus_credits, cause, source=GrantSource.PROMOTIONAL, expires_at=expires_at)
        notifications.resolve(book, posting.write, NotificationKind.TOP_UP_FAILED)
        if changed.payment_ref is not None:
            rows.insert_payment(posting.write, changed)
    elif top_up.automatic:
        # Nobody was there to see it declined.
        notifications.notify(book, posting.write, NotificationKind.TOP_UP_FAILED, _not_paid(changed), subject=top_up.id)
        posting.publish_change(top_up.account_id)
    rows.update_top_up(posting.write, changed, status_before=top_up.status)
    before, after = {"status": top_up.status}, {"status": status, "declineReason": payment.decline_reason}
    posting.record_audit(audit, book, subject=f"top-up {top_up.id}", before=before, after=after)
    return _OUTCOMES[status]


_OUTCOMES = {
    TopUpStatus.PAID: EventOutcome.CREDITED,
    TopUpStatus.FAILED: EventOutcome.DECLINED,
    TopUpStatus.EXPIRED: EventOutcome.EXPIRED,
}


def _not_paid(top_up: TopUpRow) -> str:
    return f"An automatic top-up of {top_up.credits:,} credits was not paid: the card was declined."


def _set_aside(posting: Posting, event: ProviderEvent, outcome: EventOutcome, reason: str) -> EventOutcome:
    """Let a notice wait for another, or for a person: it has done nothing."""
    if outcome is EventOutcome.WAITING:
        log.info("payment notice %s waits: %s", event.event_id, reason)
        inbox.postpone(posting, event, outcome, reason)
    else:
        log.error("payment notice %s is parked, nothing was credited: %s", event.event_id, reason)
        inbox.park(posting, event, outcome, reason)
    return outcome


async def _note_failure(event: ProviderEvent, fault: Exception) -> None:
    try:
        await inbox.record_failure(event.event_id, fault)
    except Exception:
        # Whatever broke the handling may break this too; the row is there either way, and the first fault is raised.
        log.exception("the failure of payment notice %s could not be recorded", event.event_id)
