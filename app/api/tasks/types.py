"""Tasks, and what each costs, while it runs and after."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, TypeAlias

import strawberry

from app.api.context import Context, ResolverInfo
from app.api.input_checks import check_ids, check_list_length
from app.api.owner_scope import readable_owners
from app.api.scalars import Credits
from app.api.tasks.block_runs import BlockRun, to_block_run
from app.api.tasks.hold_types import Budget, load_budget, load_held_credits
from app.engine import declare, global_ids
from app.engine.pagination import (
    MAX_PAGE,
    After,
    Connection,
    First,
    build_connection,
    check_first,
    decode_cursor,
    encode_cursor,
    parse_cursor_time,
)
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.schema import describe_enum
from app.errors import BadRequest
from app.ledger import accounts
from app.tasks import costs, queries
from app.tasks.costs import AccountScopedId
from app.tasks.costs import BlockCost as BlockCostRead
from app.tasks.costs import ModelCost as ModelCostRead
from app.tasks.rules import BlockRunState, SignalKind, StopReason, TaskState, TaskStatus, TaskTrigger

describe_enum(
    TaskStatus,
    name="TaskStatus",
    description="Where a task stands.",
    values={
        TaskStatus.RUNNING: "It takes block runs.",
        TaskStatus.COMPLETED: "It did what it should.",
        TaskStatus.FAILED: "It could not.",
        TaskStatus.CANCELLED: "Somebody ended it, for good.",
        TaskStatus.STOPPED: "A block run could not be paid, or its budget lapsed: it takes none until it is resumed.",
    },
)
describe_enum(
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
describe_enum(
    SignalKind,
    name="SignalKind",
    description="What executors are told.",
    values={
        SignalKind.STOP: "Finish the block runs in flight, they are paid, and start no more.",
        SignalKind.RESUME: "Credits are there again: go on with what runs, resume what was stopped.",
    },
)
describe_enum(
    TaskTrigger,
    name="TaskTrigger",
    description="What started a task.",
    values={
        TaskTrigger.MANUAL: "A person.",
        TaskTrigger.SCHEDULED: "A schedule.",
        TaskTrigger.WEBHOOK: "An event from outside.",
    },
)

FirstRuns = Annotated[int, strawberry.argument(description=f"How many, from 1 to {MAX_PAGE}.")]
TaskId = Annotated[strawberry.ID, strawberry.argument(description="The platform's id of the task.")]
TaskIds = Annotated[list[strawberry.ID], strawberry.argument(description="1 to 100 ids of the platform.")]


@declare.type(description="What was spent on one block.", needs=Permission.INHERITED)
class BlockCost:
    block: str = declare.value(description="The block.")
    credits: Credits = declare.value(description="Charged minus reversed.")
    count: int = declare.value(description="Its block runs, those at cost 0 included.")


@declare.type(description="What was spent on one language model.", needs=Permission.INHERITED)
class ModelCost:
    model: str = declare.value(description="The model.")
    credits: Credits = declare.value(description="Charged minus reversed.")
    count: int = declare.value(description="Its block runs.")


@declare.type(
    description="What a task costs: exact at the moment the balance moves, while it runs and after.",
    needs=Permission.INHERITED,
)
class TaskCost(global_ids.Node):
    task_id: strawberry.ID = declare.value(description="The platform's id of the task.")
    status: TaskStatus = declare.value(description="Where the task stands.")
    version: Long = declare.value(description="Rises with every change of the task.")
    total: Credits = declare.value(description="Charged minus reversed, of this task itself.")
    charged: Credits = declare.value(description="The sum of its charges.")
    reversed: Credits = declare.value(description="The sum of what was given back.")
    state: strawberry.Private[TaskState]

    @declare.field(description="Credits held for this task now: its own budget's rest, and holds for its block runs.")
    async def held(self, info: ResolverInfo) -> Credits:
        return await load_held_credits(info.context, *_key(self.state))

    @declare.field(description="What its children cost, theirs included; never part of total.")
    async def children(self, info: ResolverInfo) -> Credits:
        return Credits(await info.context.data_loader(_below).load(_key(self.state)))

    @declare.field(description="By block, dearest first.")
    async def by_block(self, info: ResolverInfo) -> list[BlockCost]:
        found = await info.context.data_loader(_by_block).load(_key(self.state))
        return [BlockCost(block=one.block, credits=Credits(one.credits), count=one.count) for one in found]

    @declare.field(description="By language model, dearest first, of the block runs priced by model.")
    async def by_model(self, info: ResolverInfo) -> list[ModelCost]:
        found = await info.context.data_loader(_by_model).load(_key(self.state))
        return [ModelCost(model=one.model, credits=Credits(one.credits), count=one.count) for one in found]


# A type may name itself only by what Strawberry looks up later.
LaterTask: TypeAlias = Annotated["Task", strawberry.lazy("app.api.tasks.types")]


@declare.type(description="One execution of an agent.", needs=Permission.INHERITED)
class Task(global_ids.Node):
    task_id: strawberry.ID = declare.value(description="The platform's own id.")
    agent_id: strawberry.ID = declare.value(description="The agent that is executed.")
    owner_id: strawberry.ID = declare.value(description="Whose account pays.")
    status: TaskStatus = declare.value(description="Where it stands.")
    stop_reason: StopReason | None = declare.value(description="Why it is stopped; null where it is not.")
    trigger: TaskTrigger = declare.value(description="What started it.")
    started_at: datetime = declare.value(description="When it was opened.")
    ended_at: datetime | None = declare.value(description="When it ended; null while it is open.")
    steps: int = declare.value(description="Block runs recorded so far, those at cost 0 included.")
    state: strawberry.Private[TaskState]

    @declare.field(description="What it costs.")
    def cost(self) -> TaskCost:
        return to_task_cost(self.state)

    @declare.field(description="What it may spend; null where it pays from what the account has available.")
    async def budget(self, info: ResolverInfo) -> Budget | None:
        return await load_budget(info.context, self.state.account_id, self.state.budget_hold)

    @declare.field(description="The task that it is nested in.")
    async def parent(self, info: ResolverInfo) -> LaterTask | None:
        if self.state.parent_task_id is None:
            return None
        return await load_task(info.context, self.state.account_id, self.state.parent_task_id)

    @declare.field(description="The tasks nested in it, oldest first.")
    async def children(self, info: ResolverInfo, first: First = 25, after: After = None) -> Connection[LaterTask]:
        key = _key(self.state)
        place = decode_cursor(after, "children", key[0], shape=(str, str, str))
        if place is not None and place[0] != key[1]:
            raise BadRequest("after is a cursor of another task's children.")
        found = await costs.child_tasks(
            [key], limit=check_first(first) + 1, after=(parse_cursor_time(place[1]), place[2]) if place else None
        )
        return build_connection(
            found[key],
            first=first,
            after=after,
            cursor_of=lambda child: encode_cursor(
                "children", key[0], key[1], child.started_at.isoformat(), child.task_id
            ),
            node_of=lambda child: to_task(child, self.owner_id),
        )

    @declare.field(description="Its block runs, in the order in which they were charged.")
    async def block_runs(self, info: ResolverInfo, first: FirstRuns = 50, after: After = None) -> Connection[BlockRun]:
        key = _key(self.state)
        place = decode_cursor(after, "blockRuns", key[0], shape=(str, int))
        if place is not None and place[0] != key[1]:
            raise BadRequest("after is a cursor of another task's block runs.")
        limit = check_first(first) + 1
        if place is None:  # many tasks' first pages are one read
            found = await info.context.data_loader(_FIRST_RUNS[limit]).load(key)
        else:
            found = (await costs.block_runs_of_tasks([key], limit=limit, after_position=place[1]))[key]
        return build_connection(
            found,
            first=first,
            after=after,
            cursor_of=lambda run: encode_cursor("blockRuns", key[0], key[1], run.position),
            node_of=to_block_run,
        )


@strawberry.type(description="Reading tasks.")
class TaskQueries:
    @declare.query(
        needs=Permission.AUTHENTICATED, description="A task by the platform's id; null where there is none for you."
    )
    async def task(self, info: ResolverInfo, task_id: TaskId) -> Task | None:
        check_ids(taskId=task_id)
        return (await _find(info.context, [task_id]))[0]

    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="Tasks by the platform's ids, in their order; null for each not found.",
    )
    async def tasks(self, info: ResolverInfo, task_ids: TaskIds) -> list[Task | None]:
        check_list_length(task_ids, name="taskIds", limit=MAX_PAGE)
        check_ids(**{f"taskIds.{place}": task_id for place, task_id in enumerate(task_ids)})
        return await _find(info.context, task_ids)


def to_task(state: TaskState, owner_id: str) -> Task:
    """A task as GraphQL shows it."""
    return Task(
        id=global_ids.encode_id("Task", state.account_id, state.task_id),
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


def to_task_cost(state: TaskState) -> TaskCost:
    """What a task costs, as GraphQL shows it."""
    return TaskCost(
        id=global_ids.encode_id("TaskCost", state.account_id, state.task_id),
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
    found = await context.data_loader(_tasks).load((account_id, task_id))
    return to_task(*found) if found else None


@global_ids.node_fetcher("Task", int, str)
async def fetch_task(context: Context, account_id: int, task_id: str) -> Task | None:
    found = (await _find(context, [task_id]))[0]
    return found if found and found.state.account_id == account_id else None


@global_ids.node_fetcher("TaskCost", int, str)
async def fetch_task_cost(context: Context, account_id: int, task_id: str) -> TaskCost | None:
    task = await fetch_task(context, account_id, task_id)
    return to_task_cost(task.state) if task else None


async def _find(context: Context, task_ids: Sequence[str]) -> list[Task | None]:
    found = await queries.find_tasks(task_ids, owner_ids=readable_owners(context.authenticated_caller))
    return [to_task(seen.task, seen.owner_id) if (seen := found.get(one)) else None for one in task_ids]


def _key(state: TaskState) -> AccountScopedId:
    return state.account_id, state.task_id


async def _tasks(keys: list[AccountScopedId]) -> Sequence[tuple[TaskState, str] | None]:
    found = await costs.tasks_by_id(keys)
    owners = await accounts.find_owners([account_id for account_id, _ in found])
    return [(found[key], owners[key[0]]) if key in found else None for key in keys]


async def _below(keys: list[AccountScopedId]) -> Sequence[int]:
    found = await costs.descendant_costs(keys)
    return [found[key] for key in keys]


async def _by_block(keys: list[AccountScopedId]) -> Sequence[list[BlockCostRead]]:
    found = await costs.costs_by_block(keys)
    return [found[key] for key in keys]


async def _by_model(keys: list[AccountScopedId]) -> Sequence[list[ModelCostRead]]:
    found = await costs.costs_by_model(keys)
    return [found[key] for key in keys]


class _FirstRuns:
    """A loader of first pages: one for each page size, so that the loaders of one request share reads of one size."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    async def __call__(self, keys: list[AccountScopedId]) -> Sequence[list[BlockRunState]]:
        found = await costs.block_runs_of_tasks(keys, limit=self._limit)
        return [found[key] for key in keys]


_FIRST_RUNS = [_FirstRuns(limit) for limit in range(MAX_PAGE + 2)]
