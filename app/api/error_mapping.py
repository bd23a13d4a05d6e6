"""The table refusal -> GraphQL type, and the two ways it is used: raised by a resolver, or returned in a list."""

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import strawberry
from strawberry.types.field import StrawberryField
from strawberry.types.info import Info

from app import errors
from app.api.accounts.balance import to_balance
from app.api.context import Context
from app.api.error_types import (
    BalanceLimitReachedError,
    BlockRunNotFoundError,
    BudgetReachedError,
    GrantNotFoundError,
    HoldClosedError,
    HoldExceededError,
    HoldNotFoundError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    InvalidInputError,
    InvalidRateCardError,
    MeasurementMissingError,
    NotificationNotFoundError,
    PriceNotFoundError,
    Problem,
    RefundExceedsTopUpError,
    ReversalExceedsChargeError,
    TaskEndedError,
    TaskNotFoundError,
    TaskNotStoppedError,
    TaskStoppedError,
    TopUpNotFoundError,
    TopUpNotPaidError,
    UserError,
)
from app.api.scalars import Credits
from app.ledger.rules.account_state import AccountBalance

R = TypeVar("R", bound=errors.BillingError)
M = TypeVar("M", bound=UserError)


class ErrorHandler(Generic[R, M]):
    """One line of the table, and what Strawberry's `exception_handlers` ask for.

    Strawberry applies it to a field whose union has `error_type`, except in lists and subscriptions.
    """

    def __init__(self, refusal: type[R], error_type: type[M], made: Callable[[R, Context], M]) -> None:
        self.exception_type = refusal
        self.error_type = error_type
        self.convert = made

    def handle(self, exception: R, *, field: StrawberryField, info: Info[Any, Any]) -> M:
        return self.convert(exception, info.context)


ERROR_HANDLERS: Final[tuple[ErrorHandler[Any, Any], ...]] = (
    ErrorHandler(
        errors.InvalidRateCard,  # before InvalidInput, which it is too: the first that fits is taken
        InvalidRateCardError,
        lambda no, _: InvalidRateCardError(message=no.message, problems=_problems(no)),
    ),
    ErrorHandler(
        errors.InvalidInput,
        InvalidInputError,
        lambda no, _: InvalidInputError(message=no.message, problems=_problems(no)),
    ),
    ErrorHandler(
        errors.InsufficientCredits,
        InsufficientCreditsError,
        lambda no, context: InsufficientCreditsError(
            message=no.message,
            required=Credits(no.required_credits),
            available=Credits(no.available_credits),
            shortfall=Credits(no.shortfall_credits),
            balance=to_balance(_figures(no), context),
        ),
    ),
    ErrorHandler(
        errors.PriceNotFound,
        PriceNotFoundError,
        lambda no, _: PriceNotFoundError(message=no.message, block=no.block, rate_card_version=no.rate_card_version),
    ),
    ErrorHandler(
        errors.MeasurementMissing,
        MeasurementMissingError,
        lambda no, _: MeasurementMissingError(message=no.message, block=no.block, measurement=no.measurement),
    ),
    ErrorHandler(
        errors.TaskNotFound,
        TaskNotFoundError,
        lambda no, _: TaskNotFoundError(message=no.message, task_id=strawberry.ID(no.task_id)),
    ),
    ErrorHandler(
        errors.TaskStopped,
        TaskStoppedError,
        lambda no, _: TaskStoppedError(
            message=no.message, task_id=strawberry.ID(no.task_id), stop_reason=no.stop_reason
        ),
    ),
    ErrorHandler(
        errors.TaskEnded,
        TaskEndedError,
        lambda no, _: TaskEndedError(message=no.message, task_id=strawberry.ID(no.task_id), status=no.status),
    ),
    ErrorHandler(
        errors.TaskNotStopped,
        TaskNotStoppedError,
        lambda no, _: TaskNotStoppedError(message=no.message, task_id=strawberry.ID(no.task_id), status=no.status),
    ),
    ErrorHandler(
        errors.BudgetReached,
        BudgetReachedError,
        lambda no, _: BudgetReachedError(
            message=no.message,
            task_id=strawberry.ID(no.task_id),
            required=Credits(no.required_credits),
            remaining=Credits(no.remaining_credits),
            shortfall=Credits(no.shortfall_credits),
        ),
    ),
    ErrorHandler(
        errors.HoldNotFound,
        HoldNotFoundError,
        lambda no, _: HoldNotFoundError(
            message=no.message, task_id=strawberry.ID(no.task_id), block_run_id=strawberry.ID(no.block_run_id)
        ),
    ),
    ErrorHandler(
        errors.HoldClosed,
        HoldClosedError,
        lambda no, _: HoldClosedError(
            message=no.message, block_run_id=strawberry.ID(no.block_run_id), status=no.status
        ),
    ),
    ErrorHandler(
        errors.HoldExceeded,
        HoldExceededError,
        lambda no, _: HoldExceededError(
            message=no.message,
            block_run_id=strawberry.ID(no.block_run_id),
            required=Credits(no.required_credits),
            held=Credits(no.held_credits),
            shortfall=Credits(no.shortfall_credits),
        ),
    ),
    ErrorHandler(
        errors.BlockRunNotFound,
        BlockRunNotFoundError,
        lambda no, _: BlockRunNotFoundError(
            message=no.message, task_id=strawberry.ID(no.task_id), block_run_id=strawberry.ID(no.block_run_id)
        ),
    ),
    ErrorHandler(
        errors.ReversalExceedsCharge,
        ReversalExceedsChargeError,
        lambda no, _: ReversalExceedsChargeError(
            message=no.message,
            requested=Credits(no.requested_credits),
            reversible=Credits(no.reversible_credits),
        ),
    ),
    ErrorHandler(
        errors.GrantNotFound,
        GrantNotFoundError,
        lambda no, _: GrantNotFoundError(message=no.message, grant_id=strawberry.ID(no.grant_id)),
    ),
    ErrorHandler(
        errors.TopUpNotFound,
        TopUpNotFoundError,
        lambda no, _: TopUpNotFoundError(message=no.message, top_up_id=strawberry.ID(no.top_up_id)),
    ),
    ErrorHandler(
        errors.TopUpNotPaid,
        TopUpNotPaidError,
        lambda no, _: TopUpNotPaidError(message=no.message, status=no.status),
    ),
    ErrorHandler(
        errors.RefundExceedsTopUp,
        RefundExceedsTopUpError,
        lambda no, _: RefundExceedsTopUpError(
            message=no.message,
            requested=Credits(no.requested_credits),
            refundable=Credits(no.refundable_credits),
        ),
    ),
    ErrorHandler(
        errors.NotificationNotFound,
        NotificationNotFoundError,
        lambda no, _: NotificationNotFoundError(message=no.message, notification_id=strawberry.ID(no.notice_id)),
    ),
    ErrorHandler(
        errors.IdempotencyConflict,
        IdempotencyConflictError,
        lambda no, _: IdempotencyConflictError(message=no.message, key=no.key),
    ),
    ErrorHandler(
        errors.BalanceLimitReached,
        BalanceLimitReachedError,
        lambda no, _: BalanceLimitReachedError(message=no.message, figure=no.figure),
    ),
)


def to_user_error(refusal: errors.BillingError, context: Context) -> UserError:
    """The GraphQL object of this refusal, for an item of a list. Raises: the refusal itself, if the table lacks it."""
    for line in ERROR_HANDLERS:
        if isinstance(refusal, line.exception_type):
            member: UserError = line.convert(refusal, context)
            return member
    raise refusal


def _problems(refusal: errors.InvalidInput) -> list[Problem]:
    return [Problem(path=problem.path, message=problem.message) for problem in refusal.problems]


def _figures(refusal: errors.InsufficientCredits) -> AccountBalance:
    if isinstance(refusal.balance, AccountBalance):
        return refusal.balance
    raise TypeError("a refusal for want of credits must carry the account's figures")
