"""What the sandbox does after a payment: gives money back, keeps disputes, and tells of both by notices.

Its own books, as those of payments. Of the same reference it gives back once; more than was paid is refused (FAILED).
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from app.credits import MAX_CREDITS
from app.db import pools
from app.topups.provider import Dispute, DisputeStatus, Refund, RefundOrder, RefundStatus

_REFUND_KINDS: Final = {
    "refund.pending": RefundStatus.PENDING, "refund.done": RefundStatus.DONE, "refund.failed": RefundStatus.FAILED,
}  # fmt: skip
_DISPUTE_KINDS: Final = {
    "dispute.opened": DisputeStatus.OPEN, "dispute.won": DisputeStatus.WON, "dispute.lost": DisputeStatus.LOST,
}  # fmt: skip

EVENT_TYPES: Final = frozenset(_REFUND_KINDS) | frozenset(_DISPUTE_KINDS)
"""The kinds of notices that `told` reads."""

_COLUMNS: Final = "refund_ref, payment_ref, reference, status, amount_minor, currency"

# The payment's own row counts what went back of it: its lock lets no two refunds pass what was paid.
_GIVE_BACK: Final = """
    WITH given AS (
        UPDATE sandbox_payment SET refunded_minor = refunded_minor + $4
        WHERE provider_ref = $3 AND status = 'PAID' AND currency = $5 AND refunded_minor + $4 <= amount_minor RETURNING 1
    )
    INSERT INTO sandbox_refund (refund_ref, reference, payment_ref, amount_minor, currency, status, created_at)
    SELECT $1, $2, $3, $4, $5, CASE WHEN EXISTS (SELECT FROM given) THEN 'DONE' ELSE 'FAILED' END, clock_timestamp()
"""

_FIND: Final = f"SELECT {_COLUMNS} FROM sandbox_refund WHERE reference = $1"  # noqa: S608  our own constant
_BY_REF: Final = f"SELECT {_COLUMNS} FROM sandbox_refund WHERE refund_ref = $1"  # noqa: S608  our own constant

# A dispute is opened once, and decided once.
_DISPUTE: Final = """
    INSERT INTO sandbox_dispute (payment_ref, status, opened_at) VALUES ($1, 'OPEN', clock_timestamp())
    ON CONFLICT (payment_ref) DO NOTHING
"""
_DECIDE: Final = "UPDATE sandbox_dispute SET status = $2 WHERE payment_ref = $1 AND status = 'OPEN'"
_DISPUTED: Final = """
    SELECT d.status, p.amount_minor, p.currency FROM sandbox_dispute AS d
    JOIN sandbox_payment AS p ON p.provider_ref = d.payment_ref WHERE d.payment_ref = $1
"""


async def create_refund(order: RefundOrder, *, provider: str) -> Refund:
    """Give money back, once for a reference: the same call again gets the first one's answer, whatever it asks for."""
    if (found := await find_refund(order.reference, provider=provider)) is not None:
        return found
    try:
        return await _given_back(order.reference, order, provider)
    except asyncpg.UniqueViolationError:
        if (found := await find_refund(order.reference, provider=provider)) is None:
            raise
        return found


async def create_external_refund(payment_ref: str, amount_minor: int, currency: str, *, provider: str) -> Refund:
    """A refund that is begun at the provider: nobody here has asked for it."""
    order = RefundOrder(reference="", payment_ref=payment_ref, amount_minor=amount_minor, currency=currency)
    return await _given_back(None, order, provider)


async def find_refund(reference: str, *, provider: str) -> Refund | None:
    """The refund of that reference, or None."""
    records = await pools.fetch(_FIND, reference)
    return _refund(records[0], provider) if records else None


async def dispute(payment_ref: str, state: DisputeStatus, *, provider: str) -> Dispute:
    """Open the dispute of a payment, or decide it. Returns: the dispute as it is now; decided is for good."""
    await pools.fetch(_DISPUTE, payment_ref)
    if state is not DisputeStatus.OPEN:
        await pools.fetch(_DECIDE, payment_ref, state.value)
    found = await find_dispute(payment_ref, provider=provider)
    if found is None:
        raise LookupError(f"there is no payment {payment_ref!r}")
    return found


async def find_dispute(payment_ref: str, *, provider: str) -> Dispute | None:
    """The dispute of a payment, or None."""
    records = await pools.fetch(_DISPUTED, payment_ref)
    if not records:
        return None
    state, amount_minor, currency = records[0]
    return Dispute(
        provider=provider,
        live=False,
        dispute_ref=f"dp_{payment_ref}",
        payment_ref=payment_ref,
        status=DisputeStatus(state),
        amount_minor=amount_minor,
        currency=currency,
    )


def build_event_body(told: Refund | Dispute) -> dict[str, Any]:
    """The notice that tells of it: the same event however often it is sent."""
    said = {"payment": told.payment_ref, "amountMinor": told.amount_minor, "currency": told.currency}
    if isinstance(told, Refund):
        [kind] = [kind for kind, state in _REFUND_KINDS.items() if state is told.status]
        about = {"refund": {"id": told.refund_ref, "reference": told.reference} | said}
        return {"id": f"evt_{told.refund_ref}_{told.status.lower()}", "type": kind} | about
    [kind] = [kind for kind, state in _DISPUTE_KINDS.items() if state is told.status]
    about = {"dispute": {"id": told.dispute_ref} | said}
    return {"id": f"evt_{told.dispute_ref}_{told.status.lower()}", "type": kind} | about


def parse_event_object(body: Mapping[str, Any], *, provider: str) -> Refund | Dispute | None:
    """What a notice of one of KINDS tells; None: it does not say what it must."""
    match body:
        case {
            "type": str(kind),
            "refund": {
                "id": str(ref),
                "payment": str(payment_ref),
                "reference": None | str() as reference,
                "amountMinor": int(amount_minor),
                "currency": str(currency),
            },
        } if kind in _REFUND_KINDS and _fits(ref, payment_ref, amount_minor):
            return Refund(
                provider=provider,
                live=False,
                refund_ref=ref,
                payment_ref=payment_ref,
                reference=reference,
                status=_REFUND_KINDS[kind],
                amount_minor=amount_minor,
                currency=currency,
            )
        case {
            "type": str(kind),
            "dispute": {
                "id": str(ref),
                "payment": str(payment_ref),
                "amountMinor": int(amount_minor),
                "currency": str(currency),
            },
        } if kind in _DISPUTE_KINDS and _fits(ref, payment_ref, amount_minor):
            return Dispute(
                provider=provider,
                live=False,
                dispute_ref=ref,
                payment_ref=payment_ref,
                status=_DISPUTE_KINDS[kind],
                amount_minor=amount_minor,
                currency=currency,
            )
    return None


def _fits(ref: str, payment_ref: str, amount_minor: int) -> bool:
    return 1 <= len(ref) <= 255 and 1 <= len(payment_ref) <= 255 and 0 < amount_minor <= MAX_CREDITS


async def _given_back(reference: str | None, order: RefundOrder, provider: str) -> Refund:
    refund_ref = f"re_{secrets.token_hex(16)}"
    await pools.fetch(_GIVE_BACK, refund_ref, reference, order.payment_ref, order.amount_minor, order.currency)
    [record] = await pools.fetch(_BY_REF, refund_ref)
    return _refund(record, provider)


def _refund(record: Any, provider: str) -> Refund:
    return Refund(
        provider=provider,
        live=False,
        refund_ref=record["refund_ref"],
        payment_ref=record["payment_ref"],
        reference=record["reference"],
        status=RefundStatus(record["status"]),
        amount_minor=record["amount_minor"],
        currency=record["currency"],
    )
