"""Every refusal in the product.

BillingError                    an expected "no": carries facts, nothing moved; each becomes a GraphQL union member
├── InvalidInput                a value that the rules do not allow, with the path of each problem
│   └── InvalidRateCard         a rate card that may not be published
├── InsufficientCredits         required, available, shortfall
├── PriceNotFound               no rule of the card prices this block run
├── MeasurementMissing          the price is by measure and the measure was not sent
├── TaskNotFound, TaskStopped, TaskEnded, TaskNotStopped
├── BudgetReached               the task's envelope has less than this needs
├── HoldNotFound, HoldClosed    no such hold; captured, voided or expired before
├── HoldExceeded                a capture above what is held
├── BlockRunNotFound, ReversalExceedsCharge
├── GrantNotFound, TopUpNotFound, NoticeNotFound
├── TopUpNotPaid                nothing was paid that could go back
├── RefundExceedsTopUp          more was to go back than is left of the top-up
├── IdempotencyConflict         the same key or block run with another request
└── BalanceLimitReached         a figure would pass 2^53 - 1
RequestError                    a bad request or a missing permission: a top-level error with `code`
├── Unauthenticated, Forbidden, BadRequest
├── Overloaded                  the queue is full: try again shortly
├── RateLimited                 this caller asks too often, or too much at once: try again after so many seconds
└── Unavailable                 something the answer needs cannot be reached: try again shortly
Misconfigured                   the settings do not fit together: the server does not start
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input: where (a dotted path) and what to do about it."""

    path: str
    message: str


class BillingError(Exception):
    """An expected refusal. Its attributes are the facts; `message` says them to a person. Nothing has moved."""

    @property
    def message(self) -> str:
        raise NotImplementedError(type(self).__name__)  # every leaf says its own

    def __str__(self) -> str:
        return self.message


@dataclass(eq=False)
class InvalidInput(BillingError):
    problems: Sequence[Problem]

    @classmethod
    def at(cls, path: str, message: str) -> Self:
        return cls([Problem(path, message)])

    @property
    def message(self) -> str:
        return "; ".join(f"{problem.path} {problem.message}" for problem in self.problems)


@dataclass(eq=False)
class InvalidRateCard(InvalidInput):
    """A rate card that may not be published; every problem is listed, not only the first."""


@dataclass(eq=False, kw_only=True)
class InsufficientCredits(BillingError):
    required_credits: int
    available_credits: int
    balance: object = None
    """The account's figures at the refusal (ledger.rules.Figures), where the refusal knows them."""

    @property
    def shortfall_credits(self) -> int:
        return self.required_credits - self.available_credits

    @property
    def message(self) -> str:
        return (
            f"This needs {self.required_credits:,} credits and {self.available_credits:,} are available: "
            f"add {self.shortfall_credits:,} credits and try again."
        )


@dataclass(eq=False, kw_only=True)
class PriceNotFound(BillingError):
    block: str
    rate_card_version: int
    reason: str = "The block is not in the rate card."

    @property
    def message(self) -> str:
        return f"No price for block {self.block!r} in rate card {self.rate_card_version}. {self.reason}"


@dataclass(eq=False, kw_only=True)
class MeasurementMissing(BillingError):
    block: str
    measurement: str

    @property
    def message(self) -> str:
        return f"Block {self.block!r} is priced by measure: send measurements.{self.measurement}."


@dataclass(eq=False, kw_only=True)
class TaskNotFound(BillingError):
    task_id: str

    @property
    def message(self) -> str:
        return f"There is no task {self.task_id!r}: start it with startTask."


@dataclass(eq=False, kw_only=True)
class TaskStopped(BillingError):
    task_id: str
    stop_reason: str

    @property
    def message(self) -> str:
        return f"Task {self.task_id!r} is stopped ({self.stop_reason}): it takes no paid block run."


@dataclass(eq=False, kw_only=True)
class TaskEnded(BillingError):
    task_id: str
    status: str

    @property
    def message(self) -> str:
        return f"Task {self.task_id!r} has ended ({self.status}): start a new task."


@dataclass(eq=False, kw_only=True)
class TaskNotStopped(BillingError):
    task_id: str
    status: str

    @property
    def message(self) -> str:
        return f"Task {self.task_id!r} is {self.status}: only a stopped task is resumed."


@dataclass(eq=False, kw_only=True)
class BudgetReached(BillingError):
    """`task_id`: whose envelope it is; a nested task may draw on that of the task around it."""

    task_id: str
    required_credits: int
    remaining_credits: int

    @property
    def shortfall_credits(self) -> int:
        return self.required_credits - self.remaining_credits

    @property
    def message(self) -> str:
        return (
            f"This needs {self.required_credits:,} credits and the budget of task {self.task_id!r} has "
            f"{self.remaining_credits:,} left: add {self.shortfall_credits:,} credits to it with resumeTask."
        )


@dataclass(eq=False, kw_only=True)
class HoldNotFound(BillingError):
    task_id: str
    block_run_id: str

    @property
    def message(self) -> str:
        return f"Task {self.task_id!r} has no hold for block run {self.block_run_id!r}: place it with placeHold."


@dataclass(eq=False, kw_only=True)
class HoldClosed(BillingError):
    block_run_id: str
    status: str

    @property
    def message(self) -> str:
        return f"The hold for block run {self.block_run_id!r} is {self.status} already: nothing has moved."


@dataclass(eq=False, kw_only=True)
class HoldExceeded(BillingError):
    block_run_id: str
    required_credits: int
    held_credits: int

    @property
    def shortfall_credits(self) -> int:
        return self.required_credits - self.held_credits

    @property
    def message(self) -> str:
        return (
            f"Block run {self.block_run_id!r} costs {self.required_credits:,} credits and {self.held_credits:,} are "
            "held for it: capture it with overHold: CAP, or void it."
        )


@dataclass(eq=False, kw_only=True)
class BlockRunNotFound(BillingError):
    task_id: str
    block_run_id: str

    @property
    def message(self) -> str:
        return f"Task {self.task_id!r} has no block run {self.block_run_id!r}."


@dataclass(eq=False, kw_only=True)
class ReversalExceedsCharge(BillingError):
    requested_credits: int
    reversible_credits: int

    @property
    def message(self) -> str:
        return (
            f"At most {self.reversible_credits:,} credits of this charge can still be reversed; "
            f"{self.requested_credits:,} were asked for."
        )


@dataclass(eq=False, kw_only=True)
class GrantNotFound(BillingError):
    grant_id: str

    @property
    def message(self) -> str:
        return f"There is no grant {self.grant_id!r}."


@dataclass(eq=False, kw_only=True)
class TopUpNotFound(BillingError):
    top_up_id: str

    @property
    def message(self) -> str:
        return f"There is no top-up {self.top_up_id!r}."


@dataclass(eq=False, kw_only=True)
class TopUpNotPaid(BillingError):
    status: str

    @property
    def message(self) -> str:
        return f"The top-up is {self.status}: nothing was paid that could go back."


@dataclass(eq=False, kw_only=True)
class RefundExceedsTopUp(BillingError):
    requested_credits: int
    refundable_credits: int

    @property
    def message(self) -> str:
        if not self.refundable_credits:
            return "Nothing is left of this top-up to refund: it went back, or is disputed."
        return (
            f"At most {self.refundable_credits:,} credits of this top-up can still be refunded; "
            f"{self.requested_credits:,} were asked for."
        )


@dataclass(eq=False, kw_only=True)
class NotificationNotFound(BillingError):
    notification_id: str

    @property
    def message(self) -> str:
        return f"There is no notice {self.notification_id!r} of this account: nothing was marked."


@dataclass(eq=False, kw_only=True)
class IdempotencyConflict(BillingError):
    key: str

    @property
    def message(self) -> str:
        return f"{self.key!r} was used before with another request: send the first request again, or take a new key."


@dataclass(eq=False, kw_only=True)
class BalanceLimitReached(BillingError):
    figure: str

    @property
    def message(self) -> str:
        return f"{self.figure} would pass 9,007,199,254,740,991 (2^53 - 1): nothing was recorded."


class RequestError(Exception):
    """A request that is not answered at all: it becomes a top-level GraphQL error with `extensions.code`."""

    code: ClassVar[str] = "BAD_REQUEST"


class BadRequest(RequestError):
    code = "BAD_USER_INPUT"


class Unauthenticated(RequestError):
    code = "UNAUTHENTICATED"


class Forbidden(RequestError):
    code = "FORBIDDEN"


class PriceUnavailable(RequestError):
    """A part of what was asked for has no price, where the answer has no room to say which otherwise."""

    code = "PRICE_NOT_FOUND"


class Overloaded(RequestError):
    code = "OVERLOADED"

    def __init__(self) -> None:
        super().__init__("The server has more charges waiting than it takes on: try again in a moment.")


class RateLimited(RequestError):
    """Never of a charge: that knows only `Overloaded`."""

    code = "RATE_LIMITED"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"Too many requests: try again in {retry_after_seconds} s.")
        self.retry_after_seconds = retry_after_seconds


class Unavailable(RequestError):
    code = "UNAVAILABLE"


class Misconfigured(Exception):
    """The settings do not fit together: nothing starts. The message names the setting to change."""
