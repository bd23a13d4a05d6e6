"""Tasks begin and end. Each is decided under the account's lock and identified by the platform's own task id."""

from dataclasses import dataclass

from app.errors import IdempotencyConflict, InsufficientCredits, TaskEnded, TaskNotFound
from app.ledger import accounts, posting, statements
from app.ledger.operations import fingerprint
from app.ledger.posting import Posting
from app.sets import RowsLost
from app.tasks import owners, rows
from app.tasks.rules import ENDED, Status, TaskState, Trigger, check_may_start, check_open, check_running, ended


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
    actor: str

    def fingerprint(self) -> bytes:
        return fingerprint(
            "startTask",
            {
                "taskId": self.task_id,
                "ownerId": self.owner_id,
                "agentId": self.agent_id,
                "trigger": self.trigger.value,
                "parentTaskId": self.parent_task_id,
            },
        )


async def start(request: StartRequest) -> Changed:
    """Open a task; the same task again is the same task.

    Raises: InsufficientCredits: nothing is available, or the account owes; IdempotencyConflict: the task id was used
    for another task; TaskNotFound: there is no such parent in this account; TaskEnded, TaskStopped: of the parent.
    """
    account_id = await accounts.find(request.owner_id)
    if (taken := await owners.find(request.task_id)) is not None and taken != account_id:
        raise IdempotencyConflict(key=request.task_id)
    if account_id is None:
        # An owner without an account has nothing available, and a refusal writes nothing, no account either.
        figures = await statements.nothing(request.owner_id)
        raise InsufficientCredits(required_credits=1, available_credits=0, balance=figures)
    names = [request.task_id] + ([request.parent_task_id] if request.parent_task_id else [])

    async def decide(posting: Posting) -> Changed:
        book = posting.books[account_id]
        found = {row[1]: (rows.task(row), bytes(row[14])) for row in posting.rows[0]}
        if request.task_id in found:
            task, print_ = found[request.task_id]
            if print_ != request.fingerprint():
                raise IdempotencyConflict(key=request.task_id)
            return Changed(task, replayed=True)
        if request.parent_task_id is not None:
            if request.parent_task_id not in found:
                raise TaskNotFound(task_id=request.parent_task_id)
            parent, _ = found[request.parent_task_id]
            check_open(parent)
            check_running(parent)
        check_may_start(book)
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
            1,
        )
        rows.add_task(posting.write, task, fingerprint=request.fingerprint(), actor=request.actor)
        posting.announce(account_id)
        return Changed(task, replayed=False)

    try:
        changed = await posting.post(
            [account_id], decide, reads=[rows.read_tasks([(account_id, name) for name in names])]
        )
    except RowsLost:
        # Another account's task took the id between our look and our write.
        if await owners.find(request.task_id) != account_id:
            raise IdempotencyConflict(key=request.task_id) from None
        raise
    owners.remember(request.task_id, account_id)
    return changed


async def finish(task_id: str, status: Status) -> Changed:
    """End a task as COMPLETED or FAILED; a stopped one too, which needs nothing more. The same end again is a replay.

    Raises: TaskNotFound; TaskEnded: it has ended otherwise.
    """
    if status not in (Status.COMPLETED, Status.FAILED):
        raise ValueError(f"a task is not finished as {status}")
    return await _end(task_id, status)


async def cancel(task_id: str) -> Changed:
    """End a task as CANCELLED, for good: what was cancelled stays cancelled. Raises: TaskNotFound, TaskEnded."""
    return await _end(task_id, Status.CANCELLED)


async def _end(task_id: str, status: Status) -> Changed:
    account_id = await owners.find(task_id)
    if account_id is None:
        raise TaskNotFound(task_id=task_id)

    async def decide(posting: Posting) -> Changed:
        found = posting.rows[0]
        if not found:
            raise TaskNotFound(task_id=task_id)
        task = rows.task(found[0])
        if task.status in ENDED:
            if task.status is not status:
                raise TaskEnded(task_id=task_id, status=task.status)
            return Changed(task, replayed=True)
        task = ended(task, status, posting.books[account_id].at)
        rows.change_task(posting.write, task)
        posting.announce(account_id)
        return Changed(task, replayed=False)

    return await posting.post([account_id], decide, reads=[rows.read_tasks([(account_id, task_id)])])
