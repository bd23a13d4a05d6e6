"""What a refund does, decided under the account's lock: when it is asked for, and when its provider tells of it.

The credits leave when it is asked for, not when the provider's notice comes, and return if the provider refuses. A
refund that was begun at the provider has the same effect as one that was asked for here; the money has gone back
already then, so that it goes before open disputes and lost ones, whichever notice came first.
"""

from dataclasses import replace
from typing import Final
from uuid import uuid4

from app.errors import RefundExceedsTopUp
from app.ledger.rules import debt
from app.ledger.rules.account_state import Cause
from app.topups.event_outcomes import EventNotApplied, EventOutcome
from app.topups.provider import DisputeStatus, Refund, RefundStatus
from app.topups.refunds.amounts import RefundRow, credits_for_amount, find_mismatches, value_bonus
from app.topups.refunds.locked_top_up import LockedTopUp, TakenCredits, extend_disputes, return_credits, take_credits
from app.topups.rules import Reference

EXTERNAL_REFUND_REASON: Final = "begun at the provider"


def begin_refund(case: LockedTopUp, credits: int | None, *, reason: str, actor: str) -> RefundRow:
    """Take back `credits` of the top-up (None: all that is left), and reckon the money that goes back for them.

    Spent bonus reduces the money, not below 0; a refund of no money is done at once. What is disputed waits for its
    decision. Raises: RefundExceedsTopUp; BalanceLimitReached, of the debt.
    """
    given = case.remaining
    wanted = given.refundable_credits if credits is None else credits
    if not 0 < wanted <= given.refundable_credits:
        requested = wanted if credits is None else credits
        raise RefundExceedsTopUp(requested_credits=requested, refundable_credits=given.refundable_credits)
    gross = given.split_money(wanted)
    taken = take_credits(case, wanted, Cause(actor=actor, reason=reason, top_up_id=case.top_up.id))
    reduced = min(gross, value_bonus(case.top_up, taken.bonus_spent))
    state = RefundStatus.PENDING if gross > reduced else RefundStatus.DONE
    refund = _row(case, wanted, taken, state=state, reason=reason, actor=actor)
    refund = refund._replace(amount_minor=gross - reduced, reduced_minor=reduced)
    case.put_row(refund)
    return refund


def apply_refund_event(case: LockedTopUp, said: Refund) -> EventOutcome:
    """Follow what a provider tells of a refund. FAILED is final; DONE is not, a bank may still send the money back.

    Raises: Disagrees, before anything has moved; BalanceLimitReached.
    """
    refund = _ours(case, said)
    if wrong := find_mismatches(case.top_up, said, amount_minor=refund.amount_minor if refund else None):
        raise EventNotApplied("; ".join(wrong))
    if refund is None:
        return _begun_elsewhere(case, said)
    if refund.refund_ref not in (None, said.refund_ref):
        raise EventNotApplied(f"refund is {said.refund_ref}, ours is {refund.refund_ref}")
    follows = {
        RefundStatus.PENDING: (RefundStatus.DONE, RefundStatus.FAILED),
        RefundStatus.DONE: (RefundStatus.FAILED,),
    }
    moves = said.status in follows.get(refund.status, ())
    if not moves:
        if refund.refund_ref is None:
            case.put_row(refund._replace(refund_ref=said.refund_ref))
        return EventOutcome.UNCHANGED
    refund = refund._replace(status=said.status, refund_ref=said.refund_ref, decided_at=case.book.at)
    case.put_row(refund)
    if said.status is RefundStatus.DONE:
        return EventOutcome.REFUNDED
    return_credits(case, refund, _cause(case, f"refund {refund.id} was refused"))
    extend_disputes(case)
    return EventOutcome.REFUND_FAILED


def _ours(case: LockedTopUp, said: Refund) -> RefundRow | None:
    """The refund that is told of, by our reference or the provider's; None: it was begun at the provider."""
    if said.reference is None:
        return next((one for one in case.refunds.values() if one.refund_ref == said.refund_ref), None)
    reference = Reference.parse(said.reference)
    known = reference is not None and reference.account_id == case.top_up.account_id
    refund = case.refunds.get(reference.row_id) if reference is not None and known else None
    if refund is None:
        raise EventNotApplied(f"There is no refund {said.reference!r} of this top-up.", EventOutcome.PARKED_UNKNOWN)
    return refund


def _begun_elsewhere(case: LockedTopUp, said: Refund) -> EventOutcome:
    """A refund that we hear of first: the credits of its money, rounded up, all that is left for all the money.

    One that failed before we heard of it is only noted. More than can go back now waits: a refund that stands here may
    have failed at the provider, whose notice of that is on its way.
    """
    if said.amount_minor > case.top_up.amount_minor:
        raise EventNotApplied(f"amount in minor units is {said.amount_minor}, {case.top_up.amount_minor} could go back")
    nothing = TakenCredits(0, 0, 0, 0)
    if said.status is RefundStatus.FAILED:
        case.put_row(_elsewhere(case, said, credits_for_amount(case.top_up, said.amount_minor), nothing))
        return EventOutcome.REFUND_FAILED
    refunds = [one for one in case.refunds.values() if one.is_effective]
    left = case.top_up.credits - sum(one.credits for one in refunds)
    money = case.top_up.amount_minor - sum(one.gross_minor for one in refunds)
    if said.amount_minor > case.remaining.returnable_minor or not left:
        why = f"amount in minor units is {said.amount_minor}, {case.remaining.returnable_minor} could go back"
        raise EventNotApplied(why, EventOutcome.WAITING)
    credits = left if said.amount_minor >= money else min(left, -(-left * said.amount_minor // money))
    retaken = _before_disputes(case, credits)
    taken = (
        take_credits(case, credits - retaken, _cause(case, EXTERNAL_REFUND_REASON)) if credits > retaken else nothing
    )
    _reattribute(case, retaken)
    # What a lost dispute had taken comes back, should this fail, as if it had become debt and been paid.
    taken = replace(taken, debt_credits=taken.debt_credits + retaken)
    case.put_row(_elsewhere(case, said, credits, taken))
    return EventOutcome.REFUNDED


def _elsewhere(case: LockedTopUp, said: Refund, credits: int, taken: TakenCredits) -> RefundRow:
    refund = _row(case, credits, taken, state=said.status, reason=EXTERNAL_REFUND_REASON, actor=_actor(case))
    return refund._replace(amount_minor=said.amount_minor, refund_ref=said.refund_ref)


def _before_disputes(case: LockedTopUp, credits: int) -> int:
    """Make room for `credits`: open disputes freeze less. Returns: how many lost disputes have taken of them before."""
    over = credits - case.remaining.refundable_credits
    for dispute in reversed(list(case.disputes.values())):
        if over > 0 and dispute.status is DisputeStatus.OPEN and (less := min(dispute.credits, over)):
            debt.unfreeze(case.book, less, pays_debt=False)
            case.put_row(dispute._replace(credits=dispute.credits - less))
            over -= less
    return max(0, over)


def _reattribute(case: LockedTopUp, credits: int) -> None:
    """What lost disputes have taken counts as refunded instead: no credits move."""
    for dispute in reversed(list(case.disputes.values())):
        if credits and dispute.status is DisputeStatus.LOST and (less := min(dispute.credits, credits)):
            case.put_row(dispute._replace(credits=dispute.credits - less))
            credits -= less


def _row(
    case: LockedTopUp, credits: int, taken: TakenCredits, *, state: RefundStatus, reason: str, actor: str
) -> RefundRow:
    at = case.book.at
    return RefundRow(
        account_id=case.top_up.account_id,
        id=uuid4().hex,
        top_up_id=case.top_up.id,
        credits=credits,
        debt_credits=taken.debt_credits,
        bonus_credits=taken.bonus_credits,
        bonus_expired=taken.bonus_expired,
        bonus_spent=taken.bonus_spent,
        amount_minor=0,
        reduced_minor=0,
        status=state,
        refund_ref=None,
        reason=reason,
        actor=actor,
        created_at=at,
        decided_at=None if state is RefundStatus.PENDING else at,
    )


def _cause(case: LockedTopUp, reason: str) -> Cause:
    return Cause(actor=_actor(case), reason=reason, top_up_id=case.top_up.id)


def _actor(case: LockedTopUp) -> str:
    return f"provider:{case.top_up.provider}"
