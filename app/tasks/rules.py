"""Rules of tasks: which tasks can be charged, which can start or resume, how requests are hashed. They do no I/O."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

from app.audit_log.records import AuditContext
from app.credits import MAX_CREDITS
from app.errors import (
    BalanceLimitReached,
    BudgetReached,
    InvalidInput,
    Problem,
    TaskEnded,
    TaskStopped,
)
from app.ledger.rules.account_state import AccountState, Hold
from app.ledger.rules.debt import insufficient_credits
from app.ledger.rules.holds import MAX_TIMEOUT_SECONDS
from app.pricing.measurements import Measurements
from app.pricing.outcomes import BlockRunOutcome


class TaskStatus(StrEnum):
    """The status of a task. A RUNNING or STOPPED task is open. The other statuses are final."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    STOPPED = "STOPPED"


class StopReason(StrEnum):
    """The reason why a task is STOPPED."""

    OUT_OF_CREDITS = "OUT_OF_CREDITS"
    BUDGET_REACHED = "BUDGET_REACHED"
    BUDGET_EXPIRED = "BUDGET_EXPIRED"


class SignalKind(StrEnum):
    """An instruction to executors: start no more block runs, or continue."""

    STOP = "STOP"
    RESUME = "RESUME"


class TaskTrigger(StrEnum):
    """What started a task."""

    MANUAL = "MANUAL"
    SCHEDULED = "SCHEDULED"
    WEBHOOK = "WEBHOOK"


UNATTENDED_TRIGGERS: Final = frozenset({TaskTrigger.SCHEDULED, TaskTrigger.WEBHOOK})
"""Nobody waits for the response when such a task is started. So a start that is refused for lack of credits is
recorded, and the owner is notified."""

DEFAULT_BUDGET_TIMEOUT_SECONDS: Final = 3600
"""A budget expires after this time without a charge, unless its task was started with another timeout."""

ENDED_STATUSES = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class TaskState(NamedTuple):
    """A task at one version. Amounts are credits.

    `required` is the cost of the block run that stopped the task, and `shortfall` is how many credits were missing for
    it at that time. Both are None if no block run stopped the task. `budget_hold` is the number of the budget that pays
    for the task, its own or an ancestor's; it is None if the account pays.
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
    def key(self) -> tuple[int, str]:
        return self.account_id, self.task_id

    @property
    def total(self) -> int:
        """Return the charged minus the reversed credits of this task, without its children."""
        return self.charged - self.reversed


class BlockRunState(NamedTuple):
    """A recorded block run.

    `position` counts the block runs of its task from 1. `entry_seq` is the CHARGE entry, or None if the cost was 0.
    `outcome_seq` is the entry that returned credits because of the outcome.
    """

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
    rate_card_version: int
    rule: Mapping[str, Any] | None
    entry_seq: int | None
    outcome: BlockRunOutcome | None = None
    finished_at: datetime | None = None
    outcome_seq: int | None = None


class SkippedStartState(NamedTuple):
    """A task with one of UNATTENDED_TRIGGERS that did not start. No task exists with this id.

    `reason` is OUT_OF_CREDITS or IN_DEBT.
    """

    account_id: int
    task_id: str
    agent_id: str
    reason: str
    skipped_at: datetime


class ChargeRequest(NamedTuple):  # creating a frozen dataclass takes nine times as long
    """The request that an executor sends before it runs a block.

    It contains no amount: the server prices the block run. `closing` marks work that ends the task. Such work may use
    the closing reserve of a budget, even if the task is stopped.
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
        """Return 16 bytes over everything that describes the block run. The caller's identity is not included."""
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
    """Return measurements in the form that is used in a request hash."""
    if measurements is None:
        return None
    return [measurements.seconds, measurements.items, measurements.bytes, measurements.usd]


def request_hash(*parts: Any) -> bytes:
    """Return 16 bytes of SHA-256 over the parts of a request. The order of keys in objects does not matter."""
    canonical = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS, default=_normalised)
    return hashlib.sha256(canonical).digest()[:16]


def _normalised(value: object) -> str:
    """Return the same text for equal decimals: 1.0, 1.00 and 1 are the same measurement."""
    return format(value.normalize(), "f") if hasattr(value, "normalize") else str(value)


def check_budget(budget: int | None, *, timeout_seconds: int | None, closing_reserve: int | None) -> None:
    """Raises: InvalidInput: lists every problem."""
    problems = []
    if budget is not None and not 1 <= budget <= MAX_CREDITS:
        problems.append(Problem("budget", f"must lie between 1 and {MAX_CREDITS:,} credits"))
    if timeout_seconds is not None and not 1 <= timeout_seconds <= MAX_TIMEOUT_SECONDS:
        problems.append(Problem("budgetTimeoutSeconds", f"must lie between 1 and {MAX_TIMEOUT_SECONDS:,} (24 hours)"))
    if closing_reserve is not None and not 0 <= closing_reserve <= (budget or 0):
        problems.append(Problem("closingReserve", "must lie between 0 and the budget"))
    if budget is None and timeout_seconds is not None:
        problems.append(Problem("budgetTimeoutSeconds", "applies only to a budget: send a budget too"))
    if problems:
        raise InvalidInput(problems=problems)


def check_not_ended(task: TaskState) -> None:
    """Raises: TaskEnded: the task cannot be charged any more, not even at cost 0."""
    if task.status in ENDED_STATUSES:
        raise TaskEnded(task_id=task.task_id, status=task.status)


def check_not_stopped(task: TaskState) -> None:
    """Raises: TaskStopped: the task can only be charged at cost 0 until it is resumed."""
    if task.status is TaskStatus.STOPPED:
        raise TaskStopped(task_id=task.task_id, stop_reason=task.stop_reason or StopReason.OUT_OF_CREDITS)


def check_can_start(account: AccountState, required: int) -> None:
    """Check that `required` credits are available and the account has no debt. Otherwise no task starts or resumes.

    If a budget pays for the task, `required` is 0 and only debt is checked. Raises: InsufficientCredits.
    """
    if account.owed or account.available < required:
        raise insufficient_credits(account, required)


def check_budget_has_credits(budget: Hold | None, task: TaskState, required: int) -> Hold:
    """Return the open budget on which `task` draws.

    Raises: TaskStopped: the budget has expired, or ended with its task; BudgetReached: fewer credits than `required`
    are left outside the closing reserve.
    """
    if budget is None or not budget.is_open:
        raise TaskStopped(task_id=task.task_id, stop_reason=StopReason.BUDGET_EXPIRED)
    if (left := budget.remaining - budget.closing_reserve) < required:
        raise BudgetReached(task_id=budget.task_id, required_credits=required, remaining_credits=left)
    return budget


def check_cost_limit(task: TaskState, credits: int) -> None:
    """Raises: BalanceLimitReached: with `credits` more, the charges of the task would exceed 2^53 - 1."""
    if task.charged + credits > MAX_CREDITS:
        raise BalanceLimitReached(figure="The cost of this task")


def apply_charge(task: TaskState, cost: int) -> TaskState:
    """Return the task after one more block run that costs `cost` credits."""
    return task._replace(steps=task.steps + 1, charged=task.charged + cost, version=task.version + 1)


def apply_reversal(task: TaskState, credits: int) -> TaskState:
    """Return the task after `credits` of its cost were reversed."""
    return task._replace(reversed=task.reversed + credits, version=task.version + 1)


def apply_stop(task: TaskState, reason: StopReason, *, required: int, shortfall: int) -> TaskState:
    """Return the task after it was stopped by a block run of `required` credits that could not be paid."""
    return task._replace(
        status=TaskStatus.STOPPED,
        stop_reason=reason,
        required=required,
        shortfall=shortfall,
        version=task.version + 1,
    )


def apply_resume(task: TaskState) -> TaskState:
    """Return the task after it was resumed."""
    return task._replace(
        status=TaskStatus.RUNNING, stop_reason=None, required=None, shortfall=None, version=task.version + 1
    )


def bump_task_version(task: TaskState) -> TaskState:
    """Return the task with the next version, after only its holds have changed."""
    return task._replace(version=task.version + 1)


def apply_end(task: TaskState, status: TaskStatus, at: datetime) -> TaskState:
    """Return the task after it has ended. It never ends before it started, even if the clock has stepped back."""
    ended_at = max(at, task.started_at)
    return task._replace(status=status, stop_reason=None, ended_at=ended_at, version=task.version + 1)
