"""Reads: tasks and block runs by page, and what they cost. Of agents: `tasks.agents`.

Every read takes many keys and is one statement, so a page of 50 tasks with their costs is a constant number of them.
A task's own cost stands on its row and moves with the balance; breakdowns are added up from its block runs on request.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from app.credits import MAX_CREDITS
from app.db import pools
from app.ledger import queries
from app.tasks import rows
from app.tasks.rows import BLOCK_RUN_COLUMNS, TASK_COLUMNS
from app.tasks.rules import BlockRunState, TaskState, TaskStatus

AccountScopedId = tuple[int, str]
"""An account and the platform's own id of a task, a block run or an agent."""

TaskPosition = tuple[datetime | int, str]
"""Where a page of tasks ended: the last task's value in the page's order, and its task id."""


class TaskOrder(StrEnum):
    """Orders of an agent's tasks, each with ties by task id."""

    NEWEST = "NEWEST"
    OLDEST = "OLDEST"
    HIGHEST_COST = "HIGHEST_COST"


@dataclass(frozen=True, slots=True)
class BlockCost:
    """What one block cost, net of reversals, and how many times it ran."""

    block: str
    credits: int
    count: int


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What block runs with one language model cost, net of reversals, and how many there were."""

    model: str
    credits: int
    count: int


EARLIEST_TIME: Final = datetime.min.replace(tzinfo=UTC)
LATEST_TIME: Final = datetime.max.replace(tzinfo=UTC)

_TASKS: Final = f"""
    SELECT {TASK_COLUMNS} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    JOIN task AS t ON t.account_id = k.account_id AND t.task_id = k.task_id
"""  # noqa: S608  our own constant

_BLOCK_RUNS: Final = f"""
    SELECT {BLOCK_RUN_COLUMNS} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, block_run_id)
    JOIN block_run AS b ON b.account_id = k.account_id AND b.block_run_id = k.block_run_id
"""  # noqa: S608  our own constant

# `started_at > '-infinity'` is always true, and opens the index of agents (migration 0002 says why it is closed).
# The place is never null, so that it bounds the index scan: a first page begins beyond every task. Null statuses: all.
_NEWEST: Final = f"""
    SELECT {TASK_COLUMNS} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, agent_id)
    CROSS JOIN LATERAL (
        SELECT * FROM task
        WHERE account_id = k.account_id AND agent_id = k.agent_id AND started_at > '-infinity'
          AND (started_at, task_id) < ($4::timestamptz, $5::text)
          AND ($3::text[] IS NULL OR status = ANY($3))
        ORDER BY started_at DESC, task_id DESC LIMIT $6
    ) AS t ORDER BY t.started_at DESC, t.task_id DESC
"""  # noqa: S608  our own constant

_OLDEST: Final = f"""
    SELECT {TASK_COLUMNS} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, agent_id)
    CROSS JOIN LATERAL (
        SELECT * FROM task
        WHERE account_id = k.account_id AND agent_id = k.agent_id AND started_at > '-infinity'
          AND (started_at, task_id) > ($4::timestamptz, $5::text)
          AND ($3::text[] IS NULL OR status = ANY($3))
        ORDER BY started_at, task_id LIMIT $6
    ) AS t ORDER BY t.started_at, t.task_id
"""  # noqa: S608  our own constant

# No index by cost: every charge would move the task in it. It sorts the agent's tasks.
_DEAREST: Final = f"""
    SELECT {TASK_COLUMNS} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, agent_id)
    CROSS JOIN LATERAL (
        SELECT * FROM task
        WHERE account_id = k.account_id AND agent_id = k.agent_id AND started_at > '-infinity'
          AND (charged - reversed, task_id) < ($4::bigint, $5::text)
          AND ($3::text[] IS NULL OR status = ANY($3))
        ORDER BY charged - reversed DESC, task_id DESC LIMIT $6
    ) AS t ORDER BY t.charged - t.reversed DESC, t.task_id DESC
"""  # noqa: S608  our own constant

_CHILDREN: Final = f"""
    SELECT {TASK_COLUMNS} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    CROSS JOIN LATERAL (
        SELECT * FROM task
        WHERE account_id = k.account_id AND parent_task_id = k.task_id
          AND (started_at, task_id) > ($3::timestamptz, $4::text)
        ORDER BY started_at, task_id LIMIT $5
    ) AS t ORDER BY t.started_at, t.task_id
"""  # noqa: S608  our own constant

_BLOCK_RUNS_OF_TASKS: Final = f"""
    SELECT {BLOCK_RUN_COLUMNS} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    CROSS JOIN LATERAL (
        SELECT * FROM block_run
        WHERE account_id = k.account_id AND task_id = k.task_id AND position > 0 AND position > $3
        ORDER BY position LIMIT $4
    ) AS b ORDER BY b.position
"""  # noqa: S608  our own constant

_BY_BLOCK: Final = """
    SELECT b.account_id, b.task_id, b.block, sum(b.cost - b.reversed)::bigint AS credits, count(*) AS count
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    JOIN block_run AS b ON b.account_id = k.account_id AND b.task_id = k.task_id AND b.position > 0
    GROUP BY b.account_id, b.task_id, b.block ORDER BY credits DESC, b.block
"""

_BY_MODEL: Final = """
    SELECT b.account_id, b.task_id, b.model, sum(b.cost - b.reversed)::bigint AS credits, count(*) AS count
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    JOIN block_run AS b ON b.account_id = k.account_id AND b.task_id = k.task_id AND b.position > 0
    WHERE b.model IS NOT NULL
    GROUP BY b.account_id, b.task_id, b.model ORDER BY credits DESC, b.model
"""

_BELOW: Final = """
    WITH RECURSIVE below(account_id, root, task_id, total) AS (
        SELECT t.account_id, k.task_id, t.task_id, t.charged - t.reversed
        FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
        JOIN task AS t ON t.account_id = k.account_id AND t.parent_task_id = k.task_id
        UNION ALL
        SELECT t.account_id, b.root, t.task_id, t.charged - t.reversed
        FROM below AS b JOIN task AS t ON t.account_id = b.account_id AND t.parent_task_id = b.task_id
    )
    SELECT account_id, root, sum(total)::bigint AS credits FROM below GROUP BY account_id, root
"""

_ORDERED: Final = {
    TaskOrder.NEWEST: (_NEWEST, (LATEST_TIME, "")),
    TaskOrder.OLDEST: (_OLDEST, (EARLIEST_TIME, "")),
    TaskOrder.HIGHEST_COST: (_DEAREST, (MAX_CREDITS + 1, "")),
}


async def tasks_by_id(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, TaskState]:
    """Those tasks that exist, by (account, task id)."""
    accounts, names = rows.key_columns(keys)
    await queries.ensure_due_changes_applied(accounts)
    found = map(rows.task_from_row, await pools.fetch(_TASKS, accounts, names))
    return {(task.account_id, task.task_id): task for task in found}


async def block_runs_by_id(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, BlockRunState]:
    """Those block runs that exist, by (account, block run id)."""
    found = map(rows.block_run_from_row, await pools.fetch(_BLOCK_RUNS, *rows.key_columns(keys)))
    return {(run.account_id, run.block_run_id): run for run in found}


def position_of(task: TaskState, order: TaskOrder) -> TaskPosition:
    """Where `task` stands in that order."""
    return (task.total if order is TaskOrder.HIGHEST_COST else task.started_at, task.task_id)


async def tasks_of_agents(
    keys: Iterable[AccountScopedId],
    *,
    limit: int,
    order: TaskOrder = TaskOrder.NEWEST,
    statuses: Sequence[TaskStatus] | None = None,
    after: TaskPosition | None = None,
) -> dict[AccountScopedId, list[TaskState]]:
    """The next `limit` tasks of each agent (account, agent id) behind `after`, in order; a list for every key.

    As they are written: whoever reads an agent or its account has had it settled (`ledger.statements.settled`).

    NEWEST and OLDEST stand still while tasks are charged. HIGHEST_COST does not: a task that is charged between two pages
    may be on both or on neither.
    """
    sql, beginning = _ORDERED[order]
    found = _empty(keys)
    chosen = [str(status) for status in statuses] if statuses is not None else None
    for task in map(
        rows.task_from_row, await pools.fetch(sql, *rows.key_columns(found), chosen, *(after or beginning), limit)
    ):
        found[task.account_id, task.agent_id].append(task)
    return found


async def child_tasks(
    keys: Iterable[AccountScopedId], *, limit: int, after: tuple[datetime, str] | None = None
) -> dict[AccountScopedId, list[TaskState]]:
    """The next `limit` tasks that each task started, oldest first; a list for every key."""
    found = _empty(keys)
    await queries.ensure_due_changes_applied(account_id for account_id, _ in found)
    records = await pools.fetch(_CHILDREN, *rows.key_columns(found), *(after or (EARLIEST_TIME, "")), limit)
    for task in map(rows.task_from_row, records):
        if task.parent_task_id is not None:
            found[task.account_id, task.parent_task_id].append(task)
    return found


async def block_runs_of_tasks(
    keys: Iterable[AccountScopedId], *, limit: int, after_position: int = 0
) -> dict[AccountScopedId, list[BlockRunState]]:
    """The next `limit` block runs of each task in the order in which they were charged; a list for every key."""
    found = _empty(keys)
    for run in map(
        rows.block_run_from_row,
        await pools.fetch(_BLOCK_RUNS_OF_TASKS, *rows.key_columns(found), after_position, limit),
    ):
        found[run.account_id, run.task_id].append(run)
    return found


async def costs_by_block(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, list[BlockCost]]:
    """What each task paid for each block, dearest first; a list for every key."""
    found = _empty(keys)
    for account_id, task_id, block, credits, count in await pools.fetch(_BY_BLOCK, *rows.key_columns(found)):
        found[account_id, task_id].append(BlockCost(block, credits, count))
    return found


async def costs_by_model(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, list[ModelCost]]:
    """What each task paid for each model, dearest first, of the block runs whose model is known."""
    found = _empty(keys)
    for account_id, task_id, model, credits, count in await pools.fetch(_BY_MODEL, *rows.key_columns(found)):
        found[account_id, task_id].append(ModelCost(model, credits, count))
    return found


async def descendant_costs(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, int]:
    """What the children of each task cost, theirs included, the task itself not; 0 without children."""
    found = dict.fromkeys(keys, 0)
    for account_id, task_id, credits in await pools.fetch(_BELOW, *rows.key_columns(found)):
        found[account_id, task_id] = credits
    return found


def _empty(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, list[Any]]:
    return {key: [] for key in keys}
