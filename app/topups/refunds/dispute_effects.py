"""The effects of a dispute under the account's lock: OPEN freezes credits, WON unfreezes them, LOST takes them back.

A lost dispute takes the unclaimed credits of the top-up's own grant, with REFUND entries whose reason names the
dispute. The rest becomes debt, with a DEBT entry. A dispute never covers more than refunds and other disputes leave of
the top-up.

Events may arrive in any order, repeatedly, and as two event types. WON and LOST are final. An OPEN after them changes
nothing, and a decision that arrives before OPEN has the whole effect at once.
"""

from app.ledger.rules import debt
from app.topups.provider import Dispute, DisputeStatus
from app.topups.provider_events import EventNotApplied, EventOutcome
from app.topups.refunds.amounts import DisputeRow, credits_for_amount, find_mismatches
from app.topups.refunds.locked_top_up import LockedTopUp, claw_back, extend_disputes


def apply_dispute_event(locked: LockedTopUp, reported: Dispute) -> EventOutcome:
    """Apply a reported dispute.

    Raises: EventNotApplied: it contradicts our rows or an earlier decision, and nothing has changed;
    BalanceLimitReached: the debt would be too high.
    """
    known = locked.disputes.get(reported.dispute_ref)
    amount_minor = known.amount_minor if known else None
    if mismatches := find_mismatches(locked.top_up, reported, amount_minor=amount_minor):
        raise EventNotApplied("; ".join(mismatches))
    if known is not None and (known.status is reported.status or reported.status is DisputeStatus.OPEN):
        return EventOutcome.UNCHANGED
    if known is not None and known.status is not DisputeStatus.OPEN:
        raise EventNotApplied(f"dispute is {reported.status}, ours is {known.status}")
    dispute = known or _new_dispute(locked, reported)
    match reported.status:
        case DisputeStatus.OPEN:
            return _open(locked, dispute)
        case DisputeStatus.WON:
            return _win(locked, dispute)
        case DisputeStatus.LOST:
            return _lose(locked, dispute)


def _new_dispute(locked: LockedTopUp, reported: Dispute) -> DisputeRow:
    return DisputeRow(
        account_id=locked.top_up.account_id,
        dispute_ref=reported.dispute_ref,
        top_up_id=locked.top_up.id,
        credits=0,
        bonus_credits=0,
        bonus_expired=0,
        bonus_spent=0,
        amount_minor=reported.amount_minor,
        status=DisputeStatus.OPEN,
        opened_at=locked.account.at,
        decided_at=None,
    )


def _open(locked: LockedTopUp, dispute: DisputeRow) -> EventOutcome:
    credits = min(credits_for_amount(locked.top_up, dispute.amount_minor), locked.remaining.refundable_credits)
    debt.freeze(locked.account, credits)
    locked.put_row(dispute._replace(credits=credits))
    return EventOutcome.DISPUTED


def _win(locked: LockedTopUp, dispute: DisputeRow) -> EventOutcome:
    locked.put_row(dispute._replace(status=DisputeStatus.WON, decided_at=locked.account.at))
    debt.unfreeze(locked.account, dispute.credits)
    extend_disputes(locked)
    return EventOutcome.DISPUTE_WON


def _lose(locked: LockedTopUp, dispute: DisputeRow) -> EventOutcome:
    # The unfrozen credits must not pay other debt, because the same number of credits leaves at once, first from the
    # grant of this top-up.
    debt.unfreeze(locked.account, dispute.credits, pays_debt=False)
    lost = dispute._replace(credits=0, status=DisputeStatus.LOST, decided_at=locked.account.at)
    locked.put_row(lost)
    credits = min(credits_for_amount(locked.top_up, dispute.amount_minor), locked.remaining.refundable_credits)
    if credits:
        claw_back(locked, lost, credits)
    extend_disputes(locked)
    return EventOutcome.DISPUTE_LOST
