"""Helpers for tests of auto top-up: accounts with a saved card, and a sandbox that records its charges."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.db import pools
from app.errors import Unavailable
from app.ledger import accounts, notifications
from app.topups import queries
from app.topups.auto_topup import configuration, rows
from app.topups.auto_topup.configuration import AutoTopUpView, ConfigureRequest
from app.topups.auto_topup.rules import AutoTopUpConfig
from app.topups.provider import CheckoutRequest, SavedCardCharge
from app.topups.rules import Payment, PaymentStatus, TopUpRow
from app.topups.sandbox.provider import Sandbox
from app.topups.sandbox.store import CardBehaviour
from tests.factories import unique_id
from tests.topups.top_up_fixtures import ADDRESS, SANDBOX, SECRET, TERMS

_SAVE_CARD = """
    INSERT INTO payment_customer (account_id, provider, customer_ref, card_ref, card_label, card_saved_at)
    VALUES ($1, 'sandbox', $2, $3, $4, clock_timestamp())
    ON CONFLICT (account_id, provider) DO UPDATE SET card_ref = EXCLUDED.card_ref, card_label = EXCLUDED.card_label,
        card_saved_at = EXCLUDED.card_saved_at
"""

_MOVE_BACK = (
    "UPDATE top_up SET created_at = created_at - $2::interval, paid_at = paid_at - $2::interval WHERE account_id = $1",
    "UPDATE payment_customer SET card_saved_at = card_saved_at - $2::interval WHERE account_id = $1",
    """
    UPDATE auto_top_up SET checked_at = checked_at - $2::interval, next_eligible_at = next_eligible_at - $2::interval
    WHERE account_id = $1
    """,
)


@dataclass(frozen=True, slots=True)
class CountingSandbox(Sandbox):
    """A sandbox that records the references of the charges it receives."""

    charged: list[str] = field(default_factory=list)
    before: bool = False
    """It does not answer and charges nothing."""
    after: bool = False
    """It charges but does not answer."""
    queries: asyncio.Barrier | None = None
    """If it is set, a query is answered only when as many queries as its parties have arrived."""

    async def charge_saved_card(self, charge: SavedCardCharge) -> Payment:
        self.charged.append(charge.reference)
        if self.before:
            raise Unavailable("The payment provider does not answer.")
        payment = await SANDBOX.charge_saved_card(charge)
        if self.after:
            raise Unavailable("The payment provider does not answer.")
        return payment

    async def find_payment(self, reference: str, *, since: datetime) -> Payment | None:
        if self.queries is not None:
            async with asyncio.timeout(10):
                await self.queries.wait()
        return await SANDBOX.find_payment(reference, since=since)


def counting_sandbox(**more: Any) -> CountingSandbox:
    return CountingSandbox(ADDRESS, SECRET, **more)


async def save_card(owner_id: str, behaviour: CardBehaviour = CardBehaviour.PAYS) -> int:
    """Save a card with a payment at the sandbox. Returns: the account id."""
    account_id = await accounts.get_or_create_account(owner_id)
    customer_ref = await SANDBOX.create_customer(str(account_id))
    checkout = CheckoutRequest(
        reference=f"{account_id}-{unique_id('')[1:]:0>32}", description="a card", amount_minor=500, currency="USD",
        return_url=None, customer_ref=customer_ref, saves_card=True,
    )  # fmt: skip
    await SANDBOX.open_checkout(checkout)
    page = await SANDBOX.find_payment_page(checkout.reference)
    assert page is not None
    await SANDBOX.decide_payment(page, PaymentStatus.PAID, behaviour=behaviour)
    payment = await SANDBOX.retrieve_payment(page.provider_ref)
    assert payment is not None
    assert payment.card is not None
    await pools.fetch(_SAVE_CARD, account_id, customer_ref, payment.card.card_ref, payment.card.label)
    return account_id


async def enable_auto_topup(owner_id: str = "alice", behaviour: CardBehaviour = CardBehaviour.PAYS, **more: Any) -> int:
    """An empty account with a saved card that buys 1,000 credits below 100. Returns: the account id."""
    account_id = await save_card(owner_id, behaviour)
    values: dict[str, Any] = {"threshold": 100, "amount": 1_000} | more
    config = AutoTopUpConfig(enabled=True, **values)
    await configuration.configure(
        ConfigureRequest(owner_id=owner_id, config=config, consent_version="2026-01", actor=f"user:{owner_id}"), TERMS
    )
    return account_id


async def disable_auto_topup(owner_id: str = "alice") -> None:
    request = ConfigureRequest(
        owner_id=owner_id, config=AutoTopUpConfig(enabled=False), consent_version=None, actor="user:alice"
    )
    await configuration.configure(request, TERMS)


async def list_attempts(account_id: int) -> list[TopUpRow]:
    """The automatic top-ups, oldest first."""
    return [one for one in reversed(await queries.list_top_ups(account_id, before=None, limit=100)) if one.automatic]


async def find_view(account_id: int) -> AutoTopUpView:
    return (await configuration.find_views([account_id], "sandbox", TERMS))[account_id]


async def move_back_in_time(account_id: int, **time: float) -> None:
    """Move the account's top-ups, card and checks into the past, as if this time had passed since."""
    for sql in _MOVE_BACK:
        await pools.fetch(sql, account_id, timedelta(**time))


async def list_notification_kinds(account_id: int, *, unresolved_only: bool = True) -> list[str]:
    """The kinds of the account's notifications, oldest first."""
    found = await notifications.list_notifications(account_id, limit=100)
    return [one.kind.value for one in reversed(found) if not (unresolved_only and one.resolved_at)]


async def find_due() -> list[int]:
    return await rows.find_due(interval_seconds=300, limit=10)
