"""Tasks begin and end. Each is decided under the account's lock and identified by the platform's own task id.

A task may begin with a budget: an envelope that pays for it and returns what is left when it ends. A scheduled one that
cannot begin for want of credits is recorded as skipped. Tasks that were stopped go on in `resuming`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from app.errors import IdempotencyConflict, InsufficientCredits, TaskEnded, TaskNotFound
from app.ledger import accounts, claims, notices, posting, statements
from app.ledger.book import Book, Hold, HoldStatus
from app.ledger.notices import NoticeKind
from app.ledger.operations import fingerprint
from app.ledger.posting import Posting
from app.sets import RowsLost
from app.tasks import owners, rows
from app.tasks.paying import own_envelope
from app.tasks.rules import (
    BUDGET_TIMEOUT_SECONDS,
    ENDED,
    Status,
    StopReason,
    TaskState,
    Trigger,
    check_budget,
    check_has_left,
    check_may_start,
    check_open,
    check_owes_nothing,
    check_running,
    ended,
)
from app.trail.records import Act


@dataclass(frozen=True, slots=True)
class Changed:
    """A task after the call; `replayed`: the same call had done it before."""

    task: TaskState
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """What a platform's backend says when an agent is to run."""

    task_id: str
    owner_id: str
    agent_id: str
    trigger: Trigger = Trigger.MANUAL
    parent_task_id: str | None = None
    budget: int | None = None
    budget_timeout_seconds: int | None = None
    landing_reserve: int | None = None
    actor: str
    act: Act | None = None

    def check(self) -> None:
        """Raises: InvalidInput, naming every problem."""
        check_budget(self.budget, timeout_seconds=self.budget_timeout_seconds, landing_reserve=self.landing_reserve)

    def fingerprint(self) -> bytes:
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
            "landingReserve": self.landing_reserve,
        }
        return fingerprint("startTask", said | {name: value for name, value in budget.items() if value is not None})


async def start(request: StartRequest) -> Changed:
    """Open a task; the same task again is the same task.

    Raises: InvalidInput; InsufficientCredits: nothing is available, less than the budget, or the account owes;
    BudgetReached: of the parent; IdempotencyConflict: the task id was used for another task; TaskNotFound: there is no
    such parent in this account; TaskEnded, TaskStopped: of the parent.
    """
    request.check()
    account_id = await accounts.find(request.owner_id)
    if (taken := await owners.find(request.task_id)) is not None and taken != account_id:
        raise IdempotencyConflict(key=request.task_id)
    if account_id is None:
        if request.trigger is not Trigger.SCHEDULED:
            # An owner without an account has nothing available, and a refusal writes nothing, no account either.
            figures = await statements.nothing(request.owner_id)
            raise InsufficientCredits(required_credits=request.budget or 1, available_credits=0, balance=figures)
        account_id = await accounts.ensure(request.owner_id)  # what was skipped is written down
    names = [request.task_id] + ([request.parent_task_id] if request.parent_task_id else [])
    keys = [(account_id, name) for name in names]

    async def decide(posting: Posting) -> Changed | InsufficientCredits:
        book = posting.books[account_id]
        found = {row[1]: (rows.task(row), bytes(row[rows.TASK_WIDTH])) for row in posting.rows[0]}
        if request.task_id in found:
            task, print_ = found[request.task_id]
            if print_ != request.fingerprint():
                raise IdempotencyConflict(key=request.task_id)
            return Changed(task, replayed=True)
        try:
            envelope = _envelope(book, request, _parent(request, found))
        except InsufficientCredits as refusal:
            refusal.balance = book.figures()
            if request.trigger is not Trigger.SCHEDULED:
                raise
            _skip(posting, book, request, refusal)
            return refusal
        task = TaskState(
            account_id,
            request.task_id,
            request.agent_id,
            Status.RUNNING,
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
        rows.add_task(posting.write, task, fingerprint=request.fingerprint(), actor=request.actor)
        after = {"status": task.status, "agentId": task.agent_id, "trigger": task.trigger, "budget": request.budget}
        posting.leave(request.act, book, subject=f"task {task.task_id}", before=None, after=after)
        posting.announce(account_id)
        return Changed(task, replayed=False)

    try:
        outcome = await posting.post(
            [account_id], decide, reads=[rows.read_tasks(keys)], holds=[rows.read_envelopes(keys, only_open=True)]
        )
    except RowsLost:
        # Another account's task took the id between our look and our write.
        if await owners.find(request.task_id) != account_id:
            raise IdempotencyConflict(key=request.task_id) from None
        raise
    if isinstance(outcome, InsufficientCredits):
        raise outcome
    owners.remember(request.task_id, account_id)
    return outcome


def _parent(request: StartRequest, found: Mapping[str, tuple[TaskState, bytes]]) -> TaskState | None:
    """The running task around the new one. Raises: TaskNotFound, TaskEnded, TaskStopped."""
    if request.parent_task_id is None:
        return None
    if request.parent_task_id not in found:
        raise TaskNotFound(task_id=request.parent_task_id)
    parent, _ = found[request.parent_task_id]
    check_open(parent)
    check_running(parent)
    return parent


def _envelope(book: Book, request: StartRequest, parent: TaskState | None) -> int | None:
    """The number of the envelope that will pay: its own, taken from its parent's if that has one, or its parent's."""
    around: Hold | None = None
    if parent is not None and parent.envelope is not None:
        check_owes_nothing(book)
        around = check_has_left(book.holds.get(parent.envelope), parent)
    else:
        check_may_start(book)
    if request.budget is None:
        return around.number if around is not None else None
    return claims.place(
        book,
        request.budget,
        task_id=request.task_id,
        block_run_id=None,
        timeout_seconds=request.budget_timeout_seconds or BUDGET_TIMEOUT_SECONDS,
        within=around,
        reserve=request.landing_reserve or 0,
        fingerprint=request.fingerprint(),
        actor=request.actor,
    ).number


def _skip(posting: Posting, book: Book, request: StartRequest, refusal: InsufficientCredits) -> None:
    """Write down that a tick was skipped, and tell it once per agent until the account is replenished."""
    reason = "OWING" if book.owed else StopReason.OUT_OF_CREDITS
    rows.add_skipped_tick(
        posting.write,
        book.account_id,
        task_id=request.task_id,
        agent_id=request.agent_id,
        reason=reason,
        at=book.at,
    )
    posting.leave(request.act, book, subject=f"task {request.task_id}", before=None, after={"skipped": reason})
    notices.give(
        book,
        posting.write,
        NoticeKind.SCHEDULE_SKIPPED,
        f"A scheduled run of agent {request.agent_id!r} did not start: {refusal.message}",
        agent_id=request.agent_id,
    )
    posting.announce(book.account_id)


async def finish(task_id: str, status: Status, *, act: Act | None = None) -> Changed:
    """End a task as COMPLETED or FAILED; a stopped one too, which needs nothing more. The same end again is a replay.

    Raises: TaskNotFound; TaskEnded: it has ended otherwise.
    """
    if status not in (Status.COMPLETED, Status.FAILED):
        raise ValueError(f"a task is not finished as {status}")
    return await _end(task_id, status, act=act)


async def cancel(task_id: str, *, owner_ids: Collection[str] | None = None, act: Act | None = None) -> Changed:
    """End a task as CANCELLED, for good: what was cancelled stays cancelled.

    `owner_ids`: whose task it may be; None: anybody's. Raises: TaskNotFound: another's, too; TaskEnded.
    """
    return await _end(task_id, Status.CANCELLED, owner_ids=owner_ids, act=act)


async def _end(task_id: str, status: Status, *, owner_ids: Collection[str] | None = None, act: Act | None) -> Changed:
    account_id = await owners.find(task_id)
    if account_id is None:
        raise TaskNotFound(task_id=task_id)

    async def decide(posting: Posting) -> Changed:
        book, found = posting.books[account_id], posting.rows[0]
        if not found or (owner_ids is not None and book.owner_id not in owner_ids):
            raise TaskNotFound(task_id=task_id)
        task = rows.task(found[0])
        if task.status in ENDED:
            if task.status is not status:
                raise TaskEnded(task_id=task_id, status=task.status)
            return Changed(task, replayed=True)
        envelope = own_envelope(book, task)
        if envelope is not None and envelope.open:
            claims.release(book, envelope, HoldStatus.CAPTURED)
        posting.leave(act, book, subject=f"task {task_id}", before={"status": task.status}, after={"status": status})
        task = ended(task, status, book.at)
        rows.change_task(posting.write, task)
        posting.announce(account_id)
        return Changed(task, replayed=False)

    return await posting.post(
        [account_id],
        decide,
        reads=[rows.read_tasks([(account_id, task_id)])],
        holds=[rows.read_envelopes([(account_id, task_id)], only_open=True)],
    )
