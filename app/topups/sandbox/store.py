"""The sandbox's own tables: payments, refunds, disputes, customers and cards.

They are separate from the tables of top-ups, because a real provider has its own database. The caller's reference
identifies a payment, a refund or a customer: a second call with a reference returns the existing one.
"""

import secrets
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import asyncpg
from tortoise.exceptions import IntegrityError
from tortoise.expressions import Q
from tortoise.models import Model

from app.db import pools
from app.topups.errors import PaymentRefused
from app.topups.models import SandboxCard, SandboxCustomer, SandboxDispute, SandboxPayment, SandboxRefund
from app.topups.provider import (
    CardMissing,
    CheckoutRequest,
    DisputeStatus,
    RefundOrder,
    RefundStatus,
    RefusalReason,
    SavedCardCharge,
)
from app.topups.rules import PaymentStatus
from app.topups.sandbox import refusals


class CardBehaviour(StrEnum):
    """What happens to later payments with a saved card."""

    PAYS = "pays"
    DECLINES = "declines"
    ASKS = "asks"
    DELETED = "deleted"
    REFUSED = "refused"


CARD_LABELS: Final = {
    CardBehaviour.PAYS: "test card that pays",
    CardBehaviour.DECLINES: "test card that declines",
    CardBehaviour.ASKS: "test card that asks its owner",
    CardBehaviour.DELETED: "test card that is deleted before its next payment",
    CardBehaviour.REFUSED: "test card whose payments are refused",
}
_STATUS_BY_BEHAVIOUR: Final = {
    CardBehaviour.PAYS: PaymentStatus.PAID,
    CardBehaviour.DECLINES: PaymentStatus.DECLINED,
    CardBehaviour.ASKS: PaymentStatus.OPEN,
}

# This is one statement, because two concurrent refunds must not exceed the paid amount, and a second call with the same
# reference must not change the payment.
_CREATE_REFUND: Final = """
    WITH returned AS (
        UPDATE sandbox_payment SET refunded_minor = refunded_minor + $4
        WHERE provider_ref = $3 AND status = 'PAID' AND currency = $5 AND refunded_minor + $4 <= amount_minor
        RETURNING 1
    )
    INSERT INTO sandbox_refund (refund_ref, reference, payment_ref, amount_minor, currency, status, created_at)
    SELECT $1, $2, $3, $4, $5, CASE WHEN EXISTS (SELECT FROM returned) THEN $6 ELSE $7 END, clock_timestamp()
"""


async def open_payment(checkout: CheckoutRequest) -> SandboxPayment:
    """Return the payment of a checkout. The first call creates it.

    Raises: PaymentRefused, CustomerMissing, Unavailable: see `refusals`.
    """
    await refusals.check_amount(checkout.amount_minor, checkout.customer_ref)
    await _create_once(
        SandboxPayment,
        reference=checkout.reference,
        provider_ref=_new_ref("pay"),
        description=checkout.description,
        amount_minor=checkout.amount_minor,
        currency=checkout.currency,
        return_url=checkout.return_url,
        status=PaymentStatus.OPEN,
        created_at=datetime.now(UTC),
        customer_ref=checkout.customer_ref,
        saves_card=checkout.saves_card and checkout.customer_ref is not None,
    )
    return await SandboxPayment.get(reference=checkout.reference)


async def charge_card(charge: SavedCardCharge) -> SandboxPayment:
    """Pay with a saved card, once for each reference. The card's behaviour decides the status.

    If the card requires authentication, the payment stays OPEN.
    Raises: CardMissing; PaymentRefused, CustomerMissing, Unavailable: see `refusals`.
    """
    if (known := await SandboxPayment.get_or_none(reference=charge.reference)) is not None:
        return known
    await refusals.check_amount(charge.amount_minor, charge.customer_ref)
    card = await SandboxCard.get_or_none(card_ref=charge.card_ref, customer_ref=charge.customer_ref)
    if card is not None and card.behaviour == CardBehaviour.DELETED:
        await card.delete()
        card = None
    if card is None:
        raise CardMissing
    if card.behaviour == CardBehaviour.REFUSED:
        raise PaymentRefused(reason=RefusalReason.OTHER, provider_code="sandbox_card_refused")
    status = _STATUS_BY_BEHAVIOUR[CardBehaviour(card.behaviour)]
    now = datetime.now(UTC)
    await _create_once(
        SandboxPayment,
        reference=charge.reference,
        provider_ref=_new_ref("pay"),
        description=charge.description,
        amount_minor=charge.amount_minor,
        currency=charge.currency,
        status=status,
        created_at=now,
        decided_at=None if status is PaymentStatus.OPEN else now,
        customer_ref=charge.customer_ref,
        card_ref=charge.card_ref,
    )
    return await SandboxPayment.get(reference=charge.reference)


async def decide_payment(reference: str, status: PaymentStatus, behaviour: CardBehaviour) -> SandboxPayment:
    """Pay or decline. A declined payment can still be paid. Returns: the payment as it is now.

    If the payment saves its card, `behaviour` is stored with the card when the payment is paid.
    """
    undecided = Q(status=PaymentStatus.OPEN)
    if status is PaymentStatus.PAID:
        undecided |= Q(status=PaymentStatus.DECLINED)
    await SandboxPayment.filter(undecided, reference=reference).update(status=status, decided_at=datetime.now(UTC))
    payment = await SandboxPayment.get(reference=reference)
    if payment.status == PaymentStatus.PAID and payment.saves_card:
        card_ref = f"card_{payment.provider_ref}"
        await _create_once(SandboxCard, card_ref=card_ref, customer_ref=payment.customer_ref, behaviour=behaviour)
    return payment


async def find_saved_card(payment: SandboxPayment) -> SandboxCard | None:
    """Return the card that a payment saved, or None."""
    return await SandboxCard.get_or_none(card_ref=f"card_{payment.provider_ref}")


async def list_card_labels(customer_ref: str) -> list[str]:
    """Return the labels of a customer's cards, at most 100."""
    cards = await SandboxCard.filter(customer_ref=customer_ref).order_by("card_ref").limit(100)
    return [CARD_LABELS[CardBehaviour(card.behaviour)] for card in cards]


async def create_customer(reference: str) -> str:
    """Return the customer with this reference. The first call creates it."""
    await _create_once(SandboxCustomer, customer_ref=_new_ref("cus"), reference=reference)
    return (await SandboxCustomer.get(reference=reference)).customer_ref


async def customer_exists(customer_ref: str) -> bool:
    return await SandboxCustomer.exists(customer_ref=customer_ref)


async def create_refund(order: RefundOrder, *, reference: str | None) -> SandboxRefund:
    """Refund money, once for each reference. A refund of more than was paid is FAILED.

    `reference=None` means that the refund was begun at the provider.
    """
    refund_ref = _new_ref("re")
    values = (refund_ref, reference, order.payment_ref, order.amount_minor, order.currency)
    try:
        await pools.fetch(_CREATE_REFUND, *values, RefundStatus.DONE, RefundStatus.FAILED)
    except asyncpg.UniqueViolationError:
        return await SandboxRefund.get(reference=reference)
    return await SandboxRefund.get(refund_ref=refund_ref)


async def decide_dispute(payment_ref: str, status: DisputeStatus) -> SandboxDispute:
    """Open the dispute of a payment, or decide it, once."""
    await _create_once(SandboxDispute, payment_ref=payment_ref, status=DisputeStatus.OPEN, opened_at=datetime.now(UTC))
    if status is not DisputeStatus.OPEN:
        await SandboxDispute.filter(payment_ref=payment_ref, status=DisputeStatus.OPEN).update(status=status)
    return await SandboxDispute.get(payment_ref=payment_ref)


async def _create_once(model: type[Model], **values: Any) -> None:
    """Insert a row if no row has its key."""
    with suppress(IntegrityError):
        await model.create(**values)


def _new_ref(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
