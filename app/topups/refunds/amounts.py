"""Rules that split the credits, the bonus and the money of a top-up for refunds and disputes.

The money is what the buyer paid, with the tax that was added to the price. Each part is computed from what is left, and
rounded down. So the parts always add up to the whole top-up, for any order and sizes of refunds, even if some fail.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Self

from app.topups.provider import Dispute, DisputeStatus, Refund, RefundStatus
from app.topups.rules import TopUpRow, TopUpStatus

EFFECTIVE_DISPUTE_STATUSES: Final = frozenset({DisputeStatus.OPEN, DisputeStatus.LOST})
"""The statuses of disputes that prevent a refund of credits, or have taken them back."""


class RefundRow(NamedTuple):
    """A row of the table `top_up_refund`. The refund was begun here or at the provider."""

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
        """Whether its credits have left the account.

        They leave when the refund is requested, and return if it fails.
        """
        return self.status is not RefundStatus.FAILED

    @property
    def gross_minor(self) -> int:
        return self.amount_minor + self.reduced_minor

    @property
    def total_bonus_credits(self) -> int:
        return self.bonus_credits + self.bonus_expired + self.bonus_spent


class DisputeRow(NamedTuple):
    """A row of the table `dispute`."""

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
    frozen_credits: int = 0
    """The part of `credits` that is frozen while the dispute is open. The rest was spent or held before."""
    debt_credits: int = 0
    """The part of `credits` that became debt when the dispute was lost."""
    reported_at: datetime | None = None

    @property
    def total_bonus_credits(self) -> int:
        return self.bonus_credits + self.bonus_expired + self.bonus_spent


@dataclass(frozen=True, slots=True, kw_only=True)
class RemainingAmounts:
    """What is left of a top-up after its refunds and disputes."""

    credits: int
    """Credits that were neither refunded nor taken back by a lost dispute."""
    disputed_credits: int
    """The part of `credits` that open disputes concern."""
    bonus_credits: int
    """The bonus that belongs to no refund and no lost dispute."""
    money_minor: int
    """The money that belongs to `credits`, before a deduction for spent bonus."""
    returnable_minor: int
    """The money that was paid and not returned."""

    @classmethod
    def compute(cls, top_up: TopUpRow, refunds: Iterable[RefundRow], disputes: Iterable[DisputeRow]) -> Self:
        effective = [refund for refund in refunds if refund.is_effective]
        disputes = list(disputes)
        lost = [dispute for dispute in disputes if dispute.status is DisputeStatus.LOST]
        taken = sum(refund.credits for refund in effective) + sum(dispute.credits for dispute in lost)
        bonus = sum(refund.total_bonus_credits for refund in effective)
        bonus += sum(dispute.total_bonus_credits for dispute in lost)
        money = max(0, top_up.paid_minor - sum(refund.gross_minor for refund in effective))
        for dispute in lost:
            money -= min(dispute.amount_minor, money)
        return cls(
            credits=top_up.credits - taken,
            disputed_credits=sum(dispute.credits for dispute in disputes if dispute.status is DisputeStatus.OPEN),
            bonus_credits=top_up.bonus_credits - bonus,
            money_minor=money,
            returnable_minor=top_up.paid_minor - sum(refund.amount_minor for refund in effective),
        )

    @property
    def refundable_credits(self) -> int:
        """Return the credits that may be refunded. Disputed credits must wait for the decision."""
        return self.credits - self.disputed_credits

    def split_money(self, credits: int) -> int:
        """Return the money that belongs to `credits`, a part of `self.credits`, in minor units."""
        return self.money_minor * credits // self.credits

    def split_bonus(self, credits: int) -> int:
        """Return the bonus that belongs to `credits`, a part of `self.credits`."""
        return self.bonus_credits * credits // self.credits


def value_bonus(top_up: TopUpRow, credits: int) -> int:
    """Return the value of spent bonus in minor units: the price of the same number of bought credits, rounded down."""
    return credits * top_up.paid_minor // top_up.credits


def credits_for_amount(top_up: TopUpRow, amount_minor: int) -> int:
    """Return the credits that belong to an amount of money, rounded up, but at most all credits of the top-up."""
    return min(top_up.credits, -(-top_up.credits * amount_minor // top_up.paid_minor))


def derive_top_up(top_up: TopUpRow, refunds: Iterable[RefundRow], disputes: Iterable[DisputeRow]) -> TopUpRow:
    """Return a paid top-up with the status and the sums that follow from its refunds and disputes."""
    effective = [refund for refund in refunds if refund.is_effective]
    disputes = list(disputes)
    refunded = sum(refund.credits for refund in effective)
    clawed_back = sum(dispute.credits for dispute in disputes if dispute.status is DisputeStatus.LOST)
    if refunded + clawed_back == top_up.credits:
        status = TopUpStatus.REFUNDED
    elif any(dispute.status is DisputeStatus.OPEN for dispute in disputes):
        status = TopUpStatus.DISPUTED
    else:
        status = TopUpStatus.PAID
    return top_up._replace(
        status=status,
        refunded_credits=refunded,
        refunded_minor=sum(refund.amount_minor for refund in effective),
        clawed_back_credits=clawed_back,
    )


def find_mismatches(top_up: TopUpRow, reported: Refund | Dispute, *, amount_minor: int | None = None) -> list[str]:
    """Return the differences between a reported refund or dispute and our rows.

    `amount_minor` is the amount of our row, or None if there is no row yet or the amount may change.
    """
    pairs = [
        ("provider", reported.provider, top_up.provider),
        ("mode", _mode(live=reported.live), _mode(live=top_up.live)),
        ("currency", reported.currency, top_up.currency),
        (
            "amount in minor units",
            reported.amount_minor,
            reported.amount_minor if amount_minor is None else amount_minor,
        ),
    ]
    return [f"{name} is {theirs}, ours is {ours}" for name, theirs, ours in pairs if theirs != ours]


def _mode(*, live: bool) -> str:
    return "live" if live else "test"
