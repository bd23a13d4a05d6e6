"""A scene of the day: an account runs dry in the middle of concurrent tasks, and goes on after a top-up.

Some tasks have a budget and end with it; the others share what is left, until it is gone. Their schedule's ticks are
skipped meanwhile. Then somebody tops up: the executors hear RESUME, what waited is resumed, and sends everything again
from its beginning, as an executor does that remembers nothing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from examples.simulation import documents, funding
from examples.simulation.context import Context, Owner, expect_success
from examples.simulation.expected_state import OwnerAgent
from examples.simulation.profiles import OwnerProfile
from examples.simulation.subscriptions import Subscription
from examples.simulation.workload import Step, Workload

SIGNAL_SECONDS: Final = 10.0
"""How long a signal may take: one that was lost is made good within 5 s."""

UNBUDGETED_TASKS: Final = 8
RUNS_PER_UNBUDGETED_TASK: Final = 6
"""What each of them wants to run; it gets a third of that."""
SHARED_RUNS: Final = UNBUDGETED_TASKS * RUNS_PER_UNBUDGETED_TASK // 3
BUDGETED_TASKS: Final = 4
RUNS_PER_BUDGET: Final = 3
"""What each budget holds; the last of these tasks wants one run more."""
SCHEDULED_STARTS: Final = 5

TOP_UP_CREDITS: Final = 500
"""Bought, or as many of them as all the rest needs."""
AGENT: Final = "dry-season"


def owner_profile(day: Workload) -> OwnerProfile | None:
    """Of the owner whose account runs dry; None: the card prices nothing per run, and there is no such scene."""
    step = _step(day)
    if step is None:
        return None
    needed = (UNBUDGETED_TASKS * RUNS_PER_UNBUDGETED_TASK + 1) * step.credits
    return OwnerProfile(
        name=AGENT,
        weight=0,
        opening_credits=(SHARED_RUNS + BUDGETED_TASKS * RUNS_PER_BUDGET) * step.credits,
        top_up_credits=-(-needed // TOP_UP_CREDITS) * TOP_UP_CREDITS,
    )


class TaskSignals(Subscription):
    """What the executors of the platform are told of one owner."""

    name = "signals"
    field = "taskSignals"
    document = documents.SIGNALS_FOLLOWED

    def has_received(self, kind: str) -> bool:
        """Whether the last word about all tasks is this one."""
        of_all = [item for item in self.items if item["taskIds"] is None]
        return bool(of_all) and max(of_all, key=lambda item: int(item["version"]))["kind"] == kind


@dataclass(frozen=True, slots=True)
class _Runner:
    """A task of the scene; `runs` is what it wants, `budget` what it may spend."""

    name: str
    runs: int
    budget: int | None = None


async def run(stage: Context, owner: Owner) -> None:
    """The whole scene. What is not as it must be goes to the tally's problems. Raises: Unexpected, Unavailable."""
    step = _step(stage.day)
    if step is None:
        return
    scene = _Scene(stage, owner, step)
    async with _following(stage, owner) as signals:
        await scene.run_dry(signals)
        await scene.skip_ticks()
        await scene.go_on(signals)
        stage.expected.problems += signals.problems


def _step(day: Workload) -> Step | None:
    """A block run that costs about ten credits."""
    steps = [step for agent in day.agents for wave in agent.graph for step in wave]
    paid = [step for step in steps if step.credits and step.measurements is None]
    return min(paid, key=lambda step: (abs(step.credits - 10), step.block), default=None)


@contextlib.asynccontextmanager
async def _following(stage: Context, owner: Owner) -> AsyncIterator[TaskSignals]:
    signals = TaskSignals(stage.client.url, stage.tokens.service, ownerIds=[owner.id])
    following = asyncio.create_task(signals.receive())
    try:
        yield signals
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class _Scene:
    def __init__(self, stage: Context, owner: Owner, step: Step) -> None:
        self._stage = stage
        self._owner = owner
        self._step = step
        self._agent_id = f"{stage.run_id}-{AGENT}"
        self._free = [
            _Runner(f"{owner.id}-free-{number}", RUNS_PER_UNBUDGETED_TASK) for number in range(UNBUDGETED_TASKS)
        ]
        wanted = [RUNS_PER_BUDGET] * (BUDGETED_TASKS - 1) + [RUNS_PER_BUDGET + 1]
        self._budgeted = [
            _Runner(f"{owner.id}-budget-{number}", runs, RUNS_PER_BUDGET * step.credits)
            for number, runs in enumerate(wanted)
        ]

    async def run_dry(self, signals: TaskSignals) -> None:
        """Everybody starts, and runs until its end or a refusal."""
        tasks = [*self._budgeted, *self._free]
        await asyncio.gather(*map(self._start, tasks))
        await asyncio.gather(*map(self._run, tasks))
        for task in self._budgeted[:-1]:
            await self._finish(task)
        found = await self._stage.client.execute(
            self._stage.tokens.service, documents.TASKS, taskIds=[task.name for task in tasks]
        )
        wanted = [("COMPLETED", None)] * (BUDGETED_TASKS - 1) + [("STOPPED", "BUDGET_REACHED")]
        wanted += [("STOPPED", "OUT_OF_CREDITS")] * UNBUDGETED_TASKS
        self._check("how the tasks stand", [(one["status"], one["stopReason"]) for one in found], wanted)
        spent = sum(one["cost"]["total"] for one in found[BUDGETED_TASKS:])
        self._check("what the tasks without a budget spent", spent, SHARED_RUNS * self._step.credits)
        self._check("what a budget paid", [one["cost"]["total"] for one in found[:BUDGETED_TASKS]],
                    [RUNS_PER_BUDGET * self._step.credits] * BUDGETED_TASKS)  # fmt: skip
        heard = await signals.wait_until(lambda: signals.has_received("STOP"), within_seconds=SIGNAL_SECONDS)
        self._check("STOP was heard", heard, True)
        stopped = UNBUDGETED_TASKS + 1
        self._stage.expected.events["tasks stopped"] += stopped
        self._stage.log(f"{self._owner.id} ran dry: {stopped} tasks are stopped, the others ended with their budgets")

    async def skip_ticks(self) -> None:
        """A schedule goes on ticking: nothing starts, and one notice says so."""
        for tick in range(SCHEDULED_STARTS):
            sent = self._start_input(_Runner(f"{self._owner.id}-tick-{tick}", 1)) | {"trigger": "SCHEDULED"}
            answer = await self._stage.client.execute(self._stage.tokens.service, documents.START_TASK, input=sent)
            self._check("a tick at zero", answer["__typename"], "InsufficientCreditsError")
        self._stage.expected.events["ticks skipped"] += SCHEDULED_STARTS
        agent = await self._stage.client.execute(
            self._owner.token, documents.SKIPPED, agentId=self._agent_id, ownerId=self._owner.id
        )
        reasons = [edge["node"]["reason"] for edge in agent["skippedStarts"]["edges"]]
        self._check("the skipped ticks", reasons, ["OUT_OF_CREDITS"] * SCHEDULED_STARTS)
        want = await self._want()
        told = sorted((edge["node"]["kind"], edge["node"]["agentId"] or "") for edge in want["notifications"]["edges"])
        of_want = [one for one in told if one[0] != "LOW_BALANCE"]  # how low is low, the installation says
        wanted = [("OUT_OF_CREDITS", ""), ("OUT_OF_CREDITS", self._agent_id), ("SCHEDULE_SKIPPED", self._agent_id)]
        self._check("the notices at zero", of_want, wanted)
        self._check("whether anything can run", want["canRun"], {"ok": False, "reason": "OUT_OF_CREDITS"})

    async def go_on(self, signals: TaskSignals) -> None:
        """A top-up, RESUME, and every task from its beginning to its end."""
        await funding.top_up_once(self._stage, self._owner, credited_before=self._owner.top_up_count)
        heard = await signals.wait_until(lambda: signals.has_received("RESUME"), within_seconds=SIGNAL_SECONDS)
        self._check("RESUME was heard", heard, True)
        waiting = [self._budgeted[-1], *self._free]
        want = await self._want()
        listed = {edge["node"]["task"]["taskId"]: edge["node"] for edge in want["resumableTasks"]["edges"]}
        self._check("what waits", sorted(listed), sorted(task.name for task in waiting))
        self._check("what it lacked", {one["lacked"] for one in listed.values()}, {self._step.credits})
        left = {edge["node"]["kind"] for edge in want["notifications"]["edges"]}
        self._check("the notices of want afterwards", left & {"OUT_OF_CREDITS", "SCHEDULE_SKIPPED"}, set())
        await asyncio.gather(*map(self._resume, waiting))
        await asyncio.gather(*map(self._run, waiting))
        await asyncio.gather(*map(self._finish, waiting))
        self._stage.expected.events["tasks resumed"] += len(waiting)
        self._stage.log(f"{self._owner.id} topped up: {len(waiting)} tasks went on to their ends")

    async def _want(self) -> Any:
        return await self._stage.client.execute(self._owner.token, documents.WANT, ownerId=self._owner.id)

    def _start_input(self, task: _Runner) -> dict[str, Any]:
        sent = {"taskId": task.name, "ownerId": self._owner.id, "agentId": self._agent_id}
        return sent | ({"budget": task.budget} if task.budget is not None else {})

    async def _start(self, task: _Runner) -> None:
        answer = await self._stage.client.execute(
            self._stage.tokens.service, documents.START_TASK, input=self._start_input(task)
        )
        expect_success(answer, f"the start of {task.name}")
        self._stage.expected.record_start(task.name, OwnerAgent(self._owner.id, self._agent_id))
        self._stage.expected.tasks[task.name].status = "STOPPED"  # until it is finished

    async def _run(self, task: _Runner) -> None:
        """Its block runs, one after the other, until one is refused."""
        for number in range(task.runs):
            sent = {
                "taskId": task.name,
                "blockRunId": f"{task.name}-run-{number}",
                "block": self._step.block,
                "settings": self._step.settings,
            }
            answer = await self._stage.client.execute(self._stage.tokens.service, documents.CHARGE, input=sent)
            if answer["__typename"] in ("InsufficientCreditsError", "BudgetReachedError"):
                self._stage.expected.events["charges refused"] += 1
                return
            paid = expect_success(answer, f"{task.name}-run-{number}")
            self._stage.expected.record_charge(
                task.name, f"{task.name}-run-{number}", credits=paid["cost"], seq=paid["entry"]["seq"],
                replayed=paid["replayed"],
            )  # fmt: skip

    async def _resume(self, task: _Runner) -> None:
        """By the executor where a budget is added to, else by the user."""
        sent: dict[str, Any] = {"taskId": task.name}
        token = self._owner.token
        if task.budget is not None:
            sent |= {"addBudget": self._step.credits, "idempotencyKey": f"{task.name}-more"}
            token = self._stage.tokens.service
        answer = await self._stage.client.execute(token, documents.RESUME_TASK, input=sent)
        expect_success(answer, f"the resumption of {task.name}")

    async def _finish(self, task: _Runner) -> None:
        sent = {"taskId": task.name, "status": "COMPLETED"}
        answer = await self._stage.client.execute(self._stage.tokens.service, documents.FINISH_TASK, input=sent)
        ended = expect_success(answer, f"the end of {task.name}")["task"]
        self._stage.expected.tasks[task.name].status = "COMPLETED"
        if ended["status"] == "COMPLETED" and task in self._free:
            self._check(f"the cost of {task.name}", ended["cost"]["total"], task.runs * self._step.credits)

    def _check(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            self._stage.add_problem(f"{self._owner.id}, {what}: {found}, not {wanted}")
