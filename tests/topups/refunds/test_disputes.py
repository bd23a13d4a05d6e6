"""Disputes: open ones freeze credits, won ones unfreeze them, lost ones take them back, in any order of events."""

import itertools
from asyncio import gather
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.db import pools
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import holds
from app.topups.errors import RefundExceedsTopUp
from app.topups.provider import Dispute, DisputeStatus, Refund, RefundStatus
from app.topups.provider_events import EventOutcome
from app.topups.rules import TopUpRow, TopUpStatus
from app.topups.settlement import settle
from tests.factories import charge_block_run, get_balance, grant_credits, hold_request, publish_rate_cards, start_task
from tests.topups.refund_fixtures import (
    UNREACHABLE,
    assert_ledger_intact,
    build_dispute,
    create_paid_top_up,
    deliver,
    external_refund,
    list_moves,
    read_figures,
    read_refund_figures,
    refund_top_up,
    spend_credits,
)
from tests.topups.top_up_fixtures import create_top_up, list_inbox, payment_event

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

OPEN, WON, LOST = DisputeStatus.OPEN, DisputeStatus.WON, DisputeStatus.LOST


async def test_an_open_dispute_freezes_credits_and_a_won_one_unfreezes_them(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    before = (await get_balance(top_up.account_id)).version
    assert await deliver(build_dispute(top_up, OPEN)) is EventOutcome.DISPUTED
    assert await read_figures(top_up) == (1_000, 0, 1_000, 0, 0)
    assert (await read_refund_figures(top_up))[0] is TopUpStatus.DISPUTED
    await assert_ledger_intact()
    assert await deliver(build_dispute(top_up, WON)) is EventOutcome.DISPUTE_WON
    assert await read_figures(top_up) == (1_000, 0, 0, 0, 1_000)
    assert (await read_refund_figures(top_up), await list_moves(top_up)) == ((TopUpStatus.PAID, 0, 0, 0), [])
    assert (await get_balance(top_up.account_id)).version == before + 2
    await assert_ledger_intact()


async def test_a_lost_dispute_takes_unclaimed_credits_and_the_rest_becomes_debt(db: str) -> None:
    rate_cards = await publish_rate_cards()
    top_up = await create_paid_top_up(credits=1_000)
    await spend_credits("alice", rate_cards, 200)
    hold = hold_request(await start_task("alice"), 300)
    await holds.place_hold(hold, rate_cards)
    await deliver(build_dispute(top_up, OPEN))
    assert await read_figures(top_up) == (800, 300, 500, 0, 0)
    await assert_ledger_intact()
    assert await deliver(build_dispute(top_up, LOST)) is EventOutcome.DISPUTE_LOST
    assert (await list_moves(top_up))[-2:] == [("DISPUTE_LOST", -500, 0), ("DEBT", 0, 500)]
    [entry] = await pools.fetch("SELECT actor, reason, top_up_id FROM entry WHERE kind = 'DEBT'")
    assert tuple(entry) == ("provider:sandbox", f"dispute dp_{top_up.id} was lost", top_up.id)
    assert await read_figures(top_up) == (300, 300, 0, 500, 0)
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 0, 0, 1_000)
    await assert_ledger_intact()
    await holds.void_hold(hold.task_id, hold.block_run_id)
    assert await read_figures(top_up) == (0, 0, 0, 200, 0)
    await assert_ledger_intact()


async def test_the_debt_of_a_lost_dispute_is_paid_at_once_from_other_purchased_credits(
    db: str, rate_cards: RateCardCache
) -> None:
    first = await create_paid_top_up(credits=500)
    await spend_credits("alice", rate_cards, 500)
    await create_paid_top_up(credits=800)
    await grant_credits("alice", 50)
    await deliver(build_dispute(first, LOST))
    assert (await list_moves(first))[-2:] == [("DEBT", 0, 500), ("DEBT_PAID", -500, -500)]
    assert await read_figures(first) == (350, 0, 0, 0, 350)
    await assert_ledger_intact()


async def test_a_lost_dispute_takes_the_unspent_bonus_back(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=1_000, bonus=200)
    await spend_credits("alice", rate_cards, 50)
    await deliver(build_dispute(top_up, LOST))
    assert (await list_moves(top_up))[-2:] == [("DISPUTE_LOST", -1_000, 0), ("ADJUSTMENT", -150, 0)]
    [row] = await pools.fetch("SELECT credits, bonus_credits, bonus_spent FROM dispute")
    assert (tuple(row), await read_figures(top_up)) == ((1_000, 150, 50), (0, 0, 0, 0, 0))
    await assert_ledger_intact()


async def test_disputed_credits_cannot_be_refunded(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    await deliver(build_dispute(top_up, OPEN, amount_minor=300))
    assert await read_figures(top_up) == (1_000, 0, 300, 0, 700)
    with pytest.raises(RefundExceedsTopUp) as error:
        await refund_top_up(top_up, 701)
    assert error.value.refundable_credits == 700
    await refund_top_up(top_up)
    assert await read_refund_figures(top_up) == (TopUpStatus.DISPUTED, 700, 700, 0)
    with pytest.raises(RefundExceedsTopUp):
        await refund_top_up(top_up)
    await deliver(build_dispute(top_up, WON, amount_minor=300))
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 700, 700, 0)
    result = await refund_top_up(top_up)
    assert (result.refund.credits, result.refund.amount_minor) == (300, 300)
    await assert_ledger_intact()


async def test_a_refund_does_not_use_credits_frozen_for_another_top_up(db: str) -> None:
    first, second = await create_paid_top_up(credits=500), await create_paid_top_up(credits=500)
    await deliver(build_dispute(first, OPEN))
    await refund_top_up(second, 200)
    assert await read_figures(first) == (800, 0, 500, 0, 300)
    task = await start_task("alice", budget=300)
    result = await refund_top_up(second)
    assert (result.refund.debt_credits, await read_figures(first)) == (300, (800, 300, 500, 300, 0))
    await deliver(build_dispute(first, WON))
    assert await read_figures(first) == (500, 300, 0, 0, 200)
    assert task.status == "RUNNING"
    await assert_ledger_intact()


async def test_a_dispute_after_a_refund_takes_only_the_rest(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    await refund_top_up(top_up, 400)
    await deliver(build_dispute(top_up, OPEN))
    assert await read_figures(top_up) == (600, 0, 600, 0, 0)
    await deliver(build_dispute(top_up, LOST))
    assert (await read_refund_figures(top_up), await read_figures(top_up)) == (
        (TopUpStatus.REFUNDED, 400, 400, 600),
        (0, 0, 0, 0, 0),
    )
    await assert_ledger_intact()


async def test_a_dispute_after_a_full_refund_freezes_nothing(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    await refund_top_up(top_up)
    for status in (OPEN, LOST):
        await deliver(build_dispute(top_up, status))
        assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 1_000, 1_000, 0)
        assert await read_figures(top_up) == (0, 0, 0, 0, 0)
    await assert_ledger_intact()


@pytest.mark.parametrize("last", [OPEN, LOST])
async def test_credits_of_a_failed_refund_go_to_the_dispute(db: str, last: DisputeStatus) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    result = await refund_top_up(top_up, provider=UNREACHABLE)
    await deliver(build_dispute(top_up, OPEN))
    if last is LOST:
        await deliver(build_dispute(top_up, LOST))
    refused = external_refund(top_up, 1_000, RefundStatus.FAILED, reference=f"{top_up.account_id}-{result.refund.id}")
    assert await deliver(refused) is EventOutcome.REFUND_FAILED
    if last is OPEN:
        assert await read_refund_figures(top_up) == (TopUpStatus.DISPUTED, 0, 0, 0)
        assert await read_figures(top_up) == (1_000, 0, 1_000, 0, 0)
    else:
        assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 0, 0, 1_000)
        assert await read_figures(top_up) == (0, 0, 0, 0, 0)
    await assert_ledger_intact()


DECIDED: dict[str, list[DisputeStatus]] = {"won": [OPEN, WON], "lost": [OPEN, LOST]}


@pytest.mark.parametrize("ending", DECIDED)
@pytest.mark.parametrize("spends", [0, 300])
async def test_all_orders_of_refund_and_dispute_events_end_in_the_same_state(
    db: str, rate_cards: RateCardCache, ending: str, spends: int
) -> None:
    """A refund of 400 begun at the provider and a dispute, in all orders of their events, one of them repeated."""
    kinds: list[Any] = [*DECIDED[ending], RefundStatus.PENDING, RefundStatus.DONE]
    ends = set()
    for number, order in enumerate(itertools.permutations(kinds)):
        owner = f"owner-{number}"
        top_up = await create_paid_top_up(owner, 500)
        if spends:
            task = await start_task(owner)
            for _ in range(spends // 10):
                await charge_block_run(task, rate_cards)
        for status in order:
            await deliver(_reported(top_up, status))
        await deliver(_reported(top_up, order[0]))
        found = await read_figures(top_up)
        ends.add((*(await read_refund_figures(top_up)), found))
        assert found.posted - found.owed == (100 if ending == "won" else 0) - spends
    assert len(ends) == 1
    await assert_ledger_intact()


def _reported(top_up: TopUpRow, status: DisputeStatus | RefundStatus) -> Refund | Dispute:
    if isinstance(status, RefundStatus):
        return external_refund(top_up, 400, status, refund_ref=f"re_{top_up.id}")
    return build_dispute(top_up, status)


async def test_a_lost_dispute_is_not_called_a_refund(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    await spend_credits("alice", rate_cards, 300)
    await refund_top_up(top_up, 200)
    report: dict[str, Any] = {"amount_minor": 600}

    await deliver(build_dispute(top_up, LOST, reported_at=NOON, **report))
    lost = [("REFUND", -200, 0), ("DISPUTE_LOST", -500, 0), ("DEBT", 0, 100)]
    assert (await list_moves(top_up))[-3:] == lost

    await deliver(build_dispute(top_up, WON, reported_at=NOON + timedelta(seconds=1), **report))
    assert (await list_moves(top_up))[-5:] == [*lost, ("DEBT", 0, -100), ("DISPUTE_LOST", 500, 0)]
    kinds = await pools.fetch("SELECT kind, resolved_at IS NULL AS open FROM notification ORDER BY number")
    assert {("REFUNDED", True), ("DISPUTE_LOST", False)} <= {(row["kind"], row["open"]) for row in kinds}
    await assert_ledger_intact()


async def test_concurrent_events_of_one_dispute_have_one_effect(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    states = [OPEN, LOST] * 6
    await gather(*(deliver(build_dispute(top_up, status)) for status in states))
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 0, 0, 1_000)
    assert await list_moves(top_up) == [("DISPUTE_LOST", -1_000, 0)]
    assert len(await pools.fetch("SELECT 1 FROM dispute")) == 1
    await assert_ledger_intact()


async def test_two_disputes_of_one_payment_take_no_more_than_the_payment(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    first: dict[str, Any] = {"dispute_ref": "dp_1", "amount_minor": 700}
    second: dict[str, Any] = {"dispute_ref": "dp_2", "amount_minor": 700}
    await deliver(build_dispute(top_up, OPEN, **first))
    await deliver(build_dispute(top_up, OPEN, **second))
    assert await read_figures(top_up) == (1_000, 0, 1_000, 0, 0)
    await deliver(build_dispute(top_up, WON, **first))
    assert await read_figures(top_up) == (1_000, 0, 700, 0, 300)
    await deliver(build_dispute(top_up, LOST, **second))
    assert (await read_refund_figures(top_up), await read_figures(top_up)) == (
        (TopUpStatus.PAID, 0, 0, 700),
        (300, 0, 0, 0, 300),
    )
    await assert_ledger_intact()


async def test_a_disputed_part_freezes_its_credits_rounded_up(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    await pools.fetch("UPDATE top_up SET amount_minor = 3000, total_minor = 3000")
    await deliver(build_dispute(top_up, OPEN, amount_minor=1_001))
    assert (await read_figures(top_up)).frozen == 334


async def test_a_decision_that_contradicts_the_first_is_parked(db: str) -> None:
    top_up = await create_paid_top_up()
    await deliver(build_dispute(top_up, WON))
    assert await deliver(build_dispute(top_up, LOST), event_id="sandbox:odd") is EventOutcome.PARKED_MISMATCH
    assert "dispute is LOST, ours is WON" in (await list_inbox())["sandbox:odd"]["last_error"]
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 0, 0, 0)


@pytest.mark.parametrize("claims", [{"currency": "JPY"}, {"live": True}, {"provider": "stripe"}])
async def test_a_dispute_event_that_differs_from_our_row_is_parked(db: str, claims: dict[str, Any]) -> None:
    top_up = await create_paid_top_up()
    await deliver(build_dispute(top_up, OPEN, amount_minor=500))
    frozen = await read_figures(top_up)
    assert await deliver(build_dispute(top_up, LOST, amount_minor=500, **claims)) is EventOutcome.PARKED_MISMATCH
    assert await read_figures(top_up) == frozen


async def test_a_dispute_event_before_its_payment_waits(db: str) -> None:
    top_up = await create_top_up("alice", 1_000)
    payment = await payment_event(top_up, payment_ref=top_up.provider_ref)
    reported = build_dispute(top_up, LOST, payment_ref=top_up.provider_ref)
    assert await deliver(reported, event_id="sandbox:early") is EventOutcome.WAITING
    await settle(payment)
    assert await deliver(reported, event_id="sandbox:early") is EventOutcome.DISPUTE_LOST
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 0, 0, 1_000)
    await assert_ledger_intact()


async def test_frozen_credits_cannot_be_spent_and_unfrozen_ones_can(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=500)
    task = await start_task("alice")
    await deliver(build_dispute(top_up, OPEN))
    with pytest.raises(Exception, match="available: 0"):
        await charge_block_run(task, rate_cards)
    unresolved = "SELECT kind FROM notification WHERE resolved_at IS NULL ORDER BY number"
    assert "OUT_OF_CREDITS" in {kind for (kind,) in await pools.fetch(unresolved)}
    await deliver(build_dispute(top_up, WON))
    assert "OUT_OF_CREDITS" not in {kind for (kind,) in await pools.fetch(unresolved)}
    await assert_ledger_intact()
