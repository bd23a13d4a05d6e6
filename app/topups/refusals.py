"""Top-ups that the payment provider refuses to begin: they become FAILED and keep the reason.

So no PENDING top-up stays behind, and the same request gets the same error again.
"""

from typing import Final

from app.errors import PaymentRefused
from app.ledger.posting import Posting, post
from app.topups import rows
from app.topups.rules import REFUSED_PREFIX, Reference, TopUpRow, TopUpStatus, is_refusal

_MAX_LENGTH: Final = 64


def refusal_text(refusal: PaymentRefused) -> str:
    """Return the `decline_reason` of a top-up that was refused."""
    return f"{REFUSED_PREFIX}{refusal.reason}:{refusal.provider_code}"[:_MAX_LENGTH]


def find_refusal(top_up: TopUpRow) -> PaymentRefused | None:
    """Return the refusal of a FAILED top-up, or None if it was not refused."""
    if (
        top_up.status is not TopUpStatus.FAILED
        or top_up.decline_reason is None
        or not is_refusal(top_up.decline_reason)
    ):
        return None
    reason, _, code = top_up.decline_reason.removeprefix(REFUSED_PREFIX).partition(":")
    return PaymentRefused(reason=reason, provider_code=code)


async def close_unpaid(reference: Reference, status: TopUpStatus, decline_reason: str | None) -> None:
    """Set a PENDING top-up to FAILED or EXPIRED. A later payment is still credited."""

    async def decide(posting: Posting) -> None:
        top_up = rows.TOP_UPS.read(posting.rows[0][0])
        if top_up.status is TopUpStatus.PENDING:
            changed = top_up._replace(status=status, decline_reason=decline_reason or top_up.decline_reason)
            rows.update_top_up(posting.write, changed, status_before=top_up.status)

    await post([reference.account_id], decide, reads=[rows.select_top_up(*reference)])
