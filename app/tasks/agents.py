"""Reads: the agents of an account, and what each cost. Every read takes many agents and is one statement."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from app.db import pools
from app.errors import InvalidInput
from app.tasks.costs import LATEST_TIME, AccountScopedId, BlockCost
from app.tasks.rows import key_columns

MAX_DAYS: Final = 366


@dataclass(frozen=True, slots=True)
class AgentActivity:
    """An agent that has tasks, and when its newest task started."""

    agent_id: str
    last_started_at: datetime


@dataclass(frozen=True, slots=True)
class AgentTotal:
    """What all tasks of an agent cost, charged minus reversed, and how many there are."""

    credits: int
    tasks: int

    @property
    def average_per_task(self) -> float:
        return self.credits / self.tasks if self.tasks else 0.0


@dataclass(frozen=True, slots=True)
class DayCost:
    """What an agent's block runs of one day cost, net of reversals whenever those came; and how many tasks ran any."""

    day: str
    credits: int
    tasks: int


# `started_at > '-infinity'` is always true, and opens the index of agents (migration 0002 says why it is closed).
# Leaps from agent to agent along the index, however many tasks each has.
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

_TOTALS: Final = """
    SELECT t.account_id, t.agent_id, sum(t.charged - t.reversed)::bigint, count(*)
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, agent_id)
    JOIN task AS t ON t.account_id = k.account_id AND t.agent_id = k.agent_id AND t.started_at > '-infinity'
    GROUP BY t.account_id, t.agent_id
"""

_BY_BLOCK: Final = """
    SELECT t.account_id, t.agent_id, b.block, sum(b.cost - b.reversed)::bigint AS credits, count(*)
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, agent_id)
    JOIN task AS t ON t.account_id = k.account_id AND t.agent_id = k.agent_id AND t.started_at > '-infinity'
    JOIN block_run AS b ON b.account_id = t.account_id AND b.task_id = t.task_id AND b.position > 0
    GROUP BY t.account_id, t.agent_id, b.block ORDER BY credits DESC, b.block
"""

_ZONES: Final = "SELECT name FROM pg_timezone_names WHERE name !~ '^(posix|right|localtime|Factory)'"

# A task that ended before the first day has no block run in any of them.
_BY_DAY: Final = """
    WITH today AS MATERIALIZED (
        SELECT (clock_timestamp() AT TIME ZONE $4)::date AS day
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
    SELECT k.account_id, k.agent_id, to_char(listed.day, 'YYYY-MM-DD'), coalesce(s.credits, 0), coalesce(s.tasks, 0)
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, agent_id) CROSS JOIN listed
    LEFT JOIN spent AS s ON s.account_id = k.account_id AND s.agent_id = k.agent_id AND s.day = listed.day
    ORDER BY listed.day
"""

_zones: frozenset[str] = frozenset()


async def agent_page(account_id: int, *, limit: int, after: AgentActivity | None = None) -> list[AgentActivity]:
    """The next `limit` agents of an account, newest activity first.

    An agent that starts a task between two pages moves to the front, so it may be on neither.
    """
    place = (after.last_started_at, after.agent_id) if after else (LATEST_TIME, "")
    return [AgentActivity(*record) for record in await pools.fetch(_AGENTS, account_id, *place, limit)]


async def agent_totals(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, AgentTotal]:
    """What each agent (account, agent id) cost in all, for those that have tasks."""
    found = await pools.fetch(_TOTALS, *key_columns(keys))
    return {(account_id, agent_id): AgentTotal(credits, tasks) for account_id, agent_id, credits, tasks in found}


async def agent_costs_by_block(keys: Iterable[AccountScopedId]) -> dict[AccountScopedId, list[BlockCost]]:
    """What each agent paid for each block, dearest first; a list for every key. It adds up all its block runs."""
    found: dict[AccountScopedId, list[BlockCost]] = {key: [] for key in keys}
    for account_id, agent_id, *cost in await pools.fetch(_BY_BLOCK, *key_columns(found)):
        found[account_id, agent_id].append(BlockCost(*cost))
    return found


async def agent_costs_by_day(
    keys: Iterable[AccountScopedId], *, days: int, time_zone: str
) -> dict[AccountScopedId, list[DayCost]]:
    """What each agent cost on each of the last `days` days, today included, oldest first, days without cost too.

    Days are those of `time_zone`, an IANA name. Raises: InvalidInput.
    """
    await check_days_and_time_zone(days=days, time_zone=time_zone)
    found: dict[AccountScopedId, list[DayCost]] = {key: [] for key in keys}
    for account_id, agent_id, *cost in await pools.fetch(_BY_DAY, *key_columns(found), days, time_zone):
        found[account_id, agent_id].append(DayCost(*cost))
    return found


async def check_days_and_time_zone(*, days: int, time_zone: str) -> None:
    """Raises: InvalidInput: not 1 to 366 days, or not a time zone that the database knows by that name.

    PostgreSQL alone would also take `UTC+5` as a zone, with the sign of POSIX, which is the opposite of everybody's.
    """
    global _zones  # noqa: PLW0603  read once, the list is the server's own
    if not 1 <= days <= MAX_DAYS:
        raise InvalidInput.at("days", f"must lie between 1 and {MAX_DAYS}; it is {days}")
    if not _zones:
        _zones = frozenset(record["name"] for record in await pools.fetch(_ZONES))
    if time_zone not in _zones:
        raise InvalidInput.at("timeZone", f"must be an IANA time zone such as Europe/Berlin; it is {time_zone[:64]!r}")
