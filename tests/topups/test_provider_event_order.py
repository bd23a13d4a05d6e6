"""The same payments, refunds and disputes, in several orders: all of them end in the same state."""

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


class Told(NamedTuple):
    """What is told of a refund or a dispute (`number` of its kind) of so many credits: all of these states."""

    number: int
    credits: int
    states: tuple[RefundStatus, ...] | tuple[DisputeStatus, ...]


# What becomes of the payments of 600 credits, in turn.
FATES: list[list[Told]] = [
    [],
    [Told(1, 200, (PENDING, DONE))],
    [Told(1, 600, (DONE,))],
    [Told(1, 300, (PENDING, DONE, FAILED))],
    [Told(1, 600, (DONE, FAILED)), Told(2, 200, (PENDING, DONE))],
    [Told(1, 250, (DONE,)), Told(2, 350, (PENDING, DONE))],
    [Told(1, 600, (OPEN, WON))],
    [Told(1, 600, (OPEN, LOST))],
    [Told(1, 600, (OPEN,))],
    [Told(1, 250, (PENDING, DONE)), Told(1, 600, (OPEN, LOST))],
    [Told(1, 600, (DONE, FAILED)), Told(1, 600, (OPEN, LOST))],
    [Told(1, 500, (DONE,)), Told(1, 300, (OPEN,))],
    [Told(1, 500, (OPEN, WON)), Told(2, 300, (OPEN, LOST)), Told(1, 400, (PENDING, DONE))],
]

# And that of 1,000 credits that was paid before, and spent.
FATE_BEFORE = [Told(1, 600, (PENDING, DONE)), Told(1, 1_000, (OPEN, LOST))]

End = tuple[list[tuple[TopUpStatus, int, int, int]], Figures]


def model(fate: list[Told], credits: int = 600) -> tuple[TopUpStatus, int, int, int]:
    """What a payment with this fate ends as, as `given_back` says it: at 1 minor unit for a credit."""
    refunded = sum(one.credits for one in fate if isinstance(one.states[0], RefundStatus) and FAILED not in one.states)
    clawed = min(credits - refunded, sum(one.credits for one in fate if LOST in one.states))
    undecided = any(one.states == (OPEN,) for one in fate)
    status = TopUpStatus.DISPUTED if undecided else TopUpStatus.PAID
    return TopUpStatus.REFUNDED if refunded + clawed == credits else status, refunded, refunded, clawed


async def notices_of(top_up: TopUpRow, payment_ref: str, fate: list[Told]) -> list[ProviderEvent]:
    events = []
    for kind, states, credits, number in ((type(one.states[0]), one.states, one.credits, one.number) for one in fate):
        for state in states:
            said: Refund | Dispute
            if isinstance(state, RefundStatus):
                said = external_refund(
                    top_up, credits, state, refund_ref=f"re_{top_up.id}_{number}", payment_ref=payment_ref
                )
            else:
                ref = f"dp_{top_up.id}_{number}"
                said = build_dispute(top_up, state, dispute_ref=ref, payment_ref=payment_ref, amount_minor=credits)
            event_id = f"sandbox:{kind.__name__}-{top_up.id}-{number}-{state}"
            events.append(ProviderEvent(event_id=event_id, object=said, body=sandbox_events.build_body(said)))
    return events


async def played(owner_id: str, order: random.Random, rate_cards: RateCardCache) -> End:
    """What comes of the notices in one order, for an owner of his own who has spent most of what he had before."""
    before = await create_paid_top_up(owner_id, 1_000)
    task = await start_task(owner_id)
    await charge_block_run(task, rate_cards, block="ItemBlock", measurements=Measurements(items=700))
    assert before.payment_ref is not None
    events = await notices_of(before, before.payment_ref, FATE_BEFORE)
    top_ups = [before]
    for number, fate in enumerate(itertools.islice(itertools.cycle(FATES), PAYMENTS)):
        top_up = await create_top_up(owner_id, 600)
        if number % 2:
            await pools.fetch("UPDATE top_up SET bonus_credits = 60, bonus_days = 30 WHERE id = $1", top_up.id)
        assert top_up.provider_ref is not None
        events.append(await payment_event(top_up, payment_ref=top_up.provider_ref))
        events += await notices_of(top_up, top_up.provider_ref, fate)
        top_ups.append(top_up)
    times = random.Random(7)  # noqa: S311  each notice as often in every order
    waiting = [event for event in events for _ in range(times.choice([1, 1, 2, 3]))]
    order.shuffle(waiting)
    for _ in range(MOST_ROUNDS):
        waiting = [event for event in waiting if await settle(event) is EventOutcome.WAITING]
    assert waiting == []
    return [await read_refund_figures(one) for one in top_ups], await read_figures(before)


async def test_any_order_of_the_same_events_ends_in_the_same_state(db: str) -> None:
    rate_cards = await publish_rate_cards()
    orders = [random.Random(number) for number in range(ORDERS)]  # noqa: S311  the same orders in every run
    ends = await asyncio.gather(*(played(f"owner-{number}", order, rate_cards) for number, order in enumerate(orders)))
    fates = [model(FATE_BEFORE, 1_000), *map(model, itertools.islice(itertools.cycle(FATES), PAYMENTS))]
    assert ends[0][0] == fates
    assert all(end == ends[0] for end in ends), [end[1] for end in ends]
    assert ends[0][1].frozen == 600 + 100
    assert await pools.fetch("SELECT event_id, last_error FROM provider_event WHERE handled_at IS NULL") == []
    assert (await verify_ledger()).violations == []
