"""Which provider takes the money: the one place that knows more than one."""

from app.settings import Settings
from app.topups.provider import PaymentProvider
from app.topups.sandbox.provider import Sandbox


def open_provider(settings: Settings) -> PaymentProvider | None:
    """The provider of the settings; None: credits are not sold here. Raises: Misconfigured."""
    if settings.payment_provider == "stripe":
        from app.topups.stripe.provider import Stripe

        return Stripe.open(settings)
    return Sandbox.open(settings) if settings.payment_provider == "sandbox" else None
