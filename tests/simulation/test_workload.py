"""The workload is reproducible, complete, and priced as the rate card says."""

import itertools
from collections import Counter
from typing import Any

import pytest

from examples.simulation.rate_card import NoPrice
from examples.simulation.workload import (
    MAX_PROMOTION_SECONDS,
    OWNER_PROFILES,
    WATCHED_OWNER,
    Delivery,
    Outcome,
    Reversal,
    Step,
    Workload,
    generate_workload,
)
from tests.simulation.rate_cards import DEFAULT, SMALL, default_card


@pytest.fixture(scope="module")
def workload() -> Workload:
    return generate_workload(default_card(), seed=1, tasks=400)


def steps_of(workload: Workload) -> list[Step]:
    return [step for agent in workload.agents for wave in agent.graph for step in wave]


def naive_price(block: str, settings: dict[str, Any]) -> int:
    """Read from the data file, for a card whose rules have at most one condition, none of them nested."""
    if block in DEFAULT["model_priced_blocks"]:
        [price] = [found["credits"] for found in DEFAULT["models"] if found["model"] == settings["model"]]
        return int(price)
    [entry] = [found for found in DEFAULT["blocks"] if found["block"] == block]
    otherwise = entry.get("credits")
    for rule in entry.get("rules", []):
        if "when" not in rule:
            otherwise = rule["credits"]
            continue
        [(name, wanted)] = rule["when"].items()
        if settings.get(name, False) == wanted:
            return int(rule["credits"])
    assert otherwise is not None
    return int(otherwise)


def test_the_same_seed_and_card_give_the_same_workload() -> None:
    assert generate_workload(default_card(), seed=5, tasks=60) == generate_workload(default_card(), seed=5, tasks=60)


def test_another_seed_gives_another_workload() -> None:
    assert generate_workload(default_card(), seed=5, tasks=60) != generate_workload(default_card(), seed=6, tasks=60)


@pytest.mark.parametrize("tasks", [1, 2, 20, 137])
def test_a_workload_has_the_requested_number_of_tasks_child_tasks_included(tasks: int) -> None:
    workload = generate_workload(default_card(), seed=3, tasks=tasks)

    assert sorted(task.number for task in workload.all_tasks()) == list(range(1, tasks + 1))


@pytest.mark.parametrize("seed", range(8))
def test_every_step_costs_what_the_data_file_says(seed: int) -> None:
    steps = steps_of(generate_workload(default_card(), seed=seed, tasks=1))

    assert [step.credits for step in steps] == [naive_price(step.block, dict(step.settings)) for step in steps]


def test_a_block_run_costs_its_step_and_nothing_with_the_users_own_key(workload: Workload) -> None:
    runs = [run for task in workload.all_tasks() for wave in task.waves for run in wave.runs]

    assert {run.uses_own_key for run in runs} == {True, False}
    assert all(run.credits == (0 if run.uses_own_key else run.step.credits) for run in runs)
    assert all(
        task.credits == sum(run.credits for wave in task.waves for run in wave.runs) for task in workload.all_tasks()
    )


def test_block_runs_are_numbered_within_their_task(workload: Workload) -> None:
    for task in workload.all_tasks():
        numbers = [run.number for wave in task.waves for run in wave.runs]
        assert numbers == list(range(1, len(numbers) + 1))


def test_a_workload_contains_every_case(workload: Workload) -> None:
    tasks = list(workload.all_tasks())
    waves = [wave for task in tasks for wave in task.waves]
    runs = [run for wave in waves for run in wave.runs]

    assert {task.owner for task in tasks} == set(range(len(OWNER_PROFILES)))
    assert {task.agent for task in tasks} == set(range(len(workload.agents)))
    assert {task.scheduled for task in tasks} == {True, False}
    assert {task.outcome for task in tasks} == set(Outcome)
    assert {run.delivery for run in runs} == set(Delivery)
    assert {run.reversal for run in runs} == {*Reversal, None}
    assert {wave.as_batch for wave in waves} == {True, False}
    assert any(len(wave.runs) > 1 for wave in waves)
    assert any(task.children for task in tasks)
    assert any(task.promotion for task in tasks)
    assert any(task.estimated for task in tasks)
    assert any(task.started_twice for task in tasks)


def test_only_paid_block_runs_are_reversed_and_a_part_is_less_than_the_whole(workload: Workload) -> None:
    failed = [run for task in workload.all_tasks() for wave in task.waves for run in wave.runs if run.reversal]

    assert failed
    assert all(0 < run.credits // 2 < run.credits for run in failed)


def test_child_tasks_belong_to_their_parents_owner_and_are_never_scheduled(workload: Workload) -> None:
    pairs = [(task, child) for task in workload.all_tasks() for child in task.children]

    assert pairs
    assert all(child.owner == task.owner and not child.scheduled for task, child in pairs)


def test_promotions_expire_soon_after_they_start(workload: Workload) -> None:
    promotions = [task.promotion for task in workload.all_tasks() if task.promotion]

    assert {promotion.starts_after_seconds > 0 for promotion in promotions} == {True, False}
    assert all(p.starts_after_seconds < p.expires_after_seconds <= MAX_PROMOTION_SECONDS for p in promotions)


def test_every_owner_has_a_task_before_the_weights_count() -> None:
    workload = generate_workload(default_card(), seed=9, tasks=200)

    assert {task.owner for task in workload.tasks[: len(OWNER_PROFILES)]} == set(range(len(OWNER_PROFILES)))
    counts = Counter(task.owner for task in workload.all_tasks())
    assert counts[WATCHED_OWNER] > counts[[profile.name for profile in OWNER_PROFILES].index("broke")]


def test_blocks_priced_by_a_measurement_are_sent_with_it() -> None:
    steps = list(itertools.chain.from_iterable(steps_of(generate_workload(SMALL, seed=s, tasks=1)) for s in range(5)))

    timed = [step for step in steps if step.block == "Timed"]
    money = [step for step in steps if step.block == "Money"]
    assert timed
    assert all(step.measurements and step.credits == -(-int(step.measurements["seconds"]) // 10) for step in timed)
    assert money
    assert all(step.measurements == {"usd": "0.0123"} and step.credits == 2 for step in money)


@pytest.mark.parametrize(
    ("settings", "credits"),
    [
        ({}, 1),
        ({"size": "small"}, 1),
        ({"size": "large"}, 2),
        ({"size": "large", "video": {"sound": True}}, 9),
        ({"size": "large", "video": {"sound": 1}}, 2),
        ({"size": "large", "video": "none"}, 2),
        ({"video": {"frames": 1}}, 5),
        ({"video": {"frames": 1, "sound": True}}, 1),
    ],
)
def test_the_rule_with_most_matching_leaves_wins(settings: dict[str, Any], credits: int) -> None:
    assert SMALL.price("Deep", settings) == credits


@pytest.mark.parametrize(
    ("block", "settings"), [("Nothing", {}), ("Model", {}), ("Model", {"model": "c"}), ("Timed", {})]
)
def test_blocks_that_the_card_does_not_price_have_no_price(block: str, settings: dict[str, Any]) -> None:
    with pytest.raises(NoPrice):
        SMALL.price(block, settings)
