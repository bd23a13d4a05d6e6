"""Helpers for tests of Stripe: the provider with a fake Stripe, top-ups begun there, and its events."""

from typing import Any

import httpx
from starlette.applications import Starlette

from app.settings import Settings
from app.topups import purchases
from app.topups.purchases import BegunTopUp, TopUpRequest
from app.topups.rules import TopUpRow
from app.topups.stripe.provider import Stripe
from app.webhooks import payment_routes
from tests.factories import unique_id
from tests.fake_stripe import KEY, SECRET, FakeStripe, sign_event
from tests.fake_stripe.objects import Json
from tests.topups.top_up_fixtures import TERMS

WEBHOOK = "/webhooks/stripe"
OLD_SECRET = "whsec_of_last_year"


def stripe_settings(fake: FakeStripe, **more: Any) -> Settings:
    known: dict[str, Any] = {
        "payment_provider": "stripe", "stripe_secret_key": KEY, "stripe_webhook_secret": SECRET,
        "stripe_base_url": fake.url,
    }  # fmt: skip
    return Settings(**(known | more))


def open_stripe(fake: FakeStripe, **more: Any) -> Stripe:
    return Stripe.open(stripe_settings(fake, **more))


def webhook_client(provider: Stripe) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=Starlette(routes=payment_routes(provider)))
    return httpx.AsyncClient(transport=transport, base_url="http://credits.example")


async def begin_at_stripe(provider: Stripe, owner_id: str = "alice", credits: int = 500, **more: Any) -> BegunTopUp:
    terms = more.pop("terms", TERMS)
    values = {"key": unique_id("top-up"), "actor": f"user:{owner_id}"} | more
    return await purchases.begin_top_up(TopUpRequest(owner_id=owner_id, credits=credits, **values), provider, terms)


async def begin_checkout(provider: Stripe, owner_id: str = "alice", credits: int = 500, **more: Any) -> TopUpRow:
    return (await begin_at_stripe(provider, owner_id, credits, **more)).top_up


def session_id(top_up: TopUpRow) -> str:
    assert top_up.provider_ref is not None
    return top_up.provider_ref


async def deliver_events(client: httpx.AsyncClient, *events: Json, **signing: Any) -> list[Any]:
    """Send events one after another. Returns: their outcomes; (status, message) if one was not settled."""
    outcomes = []
    for event in events:
        body, headers = sign_event(event, **signing)
        answer = await client.post(WEBHOOK, content=body, headers=headers)
        found = answer.json()
        outcomes.append(found.get("outcome") or (answer.status_code, found["message"]))
    return outcomes
