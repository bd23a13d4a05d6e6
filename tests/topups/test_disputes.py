"""Disputes: opened they freeze, won they thaw, lost they take back; in whatever order the notices come."""

import itertools
from asyncio import gather
from typing import Any

import pytest

from app import database
from app.audit import audit
from app.errors import RefundExceedsTopUp
from app.pricing.catalogue import Catalogue
from app.tasks import holding
from app.topups.provider import Dispute, DisputeState, Refund, RefundState
from app.topups.rules import Status, TopUpState
from app.topups.settling import Outcome, settle
from tests.factories import a_catalogue_of, a_hold, a_task, balance, charged, granted
from tests.topups.buying import a_top_up, an_event, inbox
from tests.topups.giving_back import a_dispute, a_refund, figures, given_back, moves, paid, refunded, told
from tests.topups.test_refunds import UNHEARD

pytestmark = pytest.mark.anyio

OPEN, WON, LOST = DisputeState.OPEN, DisputeState.WON, DisputeState.LOST


async def spent(top_up: TopUpState, catalogue: Catalogue, credits: int) -> None:
    """So many of alice's credits, a multiple of 10, are spent by one task."""
    task = await a_task("alice")
    for _ in range(credits // 10):
        await charged(task, catalogue)


async def whole() -> None:
    assert (await audit()).breaks == []


async def test_an_open_dispute_freezes_and_a_won_one_thaws(db: str) -> None:
    top_up = await paid(credits=1_000)
    before = (await balance(top_up.account_id)).version
    assert await told(a_dispute(top_up, OPEN)) is Outcome.DISPUTED
    assert await figures(top_up) == (1_000, 0, 1_000, 0, 0)
    assert (await given_back(top_up))[0] is Status.DISPUTED
    await whole()
    assert await told(a_dispute(top_up, WON)) is Outcome.DISPUTE_WON
    assert await figures(top_up) == (1_000, 0, 0, 0, 1_000)
    assert (await given_back(top_up), await moves(top_up)) == ((Status.PAID, 0, 0, 0), [])
    assert (await balance(top_up.account_id)).version == before + 2
    await whole()


async def test_a_lost_dispute_takes_what_is_unclaimed_and_the_rest_is_debt(db: str) -> None:
    catalogue = await a_catalogue_of()
    top_up = await paid(credits=1_000)
    await spent(top_up, catalogue, 200)
    hold = a_hold(await a_task("alice"), 300)
    await holding.place(hold, catalogue)
    await told(a_dispute(top_up, OPEN))
    assert await figures(top_up) == (800, 300, 1_000, 0, 0)
    await whole()
    assert await told(a_dispute(top_up, LOST)) is Outcome.DISPUTE_LOST
    assert (await moves(top_up))[-2:] == [("REFUND", -500, 0), ("DEBT", 0, 500)]
    [entry] = await database.fetch("SELECT actor, reason, top_up_id FROM entry WHERE kind = 'DEBT'")
    assert tuple(entry) == ("provider:sandbox", f"dispute dp_{top_up.id} was lost", top_up.id)
    assert await figures(top_up) == (300, 300, 0, 500, 0)
    assert await given_back(top_up) == (Status.REFUNDED, 0, 0, 1_000)
    await whole()
    await holding.void(hold.task_id, hold.block_run_id)
    assert await figures(top_up) == (0, 0, 0, 200, 0)
    await whole()


async def test_the_debt_of_a_lost_dispute_is_paid_at_once_of_other_bought_credits(
    db: str, catalogue: Catalogue
) -> None:
    first = await paid(credits=500)
    await spent(first, catalogue, 500)
    await paid(credits=800)
    await granted("alice", 50)
    await told(a_dispute(first, LOST))
    assert (await moves(first))[-2:] == [("DEBT", 0, 500), ("DEBT_PAID", -500, -500)]
    assert await figures(first) == (350, 0, 0, 0, 350)
    await whole()


async def test_the_bonus_is_taken_back_as_far_as_it_is_unspent(db: str, catalogue: Catalogue) -> None:
    top_up = await paid(credits=1_000, bonus=200)
    await spent(top_up, catalogue, 50)
    await told(a_dispute(top_up, LOST))
    assert (await moves(top_up))[-2:] == [("REFUND", -1_000, 0), ("ADJUSTMENT", -150, 0)]
    [row] = await database.fetch("SELECT credits, bonus_credits, bonus_spent FROM dispute")
    assert (tuple(row), await figures(top_up)) == ((1_000, 150, 50), (0, 0, 0, 0, 0))
    await whole()


async def test_what_is_disputed_cannot_be_refunded_meanwhile(db: str) -> None:
    top_up = await paid(credits=1_000)
    await told(a_dispute(top_up, OPEN, amount_minor=300))
    assert await figures(top_up) == (1_000, 0, 300, 0, 700)
    with pytest.raises(RefundExceedsTopUp) as no:
        await refunded(top_up, 701)
    assert no.value.refundable_credits == 700
    await refunded(top_up)
    assert await given_back(top_up) == (Status.DISPUTED, 700, 700, 0)
    with pytest.raises(RefundExceedsTopUp):
        await refunded(top_up)
    await told(a_dispute(top_up, WON, amount_minor=300))
    assert await given_back(top_up) == (Status.PAID, 700, 700, 0)
    done = await refunded(top_up)
    assert (done.refund.credits, done.refund.amount_minor) == (300, 300)
    await whole()


async def test_what_is_frozen_of_another_top_up_does_not_go_back_freely(db: str) -> None:
    first, second = await paid(credits=500), await paid(credits=500)
    await told(a_dispute(first, OPEN))
    await refunded(second, 200)
    assert await figures(first) == (800, 0, 500, 0, 300)
    task = await a_task("alice", budget=300)
    done = await refunded(second)
    assert (done.refund.debt_credits, await figures(first)) == (300, (800, 300, 500, 300, 0))
    await told(a_dispute(first, WON))
    assert await figures(first) == (500, 300, 0, 0, 200)
    assert task.status == "RUNNING"
    await whole()


async def test_a_dispute_of_what_went_back_already_takes_only_the_rest(db: str) -> None:
    top_up = await paid(credits=1_000)
    await refunded(top_up, 400)
    await told(a_dispute(top_up, OPEN))
    assert await figures(top_up) == (600, 0, 600, 0, 0)
    await told(a_dispute(top_up, LOST))
    assert (await given_back(top_up), await figures(top_up)) == ((Status.REFUNDED, 400, 400, 600), (0, 0, 0, 0, 0))
    await whole()


async def test_a_dispute_of_nothing_that_is_left_freezes_nothing(db: str) -> None:
    top_up = await paid(credits=1_000)
    await refunded(top_up)
    for state in (OPEN, LOST):
        await told(a_dispute(top_up, state))
        assert await given_back(top_up) == (Status.REFUNDED, 1_000, 1_000, 0)
        assert await figures(top_up) == (0, 0, 0, 0, 0)
    await whole()


@pytest.mark.parametrize("last", [OPEN, LOST])
async def test_what_a_refused_refund_returns_is_the_disputes(db: str, last: DisputeState) -> None:
    top_up = await paid(credits=1_000)
    done = await refunded(top_up, provider=UNHEARD)
    await told(a_dispute(top_up, OPEN))
    if last is LOST:
        await told(a_dispute(top_up, LOST))
    refused = a_refund(top_up, 1_000, RefundState.FAILED, reference=f"{top_up.account_id}-{done.refund.id}")
    assert await told(refused) is Outcome.REFUND_FAILED
    if last is OPEN:
        assert await given_back(top_up) == (Status.DISPUTED, 0, 0, 0)
        assert await figures(top_up) == (1_000, 0, 1_000, 0, 0)
    else:
        assert await given_back(top_up) == (Status.REFUNDED, 0, 0, 1_000)
        assert await figures(top_up) == (0, 0, 0, 0, 0)
    await whole()


DECIDED: dict[str, list[DisputeState]] = {"won": [OPEN, WON], "lost": [OPEN, LOST]}


@pytest.mark.parametrize("ending", DECIDED)
@pytest.mark.parametrize("spends", [0, 300])
async def test_any_order_of_notices_ends_in_the_same_state(
    db: str, catalogue: Catalogue, ending: str, spends: int
) -> None:
    """A refund of 400 that was begun at the provider and a dispute, each told twice, in all their orders."""
    kinds: list[Any] = [*DECIDED[ending], RefundState.PENDING, RefundState.DONE]
    ends = set()
    for number, order in enumerate(itertools.permutations(kinds)):
        owner = f"owner-{number}"
        top_up = await paid(owner, 500)
        if spends:
            task = await a_task(owner)
            for _ in range(spends // 10):
                await charged(task, catalogue)
        for said in order:
            await told(_said(top_up, said))
        await told(_said(top_up, order[0]))
        found = await figures(top_up)
        ends.add((*(await given_back(top_up)), found))
        assert found.posted - found.owed == (100 if ending == "won" else 0) - spends
    assert len(ends) == 1
    await whole()


def _said(top_up: TopUpState, state: DisputeState | RefundState) -> Refund | Dispute:
    if isinstance(state, RefundState):
        return a_refund(top_up, 400, state, refund_ref=f"re_{top_up.id}")
    return a_dispute(top_up, state)


async def test_the_same_dispute_told_by_many_events_at_once_counts_once(db: str) -> None:
    top_up = await paid(credits=1_000)
    states = [OPEN, LOST] * 6
    await gather(*(told(a_dispute(top_up, state)) for state in states))
    assert await given_back(top_up) == (Status.REFUNDED, 0, 0, 1_000)
    assert await moves(top_up) == [("REFUND", -1_000, 0)]
    assert len(await database.fetch("SELECT 1 FROM dispute")) == 1
    await whole()


async def test_two_disputes_of_one_payment_take_no_more_than_it(db: str) -> None:
    top_up = await paid(credits=1_000)
    first: dict[str, Any] = {"dispute_ref": "dp_1", "amount_minor": 700}
    second: dict[str, Any] = {"dispute_ref": "dp_2", "amount_minor": 700}
    await told(a_dispute(top_up, OPEN, **first))
    await told(a_dispute(top_up, OPEN, **second))
    assert await figures(top_up) == (1_000, 0, 1_000, 0, 0)
    await told(a_dispute(top_up, WON, **first))
    assert await figures(top_up) == (1_000, 0, 700, 0, 300)
    await told(a_dispute(top_up, LOST, **second))
    assert (await given_back(top_up), await figures(top_up)) == ((Status.PAID, 0, 0, 700), (300, 0, 0, 0, 300))
    await whole()


async def test_a_part_is_frozen_for_a_disputed_part_rounded_up(db: str) -> None:
    top_up = await paid(credits=1_000)
    await database.fetch("UPDATE top_up SET amount_minor = 3000")
    await told(a_dispute(top_up, OPEN, amount_minor=1_001))
    assert (await figures(top_up)).frozen == 334


async def test_a_decision_that_contradicts_the_first_is_parked(db: str) -> None:
    top_up = await paid()
    await told(a_dispute(top_up, WON))
    assert await told(a_dispute(top_up, LOST), event_id="sandbox:odd") is Outcome.PARKED_MISMATCH
    assert "dispute is LOST, ours is WON" in (await inbox())["sandbox:odd"]["last_error"]
    assert await given_back(top_up) == (Status.PAID, 0, 0, 0)


@pytest.mark.parametrize("claims", [{"currency": "JPY"}, {"live": True}, {"provider": "stripe"}, {"amount_minor": 999}])
async def test_a_notice_that_disagrees_is_parked(db: str, claims: dict[str, Any]) -> None:
    top_up = await paid()
    await told(a_dispute(top_up, OPEN, amount_minor=500))
    frozen = await figures(top_up)
    assert await told(a_dispute(top_up, LOST, **({"amount_minor": 500} | claims))) is Outcome.PARKED_MISMATCH
    assert await figures(top_up) == frozen


async def test_a_dispute_before_its_payment_waits_for_it(db: str) -> None:
    top_up = await a_top_up("alice", 1_000)
    payment = await an_event(top_up, payment_ref=top_up.provider_ref)
    said = a_dispute(top_up, LOST, payment_ref=top_up.provider_ref)
    assert await told(said, event_id="sandbox:early") is Outcome.WAITING
    await settle(payment)
    assert await told(said, event_id="sandbox:early") is Outcome.DISPUTE_LOST
    assert await given_back(top_up) == (Status.REFUNDED, 0, 0, 1_000)
    await whole()


async def test_what_is_frozen_cannot_be_spent_and_what_is_thawed_replenishes(db: str, catalogue: Catalogue) -> None:
    top_up = await paid(credits=500)
    task = await a_task("alice")
    await told(a_dispute(top_up, OPEN))
    with pytest.raises(Exception, match="0 are available"):
        await charged(task, catalogue)
    notices = "SELECT kind FROM notice WHERE cleared_at IS NULL ORDER BY number"
    assert "OUT_OF_CREDITS" in {kind for (kind,) in await database.fetch(notices)}
    await told(a_dispute(top_up, WON))
    assert "OUT_OF_CREDITS" not in {kind for (kind,) in await database.fetch(notices)}
    await whole()
