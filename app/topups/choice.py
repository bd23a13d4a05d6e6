"""Which provider takes the money: the one place that knows more than one."""

from app.settings import Settings
from app.topups.provider import PaymentProvider
from app.topups.sandbox import Sandbox


def open_provider(chosen: Settings) -> PaymentProvider:
    """The provider of the settings. Raises: Misconfigured: it cannot work as it is set up."""
    return {"sandbox": Sandbox.open}[chosen.payment_provider](chosen)
