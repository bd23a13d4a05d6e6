"""Fixtures for tests of Stripe."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from app.topups.stripe.provider import Stripe
from tests.fake_stripe import FakeStripe, serve_fake_stripe
from tests.topups.stripe_fixtures import open_stripe, webhook_client


@pytest.fixture
def fake_stripe() -> Iterator[FakeStripe]:
    """A fake Stripe on a port of its own."""
    with serve_fake_stripe() as fake:
        yield fake


@pytest.fixture
async def stripe_provider(db: str, fake_stripe: FakeStripe) -> AsyncIterator[Stripe]:
    """The provider with an empty database and an empty fake."""
    provider = open_stripe(fake_stripe)
    yield provider
    await provider.close()


@pytest.fixture
async def webhook(stripe_provider: Stripe) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the webhook route."""
    async with webhook_client(stripe_provider) as client:
        yield client
