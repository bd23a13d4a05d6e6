"""Quotes: the price of one block run, computed from a rate card, the block and its settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, Context, Decimal
from enum import StrEnum
from typing import Final

from app.credits import MAX_CREDITS, round_up
from app.errors import BalanceLimitReached, MeasurementMissing, PriceNotFound
from app.pricing.block_names import BlockNames
from app.pricing.conditions import FALSE, JSON, Path, Scalar, comparable_scalar, is_missing, leaves, value_at
from app.pricing.measurements import Measurements
from app.pricing.outcomes import OutcomePrices
from app.wording import quote_value, shorten

MAX_REASON_LENGTH: Final = 300
MAX_COMPARED_SHAPES: Final = 20

# A product of two numbers of up to 57 digits is exact. A quotient may be inexact. It is rounded up, so rounding it up
# again to whole credits gives the same price as the exact quotient.
_EXACT: Final = Context(prec=120, rounding=ROUND_CEILING, Emax=MAX_EMAX, Emin=MIN_EMIN)


class Unit(StrEnum):
    RUN = "run"
    SECOND = "second"
    ITEM = "item"
    BYTE = "byte"
    USD = "usd"

    @property
    def measurement(self) -> str:
        """The field of Measurements that has this unit."""
        return "usd" if self is Unit.USD else f"{self}s"


@dataclass(frozen=True, slots=True)
class Rule:
    """A price of `credits` for every `per` units, for settings that match `when`. For the unit RUN, `per` is 1."""

    credits: int
    when: Mapping[str, JSON] = field(default_factory=dict)
    unit: Unit = Unit.RUN
    per: int = 1

    def as_json(self) -> dict[str, JSON]:
        """Return the rule as in a rate card document, without default values."""
        written: dict[str, JSON] = {"when": self.when} if self.when else {}
        written["credits"] = self.credits
        if self.unit is not Unit.RUN:
            written["unit"] = self.unit.value
        if self.per != 1:
            written["per"] = self.per
        return written


@dataclass(frozen=True, slots=True)
class BlockPrices:
    """The rules of one block. A block priced by model has one rule for each model of the card.

    `outcomes` are the block's own outcome prices. For other outcomes those of the card apply.
    """

    block: str
    rules: tuple[Rule, ...]
    provider: str | None = None
    priced_by_model: bool = False
    outcomes: OutcomePrices = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelPrice:
    model: str
    provider: str
    credits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The price of one block run.

    `credits` is the exact price; `rate` is the credits per unit, for display. `rule` is the rule as in a rate card
    document, or None if no rule decided (own key, or unlisted and free). `model` is the value of the model setting if
    the rule contains it.
    """

    credits: int
    unit: Unit
    rate: Decimal
    rule: Mapping[str, JSON] | None
    model: str | None
    rate_card_version: int


@dataclass(frozen=True, slots=True)
class _Offer:
    """A rule with its quote. At a fixed price all block runs share this quote."""

    rule: Rule
    quote: Quote


@dataclass(frozen=True, slots=True)
class _Shape:
    """All rules of a block with the same paths. No two of them have the same values, so one look-up finds the match.

    `setting` is given if the only path is a top-level setting, as in nearly every rule of a real card.
    """

    paths: tuple[Path, ...]
    setting: str | None
    offers: Mapping[tuple[Scalar, ...], _Offer]

    def match(self, settings: Mapping[str, JSON]) -> _Offer | None:
        if self.setting is not None:
            return self.offers.get((comparable_scalar(settings.get(self.setting, False)),))
        return self.offers.get(tuple([value_at(path, settings) for path in self.paths]))

    def missing_paths(self, settings: Mapping[str, JSON]) -> list[Path]:
        """Return the paths that are not in `settings`, without those for which a rule requires false."""
        return [
            path
            for position, path in enumerate(self.paths)
            if is_missing(path, settings) and all(values[position] is not FALSE for values in self.offers)
        ]


@dataclass(frozen=True, slots=True)
class Card:
    """One version of all prices, indexed for quotes. `rate_card_document` ensures that its rules are not ambiguous."""

    version: int
    effective_at: datetime
    blocks: Mapping[str, BlockPrices]
    models: tuple[ModelPrice, ...] = ()
    model_setting: str = "model"
    unlisted_free: bool = False
    outcomes: OutcomePrices = field(default_factory=dict)
    _shapes: Mapping[str, tuple[_Shape, ...]] = field(init=False, repr=False, compare=False)
    _free: Quote = field(init=False, repr=False, compare=False)
    _names: BlockNames = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shapes_of: dict[int, tuple[_Shape, ...]] = {}  # blocks priced by model share one tuple of rules, and its index
        for prices in self.blocks.values():
            if id(prices.rules) not in shapes_of:
                shapes_of[id(prices.rules)] = self._index(prices.rules)
        by_block = {name: shapes_of[id(prices.rules)] for name, prices in self.blocks.items()}
        object.__setattr__(self, "_shapes", by_block)
        free = Quote(credits=0, unit=Unit.RUN, rate=Decimal(0), rule=None, model=None, rate_card_version=self.version)
        object.__setattr__(self, "_free", free)
        object.__setattr__(self, "_names", BlockNames(self.blocks))

    def outcome_prices_of(self, block: str) -> OutcomePrices:
        """Return the outcome prices of a block: its own, and those of the card for other outcomes."""
        prices = self.blocks.get(block)
        return {**self.outcomes, **prices.outcomes} if prices is not None and prices.outcomes else self.outcomes

    def _index(self, rules: Sequence[Rule]) -> tuple[_Shape, ...]:
        """Return the shapes with the most leaves first, so that the first match is the most specific one."""
        by_paths: dict[tuple[Path, ...], dict[tuple[Scalar, ...], _Offer]] = {}
        for rule in rules:
            wanted = sorted(leaves(rule.when).items())
            offers = by_paths.setdefault(tuple([path for path, _ in wanted]), {})
            offers[tuple([value for _, value in wanted])] = _Offer(rule, self._prepared(rule))
        return tuple(
            _Shape(paths, paths[0][0] if len(paths) == 1 and len(paths[0]) == 1 else None, offers)
            for paths, offers in sorted(by_paths.items(), key=lambda item: -len(item[0]))
        )

    def _prepared(self, rule: Rule) -> Quote:
        model = rule.when.get(self.model_setting)
        return Quote(
            credits=rule.credits,
            unit=rule.unit,
            rate=Decimal(rule.credits) / rule.per,
            rule=rule.as_json(),
            model=model if isinstance(model, str) else None,
            rate_card_version=self.version,
        )


def quote(
    card: Card,
    block: str,
    settings: Mapping[str, JSON] | None,
    *,
    uses_own_key: bool = False,
    measurements: Measurements | None = None,
) -> Quote:
    """Return the price of one run of `block`. It is 0 if the customer's own provider key is used.

    Quotes are shared objects: do not change their rules. Raises: PriceNotFound, MeasurementMissing;
    BalanceLimitReached: the price would exceed 2^53 - 1.
    """
    if uses_own_key:
        return card._free
    shapes = card._shapes.get(block)
    if shapes is None:
        if card.unlisted_free:
            return card._free
        nearest = card._names.nearest(block)
        suggestion = "" if nearest is None else f" Did you mean {quote_value(nearest)}?"
        raise PriceNotFound(
            block=block, rate_card_version=card.version, reason=f"The block is not in the rate card.{suggestion}"
        )
    known = settings or {}
    for shape in shapes:
        if (offer := shape.match(known)) is not None:
            return offer.quote if offer.rule.unit is Unit.RUN else _measured(block, offer, measurements)
    raise PriceNotFound(
        block=block, rate_card_version=card.version, reason=f"{_unmatched_text(shapes, known)} {_priced_text(shapes)}"
    )


def price_by_recorded_rule(block: str, rule: Mapping[str, JSON] | None, measurements: Measurements) -> int:
    """Return the price of a block run by a rule that was recorded earlier (`Quote.rule`). Current prices do not matter.

    Raises: MeasurementMissing, BalanceLimitReached.
    """
    if rule is None:
        return 0
    credits, per, named = rule["credits"], rule.get("per", 1), rule.get("unit", "run")
    if not isinstance(credits, int) or not isinstance(per, int) or not isinstance(named, str):
        raise TypeError(f"not a recorded rule: {rule!r}")
    unit = Unit(named)
    return credits if unit is Unit.RUN else _by_measure(block, credits, unit, per, measurements)


def _measured(block: str, offer: _Offer, measurements: Measurements | None) -> Quote:
    rule = offer.rule
    return replace(offer.quote, credits=_by_measure(block, rule.credits, rule.unit, rule.per, measurements))


def _by_measure(block: str, credits: int, unit: Unit, per: int, measurements: Measurements | None) -> int:
    measure: Decimal | int | None = getattr(measurements, unit.measurement, None)
    if measure is None:
        raise MeasurementMissing(block=block, measurement=unit.measurement)
    return price(credits, Decimal(measure), per=per)


def price(credits: int, measure: Decimal, *, per: int) -> int:
    """Return the price of `measure` units at `credits` for every `per` units. Raises: BalanceLimitReached."""
    total = round_up(_EXACT.divide(_EXACT.multiply(Decimal(credits), measure), Decimal(per)))
    if total > MAX_CREDITS:
        raise BalanceLimitReached(figure="The price of this block run")
    return total


def _unmatched_text(shapes: Sequence[_Shape], settings: Mapping[str, JSON]) -> str:
    """Return a text that names the missing settings, or the settings whose values have no price.

    If rules require different sets of settings, the text is about the set of which the fewest are missing.
    """
    missing, shape = min(
        ((shape.missing_paths(settings), shape) for shape in shapes[:MAX_COMPARED_SHAPES]),
        key=lambda found: len(found[0]),
    )
    names = " and ".join(shorten(quote_value(".".join(path))) for path in missing or shape.paths)
    one = len(missing or shape.paths) == 1
    if missing:
        return f"The setting {names} is missing." if one else f"The settings {names} are missing."
    return f"No price matches the value of {names}." if one else f"No price matches the values of {names} together."


def _priced_text(shapes: Sequence[_Shape]) -> str:
    """Return the settings and values that have a price, cut to a readable length."""
    text = "Prices exist for:"
    listed = 0
    total = sum(len(shape.offers) for shape in shapes)
    for shape in shapes:
        for values in shape.offers:
            words = [f"{'.'.join(path)} = {_written(value)}" for path, value in zip(shape.paths, values, strict=True)]
            entry = shorten(" and ".join(words))
            if len(text) + len(entry) > MAX_REASON_LENGTH:
                return f"{text} and {total - listed:,} more."
            text = f"{text} {entry};"
            listed += 1
    return f"{text.rstrip(';')}."


def _written(value: Scalar) -> str:
    return value[0] if isinstance(value, tuple) else quote_value(value)
