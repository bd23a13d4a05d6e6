"""Tasks begin and end. Each is decided under the account's lock and identified by the platform's own task id.

A task may begin with a budget: an envelope that pays for it and returns what is left when it ends. A scheduled one that
cannot begin for want of credits is recorded as skipped. Tasks that were stopped go on in `resuming`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from app.audit_log.records import AuditContext
from app.db.set_writes import RowCountMismatch
from app.errors import IdempotencyConflict, InsufficientCredits, TaskEnded, TaskNotFound
from app.ledger import accounts, notifications, posting, queries
from app.ledger.idempotency import hash_request
from app.ledger.notifications import NotificationKind
from app.ledger.posting import Posting
from app.ledger.rules import holds
from app.ledger.rules.account_state import AccountState, Hold, HoldStatus
from app.tasks import rows, task_accounts
from app.tasks.budgets import own_budget
from app.tasks.rules import (
    DEFAULT_BUDGET_TIMEOUT_SECONDS,
    ENDED_STATUSES,
    StopReason,
    TaskState,
    TaskStatus,
    TaskTrigger,
    apply_end,
    check_budget,
    check_budget_has_credits,
    check_can_start,
    check_no_debt,
    check_not_ended,
    check_not_stopped,
)


@dataclass(frozen=True, slots=True)
class TaskChange:
    """A task after the call; `replayed`: the same call had done it before."""

    task: TaskState
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTaskRequest:
    """What a platform's backend says when an agent is to run."""

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
        """Raises: InvalidInput, naming every problem."""
        check_budget(self.budget, timeout_seconds=self.budget_timeout_seconds, closing_reserve=self.closing_reserve)

    def request_hash(self) -> bytes:
        said = {
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
        return hash_request("startTask", said | {name: value for name, value in budget.items() if value is not None})


async def start_task(request: StartTaskRequest) -> TaskChange:
    """Open a task; the same task again is the same task.

    Raises: InvalidInput; InsufficientCredits: nothing is available, less than the budget, or the account owes;
    BudgetReached: of the parent; IdempotencyConflict: the task id was used for another task; TaskNotFound: there is no
    such parent in this account; TaskEnded, TaskStopped: of the parent.
    """
    request.check()
    account_id = await accounts.find_account_id(request.owner_id)
    if (taken := await task_accounts.find_account(request.task_id)) is not None and taken != account_id:
        raise IdempotencyConflict(key=request.task_id)
    if account_id is None:
        if request.trigger is not TaskTrigger.SCHEDULED:
            # An owner without an account has nothing available, and a refusal writes nothing, no account either.
            figures = await queries.empty_balance(request.owner_id)
            raise InsufficientCredits(required_credits=request.budget or 1, available_credits=0, balance=figures)
        account_id = await accounts.get_or_create_account(request.owner_id)  # what was skipped is written down
    names = [request.task_id] + ([request.parent_task_id] if request.parent_task_id else [])
    keys = [(account_id, name) for name in names]

    async def decide(posting: Posting) -> TaskChange | InsufficientCredits:
        book = posting.accounts[account_id]
        found = {row[1]: (rows.task_from_row(row), bytes(row[rows.TASK_WIDTH])) for row in posting.rows[0]}
        if request.task_id in found:
            task, print_ = found[request.task_id]
            if print_ != request.request_hash():
                raise IdempotencyConflict(key=request.task_id)
            return TaskChange(task, replayed=True)
        try:
            envelope = _envelope(book, request, _parent(request, found))
        except InsufficientCredits as refusal:
            refusal.balance = book.balance()
            if request.trigger is not TaskTrigger.SCHEDULED:
                raise
            _skip(posting, book, request, refusal)
            return refusal
        task = TaskState(
            account_id,
            request.task_id,
            request.agent_id,
            TaskStatus.RUNNING,
            None,
            request.trigger,
            request.parent_task_id,
            book.at,
            None,
            0,
            0,
            0,
            None,
            None,
            envelope,
            1,
        )
        rows.insert_task(posting.write, task, request_hash=request.request_hash(), actor=request.actor)
        after = {"status": task.status, "agentId": task.agent_id, "trigger": task.trigger, "budget": request.budget}
        posting.record_audit(request.audit, book, subject=f"task {task.task_id}", before=None, after=after)
        posting.publish_change(account_id)
        return TaskChange(task, replayed=False)

    try:
        outcome = await posting.post(
            [account_id], decide, reads=[rows.read_tasks(keys)], holds=[rows.read_budgets(keys, only_open=True)]
        )
    except RowCountMismatch:
        # Another account's task took the id between our look and our write.
        if await task_accounts.find_account(request.task_id) != account_id:
            raise IdempotencyConflict(key=request.task_id) from None
        raise
    if isinstance(outcome, InsufficientCredits):
        raise outcome
    task_accounts.cache_account(request.task_id, account_id)
    return outcome


def _parent(request: StartTaskRequest, found: Mapping[str, tuple[TaskState, bytes]]) -> TaskState | None:
    """The running task around the new one. Raises: TaskNotFound, TaskEnded, TaskStopped."""
    if request.parent_task_id is None:
        return None
    if request.parent_task_id not in found:
        raise TaskNotFound(task_id=request.parent_task_id)
    parent, _ = found[request.parent_task_id]
    check_not_ended(parent)
    check_not_stopped(parent)
    return parent


def _envelope(book: AccountState, request: StartTaskRequest, parent: TaskState | None) -> int | None:
    """The number of the envelope that will pay: its own, taken from its parent's if that has one, or its parent's."""
    around: Hold | None = None
    if parent is not None and parent.budget_hold is not None:
        check_no_debt(book)
        around = check_budget_has_credits(book.holds.get(parent.budget_hold), parent)
    else:
        check_can_start(book)
    if request.budget is None:
        return around.number if around is not None else None
    return holds.place_hold(
        book,
        request.budget,
        task_id=request.task_id,
        block_run_id=None,
        timeout_seconds=request.budget_timeout_seconds or DEFAULT_BUDGET_TIMEOUT_SECONDS,
        parent_budget=around,
        closing_reserve=request.closing_reserve or 0,
        request_hash=request.request_hash(),
        actor=request.actor,
    ).number


def _skip(posting: Posting, book: AccountState, request: StartTaskRequest, refusal: InsufficientCredits) -> None:
    """Write down that a tick was skipped, and tell it once per agent until the account is replenished."""
    reason = "OWING" if book.owed else StopReason.OUT_OF_CREDITS
    rows.insert_skipped_start(
        posting.write,
        book.account_id,
        task_id=request.task_id,
        agent_id=request.agent_id,
        reason=reason,
        skipped_at=book.at,
    )
    posting.record_audit(request.audit, book, subject=f"task {request.task_id}", before=None, after={"skipped": reason})
    notifications.notify(
        book,
        posting.write,
        NotificationKind.SCHEDULE_SKIPPED,
        f"A scheduled run of agent {request.agent_id!r} did not start: {refusal.message}",
        agent_id=request.agent_id,
    )
    posting.publish_change(book.account_id)


async def finish_task(task_id: str, status: TaskStatus, *, audit: AuditContext | None = None) -> TaskChange:
    """End a task as COMPLETED or FAILED; a stopped one too, which needs nothing more. The same end again is a replay.

    Raises: TaskNotFound; TaskEnded: it has ended otherwise.
    """
    if status not in (TaskStatus.COMPLETED, TaskStatus.FAILED):
        raise ValueError(f"a task is not finished as {status}")
    return await _end(task_id, status, audit=audit)


async def cancel_task(
    task_id: str, *, owner_ids: Collection[str] | None = None, audit: AuditContext | None = None
) -> TaskChange:
    """End a task as CANCELLED, for good: what was cancelled stays cancelled.

    `owner_ids`: whose task it may be; None: anybody's. Raises: TaskNotFound: another's, too; TaskEnded.
    """
    return await _end(task_id, TaskStatus.CANCELLED, owner_ids=owner_ids, audit=audit)


async def _end(
    task_id: str, status: TaskStatus, *, owner_ids: Collection[str] | None = None, audit: AuditContext | None
) -> TaskChange:
    account_id = await task_accounts.find_account(task_id)
    if account_id is None:
        raise TaskNotFound(task_id=task_id)

    async def decide(posting: Posting) -> TaskChange:
        book, found = posting.accounts[account_id], posting.rows[0]
        if not found or (owner_ids is not None and book.owner_id not in owner_ids):
            raise TaskNotFound(task_id=task_id)
        task = rows.task_from_row(found[0])
        if task.status in ENDED_STATUSES:
            if task.status is not status:
                raise TaskEnded(task_id=task_id, status=task.status)
            return TaskChange(task, replayed=True)
        envelope = own_budget(book, task)
        if envelope is not None and envelope.is_open:
            holds.close_hold(book, envelope, HoldStatus.CAPTURED)
        posting.record_audit(
            audit, book, subject=f"task {task_id}", before={"status": task.status}, after={"status": status}
        )
        task = apply_end(task, status, book.at)
        rows.update_task(posting.write, task)
        posting.publish_change(account_id)
        return TaskChange(task, replayed=False)

    return await posting.post(
        [account_id],
        decide,
        reads=[rows.read_tasks([(account_id, task_id)])],
        holds=[rows.read_budgets([(account_id, task_id)], only_open=True)],
    )
