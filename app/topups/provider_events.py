"""What a provider answered when it was asked, as an event: so that it is settled, kept and tried again as a notice is.

The answer itself is the event's body, from which `read` makes the event again.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from app.topups.provider import PaymentProvider, ProviderEvent, Refund, RefundStatus
from app.topups.rules import Payment, PaymentStatus, SavedCard, TaxLine


def payment_query_event(payment: Payment) -> ProviderEvent:
    """The event of an answer: the same for the same payment in the same state, however often it is asked for."""
    return ProviderEvent(
        event_id=f"{payment.provider}:asked:{payment.provider_ref}:{payment.status}",
        object=payment,
        body={"asked": asdict(payment)},
    )


def refund_query_event(refund: Refund) -> ProviderEvent:
    """The event of what became of a refund that was ordered, or asked about."""
    return ProviderEvent(
        event_id=f"{refund.provider}:answered:{refund.refund_ref}:{refund.status}",
        object=refund,
        body={"answered": asdict(refund)},
    )


def parse_stored_event(provider: PaymentProvider, body: Mapping[str, Any]) -> ProviderEvent | None:
    """The event in a kept body, be it a notice or an answer. Raises: NoticeRefused."""
    if (refund := body.get("answered")) is not None:
        return refund_query_event(Refund(**refund | {"status": RefundStatus(refund["status"])}))
    if (answer := body.get("asked")) is None:
        return provider.parse_event(body)
    card, lines = answer["card"], answer["tax_lines"]
    return payment_query_event(
        Payment(
            **answer
            | {
                "status": PaymentStatus(answer["status"]),
                "card": SavedCard(**card) if card else None,
                "tax_lines": tuple(TaxLine(**line) for line in lines),
            }
        )
    )
