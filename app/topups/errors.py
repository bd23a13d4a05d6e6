"""Expected errors of top-ups. They become GraphQL types like those of `app.errors`."""

from app.errors import BillingError, described
from app.wording import counted


class TopUpNotFound(BillingError):
    """The top-up does not exist, or it belongs to an account that the caller cannot read."""

    top_up_id: str = described("The top-up id of the request.")

    template = "Top-up {error.top_up_id!q} does not exist: `account.topUps` lists the top-ups."


class TopUpNotPaid(BillingError):
    """The top-up was not paid, so there is nothing to refund."""

    status: str = described("The status of the top-up.")

    template = "The top-up is {error.status}: it was not paid, so there is nothing to refund."


class RefundExceedsTopUp(BillingError):
    """The request refunds more than is left of the top-up. Nothing was changed."""

    requested_credits: int = described("Credits to refund, as requested.")
    refundable_credits: int = described("Credits that can still be refunded; disputed credits cannot.")

    @property
    def message(self) -> str:
        if not self.refundable_credits:
            return "Nothing of this top-up is left to refund: it was refunded, or it is disputed."
        return (
            f"The request refunds {counted(self.requested_credits, 'credit')}; at most "
            f"{counted(self.refundable_credits, 'credit')} of this top-up can still be refunded."
        )


class PaymentRefused(BillingError):
    """The payment provider refuses to begin the payment. Nothing was paid."""

    reason: str = described("Why: for example AMOUNT_TOO_SMALL, CURRENCY_NOT_SUPPORTED or ACCOUNT_RESTRICTED.")
    provider_code: str = described("The provider's code of the refusal, for support.")

    template = "The payment provider refuses the payment: {error.reason} ({error.provider_code}). Nothing was paid."
