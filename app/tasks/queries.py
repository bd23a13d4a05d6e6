"""Finding tasks for somebody: the statement names the owners that the caller may look at.

A task that is another's is not found by the same statement as one that does not exist, so neither the answer nor its
cost tells them apart.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from app.db import pools
from app.ledger import posting
from app.ledger.owner_scope import OWNER_SCOPE_SQL, OwnerScope
from app.tasks import rows
from app.tasks.rules import BlockRunState, TaskState

# A null list of owners means every owner (services and operators).
_FIND: Final = f"""
    SELECT {rows.TASK_COLUMNS}, a.owner_id, coalesce(a.next_change_at <= clock_timestamp(), false) AS due
    FROM task_account AS k
    JOIN task AS t ON t.account_id = k.account_id AND t.task_id = k.task_id
    JOIN account AS a ON a.id = t.account_id
    WHERE k.task_id = ANY($1::text[]) AND ($2::text[] IS NULL OR a.owner_id = ANY($2))
"""  # noqa: S608  our own constant

_BLOCK_RUN: Final = f"""
    SELECT {rows.BLOCK_RUN_COLUMNS} FROM block_run AS b WHERE b.account_id = $1 AND b.block_run_id = $2 AND {OWNER_SCOPE_SQL}
"""  # noqa: S608  our own constants


@dataclass(frozen=True, slots=True)
class OwnedTask:
    """A task and whose it is."""

    task: TaskState
    owner_id: str


async def find_tasks(task_ids: Iterable[str], *, owner_ids: OwnerScope) -> dict[str, OwnedTask]:
    """Those of the tasks that exist in the accounts of `owner_ids`; None: in any account. Settled to now."""
    asked = (list(dict.fromkeys(task_ids)), None if owner_ids is None else list(owner_ids))
    records = await pools.fetch(_FIND, *asked)
    if due := {record["account_id"] for record in records if record["due"]}:
        await posting.apply_due_changes(due)
        records = await pools.fetch(_FIND, *asked)
    return {record["task_id"]: OwnedTask(rows.task_from_row(record), record["owner_id"]) for record in records}


async def find_block_run(account_id: int, block_run_id: str, *, owner_ids: OwnerScope) -> BlockRunState | None:
    """That block run, in an account of `owner_ids`; None: in any account."""
    found = await pools.fetch(_BLOCK_RUN, account_id, block_run_id, None if owner_ids is None else list(owner_ids))
    return rows.block_run_from_row(found[0]) if found else None
