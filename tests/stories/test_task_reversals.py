"""Reversals over the API: of a charge in parts, of a whole task, never more than was charged."""

from asyncio import gather

import pytest

from tests.factories import unique_id
from tests.stories.conftest import Platform, successes

pytestmark = pytest.mark.anyio


async def test_a_charge_is_reversed_in_parts_on_two_workers_and_never_exceeded(
    workers: tuple[Platform, Platform],
) -> None:
    here, there = workers
    owner, run = unique_id("story"), unique_id("run")
    await here.grant(owner, 100)
    task = await here.start(owner)
    await here.charge(task, run, items=100)
    asked = {"taskId": task, "blockRunId": run, "reason": "the model did not answer"}

    first = await here.done("reverseCharge", **asked, credits=30, idempotencyKey="a")
    assert (first["reversed"], first["balance"]["available"]) == (30, 30)
    assert await there.done("reverseCharge", **asked, credits=30, idempotencyKey="a") == first | {"replayed": True}
    assert await there.do("reverseCharge", **asked, credits=71, idempotencyKey="b") == {
        "__typename": "ReversalExceedsChargeError", "requested": 71, "reversible": 70,
    }  # fmt: skip

    answers = await gather(
        *(
            platform.do("reverseCharge", **asked, credits=20, idempotencyKey=unique_id("key"))
            for platform in (here, there)
            for _ in range(4)
        )
    )
    assert len(successes(answers)) == 3
    assert {answer["reversible"] for answer in answers if answer["__typename"] == "ReversalExceedsChargeError"} == {10}
    assert (await here.task(task))["cost"]["reversed"] == 90
    assert (await here.balance(owner))["available"] == 90
    await here.audited(owner)


async def test_a_whole_task_is_reversed_once_by_repeated_requests(
    workers: tuple[Platform, Platform],
) -> None:
    here, there = workers
    owner = unique_id("story")
    await here.grant(owner, 200)
    task = await here.start(owner, budget=100)
    child = await here.start(owner, parentTaskId=task)
    runs = [unique_id("run") for _ in range(5)]
    for run in runs:
        await here.charge(task, run)
    await here.charge(task, unique_id("run"), block="NoteBlock")
    await here.charge(child, unique_id("run"))
    await here.done(
        "reverseCharge", taskId=task, blockRunId=runs[0], credits=4, reason="half of it", idempotencyKey="part"
    )
    await here.done("finishTask", taskId=task, status="FAILED")
    assert (await here.balance(owner))["available"] == 144

    answers = await gather(
        *(
            platform.done("reverseTask", taskId=task, reason="all of it failed", idempotencyKey=f"key-{key}")
            for platform in (here, there)
            for key in range(3)
        )
    )

    assert sorted((answer["reversed"], answer["entryCount"], answer["replayed"]) for answer in answers) == [
        (0, 0, False), (0, 0, False), (0, 0, True), (0, 0, True), (46, 5, False), (46, 5, True),
    ]  # fmt: skip
    found = await here.task(task)
    assert (found["status"], found["cost"]["total"], found["cost"]["charged"]) == ("FAILED", 0, 50)
    assert (await here.task(child))["cost"]["total"] == 10  # the child is not reversed
    assert await here.account(owner, "balance { available held }") == {"balance": {"available": 190, "held": 0}}
    reversals = [credits for kind, credits in await here.entries(owner) if kind == "REVERSAL"]
    assert sorted(reversals) == [4, 6, 10, 10, 10, 10]
    await here.audited(owner)
