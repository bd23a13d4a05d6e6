"""What becomes of tasks whose holds have lapsed: written with the lapse, in one transaction and under one lock.

An envelope that lapses stops the tasks that draw on it (BUDGET_EXPIRED): nobody has charged within its timeout, so
whoever ran them is taken for dead. A lapsed hold for one block run only changes what its task holds.
"""

from typing import Final

from app.db.set_writes import SetStatement, SetWrite
from app.ledger import posting
from app.ledger.rules.account_state import AccountState
from app.tasks.rules import StopReason, TaskStatus

# Each row names a task by its id, or all tasks that draw on an envelope. A task may be named in both ways.
_LAPSED: Final = SetStatement(
    "lapses",
    f"""
    UPDATE task AS t SET version = t.version + 1,
        status = CASE WHEN v.stops THEN '{TaskStatus.STOPPED}' ELSE t.status END,
        stop_reason = CASE WHEN v.stops THEN '{StopReason.BUDGET_EXPIRED}' ELSE t.stop_reason END
    FROM (
        SELECT account_id, task_id, bool_or(stops) AS stops FROM (
            SELECT t.account_id, t.task_id, t.status = '{TaskStatus.RUNNING}' AS stops
            FROM unnest($1::bigint[], $2::text[], $3::int[]) AS k(account_id, task_id, budget_hold)
            JOIN task AS t ON t.account_id = k.account_id AND t.budget_hold = k.budget_hold
            UNION ALL
            SELECT account_id, task_id, false
            FROM unnest($1::bigint[], $2::text[], $3::int[]) AS k(account_id, task_id, budget_hold)
        ) AS concerned GROUP BY account_id, task_id
    ) AS v WHERE t.account_id = v.account_id AND t.task_id = v.task_id
    RETURNING 1
    """,  # noqa: S608  our own constants
    3,
    checks_row_count=False,
)


def configure_ledger(key: bytes, *, low_balance_at: int = 500) -> None:
    """Make the ledger ready for postings, once at start: with its key, and with who follows up on lapsed holds."""
    posting.configure(key, low_balance_threshold=low_balance_at, on_holds_expired=_follow_up)


def _follow_up(write: SetWrite, book: AccountState) -> None:
    for hold in book.expired_holds:
        write.add(_LAPSED, (book.account_id, hold.task_id, hold.number if hold.is_budget else None))
