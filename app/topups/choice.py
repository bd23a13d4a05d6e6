"""Which provider takes the money: the one place that knows more than one."""

from app.settings import Settings
from app.topups.provider import PaymentProvider
from app.topups.sandbox.provider import Sandbox


def open_provider(chosen: Settings) -> PaymentProvider | None:
    """The provider of the settings; None: credits are not sold here. Raises: Misconfigured."""
    if chosen.payment_provider == "stripe":
        from app.topups.stripe.provider import Stripe

        return Stripe.open(chosen)
    return Sandbox.open(chosen) if chosen.payment_provider == "sandbox" else None
