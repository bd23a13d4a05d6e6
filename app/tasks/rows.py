"""The rows of tasks and block runs as sets: what rides in a posting's one read and one write."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from app.db.set_writes import SetStatement, SetWrite
from app.ledger.posting import ExtraRead
from app.pricing.outcomes import BlockRunOutcome
from app.tasks.rules import BlockRunState, StopReason, TaskState, TaskStatus, TaskTrigger

TASK_COLUMNS: Final = (
    "t.account_id, t.task_id, t.agent_id, t.status, t.stop_reason, t.trigger, t.parent_task_id, t.started_at,"
    " t.ended_at, t.steps, t.charged, t.reversed, t.shortfall, t.required, t.budget_hold, t.version"
)
TASK_WIDTH: Final = 16
"""How many they are: what a read adds stands behind them."""
BLOCK_RUN_COLUMNS: Final = (
    "b.account_id, b.block_run_id, b.task_id, b.position, b.block, b.model, b.cost, b.reversed, b.uses_own_key, b.charged_at,"
    " b.price_version, b.rule, b.entry_seq, b.outcome, b.finished_at, b.outcome_seq"
)

BLOCK_RUN_WIDTH: Final = 16

_NEW_TASKS: Final = SetStatement(
    "new tasks",
    """
    INSERT INTO task (account_id, task_id, agent_id, status, stop_reason, trigger, parent_task_id, started_at, ended_at,
                      steps, charged, reversed, shortfall, required, budget_hold, version, request_hash, actor)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                         $8::timestamptz[], $9::timestamptz[], $10::int[], $11::bigint[], $12::bigint[], $13::bigint[],
                         $14::bigint[], $15::int[], $16::bigint[], $17::bytea[], $18::text[])
    RETURNING 1
    """,
    18,
)

INSERT_TASK_ACCOUNTS: Final = SetStatement(
    "task accounts",
    """
    INSERT INTO task_account (task_id, account_id) SELECT * FROM unnest($1::text[], $2::bigint[])
    ON CONFLICT (task_id) DO NOTHING RETURNING 1
    """,
    2,
)

_TASKS: Final = SetStatement(
    "tasks",
    """
    UPDATE task AS t SET status = v.status, stop_reason = v.stop_reason, ended_at = v.ended_at, steps = v.steps,
        charged = v.charged, reversed = v.reversed, shortfall = v.shortfall, required = v.required, budget_hold = v.budget_hold,
        version = v.version
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::int[], $7::bigint[],
                $8::bigint[], $9::bigint[], $10::bigint[], $11::int[], $12::bigint[])
        AS v(account_id, task_id, status, stop_reason, ended_at, steps, charged, reversed, shortfall, required, budget_hold,
             version)
    WHERE t.account_id = v.account_id AND t.task_id = v.task_id
    RETURNING 1
    """,
    12,
)

_NEW_BLOCK_RUNS: Final = SetStatement(
    "block runs",
    """
    INSERT INTO block_run (account_id, block_run_id, task_id, position, block, model, cost, reversed, uses_own_key, charged_at,
                           price_version, rule, entry_seq, request_hash, actor, request_id)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::bigint[],
                         $8::bigint[], $9::bool[], $10::timestamptz[], $11::int[], $12::jsonb[], $13::bigint[],
                         $14::bytea[], $15::text[], $16::text[])
    RETURNING 1
    """,
    16,
)

_REVERSED_BLOCK_RUNS: Final = SetStatement(
    "reversed block runs",
    """
    UPDATE block_run AS b SET reversed = v.reversed
    FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS v(account_id, block_run_id, reversed)
    WHERE b.account_id = v.account_id AND b.block_run_id = v.block_run_id
    RETURNING 1
    """,
    3,
)


_FINISHED_BLOCK_RUNS: Final = SetStatement(
    "finished block runs",
    """
    UPDATE block_run AS b SET reversed = v.reversed, outcome = v.outcome, finished_at = v.finished_at,
        outcome_seq = v.outcome_seq
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::timestamptz[], $6::bigint[])
        AS v(account_id, block_run_id, reversed, outcome, finished_at, outcome_seq)
    WHERE b.account_id = v.account_id AND b.block_run_id = v.block_run_id AND b.outcome IS NULL
    RETURNING 1
    """,
    6,
)

_SKIPPED_TICKS: Final = SetStatement(
    "skipped ticks",
    """
    INSERT INTO skipped_start (account_id, task_id, agent_id, reason, skipped_at)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
    ON CONFLICT (account_id, task_id) DO NOTHING RETURNING 1
    """,
    5,
    checks_row_count=False,
)


# OFFSET 0 keeps the look-up by key for each item, whatever the planner thinks of the table: of one that was vacuumed
# while it was empty it thinks that a scan costs nothing, and a posting connection keeps the plan.


_READ_TASKS: Final = f"""
    SELECT ROW({TASK_COLUMNS}, t.request_hash) FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    CROSS JOIN LATERAL (
        SELECT * FROM task AS r WHERE r.account_id = k.account_id AND r.task_id = k.task_id OFFSET 0
    ) AS t
"""  # noqa: S608  our own constant

_READ_BLOCK_RUNS: Final = f"""
    SELECT ROW({BLOCK_RUN_COLUMNS}, b.request_hash) FROM unnest($1::bigint[], $2::text[]) AS k(account_id, block_run_id)
    CROSS JOIN LATERAL (
        SELECT * FROM block_run AS r WHERE r.account_id = k.account_id AND r.block_run_id = k.block_run_id OFFSET 0
    ) AS b
"""  # noqa: S608  our own constant

_READ_REVERSIBLE: Final = f"""
    SELECT ROW({BLOCK_RUN_COLUMNS}, e.draws) FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    CROSS JOIN LATERAL (
        SELECT * FROM block_run AS r
        WHERE r.account_id = k.account_id AND r.task_id = k.task_id AND r.position > 0 AND r.cost > r.reversed OFFSET 0
    ) AS b
    CROSS JOIN LATERAL (
        SELECT draws FROM entry AS r WHERE r.account_id = b.account_id AND r.seq = b.entry_seq OFFSET 0
    ) AS e ORDER BY b.position
"""  # noqa: S608  our own constant

_READ_ENVELOPES: Final = """
    SELECT DISTINCT t.account_id, t.budget_hold AS number FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    CROSS JOIN LATERAL (
        SELECT account_id, budget_hold FROM task AS r
        WHERE r.account_id = k.account_id AND r.task_id = k.task_id OFFSET 0
    ) AS t WHERE t.budget_hold IS NOT NULL
"""

_READ_HOLDS: Final = """
    SELECT h.account_id, h.number FROM unnest($1::bigint[], $2::text[]) AS k(account_id, block_run_id)
    CROSS JOIN LATERAL (
        SELECT account_id, number FROM hold AS r
        WHERE r.account_id = k.account_id AND r.block_run_id = k.block_run_id OFFSET 0
    ) AS h
"""


def read_tasks(keys: Iterable[tuple[int, str]]) -> ExtraRead:
    """A read of tasks by (account, task id), each followed by its start's fingerprint."""
    return ExtraRead(_READ_TASKS, key_columns(keys))


def read_block_runs(keys: Iterable[tuple[int, str]]) -> ExtraRead:
    """A read of block runs by (account, block run id), each followed by its request's fingerprint."""
    return ExtraRead(_READ_BLOCK_RUNS, key_columns(keys))


def read_reversible_block_runs(keys: Iterable[tuple[int, str]]) -> ExtraRead:
    """The block runs of tasks that still cost something, in order, each followed by its entry's draws."""
    return ExtraRead(_READ_REVERSIBLE, key_columns(keys))


def read_budgets(keys: Iterable[tuple[int, str]], *, only_open: bool = False) -> ExtraRead:
    """The envelopes that tasks (account, task id) draw on, for a posting's `holds`."""
    return ExtraRead(_READ_ENVELOPES, key_columns(keys), only_open=only_open)


def read_holds(keys: Iterable[tuple[int, str]]) -> ExtraRead:
    """The holds for block runs (account, block run id), for a posting's `holds`."""
    return ExtraRead(_READ_HOLDS, key_columns(keys))


def task_from_row(row: Sequence[Any]) -> TaskState:
    """A task from its columns, in the order of TASK_COLUMNS."""
    (account_id, task_id, agent_id, status, stop_reason, trigger, parent, started_at, ended_at, steps, charged,
     reversed_, lacked, required, envelope, version) = row[:TASK_WIDTH]  # fmt: skip
    return TaskState(
        account_id,
        task_id,
        agent_id,
        TaskStatus(status),
        StopReason(stop_reason) if stop_reason else None,
        TaskTrigger(trigger),
        parent,
        started_at,
        ended_at,
        steps,
        charged,
        reversed_,
        lacked,
        required,
        envelope,
        version,
    )


def block_run_from_row(row: Sequence[Any]) -> BlockRunState:
    """A block run from its columns, in the order of BLOCK_RUN_COLUMNS."""
    (account_id, block_run_id, task_id, position, block, model, cost, reversed_, own, at, version, rule, seq, outcome,
     finished_at, outcome_seq) = row[:BLOCK_RUN_WIDTH]  # fmt: skip
    return BlockRunState(
        account_id,
        block_run_id,
        task_id,
        position,
        block,
        model,
        cost,
        reversed_,
        own,
        at,
        version,
        json.loads(rule) if rule else None,
        seq,
        BlockRunOutcome(outcome) if outcome else None,
        finished_at,
        outcome_seq,
    )


def insert_task(write: SetWrite, task: TaskState, *, request_hash: bytes, actor: str) -> None:
    """Write a new task, and whose it is."""
    write.add(_NEW_TASKS, (*task, request_hash, actor))
    write.add(INSERT_TASK_ACCOUNTS, (task.task_id, task.account_id))


def update_task(write: SetWrite, task: TaskState) -> None:
    """Write what a task has become."""
    write.add(
        _TASKS,
        (task.account_id, task.task_id, task.status, task.stop_reason, task.ended_at, task.steps, task.charged,
         task.reversed, task.shortfall, task.required, task.budget_hold, task.version),
    )  # fmt: skip


def insert_block_run(
    write: SetWrite, run: BlockRunState, *, request_hash: bytes, actor: str, request_id: str | None = None
) -> None:
    """Write a new block run, with who had it charged, for which request."""
    write.add(_NEW_BLOCK_RUNS, (*run[:11], _json(run.rule), run.entry_seq, request_hash, actor, request_id))


def insert_skipped_start(
    write: SetWrite, account_id: int, *, task_id: str, agent_id: str, reason: str, skipped_at: datetime
) -> None:
    """Write that a scheduled run did not start, once however often its tick is sent."""
    write.add(_SKIPPED_TICKS, (account_id, task_id, agent_id, reason, skipped_at))


def update_reversed(write: SetWrite, run: BlockRunState) -> None:
    """Write how much of a block run's cost has been given back."""
    write.add(_REVERSED_BLOCK_RUNS, (run.account_id, run.block_run_id, run.reversed))


def update_outcome(write: SetWrite, run: BlockRunState) -> None:
    """Write how a block run ended, and how much of its cost has been given back with that."""
    write.add(
        _FINISHED_BLOCK_RUNS,
        (run.account_id, run.block_run_id, run.reversed, run.outcome, run.finished_at, run.outcome_seq),
    )


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def key_columns(keys: Iterable[tuple[int, str]]) -> tuple[list[int], list[str]]:
    pairs = list(dict.fromkeys(keys))
    return [account_id for account_id, _ in pairs], [name for _, name in pairs]
