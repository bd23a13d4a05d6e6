"""The events of the same payments, refunds and disputes in several orders lead to the same status."""

import asyncio
import itertools
import random
from typing import NamedTuple

import pytest

from app.db import pools
from app.pricing.measurements import Measurements
from app.pricing.rate_card_cache import RateCardCache
from app.topups.provider import Dispute, DisputeStatus, ProviderEvent, Refund, RefundStatus
from app.topups.provider_events import EventOutcome
from app.topups.rules import TopUpRow, TopUpStatus
from app.topups.sandbox import events as sandbox_events
from app.topups.settlement import settle
from app.verify.verifier import verify_ledger
from tests.factories import charge_block_run, publish_rate_cards, start_task
from tests.soak import sized
from tests.topups.refund_fixtures import (
    Figures,
    build_dispute,
    create_paid_top_up,
    external_refund,
    read_figures,
    read_refund_figures,
)
from tests.topups.top_up_fixtures import create_top_up, payment_event

pytestmark = pytest.mark.anyio

ORDERS = sized(6, soak=20)
PAYMENTS = 20
MOST_ROUNDS = 6

PENDING, DONE, FAILED = RefundStatus.PENDING, RefundStatus.DONE, RefundStatus.FAILED
OPEN, WON, LOST = DisputeStatus.OPEN, DisputeStatus.WON, DisputeStatus.LOST


class Reported(NamedTuple):
    """The events of a refund or a dispute, the `number`th of its kind: one for each status."""

    number: int
    credits: int
    statuses: tuple[RefundStatus, ...] | tuple[DisputeStatus, ...]


# The refunds and disputes of payments of 600 credits, in turn.
HISTORIES: list[list[Reported]] = [
    [],
    [Reported(1, 200, (PENDING, DONE))],
    [Reported(1, 600, (DONE,))],
    [Reported(1, 300, (PENDING, DONE, FAILED))],
    [Reported(1, 600, (DONE, FAILED)), Reported(2, 200, (PENDING, DONE))],
    [Reported(1, 250, (DONE,)), Reported(2, 350, (PENDING, DONE))],
    [Reported(1, 600, (OPEN, WON))],
    [Reported(1, 600, (OPEN, LOST))],
    [Reported(1, 600, (OPEN,))],
    [Reported(1, 250, (PENDING, DONE)), Reported(1, 600, (OPEN, LOST))],
    [Reported(1, 600, (DONE, FAILED)), Reported(1, 600, (OPEN, LOST))],
    [Reported(1, 500, (DONE,)), Reported(1, 300, (OPEN,))],
    [Reported(1, 500, (OPEN, WON)), Reported(2, 300, (OPEN, LOST)), Reported(1, 400, (PENDING, DONE))],
]

# And those of an earlier payment of 1,000 credits, which are spent.
EARLIER_PAYMENT = [Reported(1, 600, (PENDING, DONE)), Reported(1, 1_000, (OPEN, LOST))]

End = tuple[list[tuple[TopUpStatus, int, int, int]], Figures]

DISPUTED = 600 + 100
"""The credits of open disputes after all events."""


def expected_figures(history: list[Reported], credits: int = 600) -> tuple[TopUpStatus, int, int, int]:
    """The expected `read_refund_figures` of a payment, at 1 minor unit for a credit."""
    refunded = sum(
        one.credits for one in history if isinstance(one.statuses[0], RefundStatus) and FAILED not in one.statuses
    )
    clawed = min(credits - refunded, sum(one.credits for one in history if LOST in one.statuses))
    undecided = any(one.statuses == (OPEN,) for one in history)
    status = TopUpStatus.DISPUTED if undecided else TopUpStatus.PAID
    return TopUpStatus.REFUNDED if refunded + clawed == credits else status, refunded, refunded, clawed


async def build_events(top_up: TopUpRow, payment_ref: str, history: list[Reported]) -> list[ProviderEvent]:
    events = []
    for kind, statuses, credits, number in (
        (type(one.statuses[0]), one.statuses, one.credits, one.number) for one in history
    ):
        for status in statuses:
            reported: Refund | Dispute
            if isinstance(status, RefundStatus):
                reported = external_refund(
                    top_up, credits, status, refund_ref=f"re_{top_up.id}_{number}", payment_ref=payment_ref
                )
            else:
                ref = f"dp_{top_up.id}_{number}"
                reported = build_dispute(top_up, status, dispute_ref=ref, payment_ref=payment_ref, amount_minor=credits)
            event_id = f"sandbox:{kind.__name__}-{top_up.id}-{number}-{status}"
            events.append(ProviderEvent(event_id=event_id, object=reported, body=sandbox_events.build_body(reported)))
    return events


async def settle_all(owner_id: str, order: random.Random, rate_cards: RateCardCache) -> End:
    """Settle the events in one order, for an owner who has spent most of an earlier payment. Returns: the end."""
    before = await create_paid_top_up(owner_id, 1_000)
    task = await start_task(owner_id)
    await charge_block_run(task, rate_cards, block="ItemBlock", measurements=Measurements(items=700))
    assert before.payment_ref is not None
    events = await build_events(before, before.payment_ref, EARLIER_PAYMENT)
    top_ups = [before]
    for number, history in enumerate(itertools.islice(itertools.cycle(HISTORIES), PAYMENTS)):
        top_up = await create_top_up(owner_id, 600)
        if number % 2:
            await pools.fetch("UPDATE top_up SET bonus_credits = 60, bonus_days = 30 WHERE id = $1", top_up.id)
        assert top_up.provider_ref is not None
        events.append(await payment_event(top_up, payment_ref=top_up.provider_ref))
        events += await build_events(top_up, top_up.provider_ref, history)
        top_ups.append(top_up)
    times = random.Random(7)  # noqa: S311  each event as often in every order
    waiting = [event for event in events for _ in range(times.choice([1, 1, 2, 3]))]
    order.shuffle(waiting)
    for _ in range(MOST_ROUNDS):
        waiting = [event for event in waiting if await settle(event) is EventOutcome.WAITING]
    assert waiting == []
    return [await read_refund_figures(one) for one in top_ups], await read_figures(before)


async def test_any_order_of_the_same_events_ends_in_the_same_state(db: str) -> None:
    rate_cards = await publish_rate_cards()
    orders = [random.Random(number) for number in range(ORDERS)]  # noqa: S311  the same orders in every run
    ends = await asyncio.gather(
        *(settle_all(f"owner-{number}", order, rate_cards) for number, order in enumerate(orders))
    )
    expected = [
        expected_figures(EARLIER_PAYMENT, 1_000),
        *map(expected_figures, itertools.islice(itertools.cycle(HISTORIES), PAYMENTS)),
    ]
    figures = [figures for _, figures in ends]
    assert all(statuses == expected for statuses, _ in ends)
    assert {(one.posted, one.held, one.owed) for one in figures} == {(5_470, 0, 0)}
    # In some orders the debt of the earlier payment is paid with credits before their payment is disputed.
    assert all(0 < one.frozen <= DISPUTED and one.available == one.posted - one.frozen for one in figures), figures
    assert await pools.fetch("SELECT event_id, last_error FROM provider_event WHERE handled_at IS NULL") == []
    assert (await verify_ledger()).violations == []
