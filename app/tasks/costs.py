"""Reads the cost of tasks and agents, in total and by block, model and day.

Amounts are credits, charged minus reversed. A task's own total is a column of its row and changes with the balance.
Breakdowns are added up from block runs when they are requested. Every function takes many keys and reads in one
statement.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from app.db import pools
from app.db.tables import key_columns
from app.errors import InvalidInput
from app.tasks.rows import TASKS, AccountScopedId
from app.tasks.rules import TaskState
from app.wording import quote_value

MAX_DAYS: Final = 366


@dataclass(frozen=True, slots=True)
class BlockCost:
    """The cost of the runs of one block, and their number."""

    block: str
    credits: int
    count: int


@dataclass(frozen=True, slots=True)
class ModelCost:
    """The cost of the block runs that use one language model, and their number."""

    model: str
    credits: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CostState:
    """A task at one version, with its cost at this version. Parts that were not requested are None or empty."""

    task: TaskState
    held: int | None
    children_total: int | None
    by_block: list[BlockCost]
    by_model: list[ModelCost]


Cost = TypeVar("Cost", BlockCost, ModelCost)


@dataclass(frozen=True, slots=True)
class AgentTotal:
    """The cost of all tasks of an agent, and their number."""

    credits: int
    tasks: int

    @property
    def average_per_task(self) -> float:
        return self.credits / self.tasks if self.tasks else 0.0


@dataclass(frozen=True, slots=True)
class DayCost:
    """The cost of an agent's block runs of one day, and the number of tasks to which they belong.

    `day` has the form YYYY-MM-DD. Reversals are subtracted from the day of the block run, not of the reversal.
    """

    day: str
    credits: int
    tasks: int


def _select_costs_of_tasks(column: str) -> str:
    return f"""
        SELECT b.account_id, b.task_id AS id, b.{column} AS name, sum(b.cost - b.reversed)::bigint AS credits,
               count(*) AS count
        FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
        JOIN block_run AS b ON b.account_id = k.account_id AND b.task_id = k.task_id AND b.position > 0
        WHERE b.{column} IS NOT NULL
        GROUP BY b.account_id, b.task_id, b.{column} ORDER BY credits DESC, b.{column}
    """  # noqa: S608  our own constants


_COSTS_BY_BLOCK: Final = _select_costs_of_tasks("block")
_COSTS_BY_MODEL: Final = _select_costs_of_tasks("model")

_DESCENDANT_COSTS: Final = """
    WITH RECURSIVE descendant(account_id, root, task_id, total) AS (
        SELECT t.account_id, k.task_id, t.task_id, t.charged - t.reversed
        FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
        JOIN task AS t ON t.account_id = k.account_id AND t.parent_task_id = k.task_id
        UNION ALL
        SELECT t.account_id, d.root, t.task_id, t.charged - t.reversed
        FROM descendant AS d JOIN task AS t ON t.account_id = d.account_id AND t.parent_task_id = d.task_id
    )
    SELECT account_id, root, sum(total)::bigint AS credits FROM descendant GROUP BY account_id, root
"""

# `started_at > '-infinity'` is always true. It lets PostgreSQL use the partial index of tasks by agent.
_AGENT_TOTALS: Final = """
    SELECT t.account_id, t.agent_id, sum(t.charged - t.reversed)::bigint AS credits, count(*) AS tasks
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, agent_id)
    JOIN task AS t ON t.account_id = k.account_id AND t.agent_id = k.agent_id AND t.started_at > '-infinity'
    GROUP BY t.account_id, t.agent_id
"""

_AGENT_COSTS_BY_BLOCK: Final = """
    SELECT t.account_id, t.agent_id AS id, b.block AS name, sum(b.cost - b.reversed)::bigint AS credits,
           count(*) AS count
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, agent_id)
    JOIN task AS t ON t.account_id = k.account_id AND t.agent_id = k.agent_id AND t.started_at > '-infinity'
    JOIN block_run AS b ON b.account_id = t.account_id AND b.task_id = t.task_id AND b.position > 0
    GROUP BY t.account_id, t.agent_id, b.block ORDER BY credits DESC, b.block
"""

# The last day is today or, if the clock has stepped back, the day of the last entry. A task that ended before the
# first day has no block run on any of the days.
_AGENT_COSTS_BY_DAY: Final = """
    WITH today AS MATERIALIZED (
        SELECT (greatest(clock_timestamp(), max(last_entry_at)) AT TIME ZONE $4)::date AS day
        FROM account WHERE id = ANY($1::bigint[])
    ), listed AS MATERIALIZED (
        SELECT today.day - number AS day FROM today, generate_series(0, $3::int - 1) AS number
    ), beginning AS MATERIALIZED (
        SELECT min(day)::timestamp AT TIME ZONE $4 AS at FROM listed
    ), spent AS (
        SELECT t.account_id, t.agent_id, (b.charged_at AT TIME ZONE $4)::date AS day,
               sum(b.cost - b.reversed)::bigint AS credits, count(DISTINCT b.task_id) AS tasks
        FROM beginning, unnest($1::bigint[], $2::text[]) AS k(account_id, agent_id)
        JOIN task AS t ON t.account_id = k.account_id AND t.agent_id = k.agent_id AND t.started_at > '-infinity'
        JOIN block_run AS b ON b.account_id = t.account_id AND b.task_id = t.task_id AND b.position > 0
        WHERE (t.ended_at IS NULL OR t.ended_at >= beginning.at) AND b.charged_at >= beginning.at
        GROUP BY t.account_id, t.agent_id, 3
    )
    SELECT k.account_id, k.agent_id, to_char(listed.day, 'YYYY-MM-DD') AS day, coalesce(s.credits, 0) AS credits,
           coalesce(s.tasks, 0) AS tasks
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, agent_id) CROSS JOIN listed
    LEFT JOIN spent AS s ON s.account_id = k.account_id AND s.agent_id = k.agent_id AND s.day = listed.day
    ORDER BY listed.day
"""

_HELD: Final = """
    SELECT coalesce(sum(h.remaining), 0)::bigint FROM hold AS h
    WHERE h.account_id = t.account_id AND h.task_id = t.task_id AND h.status = 'OPEN' AND h.timeout_seconds > 0
"""

_CHILDREN: Final = """
    WITH RECURSIVE descendant(task_id, total) AS (
        SELECT c.task_id, c.charged - c.reversed FROM task AS c
        WHERE c.account_id = t.account_id AND c.parent_task_id = t.task_id
        UNION ALL
        SELECT c.task_id, c.charged - c.reversed FROM descendant AS d
        JOIN task AS c ON c.account_id = t.account_id AND c.parent_task_id = d.task_id
    ) SELECT coalesce(sum(total), 0)::bigint FROM descendant
"""


def _select_groups(column: str) -> str:
    return f"""
        SELECT coalesce(json_agg(json_build_array(g.name, g.credits, g.count) ORDER BY g.credits DESC, g.name), '[]')
        FROM (
            SELECT b.{column} AS name, sum(b.cost - b.reversed)::bigint AS credits, count(*) AS count
            FROM block_run AS b
            WHERE b.account_id = t.account_id AND b.task_id = t.task_id AND b.position > 0 AND b.{column} IS NOT NULL
            GROUP BY b.{column}
        ) AS g
    """  # noqa: S608  our own constants


# One statement sees one state of the database. CASE leaves out what is not requested.
_COST_STATE: Final = f"""
    SELECT {TASKS.columns("t")},
           CASE WHEN 'held' = ANY($3::text[]) THEN ({_HELD}) END AS held,
           CASE WHEN 'children_total' = ANY($3::text[]) THEN ({_CHILDREN}) END AS children_total,
           CASE WHEN 'by_block' = ANY($3::text[]) THEN ({_select_groups("block")})::text END AS by_block,
           CASE WHEN 'by_model' = ANY($3::text[]) THEN ({_select_groups("model")})::text END AS by_model
    FROM task AS t WHERE t.account_id = $1 AND t.task_id = $2
"""  # noqa: S608  our own constants

_TIME_ZONES: Final = "SELECT name FROM pg_timezone_names WHERE name !~ '^(posix|right|localtime|Factory)'"
_time_zones: frozenset[str] = frozenset()


async def costs_by_block(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, list[BlockCost]]:
    """Return the cost of each task (account id, task id) by block, highest first. The list of a task may be empty."""
    return await _cost_groups(_COSTS_BY_BLOCK, keys, BlockCost)


async def costs_by_model(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, list[ModelCost]]:
    """Return the cost of each task by language model, highest first, for block runs whose price names a model."""
    return await _cost_groups(_COSTS_BY_MODEL, keys, ModelCost)


async def descendant_costs(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, int]:
    """Return the cost of all descendants of each task, without the task itself. It is 0 if there are none."""
    found = dict.fromkeys(keys, 0)
    for record in await pools.fetch(_DESCENDANT_COSTS, *key_columns(found)):
        found[record["account_id"], record["root"]] = record["credits"]
    return found


async def cost_state(key: AccountScopedId, parts: Collection[str]) -> CostState:
    """Return a task and the requested parts of its cost (names of fields of CostState), as they are at one instant.

    The caller first applies due changes.
    """
    [record] = await pools.fetch(_COST_STATE, *key, list(parts))
    return CostState(
        task=TASKS.read(record),
        held=record["held"],
        children_total=record["children_total"],
        by_block=[BlockCost(*group) for group in json.loads(record["by_block"] or "[]")],
        by_model=[ModelCost(*group) for group in json.loads(record["by_model"] or "[]")],
    )


async def agent_totals(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, AgentTotal]:
    """Return the total cost of each agent (account id, agent id) that has tasks."""
    return {
        (record["account_id"], record["agent_id"]): AgentTotal(record["credits"], record["tasks"])
        for record in await pools.fetch(_AGENT_TOTALS, *key_columns(keys))
    }


async def agent_costs_by_block(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, list[BlockCost]]:
    """Return the cost of each agent by block, highest first. Adds up all block runs of the agent."""
    return await _cost_groups(_AGENT_COSTS_BY_BLOCK, keys, BlockCost)


async def agent_costs_by_day(
    keys: Iterable[AccountScopedId], *, days: int, time_zone: str
) -> dict[AccountScopedId, list[DayCost]]:
    """Return the cost of each agent on each of the last `days` days including today, oldest first.

    Days without cost are included. A day begins and ends at midnight in `time_zone` (an IANA name).
    Raises: InvalidInput.
    """
    await check_days_and_time_zone(days=days, time_zone=time_zone)
    found: dict[AccountScopedId, list[DayCost]] = {key: [] for key in keys}
    for record in await pools.fetch(_AGENT_COSTS_BY_DAY, *key_columns(found), days, time_zone):
        found[record["account_id"], record["agent_id"]].append(
            DayCost(record["day"], record["credits"], record["tasks"])
        )
    return found


async def check_days_and_time_zone(*, days: int, time_zone: str) -> None:
    """Raises: InvalidInput: `days` is not between 1 and 366, or the database does not know the time zone name.

    Only names of the database's list are accepted. PostgreSQL itself also accepts `UTC+5`, but reads it as POSIX does:
    five hours west of Greenwich.
    """
    global _time_zones  # noqa: PLW0603  read once; the list does not change
    if not 1 <= days <= MAX_DAYS:
        raise InvalidInput.at("days", f"must lie between 1 and {MAX_DAYS}; it is {days}")
    if not _time_zones:
        _time_zones = frozenset(record["name"] for record in await pools.fetch(_TIME_ZONES))
    if time_zone not in _time_zones:
        raise InvalidInput.at(
            "timeZone", f"must be an IANA time zone such as Europe/Berlin; it is {quote_value(time_zone)}"
        )


async def _cost_groups(
    sql: str, keys: Iterable[AccountScopedId], group: type[Cost]
) -> dict[AccountScopedId, list[Cost]]:
    found: dict[AccountScopedId, list[Cost]] = {key: [] for key in keys}
    for record in await pools.fetch(sql, *key_columns(found)):
        found[record["account_id"], record["id"]].append(group(record["name"], record["credits"], record["count"]))
    return found
