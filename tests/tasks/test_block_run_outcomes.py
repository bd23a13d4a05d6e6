"""Outcomes of block runs: what an outcome does not cost is given back once, by the rate card of the charge."""

from asyncio import gather
from typing import Any

import pytest

from app.db import pools
from app.errors import BlockRunNotFound, IdempotencyConflict, TaskNotFound
from app.pricing.outcomes import BlockRunOutcome
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import block_run_outcomes, holds, lifecycle, queries, reversals
from app.tasks.block_run_outcomes import FinishBlockRunRequest, FinishedBlockRun
from app.tasks.rules import TaskState, TaskStatus
from app.verify.verifier import verify_ledger
from tests.factories import (
    capture_request,
    charge_block_run,
    get_balance,
    grant_credits,
    hold_request,
    publish_rate_cards,
    start_task,
)

pytestmark = pytest.mark.anyio

PRICES: dict[str, Any] = {
    "blocks": [
        {"block": "ItemBlock", "credits": 1, "unit": "item"},
        {"block": "ReplicateModelBlock", "credits": 10},
        {"block": "Dear", "credits": 20, "outcomes": {"failed": "nothing"}},
        {"block": "NoteBlock", "credits": 0},
    ],
    "outcomes": {"failed": {"fee": 3}, "provider_failed": "nothing"},
}


@pytest.fixture
async def prices(db: str) -> RateCardCache:
    await grant_credits("alice", 100)
    return await publish_rate_cards(PRICES)


async def finish(
    task: TaskState, rate_cards: RateCardCache, outcome: BlockRunOutcome, *, run: str = "run", **more: Any
) -> FinishedBlockRun:
    asked: dict[str, Any] = {"actor": "service:test", "request_id": "request-1"} | more
    request = FinishBlockRunRequest(task_id=task.task_id, block_run_id=run, outcome=outcome, **asked)
    return await block_run_outcomes.finish_block_run(request, rate_cards)


@pytest.mark.parametrize(
    ("block", "outcome", "given_back"),
    [
        ("ReplicateModelBlock", BlockRunOutcome.SUCCEEDED, 0),
        ("ReplicateModelBlock", BlockRunOutcome.FAILED, 7),
        ("ReplicateModelBlock", BlockRunOutcome.CANCELLED, 0),
        ("ReplicateModelBlock", BlockRunOutcome.PROVIDER_FAILED, 10),
        ("Dear", BlockRunOutcome.FAILED, 20),
        ("NoteBlock", BlockRunOutcome.FAILED, 0),
    ],
)
async def test_an_outcome_costs_what_the_rate_card_says(
    prices: RateCardCache, block: str, outcome: BlockRunOutcome, given_back: int
) -> None:
    task = await start_task()
    cost = (await charge_block_run(task, prices, block_run_id="run", block=block)).block_run.cost

    done = await finish(task, prices, outcome)

    assert (done.credits, done.replayed) == (given_back, False)
    assert (done.task.charged, done.task.reversed, done.task.total) == (cost, given_back, cost - given_back)
    assert (done.block_run.outcome, done.block_run.reversed) == (outcome, given_back)
    assert done.balance.posted == 100 - cost + given_back == (await get_balance(task.account_id)).posted
    if given_back:
        assert done.entry is not None
        line = done.entry
        assert (line.kind, line.credits, line.draws) == ("REVERSAL", given_back, ((1, given_back),))
        assert (line.task_id, line.block_run_id, line.actor) == (task.task_id, "run", "service:test")
        assert (line.reason, line.request_id) == (f"the block run ended as {outcome}", "request-1")
    else:
        assert done.entry is None
    stored = (await queries.block_runs_by_id([(task.account_id, "run")]))[task.account_id, "run"]
    assert stored == done.block_run
    assert (await verify_ledger()).is_intact


async def test_a_repeated_outcome_is_a_replay_and_another_outcome_a_conflict(prices: RateCardCache) -> None:
    task = await start_task()
    await charge_block_run(task, prices, block_run_id="run")
    first = await finish(task, prices, BlockRunOutcome.FAILED)

    again = await finish(task, prices, BlockRunOutcome.FAILED)
    with pytest.raises(IdempotencyConflict):
        await finish(task, prices, BlockRunOutcome.SUCCEEDED)

    assert again.replayed
    assert (again.credits, again.entry, again.block_run, again.task) == (7, first.entry, first.block_run, first.task)
    assert (await get_balance(task.account_id)).posted == 97


async def test_of_fifty_concurrent_outcomes_one_is_recorded(prices: RateCardCache) -> None:
    task = await start_task()
    await charge_block_run(task, prices, block_run_id="run")
    outcomes = [BlockRunOutcome.FAILED, BlockRunOutcome.PROVIDER_FAILED] * 25

    answers = await gather(*(finish(task, prices, one) for one in outcomes), return_exceptions=True)

    done = [one for one in answers if isinstance(one, FinishedBlockRun)]
    [first] = [one for one in done if not one.replayed]
    assert len(done) == 25
    assert {one.entry for one in done} == {first.entry}
    assert sum(isinstance(one, IdempotencyConflict) for one in answers) == 25
    assert (await get_balance(task.account_id)).posted == 90 + first.credits
    assert (await verify_ledger()).is_intact


async def test_earlier_reversals_count(prices: RateCardCache) -> None:
    task = await start_task()
    await charge_block_run(task, prices, block_run_id="some")
    await charge_block_run(task, prices, block_run_id="more")
    for run, credits in (("some", 4), ("more", 8)):
        await reversals.reverse_charge(
            task.task_id, run, credits=credits, reason="goodwill", idempotency_key=run, actor="operator:test"
        )

    assert (await finish(task, prices, BlockRunOutcome.FAILED, run="some")).credits == 3
    assert (await finish(task, prices, BlockRunOutcome.FAILED, run="more")).credits == 0
    assert (await get_balance(task.account_id)).posted == 100 - 3 - 2
    assert (await verify_ledger()).is_intact


async def test_the_rate_card_that_priced_a_block_run_decides_the_cost_of_its_outcome(prices: RateCardCache) -> None:
    task = await start_task()
    await charge_block_run(task, prices, block_run_id="run")
    await publish_rate_cards(PRICES | {"outcomes": {}})
    await pools.fetch("UPDATE rate_card SET effective_at = effective_at - interval '3 days' RETURNING 1")
    today = RateCardCache()
    await today.refresh()

    assert (await finish(task, today, BlockRunOutcome.PROVIDER_FAILED)).credits == 10


async def test_a_block_run_of_an_ended_task_is_given_back(prices: RateCardCache) -> None:
    task = await start_task()
    await charge_block_run(task, prices, block_run_id="run")
    await lifecycle.finish_task(task.task_id, TaskStatus.FAILED)

    assert (await finish(task, prices, BlockRunOutcome.FAILED)).task.total == 3


async def test_credits_that_a_budget_paid_go_back_to_the_account(prices: RateCardCache) -> None:
    task = await start_task(budget=30)
    await charge_block_run(task, prices, block_run_id="run")

    done = await finish(task, prices, BlockRunOutcome.PROVIDER_FAILED)

    assert (done.balance.posted, done.balance.held, done.balance.available) == (100, 20, 80)


async def test_a_held_block_run_must_be_captured_first(prices: RateCardCache) -> None:
    task = await start_task()
    hold = hold_request(task, 30, block_run_id="run")
    await holds.place_hold(hold, prices)
    with pytest.raises(BlockRunNotFound):
        await finish(task, prices, BlockRunOutcome.FAILED)

    await holds.capture_hold(capture_request(hold, 12))

    assert (await finish(task, prices, BlockRunOutcome.FAILED)).credits == 9
    assert (await verify_ledger()).is_intact


async def test_an_unknown_block_run_and_that_of_another_task_are_not_found(prices: RateCardCache) -> None:
    task, other = await start_task(), await start_task()
    await charge_block_run(other, prices, block_run_id="run")

    with pytest.raises(TaskNotFound):
        await finish(task._replace(task_id="no-such-task"), prices, BlockRunOutcome.FAILED)
    for run in ("run", "no-such-run"):
        with pytest.raises(BlockRunNotFound):
            await finish(task, prices, BlockRunOutcome.FAILED, run=run)
    assert (await get_balance(task.account_id)).posted == 90


async def test_a_repeated_charge_is_a_replay_after_the_outcome(prices: RateCardCache) -> None:
    task = await start_task()
    first = await charge_block_run(task, prices, block_run_id="run")
    await finish(task, prices, BlockRunOutcome.FAILED)

    again = await charge_block_run(task, prices, block_run_id="run")

    assert (again.replayed, again.entry, again.block_run.cost, again.task.total) == (True, first.entry, 10, 3)
