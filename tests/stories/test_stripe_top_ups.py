"""Top-ups with Stripe over the public API: begin, payment, webhook, balance subscription, receipt and refund."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.auth.development_keys import user_token
from app.settings import Settings
from tests.command_line import running_server
from tests.conftest import LEDGER_KEY
from tests.factories import unique_id
from tests.fake_stripe import KEY, SECRET, FakeStripe, serve_fake_stripe, sign_event
from tests.fake_stripe.objects import Json
from tests.stories.conftest import Platform, pushed

pytestmark = pytest.mark.anyio

SAVER = "saver-at-stripe"
"""A user with auto top-up, so that its cooldown does not affect other stories."""

HEADER = "subscription { balance { available version } }"
TOP_UP = "query($id: ID!) { topUp(id: $id) { status refunded receipt { number totalMinor url } refunds { status } } }"


@pytest.fixture(scope="module")
def books() -> Iterator[FakeStripe]:
    with serve_fake_stripe() as books:
        yield books


@pytest.fixture(scope="module")
def selling(database_url: str, books: FakeStripe) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A server with one worker that uses Stripe."""
    with (
        tempfile.TemporaryDirectory(prefix="credits-shop-") as directory,
        running_server(
            DATABASE_URL=database_url, DATA_DIR=directory, PORT="0", WORKERS="1", LEDGER_KEY=LEDGER_KEY.hex(),
            PAYMENT_PROVIDER="stripe", STRIPE_SECRET_KEY=KEY, STRIPE_WEBHOOK_SECRET=SECRET, STRIPE_BASE_URL=books.url,
        ) as (url, tokens),
    ):  # fmt: skip
        yield url, {**tokens, SAVER: user_token(SAVER, settings=Settings(data_dir=Path(directory)))}


@pytest.fixture
async def shop(selling: tuple[str, Mapping[str, str]], database_url: str) -> AsyncIterator[Platform]:
    url, tokens = selling
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield Platform(url, tokens, client, database_url)


async def begin(shop: Platform, credits: int, user: str = "user", **more: Any) -> tuple[str, str]:
    """Begin a top-up as a user. Returns its id and its Stripe checkout session."""
    top_up = await shop.begin_top_up(credits, user, **more)
    return top_up["id"], top_up["paymentUrl"].rsplit("/", 1)[1]


async def delivered(shop: Platform, events: list[Json]) -> list[str]:
    """Deliver provider events one after the other. Returns their outcomes."""
    said = []
    for event in events:
        body, headers = sign_event(event)
        answer = await shop.client.post("/webhooks/stripe", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        said.append(answer.json().get("outcome"))
    return said


async def test_a_top_up_is_paid_pushed_receipted_and_refunded(shop: Platform, books: FakeStripe) -> None:
    before = (await shop.balance("alice"))["available"]
    async with shop.subscribed("user", HEADER) as header:
        assert (await pushed(header, "balance"))["available"] == before
        name, session = await begin(shop, 1_200)
        assert "CREDITED" in await delivered(shop, books.pay_checkout(session))
        async with asyncio.timeout(1):
            assert (await pushed(header, "balance"))["available"] == before + 1_200
        top_up = (await shop.ask("user", TOP_UP, id=name))["topUp"]
        receipt = top_up["receipt"]
        assert (top_up["status"], receipt["totalMinor"]) == ("PAID", 1_200)
        page = await shop.client.get(receipt["url"])
        assert (page.status_code, receipt["number"] in page.text) == (200, True)
        wish = {"topUpId": name, "reason": "asked for it", "idempotencyKey": unique_id("key")}
        done = await shop.done("refundTopUp", **wish)
        assert done["refund"] == {"credits": 1_200, "amountMinor": 1_200, "status": "DONE"}
        assert done["balance"] == {"available": before}
        assert (await pushed(header, "balance"))["available"] == before
    [refund] = books.list_objects("refund")
    assert await delivered(shop, books.events[-1:]) == ["UNCHANGED"]
    assert (refund["amount"], books.events[-1]["type"]) == (1_200, "refund.created")
    last = (await shop.ask("user", TOP_UP, id=name))["topUp"]
    assert (last["status"], last["refunded"], last["refunds"]) == ("REFUNDED", 1_200, [{"status": "DONE"}])
    await shop.audited("alice")


async def test_the_return_page_before_the_webhook_credits_once(shop: Platform, books: FakeStripe) -> None:
    before = (await shop.balance("alice"))["available"]
    name, session = await begin(shop, 500)
    events = books.pay_checkout(session)
    confirmed = await shop.done("confirmTopUp", topUpId=name)
    assert confirmed["topUp"] == {"status": "PAID", "credits": 500}
    assert confirmed["balance"] == {"available": before + 500}
    assert "CREDITED" not in await delivered(shop, events)
    assert await shop.done("confirmTopUp", topUpId=name) == confirmed
    await shop.audited("alice")


async def test_a_card_saved_at_checkout_pays_when_the_threshold_is_crossed(shop: Platform, books: FakeStripe) -> None:
    _, session = await begin(shop, 500, SAVER, saveCard=True)
    await delivered(shop, books.pay_checkout(session))
    available = (await shop.balance(SAVER))["available"]
    made = len(books.list_objects("payment_intent"))
    wishes = {"enabled": True, "threshold": available, "amount": 1_000, "consentVersion": "story-1"}
    try:
        assert (await shop.done("setAutoTopUp", SAVER, **wishes))["autoTopUp"]["state"] == "READY"
        task = await shop.start(SAVER)
        charged = 0
        async with asyncio.timeout(15):
            charged += (await shop.charge(task, unique_id("story-run")))["cost"]
            # The server finds changed settings by its sweep every 5 s, and considers the charges then.
            while (now := (await shop.balance(SAVER))["available"]) < available:
                charged += (await shop.charge(task, unique_id("story-run")))["cost"]
                await asyncio.sleep(0.5)
        assert now == available - charged + 1_000
    finally:
        off = await shop.done("setAutoTopUp", SAVER, enabled=False)
    assert off["autoTopUp"]["state"] == "OFF"
    [intent] = books.list_objects("payment_intent")[: len(books.list_objects("payment_intent")) - made]
    assert (intent["status"], intent["amount"]) == ("succeeded", 1_000)
    # Stripe sends an event too, after the response to the call.
    assert "CREDITED" not in await delivered(shop, books.events[-2:])
    await shop.audited(SAVER)
