"""Signed notices: HMAC-SHA256 over time and raw bytes, so that neither can be changed, nor an old one sent again.

The header reads `Sandbox-Signature: t=1767225600,v1=<64 hex digits>`.
"""

import hmac
import re
from typing import Final

from app.topups.provider import InvalidProviderEvent

TOLERANCE_SECONDS: Final = 300

_SIGNATURE: Final = re.compile(r"t=([0-9]{1,15}),v1=([0-9a-f]{64})")


def sign(raw_body: bytes, secret: bytes, *, at_seconds: int) -> str:
    """The header's value for a body sent at that Unix time."""
    return f"t={at_seconds},v1={_digest(raw_body, secret, str(at_seconds))}"


def verify(raw_body: bytes, header: str | None, secret: bytes, *, now_seconds: float) -> None:
    """Raises: NoticeRefused: unsigned, signed by somebody else, or signed more than 300 s ago or ahead."""
    if header is None:
        raise InvalidProviderEvent("The notice is not signed.")
    if (found := _SIGNATURE.fullmatch(header)) is None:
        raise InvalidProviderEvent("The signature cannot be read: it looks like t=SECONDS,v1=HEX.")
    signed_at, digest = found[1], found[2]
    if not hmac.compare_digest(digest, _digest(raw_body, secret, signed_at)):
        raise InvalidProviderEvent("The signature does not belong to this body.")
    # Only now: the time of a notice that somebody else signed says nothing.
    if abs(now_seconds - int(signed_at)) > TOLERANCE_SECONDS:
        raise InvalidProviderEvent(f"The notice was signed more than {TOLERANCE_SECONDS} seconds from now.")


def _digest(raw_body: bytes, secret: bytes, signed_at: str) -> str:
    return hmac.digest(secret, signed_at.encode() + b"." + raw_body, "sha256").hex()
