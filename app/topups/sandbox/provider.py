"""The sandbox provider: takes no money. A page of this server pays or declines, for demonstrations and tests.

It behaves as a real one would: it has its own books (`sandbox_payment`, so that every worker process knows what was
paid), tells by signed notices, answers when asked, and sends a notice again when told to. A declined payment may be
paid afterwards; a paid one stays paid.
"""

import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final, Self
from urllib.parse import urlencode

import orjson

from app.auth.development_keys import development_secret
from app.credits import MAX_CREDITS
from app.db import pools
from app.errors import Misconfigured, Unavailable
from app.settings import Settings, server_url
from app.topups.provider import (
    CheckoutPage,
    CheckoutRequest,
    Dispute,
    DisputeStatus,
    InvalidProviderEvent,
    ProviderEvent,
    Refund,
    RefundOrder,
    SavedCardCharge,
)
from app.topups.rules import Payment, PaymentStatus, Reference, SavedCard
from app.topups.sandbox import cards, refunds_and_disputes, signatures
from app.topups.sandbox.cards import CardBehaviour

NAME: Final = "sandbox"
SIGNATURE_HEADER: Final = "Sandbox-Signature"
PAGE_PATH: Final = "/sandbox/pay"
PORTAL_PATH: Final = "/sandbox/portal"
MIN_SECRET_LENGTH: Final = 32

_STATES: Final = {"payment.paid": PaymentStatus.PAID, "payment.declined": PaymentStatus.DECLINED}

_COLUMNS: Final = (
    "reference, provider_ref, description, amount_minor, currency, return_url, status, decided_at, saves_card"
)

# The second of two calls for one reference finds the first one's payment.
_OPEN: Final = """
    INSERT INTO sandbox_payment (reference, provider_ref, description, amount_minor, currency, return_url, status,
                                 created_at, customer_ref, saves_card)
    VALUES ($1, $2, $3, $4, $5, $6, 'OPEN', clock_timestamp(), $7, $8)
    ON CONFLICT (reference) DO UPDATE SET reference = EXCLUDED.reference RETURNING provider_ref
"""

_BY_REFERENCE: Final = f"SELECT {_COLUMNS} FROM sandbox_payment WHERE reference = $1"  # noqa: S608  our own constant

# Paid is for good; declined is not.
_DECIDE: Final = """
    UPDATE sandbox_payment SET status = $2, decided_at = clock_timestamp()
    WHERE reference = $1 AND (status = 'OPEN' OR (status = 'DECLINED' AND $2 = 'PAID'))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxPage:
    """A payment as the sandbox knows it."""

    reference: str
    provider_ref: str
    description: str
    amount_minor: int
    currency: str
    return_url: str | None
    status: PaymentStatus
    decided_at: datetime | None
    saves_card: bool = False


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A `PaymentProvider`. `address`: how browsers reach this server."""

    address: str
    secret: bytes = field(repr=False)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """The sandbox of this installation. Raises: Misconfigured, in production always: credits would be free."""
        if settings.environment == "production":
            raise Misconfigured(
                "The sandbox payment provider gives credits away and does not run in production:"
                " set PAYMENT_PROVIDER to one that takes money."
            )
        if settings.sandbox_secret is None:
            return cls(_address(settings), development_secret("sandbox notices", settings=settings))
        if len(settings.sandbox_secret) < MIN_SECRET_LENGTH:
            raise Misconfigured(f"SANDBOX_SECRET must have at least {MIN_SECRET_LENGTH} characters.")
        return cls(_address(settings), settings.sandbox_secret.encode())

    @property
    def name(self) -> str:
        return NAME

    @property
    def live(self) -> bool:
        return False

    async def open_checkout(self, checkout: CheckoutRequest) -> CheckoutPage:
        [record] = await pools.fetch(
            _OPEN,
            checkout.reference,
            f"pay_{secrets.token_hex(16)}",
            checkout.description,
            checkout.amount_minor,
            checkout.currency,
            checkout.return_url,
            checkout.customer_ref,
            checkout.saves_card and checkout.customer_ref is not None,
        )
        return CheckoutPage(
            provider_ref=record["provider_ref"], payment_url=f"{self.address}{PAGE_PATH}/{checkout.reference}"
        )

    async def verify_event(self, raw_body: bytes, headers: Mapping[str, str]) -> ProviderEvent | None:
        signatures.verify(raw_body, headers.get(SIGNATURE_HEADER), self.secret, now_seconds=time.time())
        if b"\\u0000" in raw_body:
            raise InvalidProviderEvent("The notice holds a NUL character.")
        try:
            return self.parse_event(orjson.loads(raw_body))
        except ValueError:
            raise InvalidProviderEvent("The notice is not JSON.") from None

    def parse_event(self, body: Mapping[str, Any]) -> ProviderEvent | None:
        return _event(body)

    async def close(self) -> None:
        """It has no connections of its own."""

    async def retrieve_payment(self, provider_ref: str) -> Payment | None:
        return await cards.find_payment(provider_ref=provider_ref, provider=NAME, pages=self._pages)

    async def create_customer(self, reference: str) -> str:
        return await cards.customer(reference)

    async def charge_saved_card(self, charge: SavedCardCharge) -> Payment:
        await cards.charge(charge)
        payment = await cards.find_payment(reference=charge.reference, provider=NAME, pages=self._pages)
        if payment is None:
            raise Unavailable("The sandbox has lost a payment.")
        return payment

    async def find_payment(self, reference: str, *, since: datetime) -> Payment | None:
        return await cards.find_payment(reference=reference, provider=NAME, pages=self._pages)

    async def create_portal_session(self, customer_ref: str, return_url: str) -> str:
        return f"{self.address}{PORTAL_PATH}/{customer_ref}?{urlencode({'return': return_url})}"

    async def find_payment_page(self, reference: str) -> SandboxPage | None:
        """The payment behind a page, or None."""
        if Reference.parse(reference) is None:
            return None
        records = await pools.fetch(_BY_REFERENCE, reference)
        return _page(records[0]) if records else None

    async def decide_payment(
        self, page: SandboxPage, state: PaymentStatus, *, card: CardBehaviour = CardBehaviour.PAYS
    ) -> SandboxPage:
        """Pay or decline. Returns: the payment as it is now, which is PAID whoever was first if anybody paid.

        `card`: how later payments with the card go, where this one saves it.
        """
        await pools.fetch(_DECIDE, page.reference, state.value)
        if state is PaymentStatus.PAID and page.saves_card:
            await cards.save_card(page.reference, card)
        [record] = await pools.fetch(_BY_REFERENCE, page.reference)
        return _page(record)

    def sign_payment_event(self, page: SandboxPage, card: SavedCard | None = None) -> tuple[bytes, dict[str, str]]:
        """Body and headers of the notice that tells of a decided payment: the same event however often it is sent.

        `card`: the one that it saved.
        """
        [kind] = [kind for kind, state in _STATES.items() if state is page.status]
        body = {
            "id": f"evt_{page.provider_ref}_{page.status.lower()}",
            "type": kind,
            "payment": {
                "id": page.provider_ref,
                "reference": page.reference,
                "amountMinor": page.amount_minor,
                "currency": page.currency,
            }
            | ({"card": asdict(card)} if card else {}),
        }
        return self._signed(body)

    def sign_event(self, told: Refund | Dispute) -> tuple[bytes, dict[str, str]]:
        """Body and headers of the notice that tells of a refund or a dispute, as `notice` of a payment."""
        return self._signed(refunds_and_disputes.build_event_body(told))

    async def create_refund(self, order: RefundOrder) -> Refund:
        return await refunds_and_disputes.create_refund(order, provider=NAME)

    async def find_refund(self, reference: str, payment_ref: str) -> Refund | None:
        return await refunds_and_disputes.find_refund(reference, provider=NAME)

    async def decide_dispute(self, page: SandboxPage, state: DisputeStatus) -> Dispute:
        """What the buyer's bank does about a payment: OPEN, then WON or LOST for good. Returns: the dispute now."""
        return await refunds_and_disputes.dispute(page.provider_ref, state, provider=NAME)

    async def find_dispute_status(self, page: SandboxPage) -> DisputeStatus | None:
        """Where the dispute of a payment stands; None: there is none."""
        found = await refunds_and_disputes.find_dispute(page.provider_ref, provider=NAME)
        return found.status if found is not None else None

    def _signed(self, body: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        raw_body = orjson.dumps(body)
        signature = signatures.sign(raw_body, self.secret, at_seconds=int(time.time()))
        return raw_body, {"Content-Type": "application/json", SIGNATURE_HEADER: signature}

    @property
    def _pages(self) -> str:
        return f"{self.address}{PAGE_PATH}"

    def build_form_token(self, reference: str) -> str:
        """What a form of this payment's page must send: without it no other site can make a browser pay."""
        return hmac.digest(self.secret, f"form of payment {reference}".encode(), "sha256").hex()

    def check_form_token(self, reference: str, token: str) -> bool:
        return hmac.compare_digest(self.build_form_token(reference).encode(), token.encode())


def _event(body: Any) -> ProviderEvent | None:
    """The event in a body whose signature is proved. Raises: NoticeRefused: it does not say what a notice must."""
    match body:
        case {"id": str(event_id), "type": str(kind)} if (
            kind in refunds_and_disputes.EVENT_TYPES and 1 <= len(event_id) <= 200
        ):
            if (told := refunds_and_disputes.parse_event_object(body, provider=NAME)) is not None:
                return ProviderEvent(event_id=f"{NAME}:{event_id}", object=told, body=body)
        case {"type": str(kind)} if kind not in _STATES and kind not in refunds_and_disputes.EVENT_TYPES:
            return None
        case {
            "id": str(event_id),
            "type": str(kind),
            "payment": {
                "id": str(provider_ref),
                "reference": str(reference),
                "amountMinor": int(amount_minor),
                "currency": str(currency),
            },
        } if 1 <= len(event_id) <= 200 and len(provider_ref) <= 255 and 0 < amount_minor <= MAX_CREDITS:
            payment = Payment(
                provider=NAME,
                provider_ref=provider_ref,
                payment_ref=_payment_ref(provider_ref, _STATES[kind]),
                reference=reference,
                status=_STATES[kind],
                amount_minor=amount_minor,
                currency=currency,
                card=_card(body["payment"].get("card")),
            )
            return ProviderEvent(event_id=f"{NAME}:{event_id}", object=payment, body=body)
    raise InvalidProviderEvent("The notice lacks something, or has it in another form than it should.")


def _payment_ref(provider_ref: str, state: PaymentStatus) -> str | None:
    """The money that moved has the checkout's id; there is none before it moved."""
    return provider_ref if state is PaymentStatus.PAID else None


def _card(told: object) -> SavedCard | None:
    match told:
        case {"customer_ref": str(customer_ref), "card_ref": str(card_ref), "label": str(label)}:
            return SavedCard(customer_ref=customer_ref, card_ref=card_ref, label=label)
    return None


def _page(record: Any) -> SandboxPage:
    return SandboxPage(
        reference=record["reference"],
        provider_ref=record["provider_ref"],
        description=record["description"],
        amount_minor=record["amount_minor"],
        currency=record["currency"],
        return_url=record["return_url"],
        status=PaymentStatus(record["status"]),
        decided_at=record["decided_at"],
        saves_card=record["saves_card"],
    )


def _address(settings: Settings) -> str:
    if settings.public_url is not None:
        return settings.public_url.rstrip("/")
    return server_url(settings)
