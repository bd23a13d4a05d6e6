"""Reads of what did not get its credits: tasks that are stopped, and scheduled runs that were skipped."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.db import pools
from app.ledger import queries
from app.tasks import rows
from app.tasks.costs import LATEST_TIME
from app.tasks.rows import TASK_COLUMNS
from app.tasks.rules import TaskState

_STOPPED: Final = f"""
    SELECT {TASK_COLUMNS} FROM task AS t
    WHERE t.account_id = $1 AND t.status = 'STOPPED' AND (t.started_at, t.task_id) < ($2::timestamptz, $3::text)
    ORDER BY t.started_at DESC, t.task_id DESC LIMIT $4
"""  # noqa: S608  our own constant

# `at > '-infinity'` is always true, and opens the index of agents (migration 0004).
_SKIPPED: Final = """
    SELECT task_id, agent_id, reason, skipped_at FROM skipped_start
    WHERE account_id = $1 AND agent_id = $2 AND skipped_at > '-infinity' AND (skipped_at, task_id) < ($3::timestamptz, $4::text)
    ORDER BY skipped_at DESC, task_id DESC LIMIT $5
"""


@dataclass(frozen=True, slots=True)
class SkippedStart:
    """A scheduled run that did not start: under which task id it was asked for, why, and when."""

    task_id: str
    agent_id: str
    reason: str
    skipped_at: datetime


async def stopped_tasks(account_id: int, *, limit: int, before: tuple[datetime, str] | None = None) -> list[TaskState]:
    """The account's stopped tasks, last started first, behind (started_at, task id)."""
    await queries.ensure_due_changes_applied([account_id])
    return [
        rows.task_from_row(row)
        for row in await pools.fetch(_STOPPED, account_id, *(before or (LATEST_TIME, "")), limit)
    ]


async def skipped_starts(
    account_id: int, agent_id: str, *, limit: int, before: tuple[datetime, str] | None = None
) -> list[SkippedStart]:
    """The skipped scheduled runs of an agent, newest first, behind (at, task id)."""
    found = await pools.fetch(_SKIPPED, account_id, agent_id, *(before or (LATEST_TIME, "")), limit)
    return [SkippedStart(*record) for record in found]
