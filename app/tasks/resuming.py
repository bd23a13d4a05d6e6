"""A task that was stopped goes on from where it stopped: what was charged is not charged again, its ids see to that."""

from collections.abc import Collection
from dataclasses import dataclass

from app.credits import check_amount, check_key
from app.errors import BudgetReached, InsufficientCredits, InvalidInput, TaskNotFound, TaskNotStopped
from app.ledger import claims, operations, posting
from app.ledger.book import Book
from app.ledger.posting import Posting
from app.tasks import owners, rows
from app.tasks.lifecycle import Changed
from app.tasks.paying import own_envelope
from app.tasks.rules import (
    BUDGET_TIMEOUT_SECONDS,
    Status,
    TaskState,
    check_may_start,
    check_open,
    check_owes_nothing,
    resumed,
)
from app.trail.records import Act


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequest:
    """Which task is to go on. `add_budget`: credits to put into its envelope, making one if it has none.

    With a `key` the same request again is answered, and adds nothing; without one a task that runs is refused.
    """

    task_id: str
    add_budget: int | None = None
    key: str | None = None
    actor: str
    owner_ids: Collection[str] | None = None
    """Whose task it may be; None: anybody's."""
    act: Act | None = None

    def check(self) -> None:
        """Raises: InvalidInput."""
        if self.add_budget is not None:
            check_amount(self.add_budget, path="addBudget")
        if self.key is not None:
            check_key(self.key, path="idempotencyKey")

    def fingerprint(self) -> bytes:
        return operations.fingerprint("resumeTask", {"taskId": self.task_id, "addBudget": self.add_budget})


async def resume(request: ResumeRequest) -> Changed:
    """Let a stopped task run again.

    Raises: InvalidInput; TaskNotFound; TaskEnded: what ended stays so; TaskNotStopped: it runs; InsufficientCredits:
    nothing is available, less than is to be added, or the account owes; BudgetReached: it has a budget, nothing of it
    is left, and none is added; IdempotencyConflict.
    """
    request.check()
    account_id = await owners.find(request.task_id)
    if account_id is None:
        raise TaskNotFound(task_id=request.task_id)

    async def decide(posting: Posting) -> Changed:
        book = posting.books[account_id]
        found = posting.rows[0]
        if not found or (request.owner_ids is not None and book.owner_id not in request.owner_ids):
            raise TaskNotFound(task_id=request.task_id)
        task = rows.task(found[0])
        if request.key is not None:
            if await operations.replayed(posting, book, request.key, request.fingerprint()) is not None:
                return Changed(task, replayed=True)
            operations.remember(posting, book, request.key, kind="resumeTask", print_=request.fingerprint(), result={})
        check_open(task)
        if task.status is not Status.STOPPED:
            raise TaskNotStopped(task_id=task.task_id, status=task.status)
        before = {"status": task.status, "stopReason": task.stop_reason}
        task = _funded(book, resumed(task), request)
        rows.change_task(posting.write, task)
        after = {"status": task.status, "addBudget": request.add_budget}
        posting.leave(request.act, book, subject=f"task {task.task_id}", before=before, after=after)
        posting.signal(account_id)
        return Changed(task, replayed=False)

    key = (account_id, request.task_id)
    return await posting.post([account_id], decide, reads=[rows.read_tasks([key])], holds=[rows.read_envelopes([key])])


def _funded(book: Book, task: TaskState, request: ResumeRequest) -> TaskState:
    """The task with something to be paid from."""
    check_owes_nothing(book)
    envelope = book.holds.get(task.envelope) if task.envelope is not None else None
    own = own_envelope(book, task)
    if request.add_budget is not None:
        if envelope is not None and own is None:
            raise InvalidInput.at(
                "addBudget",
                f"task {task.task_id!r} draws on the budget of task {envelope.task_id!r}: add to that one",
            )
        try:
            if own is not None:
                claims.add(book, own, request.add_budget)
                return task
            made = claims.place(
                book,
                request.add_budget,
                task_id=task.task_id,
                block_run_id=None,
                timeout_seconds=BUDGET_TIMEOUT_SECONDS,
                actor=request.actor,
            )
        except InsufficientCredits as refusal:
            refusal.balance = book.figures()
            raise
        return task._replace(envelope=made.number)
    if envelope is None:
        check_may_start(book)
    elif not envelope.open or envelope.remaining <= envelope.reserve:
        raise BudgetReached(task_id=envelope.task_id, required_credits=1, remaining_credits=0)
    else:
        claims.renew(book, envelope)
    return task
