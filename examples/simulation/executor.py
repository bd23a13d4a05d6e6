"""The platform's executor: plays one task from its start to its end, and asks before it runs a block."""

import asyncio
from typing import Any, Final

from examples.simulation import documents, funding
from examples.simulation.charging import TaskCharging
from examples.simulation.context import Context, descendants, expect_success
from examples.simulation.workload import Outcome, Task

LIBRARY_EVERY: Final = 8
"""After so many tasks a user looks at the library page."""


async def play(stage: Context, task: Task, *, parent_task_id: str | None = None) -> None:
    """Whatever becomes of it ends up in the tally. Raises: Unexpected, Unavailable."""
    owner, task_id = stage.owners[task.owner], stage.task_id(task)
    if task.promotion:
        await funding.grant_promotion(stage, owner, task.promotion, f"{task_id}-promotion")
    if task.estimated:
        await _estimate(stage, task)
    if await _start(stage, task, parent_task_id):
        credited_before = owner.top_up_count
        charging = TaskCharging(stage, task)
        await _run(stage, task, charging)
        await _end(stage, task, stopped=charging.stopped)
        await charging.resend_after_end()
        await charging.reverse_failed_runs(at_the_end=True)
        if charging.stopped:
            await funding.top_up_once(stage, owner, credited_before=credited_before)
    else:
        stage.skip(descendants(task))
    stage.task_done()
    if task.number % LIBRARY_EVERY == 0:
        await _look(stage, task)


async def _start(stage: Context, task: Task, parent_task_id: str | None) -> bool:
    """Whether it runs. A person who is refused tops up and tries again; a tick of a schedule is skipped."""
    owner = stage.owners[task.owner]
    for may_try_again in [False] if task.scheduled else [True, False]:
        credited_before = owner.top_up_count
        if await _begin(stage, task, parent_task_id):
            return True
        refilled = await funding.top_up_once(stage, owner, credited_before=credited_before)
        if not (refilled and may_try_again):
            break
    stage.expected.events["ticks skipped" if task.scheduled else "starts refused"] += 1
    stage.log(f"{stage.task_id(task)} of {owner.id} does not start: nothing is available")
    return False


async def _begin(stage: Context, task: Task, parent_task_id: str | None) -> bool:
    sent = {
        "taskId": stage.task_id(task),
        "ownerId": stage.owners[task.owner].id,
        "agentId": stage.agent_id(task.agent),
        "trigger": "SCHEDULED" if task.scheduled else "MANUAL",
        "parentTaskId": parent_task_id,
    }
    answer = await stage.client.execute(stage.tokens.service, documents.START_TASK, input=sent)
    if answer["__typename"] == "InsufficientCreditsError":
        return False
    expect_success(answer, "startTask")
    stage.expected.record_start(sent["taskId"] or "", stage.pair(task))
    if task.started_twice:
        again = await stage.client.execute(stage.tokens.service, documents.START_TASK, input=sent)
        if not expect_success(again, "startTask, sent again,")["replayed"]:
            stage.add_problem(f"task {sent['taskId']} was started twice")
    return True


async def _run(stage: Context, task: Task, charging: TaskCharging) -> None:
    for place, wave in enumerate(task.waves):
        await charging.charge_wave(wave)
        await charging.reverse_failed_runs(at_the_end=False)
        if charging.stopped:
            if place == 0:
                stage.skip(descendants(task))
            return
        if place == 0:
            for child in task.children:
                await play(stage, child, parent_task_id=stage.task_id(task))


async def _end(stage: Context, task: Task, *, stopped: bool) -> None:
    """A stopped task is left as it is, finished as failed, or given up by its user."""
    task_id = stage.task_id(task)
    noted = stage.expected.tasks[task_id]
    ending = [None, Outcome.FAILED, Outcome.CANCELLED][task.number % 3] if stopped else task.ending
    if ending is None:
        noted.status = "STOPPED"
        return
    if ending is Outcome.CANCELLED:
        token = stage.owners[task.owner].token
        answer = await stage.client.execute(token, documents.CANCEL_TASK, input={"taskId": task_id})
    else:
        sent = {"taskId": task_id, "status": ending.value}
        answer = await stage.client.execute(stage.tokens.service, documents.FINISH_TASK, input=sent)
    ended = expect_success(answer, f"the end of {task_id}")["task"]
    noted.status = ending.value
    if ended["status"] != ending.value or ended["cost"]["total"] != noted.charged - noted.reversed:
        stage.add_problem(f"task {task_id} ended as {ended}; the replies say {noted}")


async def _estimate(stage: Context, task: Task) -> None:
    """What the plan would cost, as the builder's page asks before it starts."""
    lines = [
        {
            "block": run.step.block,
            "settings": run.step.settings,
            "usesOwnKey": run.uses_own_key,
            "measurements": run.step.measurements,
        }
        for wave in task.waves
        for run in wave.runs
    ]
    owner = stage.owners[task.owner]
    found: Any = await stage.client.execute(owner.token, documents.ESTIMATE_TASK, blockRuns=lines)
    if found["credits"] != task.credits:
        stage.add_price_mismatch(
            f"the estimate of task {stage.task_id(task)} is {found['credits']}, the card says {task.credits}"
        )
    if found["affordable"] != (found["shortfall"] == 0) or found["affordable"] != (
        found["firstUnaffordableLine"] is None
    ):
        stage.add_problem(f"the estimate of task {stage.task_id(task)} contradicts itself: {found}")


async def _look(stage: Context, task: Task) -> None:
    """The library page and the header's first reading, as a user opens the app."""
    token = stage.owners[task.owner].token
    await asyncio.gather(
        stage.client.execute(token, documents.LIBRARY, agentId=stage.agent_id(task.agent)),
        stage.client.execute(token, documents.BALANCE),
    )
