"""Doing what a provider tells, exactly once: `settle`.

Webhook, return page and sweep settle by the same function, under the account's lock: whoever flips the row posts, the
others find it done. Inbox row, top-up, entries and grants change in one transaction.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from app.ledger import notices, posting
from app.ledger import rules as books
from app.ledger.book import Cause, Source
from app.ledger.notices import NoticeKind
from app.ledger.posting import Posting
from app.topups import customers, inbox, rows
from app.topups.giving_back import cases, disputes, refunding
from app.topups.giving_back.cases import Case
from app.topups.outcomes import Disagrees, Outcome
from app.topups.provider import Dispute, ProviderEvent, Refund
from app.topups.rules import UNPAID, Payment, PaymentState, Reference, Status, TopUpState, disagreements, follows
from app.trail.records import Act

__all__ = ["Outcome", "settle"]

log = logging.getLogger(__name__)


async def settle(event: ProviderEvent, *, act: Act | None = None) -> Outcome:
    """Do what an event says, once: inbox row, top-up, entry and grant change together or not at all.

    An event that is not about a top-up of ours, or that disagrees with it, is parked and credits nothing. After a
    failure, which is raised, the event waits in the inbox to be tried again. `act`: who had the provider asked.
    """
    await inbox.receive(event)
    reference = await _whose(event)

    async def decide(posting: Posting) -> Outcome:
        [waiting, *found] = posting.rows
        if not waiting:
            return Outcome.DUPLICATE
        if (parked_as := waiting[0][1]) is not None:
            return Outcome(parked_as)
        if reference is None or not found[0]:
            return _of_nobody(posting, event)
        try:
            outcome = await _follow(posting, event, found, act)
        except Disagrees as why:
            return _set_aside(posting, event, why.outcome, why.reason)
        inbox.handled(posting, event, outcome)
        return outcome

    reads = [inbox.read(event)]
    if reference is not None:
        reads += [rows.read(*reference)] if isinstance(event.told, Payment) else cases.reads(reference)
    try:
        return await posting.post([reference.account_id] if reference else [], decide, reads=reads)
    except Exception as fault:
        await _note_failure(event, fault)
        raise


async def _follow(posting: Posting, event: ProviderEvent, found: Sequence[Any], act: Act | None) -> Outcome:
    """Do what an event about this top-up says. Raises: Disagrees, before anything has moved."""
    if isinstance(event.told, Payment):
        top_up = rows.from_row(found[0][0])
        if wrong := disagreements(top_up, event.told):
            raise Disagrees("; ".join(wrong))
        outcome = _paid(posting, top_up, event.told, act)
        if event.told.state is PaymentState.PAID:
            customers.keep_card(posting, top_up, event.told)
        return outcome
    case = await cases.opened(posting, found)
    if case is None or case.top_up.status in UNPAID:
        raise Disagrees("The top-up was not paid.")
    outcome = _given_back(case, event.told)
    if case.changed:
        case.write(posting)
    return outcome


def _given_back(case: Case, told: Refund | Dispute) -> Outcome:
    return refunding.told(case, told) if isinstance(told, Refund) else disputes.told(case, told)


def _of_nobody(posting: Posting, event: ProviderEvent) -> Outcome:
    """A payment that we did not ask for is parked; what follows from a payment waits until that is settled."""
    if isinstance(event.told, Payment):
        return _set_aside(posting, event, Outcome.PARKED_UNKNOWN, "There is no top-up of this reference.")
    reason = f"Payment {event.told.payment_ref} is not settled yet."
    return _set_aside(posting, event, Outcome.WAITING, reason)


async def _whose(event: ProviderEvent) -> Reference | None:
    """The top-up that an event is about: by our own reference, or by the payment that paid it."""
    if isinstance(event.told, Payment):
        return Reference.parse(event.told.reference)
    return await rows.of_payment(event.told.payment_ref)


def _paid(posting: Posting, top_up: TopUpState, payment: Payment, act: Act | None) -> Outcome:
    """Flip the row if the event says so. A payment also makes the entry and the grant, which never expires, and those
    of the bonus, which does.
    """
    status = follows(top_up.status, payment.state)
    if status is None:
        return Outcome.UNCHANGED
    book = posting.books[top_up.account_id]
    changed = top_up._replace(
        status=status,
        provider_ref=top_up.provider_ref if payment.money_only else payment.provider_ref,
        payment_ref=payment.payment_ref or top_up.payment_ref,
        decline_reason=payment.decline_reason,
        tax_lines=payment.tax_lines,
    )
    if status is Status.PAID:
        changed = changed._replace(paid_at=book.at)
        cause = Cause(actor=top_up.actor, top_up_id=top_up.id)
        books.grant(book, top_up.credits, cause, source=Source.PURCHASED)
        if top_up.bonus_credits:
            expires_at = book.at + timedelta(days=top_up.bonus_days or 0)
            books.grant(book, top_up.bonus_credits, cause, source=Source.PROMOTIONAL, expires_at=expires_at)
        notices.clear(book, posting.write, NoticeKind.TOP_UP_FAILED)
        if changed.payment_ref is not None:
            rows.add_payment(posting.write, changed)
    elif top_up.automatic:
        # Nobody was there to see it declined.
        notices.give(book, posting.write, NoticeKind.TOP_UP_FAILED, _not_paid(changed), subject=top_up.id)
        posting.announce(top_up.account_id)
    rows.flip(posting.write, changed, before=top_up.status)
    before, after = {"status": top_up.status}, {"status": status, "declineReason": payment.decline_reason}
    posting.leave(act, book, subject=f"top-up {top_up.id}", before=before, after=after)
    return _OUTCOMES[status]


_OUTCOMES = {Status.PAID: Outcome.CREDITED, Status.FAILED: Outcome.DECLINED, Status.EXPIRED: Outcome.EXPIRED}


def _not_paid(top_up: TopUpState) -> str:
    return f"An automatic top-up of {top_up.credits:,} credits was not paid: the card was declined."


def _set_aside(posting: Posting, event: ProviderEvent, outcome: Outcome, reason: str) -> Outcome:
    """Let a notice wait for another, or for a person: it has done nothing."""
    if outcome is Outcome.WAITING:
        log.info("payment notice %s waits: %s", event.event_id, reason)
        inbox.waits(posting, event, outcome, reason)
    else:
        log.error("payment notice %s is parked, nothing was credited: %s", event.event_id, reason)
        inbox.parked(posting, event, outcome, reason)
    return outcome


async def _note_failure(event: ProviderEvent, fault: Exception) -> None:
    try:
        await inbox.failed(event.event_id, fault)
    except Exception:
        # Whatever broke the handling may break this too; the row is there either way, and the first fault is raised.
        log.exception("the failure of payment notice %s could not be recorded", event.event_id)
