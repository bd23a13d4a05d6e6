"""The mutations charge and chargeBatch.

The resolvers return errors and do not raise them: in a batch each item has its own result, and both mutations use the
same code.
"""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import strawberry
from strawberry.scalars import JSON

from app.api.accounts.balance import Balance, to_balance
from app.api.context import Context, ResolverInfo, operator_audit_context
from app.api.error_types import InternalError, UnavailableError, to_user_error
from app.api.input_checks import check_ids, check_list_length
from app.api.prices import Measurements, check_settings
from app.api.results import result_union
from app.api.scalars import Credits
from app.api.tasks.types import BlockRun, Entry, Task, to_block_run, to_entry, to_task
from app.engine import declare
from app.engine.errors import LoggedTypes, describe_database_error, mask_fault
from app.engine.permissions import AuditPolicy, Permission
from app.engine.schema import describe_enum
from app.errors import (
    BalanceLimitReached,
    BillingError,
    BlockRunHeld,
    BudgetReached,
    IdempotencyConflict,
    InsufficientCredits,
    MeasurementMissing,
    PriceNotFound,
    TaskEnded,
    TaskNotFound,
    TaskStopped,
)
from app.tasks.charging import Charge
from app.tasks.rules import ChargeRequest, SignalKind

MAX_BATCH = 1_000

describe_enum(
    SignalKind,
    description="The kind of a signal to executors.",
    values={
        SignalKind.STOP: "Start no more block runs. Running block runs are paid and may finish.",
        SignalKind.RESUME: "Credits are available again. Continue running tasks and resume stopped ones.",
    },
)


@strawberry.input(description="A block run that is about to start. The server sets the price from the rate card.")
class ChargeInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(
        description="The platform's id of the block run, unique in the account (not only in the task). A block run is "
        "charged only once, even if the request is repeated."
    )
    block: str = strawberry.field(description="The block, as named in the rate card.")
    settings: JSON | None = strawberry.field(
        default=None, description="The settings of the block, an object. Settings that no price depends on are ignored."
    )
    uses_own_key: bool = strawberry.field(
        default=False, description="Whether the block run uses the customer's own provider key. It then costs 0."
    )
    measurements: Measurements | None = strawberry.field(
        default=None, description="Required if the price depends on measurements."
    )
    closing: bool = strawberry.field(
        default=False,
        description="Whether the task needs this block run to save its work. It may then use the closing reserve of "
        "the budget, and is accepted on a stopped task if the budget has credits left.",
    )


def to_charge_request(plain: Mapping[str, Any], info: ResolverInfo, path: str = "input") -> ChargeRequest:
    """Convert a ChargeInput, which graphql-core has coerced to a dictionary. Raises: BadRequest."""
    task_id, block_run_id, block = plain["taskId"], plain["blockRunId"], plain["block"]
    check_ids(**{f"{path}.taskId": task_id, f"{path}.blockRunId": block_run_id, f"{path}.block": block})
    measurements = plain.get("measurements")
    return ChargeRequest(
        task_id=task_id,
        block_run_id=block_run_id,
        block=block,
        settings=check_settings(plain.get("settings"), f"{path}.settings"),
        uses_own_key=plain["usesOwnKey"],
        measurements=Measurements(**measurements).read(f"{path}.measurements") if measurements else None,
        closing=plain["closing"],
        actor=info.context.authenticated_caller.actor,
        request_id=info.context.request_id,
        audit=operator_audit_context(info),
    )


@declare.type(description="The block run is paid and may start.", needs=Permission.INHERITED)
class ChargeSuccess:
    """The objects are built when they are read, because most executors read only the cost and the balance."""

    cost: Credits = declare.value(description="The credits charged when the request was first sent.")
    replayed: bool = declare.value(description="Whether the block run was already charged. Nothing was charged now.")
    signal: SignalKind | None = declare.value(
        description="STOP if no credits are left for the task, or only its closing reserve: let running block runs "
        "finish, and start no more except closing ones. Otherwise null."
    )
    charged: strawberry.Private[Charge]

    @declare.field(description="The entry of the charge; null if it cost 0.")
    def entry(self) -> Entry | None:
        return to_entry(self.charged.entry) if self.charged.entry else None

    @declare.field(description="The block run.")
    def block_run(self) -> BlockRun:
        return to_block_run(self.charged.block_run, self.charged.entry)

    @declare.field(description="The task, with its cost after the charge.")
    def task(self) -> Task:
        return to_task(self.charged.task, self.charged.balance.owner_id)

    @declare.field(description="The balance after the charge.")
    def balance(self, info: ResolverInfo) -> Balance:
        return to_balance(self.charged.balance, info.context)


_RESULT = result_union(
    "ChargeResult",
    ChargeSuccess,
    (
        InsufficientCredits,
        PriceNotFound,
        MeasurementMissing,
        TaskNotFound,
        TaskStopped,
        TaskEnded,
        BudgetReached,
        BlockRunHeld,
        IdempotencyConflict,
        BalanceLimitReached,
        UnavailableError,
        InternalError,
    ),
)

OneInput = Annotated[ChargeInput, strawberry.argument(description="The block run.")]
ManyInputs = Annotated[list[ChargeInput], strawberry.argument(description="1 to 1,000 block runs, charged in order.")]


@strawberry.type(description="Mutations that charge block runs.")
class ChargingMutations:
    @declare.mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.OPERATORS,
        description="Charge a block run before it starts. If the result is an error, do not run the block. A block run "
        "with an open hold is charged by captureHold.",
        graphql_type=_RESULT,
        input_as_dict=True,
    )
    async def charge(self, info: ResolverInfo, input: OneInput) -> object:
        outcome = await info.context.state.charge_queue.charge(to_charge_request(_as_dict(input), info))
        return to_charge_result(outcome, info.context)

    @declare.mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.OPERATORS,
        description="Charge up to 1,000 block runs in order. Each has its own result; a refused one does not affect "
        "the others.",
        graphql_type=list[_RESULT],  # type: ignore[valid-type]  # an annotation made at run time
        input_as_dict=True,
    )
    async def charge_batch(self, info: ResolverInfo, input: ManyInputs) -> list[object]:
        check_list_length(input, name="input", limit=MAX_BATCH)
        requests = [to_charge_request(_as_dict(item), info, f"input.{position}") for position, item in enumerate(input)]
        outcomes = await info.context.state.charge_queue.charge_batch(requests)
        logged: LoggedTypes = set()
        return [_to_item_result(outcome, info.context, logged) for outcome in outcomes]


def _as_dict(input: ChargeInput) -> Mapping[str, Any]:
    """Strawberry passes a dictionary (`input_as_dict`); the signature names the input type only for the schema."""
    return cast(Mapping[str, Any], input)


def _to_item_result(outcome: Charge | BaseException, context: Context, logged: LoggedTypes) -> object:
    """Like `to_charge_result`, but a fault becomes the result of its item, because the other items were charged."""
    if isinstance(outcome, Exception) and not isinstance(outcome, BillingError):
        if (message := describe_database_error(outcome, logged)) is not None:
            return UnavailableError(message=message)
        masked = mask_fault(outcome, context, logged)
        return InternalError(message=masked["message"], reference=context.request_id)
    return to_charge_result(outcome, context)


def to_charge_result(outcome: Charge | BaseException, context: Context) -> object:
    """Convert the outcome of one item to a member of ChargeResult. Raises: `outcome`, if it is a fault."""
    if isinstance(outcome, BillingError):
        return to_user_error(outcome, context)
    if isinstance(outcome, BaseException):
        raise outcome
    return ChargeSuccess(
        cost=Credits(outcome.block_run.cost),
        replayed=outcome.replayed,
        signal=outcome.signal,
        charged=outcome,
    )
