"""Giving back what a block run cost: in any parts, never more than it took, into the grants it came from."""

from asyncio import gather
from typing import Any

import pytest

from app.errors import BlockRunNotFound, IdempotencyConflict, InvalidInput, ReversalExceedsCharge
from app.ledger import statements
from app.pricing.catalogue import Catalogue
from app.tasks import costs, lifecycle, reversing
from app.tasks.charging import charge_many
from app.tasks.reversing import Reversed
from app.tasks.rules import Status, TaskState
from tests.factories import a_block_run, a_task, balance, granted, unique

pytestmark = pytest.mark.anyio


async def reverse(task: TaskState, credits: int | None = None, **more: Any) -> Reversed:
    asked = {"reason": "it failed", "key": unique("reversal"), "actor": "operator:test"} | more
    return await reversing.reverse_charge(task.task_id, asked.pop("run", "run"), credits=credits, **asked)


@pytest.fixture
async def charged(db: str, catalogue: Catalogue) -> TaskState:
    """A task with one block run of 10 credits, drawn from grants of 4 and 100."""
    await granted("alice", 4, priority=-1)
    await granted("alice", 100)
    task = await a_task("alice")
    await charge_many([(task.account_id, a_block_run(task, block_run_id="run"))], catalogue)
    return task


async def test_credits_go_back_where_they_came_from_the_last_drawn_first(charged: TaskState) -> None:
    first = await reverse(charged, 7)
    assert (first.credits, first.entry.line.draws, first.task.total, first.balance.posted) == (
        7,
        ((2, 6), (1, 1)),
        3,
        101,
    )
    rest = await reverse(charged)
    assert (rest.credits, rest.entry.line.draws, rest.task.total, rest.balance.posted) == (3, ((1, 3),), 0, 104)
    lots = await statements.lots(charged.account_id, before_number=99, limit=9)
    assert [(lot.number, lot.remaining) for lot in lots] == [(2, 100), (1, 4)]
    [run] = (await costs.block_runs([(charged.account_id, charged.task_id)], limit=9)).popitem()[1]
    assert (run.cost, run.reversed) == (10, 10)


async def test_never_more_than_it_took(charged: TaskState) -> None:
    await reverse(charged, 8)
    with pytest.raises(ReversalExceedsCharge) as refused:
        await reverse(charged, 3)
    assert (refused.value.requested_credits, refused.value.reversible_credits) == (3, 2)
    await reverse(charged, 2)
    with pytest.raises(ReversalExceedsCharge):
        await reverse(charged)
    assert (await balance(charged.account_id)).posted == 104


async def test_twenty_reversals_of_three_at_once_give_back_nine(charged: TaskState) -> None:
    done = await gather(*(reverse(charged, 3) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(one, Reversed) for one in done) == 3
    assert sum(isinstance(one, ReversalExceedsCharge) for one in done) == 17
    assert (await balance(charged.account_id)).posted == 103


async def test_a_replay_gives_the_first_answer(charged: TaskState) -> None:
    first = await reverse(charged, 3, key="k")
    again = await reverse(charged, 3, key="k")
    assert (again.replayed, again.entry, again.credits) == (True, first.entry, 3)
    with pytest.raises(IdempotencyConflict):
        await reverse(charged, 4, key="k")
    assert (await balance(charged.account_id)).posted == 97


async def test_an_ended_task_is_reversed_too(charged: TaskState) -> None:
    await lifecycle.finish(charged.task_id, Status.FAILED)
    assert (await reverse(charged)).task.status is Status.FAILED


async def test_what_was_free_or_never_run_has_nothing_to_give_back(charged: TaskState, catalogue: Catalogue) -> None:
    await charge_many([(charged.account_id, a_block_run(charged, block_run_id="note", block="NoteBlock"))], catalogue)
    with pytest.raises(ReversalExceedsCharge):
        await reverse(charged, run="note")
    other = await a_task("alice")
    for task, run in ((charged, "nothing"), (other, "run")):
        with pytest.raises(BlockRunNotFound):
            await reverse(task, run=run)
    for wrong in ({"credits": 0}, {"credits": -1}, {"reason": ""}, {"key": ""}):
        with pytest.raises(InvalidInput):
            await reverse(charged, **wrong)
