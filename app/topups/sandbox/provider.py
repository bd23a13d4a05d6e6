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

from app import database
from app.callers.development import development_secret
from app.credits import MAX_CREDITS
from app.errors import Misconfigured, Unavailable
from app.settings import Settings, address
from app.topups.provider import (
    Checkout,
    CheckoutPage,
    Dispute,
    DisputeState,
    NoticeRefused,
    ProviderEvent,
    Refund,
    RefundOrder,
    SavedCharge,
)
from app.topups.rules import Payment, PaymentState, Reference, SavedCard
from app.topups.sandbox import cards, refunds, signatures
from app.topups.sandbox.cards import Behaviour

NAME: Final = "sandbox"
SIGNATURE_HEADER: Final = "Sandbox-Signature"
PAGE_PATH: Final = "/sandbox/pay"
PORTAL_PATH: Final = "/sandbox/portal"
SHORTEST_SECRET: Final = 32

_STATES: Final = {"payment.paid": PaymentState.PAID, "payment.declined": PaymentState.DECLINED}

_COLUMNS: Final = (
    "reference, provider_ref, description, amount_minor, currency, return_url, state, decided_at, saves_card"
)

# The second of two calls for one reference finds the first one's payment.
_OPEN: Final = """
    INSERT INTO sandbox_payment (reference, provider_ref, description, amount_minor, currency, return_url, state,
                                 created_at, customer_ref, saves_card)
    VALUES ($1, $2, $3, $4, $5, $6, 'OPEN', clock_timestamp(), $7, $8)
    ON CONFLICT (reference) DO UPDATE SET reference = EXCLUDED.reference RETURNING provider_ref
"""

_BY_REFERENCE: Final = f"SELECT {_COLUMNS} FROM sandbox_payment WHERE reference = $1"  # noqa: S608  our own constant

# Paid is for good; declined is not.
_DECIDE: Final = """
    UPDATE sandbox_payment SET state = $2, decided_at = clock_timestamp()
    WHERE reference = $1 AND (state = 'OPEN' OR (state = 'DECLINED' AND $2 = 'PAID'))
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
    state: PaymentState
    decided_at: datetime | None
    saves_card: bool = False


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A `PaymentProvider`. `address`: how browsers reach this server."""

    address: str
    secret: bytes = field(repr=False)

    @classmethod
    def open(cls, chosen: Settings) -> Self:
        """The sandbox of this installation. Raises: Misconfigured, in production always: credits would be free."""
        if chosen.environment == "production":
            raise Misconfigured(
                "The sandbox payment provider gives credits away and does not run in production:"
                " set PAYMENT_PROVIDER to one that takes money."
            )
        if chosen.sandbox_secret is None:
            return cls(_address(chosen), development_secret("sandbox notices", chosen=chosen))
        if len(chosen.sandbox_secret) < SHORTEST_SECRET:
            raise Misconfigured(f"SANDBOX_SECRET must have at least {SHORTEST_SECRET} characters.")
        return cls(_address(chosen), chosen.sandbox_secret.encode())

    @property
    def name(self) -> str:
        return NAME

    @property
    def live(self) -> bool:
        return False

    async def begin(self, checkout: Checkout) -> CheckoutPage:
        [record] = await database.fetch(
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

    async def verify(self, raw_body: bytes, headers: Mapping[str, str]) -> ProviderEvent | None:
        signatures.check(raw_body, headers.get(SIGNATURE_HEADER), self.secret, now_seconds=time.time())
        if b"\\u0000" in raw_body:
            raise NoticeRefused("The notice holds a NUL character.")
        try:
            return self.read_event(orjson.loads(raw_body))
        except ValueError:
            raise NoticeRefused("The notice is not JSON.") from None

    def read_event(self, body: Mapping[str, Any]) -> ProviderEvent | None:
        return _event(body)

    async def close(self) -> None:
        """It has no connections of its own."""

    async def ask(self, provider_ref: str) -> Payment | None:
        return await cards.payment(provider_ref=provider_ref, provider=NAME, pages=self._pages)

    async def customer(self, reference: str) -> str:
        return await cards.customer(reference)

    async def charge_saved(self, charge: SavedCharge) -> Payment:
        await cards.charge(charge)
        payment = await cards.payment(reference=charge.reference, provider=NAME, pages=self._pages)
        if payment is None:
            raise Unavailable("The sandbox has lost a payment.")
        return payment

    async def find(self, reference: str, *, since: datetime) -> Payment | None:
        return await cards.payment(reference=reference, provider=NAME, pages=self._pages)

    async def portal(self, customer_ref: str, return_url: str) -> str:
        return f"{self.address}{PORTAL_PATH}/{customer_ref}?{urlencode({'return': return_url})}"

    async def page(self, reference: str) -> SandboxPage | None:
        """The payment behind a page, or None."""
        if Reference.parse(reference) is None:
            return None
        records = await database.fetch(_BY_REFERENCE, reference)
        return _page(records[0]) if records else None

    async def decide(self, page: SandboxPage, state: PaymentState, *, card: Behaviour = Behaviour.PAYS) -> SandboxPage:
        """Pay or decline. Returns: the payment as it is now, which is PAID whoever was first if anybody paid.

        `card`: how later payments with the card go, where this one saves it.
        """
        await database.fetch(_DECIDE, page.reference, state.value)
        if state is PaymentState.PAID and page.saves_card:
            await cards.keep(page.reference, card)
        [record] = await database.fetch(_BY_REFERENCE, page.reference)
        return _page(record)

    def notice(self, page: SandboxPage, card: SavedCard | None = None) -> tuple[bytes, dict[str, str]]:
        """Body and headers of the notice that tells of a decided payment: the same event however often it is sent.

        `card`: the one that it saved.
        """
        [kind] = [kind for kind, state in _STATES.items() if state is page.state]
        body = {
            "id": f"evt_{page.provider_ref}_{page.state.lower()}",
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

    def notice_of(self, told: Refund | Dispute) -> tuple[bytes, dict[str, str]]:
        """Body and headers of the notice that tells of a refund or a dispute, as `notice` of a payment."""
        return self._signed(refunds.body_of(told))

    async def refund(self, order: RefundOrder) -> Refund:
        return await refunds.give_back(order, provider=NAME)

    async def find_refund(self, reference: str, payment_ref: str) -> Refund | None:
        return await refunds.find(reference, provider=NAME)

    async def dispute(self, page: SandboxPage, state: DisputeState) -> Dispute:
        """What the buyer's bank does about a payment: OPEN, then WON or LOST for good. Returns: the dispute now."""
        return await refunds.dispute(page.provider_ref, state, provider=NAME)

    async def disputed(self, page: SandboxPage) -> DisputeState | None:
        """Where the dispute of a payment stands; None: there is none."""
        found = await refunds.find_dispute(page.provider_ref, provider=NAME)
        return found.state if found is not None else None

    def _signed(self, body: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
        raw_body = orjson.dumps(body)
        signature = signatures.sign(raw_body, self.secret, at_seconds=int(time.time()))
        return raw_body, {"Content-Type": "application/json", SIGNATURE_HEADER: signature}

    @property
    def _pages(self) -> str:
        return f"{self.address}{PAGE_PATH}"

    def form_token(self, reference: str) -> str:
        """What a form of this payment's page must send: without it no other site can make a browser pay."""
        return hmac.digest(self.secret, f"form of payment {reference}".encode(), "sha256").hex()

    def knows_form_token(self, reference: str, token: str) -> bool:
        return hmac.compare_digest(self.form_token(reference).encode(), token.encode())


def _event(body: Any) -> ProviderEvent | None:
    """The event in a body whose signature is proved. Raises: NoticeRefused: it does not say what a notice must."""
    match body:
        case {"id": str(event_id), "type": str(kind)} if kind in refunds.KINDS and 1 <= len(event_id) <= 200:
            if (told := refunds.told(body, provider=NAME)) is not None:
                return ProviderEvent(event_id=f"{NAME}:{event_id}", told=told, body=body)
        case {"type": str(kind)} if kind not in _STATES and kind not in refunds.KINDS:
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
                state=_STATES[kind],
                amount_minor=amount_minor,
                currency=currency,
                card=_card(body["payment"].get("card")),
            )
            return ProviderEvent(event_id=f"{NAME}:{event_id}", told=payment, body=body)
    raise NoticeRefused("The notice lacks something, or has it in another form than it should.")


def _payment_ref(provider_ref: str, state: PaymentState) -> str | None:
    """The money that moved has the checkout's id; there is none before it moved."""
    return provider_ref if state is PaymentState.PAID else None


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
        state=PaymentState(record["state"]),
        decided_at=record["decided_at"],
        saves_card=record["saves_card"],
    )


def _address(chosen: Settings) -> str:
    if chosen.public_url is not None:
        return chosen.public_url.rstrip("/")
    return address(chosen)
