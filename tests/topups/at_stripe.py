"""State for tests of Stripe: the provider on the stand-in, top-ups begun there, and what it tells of them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from app.settings import Settings
from app.topups import purchase
from app.topups.purchase import Begun, TopUpRequest
from app.topups.rules import TopUpState
from app.topups.stripe.provider import Stripe
from app.webhooks import routes
from tests.factories import unique
from tests.stripe_stand_in import KEY, SECRET, Books, serving_stripe, signed
from tests.stripe_stand_in.objects import Json
from tests.topups.buying import TERMS

__all__ = ["at_stripe", "begun_at", "deliver", "provider_at", "stripe_books", "webhook"]

WEBHOOK = "/webhooks/stripe"
OLD_SECRET = "whsec_of_last_year"


def settings_for(books: Books, **more: Any) -> Settings:
    known: dict[str, Any] = {
        "payment_provider": "stripe", "stripe_secret_key": KEY, "stripe_webhook_secret": SECRET,
        "stripe_base_url": books.url,
    }  # fmt: skip
    return Settings(**(known | more))


def provider_at(books: Books, **more: Any) -> Stripe:
    return Stripe.open(settings_for(books, **more))


@pytest.fixture
def stripe_books() -> Iterator[Books]:
    """The books of a stand-in that answers on a port of its own."""
    with serving_stripe() as books:
        yield books


@pytest.fixture
async def at_stripe(db: str, stripe_books: Books) -> AsyncIterator[Stripe]:
    """The provider, on a database and a stand-in that are empty."""
    provider = provider_at(stripe_books)
    yield provider
    await provider.close()


@pytest.fixture
async def webhook(at_stripe: Stripe) -> AsyncIterator[httpx.AsyncClient]:
    """Whoever sends notices to the routes of payments."""
    async with client_of(at_stripe) as client:
        yield client


def client_of(provider: Stripe) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=Starlette(routes=routes(provider)))
    return httpx.AsyncClient(transport=transport, base_url="http://credits.example")


async def begun_at(provider: Stripe, owner_id: str = "alice", credits: int = 500, **more: Any) -> Begun:
    terms = more.pop("terms", TERMS)
    asked = {"key": unique("top-up"), "actor": f"user:{owner_id}"} | more
    return await purchase.begin(TopUpRequest(owner_id=owner_id, credits=credits, **asked), provider, terms)


async def a_checkout(provider: Stripe, owner_id: str = "alice", credits: int = 500, **more: Any) -> TopUpState:
    return (await begun_at(provider, owner_id, credits, **more)).top_up


def session_of(top_up: TopUpState) -> str:
    assert top_up.provider_ref is not None
    return top_up.provider_ref


async def deliver(client: httpx.AsyncClient, *events: Json, **signing: Any) -> list[Any]:
    """Send notices one after another. Returns: their outcomes, or the messages of what was not settled."""
    said = []
    for event in events:
        body, headers = signed(event, **signing)
        answer = await client.post(WEBHOOK, content=body, headers=headers)
        found = answer.json()
        said.append(found.get("outcome") or (answer.status_code, found["message"]))
    return said
