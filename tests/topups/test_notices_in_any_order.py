"""The same payments, refunds and disputes, told of in twenty orders: all of them end in the same state."""

import asyncio
import itertools
import random
from typing import NamedTuple

import pytest

from app import database
from app.audit import audit
from app.pricing.catalogue import Catalogue
from app.pricing.measurements import Measurements
from app.topups import sandbox_refunds
from app.topups.provider import Dispute, DisputeState, ProviderEvent, Refund, RefundState
from app.topups.rules import Status, TopUpState
from app.topups.settling import Outcome, settle
from tests.factories import a_catalogue_of, a_task, charged
from tests.topups.buying import a_top_up, an_event
from tests.topups.giving_back import Figures, a_dispute, a_refund, figures, given_back, paid

pytestmark = pytest.mark.anyio

ORDERS = 20
PAYMENTS = 20
MOST_ROUNDS = 6

PENDING, DONE, FAILED = RefundState.PENDING, RefundState.DONE, RefundState.FAILED
OPEN, WON, LOST = DisputeState.OPEN, DisputeState.WON, DisputeState.LOST


class Told(NamedTuple):
    """What is told of a refund or a dispute (`number` of its kind) of so many credits: all of these states."""

    number: int
    credits: int
    states: tuple[RefundState, ...] | tuple[DisputeState, ...]


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

End = tuple[list[tuple[Status, int, int, int]], Figures]


async def notices_of(top_up: TopUpState, payment_ref: str, fate: list[Told]) -> list[ProviderEvent]:
    events = []
    for kind, states, credits, number in ((type(one.states[0]), one.states, one.credits, one.number) for one in fate):
        for state in states:
            said: Refund | Dispute
            if isinstance(state, RefundState):
                said = a_refund(top_up, credits, state, refund_ref=f"re_{top_up.id}_{number}", payment_ref=payment_ref)
            else:
                ref = f"dp_{top_up.id}_{number}"
                said = a_dispute(top_up, state, dispute_ref=ref, payment_ref=payment_ref, amount_minor=credits)
            event_id = f"sandbox:{kind.__name__}-{top_up.id}-{number}-{state}"
            events.append(ProviderEvent(event_id=event_id, told=said, body=sandbox_refunds.body_of(said)))
    return events


async def played(owner_id: str, order: random.Random, catalogue: Catalogue, *, bonus: int) -> End:
    """What comes of the notices in one order, for an owner of his own who has spent most of what he had before."""
    before = await paid(owner_id, 1_000)
    task = await a_task(owner_id)
    await charged(task, catalogue, block="ItemBlock", measurements=Measurements(items=700))
    assert before.payment_ref is not None
    events = await notices_of(before, before.payment_ref, [Told(1, 600, (PENDING, DONE)), Told(1, 1_000, (OPEN, LOST))])
    top_ups = [before]
    for fate in itertools.islice(itertools.cycle(FATES), PAYMENTS):
        top_up = await a_top_up(owner_id, 600)
        if bonus:
            await database.fetch(
                "UPDATE top_up SET bonus_credits = $2, bonus_days = 30 WHERE id = $1", top_up.id, bonus
            )
        assert top_up.provider_ref is not None
        events.append(await an_event(top_up, payment_ref=top_up.provider_ref))
        events += await notices_of(top_up, top_up.provider_ref, fate)
        top_ups.append(top_up)
    times = random.Random(7)  # noqa: S311  each notice as often in every order
    waiting = [event for event in events for _ in range(times.choice([1, 1, 2, 3]))]
    order.shuffle(waiting)
    for _ in range(MOST_ROUNDS):
        waiting = [event for event in waiting if await settle(event) is Outcome.WAITING]
    assert waiting == []
    return [await given_back(one) for one in top_ups], await figures(before)


@pytest.mark.parametrize("bonus", [0, 60])
async def test_twenty_orders_of_the_same_notices_end_in_the_same_state(db: str, bonus: int) -> None:
    catalogue = await a_catalogue_of()
    ends = await asyncio.gather(
        *(played(f"owner-{number}", random.Random(number), catalogue, bonus=bonus) for number in range(ORDERS))  # noqa: S311  the same orders in every run
    )
    assert all(end == ends[0] for end in ends), [end[1] for end in ends]
    top_ups, account = ends[0]
    clawed = sum(clawed for *_, clawed in top_ups)
    assert account.frozen > 0
    assert clawed > 0
    refunded = sum(refunded for _, refunded, _, _ in top_ups)
    if not bonus:
        assert account.posted - account.owed == 300 + 600 * PAYMENTS - refunded - clawed
    assert await database.fetch("SELECT event_id, last_error FROM provider_notice WHERE handled_at IS NULL") == []
    assert (await audit()).breaks == []
