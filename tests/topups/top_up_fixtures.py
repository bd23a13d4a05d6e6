"""Helpers for tests of top-ups: a sandbox, top-ups begun with it, and its events about them."""

from typing import Any

import asyncpg

from app.db import pools
from app.ledger import accounts
from app.ledger import queries as ledger_queries
from app.topups import purchases, queries
from app.topups.models import SandboxPayment
from app.topups.provider import ProviderEvent
from app.topups.purchases import BegunTopUp, TopUpRequest
from app.topups.rules import Payment, PaymentStatus, TopUpRow, TopUpTerms
from app.topups.sandbox.provider import Sandbox
from tests.factories import unique_id

ADDRESS = "http://credits.example"
SECRET = b"a secret of the sandbox in tests, long enough"
SANDBOX = Sandbox(ADDRESS, SECRET)

TERMS = TopUpTerms(
    minimum_credits=500, maximum_credits=10_000, multiple_credits=100, currency="USD", minor_per_credit=1
)  # fmt: skip


async def begin_top_up(owner_id: str = "alice", credits: int = 500, **more: Any) -> BegunTopUp:
    """Begin a top-up in the sandbox."""
    terms = more.pop("terms", TERMS)
    values = {"key": unique_id("top-up"), "actor": f"user:{owner_id}"} | more
    return await purchases.begin_top_up(TopUpRequest(owner_id=owner_id, credits=credits, **values), SANDBOX, terms)


async def create_top_up(owner_id: str = "alice", credits: int = 500, **more: Any) -> TopUpRow:
    return (await begin_top_up(owner_id, credits, **more)).top_up


async def find_page(top_up: TopUpRow) -> SandboxPayment:
    """The payment in the sandbox's own table."""
    payment = await SANDBOX.find_payment_page(top_up.reference)
    assert payment is not None
    return payment


async def decide_payment(top_up: TopUpRow, status: PaymentStatus = PaymentStatus.PAID) -> SandboxPayment:
    """The buyer pays or declines on the sandbox's page; no event is sent."""
    return await SANDBOX.decide_payment(await find_page(top_up), status)


async def sign_payment_event(
    top_up: TopUpRow, status: PaymentStatus = PaymentStatus.PAID
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the sandbox's event after that decision."""
    return SANDBOX.sign_event(await SANDBOX.describe_payment(await decide_payment(top_up, status)))


async def payment_event(top_up: TopUpRow, status: PaymentStatus = PaymentStatus.PAID, **changes: Any) -> ProviderEvent:
    """The provider event after that decision, with some fields of the payment changed."""
    page = await decide_payment(top_up, status)
    values: dict[str, Any] = {
        "provider": "sandbox", "provider_ref": page.provider_ref, "reference": page.reference, "status": status,
        "amount_minor": page.amount_minor, "currency": page.currency,
    }  # fmt: skip
    event_id = changes.pop("event_id", None) or f"sandbox:evt_{page.provider_ref}_{status.lower()}"
    return ProviderEvent(event_id=event_id, object=Payment(**(values | changes)), body={"id": event_id})


async def reload(top_up: TopUpRow) -> TopUpRow:
    """The top-up as it is now."""
    found = await queries.find_top_up(top_up.account_id, top_up.id)
    assert found is not None
    return found


async def list_entries(account_id: int) -> list[tuple[str, int, str | None, str]]:
    """Kind, credits, top-up and actor of every entry, oldest first."""
    found = await ledger_queries.list_entries(account_id, before_seq=2**31, limit=1_000)
    return [(entry.kind, entry.credits, entry.top_up_id, entry.actor) for entry in reversed(found)]


async def posted_credits(account_id: int) -> int:
    return (await ledger_queries.get_balances([account_id]))[account_id].posted


async def list_inbox() -> dict[str, asyncpg.Record]:
    """The rows of the inbox, by event id."""
    return {record["event_id"]: record for record in await pools.fetch("SELECT * FROM provider_event")}


async def find_account(owner_id: str) -> int | None:
    return await accounts.find_account_id(owner_id)
