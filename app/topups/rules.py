"""Pure rules of top-ups: what may be bought, what it costs, and what a provider's word does to a top-up."""

import re
from dataclasses import dataclass
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
"""Decimal places of currencies that do not have two (ISO 4217)."""


class TopUpStatus(StrEnum):
    """Where a top-up stands. Only PAID, and what follows from it, has credits in the ledger."""

    PENDING = "PENDING"
    PAID = "PAID"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    REFUNDED = "REFUNDED"
    DISPUTED = "DISPUTED"


UNPAID_STATUSES: Final = frozenset({TopUpStatus.PENDING, TopUpStatus.FAILED, TopUpStatus.EXPIRED})


class PaymentStatus(StrEnum):
    """What a provider says of a payment.

    ACTION_REQUIRED: a payment with a saved card that its owner has to authenticate, on the page `action_url`.
    """

    OPEN = "OPEN"
    PAID = "PAID"
    DECLINED = "DECLINED"
    EXPIRED = "EXPIRED"
    ACTION_REQUIRED = "ACTION_REQUIRED"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCard:
    """A card that the provider keeps for later payments, by the buyer's consent."""

    customer_ref: str
    card_ref: str
    label: str
    """For people: "visa 4242"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaxLine:
    """Tax within or on top of a price, as the provider reckons it; nothing of it is ours."""

    label: str
    amount_minor: int
    inclusive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment as its provider tells of it: claims, to be compared with our own row before anything is credited."""

    provider: str
    live: bool = False
    provider_ref: str
    provider_ref_is_payment: bool = False
    """Whether `provider_ref` names only the money that moved, where the top-up knows its checkout by another id."""
    payment_ref: str | None = None
    """The provider's id of the money that moved, by which it is given back and disputed; None before it moved."""
    reference: str
    status: PaymentStatus
    amount_minor: int
    """Without tax that is put on top."""
    currency: str
    card: SavedCard | None = None
    tax_lines: tuple[TaxLine, ...] = ()
    decline_reason: str | None = None
    action_url: str | None = None


class TopUpRow(NamedTuple):
    """A top-up as it is recorded."""

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
    """Credits that went back for money, or are on their way."""
    refunded_minor: int = 0
    clawed_back_credits: int = 0
    """Credits that a lost dispute took."""
    bonus_credits: int = 0
    """Promotional credits that come with it, in a grant of their own that expires `bonus_days` after the payment."""
    bonus_days: int | None = None
    live: bool = False
    automatic: bool = False
    """Whether the account bought it by itself (auto top-up)."""
    saves_card: bool = False
    payment_ref: str | None = None
    decline_reason: str | None = None
    tax_lines: tuple[TaxLine, ...] = ()

    @property
    def reference(self) -> str:
        """What the provider is given to name this top-up: the account and the id."""
        return str(Reference(self.account_id, self.id))


class Reference(NamedTuple):
    """Account and id of a top-up, as one text for the provider: `<account>-<id>`."""

    account_id: int
    row_id: str

    def __str__(self) -> str:
        return f"{self.account_id}-{self.row_id}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The reference in `text`, or None where it is none of ours."""
        found = _REFERENCE.fullmatch(text)
        return cls(int(found[1]), found[2]) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopUpTerms:
    """What may be bought, and what a credit costs."""

    minimum_credits: int
    maximum_credits: int
    multiple_credits: int
    currency: str
    minor_per_credit: int
    bonuses: tuple[tuple[int, int], ...] = ()
    """What top-ups bring besides, as (from so many credits, so many promotional ones), in rising order."""
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
        """The price of `credits`, in minor units of the currency: exact, nothing is rounded."""
        return credits * self.minor_per_credit

    def bonus_credits(self, credits: int) -> int:
        """The promotional credits that come with a top-up of `credits`: those of the highest step that it reaches."""
        return max(((least, bonus) for least, bonus in self.bonuses if least <= credits), default=(0, 0))[1]

    def find_problems(self, credits: int, currency: str | None) -> list[Problem]:
        """What is wrong with buying `credits` for `currency` (None: the one in which credits are sold)."""
        found = []
        if not self.minimum_credits <= credits <= self.maximum_credits:
            bounds = f"between {self.minimum_credits:,} and {self.maximum_credits:,}"
            found.append(Problem("credits", f"must lie {bounds}; it is {credits:,}"))
        elif credits % self.multiple_credits:
            found.append(Problem("credits", f"must be a multiple of {self.multiple_credits:,}; it is {credits:,}"))
        elif self.amount_minor(credits) > MAX_CREDITS:
            found.append(Problem("credits", "cost more than can be written down: buy fewer"))
        if currency is not None and currency != self.currency:
            found.append(Problem("currency", f"must be {self.currency}: credits are sold for nothing else"))
        return found


def find_return_url_problems(url: str | None) -> list[Problem]:
    """What is wrong with where the buyer's browser is sent after paying; it is sent there exactly as given.

    Visible ASCII only and no backslash: browsers read those otherwise than we do, and could end up at another host.
    """
    if url is None:
        return []
    if len(url) > MAX_RETURN_URL_LENGTH:
        return [Problem("returnUrl", f"must have at most {MAX_RETURN_URL_LENGTH:,} characters; it has {len(url):,}")]
    if not _VISIBLE_ASCII.fullmatch(url) or "\\" in url:
        return [Problem("returnUrl", "must be written in visible ASCII characters, without spaces or backslashes")]
    if not _names_a_host(url):
        return [Problem("returnUrl", "must be a full web address: http:// or https://, a host, no user name")]
    return []


def find_mismatches(top_up: TopUpRow, payment: Payment) -> list[str]:
    """Where a payment differs from our own row. One that differs is parked for a person, never credited.

    A row without a provider's id is one whose begin was cut off after the provider had answered: any id will do.
    """
    known_as = payment.payment_ref if payment.provider_ref_is_payment else payment.provider_ref
    knew_as = top_up.payment_ref if payment.provider_ref_is_payment else top_up.provider_ref
    pairs = [
        ("provider", payment.provider, top_up.provider),
        ("mode", _mode(payment.live), _mode(top_up.live)),
        ("reference", payment.reference, top_up.reference),
        ("payment", known_as, knew_as or known_as),
        ("amount in minor units", payment.amount_minor, top_up.amount_minor),
        ("currency", payment.currency, top_up.currency),
    ]
    return [f"{name} is {told}, ours is {ours}" for name, told, ours in pairs if told != ours]


def _mode(live: bool) -> str:
    return "live" if live else "test"


def derive_status(status: TopUpStatus, payment_status: PaymentStatus) -> TopUpStatus | None:
    """What a top-up becomes on a provider's word; None where it stays as it is.

    A payment counts whenever it truly was made: a buyer whose first card is declined may pay with another, and one who
    pays after giving up has paid. A decline or an expiry that arrives after the payment changes nothing.
    """
    if payment_status is PaymentStatus.PAID and status in UNPAID_STATUSES:
        return TopUpStatus.PAID
    if status is TopUpStatus.PENDING:
        return {PaymentStatus.DECLINED: TopUpStatus.FAILED, PaymentStatus.EXPIRED: TopUpStatus.EXPIRED}.get(
            payment_status
        )
    return None


def format_money(amount_minor: int, currency: str) -> str:
    """An amount for people: 123456 minor units of USD are "1,234.56 USD"; JPY has no minor unit, KWD three places."""
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
