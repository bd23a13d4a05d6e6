"""The types that refer to each other: tasks, block runs, holds and the entries of the ledger."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated

import strawberry
from strawberry.scalars import JSON

from app.api.accounts.grants import Draw
from app.api.context import Context, ResolverInfo
from app.api.objects import batched, build_from
from app.api.scalars import Credits
from app.api.tasks.costs import TaskCost, to_task_cost
from app.api.tasks.enums import BlockRunOutcome, EntryKind, HoldStatus, StopReason, TaskTrigger
from app.api.topups.types import TopUp, load_top_up
from app.engine import declare, global_ids
from app.engine.global_ids import INSTANT, INT32, KEY
from app.engine.pagination import MAX_PAGE, After, Connection, First, paginate
from app.engine.permissions import Permission
from app.engine.scalars import Long, to_json
from app.ledger import accounts, queries
from app.ledger.rules.account_state import Hold as HoldState
from app.ledger.rules.account_state import LedgerEntry
from app.tasks import queries as task_queries
from app.tasks.rows import AccountScopedId
from app.tasks.rules import BlockRunState, TaskState, TaskStatus

FirstRuns = Annotated[int, strawberry.argument(description=f"The number of items, 1 to {MAX_PAGE}.")]


@declare.type(
    description="Credits reserved in grants: for one block run, or as the budget of a task. Nothing else can "
    "spend them.",
    needs=Permission.INHERITED,
)
class Hold(global_ids.Node):
    block_run_id: strawberry.ID | None = declare.value(
        description="The platform's id of the block run; null for a budget."
    )
    block: str | None = declare.value(description="The block, as named in the rate card; null for a budget.")
    credits: Credits = declare.value(description="Credits reserved in total, including additions to a budget.")
    captured: Credits = declare.value(description="Credits charged from the hold.")
    remaining: Credits = declare.value(description="Credits that the hold reserves now.")
    priced: Credits | None = declare.value(
        description="The price by the captured measurements. It is higher than `captured` if the capture was capped. "
        "Null before the capture."
    )
    status: HoldStatus = declare.value(description="The status of the hold.")
    placed_at: datetime = declare.value(description="When it was placed.")
    expires_at: datetime = declare.value(description="When it expires, or would have expired.")
    closed_at: datetime | None = declare.value(description="When it was captured, voided or expired; null while open.")
    key: strawberry.Private[AccountScopedId]

    @declare.field(description="The task.")
    async def task(self, info: ResolverInfo) -> "Task | None":
        return await load_task(info.context, *self.key)


@declare.type(
    description="The credits that a task may spend, held for it alone. What is left returns to the account when the "
    "task ends, or when nothing is charged within the timeout.",
    needs=Permission.INHERITED,
)
class Budget:
    task_id: strawberry.ID = declare.value(
        description="The task that owns the budget. A nested task without a budget of its own uses that of its "
        "closest ancestor that has one."
    )
    credits: Credits = declare.value(description="Credits that were added to the budget in total.")
    spent: Credits = declare.value(
        description="Credits charged, or reserved by holds and nested budgets taken from it."
    )
    remaining: Credits = declare.value(description="Credits left, including the closing reserve.")
    closing_reserve: Credits = declare.value(
        description="The part of `remaining` that only closing block runs may use."
    )
    expires_at: datetime = declare.value(description="When the budget expires, unless something is charged before.")


@declare.type(description="One signed entry of an account. Entries are never changed.", needs=Permission.INHERITED)
class Entry(global_ids.Node):
    seq: Long = declare.value(description="The number of the entry in its account: 1, 2, 3, without gaps.")
    version: Long = declare.value(description="The version of the balance after the entry.")
    kind: EntryKind = declare.value(description="The kind of the entry.")
    credits: Credits = declare.value(description="The change of the posted balance.")
    owed: Credits = declare.value(description="The change of the debt.")
    balance_after: Credits = declare.value(description="The posted balance after the entry.")
    effective_at: datetime = declare.value(description="When the entry took effect.")
    actor: str = declare.value(
        description="Who caused it, such as `user:alice`. `time` for expiries, `debt` for debt payments, `auto-top-up` "
        "for automatic purchases."
    )
    reason: str | None = declare.value(description="The reason that was given; null if none is required.")
    request_id: str | None = declare.value(
        needs=Permission.OPERATOR,
        description="The id of the request that caused it, as in the logs; null if no request did.",
    )
    mac: str = declare.value(
        description="HMAC-SHA256 of this entry and the previous one, in hex. `verify` detects changed entries by it."
    )
    row: strawberry.Private[LedgerEntry]

    @declare.field(description="The task whose block run is charged or reversed; null for other entries.")
    async def task(self, info: ResolverInfo) -> "Task | None":
        row = self.row
        return await load_task(info.context, row.account_id, row.task_id) if row.task_id else None

    @declare.field(description="The block run that is charged or reversed; null for other entries.")
    async def block_run(self, info: ResolverInfo) -> "BlockRun | None":
        row = self.row
        return await load_block_run(info.context, row.account_id, row.block_run_id) if row.block_run_id else None

    @declare.field(description="The top-up that is credited, refunded or disputed; null for other entries.")
    async def top_up(self, info: ResolverInfo) -> TopUp | None:
        row = self.row
        return await load_top_up(info.context, row.account_id, row.top_up_id) if row.top_up_id else None

    @declare.field(description="The hold or budget that paid the charge; null if the account paid it.")
    async def hold(self, info: ResolverInfo) -> Hold | None:
        row = self.row
        if row.hold_number is None:
            return None
        hold = await info.context.data_loader(_holds).load((row.account_id, row.hold_number))
        return to_hold(row.account_id, hold) if hold is not None else None

    @declare.field(description="The grants that paid or received the credits. Their credits add up to the entry's.")
    def draws(self) -> list[Draw]:
        row = self.row
        return [Draw(credits=Credits(credits), key=(row.account_id, number)) for number, credits in row.draws]


@declare.type(description="One execution of one block in a task.", needs=Permission.INHERITED)
class BlockRun(global_ids.Node):
    block_run_id: strawberry.ID = declare.value(
        description="The platform's id of the block run, unique in the account."
    )
    block: str = declare.value(description="The block.")
    model: str | None = declare.value(description="The language model; null if the price does not depend on it.")
    cost: Credits = declare.value(description="The credits charged. Reversals are separate entries.")
    uses_own_key: bool = declare.value(description="Whether the customer's own provider key was used; it then costs 0.")
    charged_at: datetime = declare.value(description="When it was charged.")
    rate_card_version: int = declare.value(description="The version of the rate card that set the price.")
    rule: JSON | None = declare.value(description="The rule of the rate card that set the price; null if none did.")
    outcome: BlockRunOutcome | None = declare.value(
        description="The outcome; null until the executor has reported it with finishBlockRun."
    )
    finished_at: datetime | None = declare.value(description="When the outcome was reported; null until then.")
    state: strawberry.Private[BlockRunState]
    charge: strawberry.Private[LedgerEntry | None] = None

    @declare.field(description="The entry that charges it; null if it cost 0.")
    async def entry(self, info: ResolverInfo) -> Entry | None:
        if self.charge is not None:
            return to_entry(self.charge)
        if self.state.entry_seq is None:
            return None
        entry = await info.context.data_loader(_entries).load((self.state.account_id, self.state.entry_seq))
        return to_entry(entry) if entry else None


@declare.type(description="One execution of an agent.", needs=Permission.INHERITED)
class Task(global_ids.Node):
    task_id: strawberry.ID = declare.value(description="The platform's id of the task.")
    agent_id: strawberry.ID = declare.value(description="The agent that is executed.")
    owner_id: strawberry.ID = declare.value(description="The owner whose account pays.")
    status: TaskStatus = declare.value(description="The status of the task.")
    stop_reason: StopReason | None = declare.value(description="Why the task is stopped; null if it is not.")
    trigger: TaskTrigger = declare.value(description="What started the task.")
    started_at: datetime = declare.value(description="When the task was started.")
    ended_at: datetime | None = declare.value(description="When the task ended; null while it is running or stopped.")
    block_run_count: int = declare.value(description="The number of its block runs, including those that cost 0.")
    state: strawberry.Private[TaskState]

    @declare.field(description="The cost of the task.")
    def cost(self) -> TaskCost:
        return to_task_cost(self.state)

    @declare.field(description="The budget that pays for the task; null if the account pays.")
    async def budget(self, info: ResolverInfo) -> Budget | None:
        hold = await load_budget(info.context, self.state)
        return build_from(Budget, hold, spent=hold.captured + hold.allocated) if hold is not None else None

    @declare.field(description="The parent task; null if the task is not nested.")
    async def parent(self, info: ResolverInfo) -> "Task | None":
        if self.state.parent_task_id is None:
            return None
        return await load_task(info.context, self.state.account_id, self.state.parent_task_id)

    @declare.field(description="The tasks nested in it, oldest first.")
    async def children(self, first: First = 25, after: After = None) -> Connection["Task"]:
        key = (self.state.account_id, self.state.task_id)

        async def read(limit: int, position: tuple[datetime, str] | None) -> list[TaskState]:
            return (await task_queries.child_tasks([key], limit=limit, after=position))[key]

        return await paginate(
            f"children.{self.task_id}",
            self.state.account_id,
            (INSTANT, KEY),
            first=first,
            after=after,
            read=read,
            position_of=lambda child: (child.started_at, child.task_id),
            node_of=lambda child: to_task(child, self.owner_id),
        )

    @declare.field(description="Its block runs, in the order in which they were charged.")
    async def block_runs(self, info: ResolverInfo, first: FirstRuns = 50, after: After = None) -> Connection[BlockRun]:
        key = (self.state.account_id, self.state.task_id)

        async def read(limit: int, position: tuple[int] | None) -> list[BlockRunState]:
            if position is None:  # one query reads the first pages of many tasks
                return await info.context.data_loader(_FIRST_RUNS[limit]).load(key)
            return (await task_queries.block_runs_of_tasks([key], limit=limit, after_position=position[0]))[key]

        return await paginate(
            f"blockRuns.{self.task_id}",
            self.state.account_id,
            (INT32,),
            first=first,
            after=after,
            read=read,
            position_of=lambda run: (run.position,),
            node_of=to_block_run,
        )


def to_hold(account_id: int, hold: HoldState) -> Hold:
    return build_from(
        Hold,
        hold,
        id=global_ids.encode_id("Hold", account_id, hold.number),
        block=hold.terms["block"] if hold.terms and not hold.is_budget else None,
        priced=hold.priced_credits,
        key=(account_id, hold.task_id),
    )


def to_entry(entry: LedgerEntry) -> Entry:
    return build_from(
        Entry,
        entry,
        id=global_ids.encode_id("Entry", entry.account_id, entry.seq),
        kind=EntryKind(entry.kind),
        effective_at=entry.at,
        mac=entry.mac.hex(),
        row=entry,
    )


def to_block_run(run: BlockRunState, charge: LedgerEntry | None = None) -> BlockRun:
    """Build the GraphQL object of a block run. `charge` is its entry, if that was already read."""
    return build_from(
        BlockRun,
        run,
        id=global_ids.encode_id("BlockRun", run.account_id, run.block_run_id),
        rate_card_version=run.rate_card_version,
        rule=to_json(run.rule),
        state=run,
        charge=charge,
    )


def to_task(task: TaskState, owner_id: str) -> Task:
    return build_from(
        Task,
        task,
        id=global_ids.encode_id("Task", task.account_id, task.task_id),
        owner_id=owner_id,
        block_run_count=task.steps,
        state=task,
    )


async def load_task(context: Context, account_id: int, task_id: str) -> Task | None:
    """Load a task. The loads of a request are combined into one read."""
    found = await context.data_loader(_tasks).load((account_id, task_id))
    return to_task(*found) if found else None


async def load_budget(context: Context, task: TaskState) -> HoldState | None:
    """Load the budget that pays for a task, or None. The loads of a request are combined into one read."""
    if task.budget_hold is None:
        return None
    return await context.data_loader(_holds).load((task.account_id, task.budget_hold))


async def load_block_run(context: Context, account_id: int, block_run_id: str) -> BlockRun | None:
    """Load a block run. The loads of a request are combined into one read."""
    run = await context.data_loader(_block_runs).load((account_id, block_run_id))
    return to_block_run(run) if run else None


_block_runs = batched(task_queries.block_runs_by_id, None)
_entries = batched(queries.get_entries, None)
_holds = batched(queries.get_holds, None)


async def _tasks(keys: list[AccountScopedId]) -> list[tuple[TaskState, str] | None]:
    found = await task_queries.tasks_by_id(keys)
    owners = await accounts.find_owners([account_id for account_id, _ in found])
    return [(found[key], owners[key[0]]) if key in found else None for key in keys]


def _first_runs(limit: int) -> Callable[[list[AccountScopedId]], Awaitable[list[list[BlockRunState]]]]:
    return batched(lambda keys: task_queries.block_runs_of_tasks(keys, limit=limit))


_FIRST_RUNS = [_first_runs(limit) for limit in range(MAX_PAGE + 2)]
"""The batch functions by page size. The loads of one page size in a request are combined into one read."""
