"""Translates errors of Stripe's SDK: refusals, deleted objects, and answers that leave the outcome unknown."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import stripe

from app.errors import Unavailable
from app.topups.errors import PaymentRefused
from app.topups.provider import CardMissing, CustomerMissing, RefusalReason

_REASONS: Final = {
    "amount_too_small": RefusalReason.AMOUNT_TOO_SMALL,
    "amount_too_large": RefusalReason.AMOUNT_TOO_LARGE,
    "account_closed": RefusalReason.ACCOUNT_RESTRICTED,
    "account_invalid": RefusalReason.ACCOUNT_RESTRICTED,
    "testmode_charges_only": RefusalReason.ACCOUNT_RESTRICTED,
    "url_invalid": RefusalReason.RETURN_URL_REFUSED,
    "customer_tax_location_invalid": RefusalReason.LOCATION_UNKNOWN,
}
_URL_PARAMETERS: Final = {"success_url", "cancel_url", "return_url"}
_MISSING: Final = "resource_missing"
_CARD_GONE: Final = "payment_method_unexpected_state"
_CARD_USED_UP: Final = "may not be used again"
"""A part of the error message about a detached card. This error has no code."""
_IN_PROGRESS_STATUS: Final = 409


@asynccontextmanager
async def translate_errors() -> AsyncIterator[None]:
    """Raises: Unavailable: Stripe does not answer, or its answer leaves the outcome of the call unknown."""
    try:
        yield
    except stripe.StripeError as error:
        status = error.http_status
        why = "cannot be reached" if status is None else f"cannot handle the request now (HTTP status {status})"
        raise Unavailable(f"Stripe {why}: try again shortly.") from error


@asynccontextmanager
async def translate_refusals() -> AsyncIterator[None]:
    """Translate the errors of a call that Stripe may refuse.

    Raises: PaymentRefused, CustomerMissing, CardMissing: Stripe has done nothing; Unavailable: as `translate_errors`.
    """
    async with translate_errors():
        try:
            yield
        except stripe.InvalidRequestError as error:
            raise _find_refusal(error) from error
        except stripe.PermissionError as error:
            raise _refused(RefusalReason.ACCOUNT_RESTRICTED, error) from error


@asynccontextmanager
async def translate_changed_requests() -> AsyncIterator[None]:
    """Raises: PaymentRefused: the reference was used before with other parameters, because the settings changed."""
    try:
        yield
    except stripe.IdempotencyError as error:
        if error.http_status == _IN_PROGRESS_STATUS:
            raise
        raise _refused(RefusalReason.OTHER, error) from error


def _find_refusal(error: stripe.InvalidRequestError) -> Exception:
    parameter = error.param or ""
    if error.code == _CARD_GONE or _CARD_USED_UP in str(error):
        return CardMissing()
    if error.code == _MISSING and parameter == "customer":
        return CustomerMissing()
    if error.code == _MISSING and parameter == "payment_method":
        return CardMissing()
    reason = _REASONS.get(str(error.code), RefusalReason.OTHER)
    if reason is RefusalReason.OTHER and parameter.rstrip("]").endswith("currency"):
        reason = RefusalReason.CURRENCY_NOT_SUPPORTED
    if reason is RefusalReason.OTHER and parameter in _URL_PARAMETERS:
        reason = RefusalReason.RETURN_URL_REFUSED
    return _refused(reason, error)


def _refused(reason: RefusalReason, error: stripe.StripeError) -> PaymentRefused:
    body = error.json_body if isinstance(error.json_body, dict) else {}
    details = body.get("error") or {}
    return PaymentRefused(reason=reason, provider_code=str(details.get("code") or details.get("type") or "unknown"))
