"""Outcomes of provider events, and events for the provider's answers to our queries.

An answer is settled like a webhook: it is stored in the inbox, applied once, and retried after a failure. Its body is
the answer itself; `parse_stored_event` creates the event from it again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import TypeAdapter

from app.topups.provider import PaymentProvider, ProviderEvent, Refund
from app.topups.rules import Payment

_PAYMENT: Final = TypeAdapter(Payment)
_REFUND: Final = TypeAdapter(Refund)


class EventOutcome(StrEnum):
    """The outcome of a provider event.

    WAITING: it concerns a payment that is not settled yet, or a refund that is possible only after an earlier one has
    failed; it is retried. PARKED_*: it had no effect, and an operator must decide about it. DISMISSED: an operator has
    decided that it has no effect.
    """

    CREDITED = "CREDITED"
    DECLINED = "DECLINED"
    EXPIRED = "EXPIRED"
    REFUNDED = "REFUNDED"
    REFUND_FAILED = "REFUND_FAILED"
    DISPUTED = "DISPUTED"
    DISPUTE_WON = "DISPUTE_WON"
    DISPUTE_LOST = "DISPUTE_LOST"
    UNCHANGED = "UNCHANGED"
    DUPLICATE = "DUPLICATE"
    WAITING = "WAITING"
    PARKED_UNKNOWN = "PARKED_UNKNOWN"
    PARKED_MISMATCH = "PARKED_MISMATCH"
    PARKED_FAILED = "PARKED_FAILED"
    DISMISSED = "DISMISSED"


@dataclass(eq=False)
class EventNotApplied(Exception):
    """An event cannot be applied. Nothing was changed. `outcome` says whether the event waits or is parked."""

    reason: str
    outcome: EventOutcome = EventOutcome.PARKED_MISMATCH

    def __str__(self) -> str:
        return self.reason


def payment_query_event(payment: Payment) -> ProviderEvent:
    """Return the event of a queried payment. The same payment in the same status gives the same event."""
    return ProviderEvent(
        event_id=f"{payment.provider}:queried-payment:{payment.provider_ref}:{payment.status}",
        object=payment,
        body={"queried_payment": asdict(payment)},
    )


def refund_query_event(refund: Refund) -> ProviderEvent:
    """Return the event of a refund, from the provider's answer to its creation or to a query."""
    return ProviderEvent(
        event_id=f"{refund.provider}:queried-refund:{refund.refund_ref}:{refund.status}",
        object=refund,
        body={"queried_refund": asdict(refund)},
    )


def parse_stored_event(provider: PaymentProvider, body: Mapping[str, Any]) -> ProviderEvent | None:
    """Return the event of a stored webhook or answer. Raises: InvalidProviderEvent."""
    if (refund := body.get("queried_refund")) is not None:
        return refund_query_event(_REFUND.validate_python(refund))
    if (payment := body.get("queried_payment")) is not None:
        return payment_query_event(_PAYMENT.validate_python(payment))
    return provider.parse_event(body)
