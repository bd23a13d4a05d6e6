"""The mutations that open and end tasks."""

from enum import StrEnum
from typing import Annotated

import strawberry

from app.api.audit_context import audit_context
from app.api.context import Context, ResolverInfo
from app.api.error_types import (
    BudgetReachedError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    InvalidInputError,
    TaskEndedError,
    TaskNotFoundError,
    TaskNotStoppedError,
    TaskStoppedError,
)
from app.api.input_checks import check_ids
from app.api.owner_scope import check_can_change, readable_owners, writable_owners
from app.api.scalars import Credits
from app.api.tasks.types import Task, to_task
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.engine.schema import describe_enum
from app.errors import TaskNotFound
from app.tasks import lifecycle, queries, stop_and_resume
from app.tasks.lifecycle import StartTaskRequest
from app.tasks.rules import TaskStatus, TaskTrigger
from app.tasks.stop_and_resume import ResumeTaskRequest


class FinishedStatus(StrEnum):
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


describe_enum(
    FinishedStatus,
    description="How a task came to its end.",
    values={FinishedStatus.COMPLETED: "It did what it should.", FinishedStatus.FAILED: "It could not."},
)


@strawberry.input(description="A task to open.")
class StartTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's own id, unique on the platform.")
    owner_id: strawberry.ID = strawberry.field(description="Whose account pays.")
    agent_id: strawberry.ID = strawberry.field(description="The agent that is executed.")
    trigger: TaskTrigger = strawberry.field(default=TaskTrigger.MANUAL, description="What started it.")
    parent_task_id: strawberry.ID | None = strawberry.field(
        default=None, description="The task that it is nested in; it must be the same owner's."
    )
    budget: Credits | None = strawberry.field(
        default=None,
        description="Credits to hold for the whole task: it spends these and nothing else, whatever others spend "
        "meanwhile. A nested task's come out of the budget of the task around it. Null: it pays from what is available "
        "(or, nested in a task with a budget, from that).",
    )
    budget_timeout_seconds: int | None = strawberry.field(
        default=None,
        description="Without a charge for so long the budget lapses and the task is stopped: 1 second to 24 hours; "
        "null: an hour.",
    )
    closing_reserve: Credits | None = strawberry.field(
        default=None, description="The part of the budget that only block runs marked `closing` may use."
    )


@strawberry.input(description="A task that has come to its end.")
class FinishTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    status: FinishedStatus = strawberry.field(description="How it ended.")


@strawberry.input(description="A task to end for good.")
class CancelTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")


@strawberry.input(description="A stopped task that is to go on.")
class ResumeTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    add_budget: Credits | None = strawberry.field(
        default=None, description="Credits to put into its budget, making one if it has none; null: none."
    )
    idempotency_key: str | None = strawberry.field(
        default=None,
        description="The same key and request again gives the first result. Without one a task that runs already is "
        "refused, and nothing is added twice.",
    )


@declare.type(description="The task runs again.", needs=Permission.INHERITED)
class ResumeTaskSuccess:
    task: Task = declare.value(description="The task.")
    replayed: bool = declare.value(description="Whether the same request had resumed it before.")


@declare.type(description="The task is open.", needs=Permission.INHERITED)
class StartTaskSuccess:
    task: Task = declare.value(description="The task.")
    replayed: bool = declare.value(description="Whether the same request had opened it before.")


@declare.type(description="The task has ended.", needs=Permission.INHERITED)
class FinishTaskSuccess:
    task: Task = declare.value(description="The task.")
    replayed: bool = declare.value(description="Whether it had ended so before.")


@declare.type(description="The task is cancelled, for good.", needs=Permission.INHERITED)
class CancelTaskSuccess:
    task: Task = declare.value(description="The task.")
    replayed: bool = declare.value(description="Whether it was cancelled before.")


StartTaskResult = Annotated[
    StartTaskSuccess
    | InvalidInputError
    | InsufficientCreditsError
    | BudgetReachedError
    | TaskNotFoundError
    | TaskStoppedError
    | TaskEndedError
    | IdempotencyConflictError,
    strawberry.union("StartTaskResult", description="The task is open, or why it must not run."),
]
ResumeTaskResult = Annotated[
    ResumeTaskSuccess
    | InvalidInputError
    | InsufficientCreditsError
    | BudgetReachedError
    | TaskNotFoundError
    | TaskNotStoppedError
    | TaskEndedError
    | IdempotencyConflictError,
    strawberry.union("ResumeTaskResult", description="The task runs again, or why not."),
]
FinishTaskResult = Annotated[
    FinishTaskSuccess | TaskNotFoundError | TaskEndedError,
    strawberry.union("FinishTaskResult", description="The task has ended, or why not so."),
]
CancelTaskResult = Annotated[
    CancelTaskSuccess | TaskNotFoundError | TaskEndedError,
    strawberry.union("CancelTaskResult", description="The task is cancelled, or why not."),
]

Start = Annotated[StartTaskInput, strawberry.argument(description="The task.")]
Resume = Annotated[ResumeTaskInput, strawberry.argument(description="Which task.")]
Finish = Annotated[FinishTaskInput, strawberry.argument(description="Which task, and how it ended.")]
Cancel = Annotated[CancelTaskInput, strawberry.argument(description="Which task.")]


@strawberry.type(description="Tasks begin and end.")
class LifecycleMutations:
    @declare.mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Open a task before its first block run. With nothing available it is refused, and no task exists; "
        "a scheduled one is recorded as skipped.",
    )
    async def start_task(self, info: ResolverInfo, input: Start) -> StartTaskResult:
        check_ids(
            **{
                "input.taskId": input.task_id,
                "input.ownerId": input.owner_id,
                "input.agentId": input.agent_id,
                "input.parentTaskId": input.parent_task_id,
            }
        )
        changed = await lifecycle.start_task(
            StartTaskRequest(
                task_id=input.task_id,
                owner_id=input.owner_id,
                agent_id=input.agent_id,
                trigger=input.trigger,
                parent_task_id=input.parent_task_id,
                budget=input.budget,
                budget_timeout_seconds=input.budget_timeout_seconds,
                closing_reserve=input.closing_reserve,
                actor=info.context.authenticated_caller.actor,
                audit=audit_context(info),
            )
        )
        return StartTaskSuccess(task=to_task(changed.task, input.owner_id), replayed=changed.replayed)

    @declare.mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="End a task. What was charged stays charged, replays stay answered.",
    )
    async def finish_task(self, info: ResolverInfo, input: Finish) -> FinishTaskResult:
        owner_id = await _owner(info.context, input.task_id)
        changed = await lifecycle.finish_task(input.task_id, TaskStatus(input.status), audit=audit_context(info))
        return FinishTaskSuccess(task=to_task(changed.task, owner_id), replayed=changed.replayed)

    @declare.mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Let a stopped task go on, one's own or by a service. Block runs that were charged are not charged "
        "again.",
    )
    async def resume_task(self, info: ResolverInfo, input: Resume) -> ResumeTaskResult:
        owner_id = await _owner(info.context, input.task_id)
        check_can_change(info.context, owner_id, f"Task {input.task_id!r}")
        changed = await stop_and_resume.resume_task(
            ResumeTaskRequest(
                task_id=input.task_id,
                add_budget=input.add_budget,
                idempotency_key=input.idempotency_key,
                actor=info.context.authenticated_caller.actor,
                owner_ids=writable_owners(info.context.authenticated_caller),
                audit=audit_context(info),
            )
        )
        return ResumeTaskSuccess(task=to_task(changed.task, owner_id), replayed=changed.replayed)

    @declare.mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Cancel a task, one's own or by a service.",
    )
    async def cancel_task(self, info: ResolverInfo, input: Cancel) -> CancelTaskResult:
        owner_id = await _owner(info.context, input.task_id)
        check_can_change(info.context, owner_id, f"Task {input.task_id!r}")
        changed = await lifecycle.cancel_task(
            input.task_id, owner_ids=writable_owners(info.context.authenticated_caller), audit=audit_context(info)
        )
        return CancelTaskSuccess(task=to_task(changed.task, owner_id), replayed=changed.replayed)


async def _owner(context: Context, task_id: str) -> str:
    """The owner of a task that the caller may see. Raises: TaskNotFound."""
    check_ids(**{"input.taskId": task_id})
    found = await queries.find_tasks([task_id], owner_ids=readable_owners(context.authenticated_caller))
    if task_id not in found:
        raise TaskNotFound(task_id=task_id)
    return found[task_id].owner_id
