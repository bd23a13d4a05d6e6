"""A scenario: an account runs out of credits while many of its tasks run, and continues after a top-up.

Some tasks have a budget and spend it. The other tasks spend the remaining credits of the account. When no credits are
left, scheduled tasks do not start. Then the owner tops up: executors receive RESUME, and the stopped tasks are resumed.
Each sends all its charges again, like an executor that has lost its state.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from examples.simulation import documents, funding
from examples.simulation.client import expect_success
from examples.simulation.context import Context, Owner
from examples.simulation.expected_state import OwnerAgent
from examples.simulation.subscriptions import TaskSignals
from examples.simulation.workload import OwnerProfile, Step, Workload

SIGNAL_TIMEOUT_SECONDS: Final = 10.0
"""Longer than the 5 s within which the server repeats a lost signal."""

UNBUDGETED_TASKS: Final = 8
RUNS_PER_UNBUDGETED_TASK: Final = 6
"""The block runs of each task without a budget. The account has credits for a third of all these runs."""
SHARED_RUNS: Final = UNBUDGETED_TASKS * RUNS_PER_UNBUDGETED_TASK // 3
BUDGETED_TASKS: Final = 4
RUNS_PER_BUDGET: Final = 3
"""The block runs that each budget pays for. The last task with a budget tries one more."""
SCHEDULED_STARTS: Final = 5
TOP_UP_CREDITS: Final = 500
"""The owner buys a multiple of this that is enough for all runs."""
AGENT: Final = "out-of-credits"


def owner_profile(workload: Workload) -> OwnerProfile | None:
    """Return the owner of the scenario, or None if the rate card has no price per run. Then the scenario cannot run."""
    step = _step(workload)
    if step is None:
        return None
    needed = (UNBUDGETED_TASKS * RUNS_PER_UNBUDGETED_TASK + 1) * step.credits
    return OwnerProfile(
        name=AGENT,
        weight=0,
        opening_credits=(SHARED_RUNS + BUDGETED_TASKS * RUNS_PER_BUDGET) * step.credits,
        top_up_credits=-(-needed // TOP_UP_CREDITS) * TOP_UP_CREDITS,
    )


async def run(context: Context, owner: Owner) -> None:
    """Run the scenario. Unexpected results are added to the problems. Raises: UnexpectedResponse, Unavailable."""
    step = _step(context.workload)
    if step is None:
        return
    scenario = _Scenario(context, owner, step)
    async with TaskSignals(context.client.url, context.tokens.service, ownerIds=[owner.id]).followed() as signals:
        await scenario.run_out_of_credits(signals)
        await scenario.skip_scheduled_starts()
        await scenario.top_up_and_resume(signals)
        context.expected.problems += signals.problems


def _step(workload: Workload) -> Step | None:
    """Return the step whose run costs closest to ten credits, or None if no step has a price per run."""
    steps = [step for agent in workload.agents for wave in agent.graph for step in wave]
    paid = [step for step in steps if step.credits and step.measurements is None]
    return min(paid, key=lambda step: (abs(step.credits - 10), step.block), default=None)


@dataclass(frozen=True, slots=True)
class _Task:
    """A task of the scenario. `runs`: its number of block runs. `budget`: in credits."""

    id: str
    runs: int
    budget: int | None = None


class _Scenario:
    def __init__(self, context: Context, owner: Owner, step: Step) -> None:
        self._context = context
        self._owner = owner
        self._step = step
        self._agent_id = f"{context.run_id}-{AGENT}"
        self._unbudgeted = [
            _Task(f"{owner.id}-unbudgeted-{number}", RUNS_PER_UNBUDGETED_TASK) for number in range(UNBUDGETED_TASKS)
        ]
        wanted = [RUNS_PER_BUDGET] * (BUDGETED_TASKS - 1) + [RUNS_PER_BUDGET + 1]
        self._budgeted = [
            _Task(f"{owner.id}-budgeted-{number}", runs, RUNS_PER_BUDGET * step.credits)
            for number, runs in enumerate(wanted)
        ]

    async def run_out_of_credits(self, signals: TaskSignals) -> None:
        """Start all tasks, and charge each until its end or a refusal."""
        tasks = [*self._budgeted, *self._unbudgeted]
        await asyncio.gather(*map(self._start, tasks))
        await asyncio.gather(*map(self._charge, tasks))
        for task in self._budgeted[:-1]:
            await self._finish(task)
        found = await self._as_service(documents.TASKS, taskIds=[task.id for task in tasks])
        self._check(
            "statuses of the tasks",
            [(task["status"], task["stopReason"]) for task in found],
            [
                *[("COMPLETED", None)] * (BUDGETED_TASKS - 1),
                ("STOPPED", "BUDGET_REACHED"),
                *[("STOPPED", "OUT_OF_CREDITS")] * UNBUDGETED_TASKS,
            ],
        )
        costs = [task["cost"]["total"] for task in found]
        self._check("cost of the tasks without budget", sum(costs[BUDGETED_TASKS:]), SHARED_RUNS * self._step.credits)
        of_budgets = [RUNS_PER_BUDGET * self._step.credits] * BUDGETED_TASKS
        self._check("costs of the tasks with a budget", costs[:BUDGETED_TASKS], of_budgets)
        await self._check_signal(signals, "STOP")
        stopped = UNBUDGETED_TASKS + 1
        self._context.expected.events["tasks stopped"] += stopped
        self._context.log(f"{self._owner.id} ran out of credits: {stopped} tasks are stopped, the others are completed")

    async def skip_scheduled_starts(self) -> None:
        """Try scheduled starts. They must be refused and recorded, with one notification for all."""
        for number in range(SCHEDULED_STARTS):
            sent = self._start_input(_Task(f"{self._owner.id}-scheduled-{number}", 1)) | {"trigger": "SCHEDULED"}
            response = await self._as_service(documents.START_TASK, input=sent)
            self._check("scheduled start without credits", response["__typename"], "InsufficientCreditsError")
        self._context.expected.events["schedules skipped"] += SCHEDULED_STARTS
        agent = await self._context.client.execute(
            self._owner.token, documents.SKIPPED_STARTS, agentId=self._agent_id, ownerId=self._owner.id
        )
        reasons = [edge["node"]["reason"] for edge in agent["skippedStarts"]["edges"]]
        self._check("skipped starts", reasons, ["OUT_OF_CREDITS"] * SCHEDULED_STARTS)
        account = await self._account()
        kinds = sorted(
            (edge["node"]["kind"], edge["node"]["agentId"] or "") for edge in account["notifications"]["edges"]
        )
        # Whether the balance was low before depends on a setting of the server.
        found = [kind for kind in kinds if kind[0] != "LOW_BALANCE"]
        expected = [("OUT_OF_CREDITS", ""), ("OUT_OF_CREDITS", self._agent_id), ("SCHEDULE_SKIPPED", self._agent_id)]
        self._check("notifications without credits", found, expected)
        self._check("canRun", account["canRun"], {"ok": False, "reason": "OUT_OF_CREDITS"})

    async def top_up_and_resume(self, signals: TaskSignals) -> None:
        """Top up. Then resume every stopped task, and run it to its end."""
        await funding.top_up_once(self._context, self._owner, top_ups_before=self._owner.top_up_count)
        await self._check_signal(signals, "RESUME")
        stopped = [self._budgeted[-1], *self._unbudgeted]
        account = await self._account()
        resumable = {edge["node"]["task"]["taskId"]: edge["node"] for edge in account["resumableTasks"]["edges"]}
        self._check("resumable tasks", sorted(resumable), sorted(task.id for task in stopped))
        self._check("what they required", {task["required"] for task in resumable.values()}, {self._step.credits})
        # The top-up pays for all of them except the one that has used up its budget.
        shortfalls = {task.id: 0 for task in self._unbudgeted} | {self._budgeted[-1].id: self._step.credits}
        self._check("their shortfall", {name: task["shortfall"] for name, task in resumable.items()}, shortfalls)
        kinds = {edge["node"]["kind"] for edge in account["notifications"]["edges"]}
        self._check("notifications after the top-up", kinds & {"OUT_OF_CREDITS", "SCHEDULE_SKIPPED"}, set())
        await asyncio.gather(*map(self._resume, stopped))
        await asyncio.gather(*map(self._charge, stopped))
        await asyncio.gather(*map(self._finish, stopped))
        self._context.expected.events["tasks resumed"] += len(stopped)
        self._context.log(f"{self._owner.id} topped up: {len(stopped)} tasks were resumed and completed")

    async def _account(self) -> Any:
        return await self._context.client.execute(self._owner.token, documents.ACCOUNT, ownerId=self._owner.id)

    async def _as_service(self, operation: documents.Operation, **variables: Any) -> Any:
        return await self._context.client.execute(self._context.tokens.service, operation, **variables)

    def _start_input(self, task: _Task) -> dict[str, Any]:
        sent = {"taskId": task.id, "ownerId": self._owner.id, "agentId": self._agent_id}
        return sent | ({"budget": task.budget} if task.budget is not None else {})

    async def _start(self, task: _Task) -> None:
        response = await self._as_service(documents.START_TASK, input=self._start_input(task))
        expect_success(response, f"the start of {task.id}")
        self._context.expected.record_start(task.id, OwnerAgent(self._owner.id, self._agent_id))
        self._context.expected.tasks[task.id].status = "STOPPED"  # until it is finished

    async def _charge(self, task: _Task) -> None:
        """Charge the block runs of a task one after the other, until a charge is refused."""
        for number in range(task.runs):
            run_id = f"{task.id}-run-{number}"
            sent = {
                "taskId": task.id,
                "blockRunId": run_id,
                "block": self._step.block,
                "settings": self._step.settings,
            }
            response = await self._as_service(documents.CHARGE, input=sent)
            if response["__typename"] in ("InsufficientCreditsError", "BudgetReachedError"):
                self._context.expected.events["charges refused"] += 1
                return
            charge = expect_success(response, run_id)
            self._context.expected.record_charge(
                task.id, run_id, credits=charge["cost"], seq=charge["entry"]["seq"], replayed=charge["replayed"]
            )

    async def _resume(self, task: _Task) -> None:
        """Resume a task: the executor adds credits to its budget, or the user resumes a task without budget."""
        sent: dict[str, Any] = {"taskId": task.id}
        token = self._owner.token
        if task.budget is not None:
            sent |= {"addBudget": self._step.credits, "idempotencyKey": f"{task.id}-more"}
            token = self._context.tokens.service
        response = await self._context.client.execute(token, documents.RESUME_TASK, input=sent)
        expect_success(response, f"the resumption of {task.id}")

    async def _finish(self, task: _Task) -> None:
        response = await self._as_service(documents.FINISH_TASK, input={"taskId": task.id, "status": "COMPLETED"})
        ended = expect_success(response, f"the end of {task.id}")["task"]
        self._context.expected.tasks[task.id].status = "COMPLETED"
        if ended["status"] == "COMPLETED" and task in self._unbudgeted:
            self._check(f"cost of {task.id}", ended["cost"]["total"], task.runs * self._step.credits)

    async def _check_signal(self, signals: TaskSignals, kind: str) -> None:
        received = await signals.wait_until(lambda: signals.has_received(kind), timeout_seconds=SIGNAL_TIMEOUT_SECONDS)
        self._check(f"{kind} received", received, True)

    def _check(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self._context.add_problem(f"{self._owner.id}, {what}: {found}, not {expected}")
