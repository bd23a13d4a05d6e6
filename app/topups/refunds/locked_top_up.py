"""Everything about one paid top-up, under its account's lock: what refunds and disputes are decided on.

A *case* is the top-up, its refunds and disputes, and the two grants that it made. It is read in the posting's one read,
changed in memory, and written with it; the top-up's own figures follow from its refunds and disputes.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Final

from app.db.tables import RowSelect
from app.ledger.posting import ExtraRead, Posting
from app.ledger.rows import GRANTS
from app.ledger.rules import debt
from app.ledger.rules.account_state import AccountState, Cause, EntryKind, GrantSource, GrantState
from app.topups import rows
from app.topups.provider import DisputeStatus
from app.topups.refunds import rows as refund_rows
from app.topups.refunds.amounts import (
    EFFECTIVE_DISPUTE_STATUSES,
    DisputeRow,
    RefundRow,
    RemainingAmounts,
    credits_for_amount,
    derive_top_up,
)
from app.topups.rules import Reference, TopUpRow, TopUpStatus

READ_COUNT: Final = 4
"""How many reads make a case."""

_GRANTS: Final = RowSelect(
    GRANTS.column_list("g"), "FROM credit_grant AS g WHERE g.account_id = $1::bigint AND g.top_up_id = $2"
)

# What has left a grant unspent: it expired, or was revoked.
_UNSPENT: Final = """
    SELECT e.draws::text AS draws FROM entry AS e
    WHERE e.account_id = $1 AND e.kind <> 'CHARGE'
      AND (e.kind = 'EXPIRY' OR (e.kind = 'ADJUSTMENT' AND e.credits < 0 AND e.top_up_id IS NULL))
"""


@dataclass(frozen=True, slots=True)
class TakenCredits:
    """What has left with some credits of a top-up: a new debt, and its share of the bonus."""

    debt_credits: int
    bonus_credits: int
    bonus_expired: int
    bonus_spent: int


@dataclass(slots=True)
class LockedTopUp:
    """A paid top-up and what came after. `own` and `bonus`: its grants; `expired`: bonus that left unspent."""

    book: AccountState
    top_up: TopUpRow
    refunds: dict[str, RefundRow]
    disputes: dict[str, DisputeRow]
    purchased_grant: GrantState | None
    bonus_grant: GrantState | None
    unspent_bonus_credits: int
    status_before: TopUpStatus
    stored_ids: frozenset[str] = frozenset()
    changed_ids: set[str] = field(default_factory=set)

    @property
    def remaining(self) -> RemainingAmounts:
        return RemainingAmounts.compute(self.top_up, self.refunds.values(), self.disputes.values())

    def put_row(self, row: RefundRow | DisputeRow) -> None:
        """Put a row into the case, new or changed."""
        if isinstance(row, RefundRow):
            self.refunds[row.id] = row
            self.changed_ids.add(row.id)
        else:
            self.disputes[row.dispute_ref] = row
            self.changed_ids.add(row.dispute_ref)

    def write_changes(self, posting: Posting) -> None:
        """Write what has changed, and the top-up as that makes it."""
        for key in sorted(self.changed_ids):
            row = self.refunds.get(key) or self.disputes[key]
            refund_rows.write_row(posting.write, row, new=key not in self.stored_ids)
        self.top_up = derive_top_up(self.top_up, self.refunds.values(), self.disputes.values())
        rows.update_top_up(posting.write, self.top_up, status_before=self.status_before)


def select_locked_top_up(reference: Reference) -> list[ExtraRead]:
    """What makes a case, for `opened`."""
    key = (reference.account_id, reference.row_id)
    return [
        rows.select_top_up(*key),
        refund_rows.select_refunds(*key),
        refund_rows.select_disputes(*key),
        ExtraRead(_GRANTS, key),
    ]


async def load_locked_top_up(posting: Posting, found: Any) -> LockedTopUp | None:
    """The case of what those reads gave, in their order; None: there is no such top-up."""
    top_ups, refunds, disputes, lots = found
    if not top_ups:
        return None
    top_up = rows.from_row(top_ups[0])
    book = posting.accounts[top_up.account_id]
    for grant in map(GRANTS.read, lots):
        # The open ones are in the book, settled to now; the others are as they were.
        book.grants.setdefault(grant.number, grant)
    made = [lot for lot in book.grants.values() if lot.top_up_id == top_up.id]
    bonus = next((lot for lot in made if lot.source is GrantSource.PROMOTIONAL), None)
    refunds_by_id = {row.id: row for row in map(refund_rows.refund_from_row, refunds)}
    disputes_by_ref = {row.dispute_ref: row for row in map(refund_rows.dispute_from_row, disputes)}
    return LockedTopUp(
        book=book,
        top_up=top_up,
        refunds=refunds_by_id,
        disputes=disputes_by_ref,
        purchased_grant=next((lot for lot in made if lot.source is GrantSource.PURCHASED), None),
        bonus_grant=bonus,
        unspent_bonus_credits=await _unspent(posting, book, bonus) if bonus is not None else 0,
        status_before=top_up.status,
        stored_ids=frozenset(refunds_by_id) | frozenset(disputes_by_ref),
    )


def take_credits(case: LockedTopUp, credits: int, cause: Cause) -> TakenCredits:
    """Credits (> 0) of the top-up leave, with their share of its bonus: what is unspent of it leaves first.

    Raises: BalanceLimitReached, of the debt.
    """
    share = case.remaining.split_bonus(credits)
    owing = debt.withdraw(case.book, case.purchased_grant, credits, cause)
    taken = debt.withdraw_unspent(case.book, case.bonus_grant, share, cause) if share else 0
    counted = [refund.bonus_expired for refund in case.refunds.values() if refund.is_effective]
    counted += [one.bonus_expired for one in case.disputes.values() if one.status is DisputeStatus.LOST]
    expired = min(share - taken, max(0, case.unspent_bonus_credits - sum(counted)))
    return TakenCredits(owing, taken, expired, share - taken - expired)


def return_credits(case: LockedTopUp, refund: RefundRow, cause: Cause) -> None:
    """Return what a refund took. Raises: BalanceLimitReached."""
    debt.undo_withdraw(case.book, case.purchased_grant, refund.credits, cause, debt=refund.debt_credits)
    debt.undo_withdraw_unspent(case.book, case.bonus_grant, refund.bonus_credits, cause)


def extend_disputes(case: LockedTopUp) -> None:
    """Let disputes that found less than they are for have what is there again: a refund failed, another was won."""
    for dispute in sorted(case.disputes.values(), key=lambda one: (one.opened_at, one.dispute_ref)):
        if dispute.status not in EFFECTIVE_DISPUTE_STATUSES:
            continue
        more = min(
            credits_for_amount(case.top_up, dispute.amount_minor) - dispute.credits, case.remaining.refundable_credits
        )
        if more <= 0:
            continue
        if dispute.status is DisputeStatus.OPEN:
            debt.freeze(case.book, more)
            case.put_row(dispute._replace(credits=dispute.credits + more))
        else:
            claw_back(case, dispute, more)


def claw_back(case: LockedTopUp, dispute: DisputeRow, credits: int) -> DisputeRow:
    """A lost dispute takes `credits` of the top-up, and their share of its bonus. Returns: the dispute with them."""
    cause = Cause(
        actor=f"provider:{case.top_up.provider}",
        reason=f"dispute {dispute.dispute_ref} was lost",
        top_up_id=case.top_up.id,
    )
    taken = take_credits(case, credits, cause)
    changed = dispute._replace(
        credits=dispute.credits + credits,
        bonus_credits=dispute.bonus_credits + taken.bonus_credits,
        bonus_expired=dispute.bonus_expired + taken.bonus_expired,
        bonus_spent=dispute.bonus_spent + taken.bonus_spent,
    )
    case.put_row(changed)
    return changed


async def _unspent(posting: Posting, book: AccountState, lot: GrantState) -> int:
    """How much of a grant has expired or was revoked, what this posting itself has settled included."""
    if lot.remaining == lot.credits:
        return 0
    _, records = await posting.connection.execute_query(_UNSPENT, [book.account_id])
    draws = [draw for record in records for draw in json.loads(record["draws"])]
    draws += [draw for posted in book.new_entries if posted.kind == EntryKind.EXPIRY for draw in posted.draws]
    return sum(credits for number, credits in draws if number == lot.number)
