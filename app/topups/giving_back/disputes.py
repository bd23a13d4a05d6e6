"""What a dispute does, decided under the account's lock: opened it freezes, won it thaws, lost it takes back.

What it takes: what is left unclaimed of the top-up's own grant (REFUND entries, whose reason names the dispute), the
rest is debt (a DEBT entry). It never counts for more than refunds and other disputes have left of the top-up.

Notices may come in any order, more than once, and under two event types: the decided states are final, OPEN after them
changes nothing, and a decision that comes first does all at once.
"""

from app.ledger import debt
from app.topups.giving_back.cases import Case, catch_up, claw
from app.topups.giving_back.shares import DisputeRow, credits_of, disagreements
from app.topups.outcomes import Disagrees, Outcome
from app.topups.provider import Dispute, DisputeState


def told(case: Case, said: Dispute) -> Outcome:
    """Follow what a provider tells of a dispute.

    Raises: Disagrees, before anything has moved: it does not fit our rows, or was decided otherwise before.
    BalanceLimitReached, of the debt.
    """
    known = case.disputes.get(said.dispute_ref)
    if wrong := disagreements(case.top_up, said, amount_minor=known.amount_minor if known else None):
        raise Disagrees("; ".join(wrong))
    if known is not None and (known.state is said.state or said.state is DisputeState.OPEN):
        return Outcome.UNCHANGED
    if known is not None and known.state is not DisputeState.OPEN:
        raise Disagrees(f"dispute is {said.state}, ours is {known.state}")
    dispute = known or _new(case, said)
    match said.state:
        case DisputeState.OPEN:
            return _open(case, dispute)
        case DisputeState.WON:
            return _won(case, dispute)
        case DisputeState.LOST:
            return _lost(case, dispute)


def _new(case: Case, said: Dispute) -> DisputeRow:
    return DisputeRow(
        account_id=case.top_up.account_id,
        dispute_ref=said.dispute_ref,
        top_up_id=case.top_up.id,
        credits=0,
        bonus_credits=0,
        bonus_expired=0,
        bonus_spent=0,
        amount_minor=said.amount_minor,
        state=DisputeState.OPEN,
        opened_at=case.book.at,
        decided_at=None,
    )


def _open(case: Case, dispute: DisputeRow) -> Outcome:
    credits = min(credits_of(case.top_up, dispute.amount_minor), case.given.refundable)
    debt.freeze(case.book, credits)
    case.keep(dispute._replace(credits=credits))
    return Outcome.DISPUTED


def _won(case: Case, dispute: DisputeRow) -> Outcome:
    case.keep(dispute._replace(state=DisputeState.WON, decided_at=case.book.at))
    debt.thaw(case.book, dispute.credits)
    catch_up(case)
    return Outcome.DISPUTE_WON


def _lost(case: Case, dispute: DisputeRow) -> Outcome:
    # Thawed without paying other debts of it: as much leaves at once, and it is this top-up's own that is taken first.
    debt.thaw(case.book, dispute.credits, paying=False)
    lost = dispute._replace(credits=0, state=DisputeState.LOST, decided_at=case.book.at)
    case.keep(lost)
    credits = min(credits_of(case.top_up, dispute.amount_minor), case.given.refundable)
    if credits:
        claw(case, lost, credits)
    catch_up(case)
    return Outcome.DISPUTE_LOST
