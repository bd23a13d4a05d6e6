"""The Stripe provider against a fake, which checks every request and reply against Stripe's description."""

import re
from asyncio import gather
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.db import pools
from app.errors import InvalidInput, Misconfigured, Unavailable
from app.settings import Settings
from app.topups import customers, purchases
from app.topups.configured_provider import open_provider
from app.topups.provider import DisputeStatus, RefundOrder, RefundStatus, SavedCardCharge
from app.topups.purchases import TopUpRequest, confirm_top_up
from app.topups.rules import PaymentStatus, SavedCard, TaxLine, TopUpStatus
from app.topups.stripe.provider import Stripe
from tests.fake_stripe import KEY, FakeStripe
from tests.soak import sized
from tests.topups.stripe_fixtures import (
    begin_at_stripe,
    begin_checkout,
    deliver_events,
    open_stripe,
    session_id,
    webhook_client,
)
from tests.topups.top_up_fixtures import TERMS, list_entries, list_inbox, posted_credits, reload

pytestmark = pytest.mark.anyio

PAYMENTS = sized(60, soak=200)


async def test_a_checkout_is_credited_once_by_its_three_events(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(stripe_provider, "alice", 1_200, return_url="https://shop.example/?done=1")
    [(_, _, form)] = fake_stripe.calls
    assert (form["client_reference_id"], form["line_items"][0]["price_data"]["unit_amount"]) == (
        top_up.reference,
        "1200",
    )
    assert (form["success_url"], form["cancel_url"]) == ("https://shop.example/?done=1",) * 2
    assert "customer" not in form
    assert "setup_future_usage" not in form["payment_intent_data"]
    assert top_up.payment_url == f"{fake_stripe.url}/pay/{session_id(top_up)}"

    events = fake_stripe.pay_checkout(session_id(top_up))
    outcomes = await deliver_events(webhook, *events, *events)

    assert [event["type"] for event in events] == [
        "charge.succeeded", "payment_intent.succeeded", "checkout.session.completed",
    ]  # fmt: skip
    assert outcomes == ["CREDITED", "UNCHANGED", "UNCHANGED"] + ["DUPLICATE"] * 3
    paid = await reload(top_up)
    [intent] = fake_stripe.list_objects("payment_intent")
    assert (paid.status, paid.provider_ref, paid.payment_ref) == (TopUpStatus.PAID, top_up.provider_ref, intent["id"])
    assert await list_entries(top_up.account_id) == [("TOP_UP", 1_200, top_up.id, "user:alice")]


async def test_the_three_events_may_arrive_in_any_order_and_concurrently(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_ups = [await begin_checkout(stripe_provider, f"owner-{number % 3}") for number in range(12)]
    found = [event for top_up in top_ups for event in fake_stripe.pay_checkout(session_id(top_up))]
    outcomes = await gather(*(deliver_events(webhook, event) for event in reversed(found)))
    assert sum(outcome == ["CREDITED"] for outcome in outcomes) == 12
    assert {outcome for [outcome] in outcomes} == {"CREDITED", "UNCHANGED"}
    assert sum([await posted_credits(account_id) for account_id in {one.account_id for one in top_ups}]) == 6_000


async def test_the_return_page_credits_a_payment_that_stripe_reports(
    stripe_provider: Stripe, fake_stripe: FakeStripe
) -> None:
    top_up = await begin_checkout(stripe_provider)
    before = await confirm_top_up(top_up.account_id, top_up.id, stripe_provider)
    fake_stripe.pay_checkout(session_id(top_up))
    after = await confirm_top_up(top_up.account_id, top_up.id, stripe_provider)
    assert (before.top_up.status, after.top_up.status, after.balance.posted) == (
        TopUpStatus.PENDING,
        TopUpStatus.PAID,
        500,
    )


async def test_concurrent_webhook_and_return_page_credit_each_payment_once(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_ups = await gather(*(begin_checkout(stripe_provider, f"owner-{number % 20}") for number in range(PAYMENTS)))
    calls: list[Any] = []
    for top_up in top_ups:
        *_, completed = fake_stripe.pay_checkout(session_id(top_up))
        calls.append(
            gather(deliver_events(webhook, completed), confirm_top_up(top_up.account_id, top_up.id, stripe_provider))
        )

    answers = await gather(*calls)

    assert {outcome for [outcome], _ in answers} <= {"CREDITED", "UNCHANGED"}
    assert {seen.top_up.status for _, seen in answers} == {TopUpStatus.PAID}
    accounts = {top_up.account_id for top_up in top_ups}
    found = [entry for account_id in accounts for entry in await list_entries(account_id)]
    assert sorted(found) == sorted(("TOP_UP", 500, one.id, one.actor) for one in top_ups)


async def test_a_card_declined_on_the_page_leaves_the_top_up_pending(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(stripe_provider)
    [answer] = await deliver_events(webhook, *fake_stripe.decline_card(session_id(top_up)))
    assert answer == (200, "Events of this type are ignored.")
    assert (await reload(top_up)).status is TopUpStatus.PENDING
    assert "CREDITED" in await deliver_events(webhook, *fake_stripe.pay_checkout(session_id(top_up)))


async def test_an_unpaid_checkout_expires(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(stripe_provider)
    assert await deliver_events(webhook, *fake_stripe.expire_checkout(session_id(top_up))) == ["EXPIRED"]
    assert ((await reload(top_up)).status, await list_entries(top_up.account_id)) == (TopUpStatus.EXPIRED, [])


@pytest.mark.parametrize("paid", [True, False])
async def test_a_delayed_payment_is_credited_when_it_arrives(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient, paid: bool
) -> None:
    outcome, status = ("CREDITED", TopUpStatus.PAID) if paid else ("DECLINED", TopUpStatus.FAILED)
    top_up = await begin_checkout(stripe_provider)
    assert await deliver_events(webhook, *fake_stripe.pay_checkout(session_id(top_up), later=True)) == ["UNCHANGED"]
    payment_ = await stripe_provider.retrieve_payment(session_id(top_up))
    assert payment_ is not None
    assert (payment_.status, (await reload(top_up)).status) == (PaymentStatus.OPEN, TopUpStatus.PENDING)
    found = await deliver_events(webhook, *fake_stripe.settle_delayed_payment(session_id(top_up), paid=paid))
    assert outcome in found
    payment_ = await stripe_provider.retrieve_payment(session_id(top_up))
    assert payment_ is not None
    assert payment_.status is (PaymentStatus.PAID if paid else PaymentStatus.DECLINED)
    assert (await reload(top_up)).status is status


async def test_a_checkout_whose_reply_was_lost_is_found_by_the_retry(
    stripe_provider: Stripe, fake_stripe: FakeStripe
) -> None:
    fake_stripe.lost_replies = 1
    top_up = await begin_checkout(stripe_provider)
    assert [session["id"] for session in fake_stripe.list_objects("checkout.session")] == [top_up.provider_ref]
    assert len(fake_stripe.calls) == 2


async def test_without_a_reply_the_request_is_unavailable_and_its_repetition_opens_the_same_checkout(
    stripe_provider: Stripe, fake_stripe: FakeStripe
) -> None:
    request = TopUpRequest(owner_id="alice", credits=500, key="once", actor="user:alice")
    fake_stripe.lost_replies = 3
    with pytest.raises(Unavailable, match="Stripe cannot be reached"):
        await purchases.begin_top_up(request, stripe_provider, TERMS)
    again = await purchases.begin_top_up(request, stripe_provider, TERMS)
    [session] = fake_stripe.list_objects("checkout.session")
    assert (again.replayed, again.top_up.provider_ref) == (True, session["id"])


async def test_an_outage_of_stripe_raises_unavailable(stripe_provider: Stripe, fake_stripe: FakeStripe) -> None:
    fake_stripe.failing_calls = 3
    with pytest.raises(Unavailable):
        await begin_at_stripe(stripe_provider)
    assert fake_stripe.list_objects("checkout.session") == []


@pytest.mark.parametrize(("currency", "unit_amount"), [("JPY", "2100"), ("EUR", "2100"), ("ISK", "210000")])
async def test_amounts_are_sent_in_stripes_minor_units(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient, currency: str, unit_amount: str
) -> None:
    terms = replace(TERMS, minor_per_credit=3, currency=currency)
    top_up = await begin_checkout(stripe_provider, "alice", 700, terms=terms)
    price = fake_stripe.calls[0][2]["line_items"][0]["price_data"]
    assert (price["unit_amount"], price["currency"], top_up.amount_minor) == (unit_amount, currency.lower(), 2_100)
    assert (await deliver_events(webhook, *fake_stripe.pay_checkout(session_id(top_up))))[0] == "CREDITED"


async def test_added_tax_is_reported_separately_from_the_price(db: str, fake_stripe: FakeStripe) -> None:
    provider = open_stripe(fake_stripe, stripe_automatic_tax=True)
    async with webhook_client(provider) as client:
        top_up = await begin_checkout(provider)
        [charged, paid, completed] = fake_stripe.pay_checkout(session_id(top_up))
        assert (paid["data"]["object"]["amount"], top_up.amount_minor) == (600, 500)
        payment_ = await provider.retrieve_payment(session_id(top_up))
        assert await deliver_events(client, completed, charged, paid) == ["CREDITED", "UNCHANGED", "UNCHANGED"]
    await provider.close()
    assert payment_ is not None
    assert payment_.tax_lines == (TaxLine(label="VAT 20 %", amount_minor=100, inclusive=False),)
    assert (await reload(top_up)).tax_lines == (TaxLine(label="Tax", amount_minor=100, inclusive=False),)


async def test_concurrent_requests_create_one_customer(stripe_provider: Stripe, fake_stripe: FakeStripe) -> None:
    found = await gather(*(begin_checkout(stripe_provider, save_card=True) for _ in range(10)))
    [customer] = fake_stripe.list_objects("customer")
    assert {session["customer"] for session in fake_stripe.list_objects("checkout.session")} == {customer["id"]}
    assert await customers.find_customer(found[0].account_id, "stripe") == customer["id"]
    assert [one.saves_card for one in found] == [True] * 10


async def read_saved_card(account_id: int) -> tuple[str, str, str]:
    [row] = await pools.fetch("SELECT * FROM payment_customer WHERE account_id = $1", account_id)
    return (row["customer_ref"], row["card_ref"], row["card_label"])


async def test_a_card_saved_with_consent_pays_later(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(stripe_provider, save_card=True)
    assert fake_stripe.calls[-1][2]["payment_intent_data"]["setup_future_usage"] == "off_session"
    await deliver_events(webhook, *reversed(fake_stripe.pay_checkout(session_id(top_up))))
    customer_ref, card_ref, label = await read_saved_card(top_up.account_id)
    assert label == "visa 4242"

    other = await begin_checkout(stripe_provider)
    paid = await stripe_provider.charge_saved_card(build_charge(other.reference, customer_ref, card_ref))

    assert (paid.status, paid.reference, paid.payment_ref, paid.provider_ref_is_payment) == (
        PaymentStatus.PAID, other.reference, paid.provider_ref, False,
    )  # fmt: skip
    form = fake_stripe.calls[-1][2]
    assert (form["off_session"], form["confirm"], form["customer"]) == ("true", "true", customer_ref)
    again = await stripe_provider.charge_saved_card(build_charge(other.reference, customer_ref, card_ref))
    assert again == paid
    assert len(fake_stripe.list_objects("payment_intent")) == 2
    found = await stripe_provider.find_payment(other.reference, since=other.created_at)
    assert found is not None
    assert (found.status, found.provider_ref) == (PaymentStatus.PAID, paid.provider_ref)
    assert await stripe_provider.find_payment(other.reference, since=other.created_at - timedelta(days=1)) is None


async def test_a_card_is_not_saved_without_consent(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    await begin_checkout(stripe_provider, save_card=True)
    top_up = await begin_checkout(stripe_provider)
    await deliver_events(webhook, *fake_stripe.pay_checkout(session_id(top_up)))
    [row] = await pools.fetch("SELECT card_ref FROM payment_customer")
    assert row["card_ref"] is None


def build_charge(reference: str, customer_ref: str, card_ref: str) -> SavedCardCharge:
    return SavedCardCharge(
        reference=reference, description="500 credits", amount_minor=500, currency="USD", customer_ref=customer_ref,
        card_ref=card_ref,
    )  # fmt: skip


async def create_saved_card(provider: Stripe, books: FakeStripe) -> SavedCard:
    """A card that was saved with a purchase, as retrieving the payment returns it."""
    top_up = await begin_checkout(provider, "saver", save_card=True)
    books.pay_checkout(session_id(top_up))
    payment = await provider.retrieve_payment(session_id(top_up))
    assert payment is not None
    assert payment.card is not None
    return payment.card


async def test_a_declined_saved_card_is_a_result(stripe_provider: Stripe, fake_stripe: FakeStripe) -> None:
    card = await create_saved_card(stripe_provider, fake_stripe)
    top_up = await begin_checkout(stripe_provider)
    fake_stripe.next_charge = "declined"
    payment = await stripe_provider.charge_saved_card(build_charge(top_up.reference, card.customer_ref, card.card_ref))
    assert (payment.status, payment.decline_reason, payment.action_url) == (
        PaymentStatus.DECLINED, "insufficient_funds", None,
    )  # fmt: skip


async def test_a_saved_card_that_needs_authentication_has_the_banks_page(
    stripe_provider: Stripe, fake_stripe: FakeStripe
) -> None:
    card = await create_saved_card(stripe_provider, fake_stripe)
    top_up = await begin_checkout(stripe_provider)
    fake_stripe.next_charge = "authentication_required"
    payment = await stripe_provider.charge_saved_card(build_charge(top_up.reference, card.customer_ref, card.card_ref))
    assert (payment.status, payment.action_url) == (
        PaymentStatus.ACTION_REQUIRED, f"{fake_stripe.url}/authenticate/{payment.provider_ref}",
    )  # fmt: skip
    payment_ = await stripe_provider.retrieve_payment(payment.provider_ref)
    assert payment_ is not None
    assert (payment_.status, payment_.action_url) == (payment.status, payment.action_url)


async def test_refunds_are_made_once_and_found_by_our_reference(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(stripe_provider)
    await deliver_events(webhook, *fake_stripe.pay_checkout(session_id(top_up)))
    payment_ref = (await reload(top_up)).payment_ref or ""
    order = RefundOrder(reference="refund-1", payment_ref=payment_ref, amount_minor=200, currency="USD")
    assert await stripe_provider.find_refund("refund-1", payment_ref) is None
    fake_stripe.lost_replies = 1
    made = await stripe_provider.create_refund(order)
    assert (made.status, made.amount_minor, made.reference, made.payment_ref) == (
        RefundStatus.DONE, 200, "refund-1", payment_ref,
    )  # fmt: skip
    assert await stripe_provider.create_refund(order) == made
    assert await stripe_provider.find_refund("refund-1", payment_ref) == made
    assert len(fake_stripe.list_objects("refund")) == 1
    refused = await stripe_provider.create_refund(replace(order, reference="refund-2", amount_minor=400))
    assert refused.status is RefundStatus.FAILED
    event = stripe_provider.parse_event(fake_stripe.events[-1])
    assert event is not None
    assert event.object == made


@pytest.mark.parametrize(
    ("kind", "status", "state"),
    [("created", "needs_response", DisputeStatus.OPEN), ("closed", "won", DisputeStatus.WON),
     ("closed", "lost", DisputeStatus.LOST), ("created", "warning_needs_response", None),
     ("closed", "warning_closed", DisputeStatus.WON)],
)  # fmt: skip
async def test_disputes_are_mapped_and_inquiries_are_ignored(
    stripe_provider: Stripe, fake_stripe: FakeStripe, kind: str, status: str, state: DisputeStatus | None
) -> None:
    top_up = await begin_checkout(stripe_provider)
    [_, paid, _] = fake_stripe.pay_checkout(session_id(top_up))
    event = stripe_provider.parse_event(fake_stripe.dispute(paid["data"]["object"]["id"], kind, status))
    found = event.object if event is not None else None
    assert getattr(found, "status", None) is state


async def test_the_billing_portal_belongs_to_the_customer(stripe_provider: Stripe, fake_stripe: FakeStripe) -> None:
    await begin_checkout(stripe_provider, save_card=True)
    urls = [
        await purchases.open_billing_portal(owner, stripe_provider, "https://shop.example/account")
        for owner in ("alice", "bob")
    ]
    assert all(re.fullmatch(rf"{re.escape(fake_stripe.url)}/portal/bps_\d+", url) for url in urls)
    first, second = reversed(fake_stripe.list_objects("customer"))
    payment_ = [form for _, path, form in fake_stripe.calls if path == "/v1/billing_portal/sessions"]
    assert [form["customer"] for form in payment_] == [first["id"], second["id"]]
    with pytest.raises(InvalidInput):
        await purchases.open_billing_portal("alice", stripe_provider, "javascript:alert(1)")


async def test_an_unknown_id_is_not_found_at_stripe(stripe_provider: Stripe) -> None:
    assert [await stripe_provider.retrieve_payment(id) for id in ("cs_test_none", "pi_none")] == [None, None]


GOOD: dict[str, Any] = {"payment_provider": "stripe", "stripe_secret_key": KEY}


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"stripe_secret_key": None}, "set STRIPE_SECRET_KEY"),
        ({"stripe_secret_key": "pk_test_x"}, "set STRIPE_SECRET_KEY"),
        ({"stripe_secret_key": "sk_live_x"}, "set ENVIRONMENT to production"),
        ({"environment": "production"}, "production needs a live one"),
        ({"environment": "production", "stripe_secret_key": "sk_live_x", "stripe_base_url": "http://x"}, "unset it"),
        ({"stripe_webhook_secret_previous": "whsec_x"}, "set the new one too"),
        ({"currency": "MGA"}, "change CURRENCY"),
        ({"currency": "KWD", "top_up_multiple": 1}, "change CURRENCY or TOP_UP_MULTIPLE"),
    ],
)
def test_invalid_settings_are_refused_with_the_remedy(changes: dict[str, Any], remedy: str) -> None:
    with pytest.raises(Misconfigured, match=remedy):
        open_provider(Settings(**(GOOD | changes)))


def test_secrets_are_not_in_the_repr_of_provider_or_settings() -> None:
    chosen = Settings(**(GOOD | {"stripe_webhook_secret": "whsec_hidden"}))
    assert not any(secret in repr(chosen) + repr(open_provider(chosen)) for secret in (KEY, "whsec_hidden"))
    live = Settings(**(GOOD | {"environment": "production", "stripe_secret_key": "rk_live_x"}))
    assert getattr(open_provider(live), "live", None) is True


async def test_events_about_other_objects_are_not_stored(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    customer = fake_stripe.create_customer({})
    foreign = fake_stripe.emit_event("customer.created", customer)
    intent = fake_stripe._intent({"currency": "usd"}, 900, None)
    other_shop = fake_stripe.emit_event("payment_intent.succeeded", intent | {"status": "succeeded"})
    assert await deliver_events(webhook, foreign, other_shop) == [(200, "Events of this type are ignored.")] * 2
    assert await list_inbox() == {}
