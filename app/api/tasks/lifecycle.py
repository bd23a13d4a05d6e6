"""The mutations startTask, finishTask, resumeTask and cancelTask."""

from enum import StrEnum

import strawberry

from app.api.context import Context, ResolverInfo, audit_context
from app.api.input_checks import check_input_ids
from app.api.objects import build_from
from app.api.owner_scope import check_can_change, readable_owners, writable_owners
from app.api.results import mutation
from app.api.scalars import Credits
from app.api.tasks.types import Task, to_task
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.engine.schema import describe_enum
from app.errors import (
    BudgetReached,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidInput,
    TaskEnded,
    TaskNotFound,
    TaskNotStopped,
    TaskStopped,
)
from app.tasks import lifecycle, queries, stop_and_resume
from app.tasks.lifecycle import StartTaskRequest
from app.tasks.rules import TaskStatus, TaskTrigger
from app.tasks.stop_and_resume import ResumeTaskRequest
from app.wording import quote_value


class FinishedStatus(StrEnum):
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


describe_enum(
    FinishedStatus,
    description="The outcome of a task.",
    values={
        FinishedStatus.COMPLETED: "The task has completed its work.",
        FinishedStatus.FAILED: "The task could not complete its work.",
    },
)


@strawberry.input(description="The task to start.")
class StartTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task, unique on the platform.")
    owner_id: strawberry.ID = strawberry.field(description="The owner whose account pays.")
    agent_id: strawberry.ID = strawberry.field(description="The agent that is executed.")
    trigger: TaskTrigger = strawberry.field(default=TaskTrigger.MANUAL, description="What started the task.")
    parent_task_id: strawberry.ID | None = strawberry.field(
        default=None, description="The parent of a nested task. It must have the same owner."
    )
    budget: Credits | None = strawberry.field(
        default=None,
        description="Credits to hold for the task. The task then spends only these. The budget of a nested task is "
        "taken from its parent's. Null means that the task spends the account's available credits, or its parent's "
        "budget if there is one.",
    )
    budget_timeout_seconds: int | None = strawberry.field(
        default=None,
        description="If nothing is charged for so many seconds, the budget expires and the task is stopped. From 1 to "
        "86,400 (24 hours). Null means 3,600.",
    )
    closing_reserve: Credits | None = strawberry.field(
        default=None, description="The part of the budget that only block runs with `closing` may use."
    )


@strawberry.input(description="The task to finish and its outcome.")
class FinishTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    status: FinishedStatus = strawberry.field(description="The outcome of the task.")


@strawberry.input(description="The task to cancel, with the tasks nested in it.")
class CancelTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")


@strawberry.input(description="The stopped task to resume, or the running task whose budget to raise.")
class ResumeTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    add_budget: Credits | None = strawberry.field(
        default=None,
        description="Credits to add to the budget of the task; a budget is opened if it has none. They pay the "
        "block run that stopped the task first. The rest restores the part of the closing reserve that was used. Null "
        "adds nothing.",
    )
    idempotency_key: str | None = strawberry.field(
        default=None,
        description="A repeated request with the same key returns the first result. Required to add to the budget of "
        "a running task: a request without a key is refused then, so that a repetition adds nothing twice.",
    )


@declare.type(description="The task is running.", needs=Permission.INHERITED)
class StartTaskSuccess:
    task: Task = declare.value(description="The task.")
    replayed: bool = declare.value(description="Whether the task was already started by the same request.")


@declare.type(description="The task has ended.", needs=Permission.INHERITED)
class FinishTaskSuccess:
    task: Task = declare.value(description="The task.")
    replayed: bool = declare.value(description="Whether the task already had this outcome.")


@declare.type(description="The task is running.", needs=Permission.INHERITED)
class ResumeTaskSuccess:
    task: Task = declare.value(description="The task.")
    replayed: bool = declare.value(
        description="Whether an earlier request with this key has resumed it or raised its budget."
    )


@declare.type(
    description="The task and the tasks nested in it are cancelled. They cannot be resumed.", needs=Permission.INHERITED
)
class CancelTaskSuccess:
    task: Task = declare.value(description="The task.")
    replayed: bool = declare.value(description="Whether the task was already cancelled.")
    cancelled_children: int = declare.value(
        description="The number of tasks nested in it, at any depth, that this request has cancelled."
    )


@strawberry.type(description="Mutations that start and end tasks.")
class LifecycleMutations:
    @mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Start a task before its first block run. If the account has no credits available or has debt, "
        "the task is not started. A task with the trigger SCHEDULED or WEBHOOK is then recorded as skipped.",
        errors=(
            InvalidInput,
            InsufficientCredits,
            BudgetReached,
            TaskNotFound,
            TaskStopped,
            TaskEnded,
            IdempotencyConflict,
        ),
    )
    async def start_task(self, info: ResolverInfo, input: StartTaskInput) -> StartTaskSuccess:
        check_input_ids(input, "task_id", "owner_id", "agent_id", "parent_task_id")
        done = await lifecycle.start_task(
            build_from(
                StartTaskRequest,
                input,
                actor=info.context.authenticated_caller.actor,
                audit=audit_context(info),
            )
        )
        return StartTaskSuccess(task=to_task(done.task, input.owner_id), replayed=done.replayed)

    @mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="End a task. Its charges stay. Repeated charges of its block runs still return their first result. "
        "Tasks nested in it go on: finish or cancel them too.",
        errors=(TaskNotFound, TaskEnded),
    )
    async def finish_task(self, info: ResolverInfo, input: FinishTaskInput) -> FinishTaskSuccess:
        owner_id = await _find_owner(info.context, input)
        done = await lifecycle.finish_task(input.task_id, TaskStatus(input.status), audit=audit_context(info))
        return FinishTaskSuccess(task=to_task(done.task, owner_id), replayed=done.replayed)

    @mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Resume a stopped task, or add to the budget of a running one. Users can resume their own tasks. "
        "Block runs that were charged are not charged again. Stopped tasks that are nested in it are not resumed: "
        "resume each of them by its own call.",
        errors=(
            InvalidInput,
            InsufficientCredits,
            BudgetReached,
            TaskNotFound,
            TaskNotStopped,
            TaskEnded,
            IdempotencyConflict,
        ),
    )
    async def resume_task(self, info: ResolverInfo, input: ResumeTaskInput) -> ResumeTaskSuccess:
        owner_id = await _find_owner(info.context, input)
        check_can_change(info.context, owner_id, f"Task {quote_value(input.task_id)}")
        done = await stop_and_resume.resume_task(
            build_from(
                ResumeTaskRequest,
                input,
                actor=info.context.authenticated_caller.actor,
                owner_ids=writable_owners(info.context.authenticated_caller),
                audit=audit_context(info),
            )
        )
        return ResumeTaskSuccess(task=to_task(done.task, owner_id), replayed=done.replayed)

    @mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Cancel a task and all running and stopped tasks nested in it, at any depth. Their budgets return. "
        "Nested tasks that have ended stay as they are. Users can cancel their own tasks. Very many nested tasks are "
        "cancelled in several transactions: if the request ends without an answer, send it again, and it continues.",
        errors=(TaskNotFound, TaskEnded),
    )
    async def cancel_task(self, info: ResolverInfo, input: CancelTaskInput) -> CancelTaskSuccess:
        owner_id = await _find_owner(info.context, input)
        check_can_change(info.context, owner_id, f"Task {quote_value(input.task_id)}")
        done = await lifecycle.cancel_task(
            input.task_id, owner_ids=writable_owners(info.context.authenticated_caller), audit=audit_context(info)
        )
        return CancelTaskSuccess(
            task=to_task(done.task, owner_id), replayed=done.replayed, cancelled_children=done.cancelled_children
        )


async def _find_owner(context: Context, input: FinishTaskInput | ResumeTaskInput | CancelTaskInput) -> str:
    """Find the owner of a task. Raises: BadRequest; TaskNotFound: it does not exist or the caller may not read it."""
    check_input_ids(input, "task_id")
    found = await queries.find_task(input.task_id, owner_ids=readable_owners(context.authenticated_caller))
    if found is None:
        raise TaskNotFound(task_id=input.task_id)
    return found.owner_id
