"""The mutations that open and end tasks."""

from enum import StrEnum
from typing import Annotated

import strawberry

from app.callers.rules import Scope, may
from app.errors import Forbidden, TaskNotFound
from app.graphql import access
from app.graphql.access import Needs
from app.graphql.context import Context, Information
from app.graphql.enums import shown
from app.graphql.errors import (
    IdempotencyConflictError,
    InsufficientCreditsError,
    TaskEndedError,
    TaskNotFoundError,
    TaskStoppedError,
)
from app.graphql.inputs import checked
from app.graphql.sight import owners_seen
from app.graphql.tasks import Task, task_of
from app.tasks import lifecycle, sight
from app.tasks.lifecycle import StartRequest
from app.tasks.rules import Status, Trigger


class FinishedStatus(StrEnum):
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


shown(
    FinishedStatus,
    description="How a task came to its end.",
    values={FinishedStatus.COMPLETED: "It did what it should.", FinishedStatus.FAILED: "It could not."},
)


@strawberry.input(description="A task to open.")
class StartTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's own id, unique on the platform.")
    owner_id: strawberry.ID = strawberry.field(description="Whose account pays.")
    agent_id: strawberry.ID = strawberry.field(description="The agent that is executed.")
    trigger: Trigger = strawberry.field(default=Trigger.MANUAL, description="What started it.")
    parent_task_id: strawberry.ID | None = strawberry.field(
        default=None, description="The task that it is nested in; it must be the same owner's."
    )


@strawberry.input(description="A task that has come to its end.")
class FinishTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    status: FinishedStatus = strawberry.field(description="How it ended.")


@strawberry.input(description="A task to end for good.")
class CancelTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")


@access.type(description="The task is open.", needs=Needs.REACHED)
class StartTaskSuccess:
    task: Task = access.value(description="The task.")
    replayed: bool = access.value(description="Whether the same request had opened it before.")


@access.type(description="The task has ended.", needs=Needs.REACHED)
class FinishTaskSuccess:
    task: Task = access.value(description="The task.")
    replayed: bool = access.value(description="Whether it had ended so before.")


@access.type(description="The task is cancelled, for good.", needs=Needs.REACHED)
class CancelTaskSuccess:
    task: Task = access.value(description="The task.")
    replayed: bool = access.value(description="Whether it was cancelled before.")


StartTaskResult = Annotated[
    StartTaskSuccess
    | InsufficientCreditsError
    | TaskNotFoundError
    | TaskStoppedError
    | TaskEndedError
    | IdempotencyConflictError,
    strawberry.union("StartTaskResult", description="The task is open, or why it must not run."),
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
Finish = Annotated[FinishTaskInput, strawberry.argument(description="Which task, and how it ended.")]
Cancel = Annotated[CancelTaskInput, strawberry.argument(description="Which task.")]


@strawberry.type(description="Tasks begin and end.")
class LifecycleMutations:
    @access.mutation(
        needs=Needs.SERVICE,
        description="Open a task before its first block run. With nothing available it is refused, and no task exists.",
    )
    async def start_task(self, info: Information, input: Start) -> StartTaskResult:
        checked(
            **{
                "input.taskId": input.task_id,
                "input.ownerId": input.owner_id,
                "input.agentId": input.agent_id,
                "input.parentTaskId": input.parent_task_id,
            }
        )
        changed = await lifecycle.start(
            StartRequest(
                task_id=input.task_id,
                owner_id=input.owner_id,
                agent_id=input.agent_id,
                trigger=input.trigger,
                parent_task_id=input.parent_task_id,
                actor=info.context.caller.actor,
            )
        )
        return StartTaskSuccess(task=task_of(changed.task, input.owner_id), replayed=changed.replayed)

    @access.mutation(
        needs=Needs.SERVICE, description="End a task. What was charged stays charged, replays stay answered."
    )
    async def finish_task(self, info: Information, input: Finish) -> FinishTaskResult:
        owner_id = await _owner(info.context, input.task_id)
        changed = await lifecycle.finish(input.task_id, Status(input.status))
        return FinishTaskSuccess(task=task_of(changed.task, owner_id), replayed=changed.replayed)

    @access.mutation(needs=Needs.USER_OR_ABOVE, description="Cancel a task, one's own or by a service.")
    async def cancel_task(self, info: Information, input: Cancel) -> CancelTaskResult:
        owner_id = await _owner(info.context, input.task_id)
        _check_may_cancel(info.context, owner_id, input.task_id)
        changed = await lifecycle.cancel(input.task_id)
        return CancelTaskSuccess(task=task_of(changed.task, owner_id), replayed=changed.replayed)


async def _owner(context: Context, task_id: str) -> str:
    """The owner of a task that the caller may see. Raises: TaskNotFound."""
    checked(**{"input.taskId": task_id})
    found = await sight.find([task_id], owner_ids=owners_seen(context.caller))
    if task_id not in found:
        raise TaskNotFound(task_id=task_id)
    return found[task_id].owner_id


def _check_may_cancel(context: Context, owner_id: str, task_id: str) -> None:
    """A task of an organisation may be looked at by its members; to cancel it takes the owner or a service.

    Raises: Forbidden.
    """
    viewer = context.caller
    if viewer.owner_id != owner_id and not may(viewer, Scope.CHARGE) and not may(viewer, Scope.ADMIN):
        raise Forbidden(f"Task {task_id!r} is another's: you may look at it, and not cancel it.")
