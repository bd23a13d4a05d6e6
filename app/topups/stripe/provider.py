"""Calls Stripe with its own SDK. Only this module, `refusals` and `signatures` import the SDK.

Every call that moves money contains our reference as its idempotency key: if the answer is lost, the SDK repeats the
call, and Stripe returns the first result.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self

import orjson
import stripe

from app.errors import Unavailable
from app.settings import Settings, server_url
from app.topups.provider import (
    CheckoutPage,
    CheckoutRequest,
    InvalidProviderEvent,
    ProviderEvent,
    ProviderObject,
    Refund,
    RefundOrder,
    RefundStatus,
    SavedCardCharge,
    UnusableObject,
)
from app.topups.rules import Payment, PaymentStatus
from app.topups.stripe import event_mapping
from app.topups.stripe.event_mapping import (
    NAME,
    ORIGIN_CHECKOUT,
    ORIGIN_KEY,
    ORIGIN_SAVED_CARD,
    PRICE_BEFORE_TAX_KEY,
    REFERENCE_KEY,
    SAVES_CARD_KEY,
    YES,
    to_stripe_amount,
)
from app.topups.stripe.refusals import translate_changed_requests, translate_errors, translate_refusals
from app.topups.stripe.settings import check_settings
from app.topups.stripe.signatures import SIGNATURE_HEADER, verify_signature

if TYPE_CHECKING:
    from stripe.params import PaymentIntentCreateParams
    from stripe.params.checkout import SessionCreateParams

API_VERSION: Final = "2026-10-28.endive"
"""The API version that this module expects. Configure webhook endpoints with the same version."""

TIMEOUT_SECONDS: Final = 15.0
MAX_RETRIES: Final = 2
PAGE_SIZE: Final = 100
MAX_PAGES: Final = 100
MAX_KEY_LENGTH: Final = 255

CALL_WINDOW: Final = (timedelta(minutes=-5), timedelta(hours=1))
"""Our call creates a payment within this period, relative to the time of our row. Stripe's clock may be behind."""


@dataclass(frozen=True, slots=True)
class Stripe:
    """The Stripe provider. `default_return_url` is used for checkouts without one. `secrets` verify webhooks."""

    client: stripe.StripeClient = field(repr=False)
    http: stripe.HTTPXClient = field(repr=False)
    live: bool
    default_return_url: str
    secrets: tuple[str, ...] = field(repr=False)
    automatic_tax: bool = False

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Return Stripe as configured. Raises: Misconfigured."""
        key = settings.stripe_secret_key.get_secret_value() if settings.stripe_secret_key else ""
        live = check_settings(settings, key)
        http = stripe.HTTPXClient(timeout=TIMEOUT_SECONDS)
        given = (settings.stripe_webhook_secret, settings.stripe_webhook_secret_previous)
        return cls(
            client=stripe.StripeClient(
                key,
                stripe_version=API_VERSION,
                base_addresses={"api": settings.stripe_base_url} if settings.stripe_base_url else None,
                max_network_retries=MAX_RETRIES,
                http_client=http,
            ),
            http=http,
            live=live,
            default_return_url=(settings.public_url or server_url(settings)).rstrip("/") + "/",
            secrets=tuple(secret.get_secret_value() for secret in given if secret),
            automatic_tax=settings.stripe_automatic_tax,
        )

    @property
    def name(self) -> str:
        return NAME

    async def close(self) -> None:
        await self.http.close_async()  # type: ignore[no-untyped-call]  # the SDK has no types here

    async def create_customer(self, reference: str) -> str:
        async with translate_refusals():
            made = await self.client.v1.customers.create_async(
                {"metadata": {REFERENCE_KEY: reference}}, {"idempotency_key": f"customer-{reference}"}
            )
        return made.id

    async def open_checkout(self, checkout: CheckoutRequest) -> CheckoutPage:
        # After the customer was replaced, the request is different, so it needs another key.
        key = checkout.reference + (f"-{checkout.customer_ref}" if checkout.customer_ref is not None else "")
        async with translate_refusals(), translate_changed_requests():
            made = await self.client.v1.checkout.sessions.create_async(
                self._session(checkout), {"idempotency_key": key[:MAX_KEY_LENGTH]}
            )
        if made.url is None:
            raise Unavailable("Stripe has opened a checkout without a page: try again shortly.")
        return CheckoutPage(provider_ref=made.id, payment_url=made.url)

    async def verify_event(self, raw_body: bytes, headers: Mapping[str, str]) -> ProviderEvent | None:
        if not self.secrets:
            raise Unavailable("STRIPE_WEBHOOK_SECRET is not set: webhooks cannot be verified.")
        verify_signature(raw_body, headers.get(SIGNATURE_HEADER), self.secrets, now_seconds=time.time())
        if b"\\u0000" in raw_body:
            raise InvalidProviderEvent("The event contains a NUL character.")
        try:
            return self.parse_event(orjson.loads(raw_body))
        except ValueError:
            raise InvalidProviderEvent("The event is not JSON.") from None

    def parse_event(self, body: Mapping[str, Any]) -> ProviderEvent | None:
        try:
            event_id = str(body["id"])
            event_object = _map_event(body)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InvalidProviderEvent("A field of the event is missing or has another form than it should.") from None
        if not 1 <= len(event_id) <= 200:
            raise InvalidProviderEvent("The id of the event must have 1 to 200 characters.")
        if event_object is None:
            return None
        return ProviderEvent(event_id=f"{NAME}:{event_id}", object=event_object, body=body)

    async def retrieve_payment(self, provider_ref: str) -> Payment | None:
        async with translate_errors():
            try:
                if provider_ref.startswith("pi_"):
                    intent = await self.client.v1.payment_intents.retrieve_async(
                        provider_ref, {"expand": ["payment_method"]}
                    )
                    return event_mapping.map_intent(intent.to_dict())
                session = await self.client.v1.checkout.sessions.retrieve_async(
                    provider_ref, {"expand": ["payment_intent.payment_method", "total_details.breakdown"]}
                )
            except stripe.InvalidRequestError as error:
                if error.code == "resource_missing":
                    return None
                raise
        return event_mapping.map_session(session.to_dict())

    async def charge_saved_card(self, charge: SavedCardCharge) -> Payment:
        price = to_stripe_amount(charge.amount_minor, charge.currency)
        metadata = {REFERENCE_KEY: charge.reference, ORIGIN_KEY: ORIGIN_SAVED_CARD}
        params: PaymentIntentCreateParams = {
            "amount": price,
            "currency": charge.currency.lower(),
            "customer": charge.customer_ref,
            "payment_method": charge.card_ref,
            "allowed_payment_method_types": ["card"],
            "confirm": True,
            "off_session": True,
            "description": charge.description,
            "metadata": metadata,
        }
        async with translate_refusals():
            if self.automatic_tax:
                params["amount"], calculation_id = await self._calculate_tax(charge, price)
                params["hooks"] = {"inputs": {"tax": {"calculation": calculation_id}}}
                metadata[PRICE_BEFORE_TAX_KEY] = str(price)
            try:
                made = await self.client.v1.payment_intents.create_async(
                    params, {"idempotency_key": f"charge-{charge.reference}"}
                )
            except stripe.CardError as error:
                return await self._map_card_error(charge, error)
        return event_mapping.map_intent(made.to_dict())

    async def find_payment(self, reference: str, *, since: datetime) -> Payment | None:
        """Read Stripe's list of payments around `since`, because its search index does not contain new payments yet."""
        earliest, latest = (int((since + offset).timestamp()) for offset in CALL_WINDOW)
        intent = await _find_by_reference(
            reference,
            lambda after: self.client.v1.payment_intents.list_async(
                {
                    "created": {"gte": earliest, "lte": latest},
                    "limit": PAGE_SIZE,
                    "expand": ["data.payment_method"],
                    **({"starting_after": after} if after else {}),
                }
            ),
        )
        return event_mapping.map_intent(intent) if intent is not None else None

    async def create_refund(self, order: RefundOrder) -> Refund:
        async with translate_errors():
            try:
                made = await self.client.v1.refunds.create_async(
                    {
                        "payment_intent": order.payment_ref,
                        "amount": to_stripe_amount(order.amount_minor, order.currency),
                        "metadata": {REFERENCE_KEY: order.reference},
                    },
                    {"idempotency_key": f"refund-{order.reference}"},
                )
            except (stripe.InvalidRequestError, stripe.CardError):
                # Stripe has created no refund object, so no event will report one. Our reference replaces its id.
                return Refund(
                    provider=NAME, live=self.live, refund_ref=f"refused-{order.reference}",
                    payment_ref=order.payment_ref, reference=order.reference, status=RefundStatus.FAILED,
                    amount_minor=order.amount_minor, currency=order.currency,
                )  # fmt: skip
        return event_mapping.map_refund(made.to_dict(), live=self.live)

    async def find_refund(self, reference: str, payment_ref: str) -> Refund | None:
        refund = await _find_by_reference(
            reference,
            lambda after: self.client.v1.refunds.list_async(
                {
                    "payment_intent": payment_ref,
                    "limit": PAGE_SIZE,
                    **({"starting_after": after} if after else {}),
                }
            ),
        )
        return event_mapping.map_refund(refund, live=self.live) if refund is not None else None

    async def create_portal_session(self, customer_ref: str, return_url: str) -> str:
        async with translate_refusals():
            made = await self.client.v1.billing_portal.sessions.create_async(
                {"customer": customer_ref, "return_url": return_url}
            )
        return made.url

    def _session(self, checkout: CheckoutRequest) -> "SessionCreateParams":
        """Return the parameters of a session.

        Equal checkouts have equal parameters, because Stripe rejects different requests with the same idempotency key.
        """
        amount = to_stripe_amount(checkout.amount_minor, checkout.currency)
        metadata = {REFERENCE_KEY: checkout.reference, ORIGIN_KEY: ORIGIN_CHECKOUT}
        intent_metadata = (
            metadata | ({SAVES_CARD_KEY: YES} if checkout.saves_card else {})
            | ({PRICE_BEFORE_TAX_KEY: str(amount)} if self.automatic_tax else {})
        )  # fmt: skip
        return_url = checkout.return_url or self.default_return_url
        params: SessionCreateParams = {
            "mode": "payment",
            "client_reference_id": checkout.reference,
            "metadata": metadata,
            # Currency conversion is disabled, because the paid amount must be that of our row.
            "adaptive_pricing": {"enabled": False},
            "success_url": return_url,
            "cancel_url": return_url,
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": checkout.currency.lower(),
                        "unit_amount": amount,
                        "product_data": {"name": checkout.description},
                    },
                }
            ],
            "payment_intent_data": {"metadata": intent_metadata, "description": checkout.description},
        }
        if checkout.saves_card:
            params["payment_intent_data"]["setup_future_usage"] = "off_session"
        if checkout.customer_ref is not None:
            params["customer"] = checkout.customer_ref
        if self.automatic_tax:
            params["automatic_tax"] = {"enabled": True}
            params["line_items"][0]["price_data"]["tax_behavior"] = "exclusive"
            if checkout.customer_ref is not None:
                params["customer_update"] = {"address": "auto"}
        return params

    async def _calculate_tax(self, charge: SavedCardCharge, price: int) -> tuple[int, str]:
        """Return the amount with tax and the id of the calculation.

        Stripe uses the address that a checkout saved for the customer. It records the calculated tax when the payment
        succeeds, and reverses it with refunds.
        """
        calculation = await self.client.v1.tax.calculations.create_async(
            {
                "currency": charge.currency.lower(),
                "customer": charge.customer_ref,
                "line_items": [{"amount": price, "reference": charge.reference, "tax_behavior": "exclusive"}],
            },
            {"idempotency_key": f"tax-{charge.reference}"},
        )
        return calculation.amount_total, calculation.id or ""

    async def _map_card_error(self, charge: SavedCardCharge, card_error: stripe.CardError) -> Payment:
        """Return the payment of a charge that the card refused.

        If the owner can authenticate the payment, the result contains the page for it.
        """
        body = card_error.json_body if isinstance(card_error.json_body, dict) else {}
        error = body.get("error", {})
        intent = error.get("payment_intent")
        if not isinstance(intent, dict):
            return event_mapping.build_declined_payment(
                charge, self.live, reason=str(error.get("decline_code") or card_error.code or "declined")
            )
        payment = event_mapping.map_intent(intent)
        if payment.status is not PaymentStatus.ACTION_REQUIRED or payment.action_url is not None:
            return payment
        # Confirming the same payment again as on-session returns the bank's page instead of a refusal.
        try:
            confirmed = await self.client.v1.payment_intents.confirm_async(
                payment.provider_ref,
                {"payment_method": charge.card_ref, "return_url": self.default_return_url},
                {"idempotency_key": f"authenticate-{charge.reference}"},
            )
        except stripe.CardError as second:
            return replace(payment, status=PaymentStatus.DECLINED, decline_reason=str(second.code or "declined")[:64])
        return event_mapping.map_intent(confirmed.to_dict())


def _map_event(body: Mapping[str, Any]) -> ProviderObject | UnusableObject | None:
    try:
        return event_mapping.map_event(body)
    except event_mapping.InexactAmount as error:
        return UnusableObject(provider=NAME, reason=str(error))


async def _find_by_reference(
    reference: str, list_page: Callable[[str | None], Awaitable[stripe.ListObject[Any]]]
) -> dict[str, Any] | None:
    """Return the object of a list with our reference in its metadata.

    `list_page` returns the page after the given object id.
    """
    after: str | None = None
    for _ in range(MAX_PAGES):
        async with translate_errors():
            page = await list_page(after)
        for item in page.data:
            found: dict[str, Any] = item.to_dict()
            if (found.get("metadata") or {}).get(REFERENCE_KEY) == reference:
                return found
        if not page.has_more:
            return None
        after = page.data[-1].id
    raise Unavailable("Stripe has more objects in this list than can be searched.")
