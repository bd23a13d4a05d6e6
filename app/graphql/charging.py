"""The mutations that charge: one block run, or a list of them. Both are the same code below."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import strawberry
from strawberry.scalars import JSON

from app.errors import BadRequest, BillingError, InvalidInput
from app.graphql import access
from app.graphql.access import Needs, Trail
from app.graphql.acts import act_of_operator
from app.graphql.balances import Balance, balance_of
from app.graphql.block_runs import BlockRun, block_run_of
from app.graphql.context import Context, Information
from app.graphql.entries import Entry, entry_of
from app.graphql.errors import (
    BalanceLimitReachedError,
    BudgetReachedError,
    FaultError,
    IdempotencyConflictError,
    InsufficientCreditsError,
    MeasurementMissingError,
    PriceNotFoundError,
    TaskEndedError,
    TaskNotFoundError,
    TaskStoppedError,
)
from app.graphql.faults import masked
from app.graphql.inputs import checked, checked_list
from app.graphql.refusals import as_member
from app.graphql.scalars import Credits, Long
from app.graphql.tasks import Task, task_of
from app.pricing import measurements as measured
from app.tasks.charging import Charged
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
            return measured.read(seconds=self.seconds, items=self.items, bytes=self.bytes, usd=self.usd, path=path)
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


def request_of(plain: Mapping[str, Any], info: Information, path: str = "input") -> ChargeRequest:
    """A ChargeInput as graphql-core has coerced it. Raises: BadRequest."""
    task_id, block_run_id, block = plain["taskId"], plain["blockRunId"], plain["block"]
    checked(**{f"{path}.taskId": task_id, f"{path}.blockRunId": block_run_id, f"{path}.block": block})
    measurements = plain.get("measurements")
    return ChargeRequest(
        task_id=task_id,
        block_run_id=block_run_id,
        block=block,
        settings=settings_of(plain.get("settings"), f"{path}.settings"),
        uses_own_key=plain["usesOwnKey"],
        measurements=Measurements(**measurements).read(f"{path}.measurements") if measurements else None,
        closing=plain["closing"],
        actor=info.context.caller.actor,
        request_id=info.context.request_id,
        act=act_of_operator(info),
    )


def settings_of(settings: object, path: str) -> Mapping[str, Any] | None:
    """Raises: BadRequest: not an object."""
    if settings is None or isinstance(settings, dict):
        return settings
    raise BadRequest(f"{path} must be an object.")


@access.type(description="The block run is paid: run it.", needs=Needs.REACHED)
class ChargeSuccess:
    """Its objects are made when they are asked for: most executors read the cost and the balance only."""

    cost: Credits = access.value(description="What it cost, the first time it was sent.")
    replayed: bool = access.value(description="Whether it had been charged before: nothing has moved now.")
    signal: SignalKind | None = access.value(
        description="STOP where nothing is left for this task to be paid with: finish what runs, start no more."
    )
    charged: strawberry.Private[Charged]

    @access.field(description="Its line in the account; null at cost 0.")
    def entry(self) -> Entry | None:
        return entry_of(self.charged.entry) if self.charged.entry else None

    @access.field(description="What was recorded.")
    def block_run(self) -> BlockRun:
        return block_run_of(self.charged.block_run, self.charged.entry)

    @access.field(description="The task, with its cost so far.")
    def task(self) -> Task:
        return task_of(self.charged.task, self.charged.balance.owner_id)

    @access.field(description="The balance now.")
    def balance(self, info: Information) -> Balance:
        return balance_of(self.charged.balance, info.context)


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
    | FaultError,
    strawberry.union("ChargeResult", description="The block run is paid, or why it must not run."),
]

OneInput = Annotated[ChargeInput, strawberry.argument(description="The block run.")]
ManyInputs = Annotated[list[ChargeInput], strawberry.argument(description="1 to 1,000 block runs, in order.")]


@strawberry.type(description="Charging.")
class ChargingMutations:
    @access.mutation(
        needs=Needs.SERVICE,
        trail=Trail.ENTRY,
        description="Charge a block run before it is run; a refusal means: do not.",
        plain_input=True,
    )
    async def charge(self, info: Information, input: OneInput) -> ChargeResult:
        outcome = await info.context.house.charger.charge(request_of(_plain(input), info))
        result: ChargeResult = shown(outcome, info.context)
        return result

    @access.mutation(
        needs=Needs.SERVICE,
        trail=Trail.ENTRY,
        description="Up to 1,000 charges in order, each with its own result. Not all or nothing.",
        plain_input=True,
    )
    async def charge_batch(self, info: Information, input: ManyInputs) -> list[ChargeResult]:
        checked_list(input, name="input", limit=MAX_BATCH)
        requests = [request_of(_plain(one), info, f"input.{place}") for place, one in enumerate(input)]
        outcomes = await info.context.house.charger.charge_batch(requests)
        return [_alone(outcome, info.context) for outcome in outcomes]


def _plain(input: ChargeInput) -> Mapping[str, Any]:
    """What is there in truth: the type stands in the signature for the schema (`plain_input`)."""
    return cast(Mapping[str, Any], input)


def _alone(outcome: Charged | BaseException, context: Context) -> Any:
    """As `shown`, but a fault stands in the item's place: its neighbours are charged, and must be told so."""
    if isinstance(outcome, Exception) and not isinstance(outcome, BillingError):
        told = masked(outcome, context)
        return FaultError(message=told["message"], reference=told["extensions"]["reference"])
    return shown(outcome, context)


def shown(outcome: Charged | BaseException, context: Context) -> Any:
    """What became of one item as a member of ChargeResult. Raises: a fault, which is masked, is raised."""
    if isinstance(outcome, BillingError):
        return as_member(outcome, context)
    if isinstance(outcome, BaseException):
        raise outcome
    return ChargeSuccess(
        cost=Credits(outcome.block_run.cost),
        replayed=outcome.replayed,
        signal=outcome.signal,
        charged=outcome,
    )
