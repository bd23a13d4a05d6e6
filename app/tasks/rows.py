"""The rows of tasks and block runs: the reads of a posting after the lock, and its writes before the commit."""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from app.db.set_writes import SetStatement, SetWrite
from app.db.tables import RowSelect, Table, key_columns
from app.errors import TaskNotFound
from app.ledger.posting import ExtraRead, HoldRead, Posting
from app.ledger.rules.account_state import Draws
from app.tasks import models
from app.tasks.rules import BlockRunState, SkippedStartState, TaskState

AccountScopedId = tuple[int, str]
"""An account id, with the platform's own id of a task, a block run or an agent of that account."""

TASKS: Final = Table(models.Task, TaskState, key=("account_id", "task_id"))
BLOCK_RUNS: Final = Table(models.BlockRun, BlockRunState, key=("account_id", "block_run_id"))
SKIPPED_STARTS: Final = Table(models.SkippedStart, SkippedStartState, key=("account_id", "task_id"))

_OUTCOME_COLUMNS: Final = ("outcome", "finished_at", "outcome_seq")

_INSERT_TASK: Final = TASKS.insert("request_hash", "actor")
INSERT_TASK_ACCOUNT: Final = SetStatement(
    "insert into task_account",
    """
    INSERT INTO task_account (task_id, account_id) SELECT * FROM unnest($1::text[], $2::bigint[])
    ON CONFLICT (task_id) DO NOTHING RETURNING 1
    """,
    2,
)
_UPDATE_TASK: Final = TASKS.update(
    "status", "stop_reason", "ended_at", "steps", "charged", "reversed", "shortfall", "required", "budget_hold",
    "version",
)  # fmt: skip
# A change of a task is also a change of the tasks in which it is nested, because their costs include it. Tasks that the
# same write changes are left out, because one statement can change a row only once.
_BUMP_ANCESTORS: Final = SetStatement(
    "versions of parent tasks",
    """
    WITH RECURSIVE changed AS MATERIALIZED (
        SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[]) AS v(account_id, task_id, parent_task_id)
    ), ancestor(account_id, task_id) AS (
        SELECT account_id, parent_task_id COLLATE "C" FROM changed WHERE parent_task_id IS NOT NULL
        UNION
        SELECT a.account_id, p.parent_task_id FROM ancestor AS a
        CROSS JOIN LATERAL (
            SELECT parent_task_id FROM task AS r WHERE r.account_id = a.account_id AND r.task_id = a.task_id OFFSET 0
        ) AS p WHERE p.parent_task_id IS NOT NULL
    )
    UPDATE task AS t SET version = t.version + 1 FROM ancestor AS a
    WHERE t.account_id = a.account_id AND t.task_id = a.task_id
      AND NOT EXISTS (SELECT FROM changed AS c WHERE c.account_id = a.account_id AND c.task_id = a.task_id)
    RETURNING 1
    """,
    3,
    checks_row_count=False,
)
_INSERT_BLOCK_RUN: Final = BLOCK_RUNS.insert(
    "request_hash",
    "actor",
    "request_id",
    columns=[name for name in BLOCK_RUNS.column_names if name not in _OUTCOME_COLUMNS],
)
_UPDATE_REVERSED: Final = BLOCK_RUNS.update("reversed")
_UPDATE_OUTCOME: Final = BLOCK_RUNS.update("reversed", *_OUTCOME_COLUMNS, where="t.outcome IS NULL")
_INSERT_SKIPPED_START: Final = SKIPPED_STARTS.insert(
    on_conflict="ON CONFLICT (account_id, task_id) DO NOTHING", checks_row_count=False
)

# In the reads below, OFFSET 0 makes the planner look up each item by key. If a table was vacuumed while it was empty,
# the planner estimates that a sequential scan costs nothing, and a connection continues to use this plan.

_SELECT_TASKS: Final = RowSelect(
    [*TASKS.column_list("t"), "t.request_hash"],
    """
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    CROSS JOIN LATERAL (
        SELECT * FROM task AS r WHERE r.account_id = k.account_id AND r.task_id = k.task_id OFFSET 0
    ) AS t
    """,
)

_SELECT_BLOCK_RUNS: Final = RowSelect(
    [*BLOCK_RUNS.column_list("b"), "b.request_hash"],
    """
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, block_run_id)
    CROSS JOIN LATERAL (
        SELECT * FROM block_run AS r WHERE r.account_id = k.account_id AND r.block_run_id = k.block_run_id OFFSET 0
    ) AS b
    """,
)

_REVERSIBLE_BLOCK_RUNS: Final = f"""
    SELECT {BLOCK_RUNS.columns("b")}, e.draws::text AS draws
    FROM (
        SELECT * FROM block_run AS r
        WHERE r.account_id = $1 AND r.task_id = $2 AND r.position > 0 AND r.position > $3 AND r.position <= $4
          AND r.cost > r.reversed OFFSET 0
    ) AS b
    CROSS JOIN LATERAL (
        SELECT draws FROM entry AS r WHERE r.account_id = b.account_id AND r.seq = b.entry_seq OFFSET 0
    ) AS e ORDER BY b.position
"""  # noqa: S608  our own constant

_SELECT_BUDGETS: Final = """
    SELECT DISTINCT t.account_id, t.budget_hold AS number
    FROM unnest($1::bigint[], $2::text[]) AS k(account_id, task_id)
    CROSS JOIN LATERAL (
        SELECT account_id, budget_hold FROM task AS r
        WHERE r.account_id = k.account_id AND r.task_id = k.task_id OFFSET 0
    ) AS t WHERE t.budget_hold IS NOT NULL
"""

_SELECT_HOLDS: Final = """
    SELECT h.account_id, h.number FROM unnest($1::bigint[], $2::text[]) AS k(account_id, block_run_id)
    CROSS JOIN LATERAL (
        SELECT account_id, number FROM hold AS r
        WHERE r.account_id = k.account_id AND r.block_run_id = k.block_run_id OFFSET 0
    ) AS h
"""


def read_tasks(keys: Iterable[AccountScopedId]) -> ExtraRead:
    """Return a read of tasks by (account id, task id), each with the hash of the request that started it."""
    return ExtraRead(_SELECT_TASKS, key_columns(keys))


def read_block_runs(keys: Iterable[AccountScopedId]) -> ExtraRead:
    """Return a read of block runs by (account id, block run id), each with the hash of its request."""
    return ExtraRead(_SELECT_BLOCK_RUNS, key_columns(keys))


async def find_reversible_block_runs(
    posting: Posting, task: TaskState, *, after_position: int, up_to: int
) -> list[tuple[BlockRunState, Draws]]:
    """Return the block runs at these positions that still cost credits, in order, each with the draws of its entry."""
    values = [*task.key, after_position, up_to]
    _, records = await posting.connection.execute_query(_REVERSIBLE_BLOCK_RUNS, values)
    return [
        (BLOCK_RUNS.read(record), tuple((number, credits) for number, credits in json.loads(record["draws"])))
        for record in records
    ]


def read_budgets(keys: Iterable[AccountScopedId], *, only_open: bool = False) -> HoldRead:
    """Return a read of the budgets on which tasks (account id, task id) draw, for the argument `holds` of `post`."""
    return HoldRead(_SELECT_BUDGETS, key_columns(keys), only_open=only_open)


def read_holds(keys: Iterable[AccountScopedId], *, only_open: bool = False) -> HoldRead:
    """Return a read of the holds of block runs (account id, block run id), for the argument `holds` of `post`."""
    return HoldRead(_SELECT_HOLDS, key_columns(keys), only_open=only_open)


def tasks_with_hash(rows: Iterable[Any]) -> list[tuple[TaskState, bytes]]:
    """Convert the rows of `read_tasks`."""
    return [(TASKS.read(row), bytes(row["request_hash"])) for row in rows]


def block_runs_with_hash(rows: Iterable[Any]) -> list[tuple[BlockRunState, bytes]]:
    """Convert the rows of `read_block_runs`."""
    return [(BLOCK_RUNS.read(row), bytes(row["request_hash"])) for row in rows]


def posted_task(posting: Posting, task_id: str) -> TaskState:
    """Return the task of a posting whose first read is `read_tasks` of this task. Raises: TaskNotFound."""
    rows: Sequence[Any] = posting.rows[0]
    if not rows:
        raise TaskNotFound(task_id=task_id)
    return TASKS.read(rows[0])


def insert_task(write: SetWrite, task: TaskState, *, request_hash: bytes, actor: str) -> None:
    write.add_row(_INSERT_TASK, task, request_hash=request_hash, actor=actor)
    write.add(INSERT_TASK_ACCOUNT, (task.task_id, task.account_id))
    _bump_ancestors(write, [task])


def update_task(write: SetWrite, task: TaskState) -> None:
    """Write the only task that a posting changes, and raise the versions of the tasks in which it is nested."""
    update_tasks(write, [task])


def update_tasks(write: SetWrite, tasks: Collection[TaskState]) -> None:
    """Write all tasks that a posting changes, and raise the versions of the tasks in which they are nested."""
    for task in tasks:
        write.add_row(_UPDATE_TASK, task)
    _bump_ancestors(write, tasks)


def _bump_ancestors(write: SetWrite, tasks: Collection[TaskState]) -> None:
    if any(task.parent_task_id is not None for task in tasks):
        for task in tasks:
            write.add(_BUMP_ANCESTORS, (task.account_id, task.task_id, task.parent_task_id))


def insert_block_run(
    write: SetWrite, run: BlockRunState, *, request_hash: bytes, actor: str, request_id: str | None = None
) -> None:
    write.add_row(_INSERT_BLOCK_RUN, run, request_hash=request_hash, actor=actor, request_id=request_id)


def update_reversed(write: SetWrite, run: BlockRunState) -> None:
    """Write how many credits of a block run were reversed."""
    write.add_row(_UPDATE_REVERSED, run)


def update_outcome(write: SetWrite, run: BlockRunState) -> None:
    """Write the outcome of a block run, once, with the credits that were reversed because of it."""
    write.add_row(_UPDATE_OUTCOME, run)


def insert_skipped_start(write: SetWrite, skipped: SkippedStartState) -> None:
    """Write that a scheduled task did not start. If the scheduler repeats the request, nothing more is written."""
    write.add_row(_INSERT_SKIPPED_START, skipped)
