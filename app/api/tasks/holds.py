"""The mutations placeHold, captureHold and voidHold, for block runs whose price depends on measurements."""

import strawberry
from strawberry.scalars import JSON

from app.api.accounts.balance import Balance, to_balance
from app.api.context import ResolverInfo, audit_context, operator_audit_context
from app.api.input_checks import check_input_ids
from app.api.objects import build_from
from app.api.prices import Measurements, check_settings
from app.api.results import mutation
from app.api.scalars import Credits
from app.api.tasks.types import BlockRun, Entry, Hold, Task, to_block_run, to_entry, to_hold, to_task
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.engine.schema import describe_enum
from app.errors import (
    BalanceLimitReached,
    BudgetReached,
    HoldClosed,
    HoldExceeded,
    HoldNotFound,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidInput,
    MeasurementMissing,
    PriceNotFound,
    TaskEnded,
    TaskNotFound,
    TaskStopped,
)
from app.tasks import holds
from app.tasks.holds import CaptureHoldRequest, HoldResult, OverHold, PlaceHoldRequest

describe_enum(
    OverHold,
    description="What a capture does if it costs more than the hold.",
    values={
        OverHold.REFUSE: "The capture is refused and the hold stays open.",
        OverHold.CAP: "The capture charges the held credits and records the price.",
    },
)


@strawberry.input(description="A block run that is about to start and whose price depends on measurements.")
class PlaceHoldInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(
        description="The platform's id of the block run, unique in the account. It has one hold, even if the request "
        "is repeated."
    )
    block: str = strawberry.field(description="The block, as named in the rate card.")
    settings: JSON | None = strawberry.field(
        default=None, description="The settings of the block, an object. Settings that no price depends on are ignored."
    )
    uses_own_key: bool = strawberry.field(
        default=False, description="Whether the block run uses the customer's own provider key. It then costs 0."
    )
    at_most: Measurements = strawberry.field(description="The highest possible measurements. Their price is held.")
    timeout_seconds: int = strawberry.field(
        default=3600, description="The number of seconds after which the hold expires: 1 to 86,400 (24 hours)."
    )


@strawberry.input(description="The measurements of a block run that has a hold.")
class CaptureHoldInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(description="The platform's id of the block run.")
    measurements: Measurements = strawberry.field(description="The measurements of the block run.")
    over_hold: OverHold = strawberry.field(
        default=OverHold.REFUSE, description="What to do if the block run costs more than its hold."
    )


@strawberry.input(description="The hold to void.")
class VoidHoldInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(description="The platform's id of the block run.")


@declare.type(description="The maximum price is held. The block run may start.", needs=Permission.INHERITED)
class PlaceHoldSuccess:
    hold: Hold = declare.value(description="The hold.")
    task: Task = declare.value(description="The task.")
    balance: Balance = declare.value(description="The balance after the request.")
    replayed: bool = declare.value(description="Whether the hold was already placed by the same request.")


@declare.type(description="The block run is charged and the rest of the hold released.", needs=Permission.INHERITED)
class CaptureHoldSuccess:
    cost: Credits = declare.value(description="The credits charged.")
    hold: Hold = declare.value(description="The hold.")
    entry: Entry | None = declare.value(description="The entry of the charge; null if it cost 0.")
    block_run: BlockRun = declare.value(description="The block run.")
    task: Task = declare.value(description="The task, with its cost after the charge.")
    balance: Balance = declare.value(description="The balance after the charge.")
    replayed: bool = declare.value(description="Whether the hold was already captured by the same request.")


@declare.type(description="The hold is voided and its credits released.", needs=Permission.INHERITED)
class VoidHoldSuccess:
    hold: Hold = declare.value(description="The hold.")
    task: Task = declare.value(description="The task.")
    balance: Balance = declare.value(description="The balance after the request.")
    replayed: bool = declare.value(description="Whether the hold was already voided.")


@strawberry.type(description="Mutations of holds.")
class HoldMutations:
    @mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.OPERATORS,
        description="Hold the maximum price of a block run before it starts. If the result is an error, do not run the "
        "block. As with charge, the task is stopped if there are too few credits. A repeated request is refused if the "
        "hold was voided or has expired meanwhile; the block run can then be charged.",
        errors=(
            InvalidInput,
            HoldClosed,
            InsufficientCredits,
            BudgetReached,
            PriceNotFound,
            MeasurementMissing,
            TaskNotFound,
            TaskStopped,
            TaskEnded,
            IdempotencyConflict,
            BalanceLimitReached,
        ),
    )
    async def place_hold(self, info: ResolverInfo, input: PlaceHoldInput) -> PlaceHoldSuccess:
        check_input_ids(input, "task_id", "block_run_id", "block")
        done = await holds.place_hold(
            build_from(
                PlaceHoldRequest,
                input,
                settings=check_settings(input.settings, "input.settings"),
                at_most=input.at_most.read("input.atMost"),
                actor=info.context.authenticated_caller.actor,
                request_id=info.context.request_id,
                audit=operator_audit_context(info),
            ),
            info.context.state.rate_cards,
        )
        hold, task, balance = _objects(done, info)
        return PlaceHoldSuccess(hold=hold, task=task, balance=balance, replayed=done.replayed)

    @mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.OPERATORS,
        description="Charge a block run by its measurements, at the prices of the time when the hold was placed, and "
        "release the rest of the hold. This is also accepted after the task has stopped or ended.",
        errors=(
            MeasurementMissing,
            TaskNotFound,
            HoldNotFound,
            HoldClosed,
            HoldExceeded,
            IdempotencyConflict,
            BalanceLimitReached,
        ),
    )
    async def capture_hold(self, info: ResolverInfo, input: CaptureHoldInput) -> CaptureHoldSuccess:
        check_input_ids(input, "task_id", "block_run_id")
        done = await holds.capture_hold(
            build_from(
                CaptureHoldRequest,
                input,
                measurements=input.measurements.read("input.measurements"),
                actor=info.context.authenticated_caller.actor,
                request_id=info.context.request_id,
                audit=operator_audit_context(info),
            )
        )
        if done.block_run is None:
            raise TypeError("a captured hold has no block run")
        hold, task, balance = _objects(done, info)
        return CaptureHoldSuccess(
            cost=Credits(done.block_run.cost),
            hold=hold,
            entry=to_entry(done.entry) if done.entry else None,
            block_run=to_block_run(done.block_run, done.entry),
            task=task,
            balance=balance,
            replayed=done.replayed,
        )

    @mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Void the hold of a block run that was not started. Its credits are released.",
        errors=(TaskNotFound, HoldNotFound, HoldClosed),
    )
    async def void_hold(self, info: ResolverInfo, input: VoidHoldInput) -> VoidHoldSuccess:
        check_input_ids(input, "task_id", "block_run_id")
        done = await holds.void_hold(input.task_id, input.block_run_id, audit=audit_context(info))
        hold, task, balance = _objects(done, info)
        return VoidHoldSuccess(hold=hold, task=task, balance=balance, replayed=done.replayed)


def _objects(done: HoldResult, info: ResolverInfo) -> tuple[Hold, Task, Balance]:
    return (
        to_hold(done.task.account_id, done.hold),
        to_task(done.task, done.balance.owner_id),
        to_balance(done.balance, info.context),
    )
