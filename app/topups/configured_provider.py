"""Opens the payment provider that the settings choose."""

from app.settings import Settings
from app.topups.provider import PaymentProvider
from app.topups.sandbox.provider import Sandbox


def open_provider(settings: Settings) -> PaymentProvider | None:
    """Return the provider named by PAYMENT_PROVIDER, or None if no credits are sold. Raises: Misconfigured."""
    if settings.payment_provider == "stripe":
        from app.topups.stripe.provider import Stripe  # only if needed: this imports the SDK

        return Stripe.open(settings)
    return Sandbox.open(settings) if settings.payment_provider == "sandbox" else None
