"""What waits for credits: tasks that were stopped, and scheduled runs that were skipped."""

from datetime import datetime

import strawberry

from app.api.scalars import Credits
from app.api.tasks.types import Task, to_task
from app.engine import declare
from app.engine.pagination import (
    Connection,
    build_connection,
    check_first,
    decode_cursor,
    encode_cursor,
    parse_cursor_time,
)
from app.engine.permissions import Permission
from app.tasks import waiting
from app.tasks.rules import TaskState


@declare.type(description="A task that was stopped. resumeTask lets it go on from there.", needs=Permission.INHERITED)
class ResumableTask:
    task: Task = declare.value(description="The task.")
    lacked: Credits | None = declare.value(
        description="How many credits were missing for the block run that stopped it; null where its budget lapsed."
    )
    required: Credits | None = declare.value(
        description="What that block run costs: with so much available, or in its budget, it could go on."
    )


@declare.type(
    description="A scheduled run that did not start for want of credits. No task exists.", needs=Permission.INHERITED
)
class SkippedTask:
    task_id: strawberry.ID = declare.value(description="The id under which it was to start.")
    reason: str = declare.value(description="Why: OUT_OF_CREDITS or OWING.")
    at: datetime = declare.value(description="When it was skipped.")


async def load_resumable_page(
    number: int, owner_id: str, *, first: int, after: str | None
) -> Connection[ResumableTask]:
    """An account's stopped tasks, last started first."""
    place = decode_cursor(after, "resumable", number, shape=(str, str))
    found = await waiting.stopped_tasks(
        number, limit=check_first(first) + 1, before=(parse_cursor_time(place[0]), place[1]) if place else None
    )

    def node_of(task: TaskState) -> ResumableTask:
        return ResumableTask(
            task=to_task(task, owner_id),
            lacked=Credits(task.shortfall) if task.shortfall is not None else None,
            required=Credits(task.required) if task.required is not None else None,
        )

    return build_connection(
        found,
        first=first,
        after=after,
        cursor_of=lambda task: encode_cursor("resumable", number, task.started_at.isoformat(), task.task_id),
        node_of=node_of,
    )


async def load_skipped_page(number: int, agent_id: str, *, first: int, after: str | None) -> Connection[SkippedTask]:
    """An agent's skipped runs, newest first."""
    kind = f"skipped.{agent_id}"
    place = decode_cursor(after, kind, number, shape=(str, str))
    found = await waiting.skipped_starts(
        number,
        agent_id,
        limit=check_first(first) + 1,
        before=(parse_cursor_time(place[0]), place[1]) if place else None,
    )
    return build_connection(
        found,
        first=first,
        after=after,
        cursor_of=lambda tick: encode_cursor(kind, number, tick.skipped_at.isoformat(), tick.task_id),
        node_of=lambda tick: SkippedTask(task_id=strawberry.ID(tick.task_id), reason=tick.reason, at=tick.skipped_at),
    )
