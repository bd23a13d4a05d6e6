"""The sandbox as a `PaymentProvider`, and the actions of its pages: pay, decline, dispute."""

import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self
from urllib.parse import urlencode

import orjson

from app.auth.development_keys import development_secret
from app.errors import Misconfigured
from app.settings import Settings, reveal, server_url
from app.topups.models import SandboxCard, SandboxDispute, SandboxPayment, SandboxRefund
from app.topups.provider import (
    CheckoutPage,
    CheckoutRequest,
    CustomerMissing,
    Dispute,
    DisputeStatus,
    InvalidProviderEvent,
    ProviderEvent,
    ProviderObject,
    Refund,
    RefundOrder,
    RefundStatus,
    SavedCardCharge,
)
from app.topups.rules import Payment, PaymentStatus, Reference, SavedCard
from app.topups.sandbox import events, store
from app.topups.sandbox.events import NAME
from app.topups.sandbox.store import CARD_LABELS, CardBehaviour

PAYMENT_PATH: Final = "/sandbox/pay"
PORTAL_PATH: Final = "/sandbox/portal"
MIN_SECRET_LENGTH: Final = 32


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The sandbox provider. `address` is the URL of this server for browsers; `secret` signs events and forms."""

    address: str
    secret: bytes = field(repr=False)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Return the configured sandbox. Raises: Misconfigured: always in production, where credits would be free."""
        if settings.environment == "production":
            raise Misconfigured(
                "The sandbox payment provider gives credits away and does not run in production:"
                " set PAYMENT_PROVIDER to one that takes money."
            )
        address = settings.public_url.rstrip("/") if settings.public_url is not None else server_url(settings)
        secret = reveal(settings.sandbox_secret)
        if secret is None:
            return cls(address, development_secret("sandbox events", settings=settings))
        if len(secret) < MIN_SECRET_LENGTH:
            raise Misconfigured(f"SANDBOX_SECRET must have at least {MIN_SECRET_LENGTH} characters.")
        return cls(address, secret.encode())

    @property
    def name(self) -> str:
        return NAME

    @property
    def live(self) -> bool:
        return False

    async def create_customer(self, reference: str) -> str:
        return await store.create_customer(reference)

    async def open_checkout(self, checkout: CheckoutRequest) -> CheckoutPage:
        payment = await store.open_payment(checkout)
        return CheckoutPage(provider_ref=payment.provider_ref, payment_url=self._payment_url(checkout.reference))

    async def verify_event(self, raw_body: bytes, headers: Mapping[str, str]) -> ProviderEvent | None:
        events.verify(raw_body, headers.get(events.SIGNATURE_HEADER), self.secret, now_seconds=time.time())
        if b"\\u0000" in raw_body:
            raise InvalidProviderEvent("The event contains a NUL character.")
        try:
            return self.parse_event(orjson.loads(raw_body))
        except ValueError:
            raise InvalidProviderEvent("The event is not JSON.") from None

    def parse_event(self, body: Mapping[str, Any]) -> ProviderEvent | None:
        return events.parse_event(body)

    async def retrieve_payment(self, provider_ref: str) -> Payment | None:
        payment = await SandboxPayment.get_or_none(provider_ref=provider_ref)
        return await self.describe_payment(payment) if payment is not None else None

    async def charge_saved_card(self, charge: SavedCardCharge) -> Payment:
        return await self.describe_payment(await store.charge_card(charge))

    async def find_payment(self, reference: str, *, since: datetime) -> Payment | None:
        payment = await SandboxPayment.get_or_none(reference=reference)
        return await self.describe_payment(payment) if payment is not None else None

    async def create_refund(self, order: RefundOrder) -> Refund:
        return _describe_refund(await store.create_refund(order, reference=order.reference))

    async def find_refund(self, reference: str, payment_ref: str) -> Refund | None:
        refund = await SandboxRefund.get_or_none(reference=reference)
        return _describe_refund(refund) if refund is not None else None

    async def create_portal_session(self, customer_ref: str, return_url: str) -> str:
        if not await store.customer_exists(customer_ref):
            raise CustomerMissing
        return f"{self.address}{PORTAL_PATH}/{customer_ref}?{urlencode({'return': return_url})}"

    async def close(self) -> None:
        """Do nothing: the sandbox has no connections of its own."""

    async def find_payment_page(self, reference: str) -> SandboxPayment | None:
        """Return the payment that the page with this reference shows."""
        return await SandboxPayment.get_or_none(reference=reference) if Reference.parse(reference) else None

    async def decide_payment(
        self, payment: SandboxPayment, status: PaymentStatus, *, behaviour: CardBehaviour = CardBehaviour.PAYS
    ) -> SandboxPayment:
        """Pay or decline. Returns: the payment as it is now. A PAID payment stays PAID.

        If this payment saves the card, `behaviour` decides what happens to later payments with it.
        """
        return await store.decide_payment(payment.reference, status, behaviour)

    async def decide_dispute(self, payment: SandboxPayment, status: DisputeStatus) -> Dispute:
        """Open the dispute of a payment, or decide it in place of the buyer's bank. WON and LOST are final."""
        dispute = await store.decide_dispute(payment.provider_ref, status)
        return Dispute(
            provider=NAME,
            live=False,
            dispute_ref=f"dp_{payment.provider_ref}",
            payment_ref=payment.provider_ref,
            status=DisputeStatus(dispute.status),
            amount_minor=payment.amount_minor,
            currency=payment.currency,
        )

    async def find_dispute_status(self, payment: SandboxPayment) -> DisputeStatus | None:
        """Return the status of the dispute of a payment, or None if it is not disputed."""
        dispute = await SandboxDispute.get_or_none(payment_ref=payment.provider_ref)
        return DisputeStatus(dispute.status) if dispute is not None else None

    def sign_event(self, subject: ProviderObject) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of the event that reports this object in its current status."""
        return events.sign_event(subject, self.secret)

    def build_form_token(self, reference: str) -> str:
        """Return the token in the form of a payment's page. Without it another site could make a browser pay (CSRF)."""
        return hmac.digest(self.secret, f"form of payment {reference}".encode(), "sha256").hex()

    def check_form_token(self, reference: str, token: str) -> bool:
        return hmac.compare_digest(self.build_form_token(reference).encode(), token.encode())

    async def describe_payment(self, payment: SandboxPayment) -> Payment:
        """Return a payment as the sandbox reports it in events and answers."""
        status = PaymentStatus(payment.status)
        if status is PaymentStatus.OPEN and payment.card_ref is not None:
            status = PaymentStatus.ACTION_REQUIRED
        is_paid = status is PaymentStatus.PAID
        card = await store.find_saved_card(payment) if is_paid else None
        return Payment(
            provider=NAME,
            provider_ref=payment.provider_ref,
            # The payment has the same id as its checkout.
            payment_ref=payment.provider_ref if is_paid else None,
            reference=payment.reference,
            status=status,
            amount_minor=payment.amount_minor,
            currency=payment.currency,
            card=_describe_card(card) if card is not None else None,
            decline_reason="card_declined" if status is PaymentStatus.DECLINED else None,
            action_url=self._payment_url(payment.reference) if status is PaymentStatus.ACTION_REQUIRED else None,
        )

    def _payment_url(self, reference: str) -> str:
        return f"{self.address}{PAYMENT_PATH}/{reference}"


def _describe_card(card: SandboxCard) -> SavedCard:
    label = CARD_LABELS[CardBehaviour(card.behaviour)]
    return SavedCard(customer_ref=card.customer_ref, card_ref=card.card_ref, label=label)


def _describe_refund(refund: SandboxRefund) -> Refund:
    return Refund(
        provider=NAME,
        live=False,
        refund_ref=refund.refund_ref,
        payment_ref=refund.payment_ref,
        reference=refund.reference,
        status=RefundStatus(refund.status),
        amount_minor=refund.amount_minor,
        currency=refund.currency,
    )
