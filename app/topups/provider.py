"""Whoever takes the money, seen from our side: a page to send the buyer to, notices to verify, a state to ask for.

Providers differ in everything else. `choice.open_provider` picks one by settings; nothing else knows which it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.topups.rules import Payment


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """What is to be paid. `reference` names our top-up, and makes the call idempotent: same reference, same payment."""

    reference: str
    description: str
    amount_minor: int
    currency: str
    return_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutPage:
    """Where the buyer pays, and the provider's own id of the payment."""

    provider_ref: str
    payment_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEvent:
    """Something that happened to a payment. `event_id` ("sandbox:evt_...") is unique over all providers."""

    event_id: str
    payment: Payment
    body: Mapping[str, Any]
    """The notice as it came, for the inbox."""


@dataclass(eq=False)
class NoticeRefused(Exception):
    """A notice that is not the provider's, or cannot be read: answered with 400, and nothing is kept of it."""

    reason: str

    def __str__(self) -> str:
        return self.reason


class PaymentProvider(Protocol):
    """A payment provider. None of its methods is called inside a transaction of the books."""

    @property
    def name(self) -> str:
        """Stands in top-ups, event ids and the webhook's path; at most 16 characters."""

    async def begin(self, checkout: Checkout) -> CheckoutPage:
        """Open a payment, or find the one opened before for the same reference.

        Raises: Unavailable: the provider does not answer; asking again is safe.
        """

    async def verify(self, raw_body: bytes, headers: Mapping[str, str]) -> ProviderEvent | None:
        """The event in a notice, its signature proved over the bytes as they came. None: a kind to ignore.

        Raises: NoticeRefused.
        """

    async def ask(self, provider_ref: str) -> Payment | None:
        """What the provider says of a payment now; None: it knows no such payment. Raises: Unavailable."""
