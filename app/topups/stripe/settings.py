"""Checks the settings for Stripe. The server does not start with a wrong key or an unsupported currency."""

import re
from typing import Final

from app.errors import Misconfigured
from app.settings import Settings

_KEY: Final = re.compile(r"(?:sk|rk)_(live|test)_\w+")
_MULTIPLE_OF_TEN: Final = {"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"}
_NOT_SOLD: Final = {"MGA", "MRU", "CLF", "UYI"}
"""Currencies whose minor units Stripe counts differently from ISO 4217."""


def check_settings(settings: Settings, key: str) -> bool:
    """Check the settings. Returns: whether the key takes real money. Raises: Misconfigured."""
    if (found := _KEY.fullmatch(key)) is None:
        raise Misconfigured(
            "PAYMENT_PROVIDER is stripe: set STRIPE_SECRET_KEY to an API key, which begins with sk_test_ or sk_live_"
            " (rk_ for a restricted one)."
        )
    live, production = found[1] == "live", settings.environment == "production"
    if production and not live:
        raise Misconfigured(
            "STRIPE_SECRET_KEY is a key of Stripe's test mode, which takes no money: production needs a live one."
        )
    if live and not production:
        raise Misconfigured(
            "STRIPE_SECRET_KEY takes real money: use a key of test mode, or set ENVIRONMENT to production."
        )
    if settings.stripe_base_url is not None and production:
        raise Misconfigured("STRIPE_BASE_URL sends the key to another server: unset it in production.")
    if settings.stripe_webhook_secret_previous is not None and settings.stripe_webhook_secret is None:
        raise Misconfigured("STRIPE_WEBHOOK_SECRET_PREVIOUS is set without STRIPE_WEBHOOK_SECRET: set the new one too.")
    step = settings.top_up_multiple * settings.minor_per_credit
    if settings.currency in _NOT_SOLD or (settings.currency in _MULTIPLE_OF_TEN and step % 10):
        raise Misconfigured(
            f"Stripe does not support these amounts of {settings.currency}: change CURRENCY or TOP_UP_MULTIPLE."
        )
    return live
