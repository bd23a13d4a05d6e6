"""Prices: what one block run costs, what a plan would cost, the rate card, and publishing a new one."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import strawberry
from strawberry.scalars import JSON

from app.api.accounts.balance import load_figures
from app.api.audit_context import audit_context
from app.api.context import ResolverInfo
from app.api.error_types import (
    BalanceLimitReachedError,
    IdempotencyConflictError,
    InvalidInputError,
    InvalidRateCardError,
    MeasurementMissingError,
    PriceNotFoundError,
)
from app.api.input_checks import check_ids, check_list_length
from app.api.owner_scope import resolve_owner
from app.api.scalars import Credits, RateCardDocument
from app.api.tasks.charging import Measurements, check_settings
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.engine.scalars import to_json
from app.engine.schema import describe_enum
from app.errors import BadRequest, BillingError, Forbidden, InvalidInput, PriceUnavailable
from app.pricing import estimates as estimates
from app.pricing import publishing
from app.pricing.outcomes import BlockRunOutcome, OutcomePrices
from app.pricing.quotes import BlockPrices as PricedBlock
from app.pricing.quotes import Card, Quote, Rule, Unit, quote


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
    description="What a price counts.",
    values={
        PriceUnit.RUN: "Each block run.",
        PriceUnit.SECOND: "Seconds.",
        PriceUnit.ITEM: "Items.",
        PriceUnit.BYTE: "Bytes.",
        PriceUnit.USD: "US dollars of provider cost.",
    },
)
describe_enum(
    UnlistedBlocks,
    description="What a rate card does with blocks that it does not name.",
    values={UnlistedBlocks.REFUSED: "No price: they must not run.", UnlistedBlocks.FREE: "They cost 0."},
)


@declare.type(description="What one block run costs now.", needs=Permission.INHERITED)
class BlockPrice:
    credits: Credits = declare.value(description="The price of this block run.")
    unit: PriceUnit = declare.value(description="What the price counts.")
    rate: float = declare.value(description="Credits for one unit, for display; `credits` is exact.")
    rule: JSON | None = declare.value(description="The rule that says so; null with one's own key.")
    rate_card_version: int = declare.value(description="The rate card in force.")


PriceResult = Annotated[
    BlockPrice | PriceNotFoundError | MeasurementMissingError | BalanceLimitReachedError,
    strawberry.union("PriceResult", description="The price, or why there is none."),
]


@strawberry.input(description="A line of a plan: so many runs of one block with the same settings.")
class PlannedBlockRun:
    block: str = strawberry.field(description="The block, as the rate card names it.")
    settings: JSON | None = strawberry.field(default=None, description="The block's settings, an object.")
    uses_own_key: bool = strawberry.field(default=False, description="Whether the customer's own key is used.")
    measurements: Measurements | None = strawberry.field(default=None, description="Of each run, expected.")
    count: int = strawberry.field(default=1, description="How many runs, from 1 to 1,000,000.")


@declare.type(description="A line of an estimate.", needs=Permission.INHERITED)
class EstimateLine:
    block: str = declare.value(description="The block.")
    count: int = declare.value(description="How many runs.")
    credits_each: Credits = declare.value(description="What one run costs.")
    credits: Credits = declare.value(description="What the line costs.")
    rule: JSON | None = declare.value(description="The rule that says so; null with one's own key.")


@declare.type(description="What a plan would cost at today's prices and balance.", needs=Permission.INHERITED)
class TaskEstimate:
    credits: Credits = declare.value(description="The plan's cost.")
    lines: list[EstimateLine] = declare.value(description="Its lines, in the plan's order.")
    affordable: bool = declare.value(description="Whether all of it could be paid now.")
    first_unaffordable_line: int | None = declare.value(
        description="The first line, counted from 0, that could not be paid in full; null where all can."
    )
    shortfall: Credits = declare.value(description="Credits to add so that all of it could be paid.")


@declare.type(description="One rule of a block's price.", needs=Permission.INHERITED)
class PriceRule:
    when: JSON | None = declare.value(description="The settings that it wants; null: any.")
    credits: Credits = declare.value(description="Credits for every `per` units.")
    unit: PriceUnit = declare.value(description="What it counts.")
    per: int = declare.value(description="The divisor.")


@declare.type(description="What a block run costs that did not succeed.", needs=Permission.INHERITED)
class OutcomePrice:
    outcome: BlockRunOutcome = declare.value(description="How it ended.")
    at_most: Credits | None = declare.value(description="What it costs at the most; null: what success costs.")


@declare.type(description="The prices of one block.", needs=Permission.INHERITED)
class BlockPrices:
    block: str = declare.value(description="The block.")
    provider: str | None = declare.value(description="Who does the work.")
    priced_by_model: bool = declare.value(description="Whether it costs what its model costs: see models.")
    rules: list[PriceRule] = declare.value(description="Its rules; none where it is priced by model.")
    outcomes: list[OutcomePrice] = declare.value(description="Its own outcomes; the others are the card's.")


@declare.type(description="What a block priced by model costs with this model.", needs=Permission.INHERITED)
class ModelPrice:
    model: str = declare.value(description="The model, as the settings name it.")
    provider: str = declare.value(description="Who runs it.")
    credits: Credits = declare.value(description="Credits for each run.")


@declare.type(description="A version of all prices.", needs=Permission.INHERITED)
class RateCard:
    version: int = declare.value(description="Its number.")
    effective_at: datetime = declare.value(description="When it took or takes effect.")
    unlisted_blocks: UnlistedBlocks = declare.value(description="What it does with blocks that it does not name.")
    blocks: list[BlockPrices] = declare.value(description="The blocks, in the card's order.")
    models: list[ModelPrice] = declare.value(description="The models, in the card's order.")
    outcomes: list[OutcomePrice] = declare.value(
        description="What block runs cost that did not succeed; in full where an outcome is not named."
    )


@strawberry.input(description="A rate card to publish.")
class PublishRateCardInput:
    document: RateCardDocument = strawberry.field(description="The card.")
    effective_at: datetime | None = strawberry.field(
        default=None, description="When it takes effect, at least 10 s ahead; null: as soon as every worker holds it."
    )
    reason: str | None = strawberry.field(default=None, description="Why, for the record.")
    idempotency_key: str = strawberry.field(description="The same key and request again gives the first result.")


@declare.type(description="The rate card is published.", needs=Permission.INHERITED)
class PublishRateCardSuccess:
    rate_card: RateCard = declare.value(description="The card, with its version and instant.")
    replayed: bool = declare.value(description="Whether the same request had published it before.")


PublishRateCardResult = Annotated[
    PublishRateCardSuccess | InvalidRateCardError | InvalidInputError | IdempotencyConflictError,
    strawberry.union("PublishRateCardResult", description="Published, or why not."),
]

Block = Annotated[str, strawberry.argument(description="The block, as the rate card names it.")]
BlockSettings = Annotated[JSON | None, strawberry.argument(description="The block's settings, an object.")]
OwnKey = Annotated[bool, strawberry.argument(description="Whether the customer's own provider key is used.")]
Measured = Annotated[Measurements | None, strawberry.argument(description="For prices that are by measure.")]
Plan = Annotated[list[PlannedBlockRun], strawberry.argument(description="1 to 1,000 lines, in the order they run.")]
Owner = Annotated[strawberry.ID | None, strawberry.argument(description="Whose balance; null: one's own.")]
Version = Annotated[int | None, strawberry.argument(description="Which card; null: the one in force.")]
Publish = Annotated[PublishRateCardInput, strawberry.argument(description="The card, and when.")]


@strawberry.type(description="Reading prices.")
class PriceQueries:
    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="What one block run with these settings would cost now, and which rule says so.",
    )
    async def block_price(
        self,
        info: ResolverInfo,
        block: Block,
        settings: BlockSettings = None,
        uses_own_key: OwnKey = False,
        measurements: Measured = None,
    ) -> PriceResult:
        check_ids(block=block)
        card = await info.context.state.rate_cards.current_card()
        found = quote(
            card,
            block,
            check_settings(settings, "settings"),
            uses_own_key=uses_own_key,
            measurements=measurements.read("measurements") if measurements else None,
        )
        return to_block_price(found)

    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="What a plan of block runs would cost, and where the balance would run out. A line without a price "
        "is an error with the code PRICE_NOT_FOUND.",
    )
    async def estimate_task(self, info: ResolverInfo, block_runs: Plan, owner_id: Owner = None) -> TaskEstimate:
        check_ids(ownerId=owner_id)
        check_list_length(block_runs, name="blockRuns", limit=estimates.MAX_LINES)
        owner = resolve_owner(info.context, owner_id)
        if owner is None:
            raise Forbidden("You may not look at that owner's balance.")
        planned = [_planned(line, f"blockRuns.{place}") for place, line in enumerate(block_runs)]
        card = await info.context.state.rate_cards.current_card()
        figures = await load_figures(owner, info.context)
        try:
            found = estimates.estimate_cost(card, planned, available_credits=figures.available)
        except InvalidInput as refusal:
            raise BadRequest(refusal.message) from None
        except BillingError as refusal:
            raise PriceUnavailable(refusal.message) from None
        return _estimate_of(found)

    @declare.query(
        needs=Permission.AUTHENTICATED, description="The rate card in force, or any version; null where none is."
    )
    async def rate_card(self, info: ResolverInfo, version: Version = None) -> RateCard | None:
        card = await info.context.state.rate_cards.find_card(version)
        return to_rate_card(card) if card else None


@strawberry.type(description="Changing prices.")
class PriceMutations:
    @declare.mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Publish a new version of all prices. Every worker holds it before it counts.",
    )
    async def publish_rate_card(self, info: ResolverInfo, input: Publish) -> PublishRateCardResult:
        published = await publishing.publish_rate_card(
            input.document,
            effective_at=input.effective_at,
            actor=info.context.authenticated_caller.actor,
            reason=input.reason,
            idempotency_key=input.idempotency_key,
            audit=audit_context(info),
        )
        return PublishRateCardSuccess(rate_card=to_rate_card(published.card), replayed=published.replayed)


def to_block_price(found: Quote) -> BlockPrice:
    return BlockPrice(
        credits=Credits(found.credits),
        unit=PriceUnit[found.unit.name],
        rate=float(found.rate),
        rule=to_json(found.rule),
        rate_card_version=found.rate_card_version,
    )


def to_rate_card(card: Card) -> RateCard:
    return RateCard(
        version=card.version,
        effective_at=card.effective_at,
        unlisted_blocks=UnlistedBlocks.FREE if card.unlisted_free else UnlistedBlocks.REFUSED,
        blocks=[_block_of(prices) for prices in card.blocks.values()],
        models=[ModelPrice(model=m.model, provider=m.provider, credits=Credits(m.credits)) for m in card.models],
        outcomes=_outcomes_of(card.outcomes),
    )


def _outcomes_of(outcomes: OutcomePrices) -> list[OutcomePrice]:
    return [
        OutcomePrice(outcome=outcome, at_most=None if most is None else Credits(most))
        for outcome, most in outcomes.items()
    ]


def _block_of(prices: PricedBlock) -> BlockPrices:
    # Blocks priced by model share one long list: it stands once, in models.
    rules: tuple[Rule, ...] = () if prices.priced_by_model else prices.rules
    return BlockPrices(
        block=prices.block,
        provider=prices.provider,
        priced_by_model=prices.priced_by_model,
        rules=[
            PriceRule(
                when=to_json(rule.when or None), credits=Credits(rule.credits), unit=_unit(rule.unit), per=rule.per
            )
            for rule in rules
        ],
        outcomes=_outcomes_of(prices.outcomes),
    )


def _unit(unit: Unit) -> PriceUnit:
    return PriceUnit[unit.name]


def _planned(line: PlannedBlockRun, path: str) -> estimates.PlannedBlockRun:
    check_ids(**{f"{path}.block": line.block})
    return estimates.PlannedBlockRun(
        block=line.block,
        settings=check_settings(line.settings, f"{path}.settings"),
        uses_own_key=line.uses_own_key,
        measurements=line.measurements.read(f"{path}.measurements") if line.measurements else None,
        count=line.count,
    )


def _estimate_of(found: estimates.Estimate) -> TaskEstimate:
    return TaskEstimate(
        credits=Credits(found.credits),
        lines=[
            EstimateLine(
                block=line.block,
                count=line.count,
                credits_each=Credits(line.credits_each),
                credits=Credits(line.credits),
                rule=to_json(line.quote.rule),
            )
            for line in found.lines
        ],
        affordable=found.is_affordable,
        first_unaffordable_line=found.first_unaffordable_line,
        shortfall=Credits(found.shortfall_credits),
    )
