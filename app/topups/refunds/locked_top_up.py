"""A paid top-up under its account's lock, with all rows that decisions about refunds and disputes need.

A `LockedTopUp` contains the top-up, its refunds and disputes, and its two grants (bought credits and bonus). The
posting reads it, it is changed in memory, and the posting writes it. The sums in the top-up are computed from its
refunds and disputes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.db.tables import RowSelect
from app.ledger.posting import ExtraRead, Posting
from app.ledger.rows import GRANTS
from app.ledger.rules import debt
from app.ledger.rules.account_state import AccountState, Cause, EntryKind, GrantSource, GrantState
from app.topups import rows
from app.topups.provider import DisputeStatus
from app.topups.refunds import owner_notifications
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

_SELECT_GRANTS: Final = RowSelect(
    GRANTS.column_list("g"), "FROM credit_grant AS g WHERE g.account_id = $1::bigint AND g.top_up_id = $2"
)

# Selects the entries that remove unspent credits from a grant: the grant expired or was revoked. Each has one draw. The
# index `entry_unspent` contains the grant of this draw, so the time does not depend on the size of the account.
_UNSPENT_DRAWS: Final = """
    SELECT e.draws::text AS draws FROM entry AS e
    WHERE e.account_id = $1 AND (e.draws->0->>0)::int = $2 AND e.kind IN ('EXPIRY', 'ADJUSTMENT')
      AND (e.kind = 'EXPIRY' OR (e.credits < 0 AND e.top_up_id IS NULL))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenCredits:
    """The result of taking back credits of a top-up: how many became debt, and their share of the bonus."""

    debt_credits: int = 0
    bonus_credits: int = 0
    bonus_expired: int = 0
    bonus_spent: int = 0


@dataclass(slots=True, kw_only=True)
class LockedTopUp:
    """A paid top-up with its grants, refunds (by id) and disputes (by the provider's id)."""

    account: AccountState
    top_up: TopUpRow
    refunds: dict[str, RefundRow]
    disputes: dict[str, DisputeRow]
    purchased_grant: GrantState | None
    bonus_grant: GrantState | None
    unspent_bonus_credits: int
    """Bonus that expired or was revoked."""
    status_before: TopUpStatus
    stored: Mapping[str, RefundRow | DisputeRow] = field(default_factory=dict)
    """The refunds and disputes as they are in the database, by their ids."""
    changed_ids: set[str] = field(default_factory=set)

    @property
    def remaining(self) -> RemainingAmounts:
        return RemainingAmounts.compute(self.top_up, self.refunds.values(), self.disputes.values())

    @property
    def provider_actor(self) -> str:
        """The actor of entries that follow from the provider's events."""
        return f"provider:{self.top_up.provider}"

    def put_row(self, row: RefundRow | DisputeRow) -> None:
        """Add or replace a refund or a dispute."""
        if isinstance(row, RefundRow):
            self.refunds[row.id] = row
            self.changed_ids.add(row.id)
        else:
            self.disputes[row.dispute_ref] = row
            self.changed_ids.add(row.dispute_ref)

    def write_changes(self, posting: Posting) -> None:
        """Write the changed rows, and the top-up that follows from them."""
        for key in sorted(self.changed_ids):
            row = self.refunds.get(key) or self.disputes[key]
            refund_rows.write_row(posting.write, row, new=key not in self.stored)
            owner_notifications.notify_owner(posting, self.account, self.top_up, self.stored.get(key), row)
        self.top_up = derive_top_up(self.top_up, self.refunds.values(), self.disputes.values())
        rows.update_top_up(posting.write, self.top_up, status_before=self.status_before)


def select_locked_top_up(reference: Reference) -> list[ExtraRead]:
    """Return the reads for `load_locked_top_up`."""
    key = (reference.account_id, reference.row_id)
    return [
        rows.select_top_up(*key),
        refund_rows.select_refunds(*key),
        refund_rows.select_disputes(*key),
        ExtraRead(_SELECT_GRANTS, key),
    ]


async def load_locked_top_up(posting: Posting, found: Any) -> LockedTopUp | None:
    """Return the top-up from the rows of `select_locked_top_up`, or None if it does not exist."""
    top_ups, refunds, disputes, grants = found
    if not top_ups:
        return None
    top_up = rows.TOP_UPS.read(top_ups[0])
    account = posting.accounts[top_up.account_id]
    for grant in map(GRANTS.read, grants):
        # Open grants are already in the account, with due changes applied. Closed grants have not changed.
        account.grants.setdefault(grant.number, grant)
    made = [grant for grant in account.grants.values() if grant.top_up_id == top_up.id]
    bonus_grant = next((grant for grant in made if grant.source is GrantSource.PROMOTIONAL), None)
    refunds_by_id = {row.id: row for row in map(refund_rows.REFUNDS.read, refunds)}
    disputes_by_ref = {row.dispute_ref: row for row in map(refund_rows.DISPUTES.read, disputes)}
    return LockedTopUp(
        account=account,
        top_up=top_up,
        refunds=refunds_by_id,
        disputes=disputes_by_ref,
        purchased_grant=next((grant for grant in made if grant.source is GrantSource.PURCHASED), None),
        bonus_grant=bonus_grant,
        unspent_bonus_credits=await _sum_unspent(posting, account, bonus_grant) if bonus_grant is not None else 0,
        status_before=top_up.status,
        stored={**refunds_by_id, **disputes_by_ref},
    )


def take_credits(
    locked: LockedTopUp, credits: int, cause: Cause, *, kind: EntryKind = EntryKind.REFUND
) -> TakenCredits:
    """Take credits (> 0) of the top-up back, with their share of its bonus. Unspent bonus is taken first.

    Raises: BalanceLimitReached: the debt would be too high.
    """
    share = locked.remaining.split_bonus(credits)
    debt_credits = debt.withdraw(locked.account, locked.purchased_grant, credits, cause, kind=kind)
    taken = debt.withdraw_unspent(locked.account, locked.bonus_grant, share, cause) if share else 0
    counted = [refund.bonus_expired for refund in locked.refunds.values() if refund.is_effective]
    counted += [one.bonus_expired for one in locked.disputes.values() if one.status is DisputeStatus.LOST]
    expired = min(share - taken, max(0, locked.unspent_bonus_credits - sum(counted)))
    return TakenCredits(
        debt_credits=debt_credits,
        bonus_credits=taken,
        bonus_expired=expired,
        bonus_spent=share - taken - expired,
    )


def return_credits(locked: LockedTopUp, refund: RefundRow, cause: Cause) -> None:
    """Undo the withdrawals that a refund made. Raises: BalanceLimitReached."""
    debt.undo_withdraw(locked.account, locked.purchased_grant, refund.credits, cause, debt=refund.debt_credits)
    debt.undo_withdraw_unspent(locked.account, locked.bonus_grant, refund.bonus_credits, cause)


def extend_disputes(locked: LockedTopUp) -> None:
    """Extend disputes that concern fewer credits than their amount, if credits of the top-up have become refundable.

    Lost disputes are extended before open ones. Then open disputes freeze what they can.
    """
    by_precedence = sorted(
        locked.disputes.values(),
        key=lambda one: (one.status is DisputeStatus.OPEN, one.opened_at, one.dispute_ref),
    )
    for dispute in by_precedence:
        if dispute.status not in EFFECTIVE_DISPUTE_STATUSES:
            continue
        missing = credits_for_amount(locked.top_up, dispute.amount_minor) - dispute.credits
        credits = min(missing, locked.remaining.refundable_credits)
        if dispute.status is DisputeStatus.OPEN:
            extended = dispute._replace(credits=dispute.credits + max(0, credits))
            frozen = freeze(locked, extended.credits - extended.frozen_credits)
            extended = extended._replace(frozen_credits=extended.frozen_credits + frozen)
            if extended != dispute:
                locked.put_row(extended)
        elif credits > 0:
            claw_back(locked, dispute, credits)


def release_open_disputes(locked: LockedTopUp, credits: int) -> int:
    """Make up to `credits` refundable: open disputes concern fewer credits, and they freeze nothing for now.

    Call `extend_disputes` afterwards: it freezes what is left.
    Returns: the refundable credits. They are fewer than `credits` if refunds and lost disputes have taken the rest.
    """
    missing = credits - locked.remaining.refundable_credits
    for dispute in reversed(list(locked.disputes.values())):
        if dispute.status is DisputeStatus.OPEN:
            less = max(0, min(dispute.credits, missing))
            debt.unfreeze(locked.account, dispute.frozen_credits, pays_debt=False)
            locked.put_row(dispute._replace(credits=dispute.credits - less, frozen_credits=0))
            missing -= less
    return locked.remaining.refundable_credits


def freeze(locked: LockedTopUp, credits: int) -> int:
    """Freeze those of `credits` that are neither spent, held nor frozen. Returns: their number.

    Only credits of this top-up are frozen. Its spent credits become debt only if the dispute is lost.
    """
    grant = locked.purchased_grant
    already_frozen = sum(dispute.frozen_credits for dispute in locked.disputes.values())
    unspent = max(0, grant.spendable - already_frozen) if grant is not None else 0
    frozen = debt.free_credits(locked.account, grant, min(credits, unspent))
    debt.freeze(locked.account, frozen)
    return frozen


def claw_back(locked: LockedTopUp, dispute: DisputeRow, credits: int) -> None:
    """Take credits of the top-up back for a lost dispute, with their share of the bonus."""
    reason = f"dispute {dispute.dispute_ref} was lost"
    cause = Cause(actor=locked.provider_actor, reason=reason, top_up_id=locked.top_up.id)
    taken = take_credits(locked, credits, cause, kind=EntryKind.DISPUTE_LOST)
    locked.put_row(
        dispute._replace(
            credits=dispute.credits + credits,
            debt_credits=dispute.debt_credits + taken.debt_credits,
            bonus_credits=dispute.bonus_credits + taken.bonus_credits,
            bonus_expired=dispute.bonus_expired + taken.bonus_expired,
            bonus_spent=dispute.bonus_spent + taken.bonus_spent,
        )
    )


def undo_claw_back(locked: LockedTopUp, dispute: DisputeRow) -> None:
    """Return what a lost dispute has taken. Raises: BalanceLimitReached."""
    reason = f"dispute {dispute.dispute_ref} was decided again"
    cause = Cause(actor=locked.provider_actor, reason=reason, top_up_id=locked.top_up.id)
    account = locked.account
    debt.undo_withdraw(
        account,
        locked.purchased_grant,
        dispute.credits,
        cause,
        debt=dispute.debt_credits,
        kind=EntryKind.DISPUTE_LOST,
    )
    debt.undo_withdraw_unspent(account, locked.bonus_grant, dispute.bonus_credits, cause)


async def _sum_unspent(posting: Posting, account: AccountState, grant: GrantState) -> int:
    """Return how many credits of a grant expired or were revoked, including those that this posting has expired."""
    if grant.remaining == grant.credits:
        return 0
    _, records = await posting.connection.execute_query(_UNSPENT_DRAWS, [account.account_id, grant.number])
    draws = [draw for record in records for draw in json.loads(record["draws"])]
    draws += [draw for entry in account.new_entries if entry.kind == EntryKind.EXPIRY for draw in entry.draws]
    return sum(credits for number, credits in draws if number == grant.number)
