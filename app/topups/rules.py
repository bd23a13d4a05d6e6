"""Rules of top-ups: what may be bought, its price and bonus, and the status that follows from a payment."""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from app.credits import MAX_CREDITS
from app.errors import Problem
from app.settings import Settings

MAX_RETURN_URL_LENGTH: Final = 2_000

_VISIBLE_ASCII: Final = re.compile(r"[!-~]+")
_REFERENCE: Final = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{32})")
_MINOR_DIGITS: Final = {
    "BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0,
    "UYI": 0, "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
    "BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
}  # fmt: skip
"""Decimal places of the currencies that do not have two (ISO 4217)."""


class TopUpStatus(StrEnum):
    """The status of a top-up. Only a PAID, REFUNDED or DISPUTED top-up has credits in the ledger."""

    PENDING = "PENDING"
    PAID = "PAID"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    REFUNDED = "REFUNDED"
    DISPUTED = "DISPUTED"


UNNAMED_TAX: Final = "Tax"
"""The label of a tax line if the provider reports only how much tax there is."""

REFUSED_PREFIX: Final = "refused:"
"""The beginning of the `decline_reason` of a top-up that the provider refused to begin."""

UNPAID_STATUSES: Final = frozenset({TopUpStatus.PENDING, TopUpStatus.FAILED, TopUpStatus.EXPIRED})


class PaymentStatus(StrEnum):
    """The status of a payment at its provider.

    ACTION_REQUIRED: the card's owner must authenticate a payment with a saved card, on the page `action_url`.
    """

    OPEN = "OPEN"
    PAID = "PAID"
    DECLINED = "DECLINED"
    EXPIRED = "EXPIRED"
    ACTION_REQUIRED = "ACTION_REQUIRED"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCard:
    """A card that the provider stores for later payments, with the buyer's consent."""

    customer_ref: str
    card_ref: str
    label: str
    """Shown to users: "visa 4242"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxLine:
    """A tax as the provider computes it. It is included in the price or added to it."""

    label: str
    amount_minor: int
    inclusive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment as its provider reports it. It is compared with our own row before anything is credited."""

    provider: str
    live: bool = False
    provider_ref: str
    provider_ref_is_payment: bool = False
    """Whether `provider_ref` is the id of the payment although `TopUpRow.provider_ref` is the id of the checkout."""
    payment_ref: str | None = None
    """The provider's id of the payment, which refunds and disputes refer to. None before money has moved."""
    reference: str
    status: PaymentStatus
    amount_minor: int
    """The price, without tax that is added to it."""
    captured_minor: int | None = None
    """The money that was captured, or None if the provider does not report it."""
    currency: str
    card: SavedCard | None = None
    tax_lines: tuple[TaxLine, ...] = ()
    decline_reason: str | None = None
    action_url: str | None = None

    @property
    def total_minor(self) -> int:
        """The price with the tax that is added to it."""
        return self.amount_minor + sum(line.amount_minor for line in self.tax_lines if not line.inclusive)


class TopUpRow(NamedTuple):
    """A row of the table `top_up`."""

    account_id: int
    id: str
    credits: int
    amount_minor: int
    currency: str
    status: TopUpStatus
    provider: str
    provider_ref: str | None
    payment_url: str | None
    return_url: str | None
    actor: str
    created_at: datetime
    paid_at: datetime | None
    refunded_credits: int = 0
    """Credits of refunds that did not fail."""
    refunded_minor: int = 0
    clawed_back_credits: int = 0
    """Credits that lost disputes took back."""
    bonus_credits: int = 0
    """Promotional credits of this top-up. They are in a separate grant that expires `bonus_days` after the payment."""
    bonus_days: int | None = None
    live: bool = False
    automatic: bool = False
    """Whether auto top-up bought the credits."""
    saves_card: bool = False
    payment_ref: str | None = None
    decline_reason: str | None = None
    tax_lines: tuple[TaxLine, ...] = ()
    total_minor: int | None = None
    """The price with the tax that was added to it. None before the payment."""
    ordered_minor: int | None = None
    """The ordered price, if only a part of it was captured. `credits` and `amount_minor` then belong to this part."""

    @property
    def paid_minor(self) -> int:
        """The money that belongs to the credits: what the buyer paid, or before the payment the price."""
        return self.amount_minor if self.total_minor is None else self.total_minor

    @property
    def has_unnamed_tax(self) -> bool:
        """Whether names of taxes are missing. A query of the provider returns them."""
        return any(line.label == UNNAMED_TAX for line in self.tax_lines or ())

    @property
    def reference(self) -> str:
        """The reference of this top-up at the provider."""
        return str(Reference(self.account_id, self.id))


class Reference(NamedTuple):
    """The account id and row id of a top-up or refund. At the provider it is the text `<account>-<id>`."""

    account_id: int
    row_id: str

    def __str__(self) -> str:
        return f"{self.account_id}-{self.row_id}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the reference in `text`, or None if this server cannot have created it."""
        found = _REFERENCE.fullmatch(text)
        return cls(int(found[1]), found[2]) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpTerms:
    """The amounts that may be bought, and their price."""

    minimum_credits: int
    maximum_credits: int
    multiple_credits: int
    currency: str
    minor_per_credit: int
    bonuses: tuple[tuple[int, int], ...] = ()
    """(minimum credits of a top-up, promotional credits for it), in ascending order."""
    bonus_days: int = 365

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            minimum_credits=settings.top_up_minimum,
            maximum_credits=settings.top_up_maximum,
            multiple_credits=settings.top_up_multiple,
            currency=settings.currency,
            minor_per_credit=settings.minor_per_credit,
            bonuses=settings.top_up_bonuses or (),
            bonus_days=settings.top_up_bonus_days,
        )

    def amount_minor(self, credits: int) -> int:
        """Return the exact price in minor units of the currency."""
        return credits * self.minor_per_credit

    def bonus_credits(self, credits: int) -> int:
        """Return the promotional credits of a top-up: the bonus of the highest minimum that `credits` reaches."""
        return max(((least, bonus) for least, bonus in self.bonuses if least <= credits), default=(0, 0))[1]

    def new_top_up(
        self,
        *,
        account_id: int,
        id: str,
        credits: int,
        provider: str,
        live: bool,
        actor: str,
        created_at: datetime,
        return_url: str | None = None,
        automatic: bool = False,
        saves_card: bool = False,
    ) -> TopUpRow:
        """Return a PENDING top-up at these terms. `live` says whether the provider takes real money."""
        bonus_credits = self.bonus_credits(credits)
        return TopUpRow(
            account_id=account_id,
            id=id,
            credits=credits,
            amount_minor=self.amount_minor(credits),
            currency=self.currency,
            status=TopUpStatus.PENDING,
            provider=provider,
            provider_ref=None,
            payment_url=None,
            return_url=return_url,
            actor=actor,
            created_at=created_at,
            paid_at=None,
            bonus_credits=bonus_credits,
            bonus_days=self.bonus_days if bonus_credits else None,
            live=live,
            automatic=automatic,
            saves_card=saves_card,
        )

    def find_problems(self, credits: int, currency: str | None) -> list[Problem]:
        """Return the problems of buying `credits` for `currency`. `None` stands for the configured currency."""
        found = []
        if not self.minimum_credits <= credits <= self.maximum_credits:
            bounds = f"between {self.minimum_credits:,} and {self.maximum_credits:,}"
            found.append(Problem("credits", f"must lie {bounds}; it is {credits:,}"))
        elif credits % self.multiple_credits:
            found.append(Problem("credits", f"must be a multiple of {self.multiple_credits:,}; it is {credits:,}"))
        elif self.amount_minor(credits) > MAX_CREDITS:
            found.append(Problem("credits", "cost more than can be recorded: buy fewer"))
        if currency is not None and currency != self.currency:
            found.append(Problem("currency", f"must be {self.currency}: credits are sold in no other currency"))
        return found


def find_return_url_problems(url: str | None) -> list[Problem]:
    """Return the problems of the URL to which the buyer's browser is redirected after paying.

    Only visible ASCII without backslash is allowed: browsers parse other characters differently and could go to another
    host.
    """
    if url is None:
        return []
    if len(url) > MAX_RETURN_URL_LENGTH:
        return [Problem("returnUrl", f"must have at most {MAX_RETURN_URL_LENGTH:,} characters; it has {len(url):,}")]
    if not _VISIBLE_ASCII.fullmatch(url) or "\\" in url:
        return [Problem("returnUrl", "must consist of visible ASCII characters, without backslashes")]
    if not _names_a_host(url):
        return [Problem("returnUrl", "must be a full URL: http:// or https://, with a host and without a user name")]
    return []


def find_mismatches(top_up: TopUpRow, payment: Payment) -> list[str]:
    """Return the differences between a payment and our own row. A payment that differs is parked, never credited.

    If the row has no id of the provider, because the call that opened the checkout was interrupted, any id matches. The
    money that was captured may be less than the total, but must be the same in every event.
    """
    their_ref = payment.payment_ref if payment.provider_ref_is_payment else payment.provider_ref
    our_ref = top_up.payment_ref if payment.provider_ref_is_payment else top_up.provider_ref
    pairs = [
        ("provider", payment.provider, top_up.provider),
        ("mode", _mode(payment.live), _mode(top_up.live)),
        ("reference", payment.reference, top_up.reference),
        ("payment", their_ref, our_ref or their_ref),
        ("amount in minor units", payment.amount_minor, top_up.ordered_minor or top_up.amount_minor),
        ("currency", payment.currency, top_up.currency),
    ]
    if payment.status is PaymentStatus.PAID:
        captured, ours = payment.captured_minor, top_up.total_minor
        if captured is None and top_up.ordered_minor is None:
            captured = payment.total_minor
        if captured is not None:
            pairs.append(("captured amount in minor units", captured, min(captured, payment.total_minor)))
            pairs.append(("total in minor units", captured, captured if ours is None else ours))
    return [f"{name} is {theirs}, ours is {ours}" for name, theirs, ours in pairs if theirs != ours]


def _mode(live: bool) -> str:
    return "live" if live else "test"


def derive_status(status: TopUpStatus, payment_status: PaymentStatus) -> TopUpStatus | None:
    """Return the new status of a top-up, or None if it does not change.

    A payment always counts, even if a first card was declined or the top-up has expired. A decline or an expiry that
    arrives after the payment changes nothing.
    """
    if payment_status is PaymentStatus.PAID and status in UNPAID_STATUSES:
        return TopUpStatus.PAID
    if status is TopUpStatus.PENDING:
        return {PaymentStatus.DECLINED: TopUpStatus.FAILED, PaymentStatus.EXPIRED: TopUpStatus.EXPIRED}.get(
            payment_status
        )
    return None


def is_refusal(decline_reason: str | None) -> bool:
    """Return whether a `decline_reason` says that the provider refused to begin the payment."""
    return decline_reason is not None and decline_reason.startswith(REFUSED_PREFIX)


def take_captured_share(top_up: TopUpRow, payment: Payment) -> TopUpRow:
    """Return an unpaid top-up with the share of its credits, bonus and price that was captured, rounded down.

    The credits may be 0: then the payment must not be credited.
    """
    captured, total = payment.captured_minor, payment.total_minor
    if captured is None or captured >= total:
        return top_up
    return top_up._replace(
        credits=top_up.credits * captured // total,
        bonus_credits=top_up.bonus_credits * captured // total,
        amount_minor=_scale_to_captured(payment, captured).amount_minor,
        ordered_minor=top_up.amount_minor,
    )


def merge_facts(top_up: TopUpRow, payment: Payment) -> TopUpRow:
    """Return a top-up with the ids, total and taxes that a PAID payment reports.

    Several events report one payment, and each contains only some of these values. The result is the same for any order
    of the events.
    """
    if top_up.ordered_minor is not None:
        captured = payment.captured_minor if top_up.total_minor is None else top_up.total_minor
        payment = _scale_to_captured(payment, payment.total_minor if captured is None else captured)
    return top_up._replace(
        provider_ref=top_up.provider_ref if payment.provider_ref_is_payment else payment.provider_ref,
        payment_ref=top_up.payment_ref or payment.payment_ref,
        total_minor=payment.total_minor,
        tax_lines=max(top_up.tax_lines or (), payment.tax_lines, key=_tax_detail),
    )


def _scale_to_captured(payment: Payment, captured_minor: int) -> Payment:
    """Return a payment with its price and taxes reduced to the captured share. They add up to the captured money."""
    total = payment.total_minor
    added_left = (total - payment.amount_minor) * captured_minor // total
    price = captured_minor - added_left
    lines = []
    unscaled_left = total - payment.amount_minor
    for line in payment.tax_lines:
        scaled = line.amount_minor * captured_minor // total
        if not line.inclusive:
            scaled = line.amount_minor * added_left // max(1, unscaled_left)
            added_left, unscaled_left = added_left - scaled, unscaled_left - line.amount_minor
        lines.append(replace(line, amount_minor=scaled))
    return replace(payment, amount_minor=price, tax_lines=tuple(lines))


def _tax_detail(lines: tuple[TaxLine, ...]) -> list[tuple[bool, str, int, bool]]:
    """Return a sort key: an empty list is the lowest, lines with names of taxes are the highest."""
    return [(line.label != UNNAMED_TAX, line.label, line.amount_minor, line.inclusive) for line in lines]


def format_money(amount_minor: int, currency: str) -> str:
    """Return an amount as text: 123456 minor units of USD are "1,234.56 USD". JPY has no decimals, KWD has three."""
    digits = _MINOR_DIGITS.get(currency, 2)
    whole, part = divmod(amount_minor, 10**digits)
    return f"{whole:,}.{part:0{digits}} {currency}" if digits else f"{whole:,} {currency}"


def _names_a_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        return False
