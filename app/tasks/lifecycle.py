"""Starts and ends tasks. Both are decided under the account's lock. The platform's own task id identifies the task."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from app.audit_log.records import AuditContext
from app.db.set_writes import RowCountMismatch
from app.errors import IdempotencyConflict, InsufficientCredits, TaskEnded, TaskNotFound
from app.ledger import accounts, notifications, posting, queries
from app.ledger.account_events import ScheduleSkipped, record_event
from app.ledger.idempotency import hash_request
from app.ledger.notifications import NotificationKind
from app.ledger.posting import Posting
from app.ledger.rules import holds
from app.ledger.rules.account_state import AccountState, HoldStatus
from app.tasks import queries as task_queries
from app.tasks import rows, task_accounts
from app.tasks.budgets import open_budget, own_budget
from app.tasks.rules import (
    ENDED_STATUSES,
    UNATTENDED_TRIGGERS,
    SkippedStartState,
    StopReason,
    TaskState,
    TaskStatus,
    TaskTrigger,
    apply_end,
    check_budget,
    check_not_ended,
    check_not_stopped,
)
from app.wording import quote_value

TASKS_PER_TRANSACTION: Final = 500
"""The most tasks that one transaction of `cancel_task` ends."""

_SKIPPED_RUNS: Final = {TaskTrigger.SCHEDULED: "A scheduled run", TaskTrigger.WEBHOOK: "A run started by a webhook"}


@dataclass(frozen=True, slots=True)
class TaskChange:
    """A task after a call. `replayed` is True if an earlier call with the same request made the change.

    `cancelled_children` counts the tasks nested in it, at any depth, that this call cancelled.
    """

    task: TaskState
    replayed: bool
    cancelled_children: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTaskRequest:
    """A request of the platform's backend to start a task. `budget` and `closing_reserve` are credits."""

    task_id: str
    owner_id: str
    agent_id: str
    trigger: TaskTrigger = TaskTrigger.MANUAL
    parent_task_id: str | None = None
    budget: int | None = None
    budget_timeout_seconds: int | None = None
    closing_reserve: int | None = None
    actor: str
    audit: AuditContext | None = None

    def check(self) -> None:
        """Raises: InvalidInput: lists every problem."""
        check_budget(self.budget, timeout_seconds=self.budget_timeout_seconds, closing_reserve=self.closing_reserve)

    def request_hash(self) -> bytes:
        request = {
            "taskId": self.task_id,
            "ownerId": self.owner_id,
            "agentId": self.agent_id,
            "trigger": self.trigger.value,
            "parentTaskId": self.parent_task_id,
        }
        budget = {
            "budget": self.budget,
            "budgetTimeoutSeconds": self.budget_timeout_seconds,
            "closingReserve": self.closing_reserve,
        }
        return hash_request("startTask", request | {name: value for name, value in budget.items() if value is not None})


async def start_task(request: StartTaskRequest) -> TaskChange:
    """Start a task. A repeated request returns the first result.

    If a task with the trigger SCHEDULED or WEBHOOK is refused because credits are missing, the skipped start is
    recorded.
    Raises: InvalidInput; InsufficientCredits: no credits or fewer than the budget are available, or the account has
    debt; BudgetReached: the parent's budget has too few credits; TaskEnded, TaskStopped: the parent has ended or is
    stopped; IdempotencyConflict: the task id belongs to another task; TaskNotFound: the account has no such parent.
    """
    request.check()
    account_id = await accounts.find_account_id(request.owner_id)
    if (taken := await task_accounts.find_account(request.task_id)) is not None and taken != account_id:
        raise IdempotencyConflict(key=request.task_id)
    if account_id is None:
        if request.trigger not in UNATTENDED_TRIGGERS:
            # A refusal writes nothing, so an owner without an account does not get one.
            balance = await queries.empty_balance(request.owner_id)
            required = request.budget or 1
            raise InsufficientCredits(
                required_credits=required, available_credits=0, shortfall_credits=required, balance=balance
            )
        account_id = await accounts.get_or_create_account(request.owner_id)  # to record the skipped start
    task_ids = [request.task_id] + ([request.parent_task_id] if request.parent_task_id else [])
    keys = [(account_id, task_id) for task_id in task_ids]

    async def decide(posting: Posting) -> TaskChange | InsufficientCredits:
        account = posting.accounts[account_id]
        found = {task.task_id: (task, request_hash) for task, request_hash in rows.tasks_with_hash(posting.rows[0])}
        if request.task_id in found:
            task, request_hash = found[request.task_id]
            if request_hash != request.request_hash():
                raise IdempotencyConflict(key=request.task_id)
            return TaskChange(task, replayed=True)
        try:
            budget_hold = open_budget(
                account,
                _running_parent(request, {task_id: task for task_id, (task, _) in found.items()}),
                task_id=request.task_id,
                credits=request.budget,
                timeout_seconds=request.budget_timeout_seconds,
                closing_reserve=request.closing_reserve,
                request_hash=request.request_hash(),
                actor=request.actor,
            )
        except InsufficientCredits as error:
            if request.trigger not in UNATTENDED_TRIGGERS:
                raise
            _record_skipped_start(posting, account, request, error)
            return error  # not raised, so that the record is committed
        task = TaskState(
            account_id=account_id,
            task_id=request.task_id,
            agent_id=request.agent_id,
            status=TaskStatus.RUNNING,
            stop_reason=None,
            trigger=request.trigger,
            parent_task_id=request.parent_task_id,
            started_at=account.at,
            ended_at=None,
            steps=0,
            charged=0,
            reversed=0,
            shortfall=None,
            required=None,
            budget_hold=budget_hold,
            version=1,
        )
        rows.insert_task(posting.write, task, request_hash=request.request_hash(), actor=request.actor)
        after = {"status": task.status, "agentId": task.agent_id, "trigger": task.trigger, "budget": request.budget}
        posting.record_audit(request.audit, account, subject=f"task {task.task_id}", before=None, after=after)
        posting.publish_change(account_id)
        return TaskChange(task, replayed=False)

    try:
        result = await posting.post(
            [account_id], decide, reads=[rows.read_tasks(keys)], holds=[rows.read_budgets(keys, only_open=True)]
        )
    except RowCountMismatch:
        # Another account may have started a task with this id after the query above.
        if await task_accounts.find_account(request.task_id) != account_id:
            raise IdempotencyConflict(key=request.task_id) from None
        raise
    if isinstance(result, InsufficientCredits):
        raise result
    task_accounts.cache_account(request.task_id, account_id)
    return result


def _running_parent(request: StartTaskRequest, found: Mapping[str, TaskState]) -> TaskState | None:
    """Raises: TaskNotFound, TaskEnded, TaskStopped."""
    if request.parent_task_id is None:
        return None
    parent = found.get(request.parent_task_id)
    if parent is None:
        raise TaskNotFound(task_id=request.parent_task_id)
    check_not_ended(parent)
    check_not_stopped(parent)
    return parent


def _record_skipped_start(
    posting: Posting, account: AccountState, request: StartTaskRequest, error: InsufficientCredits
) -> None:
    """Record that a scheduled task, or one started by a webhook, was skipped.

    At most one notification is added for each agent until the account has credits again.
    """
    reason = "IN_DEBT" if account.owed else StopReason.OUT_OF_CREDITS
    skipped = SkippedStartState(account.account_id, request.task_id, request.agent_id, reason, skipped_at=account.at)
    rows.insert_skipped_start(posting.write, skipped)
    posting.record_audit(
        request.audit, account, subject=f"task {request.task_id}", before=None, after={"skipped": reason}
    )
    notifications.notify(
        account,
        posting.write,
        NotificationKind.SCHEDULE_SKIPPED,
        f"{_SKIPPED_RUNS[request.trigger]} of agent {quote_value(request.agent_id)} did not start: {error.message}",
        agent_id=request.agent_id,
    )
    record_event(account, ScheduleSkipped(agent_id=request.agent_id))
    posting.publish_change(account.account_id)


async def finish_task(task_id: str, status: TaskStatus, *, audit: AuditContext | None = None) -> TaskChange:
    """End a running or stopped task as COMPLETED or FAILED. A repeated call returns the first result.

    Raises: TaskNotFound; TaskEnded: it has ended with another status.
    """
    if status not in (TaskStatus.COMPLETED, TaskStatus.FAILED):
        raise ValueError(f"a task cannot be finished as {status}")
    return await _end_task(task_id, status, audit=audit)


async def cancel_task(
    task_id: str, *, owner_ids: Collection[str] | None = None, audit: AuditContext | None = None
) -> TaskChange:
    """End a task and all open tasks nested in it, at any depth, as CANCELLED. They cannot be resumed.

    Nested tasks that have ended stay as they are. Each transaction ends up to TASKS_PER_TRANSACTION tasks, so that the
    account is not locked for long. The first transaction ends the task itself, so it gets no more children. If the call
    is interrupted, a repetition cancels the rest. If `owner_ids` is given, only tasks of these owners can be cancelled.
    Raises: TaskNotFound: also for a task of another owner; TaskEnded.
    """
    account_id = await task_accounts.require_account(task_id)
    nested = await task_queries.find_open_descendants(account_id, task_id)
    change = await _end_task(
        task_id, TaskStatus.CANCELLED, owner_ids=owner_ids, audit=audit, nested=nested[:TASKS_PER_TRANSACTION]
    )
    # A nested task can have started others since they were read.
    while nested := nested[TASKS_PER_TRANSACTION:] or await task_queries.find_open_descendants(account_id, task_id):
        more = await _end_task(
            task_id, TaskStatus.CANCELLED, owner_ids=owner_ids, audit=audit, nested=nested[:TASKS_PER_TRANSACTION]
        )
        change = replace(change, task=more.task, cancelled_children=change.cancelled_children + more.cancelled_children)
    return change


async def _end_task(
    task_id: str,
    status: TaskStatus,
    *,
    owner_ids: Collection[str] | None = None,
    audit: AuditContext | None,
    nested: Collection[str] = (),
) -> TaskChange:
    """End a task, and those of the tasks `nested` in it that are open, in one transaction."""
    account_id = await task_accounts.require_account(task_id)

    async def decide(posting: Posting) -> TaskChange:
        account = posting.accounts[account_id]
        found = {task.task_id: task for task, _ in rows.tasks_with_hash(posting.rows[0])}
        if (task := found.pop(task_id, None)) is None or (owner_ids is not None and account.owner_id not in owner_ids):
            raise TaskNotFound(task_id=task_id)
        if task.status in ENDED_STATUSES and task.status is not status:
            raise TaskEnded(task_id=task_id, status=task.status)
        ended = [
            _end(posting, account, one, status, audit)
            for one in (task, *found.values())
            if one.status not in ENDED_STATUSES
        ]
        if ended:
            rows.update_tasks(posting.write, ended)
            posting.publish_change(account_id)
        replayed = task.status in ENDED_STATUSES
        return TaskChange(task if replayed else ended[0], replayed, len(ended) - (not replayed))

    keys = [(account_id, one) for one in (task_id, *nested)]
    return await posting.post(
        [account_id], decide, reads=[rows.read_tasks(keys)], holds=[rows.read_budgets(keys, only_open=True)]
    )


def _end(
    posting: Posting, account: AccountState, task: TaskState, status: TaskStatus, audit: AuditContext | None
) -> TaskState:
    """End an open task and close its own budget. The caller writes the returned task."""
    budget = own_budget(account, task)
    if budget is not None and budget.is_open:
        holds.close_hold(account, budget, HoldStatus.CAPTURED)
    posting.record_audit(
        audit, account, subject=f"task {task.task_id}", before={"status": task.status}, after={"status": status}
    )
    return apply_end(task, status, account.at)
