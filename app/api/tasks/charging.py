"""The mutations that charge: one block run, or a list of them. Both are the same code below."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import strawberry
from strawberry.scalars import JSON

from app.api.accounts.balance import Balance, to_balance
from app.api.audit_context import operator_audit_context
from app.api.context import Context, ResolverInfo
from app.api.error_mapping import to_user_error
from app.api.error_types import (
    BalanceLimitReachedError,
    BudgetReachedError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    InternalError,
    MeasurementMissingError,
    PriceNotFoundError,
    TaskEndedError,
    TaskNotFoundError,
    TaskStoppedError,
)
from app.api.input_checks import check_ids, check_list_length
from app.api.scalars import Credits
from app.api.tasks.block_runs import BlockRun, to_block_run
from app.api.tasks.entries import Entry, to_entry
from app.api.tasks.types import Task, to_task
from app.engine import declare
from app.engine.errors import mask_fault
from app.engine.permissions import AuditPolicy, Permission
from app.engine.scalars import Long
from app.errors import BadRequest, BillingError, InvalidInput
from app.pricing import measurements as measured
from app.tasks.charging import Charge
from app.tasks.rules import ChargeRequest, SignalKind

MAX_BATCH = 1_000


@strawberry.input(description="What was measured of a block run, for prices that are by measure.")
class Measurements:
    seconds: float | None = strawberry.field(default=None, description="How long it ran.")
    items: Long | None = strawberry.field(default=None, description="How many items it handled.")
    bytes: Long | None = strawberry.field(default=None, description="How many bytes it moved.")
    usd: str | None = strawberry.field(
        default=None, description='What the provider charged, in US dollars, as a decimal: "0.0123".'
    )

    def read(self, path: str) -> measured.Measurements:
        """Raises: BadRequest, naming what is out of bounds under `path`."""
        try:
            return measured.parse_measurements(
                seconds=self.seconds, items=self.items, bytes=self.bytes, usd=self.usd, path=path
            )
        except InvalidInput as refusal:
            raise BadRequest(refusal.message) from None


@strawberry.input(description="A block run about to be executed. The server prices it: no amount is sent.")
class ChargeInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(
        description="The platform's id of this block's execution. Charged once, however often it is sent."
    )
    block: str = strawberry.field(description="The block, as the rate card names it.")
    settings: JSON | None = strawberry.field(
        default=None, description="The block's settings, an object: those that the price goes by; others are ignored."
    )
    uses_own_key: bool = strawberry.field(
        default=False, description="Whether it uses the customer's own provider key: then it costs 0."
    )
    measurements: Measurements | None = strawberry.field(default=None, description="For prices that are by measure.")
    closing: bool = strawberry.field(
        default=False,
        description="Whether the task saves its work with it: then it may use the budget's landing reserve, and runs "
        "on a stopped task too, as long as its budget has something left.",
    )


def to_charge_request(plain: Mapping[str, Any], info: ResolverInfo, path: str = "input") -> ChargeRequest:
    """A ChargeInput as graphql-core has coerced it. Raises: BadRequest."""
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


def check_settings(settings: object, path: str) -> Mapping[str, Any] | None:
    """Raises: BadRequest: not an object."""
    if settings is None or isinstance(settings, dict):
        return settings
    raise BadRequest(f"{path} must be an object.")


@declare.type(description="The block run is paid: run it.", needs=Permission.INHERITED)
class ChargeSuccess:
    """Its objects are made when they are asked for: most executors read the cost and the balance only."""

    cost: Credits = declare.value(description="What it cost, the first time it was sent.")
    replayed: bool = declare.value(description="Whether it had been charged before: nothing has moved now.")
    signal: SignalKind | None = declare.value(
        description="STOP where nothing is left for this task to be paid with: finish what runs, start no more."
    )
    charged: strawberry.Private[Charge]

    @declare.field(description="Its line in the account; null at cost 0.")
    def entry(self) -> Entry | None:
        return to_entry(self.charged.entry) if self.charged.entry else None

    @declare.field(description="What was recorded.")
    def block_run(self) -> BlockRun:
        return to_block_run(self.charged.block_run, self.charged.entry)

    @declare.field(description="The task, with its cost so far.")
    def task(self) -> Task:
        return to_task(self.charged.task, self.charged.balance.owner_id)

    @declare.field(description="The balance now.")
    def balance(self, info: ResolverInfo) -> Balance:
        return to_balance(self.charged.balance, info.context)


ChargeResult = Annotated[
    ChargeSuccess
    | InsufficientCreditsError
    | PriceNotFoundError
    | MeasurementMissingError
    | TaskNotFoundError
    | TaskStoppedError
    | TaskEndedError
    | BudgetReachedError
    | IdempotencyConflictError
    | BalanceLimitReachedError
    | InternalError,
    strawberry.union("ChargeResult", description="The block run is paid, or why it must not run."),
]

OneInput = Annotated[ChargeInput, strawberry.argument(description="The block run.")]
ManyInputs = Annotated[list[ChargeInput], strawberry.argument(description="1 to 1,000 block runs, in order.")]


@strawberry.type(description="Charging.")
class ChargingMutations:
    @declare.mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.OPERATORS,
        description="Charge a block run before it is run; a refusal means: do not.",
        input_as_dict=True,
    )
    async def charge(self, info: ResolverInfo, input: OneInput) -> ChargeResult:
        outcome = await info.context.state.charge_queue.charge(to_charge_request(_plain(input), info))
        result: ChargeResult = to_charge_result(outcome, info.context)
        return result

    @declare.mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.OPERATORS,
        description="Up to 1,000 charges in order, each with its own result. Not all or nothing.",
        input_as_dict=True,
    )
    async def charge_batch(self, info: ResolverInfo, input: ManyInputs) -> list[ChargeResult]:
        check_list_length(input, name="input", limit=MAX_BATCH)
        requests = [to_charge_request(_plain(one), info, f"input.{place}") for place, one in enumerate(input)]
        outcomes = await info.context.state.charge_queue.charge_batch(requests)
        return [_alone(outcome, info.context) for outcome in outcomes]


def _plain(input: ChargeInput) -> Mapping[str, Any]:
    """What is there in truth: the type stands in the signature for the schema (`plain_input`)."""
    return cast(Mapping[str, Any], input)


def _alone(outcome: Charge | BaseException, context: Context) -> Any:
    """As `shown`, but a fault stands in the item's place: its neighbours are charged, and must be told so."""
    if isinstance(outcome, Exception) and not isinstance(outcome, BillingError):
        told = mask_fault(outcome, context)
        return InternalError(message=told["message"], reference=told["extensions"]["reference"])
    return to_charge_result(outcome, context)


def to_charge_result(outcome: Charge | BaseException, context: Context) -> Any:
    """What became of one item as a member of ChargeResult. Raises: a fault, which is masked, is raised."""
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
