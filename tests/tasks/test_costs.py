"""Tasks and agents in pages, and their costs by block, model and day, net of reversals."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from app.db import pools
from app.errors import InvalidInput
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import costs, lifecycle, queries
from app.tasks.charging import Charge, charge_many
from app.tasks.costs import AgentTotal, BlockCost, DayCost, ModelCost
from app.tasks.queries import TaskOrder
from app.tasks.rows import AccountScopedId
from app.tasks.rules import BlockRunState, TaskState, TaskStatus
from tests.factories import block_run_request, grant_credits, reverse_block_run, start_task

pytestmark = pytest.mark.anyio

WEB = {"block": "SearchTheWebBlock"}
"""Costs 1 credit. A block run of the factories costs 10, one with O1 16."""
O1 = {"block": "AIConversationBlock", "settings": {"model": "o1"}}
NOTE = {"block": "NoteBlock"}


async def charge(rate_cards: RateCardCache, task: TaskState, *runs: dict[str, Any]) -> list[BlockRunState]:
    outcomes = await charge_many([(task.account_id, block_run_request(task, **run)) for run in runs], rate_cards)
    assert all(isinstance(outcome, Charge) for outcome in outcomes), outcomes
    return [outcome.block_run for outcome in outcomes if isinstance(outcome, Charge)]


def key_of(task: TaskState) -> AccountScopedId:
    return task.account_id, task.task_id


@pytest.mark.parametrize(
    ("order", "expected"),
    [(TaskOrder.NEWEST, "edcba"), (TaskOrder.OLDEST, "abcde"), (TaskOrder.HIGHEST_COST, "bedca")],
)
async def test_pages_of_any_size_add_up_to_the_whole_list(
    db: str, rate_cards: RateCardCache, order: TaskOrder, expected: str
) -> None:
    await grant_credits("alice", 1_000)
    tasks = {name: await start_task("alice", task_id=name) for name in "abcde"}
    await start_task("alice", agent_id="another", task_id="z")
    runs: dict[str, dict[str, Any]] = {"b": O1, "c": WEB, "d": WEB, "e": {}}
    for name, run in runs.items():
        await charge(rate_cards, tasks[name], run)
    agent = (tasks["a"].account_id, "agent")
    for size in (1, 2, 3, 9):
        found: list[TaskState] = []
        while True:
            after = queries.position_of(found[-1], order) if found else None
            page = (await queries.tasks_of_agents([agent], limit=size, order=order, after=after))[agent]
            if not page:
                break
            assert len(page) <= size
            found += page
        assert "".join(task.task_id for task in found) == expected


async def test_tasks_are_filtered_by_status_for_many_agents_at_once(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 1_000)
    done, running = await start_task("alice"), await start_task("alice")
    other = await start_task("alice", agent_id="other")
    await lifecycle.finish_task(done.task_id, TaskStatus.COMPLETED)
    one, two, none = ((done.account_id, name) for name in ("agent", "other", "unknown"))

    async def chosen(*statuses: TaskStatus) -> dict[AccountScopedId, list[str]]:
        found = await queries.tasks_of_agents([one, two, none], limit=9, statuses=statuses)
        return {key: [task.task_id for task in tasks] for key, tasks in found.items()}

    assert await chosen(TaskStatus.RUNNING) == {one: [running.task_id], two: [other.task_id], none: []}
    assert await chosen(TaskStatus.COMPLETED, TaskStatus.FAILED) == {one: [done.task_id], two: [], none: []}
    assert await chosen() == {one: [], two: [], none: []}


async def test_only_objects_of_the_account_are_found_by_id(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 1_000)
    await grant_credits("bob", 1_000)
    task, foreign = await start_task("alice"), await start_task("bob")
    [run] = await charge(rate_cards, task, {})
    here = (task.account_id, "nothing"), (task.account_id, foreign.task_id), key_of(task)
    assert list(await queries.tasks_by_id(here)) == [key_of(task)]
    runs = await queries.block_runs_by_id([(task.account_id, run.block_run_id), (foreign.account_id, run.block_run_id)])
    assert runs == {(task.account_id, run.block_run_id): run}


async def test_block_runs_of_many_tasks_are_paged_by_position(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 1_000)
    one, two, none = [await start_task("alice") for _ in range(3)]
    runs = await charge(rate_cards, one, {}, WEB, NOTE)
    [other] = await charge(rate_cards, two, WEB)
    keys = [key_of(task) for task in (one, two, none)]
    assert list((await queries.block_runs_of_tasks(keys, limit=2)).values()) == [runs[:2], [other], []]
    assert list((await queries.block_runs_of_tasks(keys, limit=2, after_position=2)).values()) == [runs[2:], [], []]
    assert [run.position for run in runs] == [1, 2, 3]


async def test_breakdowns_are_net_of_reversals_and_add_up_to_the_task(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 1_000)
    one, two = await start_task("alice"), await start_task("alice")
    dear, *_ = await charge(rate_cards, one, {}, {}, WEB, O1, O1, NOTE)
    await charge(rate_cards, two, WEB)
    await reverse_block_run(dear, 7)
    blocks = await costs.costs_by_block([key_of(one), key_of(two)])
    assert blocks == {
        key_of(one): [
            BlockCost("AIConversationBlock", 32, 2),
            BlockCost("ReplicateModelBlock", 13, 2),
            BlockCost("SearchTheWebBlock", 1, 1),
            BlockCost("NoteBlock", 0, 1),
        ],
        key_of(two): [BlockCost("SearchTheWebBlock", 1, 1)],
    }
    task = (await queries.tasks_by_id([key_of(one)]))[key_of(one)]
    assert (task.total, task.charged, task.reversed, task.steps) == (46, 53, 7, 6)
    assert sum(cost.credits for cost in blocks[key_of(one)]) == task.total
    # Only block runs priced by model have a model.
    assert await costs.costs_by_model([key_of(one), key_of(two)]) == {
        key_of(one): [ModelCost("o1", 32, 2)],
        key_of(two): [],
    }


async def test_descendant_costs_count_all_levels_and_are_not_part_of_the_task(
    db: str, rate_cards: RateCardCache
) -> None:
    await grant_credits("alice", 1_000)
    top = await start_task("alice")
    children = [await start_task("alice", parent_task_id=top.task_id) for _ in range(3)]
    grandchild = await start_task("alice", parent_task_id=children[0].task_id)
    await charge(rate_cards, top, O1)
    await charge(rate_cards, children[0], {})
    [run] = await charge(rate_cards, grandchild, {})
    await charge(rate_cards, children[2], WEB)
    await reverse_block_run(run, 4)
    assert await costs.descendant_costs([key_of(top), key_of(children[0]), key_of(grandchild)]) == {
        key_of(top): 17,
        key_of(children[0]): 6,
        key_of(grandchild): 0,
    }
    first = (await queries.child_tasks([key_of(top), key_of(grandchild)], limit=2))[key_of(top)]
    rest = (await queries.child_tasks([key_of(top)], limit=2, after=(first[-1].started_at, first[-1].task_id)))[
        key_of(top)
    ]
    assert [task.task_id for task in first + rest] == [child.task_id for child in children]
    assert (await queries.child_tasks([key_of(grandchild)], limit=2)) == {key_of(grandchild): []}


async def test_agents_are_ordered_by_their_newest_task_and_cost_the_sum_of_their_tasks(
    db: str, rate_cards: RateCardCache
) -> None:
    await grant_credits("alice", 1_000)
    await grant_credits("bob", 1_000)
    await start_task("bob", agent_id="bobs")
    tasks = [await start_task("alice", agent_id=name) for name in ("x", "y", "z", "x")]
    account_id = tasks[0].account_id
    [run, _] = await charge(rate_cards, tasks[0], {}, WEB)
    await charge(rate_cards, tasks[3], {}, {})
    await charge(rate_cards, tasks[1], WEB)
    await reverse_block_run(run, 10)
    pages = [await queries.agent_page(account_id, limit=2)]
    pages.append(await queries.agent_page(account_id, limit=2, after=pages[0][-1]))
    assert [[one.agent_id for one in page] for page in pages] == [["x", "z"], ["y"]]
    assert pages[0][0].last_started_at == tasks[3].started_at
    keys = [(account_id, name) for name in ("x", "y", "z", "unknown")]
    found = await costs.agent_totals(keys)
    assert found == dict(zip(keys, (AgentTotal(21, 2), AgentTotal(1, 1), AgentTotal(0, 1)), strict=False))
    assert [found[key].average_per_task for key in keys[:3]] == [10.5, 1.0, 0.0]
    assert AgentTotal(0, 0).average_per_task == 0.0
    assert await costs.agent_costs_by_block(keys) == {
        keys[0]: [BlockCost("ReplicateModelBlock", 20, 3), BlockCost("SearchTheWebBlock", 1, 1)],
        keys[1]: [BlockCost("SearchTheWebBlock", 1, 1)],
        keys[2]: [],
        keys[3]: [],
    }


async def test_days_are_those_of_the_time_zone_and_each_day_is_listed(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 1_000)
    one, two = await start_task("alice"), await start_task("alice")
    early, late, other = [*await charge(rate_cards, one, {}, {}), *await charge(rate_cards, two, WEB)]
    await reverse_block_run(late, 3)
    # Noon and a minute before midnight of the day before yesterday, in UTC; the third run stays where it is.
    noon = other.charged_at.replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=2)
    for run, at in ((early, noon), (late, noon + timedelta(hours=11, minutes=59))):
        await pools.fetch("UPDATE block_run SET charged_at = $1 WHERE block_run_id = $2", at, run.block_run_id)
    key = (one.account_id, "agent")

    async def spent(zone: str) -> dict[str, DayCost]:
        days = (await costs.agent_costs_by_day([key], days=4, time_zone=zone))[key]
        assert len(days) == 4
        assert [day.day for day in days] == sorted({day.day for day in days})
        return {day.day: day for day in days if day.tasks}

    def day(number: int, credits: int) -> DayCost:
        return DayCost((noon + timedelta(days=number)).strftime("%Y-%m-%d"), credits, 1)

    today = DayCost(other.charged_at.strftime("%Y-%m-%d"), 1, 1)
    assert await spent("UTC") == {one.day: one for one in (day(0, 17), today)}
    berlin = await spent("Europe/Berlin")
    assert (berlin[day(0, 10).day], berlin[day(1, 7).day]) == (day(0, 10), day(1, 7))
    assert sum(one.credits for one in berlin.values()) == 18
    [only] = (await costs.agent_costs_by_day([key], days=1, time_zone="UTC"))[key]
    assert only.credits in {0, 1}  # 0 only if midnight has passed since the charge


async def test_daily_costs_of_many_agents_are_separate(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 1_000)
    one, two = await start_task("alice", agent_id="one"), await start_task("alice", agent_id="two")
    await charge(rate_cards, one, {})
    await charge(rate_cards, two, WEB)
    found = await costs.agent_costs_by_day(
        [(one.account_id, name) for name in ("one", "two", "none")], days=2, time_zone="UTC"
    )
    assert [sum(day.credits for day in days) for days in found.values()] == [10, 1, 0]
    assert [len(days) for days in found.values()] == [2, 2, 2]


@pytest.mark.parametrize(("days", "path"), [(0, "days"), (-1, "days"), (367, "days")])
async def test_a_number_of_days_outside_1_to_366_is_refused(db: str, days: int, path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await costs.agent_costs_by_day([(1, "agent")], days=days, time_zone="UTC")
    assert [problem.path for problem in refused.value.problems] == [path]
    assert len((await costs.agent_costs_by_day([(1, "agent")], days=366, time_zone="UTC"))[1, "agent"]) == 366


@pytest.mark.parametrize("zone", ["", "Nowhere/Land", "UTC+5", "+05:00", "europe/berlin ", "../UTC", "Ünter", "a\0b"])
async def test_an_unknown_time_zone_is_refused(db: str, zone: str) -> None:
    with pytest.raises(InvalidInput, match="timeZone must be an IANA time zone"):
        await costs.agent_costs_by_day([(1, "agent")], days=1, time_zone=zone)


async def test_the_cost_of_a_task_is_exact_while_it_runs(db: str, rate_cards: RateCardCache) -> None:
    """Reads between charges find the total and breakdown of one moment, never a mixture."""
    await grant_credits("alice", 1_000)
    task = await start_task("alice")

    async def write() -> None:
        for _ in range(20):
            await charge(rate_cards, task, {})

    async def read() -> None:
        for _ in range(20):
            state = (await queries.tasks_by_id([key_of(task)]))[key_of(task)]
            assert (state.total, state.version) == (10 * state.steps, 1 + state.steps)

    await asyncio.gather(write(), read(), read())
    assert (await costs.costs_by_block([key_of(task)]))[key_of(task)] == [BlockCost("ReplicateModelBlock", 200, 20)]
