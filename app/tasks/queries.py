"""Reads tasks, block runs, agents and skipped starts, by id and in pages.

A read for many keys is one statement, so a page of 50 tasks with their costs takes a constant number of statements.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from tortoise.expressions import Q

from app.credits import MAX_CREDITS
from app.db import pools
from app.db.failures import PartialFailure
from app.db.tables import key_columns
from app.instants import MAX_INSTANT, MIN_INSTANT
from app.ledger.owner_scope import OwnerScope, restrict_to_scope
from app.ledger.queries import apply_due_changes_of_each, ensure_due_changes_applied
from app.tasks import models
from app.tasks.rows import BLOCK_RUNS, SKIPPED_STARTS, TASKS, AccountScopedId
from app.tasks.rules import BlockRunState, SkippedStartState, TaskState, TaskStatus

TaskPosition = tuple[datetime | int, str]
"""Where a page of tasks ended: the last task's value in the order of the page (a time or a cost), and its id."""


class TaskOrder(StrEnum):
    """The orders of an agent's tasks. Tasks with equal values are ordered by task id."""

    NEWEST = "NEWEST"
    OLDEST = "OLDEST"
    HIGHEST_COST = "HIGHEST_COST"


@dataclass(frozen=True, slots=True)
class OwnedTask:
    """A task, with the owner of its account."""

    task: TaskState
    owner_id: str


@dataclass(frozen=True, slots=True)
class AgentActivity:
    """An agent that has tasks, with the time at which its newest task started."""

    agent_id: str
    last_started_at: datetime


# If the list of owners is NULL, tasks of all owners are found (for services and operators).
_FIND_TASKS: Final = f"""
    SELECT {TASKS.columns("t")}, a.owner_id, coalesce(a.next_change_at <= clock_timestamp(), false) AS is_due
    FROM task_account AS k
    JOIN task AS t ON t.account_id = k.account_id AND t.task_id = k.task_id
    JOIN account AS a ON a.id = t.account_id
    WHERE k.task_id = ANY($1::text[]) AND ($2::text[] IS NULL OR a.owner_id = ANY($2))
"""  # noqa: S608  our own constant

_TASKS_BY_ID: Final = f"""
    SELECT {TASKS.columns("t")} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    JOIN task AS t ON t.account_id = k.account_id AND t.task_id = k.task_id
"""  # noqa: S608  our own constant

_BLOCK_RUNS_BY_ID: Final = f"""
    SELECT {BLOCK_RUNS.columns("b")} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, block_run_id)
    JOIN block_run AS b ON b.account_id = k.account_id AND b.block_run_id = k.block_run_id
"""  # noqa: S608  our own constant

_OPEN_DESCENDANTS: Final = """
    WITH RECURSIVE nested(task_id, status, depth) AS (
        SELECT $2::text COLLATE "C", ''::text COLLATE "C", 0
        UNION ALL
        SELECT c.task_id::text, c.status::text, n.depth + 1 FROM nested AS n CROSS JOIN LATERAL (
            SELECT task_id, status FROM task AS r WHERE r.account_id = $1 AND r.parent_task_id = n.task_id OFFSET 0
        ) AS c
    )
    SELECT task_id FROM nested WHERE status IN ('RUNNING', 'STOPPED') ORDER BY depth, task_id
"""

_CHILD_TASKS: Final = f"""
    SELECT {TASKS.columns("t")} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    CROSS JOIN LATERAL (
        SELECT * FROM task
        WHERE account_id = k.account_id AND parent_task_id = k.task_id
          AND (started_at, task_id) > ($3::timestamptz, $4::text)
        ORDER BY started_at, task_id LIMIT $5
    ) AS t ORDER BY t.started_at, t.task_id
"""  # noqa: S608  our own constant

_BLOCK_RUNS_OF_TASKS: Final = f"""
    SELECT {BLOCK_RUNS.columns("b")} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    CROSS JOIN LATERAL (
        SELECT * FROM block_run
        WHERE account_id = k.account_id AND task_id = k.task_id AND position > 0 AND position > $3
        ORDER BY position LIMIT $4
    ) AS b ORDER BY b.position
"""  # noqa: S608  our own constant


def _select_tasks_of_agents(value: str, sql_type: str, *, descending: bool) -> str:
    """Return a select of a page of each agent's tasks, ordered by `value`.

    `started_at > '-infinity'` is always true. It lets PostgreSQL use the partial index of tasks by agent. The position
    limits the index scan, so it must not be NULL: that of a first page is before every task. NULL statuses mean all.
    """
    comparison, direction = ("<", "DESC") if descending else (">", "ASC")
    return f"""
        SELECT {TASKS.columns("t")} FROM unnest($1::bigint[], $2::text[]) AS k(account_id, agent_id)
        CROSS JOIN LATERAL (
            SELECT *, {value} AS sort_value FROM task
            WHERE account_id = k.account_id AND agent_id = k.agent_id AND started_at > '-infinity'
              AND ({value}, task_id) {comparison} ($4::{sql_type}, $5::text)
              AND ($3::text[] IS NULL OR status = ANY($3))
            ORDER BY {value} {direction}, task_id {direction} LIMIT $6
        ) AS t ORDER BY t.sort_value {direction}, t.task_id {direction}
    """  # noqa: S608  our own constants


_TASKS_OF_AGENTS: Final[dict[TaskOrder, tuple[str, TaskPosition]]] = {
    TaskOrder.NEWEST: (_select_tasks_of_agents("started_at", "timestamptz", descending=True), (MAX_INSTANT, "")),
    TaskOrder.OLDEST: (_select_tasks_of_agents("started_at", "timestamptz", descending=False), (MIN_INSTANT, "")),
    # No index contains the cost, because every charge would then change the index. So this order sorts the agent's
    # tasks.
    TaskOrder.HIGHEST_COST: (
        _select_tasks_of_agents("charged - reversed", "bigint", descending=True),
        (MAX_CREDITS + 1, ""),
    ),
}

# Finds each agent by one look-up in the index, so the time does not depend on the number of tasks.
_AGENTS: Final = """
    WITH RECURSIVE agent(agent_id) AS (
        (SELECT agent_id FROM task WHERE account_id = $1 AND started_at > '-infinity' ORDER BY agent_id LIMIT 1)
        UNION ALL
        SELECT (SELECT t.agent_id FROM task AS t WHERE t.account_id = $1 AND t.agent_id > a.agent_id
                AND t.started_at > '-infinity' ORDER BY t.agent_id LIMIT 1)
        FROM agent AS a WHERE a.agent_id IS NOT NULL
    )
    SELECT a.agent_id, newest.started_at FROM agent AS a CROSS JOIN LATERAL (
        SELECT t.started_at FROM task AS t
        WHERE t.account_id = $1 AND t.agent_id = a.agent_id AND t.started_at > '-infinity'
        ORDER BY t.started_at DESC LIMIT 1
    ) AS newest
    WHERE (newest.started_at, a.agent_id) < ($2::timestamptz, $3::text)
    ORDER BY newest.started_at DESC, a.agent_id DESC LIMIT $4
"""

# `skipped_at > '-infinity'` is always true. It lets PostgreSQL use the partial index of skipped starts by agent.
_SKIPPED_STARTS: Final = f"""
    SELECT {SKIPPED_STARTS.columns("s")} FROM skipped_start AS s
    WHERE s.account_id = $1 AND s.agent_id = $2 AND s.skipped_at > '-infinity'
      AND (s.skipped_at, s.task_id) < ($3::timestamptz, $4::text)
    ORDER BY s.skipped_at DESC, s.task_id DESC LIMIT $5
"""  # noqa: S608  our own constant


async def find_task(task_id: str, *, owner_ids: OwnerScope) -> OwnedTask | None:
    """Return one task, as `find_tasks` does."""
    found = (await find_tasks([task_id], owner_ids=owner_ids)).get(task_id)
    if isinstance(found, Exception):
        raise found
    return found


async def find_tasks(task_ids: Iterable[str], *, owner_ids: OwnerScope) -> dict[str, OwnedTask | Exception]:
    """Apply due changes, and return the tasks that exist in accounts of the scope, by task id.

    Tasks of other owners and tasks that do not exist are looked up by the same statement and left out. So neither the
    response nor its duration distinguishes them. If due changes of an account cannot be written, the value for each of
    its tasks is the exception.
    """
    parameters = (list(dict.fromkeys(task_ids)), None if owner_ids is None else list(owner_ids))
    records = await pools.fetch(_FIND_TASKS, *parameters)
    failed: Mapping[int, Exception] = {}
    if due := {record["account_id"] for record in records if record["is_due"]}:
        try:
            await apply_due_changes_of_each(sorted(due))
        except PartialFailure as failure:
            failed = failure.by_account
        records = await pools.fetch(_FIND_TASKS, *parameters)
    return {
        record["task_id"]: failed.get(record["account_id"]) or OwnedTask(TASKS.read(record), record["owner_id"])
        for record in records
    }


async def find_block_run(account_id: int, block_run_id: str, *, owner_ids: OwnerScope) -> BlockRunState | None:
    """Return the block run, or None if it does not exist or its account is not in the scope."""
    query = models.BlockRun.filter(account_id=account_id, block_run_id=block_run_id)
    return await BLOCK_RUNS.fetch_one(restrict_to_scope(query, account_id, owner_ids))


async def tasks_by_id(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, TaskState]:
    """Apply due changes, and return the tasks that exist, by (account id, task id)."""
    accounts, task_ids = key_columns(keys)
    await ensure_due_changes_applied(accounts)
    return {task.key: task for task in map(TASKS.read, await pools.fetch(_TASKS_BY_ID, accounts, task_ids))}


async def block_runs_by_id(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, BlockRunState]:
    """Return the block runs that exist, by (account id, block run id)."""
    found = map(BLOCK_RUNS.read, await pools.fetch(_BLOCK_RUNS_BY_ID, *key_columns(keys)))
    return {(run.account_id, run.block_run_id): run for run in found}


def position_of(task: TaskState, order: TaskOrder) -> TaskPosition:
    """Return the position of `task` in this order."""
    return (task.total if order is TaskOrder.HIGHEST_COST else task.started_at, task.task_id)


async def tasks_of_agents(
    keys: Iterable[AccountScopedId],
    *,
    limit: int,
    order: TaskOrder = TaskOrder.NEWEST,
    statuses: Sequence[TaskStatus] | None = None,
    after: TaskPosition | None = None,
) -> dict[AccountScopedId, list[TaskState]]:
    """Return the next `limit` tasks of each agent (account id, agent id) after a position, in order.

    The caller first applies due changes (`ledger.queries.ensure_due_changes_applied`).

    The orders NEWEST and OLDEST do not change when tasks are charged. HIGHEST_COST does: a task that is charged between
    two pages may be on both or on neither.
    """
    sql, beginning = _TASKS_OF_AGENTS[order]
    found = _empty_lists(keys)
    chosen = [str(status) for status in statuses] if statuses is not None else None
    for record in await pools.fetch(sql, *key_columns(found), chosen, *(after or beginning), limit):
        found[record["account_id"], record["agent_id"]].append(TASKS.read(record))
    return found


async def child_tasks(
    keys: Iterable[AccountScopedId], *, limit: int, after: tuple[datetime, str] | None = None
) -> dict[AccountScopedId, list[TaskState]]:
    """Return the next `limit` children of each task after (started_at, task id), oldest first."""
    found = _empty_lists(keys)
    await ensure_due_changes_applied(account_id for account_id, _ in found)
    for record in await pools.fetch(_CHILD_TASKS, *key_columns(found), *(after or (MIN_INSTANT, "")), limit):
        found[record["account_id"], record["parent_task_id"]].append(TASKS.read(record))
    return found


async def find_open_descendants(account_id: int, task_id: str) -> list[str]:
    """Return the ids of the running and stopped tasks nested in a task, at any depth, outermost first."""
    return [record["task_id"] for record in await pools.fetch(_OPEN_DESCENDANTS, account_id, task_id)]


async def block_runs_of_tasks(
    keys: Iterable[AccountScopedId], *, limit: int, after_position: int = 0
) -> dict[AccountScopedId, list[BlockRunState]]:
    """Return the next `limit` block runs of each task, in the order in which they were charged."""
    found = _empty_lists(keys)
    for record in await pools.fetch(_BLOCK_RUNS_OF_TASKS, *key_columns(found), after_position, limit):
        found[record["account_id"], record["task_id"]].append(BLOCK_RUNS.read(record))
    return found


async def stopped_tasks(account_id: int, *, limit: int, before: tuple[datetime, str] | None = None) -> list[TaskState]:
    """Apply due changes and return the stopped tasks of an account, newest first. `before` is (started_at, task id)."""
    await ensure_due_changes_applied([account_id])
    query = models.Task.filter(account_id=account_id, status=TaskStatus.STOPPED)
    if before is not None:
        started_at, task_id = before
        query = query.filter(Q(started_at__lt=started_at) | Q(started_at=started_at, task_id__lt=task_id))
    return await TASKS.fetch(query.order_by("-started_at", "-task_id").limit(limit))


async def skipped_starts(
    account_id: int, agent_id: str, *, limit: int, before: tuple[datetime, str] | None = None
) -> list[SkippedStartState]:
    """Return the scheduled starts of an agent that were skipped, newest first. `before` is (skipped_at, task id)."""
    records = await pools.fetch(_SKIPPED_STARTS, account_id, agent_id, *(before or (MAX_INSTANT, "")), limit)
    return list(map(SKIPPED_STARTS.read, records))


async def agent_page(account_id: int, *, limit: int, after: AgentActivity | None = None) -> list[AgentActivity]:
    """Return the next `limit` agents of an account, most recently started first.

    An agent that starts a task between two pages moves to the front, so it may be on neither page.
    """
    position = (after.last_started_at, after.agent_id) if after else (MAX_INSTANT, "")
    records = await pools.fetch(_AGENTS, account_id, *position, limit)
    return [AgentActivity(record["agent_id"], record["started_at"]) for record in records]


def _empty_lists(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, list[Any]]:
    return {key: [] for key in keys}
