"""Tasks that wait for credits: stopped tasks that can be resumed, and tasks that did not start."""

from datetime import datetime

import strawberry

from app.api.context import ResolverInfo
from app.api.objects import build_from
from app.api.scalars import Credits
from app.api.tasks.types import Task, load_budget, to_task
from app.engine import declare
from app.engine.global_ids import INSTANT, KEY
from app.engine.pagination import Connection, paginate
from app.engine.permissions import Permission
from app.tasks import queries
from app.tasks.rows import AccountScopedId


@declare.type(description="A stopped task, which resumeTask can continue.", needs=Permission.INHERITED)
class ResumableTask:
    task: Task = declare.value(description="The task.")
    required: Credits | None = declare.value(
        description="The cost of the block run that stopped the task. The task can continue when so many credits are "
        "available, or left in its budget; null if its budget has expired."
    )

    @declare.field(
        description="Credits to add so that the block run that stopped the task can be paid. Add them to the budget "
        "with `addBudget` if the task has one, else to the account, where they also pay debt. 0 if it can be paid now; "
        "null if its budget has expired."
    )
    async def shortfall(self, info: ResolverInfo) -> Credits | None:
        state = self.task.state
        if state.required is None:
            return None
        budget = await load_budget(info.context, state)
        if budget is not None:
            free = budget.remaining - budget.closing_reserve if budget.is_open else 0
            return Credits(max(0, state.required - free))
        balance = await info.context.state.balance_reader.get(state.account_id)
        if balance is None:
            raise LookupError(f"account {state.account_id} has a task but does not exist")
        return Credits(balance.shortfall(state.required))


@declare.type(
    description="A task with the trigger SCHEDULED or WEBHOOK that did not start because of missing credits or debt. "
    "The task does not exist.",
    needs=Permission.INHERITED,
)
class SkippedStart:
    task_id: strawberry.ID = declare.value(description="The platform's id of the task that was not started.")
    reason: str = declare.value(description="Why it did not start: OUT_OF_CREDITS or IN_DEBT.")
    skipped_at: datetime = declare.value(description="When it was refused.")


async def load_resumable_page(
    account_id: int, owner_id: str, *, first: int, after: str | None
) -> Connection[ResumableTask]:
    """Load a page of an account's stopped tasks, the most recently started first."""
    return await paginate(
        "resumable",
        account_id,
        (INSTANT, KEY),
        first=first,
        after=after,
        read=lambda limit, position: queries.stopped_tasks(account_id, limit=limit, before=position),
        position_of=lambda task: (task.started_at, task.task_id),
        node_of=lambda task: build_from(ResumableTask, task, task=to_task(task, owner_id)),
    )


async def load_skipped_page(agent: AccountScopedId, *, first: int, after: str | None) -> Connection[SkippedStart]:
    """Load a page of an agent's skipped tasks, newest first."""
    account_id, agent_id = agent
    return await paginate(
        f"skipped.{agent_id}",
        account_id,
        (INSTANT, KEY),
        first=first,
        after=after,
        read=lambda limit, position: queries.skipped_starts(account_id, agent_id, limit=limit, before=position),
        position_of=lambda skipped: (skipped.skipped_at, skipped.task_id),
        node_of=lambda skipped: build_from(SkippedStart, skipped),
    )
