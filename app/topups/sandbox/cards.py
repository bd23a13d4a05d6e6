"""The sandbox's customers and the cards that it keeps for them: how later payments with them go is chosen on its page.

Its own books, as a real provider would keep them elsewhere. The same reference is the same customer, or payment.
"""

import secrets
from enum import StrEnum
from typing import Any, Final

from app.db import pools
from app.topups.provider import SavedCardCharge
from app.topups.rules import Payment, PaymentStatus, SavedCard


class CardBehaviour(StrEnum):
    """What becomes of payments with a saved card."""

    PAYS = "pays"
    DECLINES = "declines"
    ASKS = "asks"


LABELS: Final = {
    CardBehaviour.PAYS: "test card that pays",
    CardBehaviour.DECLINES: "test card that declines",
    CardBehaviour.ASKS: "test card that asks its owner",
}
BEHAVIOURS_BY_FORM_VALUE: Final = {behaviour.value: behaviour for behaviour in CardBehaviour}
"""What the page's form sends, and what it means."""
DECLINED: Final = "card_declined"

# The second of two calls for one reference finds the first one's customer.
_CUSTOMER: Final = """
    INSERT INTO sandbox_customer (customer_ref, reference) VALUES ($1, $2)
    ON CONFLICT (reference) DO UPDATE SET reference = EXCLUDED.reference RETURNING customer_ref
"""

# The card of a payment that saves one, once it is paid, as its buyer chose it first.
_KEEP: Final = """
    INSERT INTO sandbox_card (card_ref, customer_ref, behaviour)
    SELECT 'card_' || p.provider_ref, p.customer_ref, $2 FROM sandbox_payment AS p
    WHERE p.reference = $1 AND p.saves_card AND p.customer_ref IS NOT NULL AND p.status = 'PAID'
    ON CONFLICT (card_ref) DO NOTHING
"""

_OF_PAYMENT: Final = "SELECT card_ref, customer_ref, behaviour FROM sandbox_card WHERE card_ref = 'card_' || $1::text"
_OF_CUSTOMER: Final = "SELECT behaviour FROM sandbox_card WHERE customer_ref = $1 ORDER BY card_ref LIMIT 100"

# What becomes of it is decided once, by the card; one that asks its owner stays open until the page decides.
_CHARGE: Final = """
    INSERT INTO sandbox_payment (reference, provider_ref, description, amount_minor, currency, return_url, status,
                                 created_at, decided_at, customer_ref, card_ref)
    SELECT $1, $2, $3, $4, $5, NULL, s.status, clock_timestamp(), CASE WHEN s.status <> 'OPEN' THEN clock_timestamp() END,
           $6, $7
    FROM (SELECT CASE (SELECT c.behaviour FROM sandbox_card AS c WHERE c.card_ref = $7 AND c.customer_ref = $6)
                 WHEN 'pays' THEN 'PAID' WHEN 'asks' THEN 'OPEN' ELSE 'DECLINED' END AS status) AS s
    ON CONFLICT (reference) DO UPDATE SET reference = EXCLUDED.reference
"""

_FOUND: Final = """
    SELECT reference, provider_ref, amount_minor, currency, status, card_ref FROM sandbox_payment
    WHERE reference = $1 OR provider_ref = $2
"""


async def customer(reference: str) -> str:
    """The customer of this reference, made at the first call."""
    [record] = await pools.fetch(_CUSTOMER, f"cus_{secrets.token_hex(12)}", reference)
    return str(record["customer_ref"])


async def save_card(reference: str, behaviour: CardBehaviour) -> None:
    """Keep the card with which this payment was paid, if its buyer consented; the first choice stays."""
    await pools.fetch(_KEEP, reference, behaviour.value)


async def find_card(provider_ref: str) -> SavedCard | None:
    """The card that a payment saved."""
    records = await pools.fetch(_OF_PAYMENT, provider_ref)
    if not records:
        return None
    label = LABELS[CardBehaviour(records[0]["behaviour"])]
    return SavedCard(customer_ref=records[0]["customer_ref"], card_ref=records[0]["card_ref"], label=label)


async def find_card_labels(customer_ref: str) -> list[str]:
    """What a customer's cards are called."""
    return [LABELS[CardBehaviour(record["behaviour"])] for record in await pools.fetch(_OF_CUSTOMER, customer_ref)]


async def charge(order: SavedCardCharge) -> None:
    """Pay with a saved card, as it behaves; the same reference again changes nothing."""
    await pools.fetch(
        _CHARGE,
        order.reference,
        f"pay_{secrets.token_hex(16)}",
        order.description,
        order.amount_minor,
        order.currency,
        order.customer_ref,
        order.card_ref,
    )


async def find_payment(*, reference: str = "", provider_ref: str = "", provider: str, pages: str) -> Payment | None:
    """A payment as the sandbox tells of it; None: there is none. `pages`: the address before a payment's reference."""
    records = await pools.fetch(_FOUND, reference, provider_ref)
    if not records:
        return None
    record = records[0]
    state = _state(record)
    return Payment(
        provider=provider,
        provider_ref=record["provider_ref"],
        payment_ref=record["provider_ref"] if state is PaymentStatus.PAID else None,
        reference=record["reference"],
        status=state,
        amount_minor=record["amount_minor"],
        currency=record["currency"],
        card=await find_card(record["provider_ref"]) if state is PaymentStatus.PAID else None,
        decline_reason=DECLINED if state is PaymentStatus.DECLINED else None,
        action_url=f"{pages}/{record['reference']}" if state is PaymentStatus.ACTION_REQUIRED else None,
    )


def _state(record: Any) -> PaymentStatus:
    """A payment with a saved card that nobody has decided waits for the card's owner."""
    state = PaymentStatus(record["status"])
    return PaymentStatus.ACTION_REQUIRED if state is PaymentStatus.OPEN and record["card_ref"] is not None else state
