"""What a dispute does, decided under the account's lock: opened it freezes, won it thaws, lost it takes back.

What it takes: what is left unclaimed of the top-up's own grant (REFUND entries, whose reason names the dispute), the
rest is debt (a DEBT entry). It never counts for more than refunds and other disputes have left of the top-up.

Notices may come in any order, more than once, and under two event types: the decided states are final, OPEN after them
changes nothing, and a decision that comes first does all at once.
"""

from app.ledger.rules import debt
from app.topups.event_outcomes import EventNotApplied, EventOutcome
from app.topups.provider import Dispute, DisputeStatus
from app.topups.refunds.amounts import DisputeRow, credits_for_amount, find_mismatches
from app.topups.refunds.locked_top_up import LockedTopUp, claw_back, extend_disputes


def apply_dispute_event(case: LockedTopUp, said: Dispute) -> EventOutcome:
    """Follow what a provider tells of a dispute.

    Raises: Disagrees, before anything has moved: it does not fit our rows, or was decided otherwise before.
    BalanceLimitReached, of the debt.
    """
    known = case.disputes.get(said.dispute_ref)
    if wrong := find_mismatches(case.top_up, said, amount_minor=known.amount_minor if known else None):
        raise EventNotApplied("; ".join(wrong))
    if known is not None and (known.status is said.status or said.status is DisputeStatus.OPEN):
        return EventOutcome.UNCHANGED
    if known is not None and known.status is not DisputeStatus.OPEN:
        raise EventNotApplied(f"dispute is {said.status}, ours is {known.status}")
    dispute = known or _new(case, said)
    match said.status:
        case DisputeStatus.OPEN:
            return _open(case, dispute)
        case DisputeStatus.WON:
            return _won(case, dispute)
        case DisputeStatus.LOST:
            return _lost(case, dispute)


def _new(case: LockedTopUp, said: Dispute) -> DisputeRow:
    return DisputeRow(
        account_id=case.top_up.account_id,
        dispute_ref=said.dispute_ref,
        top_up_id=case.top_up.id,
        credits=0,
        bonus_credits=0,
        bonus_expired=0,
        bonus_spent=0,
        amount_minor=said.amount_minor,
        status=DisputeStatus.OPEN,
        opened_at=case.book.at,
        decided_at=None,
    )


def _open(case: LockedTopUp, dispute: DisputeRow) -> EventOutcome:
    credits = min(credits_for_amount(case.top_up, dispute.amount_minor), case.remaining.refundable_credits)
    debt.freeze(case.book, credits)
    case.put_row(dispute._replace(credits=credits))
    return EventOutcome.DISPUTED


def _won(case: LockedTopUp, dispute: DisputeRow) -> EventOutcome:
    case.put_row(dispute._replace(status=DisputeStatus.WON, decided_at=case.book.at))
    debt.unfreeze(case.book, dispute.credits)
    extend_disputes(case)
    return EventOutcome.DISPUTE_WON


def _lost(case: LockedTopUp, dispute: DisputeRow) -> EventOutcome:
    # Thawed without paying other debts of it: as much leaves at once, and it is this top-up's own that is taken first.
    debt.unfreeze(case.book, dispute.credits, pays_debt=False)
    lost = dispute._replace(credits=0, status=DisputeStatus.LOST, decided_at=case.book.at)
    case.put_row(lost)
    credits = min(credits_for_amount(case.top_up, dispute.amount_minor), case.remaining.refundable_credits)
    if credits:
        claw_back(case, lost, credits)
    extend_disputes(case)
    return EventOutcome.DISPUTE_LOST
