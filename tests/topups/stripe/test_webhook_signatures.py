"""Stripe's webhooks: which are accepted, refused with 400, answered with 503, or parked."""

import json
import time
from typing import Any

import httpx
import pytest
import stripe

from app.topups.rules import TopUpStatus
from app.topups.stripe.provider import Stripe
from tests.fake_stripe import SECRET, FakeStripe, sign_event
from tests.fake_stripe.objects import Json
from tests.topups.stripe_fixtures import (
    WEBHOOK,
    begin_checkout,
    deliver_events,
    open_stripe,
    session_id,
    webhook_client,
)
from tests.topups.top_up_fixtures import list_inbox, posted_credits, reload

pytestmark = pytest.mark.anyio

OLD_SECRET = "whsec_of_last_year"


async def pay_checkout(provider: Stripe, books: FakeStripe) -> Json:
    """The event of a payment that no other event has reported."""
    *_, completed = books.pay_checkout(session_id(await begin_checkout(provider)))
    return completed


@pytest.mark.parametrize("age_seconds", [-290, 290])
async def test_an_event_signed_within_the_tolerance_is_accepted(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient, age_seconds: int
) -> None:
    event = await pay_checkout(stripe_provider, fake_stripe)
    assert await deliver_events(webhook, event, at=int(time.time()) - age_seconds) == ["CREDITED"]


@pytest.mark.parametrize(("age_seconds", "reason"), [(310, "outside the tolerance"), (-310, "300 seconds ahead")])
async def test_events_signed_too_long_ago_or_in_the_future_are_refused(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient, age_seconds: int, reason: str
) -> None:
    event = await pay_checkout(stripe_provider, fake_stripe)
    [(status, message)] = await deliver_events(webhook, event, at=int(time.time()) - age_seconds)
    assert (status, reason in message, await list_inbox()) == (400, True, {})


async def test_a_body_that_stripe_has_not_signed_is_refused_and_not_stored(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(stripe_provider)
    *_, event = fake_stripe.pay_checkout(session_id(top_up))
    body, headers = sign_event(event)
    tampered = body.replace(b'"amount_total": 500', b'"amount_total": 900')
    assert tampered != body
    _, guessed = sign_event(event, secret="whsec_guessed")
    _, fresh = sign_event(event, at=int(time.time()) - 400)
    again = headers["Stripe-Signature"].split(",", 1)[1]
    for content, sent in [
        (tampered, headers),
        (json.dumps(json.loads(body)).encode(), headers),
        (body, guessed),
        (body, {}),
        (body, {"Stripe-Signature": ""}),
        (body, {"Stripe-Signature": "nonsense"}),
        (body, {"Stripe-Signature": f"t={int(time.time())}"}),
        (body, {"Stripe-Signature": f"t={int(time.time())},{fresh['Stripe-Signature'].split(',', 1)[1]}"}),
        (body, {"Stripe-Signature": f"{headers['Stripe-Signature']},t={int(time.time()) - 1}"}),
        (body, {"Stripe-Signature": f"t=soon,{again}"}),
        (b"\xff\xfe", headers),
    ]:
        answer = await webhook.post(WEBHOOK, content=content, headers=sent)
        assert answer.status_code == 400, answer.text
    assert (await list_inbox(), await posted_credits(top_up.account_id), (await reload(top_up)).status) == (
        {},
        0,
        TopUpStatus.PENDING,
    )
    assert await deliver_events(webhook, event) == ["CREDITED"]


async def test_during_a_rotation_both_secrets_are_accepted_and_no_third(db: str, fake_stripe: FakeStripe) -> None:
    provider = open_stripe(fake_stripe, stripe_webhook_secret_previous=OLD_SECRET)
    async with webhook_client(provider) as client:
        first, second = await pay_checkout(provider, fake_stripe), await pay_checkout(provider, fake_stripe)
        [refused] = await deliver_events(client, first, secret="whsec_third")
        assert refused[0] == 400
        assert await deliver_events(client, first, secret=OLD_SECRET) == ["CREDITED"]
        assert await deliver_events(client, second, secret=SECRET) == ["CREDITED"]
        assert await deliver_events(client, second, secret=OLD_SECRET) == ["DUPLICATE"]
    await provider.close()


async def test_after_a_rotation_the_old_secret_is_refused(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    [refused] = await deliver_events(webhook, await pay_checkout(stripe_provider, fake_stripe), secret=OLD_SECRET)
    assert refused[0] == 400


async def test_without_a_secret_the_webhook_answers_503(db: str, fake_stripe: FakeStripe) -> None:
    provider = open_stripe(fake_stripe, stripe_webhook_secret=None)
    async with webhook_client(provider) as client:
        answer = await deliver_events(client, await pay_checkout(provider, fake_stripe))
    await provider.close()
    assert answer == [(503, "STRIPE_WEBHOOK_SECRET is not set: webhooks cannot be verified.")]
    assert await list_inbox() == {}


async def test_an_event_of_the_other_mode_is_parked(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(stripe_provider)
    fake_stripe.pay_checkout(session_id(top_up))
    [session] = fake_stripe.list_objects("checkout.session")
    event = fake_stripe.emit_event("checkout.session.completed", session | {"livemode": True}, live=True)
    assert await deliver_events(webhook, event) == ["PARKED_MISMATCH"]
    stored = (await list_inbox())[f"stripe:{event['id']}"]
    assert (stored["last_error"], stored["handled_at"]) == ("mode is live, ours is test", None)
    assert stored["parked_at"] is not None
    assert await posted_credits(top_up.account_id) == 0


@pytest.mark.parametrize(
    ("field", "value"), [("amount_total", 50_000), ("currency", "eur"), ("id", "cs_test_other")], ids=str
)
async def test_an_event_that_differs_from_our_row_is_parked(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient, field: str, value: Any
) -> None:
    event = await pay_checkout(stripe_provider, fake_stripe)
    event["data"]["object"][field] = value
    assert await deliver_events(webhook, event, event) == ["PARKED_MISMATCH"] * 2


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b"42", b'{"type": 1}', b'{"id": "evt_1", "type": "refund.created"}',
             b'{"id": "evt_1", "livemode": false, "type": "checkout.session.completed", "data": {"object": 7}}'],
    ids=repr,
)  # fmt: skip
async def test_a_signed_body_that_is_no_event_is_refused(
    stripe_provider: Stripe, webhook: httpx.AsyncClient, body: bytes
) -> None:
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), SECRET)
    answer = await webhook.post(WEBHOOK, content=body, headers={"Stripe-Signature": header})
    assert (answer.status_code, await list_inbox()) == (400, {})
