"""The interface of a payment provider (`PaymentProvider`), and the values it takes and returns.

`configured_provider` chooses the provider from the settings; no other module depends on which one it is. What a
provider reports (`Payment`, `Refund`, `Dispute`) is compared with our own rows before it has an effect. Every call that
moves money carries a reference of ours: the same reference is the same payment or refund, so that the call can be
repeated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from app.topups.rules import Payment


class RefundStatus(StrEnum):
    """Status of a refund at its provider. FAILED: the money was not returned."""

    PENDING = "PENDING"
    DONE = "DONE"
    FAILED = "FAILED"


class DisputeStatus(StrEnum):
    """Status of a dispute, from the seller's view. WON: the bank decided for the seller or withdrew the dispute."""

    OPEN = "OPEN"
    WON = "WON"
    LOST = "LOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund as its provider reports it.

    `reference`: of our refund; None: begun at the provider. `payment_ref`: as in `Payment`.
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
    """A dispute as its provider reports it."""

    provider: str
    live: bool
    dispute_ref: str
    payment_ref: str
    status: DisputeStatus
    amount_minor: int
    currency: str


ProviderObject = Payment | Refund | Dispute
"""The object of a provider event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEvent:
    """A message from a provider. `event_id` ("sandbox:evt_...") is unique over all providers."""

    event_id: str
    object: ProviderObject
    body: Mapping[str, Any]
    """The JSON as it was received, for the inbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutRequest:
    """A payment to be made on the provider's page. `reference`: of our top-up; the same one is the same checkout.

    `customer_ref`: the provider's customer id, if there is one. `saves_card`: the buyer consents to later payments in
    their absence, and the provider stores the card for them.
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
    """The page on which the buyer pays, and the provider's id of the checkout (`Payment.provider_ref`)."""

    provider_ref: str
    payment_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCardCharge:
    """A payment with a saved card in its owner's absence. `reference`: of our top-up; identifies the payment."""

    reference: str
    description: str
    amount_minor: int
    currency: str
    customer_ref: str
    card_ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundOrder:
    """Money to return. `reference`: of our refund; the same one is the same refund."""

    reference: str
    payment_ref: str
    amount_minor: int
    currency: str


@dataclass(eq=False)
class InvalidProviderEvent(Exception):
    """An event that does not come from the provider or cannot be parsed. It is answered with 400 and not stored."""

    reason: str

    def __str__(self) -> str:
        return self.reason


class PaymentProvider(Protocol):
    """A payment provider. Its methods are never called inside a transaction.

    All but `verify_event` and `parse_event` raise `Unavailable` if the provider does not answer, or the answer does not
    say what has become of the call. The outcome is then unknown, and must be queried by the reference first.
    """

    @property
    def name(self) -> str:
        """Used in top-ups, event ids and the webhook's path; at most 16 characters."""

    @property
    def live(self) -> bool:
        """Whether it takes real money. Events of the other mode are parked."""

    async def create_customer(self, reference: str) -> str:
        """The id of the customer of this reference, created at the first call."""

    async def open_checkout(self, checkout: CheckoutRequest) -> CheckoutPage:
        """Open a checkout, or find the one with the same reference."""

    async def verify_event(self, raw_body: bytes, headers: Mapping[str, str]) -> ProviderEvent | None:
        """Verify the signature over the raw body and parse the event. None: an event type that is ignored.

        Raises: InvalidProviderEvent; Unavailable: no secret is configured.
        """

    def parse_event(self, body: Mapping[str, Any]) -> ProviderEvent | None:
        """Parse an event that was verified before, from its stored body. Raises: InvalidProviderEvent."""

    async def retrieve_payment(self, provider_ref: str) -> Payment | None:
        """The current state of a checkout or payment; None: the provider does not know this id."""

    async def charge_saved_card(self, charge: SavedCardCharge) -> Payment:
        """Pay with a saved card. A decline is a result (DECLINED, ACTION_REQUIRED), not an exception."""

    async def find_payment(self, reference: str, *, since: datetime) -> Payment | None:
        """The payment of a call with an unknown outcome; None: the call has made none and will make none."""

    async def create_refund(self, order: RefundOrder) -> Refund:
        """Return money. A refusal is a result (FAILED), not an exception."""

    async def find_refund(self, reference: str, payment_ref: str) -> Refund | None:
        """The refund whose call had an unknown outcome; None: there is none."""

    async def create_portal_session(self, customer_ref: str, return_url: str) -> str:
        """The URL of a page on which a customer manages cards and receipts."""

    async def close(self) -> None:
        """Close connections."""
