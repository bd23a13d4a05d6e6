"""Each event of an account is stored with its effect, and its payload has the documented fields."""

import json
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from app.errors import InsufficientCredits
from app.ledger.account_events import EVENTS, camel_case
from app.ledger.expiry_notifications import ExpiryNotifications
from app.outgoing_webhooks import endpoints
from app.outgoing_webhooks.models import WebhookDelivery
from app.outgoing_webhooks.secret_box import SecretBox
from app.tasks import lifecycle
from app.tasks.lifecycle import StartTaskRequest
from app.tasks.rules import TaskTrigger
from app.topups.provider import DisputeStatus
from app.topups.rules import PaymentStatus
from app.topups.settlement import settle
from tests.factories import charge_block_run, grant_credits, publish_rate_cards, seconds_from_now, start_task
from tests.topups.refund_fixtures import build_dispute, create_paid_top_up, deliver, refund_top_up
from tests.topups.top_up_fixtures import create_top_up, payment_event

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def endpoint(db: str, box: SecretBox) -> None:
    await endpoints.create_endpoint("https://hooks.example.com/", box=box, allow_private=False)


async def stored(event_type: str) -> list[dict[str, Any]]:
    """The data of the stored events of a type, without the figures of the account, oldest first."""
    rows = await WebhookDelivery.filter(event_type=event_type).order_by("id")
    payloads = [json.loads(row.payload) for row in rows]
    own = {camel_case(field.name) for field in fields(EVENTS[event_type])}
    for payload in payloads:
        assert payload.keys() == {"type", "version", "timestamp", "data"}
        assert payload["data"].keys() == own | {"ownerId", "available", "accountVersion"}
    return [{name: value for name, value in payload["data"].items() if name in own} for payload in payloads]


async def test_a_balance_that_falls_is_low_and_then_empty(db: str) -> None:
    await grant_credits("alice", 510)
    rate_cards = await publish_rate_cards()
    task = await start_task("alice")
    for _ in range(3):
        await charge_block_run(task, rate_cards)
    assert await stored("balance.low") == [{"threshold": 500}]
    assert await stored("balance.out_of_credits") == []
    assert await stored("balance.replenished") == [{}]


async def test_a_paid_top_up_is_an_event_once(db: str) -> None:
    top_up = await create_top_up(credits=500)
    event = await payment_event(top_up)
    await settle(event)
    await settle(event)
    assert await stored("top_up.paid") == [
        {
            "topUpId": top_up.id, "credits": 500, "bonusCredits": 0, "amountMinor": 500, "currency": "USD",
            "automatic": False,
        }
    ]  # fmt: skip


async def test_a_declined_top_up_is_an_event(db: str) -> None:
    top_up = await create_top_up(credits=500)
    await settle(await payment_event(top_up, PaymentStatus.DECLINED))
    assert await stored("top_up.failed") == [
        {"topUpId": top_up.id, "status": "FAILED", "credits": 500, "automatic": False}
    ]


async def test_a_refund_is_an_event_of_each_of_its_states(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    refund = await refund_top_up(top_up, 400)
    events = await stored("top_up.refunded")
    assert events[0] == {
        "topUpId": top_up.id, "refundId": refund.refund.id, "status": "PENDING", "credits": 400, "debtCredits": 0,
        "amountMinor": 400, "currency": "USD",
    }  # fmt: skip
    assert [event["status"] for event in events] in (["PENDING"], ["PENDING", "DONE"])


async def test_a_dispute_is_an_event_when_it_opens_and_when_it_ends(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    for status in (DisputeStatus.OPEN, DisputeStatus.OPEN, DisputeStatus.LOST):
        await deliver(build_dispute(top_up, status))
    events = await stored("top_up.disputed")
    assert [(event["status"], event["credits"], event["frozenCredits"]) for event in events] == [
        ("OPEN", 1_000, 1_000),
        ("LOST", 1_000, 0),
    ]


async def test_credits_that_will_expire_are_an_event_for_each_step(db: str) -> None:
    expires_at = await seconds_from_now(timedelta(days=20).total_seconds())
    await grant_credits("alice", 70, expires_at=expires_at)
    await ExpiryNotifications([30, 7]).notify()
    await ExpiryNotifications([30, 7]).notify()
    [event] = await stored("grant.expiring")
    assert event["credits"] == 70
    assert event["expiresAt"].startswith(f"{expires_at:%Y-%m-%dT%H:%M:%S}")


async def test_a_skipped_start_of_a_schedule_is_an_event(db: str) -> None:
    request = StartTaskRequest(
        task_id="task", owner_id="alice", agent_id="agent", actor="service:test", trigger=TaskTrigger.SCHEDULED
    )
    with pytest.raises(InsufficientCredits):
        await lifecycle.start_task(request)
    assert await stored("schedule.skipped") == [{"agentId": "agent"}]
