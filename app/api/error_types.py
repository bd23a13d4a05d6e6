"""Refusals as GraphQL types: the UserError interface and a type for each.

A resolver raises the BillingError; where the field's union has the type, it is returned (`refusals` has the table). A
refusal that its union does not name is a mistake of ours: it is masked as a fault.
"""

import strawberry

from app.api.accounts.balance import Balance
from app.api.scalars import Credits
from app.engine import declare
from app.engine.permissions import Permission


@declare.interface(
    description="Every expected refusal. __typename is the stable code; message is for people.",
    needs=Permission.INHERITED,
)
class UserError:
    message: str = declare.value(description="What is wrong and what to do about it, for people.")


@declare.type(description="One thing wrong with an input.", needs=Permission.INHERITED)
class Problem:
    path: str = declare.value(description="Where in the input, dotted.")
    message: str = declare.value(description="What is wrong there and what to do about it.")


@declare.type(description="A value that the rules do not allow. Nothing was recorded.", needs=Permission.INHERITED)
class InvalidInputError(UserError):
    problems: list[Problem] = declare.value(description="Everything that is wrong.")


@declare.type(description="A rate card that may not be published. Nothing was published.", needs=Permission.INHERITED)
class InvalidRateCardError(UserError):
    problems: list[Problem] = declare.value(description="Everything that is wrong.")


@declare.type(description="The credits do not suffice. Nothing moved.", needs=Permission.INHERITED)
class InsufficientCreditsError(UserError):
    required: Credits = declare.value(description="Credits that this needs.")
    available: Credits = declare.value(description="Credits that can be spent now.")
    shortfall: Credits = declare.value(description="Credits to add so that it can be paid: required - available.")
    balance: Balance = declare.value(description="The balance at the refusal.")


@declare.type(description="No rule of the rate card prices this block run.", needs=Permission.INHERITED)
class PriceNotFoundError(UserError):
    block: str = declare.value(description="The block that was asked for.")
    rate_card_version: int = declare.value(description="The rate card that has no price for it.")


@declare.type(description="The price is by measure, and the measure was not sent.", needs=Permission.INHERITED)
class MeasurementMissingError(UserError):
    block: str = declare.value(description="The block that is priced by measure.")
    measurement: str = declare.value(description="The measurement to send.")


@declare.type(description="There is no such task for you.", needs=Permission.INHERITED)
class TaskNotFoundError(UserError):
    task_id: strawberry.ID = declare.value(description="The platform's id that was asked for.")


@declare.type(
    description="The task is stopped: it takes no paid block run until it is resumed.", needs=Permission.INHERITED
)
class TaskStoppedError(UserError):
    task_id: strawberry.ID = declare.value(description="The platform's id of the task.")
    stop_reason: str = declare.value(description="Why it was stopped.")


@declare.type(description="The task has ended and takes nothing more.", needs=Permission.INHERITED)
class TaskEndedError(UserError):
    task_id: strawberry.ID = declare.value(description="The platform's id of the task.")
    status: str = declare.value(description="How it ended.")


@declare.type(description="Only a stopped task is resumed, and this one is not stopped.", needs=Permission.INHERITED)
class TaskNotStoppedError(UserError):
    task_id: strawberry.ID = declare.value(description="The platform's id of the task.")
    status: str = declare.value(description="Where it stands.")


@declare.type(
    description="The budget that pays for the task has less left than this needs. Nothing moved; a block run that was "
    "refused so has stopped its task.",
    needs=Permission.INHERITED,
)
class BudgetReachedError(UserError):
    task_id: strawberry.ID = declare.value(description="Whose budget it is: the task's own, or a task's around it.")
    required: Credits = declare.value(description="Credits that this needs.")
    remaining: Credits = declare.value(description="Credits that the budget has left for it.")
    shortfall: Credits = declare.value(description="Credits to add to the budget: required - remaining.")


@declare.type(description="Nothing is held for this block run of this task.", needs=Permission.INHERITED)
class HoldNotFoundError(UserError):
    task_id: strawberry.ID = declare.value(description="The platform's id of the task.")
    block_run_id: strawberry.ID = declare.value(description="The platform's id of the block run.")


@declare.type(description="The hold was captured, voided or expired before. Nothing moved.", needs=Permission.INHERITED)
class HoldClosedError(UserError):
    block_run_id: strawberry.ID = declare.value(description="The platform's id of the block run.")
    status: str = declare.value(description="What became of the hold.")


@declare.type(
    description="The capture is priced above its hold. Nothing moved, the hold is open.", needs=Permission.INHERITED
)
class HoldExceededError(UserError):
    block_run_id: strawberry.ID = declare.value(description="The platform's id of the block run.")
    required: Credits = declare.value(description="What the block run costs by its measurements.")
    held: Credits = declare.value(description="What is held for it.")
    shortfall: Credits = declare.value(description="How much more it costs: required - held.")


@declare.type(description="The task has no such block run.", needs=Permission.INHERITED)
class BlockRunNotFoundError(UserError):
    task_id: strawberry.ID = declare.value(description="The platform's id of the task.")
    block_run_id: strawberry.ID = declare.value(description="The platform's id of the block run.")


@declare.type(
    description="More was to be reversed than the charge still holds. Nothing moved.", needs=Permission.INHERITED
)
class ReversalExceedsChargeError(UserError):
    requested: Credits = declare.value(description="Credits that were to be reversed.")
    reversible: Credits = declare.value(description="Credits that can still be reversed.")


@declare.type(description="There is no such grant for you.", needs=Permission.INHERITED)
class GrantNotFoundError(UserError):
    grant_id: strawberry.ID = declare.value(description="The id that was asked for.")


@declare.type(description="There is no such top-up for you.", needs=Permission.INHERITED)
class TopUpNotFoundError(UserError):
    top_up_id: strawberry.ID = declare.value(description="The id that was asked for.")


@declare.type(description="Nothing was paid for this top-up that could go back.", needs=Permission.INHERITED)
class TopUpNotPaidError(UserError):
    status: str = declare.value(description="Where the top-up stands.")


@declare.type(description="More was to go back than is left of the top-up. Nothing moved.", needs=Permission.INHERITED)
class RefundExceedsTopUpError(UserError):
    requested: Credits = declare.value(description="Credits that were to go back.")
    refundable: Credits = declare.value(description="Credits that can still go back: what is disputed cannot.")


@declare.type(
    description="There is no such notice of this account for you. Nothing was marked.", needs=Permission.INHERITED
)
class NotificationNotFoundError(UserError):
    notification_id: strawberry.ID = declare.value(description="The id that was asked for.")


@declare.type(
    description="The same key or block run was used before with another request. Nothing moved.",
    needs=Permission.INHERITED,
)
class IdempotencyConflictError(UserError):
    key: str = declare.value(description="The key, or the block run's id, that was used before.")


@declare.type(description="A figure would pass 2^53 - 1. Nothing moved.", needs=Permission.INHERITED)
class BalanceLimitReachedError(UserError):
    figure: str = declare.value(description="The figure that would pass the bound.")


@declare.type(
    description="This item failed on our side, the others did not. Whether it was charged is unknown: send it again, a "
    "block run is charged once.",
    needs=Permission.INHERITED,
)
class InternalError(UserError):
    reference: str = declare.value(description="Quote it when you ask what happened.")
