"""Pure rules of giving back: which part of a top-up's credits, bonus and money goes with how many of its credits.

Each share is reckoned of what is left, rounded down: however a top-up is given back in parts, and whichever of them
fail, the parts add up to the whole exactly and never pass it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from app.topups.provider import Dispute, DisputeState, Refund, RefundState
from app.topups.rules import Status, TopUpState

COUNTED: Final = frozenset({DisputeState.OPEN, DisputeState.LOST})
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
    state: RefundState
    refund_ref: str | None
    reason: str
    actor: str
    created_at: datetime
    decided_at: datetime | None

    @property
    def stands(self) -> bool:
        """Whether its credits are gone: they leave when it is asked, and return if it fails."""
        return self.state is not RefundState.FAILED

    @property
    def gross_minor(self) -> int:
        return self.amount_minor + self.reduced_minor

    @property
    def bonus(self) -> int:
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
    state: DisputeState
    opened_at: datetime
    decided_at: datetime | None

    @property
    def bonus(self) -> int:
        return self.bonus_credits + self.bonus_expired + self.bonus_spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What of a top-up has been given back, and what is left of it."""

    credits: int
    """Neither refunded nor clawed back."""
    frozen: int
    """Of those, what open disputes have frozen."""
    bonus: int
    """Bonus that no refund and no lost dispute has reckoned with."""
    money_minor: int
    """The money that goes with `credits`, before spent bonus reduces it."""
    returnable_minor: int
    """The money that was paid and has not gone back."""

    @classmethod
    def of(cls, top_up: TopUpState, refunds: Iterable[RefundRow], disputes: Iterable[DisputeRow]) -> "Given":
        standing = [refund for refund in refunds if refund.stands]
        found = list(disputes)
        lost = [dispute for dispute in found if dispute.state is DisputeState.LOST]
        taken = sum(refund.credits for refund in standing) + sum(dispute.credits for dispute in lost)
        bonus = sum(refund.bonus for refund in standing) + sum(dispute.bonus for dispute in lost)
        money = max(0, top_up.amount_minor - sum(refund.gross_minor for refund in standing))
        for dispute in lost:
            money -= min(dispute.amount_minor, money)
        return cls(
            credits=top_up.credits - taken,
            frozen=sum(dispute.credits for dispute in found if dispute.state is DisputeState.OPEN),
            bonus=top_up.bonus_credits - bonus,
            money_minor=money,
            returnable_minor=top_up.amount_minor - sum(refund.amount_minor for refund in standing),
        )

    @property
    def refundable(self) -> int:
        """Credits that may still be given back: what is disputed waits for its decision."""
        return self.credits - self.frozen

    def money_of(self, credits: int) -> int:
        """The money that goes with so many of `self.credits`."""
        return self.money_minor * credits // self.credits

    def bonus_of(self, credits: int) -> int:
        """The bonus that goes with so many of `self.credits`."""
        return self.bonus * credits // self.credits


def value_of_bonus(top_up: TopUpState, credits: int) -> int:
    """What spent bonus is worth, in minor units: as much as bought credits, rounded down."""
    return credits * top_up.amount_minor // top_up.credits


def credits_of(top_up: TopUpState, amount_minor: int) -> int:
    """The credits of a disputed amount, rounded up, all of them at most."""
    return min(top_up.credits, -(-top_up.credits * amount_minor // top_up.amount_minor))


def standing(top_up: TopUpState, refunds: Iterable[RefundRow], disputes: Iterable[DisputeRow]) -> TopUpState:
    """A paid top-up as its refunds and disputes make it, in whatever order they came."""
    refunded = [refund for refund in refunds if refund.stands]
    found = list(disputes)
    credits = sum(refund.credits for refund in refunded)
    clawed = sum(dispute.credits for dispute in found if dispute.state is DisputeState.LOST)
    if credits + clawed == top_up.credits:
        status = Status.REFUNDED
    elif any(dispute.state is DisputeState.OPEN for dispute in found):
        status = Status.DISPUTED
    else:
        status = Status.PAID
    return top_up._replace(
        status=status,
        refunded=credits,
        refunded_minor=sum(refund.amount_minor for refund in refunded),
        clawed_back=clawed,
    )


def disagreements(top_up: TopUpState, told: Refund | Dispute, *, amount_minor: int | None) -> list[str]:
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
