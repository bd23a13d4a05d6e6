"""The clock of the database steps back, by 15 s (another server is promoted) or an hour: everything goes on.

Accounts that changed before have their last entry ahead of the clock. New entries have the time of that entry, and
prices are those of the newest known rate card.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest

from app.db import pools
from app.ledger import grants, low_balance, notifications, queries
from app.ledger.due_changes_sweep import DueChangesSweep
from app.ledger.rules.account_state import EntryKind
from app.pricing import publishing
from app.pricing.outcomes import BlockRunOutcome
from app.pricing.rate_card_cache import LEASE, RateCardCache, StaleRateCards
from app.tasks import account_statement, block_run_outcomes, holds, lifecycle, reversals, stop_and_resume
from app.tasks.block_run_outcomes import FinishBlockRunRequest
from app.tasks.charging import Charge, charge_many
from app.tasks.costs import agent_costs_by_day
from app.tasks.rules import StopReason, TaskState, TaskStatus
from app.tasks.stop_and_resume import ResumeTaskRequest
from app.topups.auto_topup.purchasing import buy_if_needed
from app.topups.auto_topup.rules import Buy
from app.topups.provider import DisputeStatus
from app.topups.provider_events import EventOutcome
from app.topups.sandbox.store import CardBehaviour
from app.topups.settlement import settle
from app.verify.verifier import verify_ledger
from tests.factories import (
    block_run_request,
    capture_request,
    charge_block_run,
    get_balance,
    get_figures,
    get_task,
    grant_credits,
    hold_request,
    publish_rate_cards,
    reverse_block_run,
    seconds_from_now,
    start_task,
    unique_id,
)
from tests.settable_clock import SettableClock, database_with_settable_clock
from tests.topups.auto_topup_fixtures import counting_sandbox, enable_auto_topup
from tests.topups.refund_fixtures import build_dispute, create_paid_top_up, deliver, refund_top_up
from tests.topups.top_up_fixtures import SANDBOX, TERMS, create_top_up, payment_event, posted_credits, reload

pytestmark = pytest.mark.anyio

HOUR: Final = 3_600


@pytest.fixture(scope="module")
async def clock(database_url: str) -> AsyncIterator[SettableClock]:
    async with database_with_settable_clock(database_url) as clock:
        await publishing.publish_default_card()
        await publish_rate_cards()
        yield clock


@pytest.fixture
async def rate_cards(clock: SettableClock) -> RateCardCache:
    """A cache that was filled while the clock was an hour ahead."""
    await clock.set(seconds_ahead=HOUR)
    rate_cards = RateCardCache()
    await rate_cards.refresh()
    return rate_cards


async def task_with_credits(credits: int = 100, **more: Any) -> TaskState:
    owner = unique_id("owner")
    await grant_credits(owner, credits)
    return await start_task(owner, **more)


async def list_entries(account_id: int) -> list[tuple[str, int]]:
    """Kind and credits of every entry. The times never decrease."""
    found = (await queries.list_entries(account_id, before_seq=2**31, limit=100))[::-1]
    assert [entry.at for entry in found] == sorted(entry.at for entry in found)
    return [(entry.kind, entry.credits) for entry in found]


async def charge_again(task: TaskState, rate_cards: RateCardCache) -> None:
    charge = await charge_block_run(task, rate_cards)
    last = (await queries.list_entries(task.account_id, before_seq=2**31, limit=2))[-1]
    assert charge.entry is not None
    assert (charge.entry.at, charge.balance.available, charge.balance.as_of) == (last.at, 80, last.at)
    assert (await get_balance(task.account_id)).as_of >= last.at


async def charge_nothing(task: TaskState, rate_cards: RateCardCache) -> None:
    charge = await charge_block_run(task, rate_cards, block="NoteBlock")
    assert (charge.entry, charge.balance.available, charge.block_run.charged_at >= task.started_at) == (None, 90, True)


async def charge_too_much(task: TaskState, rate_cards: RateCardCache) -> None:
    [refusal] = await charge_many(
        [(task.account_id, block_run_request(task, block="ItemBlock", measurements=hold_request(task, 91).at_most))],
        rate_cards,
    )
    assert not isinstance(refusal, Charge)
    stopped = await get_task(task)
    assert (stopped.status, stopped.stop_reason) == (TaskStatus.STOPPED, StopReason.OUT_OF_CREDITS)
    await grant_credits(await owner_of(task), 1)
    resumed = await stop_and_resume.resume_task(ResumeTaskRequest(task_id=task.task_id, actor="service:test"))
    assert resumed.task.status is TaskStatus.RUNNING


async def hold_and_capture(task: TaskState, rate_cards: RateCardCache) -> None:
    request = hold_request(task, 30)
    await holds.place_hold(request, rate_cards)
    assert await get_figures(task) == (90, 30, 60)
    captured = await holds.capture_hold(capture_request(request, 20))
    assert captured.hold.closed_at is not None
    assert captured.hold.closed_at >= captured.hold.placed_at
    assert await get_figures(task) == (70, 0, 70)


async def hold_and_void(task: TaskState, rate_cards: RateCardCache) -> None:
    request = hold_request(task, 30)
    await holds.place_hold(request, rate_cards)
    await holds.void_hold(request.task_id, request.block_run_id)
    assert await get_figures(task) == (90, 0, 90)


async def charge_a_budget(task: TaskState, rate_cards: RateCardCache) -> None:
    owner = await owner_of(task)
    with_budget = await start_task(owner, budget=50, budget_timeout_seconds=60)
    await charge_block_run(with_budget, rate_cards)
    assert await get_figures(task) == (80, 40, 40)
    await lifecycle.finish_task(with_budget.task_id, TaskStatus.COMPLETED)
    assert await get_figures(task) == (80, 0, 80)


async def grant_and_revoke(task: TaskState, _: RateCardCache) -> None:
    granted = await grant_credits(await owner_of(task), 5, expires_at=await seconds_from_now(2 * HOUR))
    await grants.revoke_grant(
        task.account_id, granted.grant.number, reason="for a test", key=unique_id("revoke"), actor="operator:test"
    )
    assert await get_figures(task) == (90, 0, 90)


async def finish_and_cancel(task: TaskState, _: RateCardCache) -> None:
    other = await start_task(await owner_of(task))
    for ended in (
        await lifecycle.finish_task(task.task_id, TaskStatus.FAILED),
        await lifecycle.cancel_task(other.task_id),
    ):
        assert ended.task.ended_at is not None
        assert ended.task.ended_at >= ended.task.started_at


async def reverse(task: TaskState, rate_cards: RateCardCache) -> None:
    run = (await charge_block_run(task, rate_cards)).block_run
    await reverse_block_run(run, 4)
    request = FinishBlockRunRequest(
        task_id=task.task_id,
        block_run_id=(await charge_block_run(task, rate_cards)).block_run.block_run_id,
        outcome=BlockRunOutcome.SUCCEEDED,
        actor="service:test",
    )
    await block_run_outcomes.finish_block_run(request, rate_cards)
    await reversals.reverse_task(
        task.task_id, reason="for a test", idempotency_key=unique_id("reversal"), actor="operator:test"
    )
    assert await get_figures(task) == (100, 0, 100)


async def change_settings_and_read(task: TaskState, _: RateCardCache) -> None:
    owner = await owner_of(task)
    await low_balance.set_low_balance_threshold(owner, 5, key=unique_id("low"), actor=f"user:{owner}")
    await notifications.mark_read(task.account_id, None)
    assert len((await account_statement.statement_page(task.account_id, limit=10)).groups) == 2


async def owner_of(task: TaskState) -> str:
    return (await get_balance(task.account_id)).owner_id


@pytest.mark.parametrize("seconds_back", [15, HOUR])
@pytest.mark.parametrize(
    "operation",
    [
        charge_again,
        charge_nothing,
        charge_too_much,
        hold_and_capture,
        hold_and_void,
        charge_a_budget,
        grant_and_revoke,
        finish_and_cancel,
        reverse,
        change_settings_and_read,
    ],
    ids=lambda operation: operation.__name__,
)
async def test_an_account_whose_last_entry_is_ahead_of_the_clock_goes_on(
    clock: SettableClock,
    rate_cards: RateCardCache,
    operation: Callable[[TaskState, RateCardCache], Awaitable[None]],
    seconds_back: int,
) -> None:
    task = await task_with_credits()
    await charge_block_run(task, rate_cards)
    await clock.set(seconds_ahead=HOUR - seconds_back)
    if operation is not charge_again:  # also with a cache that was filled afterwards
        await rate_cards.refresh()
    await operation(task, rate_cards)
    await list_entries(task.account_id)
    assert (await verify_ledger()).violations == []


async def test_costs_by_day_include_the_day_of_the_last_charge(clock: SettableClock, rate_cards: RateCardCache) -> None:
    await clock.set(seconds_ahead=24 * HOUR)
    await rate_cards.refresh()
    task = await task_with_credits()
    await charge_block_run(task, rate_cards)
    await clock.set(seconds_ahead=0)
    key = (task.account_id, task.agent_id)
    costs = await agent_costs_by_day([key], days=2, time_zone="UTC")
    assert [day.credits for day in costs[key]] == [0, 10]


async def test_a_hold_that_has_expired_stays_expired(clock: SettableClock, rate_cards: RateCardCache) -> None:
    await clock.set(seconds_ahead=0)
    await rate_cards.refresh()
    task = await task_with_credits()
    await holds.place_hold(hold_request(task, 30, timeout_seconds=60), rate_cards)
    await clock.set(seconds_ahead=HOUR)
    assert await get_figures(task) == (100, 0, 100)
    await clock.set(seconds_ahead=0)
    await charge_block_run(task, rate_cards)
    assert await get_figures(task) == (90, 0, 90)
    assert await list_entries(task.account_id) == [(EntryKind.GRANT, 100), (EntryKind.CHARGE, -10)]


async def test_a_grant_is_spent_until_its_expiry_by_the_time_of_the_account(
    clock: SettableClock, rate_cards: RateCardCache
) -> None:
    task = await task_with_credits(10)
    await grant_credits(await owner_of(task), 50, expires_at=await seconds_from_now(60))
    await charge_block_run(task, rate_cards)
    await clock.set(seconds_ahead=0)
    await rate_cards.refresh()
    await charge_block_run(task, rate_cards)
    assert await get_figures(task) == (40, 0, 40)
    await clock.set(seconds_ahead=HOUR + 61)
    assert await get_figures(task) == (10, 0, 10)
    assert (await list_entries(task.account_id))[-1] == (EntryKind.EXPIRY, -30)


async def test_the_sweep_of_due_changes_ends_while_accounts_are_ahead_of_the_clock(
    clock: SettableClock, rate_cards: RateCardCache
) -> None:
    task = await task_with_credits()
    await holds.place_hold(hold_request(task, 30, timeout_seconds=60), rate_cards)
    await grant_credits(await owner_of(task), 5, expires_at=await seconds_from_now(60))
    await clock.set(seconds_ahead=0)
    sweep = DueChangesSweep()
    while await sweep.apply_all():  # accounts of other tests
        pass
    assert await get_figures(task) == (105, 30, 75)


async def test_a_card_that_was_in_force_stays_in_force_for_accounts_that_used_it(
    clock: SettableClock, rate_cards: RateCardCache
) -> None:
    task, other = await task_with_credits(), await task_with_credits()
    await clock.set(seconds_ahead=HOUR + 60)
    newest = await publish_rate_cards({"blocks": [{"block": "ReplicateModelBlock", "credits": 11}]})
    version = newest.card_at(await seconds_from_now(0)).version
    try:
        assert (await charge_block_run(task, newest)).block_run.rate_card_version == version
        await clock.set(seconds_ahead=HOUR)
        await newest.refresh()
        assert (await charge_block_run(task, newest)).block_run.rate_card_version == version
        # No charge of the other account has used the new card, and by the clock it is not in force yet.
        assert (await charge_block_run(other, newest)).block_run.rate_card_version == version - 1
        published = await publishing.publish_rate_card(
            {"blocks": [{"block": "ReplicateModelBlock", "credits": 12}]},
            actor="operator:test",
            idempotency_key=unique_id("card"),
        )
        assert published.card.effective_at > newest.card_by_version(version).effective_at
    finally:
        await pools.fetch("DELETE FROM rate_card WHERE version >= $1", version)


async def test_before_the_first_card_took_effect_it_is_used_all_the_same(clock: SettableClock) -> None:
    await clock.set(seconds_ahead=-26 * HOUR)
    rate_cards = RateCardCache()
    task = await task_with_credits()
    assert (await charge_block_run(task, rate_cards)).block_run.rate_card_version == 1
    assert (await rate_cards.current_card()).version == 1


async def test_a_cache_is_too_old_after_its_lease_even_if_the_clock_has_stepped_back(
    clock: SettableClock, rate_cards: RateCardCache
) -> None:
    await clock.set(seconds_ahead=0)
    rate_cards._read_monotonic -= LEASE.total_seconds()
    with pytest.raises(StaleRateCards):
        rate_cards.card_at(await seconds_from_now(0))


async def test_top_ups_refunds_and_disputes_go_on(clock: SettableClock, rate_cards: RateCardCache) -> None:
    owner = unique_id("owner")
    paid, pending = await create_paid_top_up(owner, 1_000), await create_top_up(owner, 500)
    disputed = await create_paid_top_up(owner, 700)
    assert await deliver(build_dispute(disputed, DisputeStatus.OPEN)) is EventOutcome.DISPUTED
    await clock.set(seconds_ahead=0)
    assert await settle(await payment_event(pending)) is EventOutcome.CREDITED
    settled = await reload(pending)
    assert settled.paid_at is not None
    assert settled.paid_at >= settled.created_at
    await refund_top_up(paid, 400)
    assert await deliver(build_dispute(disputed, DisputeStatus.LOST)) is EventOutcome.DISPUTE_LOST
    assert await list_entries(paid.account_id) == [
        (EntryKind.TOP_UP, 1_000), (EntryKind.TOP_UP, 700), (EntryKind.TOP_UP, 500), (EntryKind.REFUND, -400),
        (EntryKind.DISPUTE_LOST, -700),
    ]  # fmt: skip
    [dispute] = await pools.fetch("SELECT opened_at, decided_at FROM dispute WHERE top_up_id = $1", disputed.id)
    assert dispute["decided_at"] >= dispute["opened_at"]
    assert (await verify_ledger()).violations == []


async def test_a_card_that_always_declines_is_charged_three_times_at_most(
    clock: SettableClock, rate_cards: RateCardCache
) -> None:
    owner = unique_id("owner")
    account_id, provider = await enable_auto_topup(owner, CardBehaviour.DECLINES), counting_sandbox()
    await clock.set(seconds_ahead=0)
    for minutes in range(0, 3 * 24 * 60, 30):  # the card was saved an hour ahead of the clock
        await clock.set(seconds_ahead=60 * minutes)
        await buy_if_needed(account_id, provider, TERMS)
    assert len(provider.charged) == 3


async def test_auto_top_up_buys_once(clock: SettableClock, rate_cards: RateCardCache) -> None:
    owner = unique_id("owner")
    account_id = await enable_auto_topup(owner)
    assert isinstance(await buy_if_needed(account_id, SANDBOX, TERMS), Buy)
    await start_task(owner)
    await clock.set(seconds_ahead=0)
    assert not isinstance(await buy_if_needed(account_id, SANDBOX, TERMS), Buy)
    assert await posted_credits(account_id) == 1_000
