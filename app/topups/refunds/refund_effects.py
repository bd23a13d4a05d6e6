"""The effects of a refund under the account's lock, when it is requested and when its provider reports it.

The credits leave the account when the refund is requested, not when the provider confirms it. They return if the refund
fails. A refund that was begun at the provider has the same effect. Its money has already been returned, so it takes
precedence over open and lost disputes, in any order of events.
"""

from dataclasses import replace
from typing import Final
from uuid import uuid4

from app.ledger.rules import debt
from app.ledger.rules.account_state import Cause
from app.topups.errors import RefundExceedsTopUp
from app.topups.provider import DisputeStatus, Refund, RefundStatus
from app.topups.provider_events import EventNotApplied, EventOutcome
from app.topups.refunds.amounts import RefundRow, credits_for_amount, find_mismatches, value_bonus
from app.topups.refunds.locked_top_up import (
    LockedTopUp,
    TakenCredits,
    extend_disputes,
    release_open_disputes,
    return_credits,
    take_credits,
)
from app.topups.rules import Reference
from app.wording import quote_value

EXTERNAL_REFUND_REASON: Final = "begun at the provider"

_NEXT_STATUSES: Final = {
    RefundStatus.PENDING: (RefundStatus.DONE, RefundStatus.FAILED),
    RefundStatus.DONE: (RefundStatus.FAILED,),
    RefundStatus.FAILED: (),
}
"""The statuses that may follow. DONE may be followed by FAILED, because a bank may return the money later."""


def begin_refund(locked: LockedTopUp, credits: int | None, *, reason: str, actor: str) -> RefundRow:
    """Take `credits` of the top-up back, and compute the money to return for them.

    `credits=None` means all refundable credits. Credits of an open dispute are not refundable. The value of spent bonus
    is deducted from the money, down to 0. A refund without money is DONE at once.
    Raises: RefundExceedsTopUp; BalanceLimitReached: the debt would be too high.
    """
    remaining = locked.remaining
    requested = remaining.refundable_credits if credits is None else credits
    if not 0 < requested <= remaining.refundable_credits:
        raise RefundExceedsTopUp(requested_credits=requested, refundable_credits=remaining.refundable_credits)
    gross_minor = remaining.split_money(requested)
    cause = Cause(actor=actor, reason=reason, top_up_id=locked.top_up.id)
    taken = take_credits(locked, requested, cause)
    reduced_minor = min(gross_minor, value_bonus(locked.top_up, taken.bonus_spent))
    refund = _new_refund(
        locked,
        requested,
        taken,
        amount_minor=gross_minor - reduced_minor,
        reduced_minor=reduced_minor,
        status=RefundStatus.PENDING if gross_minor > reduced_minor else RefundStatus.DONE,
        reason=reason,
        actor=actor,
    )
    locked.put_row(refund)
    return refund


def apply_refund_event(locked: LockedTopUp, reported: Refund) -> EventOutcome:
    """Apply a reported refund. Raises: EventNotApplied: nothing has changed; BalanceLimitReached."""
    refund = _find_refund(locked, reported)
    amount_minor = refund.amount_minor if refund else None
    if mismatches := find_mismatches(locked.top_up, reported, amount_minor=amount_minor):
        raise EventNotApplied("; ".join(mismatches))
    if refund is None:
        return _apply_external_refund(locked, reported)
    if refund.refund_ref not in (None, reported.refund_ref):
        raise EventNotApplied(f"refund is {reported.refund_ref}, ours is {refund.refund_ref}")
    if reported.status not in _NEXT_STATUSES[refund.status]:
        if refund.refund_ref is None:
            locked.put_row(refund._replace(refund_ref=reported.refund_ref))
        return EventOutcome.UNCHANGED
    decided_at = max(locked.account.at, refund.created_at)
    refund = refund._replace(status=reported.status, refund_ref=reported.refund_ref, decided_at=decided_at)
    locked.put_row(refund)
    if reported.status is RefundStatus.DONE:
        return EventOutcome.REFUNDED
    return_credits(locked, refund, _provider_cause(locked, f"refund {refund.id} was refused"))
    extend_disputes(locked)
    return EventOutcome.REFUND_FAILED


def _find_refund(locked: LockedTopUp, reported: Refund) -> RefundRow | None:
    """Return the reported refund, found by our reference or the provider's, or None if it was begun at the provider."""
    if reported.reference is None:
        return next((one for one in locked.refunds.values() if one.refund_ref == reported.refund_ref), None)
    reference = Reference.parse(reported.reference)
    refund = None
    if reference is not None and reference.account_id == locked.top_up.account_id:
        refund = locked.refunds.get(reference.row_id)
    if refund is None:
        reason = f"There is no refund {quote_value(reported.reference)} of this top-up."
        raise EventNotApplied(reason, EventOutcome.PARKED_UNKNOWN)
    return refund


def _apply_external_refund(locked: LockedTopUp, reported: Refund) -> EventOutcome:
    """Apply a refund that was begun at the provider.

    The credits of all refunds together are those that belong to their total money, rounded up. So a refund of very
    little money may take no credits. A refund of all remaining money takes all remaining credits. A refund that has
    already failed is only recorded. A refund of more money than can be returned now waits: another refund may have
    failed at the provider, and the event that reports this may not have arrived yet.
    """
    top_up = locked.top_up
    if reported.amount_minor > top_up.paid_minor:
        raise EventNotApplied(
            f"amount in minor units is {reported.amount_minor}, {top_up.paid_minor} could be returned"
        )
    if reported.status is RefundStatus.FAILED:
        credits = credits_for_amount(top_up, reported.amount_minor)
        locked.put_row(_new_external_refund(locked, reported, credits, TakenCredits()))
        return EventOutcome.REFUND_FAILED
    effective = [one for one in locked.refunds.values() if one.is_effective]
    credits_taken = sum(one.credits for one in effective)
    money_taken = sum(one.gross_minor for one in effective)
    credits_left, money_left = top_up.credits - credits_taken, top_up.paid_minor - money_taken
    is_too_much = not credits_left and reported.amount_minor > money_left
    if is_too_much or reported.amount_minor > locked.remaining.returnable_minor:
        returnable = locked.remaining.returnable_minor
        reason = f"amount in minor units is {reported.amount_minor}, {returnable} could be returned"
        raise EventNotApplied(reason, EventOutcome.WAITING)
    if reported.amount_minor >= money_left:
        credits = credits_left
    else:
        due = credits_for_amount(top_up, money_taken + reported.amount_minor)
        credits = min(credits_left, max(0, due - credits_taken))
    clawed_back = max(0, credits - release_open_disputes(locked, credits))
    taken = TakenCredits()
    if credits > clawed_back:
        taken = take_credits(locked, credits - clawed_back, _provider_cause(locked, EXTERNAL_REFUND_REASON))
    debt_credits = taken.debt_credits + _count_as_refunded(locked, clawed_back)
    taken = replace(taken, debt_credits=debt_credits)
    locked.put_row(_new_external_refund(locked, reported, credits, taken))
    extend_disputes(locked)
    debt.pay_debt(locked.account)
    return EventOutcome.REFUNDED


def _count_as_refunded(locked: LockedTopUp, credits: int) -> int:
    """Count credits that lost disputes have taken as refunded instead. No credits move.

    Credits that came from the grant are counted first, so that they return to it if the refund fails.
    Returns: how many of `credits` became debt when the disputes were lost.
    """
    debt_credits = 0
    for dispute in reversed(list(locked.disputes.values())):
        if credits and dispute.status is DisputeStatus.LOST and (less := min(dispute.credits, credits)):
            left = dispute.credits - less
            kept_debt = min(dispute.debt_credits, left)
            locked.put_row(dispute._replace(credits=left, debt_credits=kept_debt))
            debt_credits += dispute.debt_credits - kept_debt
            credits -= less
    return debt_credits


def _new_external_refund(locked: LockedTopUp, reported: Refund, credits: int, taken: TakenCredits) -> RefundRow:
    return _new_refund(
        locked,
        credits,
        taken,
        amount_minor=reported.amount_minor,
        status=reported.status,
        refund_ref=reported.refund_ref,
        reason=EXTERNAL_REFUND_REASON,
        actor=locked.provider_actor,
    )


def _new_refund(
    locked: LockedTopUp,
    credits: int,
    taken: TakenCredits,
    *,
    amount_minor: int,
    reduced_minor: int = 0,
    status: RefundStatus,
    refund_ref: str | None = None,
    reason: str,
    actor: str,
) -> RefundRow:
    at = locked.account.at
    return RefundRow(
        account_id=locked.top_up.account_id,
        id=uuid4().hex,
        top_up_id=locked.top_up.id,
        credits=credits,
        debt_credits=taken.debt_credits,
        bonus_credits=taken.bonus_credits,
        bonus_expired=taken.bonus_expired,
        bonus_spent=taken.bonus_spent,
        amount_minor=amount_minor,
        reduced_minor=reduced_minor,
        status=status,
        refund_ref=refund_ref,
        reason=reason,
        actor=actor,
        created_at=at,
        decided_at=None if status is RefundStatus.PENDING else at,
    )


def _provider_cause(locked: LockedTopUp, reason: str) -> Cause:
    return Cause(actor=locked.provider_actor, reason=reason, top_up_id=locked.top_up.id)
