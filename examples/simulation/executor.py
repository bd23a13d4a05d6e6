"""The platform's executor: runs one task from start to end, and charges each block run before running it."""

import asyncio
from typing import Any, Final

from examples.simulation import documents, funding
from examples.simulation.client import expect_success
from examples.simulation.context import Context
from examples.simulation.workload import BlockRun, Delivery, Outcome, Reversal, Task, Wave

LIBRARY_PAGE_EVERY: Final = 8
"""After every eighth task a user opens the library page."""
REVERSED_TWICE_EVERY: Final = 2
"""The reversals of every second block run are sent twice."""


async def run_task(context: Context, task: Task, *, parent_task_id: str | None = None) -> None:
    """Run a task with its child tasks, and add the responses to the expected state.

    Raises: UnexpectedResponse, Unavailable.
    """
    owner, task_id = context.owners[task.owner], context.task_id(task)
    if task.promotion:
        await funding.grant_promotion(context, owner, task.promotion, f"{task_id}-promotion")
    if task.estimated:
        await _estimate(context, task)
    if await _start(context, task, parent_task_id):
        top_ups_before = owner.top_up_count
        charging = TaskCharging(context, task)
        await _run_waves(context, task, charging)
        await _end(context, task, stopped=charging.stopped)
        await charging.resend_after_end()
        await charging.reverse_failed_runs(after_end=True)
        if charging.stopped:
            await funding.top_up_once(context, owner, top_ups_before=top_ups_before)
    else:
        context.skip_children(task)
    context.task_done()
    if task.number % LIBRARY_PAGE_EVERY == 0:
        await _open_library_page(context, task)


async def _start(context: Context, task: Task, parent_task_id: str | None) -> bool:
    """Start a task, and return whether it starts. If a manual start is refused, the user tops up and tries again."""
    owner = context.owners[task.owner]
    for may_retry in [False] if task.scheduled else [True, False]:
        top_ups_before = owner.top_up_count
        if await _try_to_start(context, task, parent_task_id):
            return True
        topped_up = await funding.top_up_once(context, owner, top_ups_before=top_ups_before)
        if not (topped_up and may_retry):
            break
    context.expected.events["schedules skipped" if task.scheduled else "starts refused"] += 1
    context.log(f"{context.task_id(task)} of {owner.id} does not start: no credits are available")
    return False


async def _try_to_start(context: Context, task: Task, parent_task_id: str | None) -> bool:
    task_id = context.task_id(task)
    sent = {
        "taskId": task_id,
        "ownerId": context.owners[task.owner].id,
        "agentId": context.agent_id(task.agent),
        "trigger": "SCHEDULED" if task.scheduled else "MANUAL",
        "parentTaskId": parent_task_id,
    }
    response = await context.client.execute(context.tokens.service, documents.START_TASK, input=sent)
    if response["__typename"] == "InsufficientCreditsError":
        return False
    expect_success(response, "startTask")
    context.expected.record_start(task_id, context.owner_agent(task))
    if task.started_twice:
        again = await context.client.execute(context.tokens.service, documents.START_TASK, input=sent)
        if not expect_success(again, "the repeated startTask")["replayed"]:
            context.add_problem(f"task {task_id} was started twice")
    return True


async def _run_waves(context: Context, task: Task, charging: "TaskCharging") -> None:
    for place, wave in enumerate(task.waves):
        await charging.charge_wave(wave)
        await charging.reverse_failed_runs(after_end=False)
        if charging.stopped:
            if place == 0:
                context.skip_children(task)
            return
        if place == 0:
            for child in task.children:
                await run_task(context, child, parent_task_id=context.task_id(task))


async def _end(context: Context, task: Task, *, stopped: bool) -> None:
    """End the task. A stopped task is left stopped, is finished as FAILED, or is cancelled by its user."""
    task_id = context.task_id(task)
    expected = context.expected.tasks[task_id]
    outcome = [None, Outcome.FAILED, Outcome.CANCELLED][task.number % 3] if stopped else task.outcome
    if outcome is None:
        expected.status = "STOPPED"
        return
    if outcome is Outcome.CANCELLED:
        token = context.owners[task.owner].token
        response = await context.client.execute(token, documents.CANCEL_TASK, input={"taskId": task_id})
    else:
        sent = {"taskId": task_id, "status": outcome.value}
        response = await context.client.execute(context.tokens.service, documents.FINISH_TASK, input=sent)
    ended = expect_success(response, f"the end of {task_id}")["task"]
    expected.status = outcome.value
    if ended["status"] != outcome.value or ended["cost"]["total"] != expected.cost:
        context.add_problem(f"task {task_id} ended as {ended}; the responses say {expected}")


async def _estimate(context: Context, task: Task) -> None:
    """Request the estimate that a page shows before a task starts, and check it."""
    lines = [_priced(run) for wave in task.waves for run in wave.runs]
    token, task_id = context.owners[task.owner].token, context.task_id(task)
    estimate: Any = await context.client.execute(token, documents.ESTIMATE_TASK, blockRuns=lines)
    if estimate["credits"] != task.credits:
        context.price_mismatches.append(
            f"the estimate of task {task_id} is {estimate['credits']}, the rate card says {task.credits}"
        )
    is_affordable = estimate["affordable"]
    if is_affordable != (estimate["shortfall"] == 0) or is_affordable != (estimate["firstUnaffordableLine"] is None):
        context.add_problem(f"the estimate of task {task_id} contradicts itself: {estimate}")


async def _open_library_page(context: Context, task: Task) -> None:
    token = context.owners[task.owner].token
    await asyncio.gather(
        context.client.execute(token, documents.LIBRARY, agentId=context.agent_id(task.agent)),
        context.client.execute(token, documents.BALANCE),
    )


def _priced(run: BlockRun) -> dict[str, Any]:
    """Return the input fields that determine the price of a block run."""
    return {
        "block": run.step.block,
        "settings": run.step.settings,
        "usesOwnKey": run.uses_own_key,
        "measurements": run.step.measurements,
    }


class TaskCharging:
    """The charges of one task and their reversals. `stopped`: a charge was refused, so no more blocks may run."""

    def __init__(self, context: Context, task: Task) -> None:
        self._context = context
        self._task_id = context.task_id(task)
        self._owner_id = context.owners[task.owner].id
        self._charged: dict[int, BlockRun] = {}
        self._reversed_keys: set[str] = set()
        self._response_lost = False
        self._refused = False
        self.stopped = False

    async def charge_wave(self, wave: Wave) -> None:
        """Charge the block runs of a wave concurrently, or as one batch."""
        if wave.as_batch:
            responses = await self._execute(documents.CHARGE_BATCH, [self._input(run) for run in wave.runs])
            for run, response in zip(wave.runs, responses, strict=True):
                self._record(run, response)
        else:
            async with asyncio.TaskGroup() as group:
                for run in wave.runs:
                    group.create_task(self._charge(run))
        was_repeated = self._response_lost or self._context.client.events["requests repeated"]
        if self.stopped and not self._refused and not was_repeated:
            self._context.add_problem(f"task {self._task_id} is stopped, and none of its charges was refused")

    async def resend_after_end(self) -> None:
        """After the end of the task, repeat charges as if their responses had been lost."""
        for run in self._charged.values():
            if run.delivery is Delivery.LATE:
                response = await self._execute(documents.CHARGE, self._input(run))
                if not expect_success(response, f"the repeated charge of {self._run_id(run)}")["replayed"]:
                    self._context.add_problem(f"block run {self._run_id(run)} was charged after its task had ended")
                self._record(run, response)

    async def reverse_failed_runs(self, *, after_end: bool) -> None:
        """Reverse charges of failed blocks: parts before the end of the task, the whole or the rest after it."""
        for run in self._charged.values():
            part = run.credits // 2
            match run.reversal, after_end:
                case ((Reversal.PART | Reversal.BOTH), False):
                    await self._reverse(run, "part", part, expected=part)
                case Reversal.WHOLE, True:
                    await self._reverse(run, "whole", None, expected=run.credits)
                case Reversal.BOTH, True:
                    await self._reverse(run, "rest", None, expected=run.credits - part)

    async def _charge(self, run: BlockRun) -> None:
        charge = self._input(run)
        if run.delivery is Delivery.LOST:
            self._response_lost = True
            await self._context.client.execute_and_disconnect(
                self._context.tokens.service, documents.CHARGE, wait_for_response=run.number % 2 == 0, input=charge
            )
        times = 2 if run.delivery is Delivery.TWICE else 1
        for response in await asyncio.gather(*(self._execute(documents.CHARGE, charge) for _ in range(times))):
            self._record(run, response)

    def _record(self, run: BlockRun, response: Any) -> None:
        match response["__typename"]:
            case "ChargeSuccess":
                self._record_success(run, response)
            case "InsufficientCreditsError":
                self.stopped = self._refused = True
                self._context.expected.events["charges refused"] += 1
                self._context.log(f"{self._task_id} of {self._owner_id} is out of credits: {response['message']}")
                required, available = response["required"], response["available"]
                if not 0 <= available < required or response["shortfall"] != required - available:
                    self._context.add_problem(f"the refusal of {self._run_id(run)} does not add up: {response}")
            case "TaskStoppedError":
                self.stopped = True
                self._context.expected.events["charges refused"] += 1
            case _:
                expect_success(response, f"block run {self._run_id(run)}")

    def _record_success(self, run: BlockRun, response: Any) -> None:
        self._charged[run.number] = run
        cost, entry, run_id = response["cost"], response["entry"], self._run_id(run)
        if cost != run.credits:
            self._context.price_mismatches.append(
                f"{run.step.block} {run.step.settings} cost {cost}, the rate card says {run.credits}"
            )
        if (entry["credits"] if entry else 0) != -cost or response["balance"]["available"] < 0:
            self._context.add_problem(f"the response to {run_id} does not add up: {response}")
        seq = entry["seq"] if entry else None
        self._context.expected.record_charge(
            self._task_id, run_id, credits=cost, seq=seq, replayed=response["replayed"]
        )

    async def _reverse(self, run: BlockRun, what: str, credits: int | None, *, expected: int) -> None:
        key = f"{self._run_id(run)}-{what}"
        if key in self._reversed_keys:
            return
        self._reversed_keys.add(key)
        sent = {
            "taskId": self._task_id,
            "blockRunId": self._run_id(run),
            "credits": credits,
            "reason": "The block failed",
            "idempotencyKey": key,
        }
        for _ in range(2 if run.number % REVERSED_TWICE_EVERY == 0 else 1):
            response = await self._context.client.execute(
                self._context.tokens.operator, documents.REVERSE_CHARGE, input=sent
            )
            reversal = expect_success(response, f"the reversal {key}")
            if not reversal["reversed"] == reversal["entry"]["credits"] == expected:
                self._context.price_mismatches.append(
                    f"the reversal {key} returned {reversal['reversed']} credits, {expected} were expected"
                )
            self._context.expected.record_reversal(self._task_id, key, reversal["reversed"])
        self._context.log(f"{expected:,} credits of {self._run_id(run)} were reversed")

    async def _execute(self, operation: documents.Operation, sent: Any) -> Any:
        return await self._context.client.execute(self._context.tokens.service, operation, input=sent)

    def _input(self, run: BlockRun) -> dict[str, Any]:
        return {"taskId": self._task_id, "blockRunId": self._run_id(run), **_priced(run)}

    def _run_id(self, run: BlockRun) -> str:
        return f"{self._task_id}-run-{run.number}"
