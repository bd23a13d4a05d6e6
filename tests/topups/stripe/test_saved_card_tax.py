"""Stripe Tax on payments with a saved card: the tax is calculated, paid, recorded and refunded as in a checkout."""

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from app.topups.auto_topup import configuration
from app.topups.auto_topup.configuration import ConfigureRequest
from app.topups.auto_topup.purchasing import buy_if_needed
from app.topups.auto_topup.rules import AutoTopUpConfig, Buy, SkipReason
from app.topups.provider import SavedCardCharge
from app.topups.refunds.requests import RefundRequest, request_refund
from app.topups.rules import PaymentStatus, TaxLine, TopUpStatus
from app.topups.stripe.provider import Stripe
from tests.fake_stripe import FakeStripe
from tests.topups.auto_topup_fixtures import list_attempts
from tests.topups.refund_fixtures import assert_ledger_intact
from tests.topups.stripe_fixtures import begin_checkout, deliver_events, open_stripe, session_id, webhook_client
from tests.topups.top_up_fixtures import TERMS, reload

pytestmark = pytest.mark.anyio


@pytest.fixture
async def taxing(db: str, fake_stripe: FakeStripe) -> AsyncIterator[Stripe]:
    """The provider with Stripe Tax. The fake adds 20 %."""
    provider = open_stripe(fake_stripe, stripe_automatic_tax=True)
    yield provider
    await provider.close()


@pytest.fixture
async def client(taxing: Stripe) -> AsyncIterator[httpx.AsyncClient]:
    async with webhook_client(taxing) as client:
        yield client


async def buy_with_saved_card(provider: Stripe, fake: FakeStripe, client: httpx.AsyncClient, *, taxed: bool) -> int:
    """Save a card by a checkout, enable auto top-up of 1,000 credits and let it buy. Returns: the account.

    `taxed`: whether the checkout was with Stripe Tax, and so saved the customer's address.
    """
    saving = await begin_checkout(replace(provider, automatic_tax=taxed), "alice", save_card=True)
    await deliver_events(client, *fake.pay_checkout(session_id(saving)))
    config = AutoTopUpConfig(enabled=True, threshold=10_000, amount=1_000)
    await configuration.configure(
        ConfigureRequest(owner_id="alice", config=config, consent_version="2026-01", actor="user:alice"), TERMS
    )
    assert await buy_if_needed(saving.account_id, provider, TERMS) == Buy(1_000)
    return saving.account_id


async def test_a_saved_card_pays_the_tax_that_stripe_calculates(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    account_id = await buy_with_saved_card(taxing, fake_stripe, client, taxed=True)
    [bought] = await list_attempts(account_id)
    tax = (TaxLine(label="Tax", amount_minor=200, inclusive=False),)
    assert (bought.status, bought.credits, bought.amount_minor, bought.total_minor, bought.tax_lines) == (
        TopUpStatus.PAID, 1_000, 1_000, 1_200, tax,
    )  # fmt: skip
    assert bought.payment_ref is not None
    assert fake_stripe.get(bought.payment_ref)["amount_received"] == 1_200
    assert await deliver_events(client, *fake_stripe.events[-2:]) == ["UNCHANGED", "UNCHANGED"]
    assert (await reload(bought)).total_minor == 1_200
    request = RefundRequest(
        account_id=account_id, top_up_id=bought.id, credits=250, reason="asked for it", key="k", actor="operator:test"
    )
    refunded = await request_refund(request, taxing)
    assert (refunded.refund.amount_minor, refunded.top_up.refunded_minor) == (300, 300)
    await assert_ledger_intact()


async def test_a_saved_card_whose_owners_address_is_not_known_is_not_charged(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    account_id = await buy_with_saved_card(taxing, fake_stripe, client, taxed=False)
    [attempt] = await list_attempts(account_id)
    assert (attempt.status, attempt.decline_reason) == (
        TopUpStatus.FAILED, "refused:LOCATION_UNKNOWN:customer_tax_location_invalid",
    )  # fmt: skip
    found = await configuration.find_views([account_id], "stripe", TERMS)
    assert found[account_id].reason is SkipReason.REFUSED
    assert len(fake_stripe.list_objects("payment_intent")) == 1


@pytest.mark.parametrize("lost", [1, 2])
async def test_lost_answers_about_tax_and_payment_charge_once(
    taxing: Stripe, fake_stripe: FakeStripe, lost: int
) -> None:
    saving = await begin_checkout(taxing, "alice", save_card=True)
    fake_stripe.pay_checkout(session_id(saving))
    payment = await taxing.retrieve_payment(session_id(saving))
    assert payment is not None
    assert payment.card is not None
    charge = SavedCardCharge(
        reference=f"1-{'0' * 32}", description="credits", amount_minor=1_000, currency="USD",
        customer_ref=payment.card.customer_ref, card_ref=payment.card.card_ref,
    )  # fmt: skip
    fake_stripe.lost_replies = lost
    paid = await taxing.charge_saved_card(charge)
    assert (paid.status, paid.amount_minor, paid.total_minor, paid.captured_minor) == (
        PaymentStatus.PAID, 1_000, 1_200, 1_200,
    )  # fmt: skip
    assert len(fake_stripe.list_objects("tax.calculation")) == 1
    assert len(fake_stripe.list_objects("payment_intent")) == 2
