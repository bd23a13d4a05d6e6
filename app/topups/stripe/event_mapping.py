"""Converts Stripe's objects and events (JSON) to `Payment`, `Refund` and `Dispute`.

`payment_ref` is always the id of the payment intent, which refunds and disputes also contain. For a checkout,
`provider_ref` is the id of the session. Events of the intent report the same payment with the id of the intent, and
`provider_ref_is_payment` is set.

Stripe Tax adds tax to the price of a checkout. Price and tax are the same in every object of the payment: a session
contains both; an intent or a charge contains the total and, in our metadata, the price. The names of the taxes are
only in a session that was retrieved, not in its events.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from app.credits import MAX_CREDITS
from app.errors import Unavailable
from app.instants import instant_of_timestamp
from app.topups.provider import Dispute, DisputeStatus, ProviderObject, Refund, RefundStatus, SavedCardCharge
from app.topups.rules import UNNAMED_TAX, Payment, PaymentStatus, SavedCard, TaxLine
from app.wording import quote_value

NAME: Final = "stripe"

REFERENCE_KEY: Final = "credits_reference"
"""The metadata key that marks our objects. Other shops may use the same Stripe account."""
ORIGIN_KEY: Final = "credits_origin"
PRICE_BEFORE_TAX_KEY: Final = "credits_price_before_tax"
SAVES_CARD_KEY: Final = "credits_keeps_card"
YES: Final = "yes"
ORIGIN_CHECKOUT: Final = "checkout"
ORIGIN_SAVED_CARD: Final = "saved card"

_STRIPE_HUNDREDTHS: Final = {"ISK": 100, "UGX": 100}
"""Currencies without a minor unit whose amounts Stripe counts in hundredths."""

_REFUND_STATUSES: Final = {
    "succeeded": RefundStatus.DONE,
    "failed": RefundStatus.FAILED,
    "canceled": RefundStatus.FAILED,
}

_DISPUTE_STATUSES: Final = {
    "needs_response": DisputeStatus.OPEN,
    "under_review": DisputeStatus.OPEN,
    "appeal_needs_response": DisputeStatus.OPEN,
    "appeal_under_review": DisputeStatus.OPEN,
    "won": DisputeStatus.WON,
    "lost": DisputeStatus.LOST,
    # The buyer was refunded. Events of the refund report this.
    "charge_refunded": DisputeStatus.WON,
    "warning_closed": DisputeStatus.WON,
}
_PREVENTED: Final = {"block": DisputeStatus.WON, "resolution": DisputeStatus.LOST}
"""The statuses of a dispute that was prevented, by `case_type`. With a resolution the buyer has got the money back."""
_INQUIRY_PREFIX: Final = "warning_"
"""A warning is an inquiry of a bank. No money has moved, so nothing is frozen."""

_MAX_DIGITS: Final = len(str(MAX_CREDITS))

_SESSION_EVENTS: Final = {
    "checkout.session.completed": None,
    "checkout.session.async_payment_succeeded": PaymentStatus.PAID,
    "checkout.session.async_payment_failed": PaymentStatus.DECLINED,
    "checkout.session.expired": PaymentStatus.EXPIRED,
}
_INTENT_EVENTS: Final = {"payment_intent.succeeded", "payment_intent.payment_failed", "payment_intent.requires_action"}
_REFUND_EVENTS: Final = {"refund.created", "refund.updated", "refund.failed", "charge.refund.updated"}
_DISPUTE_EVENTS: Final = {"charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed"}

Json = Mapping[str, Any]


class InexactAmount(Unavailable):
    """An amount is not a whole number of minor units. An event with such an amount is parked."""


def to_stripe_amount(amount_minor: int, currency: str) -> int:
    """Convert an amount to Stripe's minor units."""
    return amount_minor * _STRIPE_HUNDREDTHS.get(currency, 1)


def map_event(event: Json) -> ProviderObject | None:
    """Return the object of an event, or None if the type is ignored or the object is not ours.

    Raises: KeyError, TypeError, ValueError: it does not have the form of a Stripe event.
    """
    event_type, live, item = event["type"], bool(event["livemode"]), event["data"]["object"]
    if event_type in _SESSION_EVENTS:
        return map_session(item, status=_SESSION_EVENTS[event_type]) if _is_ours(item) else None
    if event_type in _INTENT_EVENTS:
        return _unless_open(map_intent(item)) if _is_ours(item) else None
    if event_type == "charge.succeeded":
        return map_charge(item) if _is_ours(item) and _id(item["payment_intent"]) else None
    if event_type in _REFUND_EVENTS:
        return map_refund(item, live=live) if _id(item["payment_intent"]) else None
    if event_type in _DISPUTE_EVENTS:
        return map_dispute(item, reported_at=event["created"]) if _concerns_money(item) else None
    return None


def map_session(session: Json, *, status: PaymentStatus | None = None) -> Payment:
    """Return the payment of a checkout session.

    `status` is given if the event type says more than the session itself.
    """
    intent = session.get("payment_intent")
    currency = str(session["currency"]).upper()
    total = _amount(session, "amount_total", currency)
    tax_lines = _tax_lines(session.get("total_details") or {}, currency)
    return Payment(
        provider=NAME,
        live=bool(session["livemode"]),
        provider_ref=str(session["id"]),
        payment_ref=_id(intent),
        reference=str(session.get("client_reference_id") or ""),
        status=status or _session_status(session),
        amount_minor=total - sum(line.amount_minor for line in tax_lines if not line.inclusive),
        captured_minor=_captured(intent, currency) if isinstance(intent, Mapping) else None,
        currency=currency,
        card=_card_of_intent(intent) if isinstance(intent, Mapping) else None,
        tax_lines=tax_lines,
    )


def map_intent(intent: Json) -> Payment:
    """Return the payment of a payment intent, with a saved card or inside a checkout. In a checkout only PAID is final.

    A buyer whose card is declined in a checkout may try another card on the same page, until the session ends.
    """
    metadata = intent.get("metadata") or {}
    error = intent.get("last_payment_error") or {}
    is_checkout = metadata.get(ORIGIN_KEY) == ORIGIN_CHECKOUT
    status = _intent_status(intent, error)
    currency = str(intent["currency"]).upper()
    return Payment(
        provider=NAME,
        live=bool(intent["livemode"]),
        provider_ref=str(intent["id"]),
        provider_ref_is_payment=is_checkout,
        payment_ref=str(intent["id"]),
        reference=str(metadata.get(REFERENCE_KEY, "")),
        status=status if status is PaymentStatus.PAID or not is_checkout else PaymentStatus.OPEN,
        amount_minor=_price(intent, currency, metadata),
        captured_minor=_captured(intent, currency),
        currency=currency,
        card=_card_of_intent(intent),
        tax_lines=_added_tax(intent, currency, metadata),
        decline_reason=_decline_reason(error) if status is PaymentStatus.DECLINED else None,
        action_url=_action_url(intent),
    )


def map_charge(charge: Json) -> Payment:
    """Return the payment of a successful charge.

    A charge contains the card that paid; the event of the intent does not.
    """
    metadata, card = charge["metadata"], (charge.get("payment_method_details") or {}).get("card")
    currency = str(charge["currency"]).upper()
    customer = _id(charge.get("customer")) if metadata.get(SAVES_CARD_KEY) == YES else None
    return Payment(
        provider=NAME,
        live=bool(charge["livemode"]),
        provider_ref=str(_id(charge["payment_intent"])),
        provider_ref_is_payment=metadata.get(ORIGIN_KEY) == ORIGIN_CHECKOUT,
        payment_ref=_id(charge["payment_intent"]),
        reference=str(metadata.get(REFERENCE_KEY, "")),
        status=PaymentStatus.PAID if charge["paid"] and charge["captured"] else PaymentStatus.OPEN,
        amount_minor=_price(charge, currency, metadata),
        captured_minor=None if charge.get("amount_captured") is None else _amount(charge, "amount_captured", currency),
        currency=currency,
        tax_lines=_added_tax(charge, currency, metadata),
        card=SavedCard(customer_ref=customer, card_ref=str(charge["payment_method"]), label=_label(card))
        if card and customer
        else None,
    )


def map_refund(refund: Json, *, live: bool) -> Refund:
    currency = str(refund["currency"]).upper()
    return Refund(
        provider=NAME,
        live=live,
        refund_ref=str(refund["id"]),
        payment_ref=str(_id(refund["payment_intent"])),
        reference=(refund.get("metadata") or {}).get(REFERENCE_KEY),
        status=_REFUND_STATUSES.get(str(refund.get("status")), RefundStatus.PENDING),
        amount_minor=_amount(refund, "amount", currency),
        currency=currency,
    )


def map_dispute(dispute: Json, *, reported_at: int) -> Dispute:
    """Return the dispute of an event that was created at this Unix time."""
    currency = str(dispute["currency"]).upper()
    status = str(dispute["status"])
    card = (dispute.get("payment_method_details") or {}).get("card") or {}
    known = _PREVENTED.get(str(card.get("case_type"))) if status == "prevented" else _DISPUTE_STATUSES.get(status)
    return Dispute(
        provider=NAME,
        live=bool(dispute["livemode"]),
        dispute_ref=str(dispute["id"]),
        payment_ref=str(_id(dispute["payment_intent"])),
        status=known,
        provider_status=status,
        is_inquiry=status.startswith(_INQUIRY_PREFIX),
        amount_minor=_amount(dispute, "amount", currency),
        currency=currency,
        reported_at=instant_of_timestamp(reported_at),
    )


def build_declined_payment(charge: SavedCardCharge, live: bool, *, reason: str) -> Payment:
    """Return the declined payment of a charge for which Stripe created no object. Its id is made of our reference."""
    return Payment(
        provider=NAME,
        live=live,
        provider_ref=f"refused-{charge.reference}",
        reference=charge.reference,
        status=PaymentStatus.DECLINED,
        amount_minor=charge.amount_minor,
        currency=charge.currency,
        decline_reason=reason[:64],
    )


def _concerns_money(dispute: Json) -> bool:
    """Return whether a dispute has an effect: it concerns a payment intent, and is not an open inquiry."""
    is_open_inquiry = str(dispute["status"]).startswith(_INQUIRY_PREFIX) and dispute["status"] not in _DISPUTE_STATUSES
    return _id(dispute["payment_intent"]) is not None and not is_open_inquiry


def _is_ours(item: Json) -> bool:
    return REFERENCE_KEY in (item.get("metadata") or {})


def _unless_open(payment: Payment) -> Payment | None:
    return None if payment.status is PaymentStatus.OPEN else payment


def _session_status(session: Json) -> PaymentStatus:
    if session["status"] == "expired":
        return PaymentStatus.EXPIRED
    if session["status"] == "complete" and session["payment_status"] != "unpaid":
        return PaymentStatus.PAID
    intent = session.get("payment_intent")
    if session["status"] == "complete" and isinstance(intent, Mapping):
        # This is a delayed payment that failed: the intent accepts another card, but the page is closed.
        over = intent["status"] in {"requires_payment_method", "canceled"}
        return PaymentStatus.DECLINED if over else PaymentStatus.OPEN
    return PaymentStatus.OPEN


def _intent_status(intent: Json, error: Json) -> PaymentStatus:
    match intent["status"]:
        case "succeeded":
            return PaymentStatus.PAID
        case "requires_action":
            return PaymentStatus.ACTION_REQUIRED
        case "canceled":
            return PaymentStatus.DECLINED
        case "requires_payment_method" if error:
            needs_owner = "authentication_required" in (error.get("code"), error.get("decline_code"))
            return PaymentStatus.ACTION_REQUIRED if needs_owner else PaymentStatus.DECLINED
        case _:
            return PaymentStatus.OPEN


def _card_of_intent(intent: Json) -> SavedCard | None:
    """Return the card saved for later payments, or None if the payment method was not expanded."""
    method, customer = intent.get("payment_method"), intent.get("customer")
    if intent.get("setup_future_usage") != "off_session" or not customer or not isinstance(method, Mapping):
        return None
    if not (card := method.get("card")):
        return None
    return SavedCard(customer_ref=str(_id(customer)), card_ref=str(method["id"]), label=_label(card))


def _label(card: Json) -> str:
    return f"{card.get('brand') or 'card'} {card.get('last4') or ''}".strip()[:64]


def _decline_reason(error: Json) -> str:
    return str(error.get("decline_code") or error.get("code") or "declined")[:64]


def _action_url(intent: Json) -> str | None:
    redirect = (intent.get("next_action") or {}).get("redirect_to_url") or {}
    url = redirect.get("url")
    return str(url) if url else None


def _captured(intent: Json, currency: str) -> int | None:
    """Return the money that a payment intent has captured, or None before it has succeeded."""
    if intent["status"] != "succeeded" or intent.get("amount_received") is None:
        return None
    return _amount(intent, "amount_received", currency)


def _tax_lines(details: Json, currency: str) -> tuple[TaxLine, ...]:
    """Return the taxes of a session. If the named taxes do not add up to the tax, one line contains the whole tax."""
    tax = _amount({"amount_tax": details.get("amount_tax") or 0}, "amount_tax", currency)
    taxes = (details.get("breakdown") or {}).get("taxes") or []
    lines = tuple([_tax_line(line, currency) for line in taxes if line["amount"]])
    return lines if sum(line.amount_minor for line in lines) == tax else _unnamed_tax(tax)


def _added_tax(item: Json, currency: str, metadata: Json) -> tuple[TaxLine, ...]:
    """Return the tax that Stripe has added to the price of an intent or a charge."""
    return _unnamed_tax(_amount(item, "amount", currency) - _price(item, currency, metadata))


def _unnamed_tax(amount_minor: int) -> tuple[TaxLine, ...]:
    return (TaxLine(label=UNNAMED_TAX, amount_minor=amount_minor, inclusive=False),) if amount_minor else ()


def _tax_line(line: Json, currency: str) -> TaxLine:
    rate = line["rate"]
    share = f" {rate['percentage']:g} %" if rate.get("percentage") is not None else ""
    return TaxLine(
        label=f"{rate['display_name']}{share}",
        amount_minor=_amount(line, "amount", currency),
        inclusive=bool(rate["inclusive"]),
    )


def _price(item: Json, currency: str, metadata: Json) -> int:
    """Return the price of the credits of an intent or a charge, without tax that Stripe has added."""
    amount, price = _amount(item, "amount", currency), str(metadata.get(PRICE_BEFORE_TAX_KEY, ""))
    if not (price.isascii() and price.isdigit() and len(price) <= _MAX_DIGITS):
        return amount
    return min(amount, _amount({"price": price}, "price", currency))


def _amount(item: Json, name: str, currency: str) -> int:
    """Return an amount in our minor units. Raises: InexactAmount: it is not a whole number of them, or too large.

    Stripe sends integers. An exact number in another form is accepted too.
    """
    value = item[name]
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
        value = int(value)
    is_whole = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value.is_integer())
    if not is_whole or isinstance(value, bool) or abs(value) > MAX_CREDITS:
        raise InexactAmount(f"Stripe reports {name} {quote_value(value)}, which is not a whole number of minor units.")
    whole, rest = divmod(int(value), _STRIPE_HUNDREDTHS.get(currency, 1))
    if rest:
        raise InexactAmount(f"Stripe reports {name} {quote_value(value)}, which is not a whole number of {currency}.")
    return whole


def _id(item: object) -> str | None:
    """Return the id of an object that may be expanded."""
    if isinstance(item, Mapping):
        return str(item["id"])
    return str(item) if item else None
