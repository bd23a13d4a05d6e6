"""The mutations for work that is priced by measure: hold before it, capture after it, or let go."""

from typing import Annotated

import strawberry
from strawberry.scalars import JSON

from app.api.accounts.balance import Balance, to_balance
from app.api.audit_context import audit_context, operator_audit_context
from app.api.context import ResolverInfo
from app.api.error_types import (
    BalanceLimitReachedError,
    BudgetReachedError,
    HoldClosedError,
    HoldExceededError,
    HoldNotFoundError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    InvalidInputError,
    MeasurementMissingError,
    PriceNotFoundError,
    TaskEndedError,
    TaskNotFoundError,
    TaskStoppedError,
)
from app.api.input_checks import check_ids
from app.api.scalars import Credits
from app.api.tasks.block_runs import BlockRun, to_block_run
from app.api.tasks.charging import Measurements, check_settings
from app.api.tasks.entries import Entry, to_entry
from app.api.tasks.hold_types import Hold, to_hold
from app.api.tasks.types import Task, to_task
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.engine.schema import describe_enum
from app.tasks import holds
from app.tasks.holds import CaptureHoldRequest, HoldResult, OverHold, PlaceHoldRequest

describe_enum(
    OverHold,
    name="OverHold",
    description="What a capture does that is priced above its hold.",
    values={
        OverHold.REFUSE: "It is refused, and the hold stays open.",
        OverHold.CAP: "It takes what is held and no more; the price is recorded.",
    },
)


@strawberry.input(description="A block run about to be executed whose price depends on what it will measure.")
class PlaceHoldInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(
        description="The platform's id of this block's execution: one hold for each, however often it is sent."
    )
    block: str = strawberry.field(description="The block, as the rate card names it.")
    settings: JSON | None = strawberry.field(
        default=None, description="The block's settings, an object: those that the price goes by; others are ignored."
    )
    uses_own_key: bool = strawberry.field(
        default=False, description="Whether it uses the customer's own provider key: then it costs 0."
    )
    at_most: Measurements = strawberry.field(description="What it will measure at most: so much is held.")
    timeout_seconds: int = strawberry.field(
        default=3600, description="After this the hold lapses by itself: 1 second to 24 hours."
    )


@strawberry.input(description="What a held block run turned out to measure.")
class CaptureHoldInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(description="The platform's id of the block run.")
    measurements: Measurements = strawberry.field(description="What was measured.")
    over_hold: OverHold = strawberry.field(default=OverHold.REFUSE, description="Where it costs more than is held.")


@strawberry.input(description="A hold to let go of.")
class VoidHoldInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(description="The platform's id of the block run.")


@declare.type(description="The most that the block run may cost is held: run it.", needs=Permission.INHERITED)
class PlaceHoldSuccess:
    hold: Hold = declare.value(description="The hold, as it stands now.")
    task: Task = declare.value(description="The task.")
    balance: Balance = declare.value(description="The balance now.")
    replayed: bool = declare.value(description="Whether the same request had placed it before.")


@declare.type(description="The block run is paid, and the rest of the hold went back.", needs=Permission.INHERITED)
class CaptureHoldSuccess:
    cost: Credits = declare.value(description="What was drawn of the hold.")
    hold: Hold = declare.value(description="The hold.")
    entry: Entry | None = declare.value(description="Its line in the account; null at cost 0.")
    block_run: BlockRun = declare.value(description="What was recorded.")
    task: Task = declare.value(description="The task, with its cost so far.")
    balance: Balance = declare.value(description="The balance now.")
    replayed: bool = declare.value(description="Whether the same request had captured it before.")


@declare.type(description="Nothing is held for the block run any more.", needs=Permission.INHERITED)
class VoidHoldSuccess:
    hold: Hold = declare.value(description="The hold.")
    task: Task = declare.value(description="The task.")
    balance: Balance = declare.value(description="The balance now.")
    replayed: bool = declare.value(description="Whether it was voided before.")


PlaceHoldResult = Annotated[
    PlaceHoldSuccess
    | InvalidInputError
    | InsufficientCreditsError
    | BudgetReachedError
    | PriceNotFoundError
    | MeasurementMissingError
    | TaskNotFoundError
    | TaskStoppedError
    | TaskEndedError
    | IdempotencyConflictError
    | BalanceLimitReachedError,
    strawberry.union("PlaceHoldResult", description="Held, or why the block run must not run."),
]
CaptureHoldResult = Annotated[
    CaptureHoldSuccess
    | MeasurementMissingError
    | TaskNotFoundError
    | HoldNotFoundError
    | HoldClosedError
    | HoldExceededError
    | IdempotencyConflictError
    | BalanceLimitReachedError,
    strawberry.union("CaptureHoldResult", description="Paid, or why not."),
]
VoidHoldResult = Annotated[
    VoidHoldSuccess | TaskNotFoundError | HoldNotFoundError | HoldClosedError,
    strawberry.union("VoidHoldResult", description="Let go of, or why not."),
]

PlaceInput = Annotated[PlaceHoldInput, strawberry.argument(description="The block run, and its bounds.")]
CaptureInput = Annotated[CaptureHoldInput, strawberry.argument(description="Which hold, and what was measured.")]
VoidInput = Annotated[VoidHoldInput, strawberry.argument(description="Which hold.")]


@strawberry.type(description="Holding credits.")
class HoldMutations:
    @declare.mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.OPERATORS,
        description="Hold the most that a block run may cost, before it is run; a refusal means: do not, and stops the "
        "task as a refused charge does.",
    )
    async def place_hold(self, info: ResolverInfo, input: PlaceInput) -> PlaceHoldResult:
        check_ids(**{"input.taskId": input.task_id, "input.blockRunId": input.block_run_id, "input.block": input.block})
        held = await holds.place_hold(
            PlaceHoldRequest(
                task_id=input.task_id,
                block_run_id=input.block_run_id,
                block=input.block,
                settings=check_settings(input.settings, "input.settings"),
                uses_own_key=input.uses_own_key,
                at_most=input.at_most.read("input.atMost"),
                timeout_seconds=input.timeout_seconds,
                actor=info.context.authenticated_caller.actor,
                request_id=info.context.request_id,
                audit=operator_audit_context(info),
            ),
            info.context.state.rate_cards,
        )
        hold, task, balance = _parts(held, info)
        return PlaceHoldSuccess(hold=hold, task=task, balance=balance, replayed=held.replayed)

    @declare.mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.OPERATORS,
        description="Charge what a held block run measured, at the prices of its placing, and let go of the rest. Of a "
        "task that has stopped or ended meanwhile too: the work is done.",
    )
    async def capture_hold(self, info: ResolverInfo, input: CaptureInput) -> CaptureHoldResult:
        check_ids(**{"input.taskId": input.task_id, "input.blockRunId": input.block_run_id})
        held = await holds.capture_hold(
            CaptureHoldRequest(
                task_id=input.task_id,
                block_run_id=input.block_run_id,
                measurements=input.measurements.read("input.measurements"),
                over_hold=input.over_hold,
                actor=info.context.authenticated_caller.actor,
                request_id=info.context.request_id,
                audit=operator_audit_context(info),
            )
        )
        hold, task, balance = _parts(held, info)
        if held.block_run is None:
            raise TypeError("a capture without a block run")
        return CaptureHoldSuccess(
            cost=Credits(held.block_run.cost),
            hold=hold,
            entry=to_entry(held.entry) if held.entry else None,
            block_run=to_block_run(held.block_run, held.entry),
            task=task,
            balance=balance,
            replayed=held.replayed,
        )

    @declare.mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Let go of a hold whose block run was not run.",
    )
    async def void_hold(self, info: ResolverInfo, input: VoidInput) -> VoidHoldResult:
        check_ids(**{"input.taskId": input.task_id, "input.blockRunId": input.block_run_id})
        held = await holds.void_hold(input.task_id, input.block_run_id, audit=audit_context(info))
        hold, task, balance = _parts(held, info)
        return VoidHoldSuccess(hold=hold, task=task, balance=balance, replayed=held.replayed)


def _parts(held: HoldResult, info: ResolverInfo) -> tuple[Hold, Task, Balance]:
    return (
        to_hold(held.task.account_id, held.hold),
        to_task(held.task, held.balance.owner_id),
        to_balance(held.balance, info.context),
    )
