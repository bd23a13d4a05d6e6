"""Budgets over the API: they pay for their tasks only, are never exceeded, and the rest is released."""

from asyncio import gather, sleep
from typing import Any

import pytest

from tests.factories import unique_id
from tests.stories.conftest import Platform, successes, until

pytestmark = pytest.mark.anyio


async def test_a_task_spends_its_own_budget_and_returns_the_rest(platform: Platform) -> None:
    owner = unique_id("story")
    await platform.grant(owner, 100)
    task = await platform.start(owner, budget=40)
    assert await platform.account(owner, "balance { available held }") == {"balance": {"available": 60, "held": 40}}
    greedy = [await platform.start(owner) for _ in range(4)]

    answers = await gather(
        *(platform.charge(task, unique_id("run")) for _ in range(4)),
        *(platform.charge(other, unique_id("run")) for other in greedy * 5),
    )
    assert [answer["cost"] for answer in answers[:4]] == [10, 10, 10, 10]
    assert "STOP" in [answer["signal"] for answer in answers[:4]]
    assert len(successes(answers[4:])) == 6  # of the 60 credits outside of the budget

    over = unique_id("run")
    assert await platform.charge(task, over) == {
        "__typename": "BudgetReachedError", "taskId": task, "required": 10, "remaining": 0, "shortfall": 10,
    }  # fmt: skip
    stopped = await platform.task(task)
    assert (stopped["status"], stopped["stopReason"]) == ("STOPPED", "BUDGET_REACHED")
    await platform.grant(owner, 50)
    added = await gather(*(platform.resume(task, addBudget=25, idempotencyKey="more") for _ in range(6)))
    assert sorted(answer["replayed"] for answer in added) == [False] + [True] * 5
    assert (await platform.charge(task, over))["task"]["budget"] == {
        "taskId": task, "credits": 65, "spent": 50, "remaining": 15, "closingReserve": 0,
    }  # fmt: skip
    assert await platform.account(owner, "balance { available held }") == {"balance": {"available": 25, "held": 15}}

    await platform.done("finishTask", taskId=task, status="COMPLETED")
    assert await platform.account(owner, "balance { available held }") == {"balance": {"available": 40, "held": 0}}
    assert (await platform.task(task))["cost"]["total"] == 50
    await platform.audited(owner)


async def test_the_rest_of_a_budget_is_released_when_its_executor_disappears(platform: Platform) -> None:
    owner = unique_id("story")
    await platform.grant(owner, 50)
    task = await platform.start(owner, budget=50, budgetTimeoutSeconds=1)
    assert (await platform.charge(task, unique_id("run")))["balance"]["available"] == 0

    async def returned() -> bool:
        return bool((await platform.balance(owner))["available"])

    await until(returned)
    dead = await platform.task(task)
    assert (dead["status"], dead["stopReason"], dead["cost"]["held"]) == ("STOPPED", "BUDGET_EXPIRED", 0)
    assert (await platform.balance(owner))["available"] == 40
    # A task with a budget never draws on the account.
    assert (await platform.charge(task, unique_id("run")))["stopReason"] == "BUDGET_EXPIRED"
    assert (await platform.resume(task))["__typename"] == "BudgetReachedError"
    assert (await platform.resume(task, addBudget=20))["task"]["budget"]["remaining"] == 20
    assert (await platform.charge(task, unique_id("run")))["cost"] == 10
    await platform.audited(owner)


async def test_a_budget_expires_while_charges_arrive(platform: Platform) -> None:
    owner = unique_id("story")
    await platform.grant(owner, 12 * 40)
    tasks = [await platform.start(owner, budget=40, budgetTimeoutSeconds=1) for _ in range(12)]
    instants = [0.2, *(0.9 + place * 0.02 for place in range(10)), 1.2]

    async def meet(after_seconds: float, task: str) -> list[Any]:
        """Two concurrent charges before, about or after the time of expiry."""
        assert (await platform.charge(task, unique_id("run"), block="NoteBlock"))[
            "cost"
        ] == 0  # restarts its timeout of 1 s
        await sleep(after_seconds)
        return list(await gather(*(platform.charge(task, unique_id("run")) for _ in range(2))))

    results = await gather(*(meet(after, task) for after, task in zip(instants, tasks, strict=True)))

    paid = [len(successes(answers)) for answers in results]
    assert {0, 2} >= set(paid)  # the first charge has restarted the timeout for the second
    assert (paid[0], paid[-1]) == (2, 0)
    refused = [answer for answers in results for answer in answers if answer["__typename"] != "ChargeSuccess"]
    assert {(answer["__typename"], answer["stopReason"]) for answer in refused} == {
        ("TaskStoppedError", "BUDGET_EXPIRED")
    }

    async def all_expired() -> bool:
        found = await platform.account(owner, "balance { held }")
        return bool(found["balance"]["held"] == 0)

    await until(all_expired)
    states = [await platform.task(task) for task in tasks]
    assert {(state["status"], state["stopReason"]) for state in states} == {("STOPPED", "BUDGET_EXPIRED")}
    assert [state["cost"]["total"] for state in states] == [10 * count for count in paid]
    assert (await platform.balance(owner))["available"] == 12 * 40 - 10 * sum(paid)
    await platform.audited(owner)
