"""What a provider answered when it was asked, as an event: so that it is settled, kept and tried again as a notice is.

The answer itself is the event's body, from which `read` makes the event again.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from app.topups.provider import PaymentProvider, ProviderEvent, Refund, RefundState
from app.topups.rules import Payment, PaymentState, SavedCard, TaxLine


def asked(payment: Payment) -> ProviderEvent:
    """The event of an answer: the same for the same payment in the same state, however often it is asked for."""
    return ProviderEvent(
        event_id=f"{payment.provider}:asked:{payment.provider_ref}:{payment.state}",
        told=payment,
        body={"asked": asdict(payment)},
    )


def answered(refund: Refund) -> ProviderEvent:
    """The event of what became of a refund that was ordered, or asked about."""
    return ProviderEvent(
        event_id=f"{refund.provider}:answered:{refund.refund_ref}:{refund.state}",
        told=refund,
        body={"answered": asdict(refund)},
    )


def read(provider: PaymentProvider, body: Mapping[str, Any]) -> ProviderEvent | None:
    """The event in a kept body, be it a notice or an answer. Raises: NoticeRefused."""
    if (refund := body.get("answered")) is not None:
        return answered(Refund(**refund | {"state": RefundState(refund["state"])}))
    if (answer := body.get("asked")) is None:
        return provider.read_event(body)
    card, lines = answer["card"], answer["tax_lines"]
    return asked(
        Payment(
            **answer
            | {
                "state": PaymentState(answer["state"]),
                "card": SavedCard(**card) if card else None,
                "tax_lines": tuple(TaxLine(**line) for line in lines),
            }
        )
    )
