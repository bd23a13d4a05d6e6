"""Prices: the price of a block run, the estimate of a plan, and rate cards."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import strawberry
from strawberry.scalars import JSON

from app.api.accounts.balance import load_account_balance
from app.api.context import ResolverInfo, audit_context
from app.api.input_checks import check_ids, check_list_length
from app.api.objects import build_from
from app.api.owner_scope import require_readable_owner
from app.api.results import mutation, result_union
from app.api.scalars import Credits, RateCardDocument
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.engine.scalars import Long, to_json
from app.engine.schema import describe_enum
from app.errors import (
    BadRequest,
    BalanceLimitReached,
    IdempotencyConflict,
    InvalidInput,
    InvalidRateCard,
    MeasurementMissing,
    PriceNotFound,
)
from app.pricing import estimates, measurements, publishing
from app.pricing.outcomes import BlockRunOutcome, OutcomePrices
from app.pricing.quotes import BlockPrices as BlockPricesState
from app.pricing.quotes import Card, quote


class PriceUnit(StrEnum):
    RUN = "RUN"
    SECOND = "SECOND"
    ITEM = "ITEM"
    BYTE = "BYTE"
    USD = "USD"


class UnlistedBlocks(StrEnum):
    REFUSED = "REFUSED"
    FREE = "FREE"


describe_enum(
    PriceUnit,
    description="The unit of a price.",
    values={
        PriceUnit.RUN: "One block run.",
        PriceUnit.SECOND: "Seconds.",
        PriceUnit.ITEM: "Items.",
        PriceUnit.BYTE: "Bytes.",
        PriceUnit.USD: "US dollars of provider cost.",
    },
)
describe_enum(
    UnlistedBlocks,
    description="What applies to blocks that are not in the rate card.",
    values={
        UnlistedBlocks.REFUSED: "They have no price and must not run.",
        UnlistedBlocks.FREE: "They cost 0.",
    },
)


@strawberry.input(description="The measurements of a block run, for prices that depend on them.")
class Measurements:
    seconds: float | None = strawberry.field(default=None, description="Its duration in seconds.")
    items: Long | None = strawberry.field(default=None, description="The number of items processed.")
    bytes: Long | None = strawberry.field(default=None, description="The number of bytes processed.")
    usd: str | None = strawberry.field(
        default=None, description='The cost charged by the provider, in US dollars, as a decimal string: "0.0123".'
    )

    def read(self, path: str) -> measurements.Measurements:
        """Check and convert the measurements. Raises: BadRequest: names the path of the value that is out of bounds."""
        try:
            return measurements.parse_measurements(
                seconds=self.seconds, items=self.items, bytes=self.bytes, usd=self.usd, path=path
            )
        except InvalidInput as error:
            raise BadRequest(error.message) from None


def check_settings(settings: object, path: str) -> Mapping[str, Any] | None:
    """Check that the settings of a block are an object or null. Raises: BadRequest."""
    if settings is None or isinstance(settings, dict):
        return settings
    raise BadRequest(f"{path} must be an object.")


@declare.type(description="The price of one block run.", needs=Permission.INHERITED)
class BlockPrice:
    credits: Credits = declare.value(description="The price of this block run.")
    unit: PriceUnit = declare.value(description="The unit of the price.")
    rate: float = declare.value(description="Credits per unit, for display. `credits` is exact.")
    rule: JSON | None = declare.value(
        description="The rule that sets the price; null if no rule applies, for example with the customer's own key."
    )
    rate_card_version: int = declare.value(description="The version of the rate card in force.")


@strawberry.input(description="A line of a plan: a number of runs of one block with the same settings.")
class PlannedBlockRun:
    block: str = strawberry.field(description="The block, as named in the rate card.")
    settings: JSON | None = strawberry.field(default=None, description="The settings of the block, an object.")
    uses_own_key: bool = strawberry.field(default=False, description="Whether the customer's own key is used.")
    measurements: Measurements | None = strawberry.field(
        default=None, description="The expected measurements of each run."
    )
    count: int = strawberry.field(default=1, description="The number of runs, 1 to 1,000,000.")


@declare.type(description="A line of an estimate.", needs=Permission.INHERITED)
class EstimateLine:
    block: str = declare.value(description="The block.")
    count: int = declare.value(description="The number of runs.")
    credits_each: Credits = declare.value(description="The cost of one run.")
    credits: Credits = declare.value(description="The cost of all runs of the line.")
    rule: JSON | None = declare.value(description="The rule that sets the price; null if no rule applies.")


@declare.type(description="The cost of a plan at the current prices and balance.", needs=Permission.INHERITED)
class TaskEstimate:
    credits: Credits = declare.value(description="The cost of the plan.")
    lines: list[EstimateLine] = declare.value(description="The lines, in the order of the plan.")
    affordable: bool = declare.value(description="Whether enough credits are available for the whole plan.")
    first_unaffordable_line: int | None = declare.value(
        description="The index, from 0, of the first line for which too few credits are available; null if there are "
        "enough."
    )
    shortfall: Credits = declare.value(
        description="Credits to add before the plan can be paid in full, including those that pay debt first; 0 if the "
        "available credits suffice."
    )


@declare.type(description="A rule that sets the price of a block.", needs=Permission.INHERITED)
class PriceRule:
    when: JSON | None = declare.value(description="The settings to which the rule applies. Null means any settings.")
    credits: Credits = declare.value(description="The price in credits of `per` units.")
    unit: PriceUnit = declare.value(description="The unit.")
    per: Long = declare.value(description="The number of units that cost `credits`.")


@declare.type(description="The price of block runs with one outcome.", needs=Permission.INHERITED)
class OutcomePrice:
    outcome: BlockRunOutcome = declare.value(description="The outcome.")
    at_most: Credits | None = declare.value(description="The maximum cost. Null means the full price.")


@declare.type(description="The prices of one block.", needs=Permission.INHERITED)
class BlockPrices:
    block: str = declare.value(description="The block.")
    provider: str | None = declare.value(description="The provider that the block calls; null if none is named.")
    priced_by_model: bool = declare.value(
        description="Whether the price depends on the model: see `models` of the rate card."
    )
    rules: list[PriceRule] = declare.value(description="The rules; empty if the block is priced by model.")
    outcomes: list[OutcomePrice] = declare.value(
        description="The outcome prices of this block. For other outcomes, the outcome prices of the rate card apply."
    )


@declare.type(description="The price of runs with one model, for blocks priced by model.", needs=Permission.INHERITED)
class ModelPrice:
    model: str = declare.value(description="The model, as named in the settings.")
    provider: str = declare.value(description="The provider of the model.")
    credits: Credits = declare.value(description="Credits per run.")


@declare.type(description="A rate card: one version of all prices.", needs=Permission.INHERITED)
class RateCard:
    version: int = declare.value(description="The version.")
    effective_at: datetime = declare.value(description="When it took effect, or takes effect.")
    unlisted_blocks: UnlistedBlocks = declare.value(description="What applies to blocks that it does not list.")
    blocks: list[BlockPrices] = declare.value(description="The blocks, in the order of the document.")
    models: list[ModelPrice] = declare.value(description="The models, in the order of the document.")
    outcomes: list[OutcomePrice] = declare.value(
        description="The outcome prices. Outcomes that are not listed cost the full price."
    )


@strawberry.input(description="The rate card to publish.")
class PublishRateCardInput:
    document: RateCardDocument = strawberry.field(description="The rate card.")
    effective_at: datetime | None = strawberry.field(
        default=None, description="When it takes effect, at least 10 seconds ahead. Null means as soon as possible."
    )
    reason: str | None = strawberry.field(default=None, description="The reason, for the audit log.")
    idempotency_key: str = strawberry.field(
        description="A repeated request with the same key returns the first result."
    )


@declare.type(description="The rate card is published.", needs=Permission.INHERITED)
class PublishRateCardSuccess:
    rate_card: RateCard = declare.value(description="The rate card, with its version and when it takes effect.")
    replayed: bool = declare.value(description="Whether an earlier request with this key has published it.")


Block = Annotated[str, strawberry.argument(description="The block, as named in the rate card.")]
BlockSettings = Annotated[JSON | None, strawberry.argument(description="The settings of the block, an object.")]
OwnKey = Annotated[bool, strawberry.argument(description="Whether the customer's own provider key is used.")]
Measured = Annotated[
    Measurements | None, strawberry.argument(description="Required if the price depends on measurements.")
]
Plan = Annotated[list[PlannedBlockRun], strawberry.argument(description="1 to 1,000 lines, in the order of execution.")]
Owner = Annotated[strawberry.ID | None, strawberry.argument(description="The owner who pays. Null means the caller.")]
Version = Annotated[int | None, strawberry.argument(description="The version. Null means the rate card in force.")]


@strawberry.type(description="Queries for prices.")
class PriceQueries:
    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="The current price of a block run with these settings, and the rule that sets it.",
        graphql_type=result_union("PriceResult", BlockPrice, (PriceNotFound, MeasurementMissing, BalanceLimitReached)),
    )
    async def block_price(
        self,
        info: ResolverInfo,
        block: Block,
        settings: BlockSettings = None,
        uses_own_key: OwnKey = False,
        measurements: Measured = None,
    ) -> BlockPrice:
        check_ids(block=block)
        found = quote(
            await info.context.state.rate_cards.current_card(),
            block,
            check_settings(settings, "settings"),
            uses_own_key=uses_own_key,
            measurements=measurements.read("measurements") if measurements else None,
        )
        return build_from(
            BlockPrice, found, unit=PriceUnit[found.unit.name], rate=float(found.rate), rule=to_json(found.rule)
        )

    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="The cost of a plan of block runs, and the line at which the available credits run out. A line "
        "without a price is an error with the code PRICE_NOT_FOUND, or MEASUREMENT_MISSING if the price depends on a "
        "measurement that the line does not have. The message begins with the line: blockRuns.0.",
    )
    async def estimate_task(self, info: ResolverInfo, block_runs: Plan, owner_id: Owner = None) -> TaskEstimate:
        check_list_length(block_runs, name="blockRuns", limit=estimates.MAX_LINES)
        owner = require_readable_owner(info.context, owner_id)
        planned = [_to_planned_run(line, f"blockRuns.{position}") for position, line in enumerate(block_runs)]
        card = await info.context.state.rate_cards.current_card()
        balance = await load_account_balance(owner, info.context)
        try:
            found = estimates.estimate_cost(card, planned, available_credits=balance.available)
        except InvalidInput as error:
            raise BadRequest(error.message) from None
        return build_from(
            TaskEstimate,
            found,
            lines=[build_from(EstimateLine, line, rule=to_json(line.quote.rule)) for line in found.lines],
            affordable=found.is_affordable,
            shortfall=Credits(0 if found.is_affordable else balance.shortfall(found.credits)),
        )

    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="The rate card in force, or any version. Null if it does not exist.",
    )
    async def rate_card(self, info: ResolverInfo, version: Version = None) -> RateCard | None:
        card = await info.context.state.rate_cards.find_card(version)
        return _to_rate_card(card) if card else None


@strawberry.type(description="Mutations of prices.")
class PriceMutations:
    @mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Publish a new version of all prices. It takes effect after all server processes have loaded it.",
        errors=(InvalidRateCard, InvalidInput, IdempotencyConflict),
    )
    async def publish_rate_card(self, info: ResolverInfo, input: PublishRateCardInput) -> PublishRateCardSuccess:
        done = await publishing.publish_rate_card(
            input.document,
            effective_at=input.effective_at,
            actor=info.context.authenticated_caller.actor,
            reason=input.reason,
            idempotency_key=input.idempotency_key,
            audit=audit_context(info),
        )
        return PublishRateCardSuccess(rate_card=_to_rate_card(done.card), replayed=done.replayed)


def _to_rate_card(card: Card) -> RateCard:
    return build_from(
        RateCard,
        card,
        unlisted_blocks=UnlistedBlocks.FREE if card.unlisted_free else UnlistedBlocks.REFUSED,
        blocks=[_to_block_prices(prices) for prices in card.blocks.values()],
        models=[build_from(ModelPrice, price) for price in card.models],
        outcomes=_to_outcome_prices(card.outcomes),
    )


def _to_outcome_prices(outcomes: OutcomePrices) -> list[OutcomePrice]:
    return [
        OutcomePrice(outcome=outcome, at_most=None if credits is None else Credits(credits))
        for outcome, credits in outcomes.items()
    ]


def _to_block_prices(prices: BlockPricesState) -> BlockPrices:
    # The rules of a block priced by model are the prices of the models, which `models` lists once for all blocks.
    rules = () if prices.priced_by_model else prices.rules
    return build_from(
        BlockPrices,
        prices,
        rules=[
            build_from(PriceRule, rule, when=to_json(rule.when or None), unit=PriceUnit[rule.unit.name])
            for rule in rules
        ],
        outcomes=_to_outcome_prices(prices.outcomes),
    )


def _to_planned_run(line: PlannedBlockRun, path: str) -> estimates.PlannedBlockRun:
    check_ids(**{f"{path}.block": line.block})
    return build_from(
        estimates.PlannedBlockRun,
        line,
        settings=check_settings(line.settings, f"{path}.settings"),
        measurements=line.measurements.read(f"{path}.measurements") if line.measurements else None,
    )
