"""Sandbox events: their JSON, signature and parsing.

A body has the form `{"id": ..., "type": "payment.paid", "payment": {...}}`. The type names the object and its status.
The object has the fields of `Payment`, `Refund` or `Dispute`. The header is `Sandbox-Signature: t=<time>,v1=<hex>`, an
HMAC-SHA256 over Unix time and raw body. So neither can be changed, and an old event is refused.
"""

import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from app.credits import MAX_CREDITS
from app.instants import is_instant
from app.topups.provider import Dispute, InvalidProviderEvent, ProviderEvent, ProviderObject, Refund
from app.topups.rules import Payment

NAME: Final = "sandbox"
SIGNATURE_HEADER: Final = "Sandbox-Signature"
TOLERANCE_SECONDS: Final = 300

_OBJECTS: Final[Mapping[str, TypeAdapter[Any]]] = {
    "payment": TypeAdapter(Payment),
    "refund": TypeAdapter(Refund),
    "dispute": TypeAdapter(Dispute),
}
_SIGNATURE: Final = re.compile(r"t=([0-9]{1,15}),v1=([0-9a-f]{64})")


def sign(raw_body: bytes, secret: bytes, *, at_seconds: int) -> str:
    """Return the value of the signature header for a body that is sent at this Unix time."""
    return f"t={at_seconds},v1={_digest(raw_body, secret, str(at_seconds))}"


def verify(raw_body: bytes, header: str | None, secret: bytes, *, now_seconds: float) -> None:
    """Check the signature of an event.

    Raises: InvalidProviderEvent: the signature is missing, was made with another secret, or its time differs by more
    than 300 s.
    """
    if header is None:
        raise InvalidProviderEvent("The event is not signed.")
    if (found := _SIGNATURE.fullmatch(header)) is None:
        raise InvalidProviderEvent("The signature cannot be read: it must have the form t=SECONDS,v1=HEX.")
    signed_at, digest = found[1], found[2]
    if not hmac.compare_digest(digest, _digest(raw_body, secret, signed_at)):
        raise InvalidProviderEvent("The signature does not belong to this body.")
    # The time is checked last, because the time of a forged signature has no meaning.
    if abs(now_seconds - int(signed_at)) > TOLERANCE_SECONDS:
        raise InvalidProviderEvent(f"The event was signed more than {TOLERANCE_SECONDS} seconds from now.")


def build_body(subject: ProviderObject) -> dict[str, Any]:
    """Return the body of the event that reports this object in its current status.

    Repeated calls return the same event.
    """
    name, status = type(subject).__name__.lower(), _status(subject)
    return {"id": f"evt_{_ref(subject)}_{status}", "type": f"{name}.{status}", name: asdict(subject)}


def sign_event(subject: ProviderObject, secret: bytes) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of the event that reports this object, signed now."""
    raw_body = orjson.dumps(build_body(subject))
    signature = sign(raw_body, secret, at_seconds=int(time.time()))
    return raw_body, {"Content-Type": "application/json", SIGNATURE_HEADER: signature}


def parse_event(body: Any) -> ProviderEvent | None:
    """Return the provider event in a body, or None for an event type that is not handled.

    Raises: InvalidProviderEvent: a field is missing or has another form.
    """
    match body:
        case {"id": str(event_id), "type": str(event_type)} if 1 <= len(event_id) <= 200:
            name = event_type.partition(".")[0]
            if name not in _OBJECTS:
                return None
            subject = _parse_object(name, body.get(name))
            if subject is not None and event_type == f"{name}.{_status(subject)}":
                return ProviderEvent(event_id=f"{NAME}:{event_id}", object=subject, body=body)
    raise InvalidProviderEvent("A field of the event is missing or has another form than it should.")


def _parse_object(name: str, content: Any) -> ProviderObject | None:
    try:
        # Validated as JSON: strict about types, but with the conversions that JSON needs (status, tuples).
        subject: ProviderObject = _OBJECTS[name].validate_json(orjson.dumps(content), strict=True)
    except ValidationError:
        return None
    refs = (_ref(subject), subject.payment_ref or "")
    is_valid = (
        subject.provider == NAME
        and 0 < subject.amount_minor <= MAX_CREDITS
        and refs[0]
        and all(len(ref) <= 255 for ref in refs)
        and (not isinstance(subject, Dispute) or subject.reported_at is None or is_instant(subject.reported_at))
    )
    return subject if is_valid else None


def _status(subject: ProviderObject) -> str:
    return (subject.status or "unknown").lower()


def _ref(subject: ProviderObject) -> str:
    match subject:
        case Payment():
            return subject.provider_ref
        case Refund():
            return subject.refund_ref
        case Dispute():
            return subject.dispute_ref


def _digest(raw_body: bytes, secret: bytes, signed_at: str) -> str:
    return hmac.digest(secret, signed_at.encode() + b"." + raw_body, "sha256").hex()
