"""Pure rules of tasks: which take charges, who may start and go on, what a block run's request is."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

from app.audit_log.records import AuditContext
from app.credits import MAX_CREDITS
from app.errors import BudgetReached, InsufficientCredits, InvalidInput, Problem, TaskEnded, TaskStopped
from app.ledger.rules.account_state import AccountState, Hold
from app.ledger.rules.holds import MAX_TIMEOUT_SECONDS
from app.pricing.measurements import Measurements
from app.pricing.outcomes import BlockRunOutcome


class TaskStatus(StrEnum):
    """Where a task stands. RUNNING and STOPPED are open; the others are for good."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    STOPPED = "STOPPED"


class StopReason(StrEnum):
    """Why a task is STOPPED."""

    OUT_OF_CREDITS = "OUT_OF_CREDITS"
    BUDGET_REACHED = "BUDGET_REACHED"
    BUDGET_EXPIRED = "BUDGET_EXPIRED"


class SignalKind(StrEnum):
    """What executors are told: start no more block runs; or go on."""

    STOP = "STOP"
    RESUME = "RESUME"


class TaskTrigger(StrEnum):
    """What started a task."""

    MANUAL = "MANUAL"
    SCHEDULED = "SCHEDULED"
    WEBHOOK = "WEBHOOK"


DEFAULT_BUDGET_TIMEOUT_SECONDS: Final = 3600
"""After this long without a charge a budget lapses, unless its task was started with another timeout."""

ENDED_STATUSES = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class TaskState(NamedTuple):
    """A task at one version.

    `required` and `lacked`: what the refused block run cost, and how much of it was missing; None where none was.
    `envelope`: the number of the hold that pays for it, its own or that of a task around it; None: the account pays.
    """

    account_id: int
    task_id: str
    agent_id: str
    status: TaskStatus
    stop_reason: StopReason | None
    trigger: TaskTrigger
    parent_task_id: str | None
    started_at: datetime
    ended_at: datetime | None
    steps: int
    charged: int
    reversed: int
    shortfall: int | None
    required: int | None
    budget_hold: int | None
    version: int

    @property
    def total(self) -> int:
        """Charged minus reversed, of this task itself."""
        return self.charged - self.reversed


class BlockRunState(NamedTuple):
    """A block run as it is recorded."""

    account_id: int
    block_run_id: str
    task_id: str
    position: int
    block: str
    model: str | None
    cost: int
    reversed: int
    uses_own_key: bool
    charged_at: datetime
    price_version: int
    rule: Mapping[str, Any] | None
    entry_seq: int | None
    outcome: BlockRunOutcome | None = None
    finished_at: datetime | None = None
    outcome_seq: int | None = None
    """The entry by which its outcome gave something back."""


class ChargeRequest(NamedTuple):  # as all that is made for each charge: a frozen dataclass takes nine times as long
    """What an executor sends before it runs a block. No amount: the server prices.

    `closing`: work with which a task comes to its end; it may use the budget's landing reserve, stopped or not.
    """

    task_id: str
    block_run_id: str
    block: str
    actor: str
    settings: Mapping[str, Any] | None = None
    uses_own_key: bool = False
    measurements: Measurements | None = None
    closing: bool = False
    request_id: str | None = None
    audit: AuditContext | None = None

    def request_hash(self) -> bytes:
        """16 bytes that are the same for the same request: everything that says what was run, not who sent it."""
        return request_hash(
            self.task_id,
            self.block_run_id,
            self.block,
            self.settings or {},
            self.uses_own_key,
            measurement_values(self.measurements),
            *(["closing"] if self.closing else []),
        )


def measurement_values(measurements: Measurements | None) -> list[Any] | None:
    """Measurements as a part of a fingerprint."""
    if measurements is None:
        return None
    return [measurements.seconds, measurements.items, measurements.bytes, measurements.usd]


def request_hash(*parts: Any) -> bytes:
    """16 bytes of SHA-256 over the parts of a request, whatever the order of keys in them."""
    canonical = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS, default=_normalised)
    return hashlib.sha256(canonical).digest()[:16]


def _normalised(value: object) -> str:
    """A decimal in one form: 1.0, 1.00 and 1 are the same measurement."""
    return format(value.normalize(), "f") if hasattr(value, "normalize") else str(value)


def check_budget(budget: int | None, *, timeout_seconds: int | None, closing_reserve: int | None) -> None:
    """Raises: InvalidInput, naming every problem."""
    problems = []
    if budget is not None and not 1 <= budget <= MAX_CREDITS:
        problems.append(Problem("budget", f"must lie between 1 and {MAX_CREDITS:,} credits"))
    if timeout_seconds is not None and not 1 <= timeout_seconds <= MAX_TIMEOUT_SECONDS:
        problems.append(Problem("budgetTimeoutSeconds", f"must lie between 1 and {MAX_TIMEOUT_SECONDS:,} (24 hours)"))
    if closing_reserve is not None and not 0 <= closing_reserve <= (budget or 0):
        problems.append(Problem("closingReserve", "must be a part of the budget: between 0 and all of it"))
    if budget is None and timeout_seconds is not None:
        problems.append(Problem("budgetTimeoutSeconds", "says when a budget lapses: send a budget too"))
    if problems:
        raise InvalidInput(problems=problems)


def check_not_ended(task: TaskState) -> None:
    """Raises: TaskEnded: the task takes no charge any more, whatever it costs."""
    if task.status in ENDED_STATUSES:
        raise TaskEnded(task_id=task.task_id, status=task.status)


def check_not_stopped(task: TaskState) -> None:
    """Raises: TaskStopped: the task takes no paid charge until it is resumed."""
    if task.status is TaskStatus.STOPPED:
        raise TaskStopped(task_id=task.task_id, stop_reason=task.stop_reason or StopReason.OUT_OF_CREDITS)


def check_can_start(book: AccountState) -> None:
    """Raises: InsufficientCredits: with nothing available, or with debt, nothing starts or goes on (DESIGN 5)."""
    check_no_debt(book)
    if book.available == 0:
        raise InsufficientCredits(required_credits=1, available_credits=0, balance=book.balance())


def check_no_debt(book: AccountState) -> None:
    """Raises: InsufficientCredits: the account owes; whatever frees credits pays that first."""
    if book.owed:
        raise InsufficientCredits(required_credits=book.owed + 1, available_credits=0, balance=book.balance())


def check_budget_has_credits(envelope: Hold | None, task: TaskState) -> Hold:
    """The open envelope that `task` draws on, with something left in it.

    Raises: TaskStopped: it has lapsed, or ended with the task that it was for; BudgetReached: nothing is left.
    """
    if envelope is None or not envelope.is_open:
        raise TaskStopped(task_id=task.task_id, stop_reason=StopReason.BUDGET_EXPIRED)
    if envelope.remaining <= envelope.closing_reserve:
        raise BudgetReached(task_id=envelope.task_id, required_credits=1, remaining_credits=0)
    return envelope


def apply_charge(task: TaskState, cost: int) -> TaskState:
    """The task after one more block run."""
    return task._replace(steps=task.steps + 1, charged=task.charged + cost, version=task.version + 1)


def apply_stop(task: TaskState, reason: StopReason, *, required: int, shortfall: int) -> TaskState:
    """The task after a block run that could not be paid."""
    return task._replace(
        status=TaskStatus.STOPPED, stop_reason=reason, required=required, shortfall=shortfall, version=task.version + 1
    )


def apply_resume(task: TaskState) -> TaskState:
    """The task after its resumption: as it was, and running."""
    return task._replace(
        status=TaskStatus.RUNNING, stop_reason=None, required=None, shortfall=None, version=task.version + 1
    )


def bump_task_version(task: TaskState) -> TaskState:
    """The task after something that changes what it holds, and nothing else."""
    return task._replace(version=task.version + 1)


def apply_end(task: TaskState, status: TaskStatus, at: datetime) -> TaskState:
    """The task after its end."""
    return task._replace(status=status, stop_reason=None, ended_at=at, version=task.version + 1)
