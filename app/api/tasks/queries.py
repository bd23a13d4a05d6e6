"""Queries for tasks, and reading tasks, their costs, block runs, holds and entries by node id."""

from typing import Annotated, Any

import strawberry

from app.api.context import Context, ResolverInfo
from app.api.input_checks import check_ids, check_list_length
from app.api.owner_scope import readable_owners
from app.api.tasks.costs import TaskCost, to_task_cost
from app.api.tasks.types import BlockRun, Entry, Hold, Task, to_block_run, to_entry, to_hold, to_task
from app.engine import declare, global_ids
from app.engine.global_ids import INT32, KEY, LONG
from app.engine.pagination import MAX_PAGE
from app.engine.permissions import Permission
from app.ledger import owner_scope
from app.tasks import queries

TaskId = Annotated[strawberry.ID, strawberry.argument(description="The platform's id of the task.")]
TaskIds = Annotated[list[strawberry.ID], strawberry.argument(description="The platform's ids of 1 to 100 tasks.")]


@strawberry.type(description="Queries for tasks.")
class TaskQueries:
    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="A task by the platform's id. Null if it does not exist or the caller may not read it.",
    )
    async def task(self, info: ResolverInfo, task_id: TaskId) -> Task | None:
        check_ids(taskId=task_id)
        return await _find(info.context, task_id)

    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="Tasks by the platform's ids, in the same order. Null for each that does not exist or that the "
        "caller may not read.",
    )
    async def tasks(self, info: ResolverInfo, task_ids: TaskIds) -> list[Task | None]:
        check_list_length(task_ids, name="taskIds", limit=MAX_PAGE)
        check_ids(**{f"taskIds.{position}": task_id for position, task_id in enumerate(task_ids)})
        found = await queries.find_tasks(task_ids, owner_ids=readable_owners(info.context.authenticated_caller))
        # An exception in the list is the error of its item.
        tasks: list[Any] = [
            to_task(one.task, one.owner_id) if isinstance(one, queries.OwnedTask) else one
            for one in map(found.get, task_ids)
        ]
        return tasks


@global_ids.node_fetcher("Task", LONG, KEY)
async def fetch_task(context: Context, account_id: int, task_id: str) -> Task | None:
    found = await _find(context, task_id)
    return found if found and found.state.account_id == account_id else None


@global_ids.node_fetcher("TaskCost", LONG, KEY)
async def fetch_task_cost(context: Context, account_id: int, task_id: str) -> TaskCost | None:
    task = await fetch_task(context, account_id, task_id)
    return to_task_cost(task.state) if task else None


@global_ids.node_fetcher("BlockRun", LONG, KEY)
async def fetch_block_run(context: Context, account_id: int, block_run_id: str) -> BlockRun | None:
    run = await queries.find_block_run(
        account_id, block_run_id, owner_ids=readable_owners(context.authenticated_caller)
    )
    return to_block_run(run) if run else None


@global_ids.node_fetcher("Hold", LONG, INT32)
async def fetch_hold(context: Context, account_id: int, number: int) -> Hold | None:
    hold = await owner_scope.find_hold(account_id, number, owner_ids=readable_owners(context.authenticated_caller))
    return to_hold(account_id, hold) if hold is not None else None


@global_ids.node_fetcher("Entry", LONG, LONG)
async def fetch_entry(context: Context, account_id: int, seq: int) -> Entry | None:
    entry = await owner_scope.find_entry(account_id, seq, owner_ids=readable_owners(context.authenticated_caller))
    return to_entry(entry) if entry else None


async def _find(context: Context, task_id: str) -> Task | None:
    found = await queries.find_task(task_id, owner_ids=readable_owners(context.authenticated_caller))
    return to_task(found.task, found.owner_id) if found is not None else None
