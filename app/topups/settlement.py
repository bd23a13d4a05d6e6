"""Applies each provider event to its top-up exactly once (`settle`).

Webhook, return page and sweep call the same function. The first call changes the top-up and posts, under the account's
lock; later calls change nothing. Inbox row, top-up, entries and grants change in one transaction.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from app.audit_log.records import AuditContext
from app.db import failures
from app.ledger import notifications, posting
from app.ledger.account_events import TopUpFailed, TopUpPaid, record_event
from app.ledger.notifications import NotificationKind
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import Cause, GrantSource
from app.topups import customers, inbox, queries, rows
from app.topups.provider import ProviderEvent, Refund, UnusableObject
from app.topups.provider_events import EventNotApplied, EventOutcome
from app.topups.refunds import dispute_effects, locked_top_up, refund_effects
from app.topups.rules import (
    UNPAID_STATUSES,
    Payment,
    PaymentStatus,
    Reference,
    TopUpRow,
    TopUpStatus,
    derive_status,
    find_mismatches,
    merge_facts,
    take_captured_share,
)
from app.wording import counted

_OUTCOMES: Final = {
    TopUpStatus.PAID: EventOutcome.CREDITED,
    TopUpStatus.FAILED: EventOutcome.DECLINED,
    TopUpStatus.EXPIRED: EventOutcome.EXPIRED,
}

log = logging.getLogger(__name__)


async def settle(event: ProviderEvent, *, audit: AuditContext | None = None) -> EventOutcome:
    """Store an event and apply it once. Either the whole effect is committed, or none of it.

    An event that is not about one of our top-ups, or contradicts it, is parked and credits nothing. If applying fails,
    the exception is raised and the event is retried from the inbox. `audit` belongs to the request that queried the
    provider.
    """
    await inbox.store_event(event)
    reference = await _find_reference(event)

    async def decide(posting: Posting) -> EventOutcome:
        [unhandled, *found] = posting.rows
        if not unhandled:
            return EventOutcome.DUPLICATE
        if (parked_as := unhandled[0]["parked_as"]) is not None:
            return EventOutcome(parked_as)
        try:
            if reference is None or not found[0]:
                raise _no_top_up(event)
            outcome = await _apply(posting, event, found, audit)
        except EventNotApplied as reason:
            return _leave_unhandled(posting, event, reason)
        inbox.mark_handled(posting, event, outcome)
        return outcome

    reads = [inbox.select_unhandled(event)]
    if reference is not None and isinstance(event.object, Payment):
        reads.append(rows.select_top_up(*reference))
    elif reference is not None:
        reads += locked_top_up.select_locked_top_up(reference)
    try:
        return await posting.post([reference.account_id] if reference else [], decide, reads=reads)
    except Exception as error:
        await _record_failure(event, error)
        raise


async def _find_reference(event: ProviderEvent) -> Reference | None:
    """Return the top-up of an event, found by our reference or by the payment that paid it."""
    if isinstance(event.object, UnusableObject):
        return None
    if isinstance(event.object, Payment):
        return Reference.parse(event.object.reference)
    return await queries.find_by_payment(event.object.payment_ref)


def _no_top_up(event: ProviderEvent) -> EventNotApplied:
    """Return the error for an event without a top-up.

    A payment with an unknown reference is parked. A refund or dispute waits, because it may arrive before its payment.
    """
    if isinstance(event.object, UnusableObject):
        return EventNotApplied(event.object.reason)
    if isinstance(event.object, Payment):
        return EventNotApplied("There is no top-up of this reference.", EventOutcome.PARKED_UNKNOWN)
    return EventNotApplied(f"Payment {event.object.payment_ref} is not settled yet.", EventOutcome.WAITING)


async def _apply(
    posting: Posting, event: ProviderEvent, found: Sequence[Any], audit: AuditContext | None
) -> EventOutcome:
    """Apply an event to its top-up. Raises: EventNotApplied: nothing has changed."""
    if isinstance(event.object, Payment):
        top_up = rows.TOP_UPS.read(found[0][0])
        if mismatches := find_mismatches(top_up, event.object):
            raise EventNotApplied("; ".join(mismatches))
        outcome = _apply_payment(posting, top_up, event.object, audit)
        if event.object.status is PaymentStatus.PAID:
            customers.save_card(posting, top_up, event.object)
        return outcome
    locked = await locked_top_up.load_locked_top_up(posting, found)
    if locked is None or locked.top_up.status in UNPAID_STATUSES:
        raise EventNotApplied("The top-up was not paid.")
    if isinstance(event.object, UnusableObject):
        raise EventNotApplied(event.object.reason)
    if isinstance(event.object, Refund):
        outcome = refund_effects.apply_refund_event(locked, event.object)
    else:
        outcome = dispute_effects.apply_dispute_event(locked, event.object)
    if locked.changed_ids:
        locked.write_changes(posting)
    return outcome


def _apply_payment(posting: Posting, top_up: TopUpRow, payment: Payment, audit: AuditContext | None) -> EventOutcome:
    """Change the top-up to the status that follows from a payment.

    If the top-up becomes PAID, add its grant and the grant of its bonus, reduced to the captured share of the payment.
    If it is PAID already, store the values that earlier events did not report.
    Raises: EventNotApplied: the captured money does not pay for a single credit.
    """
    status = derive_status(top_up.status, payment.status)
    if status is None:
        if payment.status is PaymentStatus.PAID:
            _add_facts(posting, top_up, payment)
        return EventOutcome.UNCHANGED
    account = posting.accounts[top_up.account_id]
    changed = top_up._replace(
        status=status,
        provider_ref=top_up.provider_ref if payment.provider_ref_is_payment else payment.provider_ref,
        payment_ref=payment.payment_ref or top_up.payment_ref,
        decline_reason=payment.decline_reason,
    )
    if status is TopUpStatus.PAID:
        changed = merge_facts(take_captured_share(changed, payment), payment)._replace(
            paid_at=max(account.at, top_up.created_at)
        )
        if not changed.credits:
            raise EventNotApplied("The captured money pays for no credit.")
        if changed.credits != top_up.credits:
            log.warning(
                "top-up %s: %s of %s minor units were captured, %s of %s credits are added",
                top_up.reference, payment.captured_minor, payment.total_minor, changed.credits, top_up.credits,
            )  # fmt: skip
        cause = Cause(actor=top_up.actor, top_up_id=top_up.id)
        balance_changes.add_grant(account, changed.credits, cause, source=GrantSource.PURCHASED)
        if changed.bonus_credits:
            balance_changes.add_grant(
                account,
                changed.bonus_credits,
                cause,
                source=GrantSource.PROMOTIONAL,
                expires_at=account.at + timedelta(days=changed.bonus_days or 0),
            )
        notifications.resolve(account, posting.write, NotificationKind.TOP_UP_FAILED)
        record_event(
            account,
            TopUpPaid(
                top_up_id=changed.id,
                credits=changed.credits,
                bonus_credits=changed.bonus_credits,
                amount_minor=changed.amount_minor,
                currency=changed.currency,
                automatic=changed.automatic,
            ),
        )
        if changed.payment_ref is not None:
            rows.insert_payment(posting.write, changed)
    elif top_up.automatic:
        # The owner was absent when the card was declined.
        text = f"An automatic top-up of {counted(top_up.credits, 'credit')} was not paid: the card was declined."
        notifications.notify(account, posting.write, NotificationKind.TOP_UP_FAILED, text, subject=top_up.id)
        posting.publish_change(top_up.account_id)
    if status in {TopUpStatus.FAILED, TopUpStatus.EXPIRED}:
        record_event(
            account,
            TopUpFailed(top_up_id=top_up.id, status=status, credits=top_up.credits, automatic=top_up.automatic),
        )
    rows.update_top_up(posting.write, changed, status_before=top_up.status)
    before, after = {"status": top_up.status}, {"status": status, "declineReason": payment.decline_reason}
    posting.record_audit(audit, account, subject=f"top-up {top_up.id}", before=before, after=after)
    return _OUTCOMES[status]


def _add_facts(posting: Posting, top_up: TopUpRow, payment: Payment) -> None:
    """Store what a payment reports about a top-up that is PAID already. No credits move."""
    changed = merge_facts(top_up, payment)
    if changed == top_up:
        return
    if top_up.payment_ref is None and changed.payment_ref is not None:
        rows.insert_payment(posting.write, changed)
    rows.update_top_up(posting.write, changed, status_before=top_up.status)


def _leave_unhandled(posting: Posting, event: ProviderEvent, reason: EventNotApplied) -> EventOutcome:
    """Keep an event that was not applied. It waits for another event or for an operator."""
    if reason.outcome is EventOutcome.WAITING:
        log.info("provider event %s waits: %s", event.event_id, reason)
        inbox.postpone(posting, event, reason.reason)
    else:
        log.error("provider event %s is parked, nothing was credited: %s", event.event_id, reason)
        inbox.park(posting, event, reason.outcome, reason.reason)
    return reason.outcome


async def _record_failure(event: ProviderEvent, error: Exception) -> None:
    try:
        await inbox.record_failure(event.event_id, error)
    except Exception as fault:
        # The same fault may also prevent this write. The event is stored anyway, and the first exception is raised.
        failures.log_failure(log, fault, "the failure of provider event %s could not be recorded", event.event_id)
