"""Pure rules of giving back: which part of a top-up's credits, bonus and money goes with how many of its credits.

Each share is reckoned of what is left, rounded down: however a top-up is given back in parts, and whichever of them
fail, the parts add up to the whole exactly and never pass it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from app.topups.provider import Dispute, DisputeStatus, Refund, RefundStatus
from app.topups.rules import TopUpRow, TopUpStatus

EFFECTIVE_DISPUTE_STATUSES: Final = frozenset({DisputeStatus.OPEN, DisputeStatus.LOST})
"""Disputes that take credits: frozen, or back."""


class RefundRow(NamedTuple):
    """A refund of ours, whoever began it. The fields of models.TopUpRefund that its rules know."""

    account_id: int
    id: str
    top_up_id: str
    credits: int
    debt_credits: int
    bonus_credits: int
    bonus_expired: int
    bonus_spent: int
    amount_minor: int
    reduced_minor: int
    status: RefundStatus
    refund_ref: str | None
    reason: str
    actor: str
    created_at: datetime
    decided_at: datetime | None

    @property
    def is_effective(self) -> bool:
        """Whether its credits are gone: they leave when it is asked, and return if it fails."""
        return self.status is not RefundStatus.FAILED

    @property
    def gross_minor(self) -> int:
        return self.amount_minor + self.reduced_minor

    @property
    def total_bonus_credits(self) -> int:
        return self.bonus_credits + self.bonus_expired + self.bonus_spent


class DisputeRow(NamedTuple):
    """A dispute. The fields of models.Dispute."""

    account_id: int
    dispute_ref: str
    top_up_id: str
    credits: int
    bonus_credits: int
    bonus_expired: int
    bonus_spent: int
    amount_minor: int
    status: DisputeStatus
    opened_at: datetime
    decided_at: datetime | None

    @property
    def total_bonus_credits(self) -> int:
        return self.bonus_credits + self.bonus_expired + self.bonus_spent


@dataclass(frozen=True, slots=True, kw_only=True)
class RemainingAmounts:
    """What of a top-up has been given back, and what is left of it."""

    credits: int
    """Neither refunded nor clawed back."""
    frozen_credits: int
    """Of those, what open disputes have frozen."""
    bonus_credits: int
    """Bonus that no refund and no lost dispute has reckoned with."""
    money_minor: int
    """The money that goes with `credits`, before spent bonus reduces it."""
    returnable_minor: int
    """The money that was paid and has not gone back."""

    @classmethod
    def compute(
        cls, top_up: TopUpRow, refunds: Iterable[RefundRow], disputes: Iterable[DisputeRow]
    ) -> "RemainingAmounts":
        standing = [refund for refund in refunds if refund.is_effective]
        found = list(disputes)
        lost = [dispute for dispute in found if dispute.status is DisputeStatus.LOST]
        taken = sum(refund.credits for refund in standing) + sum(dispute.credits for dispute in lost)
        bonus = sum(refund.total_bonus_credits for refund in standing) + sum(
            dispute.total_bonus_credits for dispute in lost
        )
        money = max(0, top_up.amount_minor - sum(refund.gross_minor for refund in standing))
        for dispute in lost:
            money -= min(dispute.amount_minor, money)
        return cls(
            credits=top_up.credits - taken,
            frozen_credits=sum(dispute.credits for dispute in found if dispute.status is DisputeStatus.OPEN),
            bonus_credits=top_up.bonus_credits - bonus,
            money_minor=money,
            returnable_minor=top_up.amount_minor - sum(refund.amount_minor for refund in standing),
        )

    @property
    def refundable_credits(self) -> int:
        """Credits that may still be given back: what is disputed waits for its decision."""
        return self.credits - self.frozen_credits

    def split_money(self, credits: int) -> int:
        """The money that goes with so many of `self.credits`."""
        return self.money_minor * credits // self.credits

    def split_bonus(self, credits: int) -> int:
        """The bonus that goes with so many of `self.credits`."""
        return self.bonus_credits * credits // self.credits


def value_bonus(top_up: TopUpRow, credits: int) -> int:
    """What spent bonus is worth, in minor units: as much as bought credits, rounded down."""
    return credits * top_up.amount_minor // top_up.credits


def credits_for_amount(top_up: TopUpRow, amount_minor: int) -> int:
    """The credits of a disputed amount, rounded up, all of them at most."""
    return min(top_up.credits, -(-top_up.credits * amount_minor // top_up.amount_minor))


def derive_top_up(top_up: TopUpRow, refunds: Iterable[RefundRow], disputes: Iterable[DisputeRow]) -> TopUpRow:
    """A paid top-up as its refunds and disputes make it, in whatever order they came."""
    refunded = [refund for refund in refunds if refund.is_effective]
    found = list(disputes)
    credits = sum(refund.credits for refund in refunded)
    clawed = sum(dispute.credits for dispute in found if dispute.status is DisputeStatus.LOST)
    if credits + clawed == top_up.credits:
        status = TopUpStatus.REFUNDED
    elif any(dispute.status is DisputeStatus.OPEN for dispute in found):
        status = TopUpStatus.DISPUTED
    else:
        status = TopUpStatus.PAID
    return top_up._replace(
        status=status,
        refunded_credits=credits,
        refunded_minor=sum(refund.amount_minor for refund in refunded),
        clawed_back_credits=clawed,
    )


def find_mismatches(top_up: TopUpRow, told: Refund | Dispute, *, amount_minor: int | None) -> list[str]:
    """Where a refund or a dispute differs from our own rows. `amount_minor`: what our row says; None: it is new."""
    pairs = [
        ("provider", told.provider, top_up.provider),
        ("mode", _mode(live=told.live), _mode(live=top_up.live)),
        ("currency", told.currency, top_up.currency),
        ("amount in minor units", told.amount_minor, told.amount_minor if amount_minor is None else amount_minor),
    ]
    return [f"{name} is {said}, ours is {ours}" for name, said, ours in pairs if said != ours]


def _mode(*, live: bool) -> str:
    return "live" if live else "test"
