"""What waits for credits: tasks that were stopped, and scheduled runs that were skipped."""

from datetime import datetime

import strawberry

from app.graphql import access
from app.graphql.access import Needs
from app.graphql.pagination import Connection, checked_first, cursor, instant, page, position
from app.graphql.scalars import Credits
from app.graphql.tasks import Task, task_of
from app.tasks import waiting
from app.tasks.rules import TaskState


@access.type(description="A task that was stopped. resumeTask lets it go on from there.", needs=Needs.REACHED)
class ResumableTask:
    task: Task = access.value(description="The task.")
    lacked: Credits | None = access.value(
        description="How many credits were missing for the block run that stopped it; null where its budget lapsed."
    )
    required: Credits | None = access.value(
        description="What that block run costs: with so much available, or in its budget, it could go on."
    )


@access.type(description="A scheduled run that did not start for want of credits. No task exists.", needs=Needs.REACHED)
class SkippedTick:
    task_id: strawberry.ID = access.value(description="The id under which it was to start.")
    reason: str = access.value(description="Why: OUT_OF_CREDITS or OWING.")
    at: datetime = access.value(description="When it was skipped.")


async def resumable_page(number: int, owner_id: str, *, first: int, after: str | None) -> Connection[ResumableTask]:
    """An account's stopped tasks, last started first."""
    place = position(after, "resumable", number, shape=(str, str))
    found = await waiting.stopped(
        number, limit=checked_first(first) + 1, before=(instant(place[0]), place[1]) if place else None
    )

    def node_of(task: TaskState) -> ResumableTask:
        return ResumableTask(
            task=task_of(task, owner_id),
            lacked=Credits(task.lacked) if task.lacked is not None else None,
            required=Credits(task.required) if task.required is not None else None,
        )

    return page(
        found,
        first=first,
        after=after,
        cursor_of=lambda task: cursor("resumable", number, task.started_at.isoformat(), task.task_id),
        node_of=node_of,
    )


async def skipped_page(number: int, agent_id: str, *, first: int, after: str | None) -> Connection[SkippedTick]:
    """An agent's skipped runs, newest first."""
    kind = f"skipped.{agent_id}"
    place = position(after, kind, number, shape=(str, str))
    found = await waiting.skipped(
        number, agent_id, limit=checked_first(first) + 1, before=(instant(place[0]), place[1]) if place else None
    )
    return page(
        found,
        first=first,
        after=after,
        cursor_of=lambda tick: cursor(kind, number, tick.at.isoformat(), tick.task_id),
        node_of=lambda tick: SkippedTick(task_id=strawberry.ID(tick.task_id), reason=tick.reason, at=tick.at),
    )
