"""Tasks, and what each costs, while it runs and after."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, TypeAlias

import strawberry

from app.errors import BadRequest
from app.graphql import access, nodes
from app.graphql.access import Needs
from app.graphql.block_runs import BlockRun, block_run_of
from app.graphql.context import Context, Information
from app.graphql.enums import shown
from app.graphql.holds import Budget, budget_of, held_of
from app.graphql.inputs import checked, checked_list
from app.graphql.pagination import MAX_PAGE, After, Connection, First, checked_first, cursor, instant, page, position
from app.graphql.scalars import Credits, Long
from app.graphql.sight import owners_seen
from app.ledger import accounts
from app.tasks import costs, sight
from app.tasks.costs import BlockCost as BlockCostRead
from app.tasks.costs import Key
from app.tasks.costs import ModelCost as ModelCostRead
from app.tasks.rules import BlockRunState, SignalKind, Status, StopReason, TaskState, Trigger

shown(
    Status,
    name="TaskStatus",
    description="Where a task stands.",
    values={
        Status.RUNNING: "It takes block runs.",
        Status.COMPLETED: "It did what it should.",
        Status.FAILED: "It could not.",
        Status.CANCELLED: "Somebody ended it, for good.",
        Status.STOPPED: "A block run could not be paid, or its budget lapsed: it takes none until it is resumed.",
    },
)
shown(
    StopReason,
    name="StopReason",
    description="Why a task is stopped.",
    values={
        StopReason.OUT_OF_CREDITS: "The account had less than a block run costs.",
        StopReason.BUDGET_REACHED: "Its budget had less left than a block run costs: resumeTask may add to it.",
        StopReason.BUDGET_EXPIRED: "Nobody charged within its budget's timeout, or the task whose budget it drew on "
        "has ended: the rest went back to the account. resumeTask may give it a new one.",
    },
)
shown(
    SignalKind,
    name="SignalKind",
    description="What executors are told.",
    values={
        SignalKind.STOP: "Finish the block runs in flight, they are paid, and start no more.",
        SignalKind.RESUME: "Credits are there again: go on with what runs, resume what was stopped.",
    },
)
shown(
    Trigger,
    name="TaskTrigger",
    description="What started a task.",
    values={Trigger.MANUAL: "A person.", Trigger.SCHEDULED: "A schedule.", Trigger.WEBHOOK: "An event from outside."},
)

FirstRuns = Annotated[int, strawberry.argument(description=f"How many, from 1 to {MAX_PAGE}.")]
TaskId = Annotated[strawberry.ID, strawberry.argument(description="The platform's id of the task.")]
TaskIds = Annotated[list[strawberry.ID], strawberry.argument(description="1 to 100 ids of the platform.")]


@access.type(description="What was spent on one block.", needs=Needs.REACHED)
class BlockCost:
    block: str = access.value(description="The block.")
    credits: Credits = access.value(description="Charged minus reversed.")
    count: int = access.value(description="Its block runs, those at cost 0 included.")


@access.type(description="What was spent on one language model.", needs=Needs.REACHED)
class ModelCost:
    model: str = access.value(description="The model.")
    credits: Credits = access.value(description="Charged minus reversed.")
    count: int = access.value(description="Its block runs.")


@access.type(
    description="What a task costs: exact at the moment the balance moves, while it runs and after.",
    needs=Needs.REACHED,
)
class TaskCost(nodes.Node):
    task_id: strawberry.ID = access.value(description="The platform's id of the task.")
    status: Status = access.value(description="Where the task stands.")
    version: Long = access.value(description="Rises with every change of the task.")
    total: Credits = access.value(description="Charged minus reversed, of this task itself.")
    charged: Credits = access.value(description="The sum of its charges.")
    reversed: Credits = access.value(description="The sum of what was given back.")
    state: strawberry.Private[TaskState]

    @access.field(description="Credits held for this task now: its own budget's rest, and holds for its block runs.")
    async def held(self, info: Information) -> Credits:
        return await held_of(info.context, *_key(self.state))

    @access.field(description="What its children cost, theirs included; never part of total.")
    async def children(self, info: Information) -> Credits:
        return Credits(await info.context.loader(_below).load(_key(self.state)))

    @access.field(description="By block, dearest first.")
    async def by_block(self, info: Information) -> list[BlockCost]:
        found = await info.context.loader(_by_block).load(_key(self.state))
        return [BlockCost(block=one.block, credits=Credits(one.credits), count=one.count) for one in found]

    @access.field(description="By language model, dearest first, of the block runs priced by model.")
    async def by_model(self, info: Information) -> list[ModelCost]:
        found = await info.context.loader(_by_model).load(_key(self.state))
        return [ModelCost(model=one.model, credits=Credits(one.credits), count=one.count) for one in found]


# A type may name itself only by what Strawberry looks up later.
LaterTask: TypeAlias = Annotated["Task", strawberry.lazy("app.graphql.tasks")]


@access.type(description="One execution of an agent.", needs=Needs.REACHED)
class Task(nodes.Node):
    task_id: strawberry.ID = access.value(description="The platform's own id.")
    agent_id: strawberry.ID = access.value(description="The agent that is executed.")
    owner_id: strawberry.ID = access.value(description="Whose account pays.")
    status: Status = access.value(description="Where it stands.")
    stop_reason: StopReason | None = access.value(description="Why it is stopped; null where it is not.")
    trigger: Trigger = access.value(description="What started it.")
    started_at: datetime = access.value(description="When it was opened.")
    ended_at: datetime | None = access.value(description="When it ended; null while it is open.")
    steps: int = access.value(description="Block runs recorded so far, those at cost 0 included.")
    state: strawberry.Private[TaskState]

    @access.field(description="What it costs.")
    def cost(self) -> TaskCost:
        return cost_of(self.state)

    @access.field(description="What it may spend; null where it pays from what the account has available.")
    async def budget(self, info: Information) -> Budget | None:
        return await budget_of(info.context, self.state.account_id, self.state.envelope)

    @access.field(description="The task that it is nested in.")
    async def parent(self, info: Information) -> LaterTask | None:
        if self.state.parent_task_id is None:
            return None
        return await load_task(info.context, self.state.account_id, self.state.parent_task_id)

    @access.field(description="The tasks nested in it, oldest first.")
    async def children(self, info: Information, first: First = 25, after: After = None) -> Connection[LaterTask]:
        key = _key(self.state)
        place = position(after, "children", key[0], shape=(str, str, str))
        if place is not None and place[0] != key[1]:
            raise BadRequest("after is a cursor of another task's children.")
        found = await costs.children(
            [key], limit=checked_first(first) + 1, after=(instant(place[1]), place[2]) if place else None
        )
        return page(
            found[key],
            first=first,
            after=after,
            cursor_of=lambda child: cursor("children", key[0], key[1], child.started_at.isoformat(), child.task_id),
            node_of=lambda child: task_of(child, self.owner_id),
        )

    @access.field(description="Its block runs, in the order in which they were charged.")
    async def block_runs(self, info: Information, first: FirstRuns = 50, after: After = None) -> Connection[BlockRun]:
        key = _key(self.state)
        place = position(after, "blockRuns", key[0], shape=(str, int))
        if place is not None and place[0] != key[1]:
            raise BadRequest("after is a cursor of another task's block runs.")
        limit = checked_first(first) + 1
        if place is None:  # many tasks' first pages are one read
            found = await info.context.loader(_FIRST_RUNS[limit]).load(key)
        else:
            found = (await costs.block_runs([key], limit=limit, after_position=place[1]))[key]
        return page(
            found,
            first=first,
            after=after,
            cursor_of=lambda run: cursor("blockRuns", key[0], key[1], run.position),
            node_of=block_run_of,
        )


@strawberry.type(description="Reading tasks.")
class TaskQueries:
    @access.query(
        needs=Needs.USER_OR_ABOVE, description="A task by the platform's id; null where there is none for you."
    )
    async def task(self, info: Information, task_id: TaskId) -> Task | None:
        checked(taskId=task_id)
        return (await _find(info.context, [task_id]))[0]

    @access.query(
        needs=Needs.USER_OR_ABOVE, description="Tasks by the platform's ids, in their order; null for each not found."
    )
    async def tasks(self, info: Information, task_ids: TaskIds) -> list[Task | None]:
        checked_list(task_ids, name="taskIds", limit=MAX_PAGE)
        checked(**{f"taskIds.{place}": task_id for place, task_id in enumerate(task_ids)})
        return await _find(info.context, task_ids)


def task_of(state: TaskState, owner_id: str) -> Task:
    """A task as GraphQL shows it."""
    return Task(
        id=nodes.encode_id("Task", state.account_id, state.task_id),
        task_id=strawberry.ID(state.task_id),
        agent_id=strawberry.ID(state.agent_id),
        owner_id=strawberry.ID(owner_id),
        status=state.status,
        stop_reason=state.stop_reason,
        trigger=state.trigger,
        started_at=state.started_at,
        ended_at=state.ended_at,
        steps=state.steps,
        state=state,
    )


def cost_of(state: TaskState) -> TaskCost:
    """What a task costs, as GraphQL shows it."""
    return TaskCost(
        id=nodes.encode_id("TaskCost", state.account_id, state.task_id),
        task_id=strawberry.ID(state.task_id),
        status=state.status,
        version=Long(state.version),
        total=Credits(state.total),
        charged=Credits(state.charged),
        reversed=Credits(state.reversed),
        state=state,
    )


async def load_task(context: Context, account_id: int, task_id: str) -> Task | None:
    """A task by its key, batched with the others of this request."""
    found = await context.loader(_tasks).load((account_id, task_id))
    return task_of(*found) if found else None


@nodes.fetches("Task", int, str)
async def fetch_task(context: Context, account_id: int, task_id: str) -> Task | None:
    found = (await _find(context, [task_id]))[0]
    return found if found and found.state.account_id == account_id else None


@nodes.fetches("TaskCost", int, str)
async def fetch_task_cost(context: Context, account_id: int, task_id: str) -> TaskCost | None:
    task = await fetch_task(context, account_id, task_id)
    return cost_of(task.state) if task else None


async def _find(context: Context, task_ids: Sequence[str]) -> list[Task | None]:
    found = await sight.find(task_ids, owner_ids=owners_seen(context.caller))
    return [task_of(seen.task, seen.owner_id) if (seen := found.get(one)) else None for one in task_ids]


def _key(state: TaskState) -> Key:
    return state.account_id, state.task_id


async def _tasks(keys: list[Key]) -> Sequence[tuple[TaskState, str] | None]:
    found = await costs.tasks_by_id(keys)
    owners = await accounts.owners_of([account_id for account_id, _ in found])
    return [(found[key], owners[key[0]]) if key in found else None for key in keys]


async def _below(keys: list[Key]) -> Sequence[int]:
    found = await costs.below(keys)
    return [found[key] for key in keys]


async def _by_block(keys: list[Key]) -> Sequence[list[BlockCostRead]]:
    found = await costs.by_block(keys)
    return [found[key] for key in keys]


async def _by_model(keys: list[Key]) -> Sequence[list[ModelCostRead]]:
    found = await costs.by_model(keys)
    return [found[key] for key in keys]


class _FirstRuns:
    """A loader of first pages: one for each page size, so that the loaders of one request share reads of one size."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    async def __call__(self, keys: list[Key]) -> Sequence[list[BlockRunState]]:
        found = await costs.block_runs(keys, limit=self._limit)
        return [found[key] for key in keys]


_FIRST_RUNS = [_FirstRuns(limit) for limit in range(MAX_PAGE + 2)]
