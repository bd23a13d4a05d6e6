"""Stripe Tax: the tax that the buyer paid belongs to the credits, in any order of events and for any refunds."""

import copy
import itertools
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from app.db import pools
from app.topups.models import TopUpRefund
from app.topups.provider import ProviderEvent
from app.topups.provider_events import EventOutcome, payment_query_event
from app.topups.purchases import confirm_top_up
from app.topups.receipts import build_receipt
from app.topups.refunds.requests import RefundRequest, RefundResult, request_refund
from app.topups.rules import TaxLine, TopUpRow, TopUpStatus
from app.topups.settlement import settle
from app.topups.stripe.provider import Stripe
from tests.factories import unique_id
from tests.fake_stripe import FakeStripe
from tests.fake_stripe.objects import Json
from tests.soak import sized
from tests.topups.refund_fixtures import assert_ledger_intact, read_figures, read_refund_figures
from tests.topups.stripe_fixtures import begin_checkout, deliver_events, open_stripe, session_id, webhook_client
from tests.topups.top_up_fixtures import TERMS, list_entries, list_inbox, reload

pytestmark = pytest.mark.anyio

UNNAMED = (TaxLine(label="Tax", amount_minor=100, inclusive=False),)
NAMED = (TaxLine(label="VAT 20 %", amount_minor=100, inclusive=False),)
MOST_ROUNDS = 6


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


async def create_paid_checkout(
    provider: Stripe, fake: FakeStripe, client: httpx.AsyncClient, credits: int = 500
) -> TopUpRow:
    top_up = await begin_checkout(provider, "alice", credits)
    outcomes = await deliver_events(client, *fake.pay_checkout(session_id(top_up)))
    assert outcomes == ["CREDITED", "UNCHANGED", "UNCHANGED"]
    return await reload(top_up)


def payment_of(top_up: TopUpRow) -> str:
    assert top_up.payment_ref is not None
    return top_up.payment_ref


async def refund(provider: Stripe, top_up: TopUpRow, credits: int | None = None) -> RefundResult:
    request = RefundRequest(
        account_id=top_up.account_id, top_up_id=top_up.id, credits=credits, reason="asked for it",
        key=unique_id("refund"), actor="operator:test",
    )  # fmt: skip
    return await request_refund(request, provider)


async def settle_all(events: list[ProviderEvent]) -> None:
    """Settle events in this order. Events that wait are settled again, as the inbox does later."""
    waiting = list(events)
    for _ in range(MOST_ROUNDS):
        waiting = [event for event in waiting if await settle(event) is EventOutcome.WAITING]
    assert waiting == []


async def parse_events(provider: Stripe, top_up: TopUpRow, events: list[Json]) -> list[ProviderEvent]:
    """The webhooks of a paid checkout, and the answer to a query of it."""
    payment = await provider.retrieve_payment(session_id(top_up))
    parsed = [provider.parse_event(event) for event in events]
    assert payment is not None
    return [payment_query_event(payment), *(event for event in parsed if event is not None)]


async def test_every_order_of_the_events_of_a_payment_has_the_same_receipt(
    taxing: Stripe, fake_stripe: FakeStripe
) -> None:
    for order in itertools.permutations(range(4)):
        top_up = await begin_checkout(taxing)
        events = await parse_events(taxing, top_up, fake_stripe.pay_checkout(session_id(top_up)))
        assert len(events) == 4
        await settle_all([events[number] for number in order])
        paid = await reload(top_up)
        assert (paid.status, paid.amount_minor, paid.total_minor, paid.tax_lines, paid.provider_ref) == (
            TopUpStatus.PAID, 500, 600, NAMED, top_up.provider_ref,
        ), order  # fmt: skip
        receipt = build_receipt(paid)
        assert receipt is not None
        assert (receipt.amount_minor, receipt.total_minor) == (500, 600)
    assert await pools.fetch("SELECT event_id, last_error FROM provider_event WHERE handled_at IS NULL") == []
    await assert_ledger_intact()


async def test_every_order_of_the_webhooks_alone_records_the_tax(taxing: Stripe, fake_stripe: FakeStripe) -> None:
    for order in itertools.permutations(range(3)):
        top_up = await begin_checkout(taxing)
        _, *events = await parse_events(taxing, top_up, fake_stripe.pay_checkout(session_id(top_up)))
        await settle_all([events[number] for number in order])
        paid = await reload(top_up)
        assert (paid.total_minor, paid.tax_lines) == (600, UNNAMED), order


async def test_the_return_page_after_the_webhooks_names_the_taxes_once(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    top_up = await create_paid_checkout(taxing, fake_stripe, client)
    assert top_up.tax_lines == UNNAMED
    fake_stripe.failing_calls = 3
    unnamed = await confirm_top_up(top_up.account_id, top_up.id, taxing)
    assert (unnamed.top_up, fake_stripe.failing_calls) == (top_up, 0)
    named = await confirm_top_up(top_up.account_id, top_up.id, taxing)
    assert named.top_up == top_up._replace(tax_lines=NAMED)
    calls = len(fake_stripe.calls)
    again = await confirm_top_up(top_up.account_id, top_up.id, taxing)
    assert (again, len(fake_stripe.calls)) == (named, calls)
    assert [entry[:2] for entry in await list_entries(top_up.account_id)] == [("TOP_UP", 500)]


async def test_an_event_that_comes_later_adds_the_payment_that_an_earlier_one_did_not_name(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    """Without the id of the payment, a refund at Stripe would wait for ever."""
    top_up = await begin_checkout(taxing)
    charged, paid, completed = fake_stripe.pay_checkout(session_id(top_up))
    nameless = copy.deepcopy(completed)
    nameless["data"]["object"]["payment_intent"] = None
    await pools.fetch("UPDATE top_up SET provider_ref = NULL")
    assert await deliver_events(client, nameless) == ["CREDITED"]
    assert (await reload(top_up)).payment_ref is None
    assert await deliver_events(client, charged) == ["UNCHANGED"]
    intent = paid["data"]["object"]["id"]
    assert ((await reload(top_up)).payment_ref, (await reload(top_up)).provider_ref) == (intent, top_up.provider_ref)
    assert await deliver_events(client, fake_stripe.refund_from_dashboard(intent, 600)) == ["REFUNDED"]
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 500, 600, 0)


async def test_the_checkout_of_a_top_up_without_its_id_is_recorded_after_the_charge(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(taxing)
    charged, _, completed = fake_stripe.pay_checkout(session_id(top_up))
    await pools.fetch("UPDATE top_up SET provider_ref = NULL")
    assert await deliver_events(client, charged, completed) == ["CREDITED", "UNCHANGED"]
    assert (await reload(top_up)).provider_ref == top_up.provider_ref


async def test_a_refund_returns_the_same_share_of_the_total(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    top_up = await create_paid_checkout(taxing, fake_stripe, client, 700)
    assert (top_up.amount_minor, top_up.total_minor) == (700, 840)
    returned = [(await refund(taxing, top_up, credits)).refund.amount_minor for credits in (350, 1, 333, None)]
    assert returned == [420, 1, 399, 20]
    assert [one["amount"] for one in fake_stripe.list_objects("refund")] == returned[::-1]
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 700, 840, 0)
    await assert_ledger_intact()


async def test_a_full_refund_begun_at_stripe_takes_all_credits(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    top_up = await create_paid_checkout(taxing, fake_stripe, client)
    event = fake_stripe.refund_from_dashboard(payment_of(top_up), 600)
    assert await deliver_events(client, event) == ["REFUNDED"]
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 500, 600, 0)
    await assert_ledger_intact()


async def test_partial_refunds_begun_at_stripe_take_their_share_of_the_credits(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    top_up = await create_paid_checkout(taxing, fake_stripe, client)
    figures = []
    for amount in (300, 60, 240):
        await deliver_events(client, fake_stripe.refund_from_dashboard(payment_of(top_up), amount))
        figures.append((await read_refund_figures(top_up))[1:3])
    assert figures == [(250, 300), (300, 360), (500, 600)]
    await assert_ledger_intact()


async def test_money_worth_less_than_a_credit_goes_back_without_credits_and_fails_without_any(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    top_up = await create_paid_checkout(taxing, fake_stripe, client)
    figures, events = [], []
    for amount in (599, 1):
        events.append(fake_stripe.refund_from_dashboard(payment_of(top_up), amount))
        assert await deliver_events(client, events[-1]) == ["REFUNDED"]
        figures.append(await read_refund_figures(top_up))
    assert figures == [(TopUpStatus.REFUNDED, 500, 599, 0), (TopUpStatus.REFUNDED, 500, 600, 0)]
    failed = fake_stripe.decide_refund(events[-1]["data"]["object"]["id"], "failed")
    assert await deliver_events(client, *failed) == ["REFUND_FAILED", "UNCHANGED"]
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 500, 599, 0)
    assert (await read_figures(top_up)).posted == 0
    await assert_ledger_intact()


async def test_a_refund_of_more_than_the_total_is_parked(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    top_up = await create_paid_checkout(taxing, fake_stripe, client)
    event = copy.deepcopy(fake_stripe.refund_from_dashboard(payment_of(top_up), 600))
    event["data"]["object"]["amount"] = 601
    assert await deliver_events(client, event) == ["PARKED_MISMATCH"]
    [stored] = [row for key, row in (await list_inbox()).items() if key == f"stripe:{event['id']}"]
    assert stored["last_error"] == "amount in minor units is 601, 600 could be returned"
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 0, 0, 0)


@pytest.mark.parametrize(("amount", "frozen"), [(600, 500), (300, 250), (1, 1)])
async def test_a_dispute_freezes_the_share_of_the_credits_that_was_paid_with_its_money(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient, amount: int, frozen: int
) -> None:
    top_up = await create_paid_checkout(taxing, fake_stripe, client)
    event = copy.deepcopy(fake_stripe.dispute(payment_of(top_up)))
    event["data"]["object"]["amount"] = amount
    assert await deliver_events(client, event) == ["DISPUTED"]
    assert (await read_figures(top_up)).frozen == frozen
    await assert_ledger_intact()


async def test_partial_refunds_among_the_events_of_a_payment_in_any_order_end_the_same(
    taxing: Stripe, fake_stripe: FakeStripe
) -> None:
    chance = random.Random(16)  # noqa: S311  the same orders in every run
    for number in range(sized(20, soak=200)):
        credits = 100 * chance.randint(5, 30)
        total = credits + credits // 5
        top_up = await begin_checkout(taxing, f"owner-{number}", credits)
        webhooks = fake_stripe.pay_checkout(session_id(top_up))
        intent, left = webhooks[1]["data"]["object"]["id"], total
        for _ in range(chance.randint(1, 4)):
            part = chance.randint(1, left)
            webhooks.append(fake_stripe.refund_from_dashboard(intent, part))
            if not (left := left - part):
                break
        events = await parse_events(taxing, top_up, webhooks)
        chance.shuffle(events)
        await settle_all(events)
        status, refunded, money, _ = await read_refund_figures(top_up)
        assert (refunded, money) == (-(-credits * (total - left) // total), total - left)
        assert (status is TopUpStatus.REFUNDED) == (refunded == credits)
        # The operator returns the rest. If it is worth less than a credit, only Stripe's dashboard can.
        if refunded < credits:
            await refund(taxing, top_up)
        elif left:
            event = taxing.parse_event(fake_stripe.refund_from_dashboard(intent, left))
            assert event is not None
            assert await settle(event) is EventOutcome.REFUNDED
        returned = sum(one["amount"] for one in fake_stripe.list_objects("refund") if one["payment_intent"] == intent)
        assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, credits, total, 0)
        assert returned == total
        rows: list[Any] = await TopUpRefund.filter(top_up_id=top_up.id).values_list("credits", "amount_minor")
        assert (sum(row[0] for row in rows), sum(row[1] for row in rows)) == (credits, total)
    await assert_ledger_intact()


def captured_in_part(events: list[Json], captured: int) -> list[Json]:
    """The events of a payment of which only a part was captured. The session does not say it."""
    found = copy.deepcopy(events)
    for event in found:
        key = {"charge.succeeded": "amount_captured", "payment_intent.succeeded": "amount_received"}.get(event["type"])
        if key is not None:
            event["data"]["object"][key] = captured
    return found


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (0, 2, 1), (1, 2, 0)])
async def test_only_the_captured_part_of_a_payment_is_credited(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient, order: tuple[int, ...]
) -> None:
    terms = replace(TERMS, bonuses=((500, 51),))
    top_up = await begin_checkout(taxing, terms=terms)
    events = captured_in_part(fake_stripe.pay_checkout(session_id(top_up)), 301)
    outcomes = await deliver_events(client, *(events[number] for number in order))
    assert outcomes == ["CREDITED", "UNCHANGED", "UNCHANGED"]
    paid = await reload(top_up)
    assert (paid.credits, paid.bonus_credits, paid.amount_minor, paid.total_minor, paid.ordered_minor) == (
        250, 25, 251, 301, 500,
    )  # fmt: skip
    assert paid.tax_lines == (TaxLine(label="Tax", amount_minor=50, inclusive=False),)
    assert [entry[:2] for entry in await list_entries(top_up.account_id)] == [("TOP_UP", 250), ("GRANT", 25)]
    receipt = build_receipt(paid)
    assert receipt is not None
    assert (receipt.bought_credits, receipt.total_minor) == (250, 301)
    event = fake_stripe.refund_from_dashboard(payment_of(paid), 301)
    assert await deliver_events(client, event) == ["REFUNDED"]
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 250, 301, 0)
    await assert_ledger_intact()


async def test_the_return_page_credits_the_captured_part(taxing: Stripe, fake_stripe: FakeStripe) -> None:
    top_up = await begin_checkout(taxing)
    fake_stripe.pay_checkout(session_id(top_up))
    [intent] = fake_stripe.list_objects("payment_intent")
    intent["amount_received"] = 300
    confirmed = await confirm_top_up(top_up.account_id, top_up.id, taxing)
    assert (confirmed.top_up.status, confirmed.balance.posted) == (TopUpStatus.PAID, 250)
    assert confirmed.top_up.tax_lines == (TaxLine(label="VAT 20 %", amount_minor=50, inclusive=False),)
    await assert_ledger_intact()


async def test_a_capture_that_pays_for_one_credit_is_credited_once(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(taxing)
    events = captured_in_part(fake_stripe.pay_checkout(session_id(top_up)), 2)
    assert await deliver_events(client, *events) == ["CREDITED", "UNCHANGED", "UNCHANGED"]
    assert [entry[:2] for entry in await list_entries(top_up.account_id)] == [("TOP_UP", 1)]


@pytest.mark.parametrize("captured", [0, 1])
async def test_a_capture_that_pays_for_no_credit_is_parked(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient, captured: int
) -> None:
    top_up = await begin_checkout(taxing)
    charged, _, _ = captured_in_part(fake_stripe.pay_checkout(session_id(top_up)), captured)
    assert await deliver_events(client, charged) == ["PARKED_MISMATCH"]
    [stored] = (await list_inbox()).values()
    assert stored["last_error"] == "The captured money pays for no credit."
    assert ((await reload(top_up)).status, await list_entries(top_up.account_id)) == (TopUpStatus.PENDING, [])


async def test_a_capture_that_contradicts_an_earlier_event_is_parked(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(taxing)
    events = fake_stripe.pay_checkout(session_id(top_up))
    _, partly, _ = captured_in_part(events, 300)
    assert await deliver_events(client, events[0], partly) == ["CREDITED", "PARKED_MISMATCH"]
    stored = (await list_inbox())[f"stripe:{partly['id']}"]
    assert stored["last_error"] == "total in minor units is 300, ours is 600"
    assert (await reload(top_up)).credits == 500


async def test_an_event_with_another_total_than_that_of_the_payment_is_parked(
    taxing: Stripe, fake_stripe: FakeStripe, client: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(taxing)
    charged, _, completed = copy.deepcopy(fake_stripe.pay_checkout(session_id(top_up)))
    completed["data"]["object"] |= {
        "amount_total": 601,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 101},
    }
    assert await deliver_events(client, charged, completed) == ["CREDITED", "PARKED_MISMATCH"]
    stored = (await list_inbox())[f"stripe:{completed['id']}"]
    assert stored["last_error"] == "total in minor units is 601, ours is 600"
    assert (await reload(top_up)).total_minor == 600
