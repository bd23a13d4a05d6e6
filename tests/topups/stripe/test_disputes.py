"""Stripe's events of disputes: every status, the largest body, amounts in other forms, and decisions by an operator."""

import copy
import json
import math
from typing import Any

import httpx
import pytest

from app.audit_log.models import AuditRecord
from app.cli.connection import command_line_action
from app.db import pools
from app.errors import InvalidInput, Unavailable
from app.topups import inbox
from app.topups.provider import DisputeStatus
from app.topups.provider_events import EventOutcome
from app.topups.refunds.decisions import DisputeDecision, decide_dispute
from app.topups.rules import TopUpRow, TopUpStatus
from app.topups.stripe import event_mapping
from app.topups.stripe.provider import Stripe
from tests.fake_stripe import FakeStripe
from tests.fake_stripe.objects import Json
from tests.topups.refund_fixtures import assert_ledger_intact, read_figures, read_refund_figures
from tests.topups.stripe_fixtures import begin_checkout, deliver_events, session_id
from tests.topups.top_up_fixtures import list_inbox, posted_credits, reload

pytestmark = pytest.mark.anyio


async def paid_checkout(provider: Stripe, fake: FakeStripe, client: httpx.AsyncClient) -> tuple[TopUpRow, str]:
    """A paid top-up of 500 credits and the id of its payment."""
    top_up = await begin_checkout(provider)
    await deliver_events(client, *fake.pay_checkout(session_id(top_up)))
    paid = await reload(top_up)
    assert paid.payment_ref is not None
    return paid, paid.payment_ref


def changed(event: Json, **changes: Any) -> Json:
    """An event whose object has other fields. The fake refuses to make such objects itself."""
    other = copy.deepcopy(event)
    other["id"] += "_changed"
    other["data"]["object"] |= changes
    return other


async def test_an_event_with_the_most_evidence_that_stripe_takes_is_applied(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    """150,000 characters, here of 12 bytes each in JSON, and the same again as values before the update."""
    top_up, payment = await paid_checkout(stripe_provider, fake_stripe, webhook)
    await deliver_events(webhook, fake_stripe.dispute(payment))
    evidence = {f"field_{number}": "\N{GRINNING FACE}" * 20_000 for number in range(7)} | {"last": "é" * 10_000}
    event = changed(fake_stripe.dispute(payment, "closed", "lost"), evidence=evidence)
    event["data"]["previous_attributes"] = {"evidence": evidence}
    assert len(json.dumps(event)) > 3_400_000
    assert await deliver_events(webhook, event) == ["DISPUTE_LOST"]
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 0, 0, 500)


FINAL = {
    ("won", None): ("DISPUTE_WON", 500, 0),
    ("lost", None): ("DISPUTE_LOST", 0, 0),
    ("warning_closed", None): ("DISPUTE_WON", 500, 0),
    ("charge_refunded", None): ("DISPUTE_WON", 500, 0),
    ("prevented", "block"): ("DISPUTE_WON", 500, 0),
    ("prevented", "resolution"): ("DISPUTE_LOST", 0, 0),
    ("prevented", None): ("PARKED_UNKNOWN", 500, 500),
    ("arbitrated", None): ("PARKED_UNKNOWN", 500, 500),
}
"""Outcome, posted and frozen credits by status and type of case."""


@pytest.mark.parametrize("closed_as", FINAL)
async def test_every_final_status_unfreezes_or_takes_back_or_is_parked(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient, closed_as: tuple[str, str | None]
) -> None:
    top_up, payment = await paid_checkout(stripe_provider, fake_stripe, webhook)
    await deliver_events(webhook, fake_stripe.dispute(payment))
    status, case_type = closed_as
    method = {"type": "card", "card": {"case_type": case_type}}
    closed = changed(fake_stripe.dispute(payment, "closed", "won"), status=status, payment_method_details=method)
    [outcome] = await deliver_events(webhook, closed)
    figures = await read_figures(top_up)
    assert (outcome, figures.posted, figures.frozen) == FINAL[closed_as]
    await assert_ledger_intact()


async def test_an_inquiry_becomes_a_dispute_that_closes_with_another_amount(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_up, payment = await paid_checkout(stripe_provider, fake_stripe, webhook)
    inquiry = fake_stripe.dispute(payment, "created", "warning_needs_response")
    assert await deliver_events(webhook, inquiry) == [(200, "Events of this type are ignored.")]
    assert await deliver_events(webhook, fake_stripe.dispute(payment, "updated", "needs_response")) == ["DISPUTED"]
    assert (await read_figures(top_up)).frozen == 500
    closed = changed(fake_stripe.dispute(payment, "closed", "lost"), amount=200)
    assert await deliver_events(webhook, closed, inquiry) == ["DISPUTE_LOST", (200, "Events of this type are ignored.")]
    assert await read_figures(top_up) == (300, 0, 0, 0, 300)


@pytest.mark.parametrize(("decided", "posted"), [(DisputeStatus.WON, 500), (DisputeStatus.LOST, 0)])
async def test_an_operator_decides_a_dispute_whose_status_is_not_known(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient, decided: DisputeStatus, posted: int
) -> None:
    top_up, payment = await paid_checkout(stripe_provider, fake_stripe, webhook)
    opened = fake_stripe.dispute(payment)
    await deliver_events(webhook, opened, changed(opened, status="arbitrated"))
    ref = opened["data"]["object"]["id"]
    decision = DisputeDecision(
        dispute_ref=ref, status=decided, reason="the bank wrote", audit=command_line_action("decideDispute")
    )
    assert await decide_dispute(decision, stripe_provider) is EventOutcome(f"DISPUTE_{decided}")
    figures = await read_figures(top_up)
    assert (figures.posted, figures.frozen, figures.owed) == (posted, 0, 0)
    assert await pools.fetch("SELECT 1 FROM provider_event WHERE handled_at IS NULL") == []
    [record] = await AuditRecord.filter(action="decideDispute")
    assert (record.subject, record.reason, record.before["frozen"]) == (f"dispute {ref}", "the bank wrote", 500)
    assert (record.after["status"], record.after["frozen"]) == (decided, 0)
    await assert_ledger_intact()


async def test_a_dispute_of_which_only_a_parked_event_is_known_can_be_decided(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_up, payment = await paid_checkout(stripe_provider, fake_stripe, webhook)
    odd = changed(fake_stripe.dispute(payment), status="arbitrated", amount=200)
    await deliver_events(webhook, odd)
    decision = DisputeDecision(
        dispute_ref=odd["data"]["object"]["id"], status=DisputeStatus.LOST, reason="the bank wrote",
        audit=command_line_action("decideDispute"),
    )  # fmt: skip
    assert await decide_dispute(decision, stripe_provider) is EventOutcome.DISPUTE_LOST
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 0, 0, 200)


async def test_a_dispute_that_does_not_exist_cannot_be_decided(stripe_provider: Stripe) -> None:
    decision = DisputeDecision(
        dispute_ref="du_none", status=DisputeStatus.LOST, reason="r", audit=command_line_action("decideDispute")
    )
    with pytest.raises(InvalidInput, match="du_none is not known"):
        await decide_dispute(decision, stripe_provider)


EXACT: list[Any] = [500, "500", 500.0]
INEXACT: list[Any] = [499.99, "499.99", "5e2", "", True, 1e300, 2**53, "9" * 30, [500]]


@pytest.mark.parametrize("amount", EXACT)
async def test_an_amount_in_another_form_that_is_exact_is_taken(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient, amount: Any
) -> None:
    top_up = await begin_checkout(stripe_provider)
    [_, paid, _] = fake_stripe.pay_checkout(session_id(top_up))
    assert await deliver_events(webhook, changed(paid, amount=amount, amount_received=amount)) == ["CREDITED"]
    assert (await reload(top_up)).amount_minor == 500


@pytest.mark.parametrize("amount", INEXACT)
@pytest.mark.parametrize("field", ["amount", "amount_received"])
async def test_an_event_with_an_amount_that_is_not_exact_is_parked(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient, amount: Any, field: str
) -> None:
    top_up = await begin_checkout(stripe_provider)
    [_, paid, _] = fake_stripe.pay_checkout(session_id(top_up))
    event = changed(paid, **{field: amount})
    assert await deliver_events(webhook, event) == ["PARKED_MISMATCH"]
    stored = (await list_inbox())[f"stripe:{event['id']}"]
    assert stored["last_error"].startswith(f"Stripe reports {field} ")
    assert stored["last_error"].endswith(", which is not a whole number of minor units.")
    assert await posted_credits(top_up.account_id) == 0


async def test_an_answer_with_an_amount_that_is_not_exact_is_not_used(
    stripe_provider: Stripe, fake_stripe: FakeStripe
) -> None:
    top_up = await begin_checkout(stripe_provider)
    fake_stripe.pay_checkout(session_id(top_up))
    payment = stripe_provider.parse_event(changed(fake_stripe.events[-1], amount_total=math.pi))
    assert payment is not None
    with pytest.raises(Unavailable, match="which is not a whole number"):
        event_mapping.map_session(payment.body["data"]["object"])


async def test_a_parked_event_can_be_dismissed_with_a_reason(
    stripe_provider: Stripe, fake_stripe: FakeStripe, webhook: httpx.AsyncClient
) -> None:
    top_up = await begin_checkout(stripe_provider)
    [_, paid, _] = fake_stripe.pay_checkout(session_id(top_up))
    event = changed(paid, amount=1)
    await deliver_events(webhook, event)
    event_id = f"stripe:{event['id']}"
    await inbox.dismiss(event_id, reason="a test", audit=command_line_action("dismissProviderEvent"))
    assert await inbox.find_unhandled(limit=10) == []
    assert await deliver_events(webhook, event) == ["DUPLICATE"]
    [record] = await AuditRecord.filter(action="dismissProviderEvent")
    assert (record.subject, record.reason) == (f"provider event {event_id}", "a test")
    with pytest.raises(InvalidInput, match="is no unhandled event"):
        await inbox.dismiss(event_id, reason="a test", audit=command_line_action("dismissProviderEvent"))
