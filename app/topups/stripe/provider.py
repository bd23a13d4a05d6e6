"""Stripe by its own SDK: the one module that knows it.

Every call that moves money carries our reference as its idempotency key: the SDK repeats a call whose answer was lost,
and Stripe answers with what the first one did. Two things this module adds to the SDK: notices from the future are
refused as old ones are, and two secrets are taken while one replaces the other.
"""

import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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
    Refund,
    RefundOrder,
    RefundStatus,
    SavedCardCharge,
)
from app.topups.rules import Payment, PaymentStatus
from app.topups.stripe import event_mapping as stripe_told
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
from app.topups.stripe.settings import check_settings

if TYPE_CHECKING:
    from stripe.params.checkout import SessionCreateParams

API_VERSION: Final = "2026-10-28.endive"
"""What this module was written against; webhook endpoints are set up with the same."""

SIGNATURE_HEADER: Final = "Stripe-Signature"
TOLERANCE_SECONDS: Final = 300
TIMEOUT_SECONDS: Final = 15.0
MAX_RETRIES: Final = 2
PAGE_SIZE: Final = 100
MAX_PAGES: Final = 100

CALL_WINDOW: Final = (timedelta(minutes=-5), timedelta(hours=1))
"""Around our row's time, on Stripe's clock: when a payment can have been made that our call asked for."""

_SIGNED_AT: Final = re.compile(r"(?:^|,)t=([0-9]{1,15})(?=,|$)")
_UNKNOWN_OUTCOME: Final = (
    stripe.APIConnectionError,
    stripe.APIError,
    stripe.RateLimitError,
    stripe.AuthenticationError,
    stripe.PermissionError,
    stripe.IdempotencyError,
)
_CARD_IS_GONE: Final = {"resource_missing", "payment_method_unexpected_state"}


@dataclass(frozen=True, slots=True)
class Stripe:
    """A `PaymentProvider`. `home`: where buyers return to whose call named no page."""

    client: stripe.StripeClient = field(repr=False)
    http: stripe.HTTPXClient = field(repr=False)
    live: bool
    default_return_url: str
    secrets: tuple[str, ...] = field(repr=False)
    automatic_tax: bool = False

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Stripe as the settings say. Raises: Misconfigured."""
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
        async with _answering():
            made = await self.client.v1.customers.create_async(
                {"metadata": {REFERENCE_KEY: reference}}, {"idempotency_key": f"customer-{reference}"}
            )
        return made.id

    async def open_checkout(self, checkout: CheckoutRequest) -> CheckoutPage:
        async with _answering():
            made = await self.client.v1.checkout.sessions.create_async(
                self._session(checkout), {"idempotency_key": checkout.reference}
            )
        if made.url is None:
            raise Unavailable("Stripe has opened a checkout without a page.")
        return CheckoutPage(provider_ref=made.id, payment_url=made.url)

    async def verify_event(self, raw_body: bytes, headers: Mapping[str, str]) -> ProviderEvent | None:
        if not self.secrets:
            raise Unavailable("STRIPE_WEBHOOK_SECRET is not set: notices cannot be verified here.")
        verify_signature(raw_body, headers.get(SIGNATURE_HEADER), self.secrets, now_seconds=time.time())
        if b"\\u0000" in raw_body:
            raise InvalidProviderEvent("The notice holds a NUL character.")
        try:
            return self.parse_event(orjson.loads(raw_body))
        except ValueError:
            raise InvalidProviderEvent("The notice is not JSON.") from None

    def parse_event(self, body: Mapping[str, Any]) -> ProviderEvent | None:
        try:
            event_id = str(body["id"])
            told = stripe_told.map_event(body)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InvalidProviderEvent(
                "The notice lacks something, or has it in another form than it should."
            ) from None
        if not 1 <= len(event_id) <= 200:
            raise InvalidProviderEvent("The notice has no id that could be one.")
        return None if told is None else ProviderEvent(event_id=f"{NAME}:{event_id}", object=told, body=body)

    async def retrieve_payment(self, provider_ref: str) -> Payment | None:
        async with _answering():
            try:
                if provider_ref.startswith("pi_"):
                    intent = await self.client.v1.payment_intents.retrieve_async(
                        provider_ref, {"expand": ["payment_method"]}
                    )
                    return stripe_told.map_intent(intent.to_dict())
                session = await self.client.v1.checkout.sessions.retrieve_async(
                    provider_ref, {"expand": ["payment_intent.payment_method", "total_details.breakdown"]}
                )
            except stripe.InvalidRequestError as refusal:
                if refusal.code == "resource_missing":
                    return None
                raise
        return stripe_told.map_session(session.to_dict())

    async def charge_saved_card(self, charge: SavedCardCharge) -> Payment:
        async with _answering():
            try:
                made = await self.client.v1.payment_intents.create_async(
                    {
                        "amount": to_stripe_amount(charge.amount_minor, charge.currency),
                        "currency": charge.currency.lower(),
                        "customer": charge.customer_ref,
                        "payment_method": charge.card_ref,
                        "allowed_payment_method_types": ["card"],
                        "confirm": True,
                        "off_session": True,
                        "description": charge.description,
                        "metadata": {REFERENCE_KEY: charge.reference, ORIGIN_KEY: ORIGIN_SAVED_CARD},
                    },
                    {"idempotency_key": f"charge-{charge.reference}"},
                )
            except stripe.CardError as refusal:
                return await self._declined(charge, refusal)
            except stripe.InvalidRequestError as refusal:
                # The card or its owner is no longer there: taken off on the portal, or by hand at Stripe.
                if refusal.code not in _CARD_IS_GONE:
                    raise
                return stripe_told.build_declined_payment(charge, self.live, reason=str(refusal.code))
        return stripe_told.map_intent(made.to_dict())

    async def find_payment(self, reference: str, *, since: datetime) -> Payment | None:
        """By Stripe's list of payments around `since`: unlike its search, the list has what was made a moment ago."""
        earliest, latest = (int((since + offset).timestamp()) for offset in CALL_WINDOW)
        after: str | None = None
        for _ in range(MAX_PAGES):
            async with _answering():
                page = await self.client.v1.payment_intents.list_async(
                    {
                        "created": {"gte": earliest, "lte": latest},
                        "limit": PAGE_SIZE,
                        "expand": ["data.payment_method"],
                        **({"starting_after": after} if after else {}),
                    }
                )
            for intent in page.data:
                if (intent.to_dict().get("metadata") or {}).get(REFERENCE_KEY) == reference:
                    return stripe_told.map_intent(intent.to_dict())
            if not page.has_more:
                return None
            after = page.data[-1].id
        raise Unavailable("Stripe has more payments of that hour than can be looked through.")

    async def create_refund(self, order: RefundOrder) -> Refund:
        async with _answering():
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
                # There is no refund object to name: the reference stands for it, and no notice will ever name another.
                return Refund(
                    provider=NAME, live=self.live, refund_ref=f"refused-{order.reference}",
                    payment_ref=order.payment_ref, reference=order.reference, status=RefundStatus.FAILED,
                    amount_minor=order.amount_minor, currency=order.currency,
                )  # fmt: skip
        return stripe_told.map_refund(made.to_dict(), live=self.live)

    async def find_refund(self, reference: str, payment_ref: str) -> Refund | None:
        after: str | None = None
        for _ in range(MAX_PAGES):
            async with _answering():
                page = await self.client.v1.refunds.list_async(
                    {
                        "payment_intent": payment_ref,
                        "limit": PAGE_SIZE,
                        **({"starting_after": after} if after else {}),
                    }
                )
            for refund in page.data:
                found = refund.to_dict()
                if (found.get("metadata") or {}).get(REFERENCE_KEY) == reference:
                    return stripe_told.map_refund(found, live=self.live)
            if not page.has_more:
                return None
            after = page.data[-1].id
        raise Unavailable("Stripe has more refunds of that payment than can be looked through.")

    async def create_portal_session(self, customer_ref: str, return_url: str) -> str:
        async with _answering():
            made = await self.client.v1.billing_portal.sessions.create_async(
                {"customer": customer_ref, "return_url": return_url}
            )
        return made.url

    def _session(self, checkout: CheckoutRequest) -> "SessionCreateParams":
        """The same for the same checkout, always: Stripe refuses another request with the same key."""
        amount = to_stripe_amount(checkout.amount_minor, checkout.currency)
        metadata = {REFERENCE_KEY: checkout.reference, ORIGIN_KEY: ORIGIN_CHECKOUT}
        intent_metadata = (
            metadata | ({SAVES_CARD_KEY: YES} if checkout.saves_card else {})
            | ({PRICE_BEFORE_TAX_KEY: str(amount)} if self.automatic_tax else {})
        )  # fmt: skip
        back = checkout.return_url or self.default_return_url
        asked: SessionCreateParams = {
            "mode": "payment",
            "client_reference_id": checkout.reference,
            "metadata": metadata,
            # One price for everybody: what is paid must be what our row says.
            "adaptive_pricing": {"enabled": False},
            "success_url": back,
            "cancel_url": back,
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
            asked["payment_intent_data"]["setup_future_usage"] = "off_session"
        if checkout.customer_ref is not None:
            asked["customer"] = checkout.customer_ref
        if self.automatic_tax:
            asked["automatic_tax"] = {"enabled": True}
            asked["line_items"][0]["price_data"]["tax_behavior"] = "exclusive"
            if checkout.customer_ref is not None:
                asked["customer_update"] = {"address": "auto"}
        return asked

    async def _declined(self, charge: SavedCardCharge, refusal: stripe.CardError) -> Payment:
        """What became of a payment whose card refused, with the page on which its owner can allow it."""
        error = ((refusal.json_body or {}) if isinstance(refusal.json_body, dict) else {}).get("error", {})
        intent = error.get("payment_intent")
        if not isinstance(intent, dict):
            return stripe_told.build_declined_payment(
                charge, self.live, reason=str(error.get("decline_code") or refusal.code or "declined")
            )
        payment = stripe_told.map_intent(intent)
        if payment.status is not PaymentStatus.ACTION_REQUIRED or payment.action_url is not None:
            return payment
        # Confirmed anew, as by somebody who is there, the same payment gets the bank's page instead of a refusal.
        try:
            confirmed = await self.client.v1.payment_intents.confirm_async(
                payment.provider_ref,
                {"payment_method": charge.card_ref, "return_url": self.default_return_url},
                {"idempotency_key": f"authenticate-{charge.reference}"},
            )
        except stripe.CardError as second:
            return replace(payment, status=PaymentStatus.DECLINED, decline_reason=str(second.code or "declined")[:64])
        return stripe_told.map_intent(confirmed.to_dict())


def verify_signature(raw_body: bytes, header: str | None, secrets: tuple[str, ...], *, now_seconds: float) -> None:
    """Raises: NoticeRefused: unsigned, signed with none of the secrets, or more than 300 s ago or ahead."""
    refusal: Exception | None = None
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(raw_body, header, secret, TOLERANCE_SECONDS)
            break
        except stripe.SignatureVerificationError as fault:
            refusal = refusal or fault
        except UnicodeDecodeError:
            raise InvalidProviderEvent("The notice is not UTF-8.") from None
    else:
        raise InvalidProviderEvent(
            f"The signature is refused: {getattr(refusal, 'user_message', None) or refusal}"[:200]
        )
    signed_at = _SIGNED_AT.findall(header or "")
    # The SDK looks at the age only; and it must be the one time that it has proved.
    if len(signed_at) != 1 or int(signed_at[0]) > now_seconds + TOLERANCE_SECONDS:
        raise InvalidProviderEvent(f"The notice was signed more than {TOLERANCE_SECONDS} seconds ahead.")


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    """Raises: Unavailable, where Stripe does not answer or the answer says nothing of what has become of the call."""
    try:
        yield
    except _UNKNOWN_OUTCOME as fault:
        raise Unavailable(
            f"Stripe does not answer as it should ({type(fault).__name__}): try again shortly."
        ) from fault
