"""Sandbox events: their JSON, their signature, and their mapping to provider events.

A body has the form `{"id": ..., "type": ..., "payment" | "refund" | "dispute": {...}}`; the type says which object it
carries and in which status. The header is `Sandbox-Signature: t=<Unix seconds>,v1=<hex>`, an HMAC-SHA256 over time and
raw body: neither can be changed, and an old event cannot be sent again.
"""

import hmac
import re
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from app.credits import MAX_CREDITS
from app.topups.provider import (
    Dispute,
    DisputeStatus,
    InvalidProviderEvent,
    ProviderEvent,
    ProviderObject,
    Refund,
    RefundStatus,
)
from app.topups.rules import Payment, PaymentStatus, SavedCard

NAME: Final = "sandbox"
SIGNATURE_HEADER: Final = "Sandbox-Signature"
TOLERANCE_SECONDS: Final = 300

_STATUSES: Final[Mapping[str, PaymentStatus | RefundStatus | DisputeStatus]] = {
    "payment.paid": PaymentStatus.PAID,
    "payment.declined": PaymentStatus.DECLINED,
    "refund.pending": RefundStatus.PENDING,
    "refund.done": RefundStatus.DONE,
    "refund.failed": RefundStatus.FAILED,
    "dispute.opened": DisputeStatus.OPEN,
    "dispute.won": DisputeStatus.WON,
    "dispute.lost": DisputeStatus.LOST,
}
"""The status that each event type reports."""

_SIGNATURE: Final = re.compile(r"t=([0-9]{1,15}),v1=([0-9a-f]{64})")

_Id = Annotated[str, Field(min_length=1, max_length=255)]
_AmountMinor = Annotated[int, Field(gt=0, le=MAX_CREDITS)]


class _Json(BaseModel):
    model_config = ConfigDict(strict=True, alias_generator=to_camel, populate_by_name=True)


class _PaymentJson(_Json):
    id: _Id
    reference: str
    amount_minor: _AmountMinor
    currency: str
    card: SavedCard | None = None


class _DisputeJson(_Json):
    id: _Id
    payment: _Id
    amount_minor: _AmountMinor
    currency: str


class _RefundJson(_DisputeJson):
    reference: str | None


class _EventJson(_Json):
    id: Annotated[str, Field(min_length=1, max_length=200)]
    type: str
    payment: _PaymentJson | None = None
    refund: _RefundJson | None = None
    dispute: _DisputeJson | None = None


def sign(raw_body: bytes, secret: bytes, *, at_seconds: int) -> str:
    """The value of the signature header for a body sent at that Unix time."""
    return f"t={at_seconds},v1={_digest(raw_body, secret, str(at_seconds))}"


def verify(raw_body: bytes, header: str | None, secret: bytes, *, now_seconds: float) -> None:
    """Check the signature of an event.

    Raises: InvalidProviderEvent: it is missing, was made with another secret, or is more than 300 s old or ahead.
    """
    if header is None:
        raise InvalidProviderEvent("The event is not signed.")
    if (found := _SIGNATURE.fullmatch(header)) is None:
        raise InvalidProviderEvent("The signature cannot be read: it must have the form t=SECONDS,v1=HEX.")
    signed_at, digest = found[1], found[2]
    if not hmac.compare_digest(digest, _digest(raw_body, secret, signed_at)):
        raise InvalidProviderEvent("The signature does not belong to this body.")
    # Checked last: the time in a forged signature means nothing.
    if abs(now_seconds - int(signed_at)) > TOLERANCE_SECONDS:
        raise InvalidProviderEvent(f"The event was signed more than {TOLERANCE_SECONDS} seconds from now.")


def build_body(subject: ProviderObject) -> dict[str, Any]:
    """The body of the event that reports this object in its status. Built again, it is the same event."""
    content: _Json
    match subject:
        case Payment():
            ref = subject.provider_ref
            content = _PaymentJson(
                id=ref,
                reference=subject.reference,
                amount_minor=subject.amount_minor,
                currency=subject.currency,
                card=subject.card,
            )
        case Refund():
            ref = subject.refund_ref
            content = _RefundJson(
                id=ref,
                payment=subject.payment_ref,
                reference=subject.reference,
                amount_minor=subject.amount_minor,
                currency=subject.currency,
            )
        case _:
            ref = subject.dispute_ref
            content = _DisputeJson(
                id=ref, payment=subject.payment_ref, amount_minor=subject.amount_minor, currency=subject.currency
            )
    [event_type] = [name for name, status in _STATUSES.items() if status is subject.status]
    return {
        "id": f"evt_{ref}_{subject.status.lower()}",
        "type": event_type,
        event_type.split(".")[0]: content.model_dump(by_alias=True),
    }


def sign_event(subject: ProviderObject, secret: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the event that reports this object, signed now."""
    raw_body = orjson.dumps(build_body(subject))
    signature = sign(raw_body, secret, at_seconds=int(time.time()))
    return raw_body, {"Content-Type": "application/json", SIGNATURE_HEADER: signature}


def parse_event(body: Any) -> ProviderEvent | None:
    """The provider event in a body; None for an event type that is not handled.

    Raises: InvalidProviderEvent: a field is missing or has another form.
    """
    match body:
        case {"type": str(event_type)} if event_type not in _STATUSES:
            return None
    try:
        event = _EventJson.model_validate_json(orjson.dumps(body))  # strict about types, but takes JSON objects
    except ValidationError:
        event = None
    subject = _map_object(event) if event is not None else None
    if event is None or subject is None:
        raise InvalidProviderEvent("A field of the event is missing or has another form than it should.")
    return ProviderEvent(event_id=f"{NAME}:{event.id}", object=subject, body=body)


def _map_object(event: _EventJson) -> ProviderObject | None:
    status = _STATUSES[event.type]
    if isinstance(status, PaymentStatus) and (payment := event.payment):
        return Payment(
            provider=NAME,
            provider_ref=payment.id,
            payment_ref=payment.id if status is PaymentStatus.PAID else None,
            reference=payment.reference,
            status=status,
            amount_minor=payment.amount_minor,
            currency=payment.currency,
            card=payment.card,
        )
    if isinstance(status, RefundStatus) and (refund := event.refund):
        return Refund(
            provider=NAME,
            live=False,
            refund_ref=refund.id,
            payment_ref=refund.payment,
            reference=refund.reference,
            status=status,
            amount_minor=refund.amount_minor,
            currency=refund.currency,
        )
    if isinstance(status, DisputeStatus) and (dispute := event.dispute):
        return Dispute(
            provider=NAME,
            live=False,
            dispute_ref=dispute.id,
            payment_ref=dispute.payment,
            status=status,
            amount_minor=dispute.amount_minor,
            currency=dispute.currency,
        )
    return None


def _digest(raw_body: bytes, secret: bytes, signed_at: str) -> str:
    return hmac.digest(secret, signed_at.encode() + b"." + raw_body, "sha256").hex()
