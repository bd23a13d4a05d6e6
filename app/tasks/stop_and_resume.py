"""A task that was stopped goes on from where it stopped: what was charged is not charged again, its ids see to that."""

from collections.abc import Collection
from dataclasses import dataclass

from app.audit_log.records import AuditContext
from app.credits import check_amount, check_key
from app.errors import BudgetReached, InsufficientCredits, InvalidInput, TaskNotFound, TaskNotStopped
from app.ledger import idempotency, posting
from app.ledger.posting import Posting
from app.ledger.rules import holds
from app.ledger.rules.account_state import AccountState
from app.tasks import rows, task_accounts
from app.tasks.budgets import own_budget
from app.tasks.lifecycle import TaskChange
from app.tasks.rules import (
    DEFAULT_BUDGET_TIMEOUT_SECONDS,
    TaskState,
    TaskStatus,
    apply_resume,
    check_can_start,
    check_no_debt,
    check_not_ended,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeTaskRequest:
    """Which task is to go on. `add_budget`: credits to put into its envelope, making one if it has none.

    With a `key` the same request again is answered, and adds nothing; without one a task that runs is refused.
    """

    task_id: str
    add_budget: int | None = None
    idempotency_key: str | None = None
    actor: str
    owner_ids: Collection[str] | None = None
    """Whose task it may be; None: anybody's."""
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
    """Let a stopped task run again.

    Raises: InvalidInput; TaskNotFound; TaskEnded: what ended stays so; TaskNotStopped: it runs; InsufficientCredits:
    nothing is available, less than is to be added, or the account owes; BudgetReached: it has a budget, nothing of it
    is left, and none is added; IdempotencyConflict.
    """
    request.check()
    account_id = await task_accounts.find_account(request.task_id)
    if account_id is None:
        raise TaskNotFound(task_id=request.task_id)

    async def decide(posting: Posting) -> TaskChange:
        book = posting.accounts[account_id]
        found = posting.rows[0]
        if not found or (request.owner_ids is not None and book.owner_id not in request.owner_ids):
            raise TaskNotFound(task_id=request.task_id)
        task = rows.task_from_row(found[0])
        if request.idempotency_key is not None:
            if (
                await idempotency.find_result(posting, book, request.idempotency_key, request.request_hash())
                is not None
            ):
                return TaskChange(task, replayed=True)
            idempotency.save_result(
                posting,
                book,
                request.idempotency_key,
                kind="resumeTask",
                request_hash=request.request_hash(),
                result={},
            )
        check_not_ended(task)
        if task.status is not TaskStatus.STOPPED:
            raise TaskNotStopped(task_id=task.task_id, status=task.status)
        before = {"status": task.status, "stopReason": task.stop_reason}
        task = _funded(book, apply_resume(task), request)
        rows.update_task(posting.write, task)
        after = {"status": task.status, "addBudget": request.add_budget}
        posting.record_audit(request.audit, book, subject=f"task {task.task_id}", before=before, after=after)
        posting.signal_tasks(account_id)
        return TaskChange(task, replayed=False)

    key = (account_id, request.task_id)
    return await posting.post([account_id], decide, reads=[rows.read_tasks([key])], holds=[rows.read_budgets([key])])


def _funded(book: AccountState, task: TaskState, request: ResumeTaskRequest) -> TaskState:
    """The task with something to be paid from."""
    check_no_debt(book)
    envelope = book.holds.get(task.budget_hold) if task.budget_hold is not None else None
    own = own_budget(book, task)
    if request.add_budget is not None:
        if envelope is not None and own is None:
            raise InvalidInput.at(
                "addBudget",
                f"task {task.task_id!r} draws on the budget of task {envelope.task_id!r}: add to that one",
            )
        try:
            if own is not None:
                holds.add_to_budget(book, own, request.add_budget)
                return task
            made = holds.place_hold(
                book,
                request.add_budget,
                task_id=task.task_id,
                block_run_id=None,
                timeout_seconds=DEFAULT_BUDGET_TIMEOUT_SECONDS,
                actor=request.actor,
            )
        except InsufficientCredits as refusal:
            refusal.balance = book.balance()
            raise
        return task._replace(budget_hold=made.number)
    if envelope is None:
        check_can_start(book)
    elif not envelope.is_open or envelope.remaining <= envelope.closing_reserve:
        raise BudgetReached(task_id=envelope.task_id, required_credits=1, remaining_credits=0)
    else:
        holds.renew_timeout(book, envelope)
    return task
