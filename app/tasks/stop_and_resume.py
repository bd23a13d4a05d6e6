"""Stops tasks whose block runs cannot be paid for, and resumes them.

A task is stopped under its account's lock, by the block run that could not be paid, or when the budget on which it
draws expires. Then only block runs at cost 0, and closing work that a budget pays for, are accepted. A resumed task
continues where it stopped: its executor sends the same block run ids again, and block runs that were charged are not
charged twice.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from app.audit_log.records import AuditContext
from app.credits import check_amount, check_key
from app.db.set_writes import SetStatement, SetWrite
from app.db.tables import key_columns
from app.errors import BillingError, BudgetReached, InsufficientCredits, TaskNotFound, TaskNotStopped
from app.ledger import idempotency, notifications, posting
from app.ledger.account_events import TaskStopped, build_payload, record_event, select_deliveries
from app.ledger.notifications import NotificationKind
from app.ledger.posting import Posting
from app.ledger.rules.account_state import AccountState
from app.ledger.rules.ledger_keys import LedgerKeys
from app.tasks import rows, task_accounts
from app.tasks.budgets import find_budget, fund_resumed_task
from app.tasks.lifecycle import TaskChange
from app.tasks.rules import (
    ENDED_STATUSES,
    StopReason,
    TaskState,
    TaskStatus,
    apply_resume,
    apply_stop,
    check_not_ended,
)
from app.wording import counted, quote_value

# `timeout_seconds > 0` is always true. It lets PostgreSQL use the partial index of open holds by task.
_SELECT_TASKS_WITH_OPEN_HOLDS: Final = """
    SELECT DISTINCT account_id, task_id FROM hold
    WHERE account_id = ANY($1::bigint[]) AND task_id = ANY($2::text[]) AND status = 'OPEN' AND timeout_seconds > 0
"""

# One row for each expired hold: the account id, the task id and, for a budget, its number. The statement changes the
# task and all tasks that draw on the budget; a task may occur twice. The versions of the tasks in which they are nested
# rise too, because their costs include the change.
_UPDATE_TASKS_OF_EXPIRED_HOLDS: Final = SetStatement(
    "tasks of expired holds",
    f"""
    WITH RECURSIVE concerned(account_id, task_id, stops) AS MATERIALIZED (
        SELECT t.account_id, t.task_id, t.status = '{TaskStatus.RUNNING}'
        FROM unnest($1::bigint[], $2::text[], $3::int[]) AS k(account_id, task_id, budget_hold)
        JOIN task AS t ON t.account_id = k.account_id AND t.budget_hold = k.budget_hold
        UNION ALL
        SELECT account_id, task_id COLLATE "C", false
        FROM unnest($1::bigint[], $2::text[], $3::int[]) AS k(account_id, task_id, budget_hold)
    ), changed(account_id, task_id) AS (
        SELECT account_id, task_id COLLATE "C" FROM concerned
        UNION
        SELECT c.account_id, p.parent_task_id FROM changed AS c
        CROSS JOIN LATERAL (
            SELECT parent_task_id FROM task AS r WHERE r.account_id = c.account_id AND r.task_id = c.task_id OFFSET 0
        ) AS p WHERE p.parent_task_id IS NOT NULL
    )
    UPDATE task AS t SET version = t.version + 1,
        status = CASE WHEN v.stops THEN '{TaskStatus.STOPPED}' ELSE t.status END,
        stop_reason = CASE WHEN v.stops THEN '{StopReason.BUDGET_EXPIRED}' ELSE t.stop_reason END
    FROM (
        SELECT c.account_id, c.task_id, EXISTS (
            SELECT FROM concerned AS s WHERE s.account_id = c.account_id AND s.task_id = c.task_id AND s.stops
        ) AS stops FROM changed AS c
    ) AS v WHERE t.account_id = v.account_id AND t.task_id = v.task_id
    RETURNING 1
    """,  # noqa: S608  our own constants
    3,
    checks_row_count=False,
)

_BUDGET_EXPIRED: Final = TaskStopped(
    task_id="", agent_id="", reason=StopReason.BUDGET_EXPIRED, required=None, shortfall=None
)
# For the tasks that the statement above stops. Both read the tasks as they were before the transaction's write.
_RECORD_EXPIRED_BUDGETS: Final = SetStatement(
    "events of expired budgets",
    select_deliveries(
        f"""(
            SELECT k.account_id, k.event_type, k.payload, k.at, t.task_id, t.agent_id
            FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::timestamptz[])
                AS k(account_id, budget_hold, event_type, payload, at)
            JOIN task AS t ON t.account_id = k.account_id AND t.budget_hold = k.budget_hold
                AND t.status = '{TaskStatus.RUNNING}'
        ) AS v""",  # noqa: S608  our own constants
        """jsonb_set(jsonb_set(v.payload::jsonb, '{data,taskId}', to_jsonb(v.task_id)),
                     '{data,agentId}', to_jsonb(v.agent_id))::text""",
    ),
    5,
    checks_row_count=False,
)


def stop_task(
    posting: Posting,
    account: AccountState,
    task: TaskState,
    error: BillingError,
    *,
    required: int,
    audit: AuditContext | None = None,
) -> TaskState:
    """Stop a task because `error` refused a block run of `required` credits. The caller writes the returned task."""
    posting.signal_tasks(account.account_id)
    if isinstance(error, InsufficientCredits):
        notifications.notify(
            account,
            posting.write,
            NotificationKind.OUT_OF_CREDITS,
            f"Agent {quote_value(task.agent_id)} was stopped: a block run costs {counted(required, 'credit')}; "
            f"available: {error.available_credits:,}. Add {counted(error.shortfall_credits, 'credit')} to continue.",
            agent_id=task.agent_id,
        )
        after = apply_stop(task, StopReason.OUT_OF_CREDITS, required=required, shortfall=error.shortfall_credits)
    elif isinstance(error, BudgetReached):
        after = apply_stop(task, StopReason.BUDGET_REACHED, required=required, shortfall=error.shortfall_credits)
    else:
        after = apply_stop(task, StopReason.BUDGET_EXPIRED, required=required, shortfall=required)
    record_event(account, _stop_event(after))
    posting.record_audit(
        audit,
        account,
        subject=f"task {task.task_id}",
        before={"status": task.status},
        after={"status": after.status, "stopReason": after.stop_reason, "required": required},
    )
    return after


def _stop_event(task: TaskState) -> TaskStopped:
    return TaskStopped(
        task_id=task.task_id,
        agent_id=task.agent_id,
        reason=str(task.stop_reason),
        required=task.required,
        shortfall=task.shortfall,
    )


async def find_tasks_to_stop(posting: Posting, tasks: Iterable[TaskState]) -> set[tuple[int, str]]:
    """Return the (account id, task id) of the tasks for which at most a closing reserve can pay at present.

    Tasks that hold the last credits of their account are not included.
    """
    stops: set[tuple[int, str]] = set()
    unless_held: set[tuple[int, str]] = set()
    for task in tasks:
        if task.status in ENDED_STATUSES:
            continue
        account = posting.accounts[task.account_id]
        if task.budget_hold is not None:
            budget = find_budget(account, task)
            if budget is None or not budget.is_open or budget.is_used_up:
                stops.add(task.key)
        elif not account.available:
            (unless_held if account.open_holds else stops).add(task.key)
    if unless_held:  # rare: accounts with open holds but no available credits
        _, found = await posting.connection.execute_query(_SELECT_TASKS_WITH_OPEN_HOLDS, list(key_columns(unless_held)))
        stops |= unless_held - {(record["account_id"], record["task_id"]) for record in found}
    return stops


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeTaskRequest:
    """A request to resume a stopped task, or to add to the budget of a running one.

    `add_budget` credits are added to the task's budget, which is created if it has none. With an idempotency key, a
    repeated request returns the first result; without a key, it is refused because the task is running. So the budget
    of a running task is raised only with a key. If `owner_ids` is given, only tasks of these owners can be resumed.
    """

    task_id: str
    add_budget: int | None = None
    idempotency_key: str | None = None
    actor: str
    owner_ids: Collection[str] | None = None
    audit: AuditContext | None = None

    def check(self) -> None:
        """Raises: InvalidInput."""
        if self.add_budget is not None:
            check_amount(self.add_budget, path="addBudget")
        if self.idempotency_key is not None:
            check_key(self.idempotency_key, path="idempotencyKey")

    def request_hash(self) -> bytes:
        return idempotency.hash_request("resumeTask", {"taskId": self.task_id, "addBudget": self.add_budget})


async def resume_task(request: ResumeTaskRequest) -> TaskChange:
    """Let a stopped task run again, or raise the budget of a running one.

    Raises: InvalidInput, TaskNotFound, TaskEnded; TaskNotStopped: the task is running, and the request has no
    `add_budget` or no key; InsufficientCredits: no credits or fewer than `add_budget` are available, or the account has
    debt; BudgetReached: nothing is left of its budget and nothing is added; IdempotencyConflict.
    """
    request.check()
    account_id = await task_accounts.require_account(request.task_id)

    async def decide(posting: Posting) -> TaskChange:
        account = posting.accounts[account_id]
        task = rows.posted_task(posting, request.task_id)
        if request.owner_ids is not None and account.owner_id not in request.owner_ids:
            raise TaskNotFound(task_id=request.task_id)
        if (key := request.idempotency_key) is not None:
            request_hash = request.request_hash()
            if await idempotency.find_result(posting, account, key, request_hash) is not None:
                return TaskChange(task, replayed=True)
            idempotency.save_result(posting, account, key, kind="resumeTask", request_hash=request_hash, result={})
        check_not_ended(task)
        is_stopped = task.status is TaskStatus.STOPPED
        if not is_stopped and (request.add_budget is None or key is None):
            raise TaskNotStopped(task_id=task.task_id, status=task.status)
        before = {"status": task.status, "stopReason": task.stop_reason}
        needed = (task.required or 1) if is_stopped else 0
        task = fund_resumed_task(
            account, apply_resume(task), add_budget=request.add_budget, needed=needed, actor=request.actor
        )
        rows.update_task(posting.write, task)
        after = {"status": task.status, "addBudget": request.add_budget}
        posting.record_audit(request.audit, account, subject=f"task {task.task_id}", before=before, after=after)
        posting.signal_tasks(account_id)
        return TaskChange(task, replayed=False)

    key = (account_id, request.task_id)
    return await posting.post([account_id], decide, reads=[rows.read_tasks([key])], holds=[rows.read_budgets([key])])


def configure_ledger(
    key: bytes,
    *,
    verification_keys: Sequence[bytes] = (),
    low_balance_threshold: int = 500,
    lock_seconds: float = 5.0,
) -> None:
    """Set the keys of the ledger, its low-balance threshold, the longest wait for a locked account, and the handler of
    expired holds.

    Called once at start. `key` signs; `verification_keys` only verify. Each has at least 32 bytes. A LOW_BALANCE
    notification is sent when the balance falls below the threshold.
    """
    posting.configure(
        LedgerKeys.derive(key, verification_keys),
        low_balance_threshold=low_balance_threshold,
        lock_seconds=lock_seconds,
        on_holds_expired=_update_tasks_of_expired_holds,
    )


def _update_tasks_of_expired_holds(write: SetWrite, account: AccountState) -> None:
    """Stop the tasks that draw on an expired budget. Raise the version of tasks whose block run hold has expired.

    Both are written in the transaction that closes the holds.
    """
    for hold in account.expired_holds:
        write.add(
            _UPDATE_TASKS_OF_EXPIRED_HOLDS,
            (account.account_id, hold.task_id, hold.number if hold.is_budget else None),
        )
        if hold.is_budget:
            payload = build_payload(
                _BUDGET_EXPIRED,
                owner_id=account.owner_id,
                available=account.available,
                account_version=account.version,
                at=account.at,
            )
            values = (account.account_id, hold.number, _BUDGET_EXPIRED.event_type, payload, account.at)
            write.add(_RECORD_EXPIRED_BUDGETS, values)
