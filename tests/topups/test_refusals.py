"""What a provider refuses to begin: typed results, no PENDING rows, deleted customers and cards, and auto top-up."""

from dataclasses import replace

import pytest
import stripe

from app.db import pools
from app.errors import Unavailable
from app.ledger import accounts
from app.topups import customers, pending_sweep, purchases
from app.topups.auto_topup import rules as auto_rules
from app.topups.auto_topup.purchasing import buy_if_needed
from app.topups.auto_topup.rules import AutoTopUpState, Skip, SkipReason
from app.topups.errors import PaymentRefused
from app.topups.models import SandboxCustomer, TopUp
from app.topups.provider import CardMissing, CustomerMissing, RefusalReason, SavedCardCharge
from app.topups.rules import TopUpStatus, TopUpTerms
from app.topups.sandbox.store import CardBehaviour
from app.topups.stripe.provider import Stripe
from tests.fake_stripe import FakeStripe
from tests.fake_stripe.objects import Json
from tests.topups.auto_topup_fixtures import (
    enable_auto_topup,
    find_view,
    list_attempts,
    list_notification_kinds,
    move_back_in_time,
    save_card,
)
from tests.topups.stripe_fixtures import begin_checkout, session_id
from tests.topups.top_up_fixtures import SANDBOX, begin_top_up, create_top_up, reload

pytestmark = pytest.mark.anyio

TERMS = TopUpTerms(
    minimum_credits=500, maximum_credits=100_000, multiple_credits=100, currency="USD", minor_per_credit=1
)  # fmt: skip
REFUSALS: list[tuple[int, Json, str]] = [
    (400, {"code": "amount_too_small", "param": "line_items"}, "AMOUNT_TOO_SMALL"),
    (400, {"code": "amount_too_large"}, "AMOUNT_TOO_LARGE"),
    (400, {"param": "line_items[0][price_data][currency]"}, "CURRENCY_NOT_SUPPORTED"),
    (400, {"code": "account_invalid"}, "ACCOUNT_RESTRICTED"),
    (403, {"code": "more_permissions_required"}, "ACCOUNT_RESTRICTED"),
    (400, {"code": "url_invalid", "param": "success_url"}, "RETURN_URL_REFUSED"),
    (400, {}, "OTHER"),
]


async def statuses() -> list[tuple[str, str | None]]:
    return [(row.status, row.decline_reason) for row in await TopUp.all().order_by("created_at")]


@pytest.mark.parametrize(("status", "error", "reason"), REFUSALS)
async def test_a_refusal_of_stripe_is_typed_and_leaves_no_pending_row(
    stripe_provider: Stripe, fake_stripe: FakeStripe, status: int, error: Json, reason: str
) -> None:
    fake_stripe.refusal = status, error
    code = error.get("code", "invalid_request_error")
    for _ in range(2):
        with pytest.raises(PaymentRefused) as refused:
            await begin_checkout(stripe_provider, key="same")
        assert (refused.value.reason, refused.value.provider_code) == (reason, code)
    assert await statuses() == [("FAILED", f"refused:{reason}:{code}")]
    assert len(fake_stripe.calls) == 1, "the second request gets the stored refusal"
    fake_stripe.refusal = None
    assert (await begin_checkout(stripe_provider, key="other")).status is TopUpStatus.PENDING


@pytest.mark.parametrize("status", [401, 409, 429, 503])
async def test_an_outage_is_unavailable_and_the_same_request_then_succeeds(
    stripe_provider: Stripe, fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.001)
    fake_stripe.refusal = status, {"type": "api_error", "message": "Not now."}
    with pytest.raises(Unavailable):
        await begin_checkout(stripe_provider, key="same")
    fake_stripe.refusal = None
    top_up = await begin_checkout(stripe_provider, key="same")
    assert (top_up.status, await statuses()) == (TopUpStatus.PENDING, [("PENDING", None)])
    assert top_up.payment_url is not None


async def test_a_customer_that_was_deleted_at_stripe_is_replaced(
    stripe_provider: Stripe, fake_stripe: FakeStripe
) -> None:
    await begin_checkout(stripe_provider, save_card=True)
    [first] = fake_stripe.list_objects("customer")
    fake_stripe.delete(first["id"])
    top_up = await begin_checkout(stripe_provider, save_card=True)
    [second] = fake_stripe.list_objects("customer")
    assert fake_stripe.get(session_id(top_up))["customer"] == second["id"] != first["id"]
    assert await customers.find_customer(top_up.account_id, "stripe") == second["id"]
    fake_stripe.delete(second["id"])
    url = await purchases.open_billing_portal("alice", stripe_provider, "https://shop.example/")
    [third] = fake_stripe.list_objects("customer")
    assert (url.startswith(f"{fake_stripe.url}/portal/"), third["id"] != second["id"]) == (True, True)
    assert {status for status, _ in await statuses()} == {"PENDING"}


async def test_a_portal_that_stripe_refuses_is_typed(stripe_provider: Stripe, fake_stripe: FakeStripe) -> None:
    """For example because it is not switched on in Stripe's settings."""
    await begin_checkout(stripe_provider, save_card=True)
    fake_stripe.refusal = 400, {"message": "No configuration provided."}
    with pytest.raises(PaymentRefused):
        await purchases.open_billing_portal("alice", stripe_provider, "https://shop.example/")


async def test_a_saved_card_or_its_customer_that_is_gone_is_no_decline(
    stripe_provider: Stripe, fake_stripe: FakeStripe
) -> None:
    top_up = await begin_checkout(stripe_provider, save_card=True)
    fake_stripe.pay_checkout(session_id(top_up))
    payment = await stripe_provider.retrieve_payment(session_id(top_up))
    assert payment is not None
    assert payment.card is not None
    charge = SavedCardCharge(
        reference=f"1-{'0' * 32}", description="credits", amount_minor=1_000, currency="USD",
        customer_ref=payment.card.customer_ref, card_ref=payment.card.card_ref,
    )  # fmt: skip
    fake_stripe.delete(charge.card_ref)
    with pytest.raises(CardMissing):
        await stripe_provider.charge_saved_card(charge)
    fake_stripe.delete(charge.customer_ref)
    with pytest.raises(CustomerMissing):
        await stripe_provider.charge_saved_card(replace(charge, reference=f"2-{'0' * 32}"))
    assert len(fake_stripe.list_objects("payment_intent")) == 1


@pytest.mark.parametrize(
    ("credits", "reason"),
    [(40_100, "AMOUNT_TOO_SMALL"), (40_200, "ACCOUNT_RESTRICTED"), (40_300, "CURRENCY_NOT_SUPPORTED")],
)
async def test_the_sandbox_refuses_certain_amounts(db: str, credits: int, reason: str) -> None:
    for key in ("same", "same", "other"):
        with pytest.raises(PaymentRefused) as refused:
            await begin_top_up(credits=credits, key=key, terms=TERMS)
        assert (refused.value.reason, refused.value.provider_code) == (reason, f"sandbox_{reason.lower()}")
    assert await statuses() == [("FAILED", f"refused:{reason}:sandbox_{reason.lower()}")] * 2


async def test_the_sandbox_deletes_a_customer_and_is_unavailable_for_certain_amounts(db: str) -> None:
    account_id = (await create_top_up(save_card=True)).account_id
    first = await customers.find_customer(account_id, "sandbox")
    assert (await create_top_up(credits=40_400, save_card=True, terms=TERMS)).payment_url is not None
    second = await customers.find_customer(account_id, "sandbox")
    assert (second != first, await SandboxCustomer.all().count()) == (True, 1)
    with pytest.raises(Unavailable):
        await begin_top_up(credits=40_500, key="out", terms=TERMS)
    assert (await statuses())[-1] == ("PENDING", None)


async def test_auto_top_up_asks_for_another_card_when_its_card_was_deleted(db: str) -> None:
    account_id = await enable_auto_topup(behaviour=CardBehaviour.DELETED)
    await buy_if_needed(account_id, SANDBOX, TERMS)
    [attempt] = await list_attempts(account_id)
    assert (attempt.status, attempt.decline_reason) == (TopUpStatus.FAILED, auto_rules.CARD_DELETED)
    view = await find_view(account_id)
    assert (view.state, view.reason) == (AutoTopUpState.BLOCKED, SkipReason.NO_CARD)
    assert await list_notification_kinds(account_id) == ["AUTO_TOP_UP_BLOCKED"]
    [row] = await pools.fetch("SELECT declines FROM auto_top_up")
    assert row["declines"] == 0
    await save_card("alice")
    await move_back_in_time(account_id, hours=2)
    await save_card("alice")
    await buy_if_needed(account_id, SANDBOX, TERMS)
    assert (await list_attempts(account_id))[-1].status is TopUpStatus.PAID


async def test_auto_top_up_backs_off_after_refusals_and_never_calls_them_declines(db: str) -> None:
    account_id = await enable_auto_topup(behaviour=CardBehaviour.REFUSED)
    for attempts, hours in enumerate((1, 4, 24, 24), start=1):
        await buy_if_needed(account_id, SANDBOX, TERMS)
        found = await list_attempts(account_id)
        assert (len(found), found[-1].status) == (attempts, TopUpStatus.FAILED)
        view = await find_view(account_id)
        assert (view.state, view.reason) == (AutoTopUpState.BACKING_OFF, SkipReason.REFUSED)
        assert view.next_eligible_at is not None
        assert (view.next_eligible_at - found[-1].created_at).total_seconds() == hours * 3_600
        assert isinstance(await buy_if_needed(account_id, SANDBOX, TERMS), Skip)
        await move_back_in_time(account_id, hours=hours)
    assert (await list_attempts(account_id))[0].decline_reason == "refused:OTHER:sandbox_card_refused"
    assert await list_notification_kinds(account_id) == ["AUTO_TOP_UP_BLOCKED"]
    [row] = await pools.fetch("SELECT declines FROM auto_top_up")
    assert row["declines"] == 0


async def test_a_payment_that_the_provider_no_longer_knows_expires_after_a_day(db: str) -> None:
    top_up = await create_top_up()
    await pools.fetch("DELETE FROM sandbox_payment")
    for hours, status in ((1, TopUpStatus.PENDING), (24, TopUpStatus.EXPIRED)):
        await pools.fetch(
            "UPDATE top_up SET queried_at = NULL, created_at = created_at - $1 * interval '1 hour'", float(hours)
        )
        assert await pending_sweep.sweep(SANDBOX) == 1
        assert (await reload(top_up)).status is status


async def test_a_refused_customer_is_typed(stripe_provider: Stripe, fake_stripe: FakeStripe) -> None:
    fake_stripe.refusal = 400, {"code": "account_invalid"}
    with pytest.raises(PaymentRefused) as refused:
        await begin_checkout(stripe_provider, save_card=True)
    assert refused.value.reason == RefusalReason.ACCOUNT_RESTRICTED
    assert [status for status, _ in await statuses()] == ["FAILED"]
    assert await accounts.find_account_id("alice") is not None


def test_every_reason_fits_the_column_with_a_long_code() -> None:
    for reason in RefusalReason:
        text = purchases.refusal_text(PaymentRefused(reason=reason, provider_code="x" * 200))
        assert len(text) == 64
