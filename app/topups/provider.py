"""Whoever takes the money, seen from our side: a page to send the buyer to, notices to verify, a state to ask for.

Providers differ in everything else. `choice.open_provider` picks one by settings; nothing else knows which it is.

What a provider tells is always a *claim* (`Payment`, `Refund`, `Dispute`): it is compared with our own rows, and never
believed. Every call that moves money carries a reference of ours, by which the same call again is the same one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from app.topups.rules import Payment


class RefundStatus(StrEnum):
    """What a provider says of a refund. FAILED: the money did not go back."""

    PENDING = "PENDING"
    DONE = "DONE"
    FAILED = "FAILED"


class DisputeStatus(StrEnum):
    """What a provider says of a dispute. A buyer's bank that withdraws it has lost it: WON is ours."""

    OPEN = "OPEN"
    WON = "WON"
    LOST = "LOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund as its provider tells of it. `reference` is our refund's; None: begun at the provider, not by us.

    `payment_ref`: the provider's id of the payment that it gives back (`Payment.payment_ref`).
    """

    provider: str
    live: bool
    refund_ref: str
    payment_ref: str
    reference: str | None
    status: RefundStatus
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """A dispute as its provider tells of it."""

    provider: str
    live: bool
    dispute_ref: str
    payment_ref: str
    status: DisputeStatus
    amount_minor: int
    currency: str


ProviderObject = Payment | Refund | Dispute
"""What an event is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEvent:
    """Something that happened. `event_id` ("sandbox:evt_...") is unique over all providers."""

    event_id: str
    object: ProviderObject
    body: Mapping[str, Any]
    """The notice as it came, for the inbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutRequest:
    """What is to be paid on the provider's page. `reference` names our top-up: same reference, same payment.

    `customer_ref`: the provider's customer (`customer`), None where there is none yet. `saves_card`: the buyer consents
    to later payments without being there, and the provider keeps the card for them.
    """

    reference: str
    description: str
    amount_minor: int
    currency: str
    return_url: str | None
    customer_ref: str | None = None
    saves_card: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutPage:
    """Where the buyer pays, and the provider's own id of the checkout (`Payment.provider_ref`)."""

    provider_ref: str
    payment_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCardCharge:
    """A payment with a saved card, its owner not being there. `reference` names our top-up: same one, same payment."""

    reference: str
    description: str
    amount_minor: int
    currency: str
    customer_ref: str
    card_ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundOrder:
    """Money to give back. `reference` names our refund: same reference, same refund."""

    reference: str
    payment_ref: str
    amount_minor: int
    currency: str


@dataclass(eq=False)
class InvalidProviderEvent(Exception):
    """A notice that is not the provider's, or cannot be read: answered with 400, and nothing is kept of it."""

    reason: str

    def __str__(self) -> str:
        return self.reason


class PaymentProvider(Protocol):
    """A payment provider. None of its methods is called inside a transaction of the books.

    All but `verify` raise `Unavailable` where the provider does not answer, or in a way that says nothing of what has
    become of the call: the outcome is then unknown, and is asked for by the reference before anything is done again.
    """

    @property
    def name(self) -> str:
        """Stands in top-ups, event ids and the webhook's path; at most 16 characters."""

    @property
    def live(self) -> bool:
        """Whether it takes real money. What tells of the other mode is parked."""

    async def create_customer(self, reference: str) -> str:
        """The provider's customer for an account, made at the first call: same reference, same customer."""

    async def open_checkout(self, checkout: CheckoutRequest) -> CheckoutPage:
        """Open a checkout, or find the one opened before for the same reference."""

    async def verify_event(self, raw_body: bytes, headers: Mapping[str, str]) -> ProviderEvent | None:
        """The event in a notice, its signature proved over the bytes as they came. None: a kind to ignore.

        Raises: NoticeRefused; Unavailable: it cannot be verified here (no secret is set).
        """

    def parse_event(self, body: Mapping[str, Any]) -> ProviderEvent | None:
        """The event in a notice that was verified before, from what the inbox keeps of it. Raises: NoticeRefused."""

    async def retrieve_payment(self, provider_ref: str) -> Payment | None:
        """What the provider says of a checkout or payment now; None: it knows none of this id."""

    async def charge_saved_card(self, charge: SavedCardCharge) -> Payment:
        """Pay with a saved card. A decline is an answer (DECLINED, ACTION_REQUIRED), not an exception."""

    async def find_payment(self, reference: str, *, since: datetime) -> Payment | None:
        """The payment of a top-up whose call had no known outcome; None: there is none, nor will be of that call."""

    async def create_refund(self, order: RefundOrder) -> Refund:
        """Give money back. A refusal is an answer (FAILED), not an exception."""

    async def find_refund(self, reference: str, payment_ref: str) -> Refund | None:
        """The refund of ours whose call had no known outcome; None: there is none."""

    async def create_portal_session(self, customer_ref: str, return_url: str) -> str:
        """Address of a page on which a customer looks after cards and receipts."""

    async def close(self) -> None:
        """Let go of connections: the process ends."""
