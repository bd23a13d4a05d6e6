"""The interface of a payment provider (`PaymentProvider`), and the values that it takes and returns.

`configured_provider` chooses the provider from the settings; no other module depends on the choice. What a provider
reports (`Payment`, `Refund`, `Dispute`) is compared with our own rows before it has an effect. Every call that moves
money contains a reference that we chose. The same reference means the same payment or refund, so a call can be
repeated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from app.topups.rules import Payment

REPLACED_MARK: Final = "-replaces-"
"""A part of the reference of a customer that replaces a deleted customer."""


class RefundStatus(StrEnum):
    """The status of a refund at its provider. FAILED means that the money was not returned."""

    PENDING = "PENDING"
    DONE = "DONE"
    FAILED = "FAILED"


class RefusalReason(StrEnum):
    """Why a provider refuses to begin a payment (`PaymentRefused.reason`). A declined card is not a refusal."""

    AMOUNT_TOO_SMALL = "AMOUNT_TOO_SMALL"
    AMOUNT_TOO_LARGE = "AMOUNT_TOO_LARGE"
    CURRENCY_NOT_SUPPORTED = "CURRENCY_NOT_SUPPORTED"
    ACCOUNT_RESTRICTED = "ACCOUNT_RESTRICTED"
    RETURN_URL_REFUSED = "RETURN_URL_REFUSED"
    LOCATION_UNKNOWN = "LOCATION_UNKNOWN"
    OTHER = "OTHER"


class DisputeStatus(StrEnum):
    """The status of a dispute, from the seller's view. WON: the bank decided for the seller or withdrew the dispute."""

    OPEN = "OPEN"
    WON = "WON"
    LOST = "LOST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """A refund as its provider reports it.

    `reference` is the reference of our refund, or None if the refund was begun at the provider. `payment_ref` is the
    provider's id of the payment (`Payment.payment_ref`).
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
    """A dispute as its provider reports it.

    `provider_status` is the provider's name of the status. `status` is None if this server does not know that name.
    `is_inquiry` means that the bank only asked and no money has moved. `reported_at` is the time of the report by the
    provider's clock.
    """

    provider: str
    live: bool
    dispute_ref: str
    payment_ref: str
    status: DisputeStatus | None
    provider_status: str | None = None
    is_inquiry: bool = False
    amount_minor: int
    currency: str
    reported_at: datetime | None = None


ProviderObject = Payment | Refund | Dispute
"""The object of a provider event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableObject:
    """The object of an event that the provider has signed but that cannot be used. The event is parked."""

    provider: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEvent:
    """A message from a provider. `event_id` ("sandbox:evt_...") is unique over all providers."""

    event_id: str
    object: ProviderObject | UnusableObject
    body: Mapping[str, Any]
    """The JSON as it was received, for the inbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutRequest:
    """A payment to be made on the provider's page.

    `reference` is the reference of our top-up. Calls with the same reference return the same checkout. `customer_ref`
    is the provider's customer id, if there is one. `saves_card` means that the buyer consents to later payments in
    their absence; the provider then stores the card.
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
    """A payment with a saved card in its owner's absence.

    `reference` is the reference of our top-up. Calls with the same reference make one payment.
    """

    reference: str
    description: str
    amount_minor: int
    currency: str
    customer_ref: str
    card_ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundOrder:
    """Money to return. `reference` is the reference of our refund. Calls with the same reference make one refund."""

    reference: str
    payment_ref: str
    amount_minor: int
    currency: str


@dataclass(eq=False)
class InvalidProviderEvent(Exception):
    """An event that does not come from the provider or cannot be parsed. The response is 400, and nothing is stored."""

    reason: str

    def __str__(self) -> str:
        return self.reason


class CustomerMissing(Exception):
    """The customer of a call was deleted at the provider. Nothing was done."""


class CardMissing(Exception):
    """The card of a call was deleted at the provider. Nothing was done."""


class PaymentProvider(Protocol):
    """A payment provider. Its methods are never called inside a transaction.

    All methods except `verify_event` and `parse_event` raise `Unavailable` if the provider does not answer, or if its
    answer does not say whether the call succeeded. The caller must then query the outcome by the reference.
    `create_customer`, `open_checkout`, `charge_saved_card` and `create_portal_session` raise `PaymentRefused` if the
    provider has refused the call and done nothing, and `CustomerMissing` if it has deleted the customer.
    """

    @property
    def name(self) -> str:
        """A name of at most 16 characters. It is used in top-ups, event ids and the path of the webhook."""

    @property
    def live(self) -> bool:
        """Whether the provider takes real money. Events of the other mode are parked."""

    async def create_customer(self, reference: str) -> str:
        """Return the id of the customer with this reference. The first call creates the customer."""

    async def open_checkout(self, checkout: CheckoutRequest) -> CheckoutPage:
        """Open a checkout, or find the checkout with the same reference."""

    async def verify_event(self, raw_body: bytes, headers: Mapping[str, str]) -> ProviderEvent | None:
        """Verify the signature over the raw body and parse the event. Returns None for an event type that is ignored.

        Raises: InvalidProviderEvent; Unavailable: no secret is configured.
        """

    def parse_event(self, body: Mapping[str, Any]) -> ProviderEvent | None:
        """Parse the stored body of an event that was verified before. Raises: InvalidProviderEvent."""

    async def retrieve_payment(self, provider_ref: str) -> Payment | None:
        """Return the current state of a checkout or payment, or None if the provider does not know this id."""

    async def charge_saved_card(self, charge: SavedCardCharge) -> Payment:
        """Pay with a saved card. A decline is a result (DECLINED, ACTION_REQUIRED), not an exception.

        Raises: CardMissing.
        """

    async def find_payment(self, reference: str, *, since: datetime) -> Payment | None:
        """Find the payment of a call with an unknown outcome.

        Returns: None if the call has made no payment and will make none.
        """

    async def create_refund(self, order: RefundOrder) -> Refund:
        """Refund money. A refusal is a result (FAILED), not an exception."""

    async def find_refund(self, reference: str, payment_ref: str) -> Refund | None:
        """Find the refund of a call with an unknown outcome. Returns None if there is none."""

    async def create_portal_session(self, customer_ref: str, return_url: str) -> str:
        """Return the URL of a page on which a customer manages cards and receipts."""

    async def close(self) -> None:
        """Close the connections to the provider."""
