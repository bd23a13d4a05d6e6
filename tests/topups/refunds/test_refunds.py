"""Refunds: credits leave on request, spent ones become debt, the bonus is shared, and parts add up to the whole."""

import asyncio
import itertools
from asyncio import gather
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.background import reconcile_refunds, run_in_background
from app.db import pools
from app.errors import IdempotencyConflict, InsufficientCredits, InvalidInput, Unavailable
from app.ledger import queries as ledger_queries
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import holds as holding
from app.tasks import reversals
from app.tasks.stop_and_resume import ResumeTaskRequest, resume_task
from app.topups.errors import RefundExceedsTopUp, TopUpNotFound, TopUpNotPaid
from app.topups.provider import DisputeStatus, RefundOrder, RefundStatus
from app.topups.provider_events import EventOutcome
from app.topups.refunds import requests
from app.topups.refunds.amounts import RefundRow, RemainingAmounts
from app.topups.rules import TopUpRow, TopUpStatus, TopUpTerms
from app.topups.sandbox import store
from app.topups.settlement import settle
from tests.factories import (
    charge_block_run,
    grant_credits,
    hold_request,
    publish_rate_cards,
    seconds_from_now,
    start_task,
    wait_until,
)
from tests.ledger.rules.test_balance_changes import NOON
from tests.topups.refund_fixtures import (
    LOST_ANSWER,
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
from tests.topups.top_up_fixtures import SANDBOX, create_top_up, list_inbox, payment_event

pytestmark = pytest.mark.anyio


async def test_an_unspent_top_up_is_refunded_in_full(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    result = await refund_top_up(top_up)
    assert (result.refund.status, result.refund.credits, result.refund.debt_credits, result.refund.amount_minor) == (
        RefundStatus.DONE, 1_000, 0, 1_000,
    )  # fmt: skip
    assert (result.replayed, result.balance.posted, result.top_up.status) == (False, 0, TopUpStatus.REFUNDED)
    assert await list_moves(top_up) == [("REFUND", -1_000, 0)]
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 1_000, 1_000, 0)
    await assert_ledger_intact()


async def test_the_entry_has_actor_reason_and_top_up(db: str) -> None:
    top_up = await create_paid_top_up()
    await refund_top_up(top_up, 100, reason="wrong account", actor="operator:olivia")
    [entry] = await pools.fetch("SELECT actor, reason, top_up_id, draws::text AS draws FROM entry WHERE seq = 2")
    assert tuple(entry) == ("operator:olivia", "wrong account", top_up.id, "[[1, 100]]")


async def test_spent_or_held_credits_become_debt_and_a_voided_hold_pays_it(db: str) -> None:
    """The top-up is partly drawn and partly held when it is refunded; then the hold is voided."""
    rate_cards = await publish_rate_cards()
    top_up = await create_paid_top_up(credits=1_000)
    await spend_credits("alice", rate_cards, 300)
    held = await start_task("alice")
    hold = hold_request(held, 400)
    await holding.place_hold(hold, rate_cards)

    result = await refund_top_up(top_up)

    assert (result.refund.credits, result.refund.debt_credits, result.refund.amount_minor) == (1_000, 700, 1_000)
    assert await read_figures(top_up) == (400, 400, 0, 700, 0)
    await assert_ledger_intact()
    await holding.void_hold(hold.task_id, hold.block_run_id)
    assert await read_figures(top_up) == (0, 0, 0, 300, 0)
    assert (await list_moves(top_up))[-3:] == [("REFUND", -300, 0), ("DEBT", 0, 700), ("DEBT_PAID", -400, -400)]
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 1_000, 1_000, 0)
    await assert_ledger_intact()


async def test_debt_blocks_new_tasks_and_resumes_and_a_top_up_pays_it_first(db: str, rate_cards: RateCardCache) -> None:
    """A top-up pays debt while tasks resume and spend."""
    first = await create_paid_top_up(credits=500)
    running = await start_task("alice")
    await spend_credits("alice", rate_cards, 500)
    with pytest.raises(InsufficientCredits):
        await charge_block_run(running, rate_cards)  # the task stops
    await refund_top_up(first, 200)
    assert await read_figures(first) == (0, 0, 0, 200, 0)
    gift = await grant_credits("alice", 50)
    assert (gift.grant.remaining, await read_figures(first)) == (50, (50, 0, 0, 200, 50))
    for refused in (lambda: start_task("alice"), lambda: resume(running.task_id)):
        with pytest.raises(InsufficientCredits) as error:
            await refused()
        assert (error.value.required_credits, error.value.available_credits) == (1, 50)
        assert error.value.shortfall_credits == 200
    await assert_ledger_intact()

    second = await create_paid_top_up(credits=500)

    assert (await list_moves(first))[-2:] == [("TOP_UP", 500, 0), ("DEBT_PAID", -200, -200)]
    assert await read_figures(second) == (350, 0, 0, 0, 350)
    await resume(running.task_id)
    await gather(*(charge_block_run(running, rate_cards) for _ in range(20)))
    assert await read_figures(second) == (150, 0, 0, 0, 150)
    await assert_ledger_intact()


async def resume(task_id: str) -> Any:
    return await resume_task(ResumeTaskRequest(task_id=task_id, actor="user:alice"))


async def test_a_running_task_may_spend_available_credits_while_the_account_is_in_debt(
    db: str, rate_cards: RateCardCache
) -> None:
    top_up = await create_paid_top_up(credits=500)
    task = await start_task("alice")
    await spend_credits("alice", rate_cards, 500)
    await grant_credits("alice", 30)
    await refund_top_up(top_up, 100)
    assert await read_figures(top_up) == (30, 0, 0, 100, 30)
    assert (await charge_block_run(task, rate_cards)).entry is not None
    assert await read_figures(top_up) == (20, 0, 0, 100, 20)


async def test_a_reversal_pays_debt(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=500)
    task = await start_task("alice")
    for _ in range(5):
        await charge_block_run(task, rate_cards)
    await refund_top_up(top_up)
    assert await read_figures(top_up) == (0, 0, 0, 50, 0)
    await reversals.reverse_task(task.task_id, reason="it failed", idempotency_key="back", actor="operator:test")
    assert await read_figures(top_up) == (0, 0, 0, 0, 0)
    await assert_ledger_intact()


async def test_a_grant_that_pays_debt_does_so_and_the_same_request_is_replayed(
    db: str, rate_cards: RateCardCache
) -> None:
    top_up = await create_paid_top_up(credits=500)
    await spend_credits("alice", rate_cards, 500)
    await refund_top_up(top_up)
    values: dict[str, Any] = {"key": "gift", "pays_debt": True}
    first, again = await grant_credits("alice", 300, **values), await grant_credits("alice", 300, **values)
    assert (first.replayed, again.replayed, first.grant.number) == (False, True, again.grant.number)
    assert await read_figures(top_up) == (0, 0, 0, 200, 0)
    with pytest.raises(IdempotencyConflict):
        await grant_credits("alice", 300, key="gift")
    await assert_ledger_intact()


async def test_spent_bonus_is_deducted_from_the_refunded_money(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=1_000, bonus=200)
    await spend_credits("alice", rate_cards, 150)  # promotional credits burn first
    assert await read_figures(top_up) == (1_050, 0, 0, 0, 1_050)

    result = await refund_top_up(top_up)

    assert (result.refund.bonus_credits, result.refund.bonus_spent, result.refund.debt_credits) == (50, 150, 0)
    assert (result.refund.amount_minor, result.refund.reduced_minor) == (850, 150)
    assert await read_figures(top_up) == (0, 0, 0, 0, 0)
    assert (await list_moves(top_up))[-2:] == [("REFUND", -1_000, 0), ("ADJUSTMENT", -50, 0)]
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 1_000, 850, 0)
    await assert_ledger_intact()


async def test_each_partial_refund_takes_its_share_of_the_bonus(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=1_000, bonus=201)
    await spend_credits("alice", rate_cards, 100)
    parts = [(await refund_top_up(top_up, credits)).refund for credits in (500, 250, 250)]
    assert [(one.bonus_credits, one.bonus_spent, one.amount_minor, one.reduced_minor) for one in parts] == [
        (100, 0, 500, 0), (1, 49, 201, 49), (0, 51, 199, 51),
    ]  # fmt: skip
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 1_000, 900, 0)
    assert await read_figures(top_up) == (0, 0, 0, 0, 0)
    await assert_ledger_intact()


async def test_a_bonus_that_expired_unspent_does_not_reduce_the_money(db: str, rate_cards: RateCardCache) -> None:
    ends = await seconds_from_now(0.4)
    top_up = await create_paid_top_up(credits=1_000, bonus=200, expires_at=ends)
    await spend_credits("alice", rate_cards, 50)
    await wait_until(ends)
    half = (await refund_top_up(top_up, 500)).refund
    rest = (await refund_top_up(top_up)).refund
    assert (half.bonus_credits, half.bonus_expired, half.bonus_spent, half.amount_minor) == (0, 100, 0, 500)
    assert (rest.bonus_credits, rest.bonus_expired, rest.bonus_spent, rest.amount_minor) == (0, 50, 50, 450)
    await assert_ledger_intact()


async def test_a_refund_of_no_money_is_done_without_the_provider(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=500, bonus=500)
    await spend_credits("alice", rate_cards, 500)
    result = await refund_top_up(top_up, provider=UNREACHABLE)
    assert (result.refund.status, result.refund.amount_minor, result.refund.reduced_minor) == (
        RefundStatus.DONE,
        0,
        500,
    )
    assert await pools.fetch("SELECT 1 FROM sandbox_refund") == []
    assert await read_refund_figures(top_up) == (TopUpStatus.REFUNDED, 500, 0, 0)
    await assert_ledger_intact()


async def test_partial_refunds_in_another_currency_add_up_to_the_whole(db: str) -> None:
    terms = TopUpTerms(
        minimum_credits=500, maximum_credits=10_000, multiple_credits=100, currency="JPY", minor_per_credit=3
    )  # fmt: skip
    top_up = await create_paid_top_up(credits=700, terms=terms)
    amounts = [(await refund_top_up(top_up, part)).refund.amount_minor for part in (1, 233, 466)]
    assert (amounts, await read_refund_figures(top_up)) == ([3, 699, 1_398], (TopUpStatus.REFUNDED, 700, 2_100, 0))
    await assert_ledger_intact()


@pytest.mark.parametrize("credits", [1_001, 2**53 - 1])
async def test_a_refund_of_more_than_the_top_up_is_refused_and_nothing_moves(db: str, credits: int) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    with pytest.raises(RefundExceedsTopUp) as error:
        await refund_top_up(top_up, credits)
    assert (error.value.requested_credits, error.value.refundable_credits) == (credits, 1_000)
    await refund_top_up(top_up, 600)
    with pytest.raises(RefundExceedsTopUp) as error:
        await refund_top_up(top_up, 401)
    assert error.value.refundable_credits == 400
    await refund_top_up(top_up)
    with pytest.raises(RefundExceedsTopUp):
        await refund_top_up(top_up)
    assert (await list_moves(top_up), (await read_refund_figures(top_up))[1]) == (
        [("REFUND", -600, 0), ("REFUND", -400, 0)],
        1_000,
    )


async def test_unpaid_unknown_and_invalid_refunds_are_refused(db: str) -> None:
    top_up, pending = await create_paid_top_up(), await create_top_up("bob")
    with pytest.raises(TopUpNotPaid):
        await refund_top_up(pending)
    for other in (top_up._replace(id="0" * 32), top_up._replace(account_id=999_999), pending._replace(id=top_up.id)):
        with pytest.raises(TopUpNotFound):
            await refund_top_up(other)
    for wrong in ({"credits": 0}, {"credits": -1}, {"reason": " "}, {"key": ""}):
        with pytest.raises(InvalidInput):
            await refund_top_up(top_up, **wrong)
    assert await list_moves(top_up) == []


async def test_another_providers_top_up_is_refused_before_anything_moves(db: str) -> None:
    top_up = await create_paid_top_up()
    await pools.fetch("UPDATE top_up SET provider = 'other'")
    with pytest.raises(Unavailable):
        await refund_top_up(top_up)
    assert await list_moves(top_up) == []


async def test_the_same_request_again_is_the_first_refund(db: str) -> None:
    top_up = await create_paid_top_up()
    first, again = await refund_top_up(top_up, 100, key="k"), await refund_top_up(top_up, 100, key="k")
    assert (first.replayed, again.replayed, again.refund) == (False, True, first.refund)
    with pytest.raises(IdempotencyConflict):
        await refund_top_up(top_up, 101, key="k")
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 100, 100, 0)


async def test_twenty_concurrent_refunds_never_exceed_the_top_up(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    results = await gather(*(refund_top_up(top_up, 70) for _ in range(20)), return_exceptions=True)
    assert [type(one) for one in results].count(RefundExceedsTopUp) == 6
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 980, 980, 0)
    [paid_back] = await pools.fetch("SELECT refunded_minor FROM sandbox_payment")
    assert (paid_back[0], await read_figures(top_up)) == (980, (20, 0, 0, 0, 20))
    await assert_ledger_intact()


async def test_credits_return_if_the_provider_refuses_the_refund(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=1_000, bonus=100)
    await spend_credits("alice", rate_cards, 400)
    # Begun at the provider, and no event about it has arrived.
    other = RefundOrder(reference="", payment_ref=str(top_up.payment_ref), amount_minor=900, currency="USD")
    await store.create_refund(other, reference=None)

    result = await refund_top_up(top_up)

    assert (result.refund.status, result.refund.debt_credits, result.top_up.status) == (
        RefundStatus.FAILED,
        300,
        TopUpStatus.PAID,
    )
    assert (await list_moves(top_up))[-4:] == [
        ("REFUND", -700, 0), ("DEBT", 0, 300), ("DEBT", 0, -300), ("REFUND", 700, 0),
    ]  # fmt: skip
    assert await read_figures(top_up) == (700, 0, 0, 0, 700)
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 0, 0, 0)
    await assert_ledger_intact()


async def test_debt_that_was_paid_before_the_refusal_returns_too(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=500)
    await spend_credits("alice", rate_cards, 500)
    result = await refund_top_up(top_up, provider=UNREACHABLE)
    await create_paid_top_up(credits=800)
    assert await read_figures(top_up) == (300, 0, 0, 0, 300)
    refused = external_refund(top_up, 500, RefundStatus.FAILED, reference=f"{top_up.account_id}-{result.refund.id}")
    assert await deliver(refused) is EventOutcome.REFUND_FAILED
    assert await read_figures(top_up) == (800, 0, 0, 0, 800)
    assert await deliver(refused) is EventOutcome.UNCHANGED
    await assert_ledger_intact()


async def test_an_unknown_outcome_is_queried_and_settled_once(db: str) -> None:
    top_up = await create_paid_top_up()
    result = await refund_top_up(top_up, 400, provider=LOST_ANSWER)
    assert (result.refund.status, await read_figures(top_up)) == (RefundStatus.PENDING, (600, 0, 0, 0, 600))
    assert await requests.reconcile_refunds(SANDBOX) == 0  # too early
    await pools.fetch("UPDATE top_up_refund SET queried_at = queried_at - interval '11 minutes'")
    counts: list[int] = await gather(*(requests.reconcile_refunds(SANDBOX) for _ in range(5)))
    assert sorted(counts) == [0, 0, 0, 0, 1]
    assert await requests.reconcile_refunds(SANDBOX) == 0
    [row] = await pools.fetch("SELECT status, refund_ref FROM top_up_refund")
    [[there]] = await pools.fetch("SELECT refund_ref FROM sandbox_refund")
    assert tuple(row) == ("DONE", there)
    assert (await list_moves(top_up), await read_refund_figures(top_up)) == (
        [("REFUND", -400, 0)],
        (TopUpStatus.PAID, 400, 400, 0),
    )
    await assert_ledger_intact()


async def test_a_refund_that_never_arrived_is_sent_again_and_made_once(db: str) -> None:
    top_up = await create_paid_top_up()
    await refund_top_up(top_up, 400, provider=UNREACHABLE)
    assert (await refund_top_up(top_up, 300, provider=UNREACHABLE, key="k")).refund.status is RefundStatus.PENDING
    assert (await refund_top_up(top_up, 300, key="k")).refund.status is RefundStatus.PENDING  # the call is not repeated
    assert await pools.fetch("SELECT 1 FROM sandbox_refund") == []
    assert await requests.reconcile_refunds(SANDBOX, after_seconds=0) == 2
    found = await pools.fetch("SELECT status FROM top_up_refund")
    assert [status for (status,) in found] == ["DONE", "DONE"]
    [[back]] = await pools.fetch("SELECT refunded_minor FROM sandbox_payment")
    assert back == 700


async def test_the_limit_holds_with_stale_planner_statistics(db: str) -> None:
    """With statistics of one row the planner might run the subquery again for each row: see pending_sweep."""
    top_up = await create_paid_top_up()
    await refund_top_up(top_up, 100, provider=LOST_ANSWER)
    await pools.fetch("VACUUM ANALYZE top_up_refund")
    for number in range(6):
        await refund_top_up(top_up, 100, provider=LOST_ANSWER, key=f"k-{number}")
    assert await requests.reconcile_refunds(SANDBOX, after_seconds=0, limit=2) == 2


async def test_a_refund_that_cannot_be_queried_does_not_affect_the_others(db: str) -> None:
    first, second = await create_paid_top_up("alice"), await create_paid_top_up("bob")
    for top_up in (first, second):
        await refund_top_up(top_up, provider=LOST_ANSWER)
    await pools.fetch("UPDATE top_up SET provider = 'gone' WHERE id = $1", first.id)
    assert await requests.reconcile_refunds(SANDBOX, after_seconds=0) == 2
    assert [(await read_refund_figures(one))[0] for one in (first, second)] == [TopUpStatus.REFUNDED] * 2
    found = await pools.fetch("SELECT top_up_id, status FROM top_up_refund")
    assert {tuple(record) for record in found} == {(first.id, "PENDING"), (second.id, "DONE")}


async def test_the_background_loop_settles_refunds_whose_answer_was_lost(db: str) -> None:
    top_up = await create_paid_top_up()
    await refund_top_up(top_up, 400, provider=LOST_ANSWER)
    await pools.fetch("UPDATE top_up_refund SET queried_at = queried_at - interval '11 minutes'")
    async with asyncio.timeout(10), run_in_background({"refunds": lambda: reconcile_refunds(SANDBOX)}):
        while not await pools.fetch("SELECT 1 FROM top_up_refund WHERE status = 'DONE'"):
            await wait_until(await seconds_from_now(0.01))
    [row] = await pools.fetch("SELECT refunded_credits, refunded_minor FROM top_up")
    assert tuple(row) == (400, 400)


async def test_the_sandbox_refunds_once_for_a_reference_and_no_more_than_was_paid(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    payment_ref = str(top_up.payment_ref)

    def order(reference: str, amount_minor: int) -> RefundOrder:
        return RefundOrder(reference=reference, payment_ref=payment_ref, amount_minor=amount_minor, currency="USD")

    same = await gather(*(SANDBOX.create_refund(order("one", 400)) for _ in range(10)))
    assert {one.refund_ref for one in same} == {same[0].refund_ref}
    assert same[0].status is RefundStatus.DONE
    assert await SANDBOX.find_refund("one", payment_ref) == same[0]
    assert await SANDBOX.find_refund("another", payment_ref) is None
    assert (await SANDBOX.create_refund(order("two", 601))).status is RefundStatus.FAILED
    assert (await SANDBOX.create_refund(order("three", 600))).status is RefundStatus.DONE
    strange = RefundOrder(reference="four", payment_ref="pay_unknown", amount_minor=1, currency="USD")
    assert (await SANDBOX.create_refund(strange)).status is RefundStatus.FAILED


async def test_the_sandboxs_events_of_refunds_and_disputes_are_verified_and_parsed(db: str) -> None:
    top_up = await create_paid_top_up()
    for reported in (external_refund(top_up, 5), external_refund(top_up, 5, RefundStatus.FAILED, reference="1-x"),
                 build_dispute(top_up, DisputeStatus.OPEN), build_dispute(top_up, DisputeStatus.LOST)):  # fmt: skip
        event = await SANDBOX.verify_event(*SANDBOX.sign_event(reported))
        assert event is not None
        assert event.object == reported


async def test_an_event_about_a_refund_that_is_done_changes_nothing(db: str) -> None:
    top_up = await create_paid_top_up()
    result = await refund_top_up(top_up, 400)
    ours = {"reference": f"{top_up.account_id}-{result.refund.id}", "refund_ref": result.refund.refund_ref}
    for status in (RefundStatus.PENDING, RefundStatus.DONE):
        assert await deliver(external_refund(top_up, 400, status, **ours)) is EventOutcome.UNCHANGED
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 400, 400, 0)
    assert (
        await deliver(external_refund(top_up, 400, RefundStatus.FAILED, **ours)) is EventOutcome.REFUND_FAILED
    )  # a bank returned the money
    assert await deliver(external_refund(top_up, 400, RefundStatus.DONE, **ours)) is EventOutcome.UNCHANGED
    assert (await read_refund_figures(top_up), await read_figures(top_up)) == (
        (TopUpStatus.PAID, 0, 0, 0),
        (1_000, 0, 0, 0, 1_000),
    )
    await assert_ledger_intact()


async def test_a_refund_begun_at_the_provider_has_the_same_effect(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=1_000, bonus=100)
    await spend_credits("alice", rate_cards, 100)
    reported = external_refund(top_up, 250, RefundStatus.PENDING)
    assert await deliver(reported) is EventOutcome.REFUNDED
    assert await deliver(reported) is EventOutcome.UNCHANGED
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 250, 250, 0)
    [entry] = await pools.fetch("SELECT actor, credits FROM entry WHERE kind = 'REFUND'")
    assert tuple(entry) == ("provider:sandbox", -250)
    assert await deliver(external_refund(top_up, 750)) is EventOutcome.REFUNDED
    assert (await read_refund_figures(top_up), await read_figures(top_up)) == (
        (TopUpStatus.REFUNDED, 1_000, 1_000, 0),
        (0, 0, 0, 0, 0),
    )
    assert await deliver(external_refund(top_up, 1)) is EventOutcome.WAITING
    await assert_ledger_intact()


async def test_a_refund_that_follows_a_failed_one_waits_until_that_is_known(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    first: dict[str, Any] = {"refund_ref": "re_first"}
    second: dict[str, Any] = {"refund_ref": "re_second"}
    assert await deliver(external_refund(top_up, 1_000, **first)) is EventOutcome.REFUNDED
    assert await deliver(external_refund(top_up, 300, **second), event_id="sandbox:early") is EventOutcome.WAITING
    assert (await list_inbox())["sandbox:early"]["last_error"] == "amount in minor units is 300, 0 could be returned"
    assert await deliver(external_refund(top_up, 1_000, RefundStatus.FAILED, **first)) is EventOutcome.REFUND_FAILED
    assert await deliver(external_refund(top_up, 300, **second), event_id="sandbox:early") is EventOutcome.REFUNDED
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 300, 300, 0)
    await assert_ledger_intact()


async def test_an_unknown_refund_that_has_failed_takes_nothing_and_is_final(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    assert await deliver(external_refund(top_up, 300, refund_ref="re_second")) is EventOutcome.REFUNDED
    assert (
        await deliver(external_refund(top_up, 1_000, RefundStatus.FAILED, refund_ref="re_first"))
        is EventOutcome.REFUND_FAILED
    )
    assert (
        await deliver(external_refund(top_up, 1_000, RefundStatus.DONE, refund_ref="re_first"))
        is EventOutcome.UNCHANGED
    )
    assert (await read_refund_figures(top_up), (await read_figures(top_up)).posted) == (
        (TopUpStatus.PAID, 300, 300, 0),
        700,
    )
    await assert_ledger_intact()


async def test_events_after_the_failure_of_a_refund_have_no_effect(db: str) -> None:
    top_up = await create_paid_top_up()
    for status in (RefundStatus.FAILED, RefundStatus.PENDING, RefundStatus.DONE):
        await deliver(external_refund(top_up, 400, status, refund_ref="re_1"))
    assert (await read_refund_figures(top_up), await list_moves(top_up)) == ((TopUpStatus.PAID, 0, 0, 0), [])
    await assert_ledger_intact()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"currency": "JPY"}, "currency is JPY, ours is USD"),
        ({"live": True}, "mode is live, ours is test"),
        ({"amount_minor": 1_001}, "amount in minor units is 1001, 1000 could be returned"),
        ({"reference": "1-" + "0" * 32}, "There is no refund"),
        ({"reference": "nonsense"}, "There is no refund"),
    ],
)
async def test_a_refund_event_that_differs_from_our_row_is_parked(
    db: str, changes: dict[str, Any], reason: str
) -> None:
    top_up = await create_paid_top_up()
    reported = (
        external_refund(top_up, 400, **changes) if "amount_minor" not in changes else external_refund(top_up, **changes)
    )
    assert (await deliver(reported, event_id="sandbox:odd")).startswith("PARKED")
    stored = (await list_inbox())["sandbox:odd"]
    assert (stored["handled_at"], reason in stored["last_error"]) == (None, True)
    assert (await list_moves(top_up), await read_refund_figures(top_up)) == ([], (TopUpStatus.PAID, 0, 0, 0))


async def test_an_amount_that_differs_from_our_refund_is_parked(db: str) -> None:
    top_up = await create_paid_top_up()
    result = await refund_top_up(top_up, 400, provider=UNREACHABLE)
    reported = external_refund(top_up, 399, reference=f"{top_up.account_id}-{result.refund.id}")
    assert await deliver(reported) is EventOutcome.PARKED_MISMATCH
    assert (await read_refund_figures(top_up), (await read_figures(top_up)).posted) == (
        (TopUpStatus.PAID, 400, 400, 0),
        600,
    )


async def test_a_refund_event_before_its_payment_waits(db: str) -> None:
    top_up = await create_top_up("alice", 1_000)
    payment = await payment_event(top_up, payment_ref=top_up.provider_ref)
    reported = external_refund(top_up, 400, payment_ref=top_up.provider_ref)
    assert [await deliver(reported, event_id="sandbox:early") for _ in range(2)] == [EventOutcome.WAITING] * 2
    stored = (await list_inbox())["sandbox:early"]
    assert (stored["handled_at"], stored["attempts"], stored["parked_at"]) == (None, 1, None)
    assert stored["next_attempt_at"] is not None
    assert await settle(payment) is EventOutcome.CREDITED
    assert await deliver(reported, event_id="sandbox:early") is EventOutcome.REFUNDED
    assert await deliver(reported, event_id="sandbox:early") is EventOutcome.DUPLICATE
    assert (await list_inbox())["sandbox:early"]["handled_at"] is not None
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 400, 400, 0)
    await assert_ledger_intact()


async def test_a_refund_does_not_take_claimed_credits_of_a_hold(db: str) -> None:
    rate_cards = await publish_rate_cards()
    top_up = await create_paid_top_up(credits=500)
    hold = hold_request(await start_task("alice"), 400)
    await holding.place_hold(hold, rate_cards)
    await refund_top_up(top_up)
    [open_hold] = await ledger_queries.list_holds(top_up.account_id, before_number=9, limit=9, open_only=True)
    assert (open_hold.remaining, await read_figures(top_up)) == (400, (400, 400, 0, 400, 0))
    await assert_ledger_intact()


@settings(max_examples=300, deadline=None)
@given(
    credits=st.integers(1, 60), amount=st.integers(1, 10_000), tax=st.integers(0, 3_000), bonus=st.integers(0, 50),
    parts=st.lists(st.tuples(st.integers(1, 20), st.booleans()), max_size=12),
)  # fmt: skip
def test_parts_of_any_size_add_up_exactly_even_if_some_fail(
    credits: int, amount: int, tax: int, bonus: int, parts: list[tuple[int, bool]]
) -> None:
    top_up = build_top_up(credits, amount, bonus)._replace(total_minor=amount + tax)
    requests: list[RefundRow] = []
    numbers = itertools.count()
    for wanted, refused in [*parts, (credits, False)]:
        given = RemainingAmounts.compute(top_up, requests, [])
        if not (part := min(wanted, given.refundable_credits)):
            break
        row = build_refund(next(numbers), part, given.split_bonus(part), given.split_money(part))
        requests.append(row._replace(status=RefundStatus.FAILED) if refused else row)
        left = RemainingAmounts.compute(top_up, requests, [])
        assert min(left.credits, left.bonus_credits, left.money_minor) >= 0
    standing = [row for row in requests if row.is_effective]
    assert sum(row.credits for row in standing) == credits
    assert sum(row.total_bonus_credits for row in standing) == bonus
    assert sum(row.amount_minor for row in standing) == amount + tax


def build_top_up(credits: int, amount_minor: int, bonus: int) -> TopUpRow:
    """A paid top-up with these figures."""
    return TopUpRow(
        account_id=1, id="t", credits=credits, amount_minor=amount_minor, currency="USD", status=TopUpStatus.PAID,
        provider="sandbox", provider_ref="p", payment_url=None, return_url=None, actor="user:alice", created_at=NOON,
        paid_at=NOON, bonus_credits=bonus,
    )  # fmt: skip


def build_refund(number: int, credits: int, bonus: int, amount_minor: int) -> RefundRow:
    """A refund that is DONE, of unspent bonus."""
    return RefundRow(
        account_id=1, id=str(number), top_up_id="t", credits=credits, debt_credits=0, bonus_credits=bonus,
        bonus_expired=0, bonus_spent=0, amount_minor=amount_minor, reduced_minor=0, status=RefundStatus.DONE,
        refund_ref=None, reason="", actor="", created_at=NOON, decided_at=NOON,
    )  # fmt: skip
