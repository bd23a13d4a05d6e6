"""Signatures of Stripe's webhooks.

In addition to the SDK's checks, webhooks signed in the future are refused. Two webhook secrets are accepted while one
replaces the other.
"""

import re
from typing import Final

import stripe

from app.topups.provider import InvalidProviderEvent

SIGNATURE_HEADER: Final = "Stripe-Signature"
TOLERANCE_SECONDS: Final = 300

_SIGNED_AT: Final = re.compile(r"(?:^|,)t=([0-9]{1,15})(?=,|$)")


def verify_signature(raw_body: bytes, header: str | None, secrets: tuple[str, ...], *, now_seconds: float) -> None:
    """Check the signature of a webhook.

    Raises: InvalidProviderEvent: the signature is missing, was made with none of the secrets, or its time differs by
    more than 300 s.
    """
    first_error: Exception | None = None
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(raw_body, header, secret, TOLERANCE_SECONDS)
            break
        except stripe.SignatureVerificationError as error:
            first_error = first_error or error
        except UnicodeDecodeError:
            raise InvalidProviderEvent("The event is not UTF-8.") from None
    else:
        raise InvalidProviderEvent(
            f"The signature is invalid: {getattr(first_error, 'user_message', None) or first_error}"[:200]
        )
    signed_at = _SIGNED_AT.findall(header or "")
    # The SDK does not refuse times in the future. Of several times, it would be unclear which one was signed.
    if len(signed_at) != 1 or int(signed_at[0]) > now_seconds + TOLERANCE_SECONDS:
        raise InvalidProviderEvent(f"The event was signed more than {TOLERANCE_SECONDS} seconds ahead.")
