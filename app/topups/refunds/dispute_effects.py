"""The effects of a dispute under the account's lock: OPEN freezes credits, WON unfreezes them, LOST takes them back.

A dispute concerns a number of the top-up's credits, at most those that refunds and other disputes leave. Lost disputes
take precedence over open ones. An open dispute freezes the credits that are neither spent nor held. A lost dispute
takes these credits back, with DISPUTE_LOST entries whose reason contains the id of the dispute. The spent and held
credits become debt, with a DEBT entry.

Reports may arrive in any order, repeatedly, and as several event types. Only one report of each dispute is valid: a
decision (WON or LOST) replaces OPEN, and otherwise a later report replaces an earlier one. First the effect of the
replaced report is undone. So the result depends only on the valid reports. The bank may also change the amount, or
its decision.
"""

from app.ledger.rules import debt
from app.topups.provider import Dispute, DisputeStatus
from app.topups.provider_events import EventNotApplied, EventOutcome
from app.topups.refunds.amounts import DisputeRow, credits_for_amount, find_mismatches
from app.topups.refunds.locked_top_up import (
    LockedTopUp,
    claw_back,
    extend_disputes,
    freeze,
    release_open_disputes,
    undo_claw_back,
)
from app.wording import quote_value

_OUTCOMES = {
    DisputeStatus.OPEN: EventOutcome.DISPUTED,
    DisputeStatus.WON: EventOutcome.DISPUTE_WON,
    DisputeStatus.LOST: EventOutcome.DISPUTE_LOST,
}


def apply_dispute_event(locked: LockedTopUp, reported: Dispute) -> EventOutcome:
    """Apply a reported dispute.

    Raises: EventNotApplied: it contradicts our rows or its status is not known, and nothing has changed;
    BalanceLimitReached: the debt would be too high.
    """
    if mismatches := find_mismatches(locked.top_up, reported):
        raise EventNotApplied("; ".join(mismatches))
    if reported.status is None:
        ref = reported.dispute_ref
        raise EventNotApplied(
            f"dispute {ref} has the status {quote_value(reported.provider_status)}, which is not known. Look it up at "
            f"the provider, then run `python -m app provider-events decide {ref} won` or `... {ref} lost`",
            EventOutcome.PARKED_UNKNOWN,
        )
    known = locked.disputes.get(reported.dispute_ref)
    if known is None:
        if reported.is_inquiry:
            return EventOutcome.UNCHANGED
    elif not _replaces(reported, reported.status, known):
        return EventOutcome.UNCHANGED
    elif (known.status, known.amount_minor) == (reported.status, reported.amount_minor):
        locked.put_row(known._replace(reported_at=reported.reported_at))
        return EventOutcome.UNCHANGED
    else:
        _undo(locked, known)
    _apply(locked, _undecided(locked, reported), reported.status)
    extend_disputes(locked)
    debt.pay_debt(locked.account)
    return _OUTCOMES[reported.status]


def _replaces(reported: Dispute, status: DisputeStatus, known: DisputeRow) -> bool:
    """Return whether a report replaces the known one.

    Raises: EventNotApplied: two decisions differ, and it is not known which one is later.
    """
    is_decision, was_decision = status is not DisputeStatus.OPEN, known.status is not DisputeStatus.OPEN
    if is_decision != was_decision:
        return is_decision
    if reported.reported_at is None:
        if is_decision and status is not known.status:
            raise EventNotApplied(f"dispute is {status}, ours is {known.status}")
        return True
    if known.reported_at is None:
        return True
    # Of two reports with the same second, the one that is worse for the seller is valid.
    return (reported.reported_at, status is DisputeStatus.LOST, reported.amount_minor) > (
        known.reported_at, known.status is DisputeStatus.LOST, known.amount_minor,
    )  # fmt: skip


def _undo(locked: LockedTopUp, known: DisputeRow) -> None:
    """Undo what the known report has done.

    Unfrozen credits must not pay debt yet, because the new report may take them.
    """
    debt.unfreeze(locked.account, known.frozen_credits, pays_debt=False)
    locked.put_row(known._replace(credits=0, frozen_credits=0))
    if known.status is DisputeStatus.LOST:
        undo_claw_back(locked, known)


def _undecided(locked: LockedTopUp, reported: Dispute) -> DisputeRow:
    """Return the row of a reported dispute that has had no effect yet."""
    known = locked.disputes.get(reported.dispute_ref)
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
        opened_at=known.opened_at if known is not None else locked.account.at,
        decided_at=None,
        reported_at=reported.reported_at,
    )


def _apply(locked: LockedTopUp, dispute: DisputeRow, status: DisputeStatus) -> None:
    if status is not DisputeStatus.OPEN:
        dispute = dispute._replace(status=status, decided_at=max(locked.account.at, dispute.opened_at))
    locked.put_row(dispute)
    if status is DisputeStatus.WON:
        return
    due = credits_for_amount(locked.top_up, dispute.amount_minor)
    if status is DisputeStatus.LOST:
        if credits := min(due, release_open_disputes(locked, due)):
            claw_back(locked, dispute, credits)
    elif credits := min(due, locked.remaining.refundable_credits):
        locked.put_row(dispute._replace(credits=credits, frozen_credits=freeze(locked, credits)))
