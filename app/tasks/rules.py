"""Pure rules of tasks: which take charges, who may start, what a block run's request is."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from app.errors import InsufficientCredits, TaskEnded, TaskStopped
from app.ledger.book import Book
from app.pricing.measurements import Measurements


class Status(StrEnum):
    """Where a task stands. RUNNING and STOPPED are open; the others are for good."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    STOPPED = "STOPPED"


class StopReason(StrEnum):
    """Why a task is STOPPED."""

    OUT_OF_CREDITS = "OUT_OF_CREDITS"


class Trigger(StrEnum):
    """What started a task."""

    MANUAL = "MANUAL"
    SCHEDULED = "SCHEDULED"
    WEBHOOK = "WEBHOOK"


ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class TaskState(NamedTuple):
    """A task at one version."""

    account_id: int
    task_id: str
    agent_id: str
    status: Status
    stop_reason: StopReason | None
    trigger: Trigger
    parent_task_id: str | None
    started_at: datetime
    ended_at: datetime | None
    steps: int
    charged: int
    reversed: int
    lacked: int | None
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
    at: datetime
    price_version: int
    rule: Mapping[str, Any] | None
    entry_seq: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeRequest:
    """What an executor sends before it runs a block. No amount: the server prices."""

    task_id: str
    block_run_id: str
    block: str
    settings: Mapping[str, Any] | None = None
    uses_own_key: bool = False
    measurements: Measurements | None = None
    actor: str
    request_id: str | None = None

    def fingerprint(self) -> bytes:
        """16 bytes that are the same for the same request: everything that says what was run, not who sent it."""
        measured = self.measurements
        canonical = orjson.dumps(
            [
                self.task_id,
                self.block_run_id,
                self.block,
                self.settings or {},
                self.uses_own_key,
                [measured.seconds, measured.items, measured.bytes, measured.usd] if measured else None,
            ],
            option=orjson.OPT_SORT_KEYS,
            default=_normalised,
        )
        return hashlib.sha256(canonical).digest()[:16]


def _normalised(value: object) -> str:
    """A decimal in one form: 1.0, 1.00 and 1 are the same measurement."""
    return format(value.normalize(), "f") if hasattr(value, "normalize") else str(value)


def check_open(task: TaskState) -> None:
    """Raises: TaskEnded: the task takes no charge any more, whatever it costs."""
    if task.status in ENDED:
        raise TaskEnded(task_id=task.task_id, status=task.status)


def check_running(task: TaskState) -> None:
    """Raises: TaskStopped: the task takes no paid charge until it is resumed."""
    if task.status is Status.STOPPED:
        raise TaskStopped(task_id=task.task_id, stop_reason=task.stop_reason or StopReason.OUT_OF_CREDITS)


def check_may_start(book: Book) -> None:
    """Raises: InsufficientCredits: with nothing available, or with debt, nothing starts (DESIGN 5)."""
    if book.available == 0 or book.owed:
        raise InsufficientCredits(
            required_credits=book.owed + 1 if book.owed else 1,
            available_credits=0 if book.owed else book.available,
            balance=book.figures(),
        )


def charged(task: TaskState, cost: int) -> TaskState:
    """The task after one more block run."""
    return task._replace(steps=task.steps + 1, charged=task.charged + cost, version=task.version + 1)


def stopped(task: TaskState, *, lacked: int) -> TaskState:
    """The task after a charge that could not be paid."""
    return task._replace(
        status=Status.STOPPED, stop_reason=StopReason.OUT_OF_CREDITS, lacked=lacked, version=task.version + 1
    )


def ended(task: TaskState, status: Status, at: datetime) -> TaskState:
    """The task after its end."""
    return task._replace(status=status, stop_reason=None, ended_at=at, version=task.version + 1)
