"""Holds of block runs that are priced by measurement: placing, capture, void and expiry."""

import random
from asyncio import gather
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.db import pools
from app.errors import (
    BillingError,
    BlockRunHeld,
    HoldClosed,
    HoldExceeded,
    HoldNotFound,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidInput,
    MeasurementMissing,
    PriceNotFound,
    TaskEnded,
    TaskNotFound,
    TaskStopped,
)
from app.ledger import queries
from app.ledger.rules.account_state import HoldStatus
from app.pricing.measurements import Measurements
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import holds as holding
from app.tasks import lifecycle
from app.tasks.charging import Charge, charge_many
from app.tasks.holds import HoldResult, OverHold, PlaceHoldRequest
from app.tasks.rules import SignalKind, StopReason, TaskState, TaskStatus
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
    seconds_from_now,
    start_task,
    try_charge,
    wait_until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def prices(db: str) -> RateCardCache:
    """Prices: 1 credit for each item."""
    return await publish_rate_cards()


async def lines(task: TaskState) -> list[tuple[str, int]]:
    """The account's entries, oldest first."""
    page = await queries.list_entries(task.account_id, before_seq=999, limit=999)
    return [(entry.kind, entry.credits) for entry in reversed(page)]


async def rows_of(task: TaskState) -> list[Any]:
    """Everything that a refusal must not change."""
    sql = """
        SELECT (SELECT array_agg(a.* ORDER BY id) FROM account AS a)::text AS account,
               (SELECT array_agg(g.* ORDER BY number) FROM credit_grant AS g)::text AS grants,
               (SELECT array_agg(h.* ORDER BY number) FROM hold AS h)::text AS holds,
               (SELECT array_agg(t.* ORDER BY task_id) FROM task AS t)::text AS tasks,
               (SELECT count(*) FROM entry) AS entries, (SELECT count(*) FROM block_run) AS block_runs
    """
    return [tuple(record) for record in await pools.fetch(sql)]


async def refused(task: TaskState, kind: type[BillingError], call: Any) -> Any:
    """The error that refuses `call`, after checking that nothing changed."""
    before = await rows_of(task)
    with pytest.raises(kind) as error:
        await call
    assert await rows_of(task) == before
    return error.value


async def test_a_hold_is_priced_at_its_maximum_and_claims_grants_in_burn_order(prices: RateCardCache) -> None:
    await grant_credits("alice", 50)
    await grant_credits("alice", 20, priority=-1)
    task = await start_task("alice")

    held = await holding.place_hold(hold_request(task, 30, timeout_seconds=600), prices)

    assert (held.hold.credits, held.hold.remaining, held.hold.claims) == (30, 30, {2: 20, 1: 10})
    assert (held.hold.status, held.replayed, held.block_run, held.entry) == (HoldStatus.OPEN, False, None, None)
    assert (held.hold.expires_at - held.hold.placed_at).total_seconds() == 600
    assert (held.task.total, held.task.steps, held.balance.available) == (0, 0, 40)
    assert await get_figures(task) == (70, 30, 40)
    assert await lines(task) == [("GRANT", 50), ("GRANT", 20)]
    assert (await verify_ledger()).violations == []


async def test_held_credits_are_available_only_to_the_capture(prices: RateCardCache) -> None:
    await grant_credits("alice", 35)
    one, other = await start_task("alice"), await start_task("alice")
    hold = hold_request(one, 30)
    await holding.place_hold(hold, prices)

    refusal = await try_charge(other, prices)
    assert isinstance(refusal, InsufficientCredits)
    assert (refusal.required_credits, refusal.available_credits) == (10, 5)
    assert isinstance(await try_charge(one, prices), InsufficientCredits)  # the hold is for its own block run only

    held = await holding.capture_hold(capture_request(hold, 30))
    assert held.entry is not None
    assert (held.entry.credits, held.entry.draws, held.entry.hold_number) == (-30, ((1, 30),), 1)
    assert await get_figures(one) == (5, 0, 5)
    assert (await verify_ledger()).violations == []


@pytest.mark.parametrize("items", [30, 29, 1])
async def test_a_capture_charges_the_measurements_and_releases_the_rest(prices: RateCardCache, items: int) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30, block_run_id="run")
    await holding.place_hold(hold, prices)

    held = await holding.capture_hold(capture_request(hold, items, request_id="request"))

    assert held.entry is not None
    line = held.entry
    assert (line.kind, line.credits, line.hold_number, line.request_id) == ("CHARGE", -items, 1, "request")
    assert (held.hold.status, held.hold.captured, held.hold.released, held.hold.priced_credits) == (
        HoldStatus.CAPTURED, items, 30 - items, items,
    )  # fmt: skip
    assert held.block_run is not None
    assert (held.block_run.block_run_id, held.block_run.cost, held.block_run.position) == ("run", items, 1)
    assert held.block_run.rule == {"credits": 1, "unit": "item"}
    assert (held.task.total, held.task.steps, held.replayed) == (items, 1, False)
    assert await get_figures(task) == (100 - items, 0, 100 - items)
    assert (await verify_ledger()).violations == []


async def test_a_capture_above_the_hold_is_refused_or_capped_as_requested(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30)
    await holding.place_hold(hold, prices)

    above = await refused(task, HoldExceeded, holding.capture_hold(capture_request(hold, 31)))
    assert (above.required_credits, above.held_credits, above.shortfall_credits) == (31, 30, 1)

    held = await holding.capture_hold(capture_request(hold, 45, over_hold=OverHold.CAP))
    assert (held.hold.priced_credits, held.hold.captured, held.hold.released) == (45, 30, 0)
    assert held.block_run is not None
    assert held.block_run.cost == 30
    assert await get_figures(task) == (70, 0, 70)
    [record] = await pools.fetch("SELECT priced_credits, captured, status FROM hold")
    assert tuple(record) == (45, 30, "CAPTURED")
    assert (await verify_ledger()).violations == []


async def test_a_capture_at_cost_0_is_a_block_run_without_an_entry(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30)
    await holding.place_hold(hold, prices)

    held = await holding.capture_hold(capture_request(hold, 0))

    assert held.block_run is not None
    assert (held.entry, held.block_run.cost, held.block_run.entry_seq, held.task.steps) == (None, 0, None, 1)
    assert (held.hold.status, held.hold.captured, held.hold.released) == (HoldStatus.CAPTURED, 0, 30)
    assert await get_figures(task) == (100, 0, 100)
    assert await lines(task) == [("GRANT", 100)]
    again = await holding.capture_hold(capture_request(hold, 0))
    assert (again.replayed, again.block_run, again.entry) == (True, held.block_run, None)
    assert (await verify_ledger()).violations == []


async def test_a_void_releases_everything(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30)
    placed = await holding.place_hold(hold, prices)

    held = await holding.void_hold(task.task_id, hold.block_run_id)

    assert (held.hold.status, held.hold.captured, held.hold.released) == (HoldStatus.VOIDED, 0, 30)
    assert (held.hold.claims, held.replayed, held.task.steps) == ({}, False, 0)
    assert held.task.version == placed.task.version + 1
    assert await get_figures(task) == (100, 0, 100)
    assert await lines(task) == [("GRANT", 100)]
    assert (await verify_ledger()).violations == []


async def test_a_hold_expires_at_its_time_without_a_job(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    placed = await holding.place_hold(hold_request(task, 30, timeout_seconds=1), prices)
    before = await get_balance(task.account_id)
    assert before.available == 70

    await wait_until(placed.hold.expires_at)
    after = await get_balance(task.account_id)

    assert (after.posted, after.held, after.available) == (100, 0, 100)
    assert after.version > before.version
    [record] = await pools.fetch("SELECT status, released, closed_at, expires_at FROM hold")
    assert tuple(record) == ("EXPIRED", 30, placed.hold.expires_at, placed.hold.expires_at)
    assert await lines(task) == [("GRANT", 100)]
    still = await get_task(task)
    assert (still.status, still.version) == (TaskStatus.RUNNING, placed.task.version + 1)
    assert (await verify_ledger()).violations == []


async def test_a_charge_after_the_expiry_can_use_the_released_credits(prices: RateCardCache) -> None:
    await grant_credits("alice", 30)
    task = await start_task("alice")
    placed = await holding.place_hold(hold_request(task, 30, timeout_seconds=1), prices)

    await wait_until(placed.hold.expires_at)

    assert (await charge_block_run(task, prices)).balance.available == 20
    assert (await verify_ledger()).violations == []


async def test_every_repeated_call_is_a_replay(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold, other = hold_request(task, 30), hold_request(task, 10)

    placed = await holding.place_hold(hold, prices)
    again = await holding.place_hold(hold, prices)
    assert (again.replayed, again.hold) == (True, placed.hold)

    captured = await holding.capture_hold(capture_request(hold, 12))
    again = await holding.capture_hold(capture_request(hold, 12))
    assert (again.replayed, again.hold, again.entry, again.block_run) == (
        True, captured.hold, captured.entry, captured.block_run,
    )  # fmt: skip

    await holding.place_hold(other, prices)
    voided = await holding.void_hold(task.task_id, other.block_run_id)
    again = await holding.void_hold(task.task_id, other.block_run_id)
    assert (again.replayed, again.hold) == (True, voided.hold)

    await lifecycle.finish_task(task.task_id, TaskStatus.COMPLETED)
    for call, first in (
        (holding.place_hold(hold, prices), HoldStatus.CAPTURED),
        (holding.capture_hold(capture_request(hold, 12)), HoldStatus.CAPTURED),
        (holding.void_hold(task.task_id, other.block_run_id), HoldStatus.VOIDED),
    ):
        late = await call
        assert (late.replayed, late.hold.status) == (True, first)
    closed = await refused(task, HoldClosed, holding.place_hold(other, prices))  # nothing is held, so it may not run
    assert closed.status is HoldStatus.VOIDED
    assert await get_figures(task) == (88, 0, 88)
    assert await lines(task) == [("GRANT", 100), ("CHARGE", -12)]
    assert (await verify_ledger()).violations == []


async def test_another_request_for_the_same_block_run_is_a_conflict(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task, second = await start_task("alice"), await start_task("alice")
    hold = hold_request(task, 30)
    await holding.place_hold(hold, prices)

    for other in (
        replace(hold, at_most=Measurements(items=29)),
        replace(hold, timeout_seconds=601),
        replace(hold, settings={"a": 1}),
        replace(hold, uses_own_key=True),
        replace(hold, task_id=second.task_id),
    ):
        await refused(task, IdempotencyConflict, holding.place_hold(other, prices))

    await holding.capture_hold(capture_request(hold, 12))
    for another in (capture_request(hold, 13), capture_request(hold, 12, over_hold=OverHold.CAP)):
        await refused(task, IdempotencyConflict, holding.capture_hold(another))
    assert await get_figures(task) == (88, 0, 88)
    assert (await verify_ledger()).violations == []


async def test_a_voided_hold_is_not_captured_and_a_captured_hold_not_voided(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    one, two = hold_request(task, 30), hold_request(task, 30)
    await holding.place_hold(one, prices)
    await holding.place_hold(two, prices)
    await holding.void_hold(task.task_id, one.block_run_id)
    await holding.capture_hold(capture_request(two, 5))

    closed = await refused(task, HoldClosed, holding.capture_hold(capture_request(one, 5)))
    assert closed.status is HoldStatus.VOIDED
    closed = await refused(task, HoldClosed, holding.void_hold(task.task_id, two.block_run_id))
    assert closed.status is HoldStatus.CAPTURED
    assert (await verify_ledger()).violations == []


async def test_an_expired_hold_is_neither_captured_nor_voided(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30, timeout_seconds=1)
    placed = await holding.place_hold(hold, prices)

    await wait_until(placed.hold.expires_at)

    # Nothing has read the account since, so each call applies the expiry itself.
    with pytest.raises(HoldClosed) as closed:
        await holding.capture_hold(capture_request(hold, 5))
    assert closed.value.status is HoldStatus.EXPIRED
    with pytest.raises(HoldClosed):
        await holding.void_hold(task.task_id, hold.block_run_id)
    assert await get_figures(task) == (100, 0, 100)
    closed_hold = await refused(task, HoldClosed, holding.place_hold(hold, prices))
    assert closed_hold.status is HoldStatus.EXPIRED
    assert await lines(task) == [("GRANT", 100)]
    assert (await verify_ledger()).violations == []


@pytest.mark.parametrize("budget", [None, 40])
async def test_a_block_run_with_an_open_hold_is_not_charged_and_its_task_goes_on(
    prices: RateCardCache, budget: int | None
) -> None:
    await grant_credits("alice", 40)
    task, other = await start_task("alice", budget=budget), None
    if budget is None:
        other = await start_task("alice")
    hold = hold_request(task, 40)
    await holding.place_hold(hold, prices)
    before = await rows_of(task)

    for charged in (task, other or task):  # also with the id of another task of the account
        refusal = await try_charge(charged, prices, block_run_id=hold.block_run_id)
        assert isinstance(refusal, BlockRunHeld)
        assert (refusal.block_run_id, refusal.held_credits) == (hold.block_run_id, 40)
        assert "captureHold" in refusal.message
        assert "voidHold" in refusal.message
    assert await rows_of(task) == before
    assert (await get_task(task)).status is TaskStatus.RUNNING

    await holding.capture_hold(capture_request(hold, 25))
    assert await get_figures(task) == ((15, 0, 15) if budget is None else (15, 15, 0))
    assert await lines(task) == [("GRANT", 40), ("CHARGE", -25)]
    assert (await verify_ledger()).violations == []


async def test_only_the_held_block_run_of_a_batch_is_refused(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30)
    await holding.place_hold(hold, prices)
    held, free = block_run_request(task, block_run_id=hold.block_run_id), block_run_request(task)

    results = await charge_many([(task.account_id, one) for one in (held, free, held, free)], prices)

    kinds = [one.replayed if isinstance(one, Charge) else type(one) for one in results]
    assert kinds == [BlockRunHeld, False, BlockRunHeld, True]
    assert await get_figures(task) == (90, 30, 60)


async def test_a_block_run_is_charged_after_its_hold_was_voided(prices: RateCardCache) -> None:
    await grant_credits("alice", 30)
    task = await start_task("alice")
    hold = hold_request(task, 30)
    await holding.place_hold(hold, prices)
    await holding.void_hold(task.task_id, hold.block_run_id)

    charged = await charge_block_run(task, prices, block_run_id=hold.block_run_id)

    assert (charged.block_run.cost, await get_figures(task)) == (10, (20, 0, 20))
    await refused(task, HoldClosed, holding.place_hold(hold, prices))
    await refused(task, HoldClosed, holding.capture_hold(capture_request(hold, 5)))
    assert (await charge_block_run(task, prices, block_run_id=hold.block_run_id)).replayed
    assert (await verify_ledger()).violations == []


async def test_a_block_run_is_charged_after_its_hold_has_expired(prices: RateCardCache) -> None:
    await grant_credits("alice", 30)
    task = await start_task("alice")
    placed = await holding.place_hold(hold_request(task, 30, block_run_id="run", timeout_seconds=1), prices)
    await wait_until(placed.hold.expires_at)

    charged = await charge_block_run(task, prices, block_run_id="run")  # nothing has read the account since

    assert (charged.block_run.cost, await get_figures(task)) == (10, (20, 0, 20))
    assert (await verify_ledger()).violations == []


@pytest.mark.parametrize("seed", range(4))
async def test_a_block_run_is_paid_at_most_once_by_concurrent_charges_and_holds(
    prices: RateCardCache, seed: int
) -> None:
    """Charges, batches, holds, captures, voids and an expiry of the same block runs, at the same time."""
    await grant_credits("alice", 10_000)
    task = await start_task("alice")
    chance = random.Random(seed)  # noqa: S311  the same run again for the same seed
    names = [f"run-{number}" for number in range(10)]

    async def call(name: str, kind: int) -> object:
        hold = hold_request(task, 30, block_run_id=name, timeout_seconds=1)
        try:
            match kind:
                case 0:
                    return await try_charge(task, prices, block_run_id=name)
                case 1:
                    items = [(task.account_id, block_run_request(task, block_run_id=one)) for one in (name, "other")]
                    return await charge_many(items, prices)
                case 2:
                    return await holding.place_hold(hold, prices)
                case 3:
                    return await holding.capture_hold(capture_request(hold, 20))
            return await holding.void_hold(task.task_id, name)
        except (HoldNotFound, HoldClosed, IdempotencyConflict, BlockRunHeld) as refusal:
            return refusal

    calls = [(name, chance.choice((0, 1, 2, 2, 3, 4))) for name in names * 8]
    chance.shuffle(calls)
    await gather(*(call(*one) for one in calls[:60]))
    await wait_until(await seconds_from_now(1))
    await gather(*(call(*one) for one in calls[60:]))

    assert (await get_task(task)).status is TaskStatus.RUNNING
    runs = await pools.fetch("SELECT block_run_id, cost FROM block_run")
    open_holds = {record["block_run_id"] for record in await pools.fetch("SELECT * FROM hold WHERE status = 'OPEN'")}
    assert not open_holds & {record["block_run_id"] for record in runs}
    charges = -sum(credits for kind, credits in await lines(task) if kind == "CHARGE")
    assert charges == sum(record["cost"] for record in runs) == 10_000 - (await get_balance(task.account_id)).posted
    assert (await verify_ledger()).violations == []


async def test_a_captured_block_run_is_not_charged_again(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30)
    await holding.place_hold(hold, prices)
    await holding.capture_hold(capture_request(hold, 20))

    again = await try_charge(
        task, prices, block="ItemBlock", block_run_id=hold.block_run_id, measurements=Measurements(items=20)
    )

    assert isinstance(again, IdempotencyConflict)
    assert await get_figures(task) == (80, 0, 80)


async def test_no_hold_is_placed_for_a_charged_block_run(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    await charge_block_run(task, prices, block_run_id="run")

    await refused(task, IdempotencyConflict, holding.place_hold(hold_request(task, block_run_id="run"), prices))

    assert await get_figures(task) == (90, 0, 90)


async def test_unknown_tasks_and_holds_are_not_found(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task, second = await start_task("alice"), await start_task("alice")
    hold = hold_request(task)
    await holding.place_hold(hold, prices)
    nowhere = hold_request("nowhere")

    await refused(task, TaskNotFound, holding.place_hold(nowhere, prices))
    await refused(task, TaskNotFound, holding.capture_hold(capture_request(nowhere, 1)))
    await refused(task, TaskNotFound, holding.void_hold("nowhere", hold.block_run_id))
    await refused(task, HoldNotFound, holding.capture_hold(capture_request(hold_request(task), 1)))
    await refused(task, HoldNotFound, holding.void_hold(task.task_id, "nothing"))
    # The block run has a hold, but for another task of the account.
    await refused(task, HoldNotFound, holding.capture_hold(capture_request(hold, 1, task_id=second.task_id)))
    await refused(task, HoldNotFound, holding.void_hold(second.task_id, hold.block_run_id))
    assert await get_figures(task) == (100, 30, 70)


async def test_a_hold_of_another_account_is_not_found(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    await grant_credits("bob", 100)
    task, bobs = await start_task("alice"), await start_task("bob")
    hold = hold_request(task)
    await holding.place_hold(hold, prices)

    await refused(task, HoldNotFound, holding.capture_hold(capture_request(hold, 1, task_id=bobs.task_id)))
    await refused(task, HoldNotFound, holding.void_hold(bobs.task_id, hold.block_run_id))


@pytest.mark.parametrize("seconds", [0, -1, 86_401, 25 * 3600])
async def test_a_timeout_out_of_bounds_is_refused(prices: RateCardCache, seconds: int) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")

    invalid = await refused(task, InvalidInput, holding.place_hold(hold_request(task, timeout_seconds=seconds), prices))

    assert [problem.path for problem in invalid.problems] == ["timeoutSeconds"]


@pytest.mark.parametrize("seconds", [1, 86_400])
async def test_a_timeout_at_its_bounds_is_accepted(prices: RateCardCache, seconds: int) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")

    held = await holding.place_hold(hold_request(task, timeout_seconds=seconds), prices)

    assert (held.hold.expires_at - held.hold.placed_at).total_seconds() == seconds


@pytest.mark.parametrize("more", [{"uses_own_key": True}, {"block": "NoteBlock"}])
async def test_a_free_block_run_is_held_and_captured_at_cost_0(prices: RateCardCache, more: dict[str, Any]) -> None:
    await grant_credits("alice", 10)
    task = await start_task("alice")
    hold = hold_request(task, 30, **more)

    held = await holding.place_hold(hold, prices)
    assert (held.hold.credits, held.hold.claims, held.hold.status) == (0, {}, HoldStatus.OPEN)
    captured = await holding.capture_hold(capture_request(hold, 30))

    assert captured.block_run is not None
    assert (captured.block_run.cost, captured.block_run.uses_own_key) == (0, "uses_own_key" in more)
    assert (captured.hold.status, captured.entry) == (HoldStatus.CAPTURED, None)
    assert await get_figures(task) == (10, 0, 10)
    assert (await verify_ledger()).violations == []


async def test_a_capture_uses_the_prices_recorded_with_the_hold_even_after_a_new_rate_card(
    prices: RateCardCache,
) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30)
    await holding.place_hold(hold, prices)
    dearer = {"blocks": [{"block": "ItemBlock", "credits": 2, "unit": "item"}]}

    prices = await publish_rate_cards(dearer)
    later = await holding.place_hold(hold_request(task, 20), prices)
    held = await holding.capture_hold(capture_request(hold, 30))

    assert (later.hold.credits, later.hold.terms["rateCardVersion"]) == (40, 3)
    assert held.block_run is not None
    assert (held.block_run.cost, held.block_run.rate_card_version, held.hold.priced_credits) == (30, 2, 30)
    assert held.block_run.rule == {"credits": 1, "unit": "item"}


async def test_a_missing_measurement_leaves_the_hold_open(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30)
    await holding.place_hold(hold, prices)

    for measured in (Measurements(), Measurements(seconds=Decimal(3))):
        request = replace(capture_request(hold, None), measurements=measured)
        missing = await refused(task, MeasurementMissing, holding.capture_hold(request))
        assert missing.measurement == "items"

    assert (await holding.capture_hold(capture_request(hold, 3))).hold.captured == 3


async def test_a_hold_without_a_price_or_measurement_is_refused(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")

    await refused(task, PriceNotFound, holding.place_hold(hold_request(task, block="Nothing"), prices))
    unmeasured = replace(hold_request(task), at_most=Measurements(seconds=Decimal(3)))
    await refused(task, MeasurementMissing, holding.place_hold(unmeasured, prices))
    assert await get_figures(task) == (100, 0, 100)


async def test_a_hold_that_cannot_be_paid_stops_its_task_and_claims_nothing(prices: RateCardCache) -> None:
    await grant_credits("alice", 20)
    task = await start_task("alice")
    hold = hold_request(task, 30)

    with pytest.raises(InsufficientCredits) as short:
        await holding.place_hold(hold, prices)

    assert (short.value.required_credits, short.value.available_credits, short.value.shortfall_credits) == (30, 20, 10)
    stopped = await get_task(task)
    assert (stopped.status, stopped.stop_reason) == (TaskStatus.STOPPED, StopReason.OUT_OF_CREDITS)
    assert (stopped.required, stopped.shortfall) == (30, 10)
    assert await get_figures(task) == (20, 0, 20)
    assert await pools.fetch("SELECT FROM hold") == []
    await refused(task, TaskStopped, holding.place_hold(hold_request(task, 5), prices))
    await holding.place_hold(hold_request(task, 5, uses_own_key=True), prices)  # a free block run is accepted
    assert (await verify_ledger()).violations == []


async def test_an_ended_task_gets_no_new_hold_but_its_open_hold_is_captured(
    prices: RateCardCache,
) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30)
    await holding.place_hold(hold, prices)
    await lifecycle.finish_task(task.task_id, TaskStatus.FAILED)

    await refused(task, TaskEnded, holding.place_hold(hold_request(task), prices))
    held = await holding.capture_hold(capture_request(hold, 4))

    assert (held.task.status, held.task.total, held.task.steps) == (TaskStatus.FAILED, 4, 1)
    assert await get_figures(task) == (96, 0, 96)
    assert (await verify_ledger()).violations == []


async def test_a_hold_of_a_stopped_task_is_captured(prices: RateCardCache) -> None:
    await grant_credits("alice", 35)
    task = await start_task("alice")
    hold = hold_request(task, 30)
    await holding.place_hold(hold, prices)
    assert isinstance(await try_charge(task, prices), InsufficientCredits)

    held = await holding.capture_hold(capture_request(hold, 30))

    assert (held.task.status, held.task.total) == (TaskStatus.STOPPED, 30)
    assert await get_figures(task) == (5, 0, 5)


async def settled(request: PlaceHoldRequest, choice: int, amount: int) -> HoldResult | HoldClosed | IdempotencyConflict:
    """One of the calls that close a hold, or its refusal."""
    try:
        if choice:
            return await holding.capture_hold(capture_request(request, amount))
        return await holding.void_hold(request.task_id, request.block_run_id)
    except (HoldClosed, IdempotencyConflict) as refusal:
        return refusal


async def an_answer(request: PlaceHoldRequest, choice: int, amount: int) -> tuple[object, ...]:
    """What does not depend on when it was asked: two answers to the same call are equal."""
    one = await settled(request, choice, amount)
    if isinstance(one, HoldResult):
        return ("done", one.hold.status, one.hold.captured, one.entry, one.block_run)
    return ("refused", type(one), one.message)


@pytest.mark.parametrize("seed", range(4))
async def test_of_fifty_concurrent_captures_voids_and_an_expiry_one_wins(prices: RateCardCache, seed: int) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    chance = random.Random(seed)  # noqa: S311  the same run again for the same seed
    calls = [(chance.randint(0, 1), chance.choice((7, 20))) for _ in range(50)]
    request = hold_request(task, 30, timeout_seconds=1)
    placed = await holding.place_hold(request, prices)
    # Some start at once, others so late that the hold expires during the calls, or before them.
    await wait_until(placed.hold.expires_at - timedelta(milliseconds=(1000, 20, 8, 0)[seed]))

    first = await gather(*(an_answer(request, *call) for call in calls))
    again = await gather(*(an_answer(request, *call) for call in calls))
    await wait_until(placed.hold.expires_at)
    late = [await an_answer(request, *call) for call in calls]

    assert again == late
    for call, answer, later in zip(calls, first, late, strict=True):
        assert answer == later, call
    account = await get_figures(task)  # refused calls have written nothing, not even the expiry
    [hold] = await pools.fetch("SELECT status, captured, released FROM hold")
    assert hold["captured"] + hold["released"] == 30
    assert hold["status"] in ("CAPTURED", "VOIDED", "EXPIRED")
    won = {call for call, answer in zip(calls, late, strict=True) if answer[0] == "done"}
    ends = {"CAPTURED": {(1, hold["captured"])}, "VOIDED": {(0, 7), (0, 20)}, "EXPIRED": set()}
    assert won <= ends[hold["status"]]
    assert bool(won) == (hold["status"] != "EXPIRED")
    assert account == (100 - hold["captured"], 0, 100 - hold["captured"])
    assert (await get_task(task)).total == hold["captured"]
    assert [line for line in await lines(task) if line[0] == "CHARGE"] == (
        [("CHARGE", -hold["captured"])] if hold["captured"] else []
    )
    assert (await verify_ledger()).violations == []


@pytest.mark.parametrize("seed", range(4))
async def test_random_captures_voids_and_expiries_add_up_to_the_held_credits(prices: RateCardCache, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  the same run again for the same seed
    for _ in range(4):
        await grant_credits("alice", chance.randint(100, 400), priority=chance.randint(-2, 2))
    task = await start_task("alice")
    before = (await get_balance(task.account_id)).posted
    requests = [hold_request(task, chance.randint(1, 20), timeout_seconds=chance.choice((1, 600))) for _ in range(15)]
    placed = await gather(*(holding.place_hold(request, prices) for request in requests))
    assert (await get_balance(task.account_id)).held == sum(one.hold.credits for one in placed)

    async def close(request: PlaceHoldRequest, held: int) -> None:
        match chance.randint(0, 3):
            case 0:
                await holding.capture_hold(capture_request(request, chance.randint(0, held)))
            case 1:
                await holding.capture_hold(
                    capture_request(request, chance.randint(held, 3 * held), over_hold=OverHold.CAP)
                )
            case 2:
                await holding.void_hold(request.task_id, request.block_run_id)

    left = [one for one in placed if one.hold.timeout_seconds == 600]
    await gather(*(close(request, one.hold.credits) for request, one in zip(requests, placed, strict=True)))
    await wait_until(max(one.hold.expires_at for one in placed if one not in left))
    await get_balance(task.account_id)

    holds = await pools.fetch("SELECT *, claims::text AS claimed FROM hold ORDER BY number")
    for hold in holds:
        assert hold["credits"] == hold["captured"] + hold["released"] + hold["remaining"], hold
        assert (hold["status"] == "OPEN") == bool(hold["remaining"]), hold
        assert hold["status"] != "OPEN" or hold["timeout_seconds"] == 600, hold
    after = await get_balance(task.account_id)
    assert after.posted == before - sum(hold["captured"] for hold in holds)
    assert after.held == sum(hold["remaining"] for hold in holds)
    assert (await get_task(task)).total == sum(hold["captured"] for hold in holds)
    assert (await verify_ledger()).violations == []


async def test_the_unclaimed_part_of_a_grant_expires_on_time_and_the_claimed_part_at_its_release(
    prices: RateCardCache,
) -> None:
    grant = await grant_credits("alice", 50, expires_at=await seconds_from_now(1))
    task = await start_task("alice")
    hold = hold_request(task, 30)
    placed = await holding.place_hold(hold, prices)
    assert grant.grant.expires_at is not None

    await wait_until(grant.grant.expires_at)
    assert await get_figures(task) == (30, 30, 0)
    [leaving] = await queries.list_entries(task.account_id, before_seq=99, limit=9, kinds=["EXPIRY"])
    assert (leaving.credits, leaving.at) == (-20, grant.grant.expires_at)

    voided = await holding.void_hold(task.task_id, hold.block_run_id)
    assert await get_figures(task) == (0, 0, 0)
    [rest, first] = await queries.list_entries(task.account_id, before_seq=99, limit=9, kinds=["EXPIRY"])
    assert first == leaving
    assert (rest.credits, rest.at, rest.draws) == (-30, voided.hold.closed_at, ((1, 30),))
    assert rest.at > grant.grant.expires_at
    assert placed.hold.expires_at > rest.at
    assert (await verify_ledger()).violations == []


async def test_a_capture_draws_on_a_grant_that_has_expired_meanwhile(prices: RateCardCache) -> None:
    grant = await grant_credits("alice", 30, expires_at=await seconds_from_now(1))
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30)
    assert (await holding.place_hold(hold, prices)).hold.claims == {1: 30}
    assert grant.grant.expires_at is not None

    await wait_until(grant.grant.expires_at)
    assert await get_figures(task) == (130, 30, 100)
    held = await holding.capture_hold(capture_request(hold, 12))

    assert held.entry is not None
    assert (held.entry.draws, held.hold.captured, held.hold.released) == (((1, 12),), 12, 18)
    # The rest belongs to an expired grant, so it expires with the release.
    assert await get_figures(task) == (100, 0, 100)
    assert (await lines(task))[2:] == [("CHARGE", -12), ("EXPIRY", -18)]
    [left] = await queries.list_entries(task.account_id, before_seq=99, limit=9, kinds=["EXPIRY"])
    assert left.at == held.hold.closed_at
    assert (await verify_ledger()).violations == []


async def test_the_rest_of_an_expired_grant_expires_with_the_hold_that_claims_it(prices: RateCardCache) -> None:
    grant = await grant_credits("alice", 30, expires_at=await seconds_from_now(0.5))
    task = await start_task("alice")
    placed = await holding.place_hold(hold_request(task, 30, timeout_seconds=1), prices)
    assert grant.grant.expires_at is not None
    assert grant.grant.expires_at < placed.hold.expires_at

    await wait_until(placed.hold.expires_at)

    assert await get_figures(task) == (0, 0, 0)
    [left] = await queries.list_entries(task.account_id, before_seq=99, limit=9, kinds=["EXPIRY"])
    assert (left.credits, left.at) == (-30, placed.hold.expires_at)
    assert (await verify_ledger()).violations == []


async def test_a_task_that_holds_the_last_credits_gets_no_stop_signal(
    prices: RateCardCache,
) -> None:
    await grant_credits("alice", 30)
    holder, other = await start_task("alice"), await start_task("alice")
    await holding.place_hold(hold_request(holder, 30), prices)
    assert (await get_balance(holder.account_id)).available == 0

    mine = await charge_block_run(holder, prices, block="NoteBlock")
    theirs = await charge_block_run(other, prices, block="NoteBlock")

    assert (mine.signal, theirs.signal) == (None, SignalKind.STOP)


async def test_the_same_hold_placed_twenty_times_concurrently_is_one_hold(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    hold = hold_request(task, 30)

    done = await gather(*(holding.place_hold(hold, prices) for _ in range(20)))

    assert sorted(one.replayed for one in done) == [False] + [True] * 19
    assert {one.hold.number for one in done} == {1}
    assert await get_figures(task) == (100, 30, 70)


async def test_concurrent_charges_and_holds_never_exceed_the_balance(prices: RateCardCache) -> None:
    await grant_credits("alice", 100)
    tasks = [await start_task("alice") for _ in range(20)]

    done = await gather(
        *(holding.place_hold(hold_request(task, 10), prices) for task in tasks[:10]),
        *(try_charge(task, prices) for task in tasks[10:]),
        *(holding.place_hold(hold_request(task, 10), prices) for task in tasks[:10]),
        return_exceptions=True,
    )

    assert [type(one) for one in done].count(HoldResult) + [type(one) for one in done].count(Charge) == 10
    assert (await get_balance(tasks[0].account_id)).available == 0
    assert (await verify_ledger()).violations == []


def test_the_request_hash_ignores_the_order_of_settings_and_the_form_of_numbers() -> None:
    def a_request(seconds: str, **settings: int) -> PlaceHoldRequest:
        return replace(
            hold_request("task", block_run_id="run"), at_most=Measurements(seconds=Decimal(seconds)), settings=settings
        )

    one, same = a_request("1.0", a=1, b=2), a_request("1", b=2, a=1)
    assert one.request_hash() == same.request_hash()
    assert one.request_hash() != a_request("1.1", a=1, b=2).request_hash()
    assert block_run_request("task", block_run_id="run").request_hash() != one.request_hash()
