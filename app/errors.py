"""Errors that the application raises on purpose.

BillingError    an expected error of a domain operation, with typed fields; a member of the mutations' result unions
RequestError    a bad request, a missing permission or an overload; a top-level GraphQL error with `extensions.code`
Misconfigured   the settings are invalid or contradict each other; the process does not start

`BillingError` is the only source of the GraphQL error types. A subclass `X` becomes the type `XError` (see
`app.api.error_types`):

- its docstring describes the type;
- a field declared with `described`, or a property with a docstring, becomes a field with that description; members
  without a description are not part of the API;
- a name that ends in `_credits` becomes a field of type `Credits` without the suffix; one that ends in `_id` an `ID`.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from string import Formatter
from typing import Any, ClassVar, Final, Self, dataclass_transform

from app.wording import counted, quote_value


def described(description: str, *, default: Any = MISSING) -> Any:
    """Return a dataclass field with a description for the GraphQL API."""
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of an input.

    `path` says where it is (`input.items.3.credits`). `message` says what is allowed there.
    """

    path: str
    message: str


class _TemplateFormatter(Formatter):
    def convert_field(self, value: Any, conversion: Any) -> Any:
        return quote_value(value) if conversion == "q" else super().convert_field(value, conversion)


_TEMPLATES: Final = _TemplateFormatter()


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(described,))
class BillingError(Exception):
    """An expected error of a domain operation. No credits were moved. Subclasses are keyword-only dataclasses."""

    def __init_subclass__(cls) -> None:
        dataclass(eq=False, kw_only=True)(cls)

    template: ClassVar[str]
    """The message. `{error.<attribute>}` is replaced by the value of the attribute, `{error.<attribute>!q}` by the
    quoted value."""

    @property
    def message(self) -> str:
        """What is wrong and what to do about it, for people."""
        return _TEMPLATES.format(self.template, error=self)

    def __str__(self) -> str:
        return self.message


class InvalidInput(BillingError):
    """A value breaks a rule. Nothing was changed."""

    problems: Sequence[Problem] = described("All problems in the input.")

    @classmethod
    def at(cls, path: str, message: str) -> Self:
        """Return the error for a single problem."""
        return cls(problems=[Problem(path, message)])

    @property
    def message(self) -> str:
        return f"{'; '.join(f'{problem.path} {problem.message}' for problem in self.problems)}."


class InvalidRateCard(InvalidInput):
    """The rate card cannot be published. Nothing was published."""


class InsufficientCredits(BillingError):
    """The account has fewer credits available than required. Nothing was charged or held."""

    required_credits: int = described("Credits required; 0 if the request was refused only because of debt.")
    available_credits: int = described("Credits available when the request was refused.")
    shortfall_credits: int = described(
        "Credits to add before trying again. It is more than required - available if the account has debt, which added "
        "credits pay first, or if disputes have frozen more credits than are left."
    )
    balance: object = described("The balance when the request was refused.")
    # An `AccountBalance` (app.ledger.rules.account_state).

    @property
    def message(self) -> str:
        text = f"This requires {counted(self.required_credits, 'credit')}; available: {self.available_credits:,}."
        if not self.required_credits:
            text = "The account is in debt."
        text += f" Add {counted(self.shortfall_credits, 'credit')} and try again"
        if self.shortfall_credits > self.required_credits - self.available_credits:
            text += ": added credits first pay debt and replace disputed credits"
        return text + "."


class PriceNotFound(BillingError):
    """No rule of the rate card matches this block run."""

    block: str = described("The block.")
    rate_card_version: int = described("The version of the rate card, which has no price for the block run.")
    reason: str = "The block is not in the rate card."

    template = "Rate card {error.rate_card_version} has no price for block {error.block!q}. {error.reason}"


class MeasurementMissing(BillingError):
    """The price depends on a measurement that was not sent."""

    block: str = described("The block.")
    measurement: str = described("The measurement to send: seconds, items, bytes or usd.")

    template = "Block {error.block!q} is priced by measurement: send measurements.{error.measurement}."


class TaskNotFound(BillingError):
    """The task does not exist, or it belongs to an account that the caller cannot read."""

    task_id: str = described("The task id of the request.")

    template = "Task {error.task_id!q} does not exist: start it with startTask."


class TaskStopped(BillingError):
    """The task is stopped. It accepts no paid block run until it is resumed."""

    task_id: str = described("The platform's id of the task.")
    stop_reason: str = described("Why the task was stopped: a value of StopReason.")

    @property
    def message(self) -> str:
        remedy = "resumeTask and its addBudget" if self.stop_reason.startswith("BUDGET") else "resumeTask"
        return (
            f"Task {quote_value(self.task_id)} is stopped ({self.stop_reason}) and accepts no paid block run: resume "
            f"it with {remedy}, then charge again."
        )


class TaskEnded(BillingError):
    """The task has ended and cannot be changed."""

    task_id: str = described("The platform's id of the task.")
    status: str = described("How the task ended: COMPLETED, FAILED or CANCELLED.")

    template = "Task {error.task_id!q} has ended ({error.status}): start a new task."


class TaskNotStopped(BillingError):
    """Only a stopped task can be resumed. The budget of a running task is raised with `addBudget` and a key."""

    task_id: str = described("The platform's id of the task.")
    status: str = described("The current status of the task.")

    template = (
        "Task {error.task_id!q} is {error.status}: only a stopped task can be resumed. To add to the budget of a "
        "running task, send addBudget and idempotencyKey."
    )


class BudgetReached(BillingError):
    """The budget of the task has fewer credits left than required. Nothing was charged or held. The refusal of a block
    run stops its task."""

    task_id: str = described("The task that owns the budget: the task itself or one of its parents.")
    required_credits: int = described("Credits required.")
    remaining_credits: int = described("Credits left in the budget for this request.")

    @property
    def shortfall_credits(self) -> int:
        """Credits to add to the budget: required - remaining."""
        return self.required_credits - self.remaining_credits

    @property
    def message(self) -> str:
        return (
            f"This requires {counted(self.required_credits, 'credit')}; left in the budget of task "
            f"{quote_value(self.task_id)}: {self.remaining_credits:,}. "
            f"Add {counted(self.shortfall_credits, 'credit')} to it with resumeTask."
        )


class HoldNotFound(BillingError):
    """The task has no hold for this block run."""

    task_id: str = described("The platform's id of the task.")
    block_run_id: str = described("The platform's id of the block run.")

    template = "Task {error.task_id!q} has no hold for block run {error.block_run_id!q}: place it with placeHold."


class HoldClosed(BillingError):
    """The hold is already captured, voided or expired. Nothing was changed."""

    block_run_id: str = described("The platform's id of the block run.")
    status: str = described("The status of the hold: CAPTURED, VOIDED or EXPIRED.")

    template = "The hold for block run {error.block_run_id!q} is already {error.status}. Nothing was changed."


class BlockRunHeld(BillingError):
    """The block run has an open hold, which pays for it. Nothing was charged, and the task was not stopped."""

    block_run_id: str = described("The platform's id of the block run.")
    held_credits: int = described("Credits held for the block run.")

    template = (
        "Block run {error.block_run_id!q} has an open hold: charge it with captureHold, or release the hold with "
        "voidHold first."
    )


class HoldExceeded(BillingError):
    """The capture costs more than the hold. Nothing was charged; the hold stays open."""

    block_run_id: str = described("The platform's id of the block run.")
    required_credits: int = described("The price of the block run by its measurements.")
    held_credits: int = described("Credits held for the block run.")

    @property
    def shortfall_credits(self) -> int:
        """Credits missing in the hold: required - held."""
        return self.required_credits - self.held_credits

    @property
    def message(self) -> str:
        return (
            f"Block run {quote_value(self.block_run_id)} costs {counted(self.required_credits, 'credit')}; held: "
            f"{self.held_credits:,}. Capture it with overHold: CAP, or void the hold."
        )


class BlockRunNotFound(BillingError):
    """The task has no such block run."""

    task_id: str = described("The platform's id of the task.")
    block_run_id: str = described("The platform's id of the block run.")

    template = "Task {error.task_id!q} has no block run {error.block_run_id!q}: check both ids."


class ReversalExceedsCharge(BillingError):
    """The request reverses more than is left of the charge. Nothing was changed."""

    requested_credits: int = described("Credits to reverse, as requested.")
    reversible_credits: int = described("Credits that can still be reversed.")

    @property
    def message(self) -> str:
        return (
            f"The request reverses {counted(self.requested_credits, 'credit')}; at most "
            f"{counted(self.reversible_credits, 'credit')} of this charge can still be reversed."
        )


class GrantNotFound(BillingError):
    """The grant does not exist, or it belongs to an account that the caller cannot read."""

    grant_id: str = described("The grant id of the request.")

    template = "Grant {error.grant_id!q} does not exist: `account.grants` lists the grants."


class WebhookEndpointNotFound(BillingError):
    """There is no webhook endpoint with this id. Nothing was changed."""

    endpoint_id: str = described("The endpoint id of the request.")

    template = "There is no webhook endpoint {error.endpoint_id!q}: `webhookEndpoints` lists them."


class NotificationNotFound(BillingError):
    """The account has no such notification. Nothing was marked as read."""

    notification_id: str = described("The notification id of the request.")

    template = "This account has no notification {error.notification_id!q}. Nothing was marked as read."


class IdempotencyConflict(BillingError):
    """The account has another request with this idempotency key or block run id. Nothing was changed."""

    key: str = described("The idempotency key, or the block run id.")

    template = "{error.key!q} was used before with a different request: repeat the first request, or use a new key."


class BalanceLimitReached(BillingError):
    """A figure of the account would exceed 2^53 - 1. Nothing was changed."""

    figure: str = described("The figure that would exceed the limit, such as: The balance.")

    template = "{error.figure} would exceed 9,007,199,254,740,991 (2^53 - 1). Nothing was changed."


class RequestError(Exception):
    """A request that has no result. It causes a top-level GraphQL error; `code` is its `extensions.code`."""

    code: ClassVar[str] = "BAD_REQUEST"


class BadRequest(RequestError):
    """An argument is invalid, and the result of the operation has no union for errors."""

    code = "BAD_USER_INPUT"


class Unauthenticated(RequestError):
    """The operation requires a credential, but the request has none, or its credential was rejected."""

    code = "UNAUTHENTICATED"


class RejectedCredential(Unauthenticated):
    """A credential that is not accepted. The message does not say why, unless `reveal_reason` is called."""

    def __init__(self, reason: str) -> None:
        """`reason` is for the request log. It contains no part of the credential."""
        super().__init__("The credential is not accepted: sign in again, or send a valid service key.")
        self.reason = reason
        self.is_revealed = False

    def reveal_reason(self) -> None:
        """Put the reason into the message."""
        self.args = (f"The credential is not accepted: {self.reason}.",)
        self.is_revealed = True


class Forbidden(RequestError):
    """The caller does not have the permission that the operation requires."""

    code = "FORBIDDEN"


class PriceUnavailable(RequestError):
    """A line of an estimate has no price. The result of an estimate has no union for errors."""

    code = "PRICE_NOT_FOUND"


class MeasurementNeeded(RequestError):
    """A line of an estimate is priced by a measurement that was not sent."""

    code = "MEASUREMENT_MISSING"


class OutOfRange(RequestError):
    """A sum in the result exceeds 2^53 - 1. It is not sent, because JSON parsers would round it."""

    code = "OUT_OF_RANGE"


class Overloaded(RequestError):
    """The queue of charges is full."""

    code = "OVERLOADED"

    def __init__(self) -> None:
        super().__init__("The queue of charges is full: send the same request again in a moment.")


class RateLimited(RequestError):
    """The caller exceeds a rate limit or a limit of concurrent operations. Charges are never rate limited."""

    code = "RATE_LIMITED"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"Too many requests: try again in {retry_after_seconds} s.")
        self.retry_after_seconds = retry_after_seconds


class Unavailable(RequestError):
    """A system that the request needs, such as the payment provider, does not respond. The request can be repeated."""

    code = "UNAVAILABLE"


class Misconfigured(Exception):
    """The settings are invalid or contradict each other. The message names the setting to change."""
