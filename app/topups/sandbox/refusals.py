"""Amounts for which the sandbox refuses to begin a payment, so that every refusal can be tried."""

from typing import Final

from app.errors import Unavailable
from app.topups.errors import PaymentRefused
from app.topups.models import SandboxCustomer
from app.topups.provider import REPLACED_MARK, CustomerMissing, RefusalReason

REFUSED_AMOUNTS: Final = {
    40_100: RefusalReason.AMOUNT_TOO_SMALL,
    40_200: RefusalReason.ACCOUNT_RESTRICTED,
    40_300: RefusalReason.CURRENCY_NOT_SUPPORTED,
}
CUSTOMER_DELETED_AMOUNT: Final = 40_400
"""The sandbox deletes the buyer's customer before it opens a checkout of this amount that saves the card."""
UNAVAILABLE_AMOUNT: Final = 40_500


async def check_amount(amount_minor: int, customer_ref: str | None) -> None:
    """Raises: PaymentRefused, Unavailable: for the amounts above; CustomerMissing: there is no such customer, or the
    amount is CUSTOMER_DELETED_AMOUNT and the customer does not replace another one.
    """
    if (reason := REFUSED_AMOUNTS.get(amount_minor)) is not None:
        raise PaymentRefused(reason=reason, provider_code=f"sandbox_{reason.lower()}")
    if amount_minor == UNAVAILABLE_AMOUNT:
        raise Unavailable("The sandbox does not answer payments of this amount: try again shortly.")
    if customer_ref is None:
        return
    customer = await SandboxCustomer.get_or_none(customer_ref=customer_ref)
    if customer is not None and amount_minor == CUSTOMER_DELETED_AMOUNT and REPLACED_MARK not in customer.reference:
        await customer.delete()
        customer = None
    if customer is None:
        raise CustomerMissing
