"""What Stripe's objects and events say, as claims of ours. Values in, values out: JSON as it came, no SDK, no network.

The id of the money that moved is always the payment intent's: refunds and disputes name it too. A checkout is known by
its session's id; the intent behind it tells of the same payment, with `money_only`.
"""

from collections.abc import Mapping
from typing import Any, Final

from app.topups.provider import Dispute, DisputeStatus, ProviderObject, Refund, RefundStatus, SavedCardCharge
from app.topups.rules import Payment, PaymentStatus, SavedCard, TaxLine

NAME: Final = "stripe"

REFERENCE_KEY: Final = "credits_reference"
"""Metadata by which an object is known as ours; a Stripe account may serve other shops too."""
ORIGIN_KEY: Final = "credits_origin"
PRICE_BEFORE_TAX_KEY: Final = "credits_price_before_tax"
SAVES_CARD_KEY: Final = "credits_keeps_card"
YES: Final = "yes"
ORIGIN_CHECKOUT: Final = "checkout"
ORIGIN_SAVED_CARD: Final = "saved card"

_FINER: Final = {"ISK": 100, "UGX": 100}
"""Currencies without a minor unit that Stripe counts in hundredths all the same."""

_REFUND_STATES: Final = {
    "succeeded": RefundStatus.DONE,
    "failed": RefundStatus.FAILED,
    "canceled": RefundStatus.FAILED,
}

# A warning is a bank's question: no money has moved, and none of it is frozen for it.
_DISPUTE_STATES: Final = {
    "needs_response": DisputeStatus.OPEN,
    "under_review": DisputeStatus.OPEN,
    "appeal_needs_response": DisputeStatus.OPEN,
    "appeal_under_review": DisputeStatus.OPEN,
    "won": DisputeStatus.WON,
    "lost": DisputeStatus.LOST,
}

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


def to_stripe_amount(amount_minor: int, currency: str) -> int:
    """An amount as Stripe counts it."""
    return amount_minor * _FINER.get(currency, 1)


def map_event(event: Json) -> ProviderObject | None:
    """What an event says; None: a kind that changes nothing here, or not about a purchase of ours.

    Raises: KeyError, TypeError: it is no event of Stripe's.
    """
    kind, live, thing = event["type"], bool(event["livemode"]), event["data"]["object"]
    if kind in _SESSION_EVENTS:
        return map_session(thing, state=_SESSION_EVENTS[kind]) if _is_ours(thing) else None
    if kind in _INTENT_EVENTS:
        return _worth_telling(map_intent(thing)) if _is_ours(thing) else None
    if kind == "charge.succeeded":
        return map_charge(thing) if _is_ours(thing) and _id(thing["payment_intent"]) else None
    if kind in _REFUND_EVENTS:
        return map_refund(thing, live=live) if _id(thing["payment_intent"]) else None
    if kind in _DISPUTE_EVENTS:
        return map_dispute(thing) if _id(thing["payment_intent"]) and thing["status"] in _DISPUTE_STATES else None
    return None


def map_session(session: Json, *, state: PaymentStatus | None = None) -> Payment:
    """A checkout. `state`: what an event says of it, where that is more than the session does itself."""
    details = session.get("total_details") or {}
    tax = int(details.get("amount_tax") or 0)
    intent = session.get("payment_intent")
    currency = str(session["currency"]).upper()
    return Payment(
        provider=NAME,
        live=bool(session["livemode"]),
        provider_ref=str(session["id"]),
        payment_ref=_id(intent),
        reference=str(session.get("client_reference_id") or ""),
        status=state or _state_of_session(session),
        amount_minor=_ours(int(session["amount_total"]) - tax, currency),
        currency=currency,
        card=_card_of_intent(intent) if isinstance(intent, Mapping) else None,
        tax_lines=_tax_lines(details, tax, currency),
    )


def map_intent(intent: Json) -> Payment:
    """A payment: one with a saved card, or the money of a checkout, of which only PAID is said for good.

    A buyer whose card is declined in a checkout tries another on the same page; when that is over, the session says.
    """
    metadata = intent.get("metadata") or {}
    fault = intent.get("last_payment_error") or {}
    of_checkout = metadata.get(ORIGIN_KEY) == ORIGIN_CHECKOUT
    state = _state_of_intent(intent, fault)
    currency = str(intent["currency"]).upper()
    return Payment(
        provider=NAME,
        live=bool(intent["livemode"]),
        provider_ref=str(intent["id"]),
        provider_ref_is_payment=of_checkout,
        payment_ref=str(intent["id"]),
        reference=str(metadata.get(REFERENCE_KEY, "")),
        status=state if state is PaymentStatus.PAID or not of_checkout else PaymentStatus.OPEN,
        amount_minor=_price(int(intent["amount"]), currency, metadata),
        currency=currency,
        card=_card_of_intent(intent),
        decline_reason=_reason(fault) if state is PaymentStatus.DECLINED else None,
        action_url=_action_url(intent),
    )


def map_charge(charge: Json) -> Payment:
    """A charge that went through: it says of its intent's payment which card paid."""
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
        amount_minor=_price(int(charge["amount"]), currency, metadata),
        currency=currency,
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
        status=_REFUND_STATES.get(str(refund.get("status")), RefundStatus.PENDING),
        amount_minor=_ours(int(refund["amount"]), currency),
        currency=currency,
    )


def map_dispute(dispute: Json) -> Dispute:
    currency = str(dispute["currency"]).upper()
    return Dispute(
        provider=NAME,
        live=bool(dispute["livemode"]),
        dispute_ref=str(dispute["id"]),
        payment_ref=str(_id(dispute["payment_intent"])),
        status=_DISPUTE_STATES[dispute["status"]],
        amount_minor=_ours(int(dispute["amount"]), currency),
        currency=currency,
    )


def build_declined_payment(charge: SavedCardCharge, live: bool, *, reason: str) -> Payment:
    """A charge that made no payment at all: its reference stands where the payment's id would."""
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


def _is_ours(thing: Json) -> bool:
    return REFERENCE_KEY in (thing.get("metadata") or {})


def _worth_telling(payment: Payment) -> Payment | None:
    return None if payment.status is PaymentStatus.OPEN else payment


def _state_of_session(session: Json) -> PaymentStatus:
    if session["status"] == "expired":
        return PaymentStatus.EXPIRED
    if session["status"] == "complete" and session["payment_status"] != "unpaid":
        return PaymentStatus.PAID
    intent = session.get("payment_intent")
    if session["status"] == "complete" and isinstance(intent, Mapping):
        # Money that comes days later and then does not: the intent waits for another card, and the page is gone.
        over = intent["status"] in {"requires_payment_method", "canceled"}
        return PaymentStatus.DECLINED if over else PaymentStatus.OPEN
    return PaymentStatus.OPEN


def _state_of_intent(intent: Json, fault: Json) -> PaymentStatus:
    match intent["status"]:
        case "succeeded":
            return PaymentStatus.PAID
        case "requires_action":
            return PaymentStatus.ACTION_REQUIRED
        case "canceled":
            return PaymentStatus.DECLINED
        case "requires_payment_method" if fault:
            needs_owner = "authentication_required" in (fault.get("code"), fault.get("decline_code"))
            return PaymentStatus.ACTION_REQUIRED if needs_owner else PaymentStatus.DECLINED
        case _:
            return PaymentStatus.OPEN


def _card_of_intent(intent: Json) -> SavedCard | None:
    """The card that Stripe keeps for later payments, where the intent was expanded to say so."""
    method, customer = intent.get("payment_method"), intent.get("customer")
    if intent.get("setup_future_usage") != "off_session" or not customer or not isinstance(method, Mapping):
        return None
    if not (card := method.get("card")):
        return None
    return SavedCard(customer_ref=str(_id(customer)), card_ref=str(method["id"]), label=_label(card))


def _label(card: Json) -> str:
    return f"{card.get('brand') or 'card'} {card.get('last4') or ''}".strip()[:64]


def _reason(fault: Json) -> str:
    return str(fault.get("decline_code") or fault.get("code") or "declined")[:64]


def _action_url(intent: Json) -> str | None:
    redirect = (intent.get("next_action") or {}).get("redirect_to_url") or {}
    url = redirect.get("url")
    return str(url) if url else None


def _tax_lines(details: Json, tax: int, currency: str) -> tuple[TaxLine, ...]:
    taxes = (details.get("breakdown") or {}).get("taxes") or []
    lines = [_tax_line(line, currency) for line in taxes if line["amount"]]
    if not lines and tax:
        lines = [TaxLine(label="Tax", amount_minor=_ours(tax, currency), inclusive=False)]
    return tuple(lines)


def _tax_line(line: Json, currency: str) -> TaxLine:
    rate = line["rate"]
    share = f" {rate['percentage']:g} %" if rate.get("percentage") is not None else ""
    return TaxLine(
        label=f"{rate['display_name']}{share}",
        amount_minor=_ours(int(line["amount"]), currency),
        inclusive=bool(rate["inclusive"]),
    )


def _price(amount: int, currency: str, metadata: Json) -> int:
    """What was paid for the credits: of an amount with tax on top, the price that we asked for."""
    price = str(metadata.get(PRICE_BEFORE_TAX_KEY, ""))
    return _ours(int(price) if price.isascii() and price.isdigit() and int(price) <= amount else amount, currency)


def _ours(amount: int, currency: str) -> int:
    """An amount as we count it; one that no amount of ours can be stays what it is, and will not agree with any."""
    whole, rest = divmod(amount, _FINER.get(currency, 1))
    return amount if rest else whole


def _id(thing: object) -> str | None:
    """The id of an object that may have been expanded."""
    if isinstance(thing, Mapping):
        return str(thing["id"])
    return str(thing) if thing else None
