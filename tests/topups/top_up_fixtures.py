"""State for tests of top-ups: a sandbox of their own, top-ups begun with it, and what it would tell of them."""

from typing import Any

import asyncpg

from app.db import pools
from app.ledger import accounts, queries
from app.topups import purchases, rows
from app.topups.provider import ProviderEvent
from app.topups.purchases import BegunTopUp, TopUpRequest
from app.topups.rules import Payment, PaymentStatus, TopUpRow, TopUpTerms
from app.topups.sandbox.provider import Sandbox, SandboxPage
from tests.factories import unique_id

ADDRESS = "http://credits.example"
SECRET = b"a secret of the sandbox in tests, long enough"
SANDBOX = Sandbox(ADDRESS, SECRET)

TERMS = TopUpTerms(
    minimum_credits=500, maximum_credits=10_000, multiple_credits=100, currency="USD", minor_per_credit=1
)  # fmt: skip


async def begin_top_up(owner_id: str = "alice", credits: int = 500, **more: Any) -> BegunTopUp:
    """A top-up begun in the sandbox."""
    terms = more.pop("terms", TERMS)
    asked = {"key": unique_id("top-up"), "actor": f"user:{owner_id}"} | more
    return await purchases.begin_top_up(TopUpRequest(owner_id=owner_id, credits=credits, **asked), SANDBOX, terms)


async def create_top_up(owner_id: str = "alice", credits: int = 500, **more: Any) -> TopUpRow:
    return (await begin_top_up(owner_id, credits, **more)).top_up


async def find_page(top_up: TopUpRow) -> SandboxPage:
    """The sandbox's own record of the payment."""
    page = await SANDBOX.find_payment_page(top_up.reference)
    assert page is not None
    return page


async def decide_payment(top_up: TopUpRow, state: PaymentStatus = PaymentStatus.PAID) -> SandboxPage:
    """The buyer pays or declines; nobody has told us yet."""
    return await SANDBOX.decide_payment(await find_page(top_up), state)


async def payment_event(top_up: TopUpRow, state: PaymentStatus = PaymentStatus.PAID, **claims: Any) -> ProviderEvent:
    """What the sandbox tells once that is decided, with some claims changed."""
    page = await decide_payment(top_up, state)
    told: dict[str, Any] = {
        "provider": "sandbox", "provider_ref": page.provider_ref, "reference": page.reference, "status": state,
        "amount_minor": page.amount_minor, "currency": page.currency,
    }  # fmt: skip
    event_id = claims.pop("event_id", None) or f"sandbox:evt_{page.provider_ref}_{state.lower()}"
    return ProviderEvent(event_id=event_id, object=Payment(**(told | claims)), body={"id": event_id})


async def reload(top_up: TopUpRow) -> TopUpRow:
    """The top-up as it is now."""
    found = await rows.find(top_up.account_id, top_up.id)
    assert found is not None
    return found


async def list_entries(account_id: int) -> list[tuple[str, int, str | None, str]]:
    """Kind, credits, top-up and actor of every entry, oldest first."""
    found = await queries.list_entries(account_id, before_seq=2**31, limit=1_000)
    lines = list(reversed(found))
    return [(line.kind, line.credits, line.top_up_id, line.actor) for line in lines]


async def posted_credits(account_id: int) -> int:
    return (await queries.get_balances([account_id]))[account_id].posted


async def list_inbox() -> dict[str, asyncpg.Record]:
    """The notices, by event id."""
    return {record["event_id"]: record for record in await pools.fetch("SELECT * FROM provider_event")}


async def find_account(owner_id: str) -> int | None:
    return await accounts.find_account_id(owner_id)
