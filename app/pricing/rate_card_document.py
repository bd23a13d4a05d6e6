"""Converts a rate card document (JSON written by people) to a `Card`, or lists every reason why it is invalid.

    {
      "about": "a note for people",
      "unlisted": "refused",                                              or "free": unlisted blocks cost 0
      "model_setting": "model",                                           the setting that names the language model
      "blocks": [
        {"block": "ScreenshotWebPage", "provider": "x", "credits": 2},    a fixed price
        {"block": "MakeVideo", "credits": 3, "unit": "second", "per": 10},
        {"block": "MakeImage", "rules": [{"credits": 5}, {"when": {"size": {"hd": true}}, "credits": 9}]}
      ],
      "model_priced_blocks": ["WriteText"],                               these cost what their model costs
      "models": [{"model": "small-1", "provider": "y", "credits": 1}],
      "free_blocks": ["Note"],                                            these cost 0
      "outcomes": {"failed": "full", "cancelled": {"fee": 1}, "provider_failed": "nothing"}
    }

Units are run (the default), second, item, byte and usd; `per` divides the measurement. Only `blocks` is required.
`outcomes` contains the cost of a block run that did not succeed: the full price (the default), nothing, or at most a
fee. A block can have its own `outcomes`.

A check that fails records its problem and returns some valid value, so that all problems are reported together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final

from app.credits import MAX_CREDITS, is_storable, is_visible
from app.errors import InvalidRateCard, Problem
from app.exact_json import InexactNumber
from app.pricing.conditions import Condition, ambiguous_pairs
from app.pricing.outcomes import BlockRunOutcome, OutcomePrices
from app.pricing.quotes import BlockPrices, Card, ModelPrice, Rule, Unit
from app.pricing.rate_card_json import MAX_TEXT_LENGTH, canonical_json
from app.wording import counted, quote_value

MAX_PROBLEMS: Final = 200
MAX_NAME_LENGTH: Final = 255
MAX_ABOUT_LENGTH: Final = 10_000
MAX_BLOCKS: Final = 2_000
MAX_MODELS: Final = 2_000
MAX_RULES_PER_BLOCK: Final = 1_000
MAX_RULES: Final = 20_000
"""The maximum number of rules of all blocks together. A block priced by model counts one rule for each model."""
MAX_CONDITION_DEPTH: Final = 8
MAX_LEAVES: Final = 32
MAX_AMBIGUITIES_PER_BLOCK: Final = 20

_OPTIONAL: Final = {"about", "unlisted", "model_setting", "model_priced_blocks", "models", "free_blocks", "outcomes"}
_UNSUCCESSFUL: Final = {outcome.value.lower(): outcome for outcome in BlockRunOutcome if outcome != "SUCCEEDED"}
_PRICE: Final = {"credits", "unit", "per"}
_FREE: Final = (Rule(0),)


def parse_rate_card(document: object, *, version: int, effective_at: datetime) -> Card:
    """Return the card that `document` describes. Raises: InvalidRateCard: lists the first 200 problems."""
    checks = _Checks()
    card = _card(document, checks, version=version, effective_at=effective_at)
    if checks.unlisted:
        checks.problems.append(Problem("document", f"has {counted(checks.unlisted, 'more problem')}"))
    if checks.problems:
        raise InvalidRateCard(problems=checks.problems)
    return card


@dataclass(slots=True)
class _Checks:
    """Collects problems. A check returns the value if it is valid, otherwise some valid value."""

    problems: list[Problem] = field(default_factory=list)
    unlisted: int = 0
    """The number of problems beyond the first 200."""

    @property
    def count(self) -> int:
        return len(self.problems) + self.unlisted

    def note(self, path: str, message: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(path, message))
        else:
            self.unlisted += 1

    def fields(self, value: object, path: str, *, required: set[str], optional: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.note(path, "must be an object")
            return {}
        for name in value:
            if name not in required | optional:
                known = ", ".join(sorted(required | optional))
                self.note(path, f"has the unknown key {quote_value(name)}; known are {known}")
        for name in sorted(required - value.keys()):
            self.note(path, f"lacks {quote_value(name)}")
        return value

    def entries(self, value: object, path: str, *, at_most: int) -> list[tuple[str, Any]]:
        """Return the entries of a list, each with its path."""
        if not isinstance(value, list):
            self.note(path, "must be a list")
            return []
        if len(value) > at_most:
            self.note(path, f"must have at most {at_most:,} entries; it has {len(value):,}")
            return []
        return [(f"{path}.{position}", entry) for position, entry in enumerate(value)]

    def name(self, value: object, path: str, *, spaces: bool = False) -> str:
        """Return a name of 1 to 255 visible characters. `spaces` allows several words."""
        if not isinstance(value, str):
            self.note(path, "must be text")
            return ""
        visible = is_visible(value) and value == value.strip() and (spaces or " " not in value)
        if not (visible and 1 <= len(value) <= MAX_NAME_LENGTH):
            words = "" if spaces else ", without spaces"
            self.note(path, f"must have 1 to {MAX_NAME_LENGTH} visible characters{words}")
        return value

    def whole_number(self, value: object, path: str, *, minimum: int) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON has one type of number, so 5.0 is 5
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= MAX_CREDITS:
            self.note(path, f"must be a whole number from {minimum} to {MAX_CREDITS:,}")
            return minimum
        return value

    def condition(self, value: object, path: str) -> dict[str, Any]:
        """Return a `when`: at most 8 levels of objects that contain scalars. Only the outermost object may be empty."""
        leaf_count = 0

        def check(part: object, at: str, depth: int) -> Any:
            nonlocal leaf_count
            if isinstance(part, Mapping):
                if depth == MAX_CONDITION_DEPTH:
                    self.note(at, f"is nested more than {MAX_CONDITION_DEPTH} deep")
                    return False
                if not part and depth:
                    self.note(at, "is an empty object, which would match anything: leave it out")
                paths = [(name, f"{at}.{self.name(name, at, spaces=True)[:100]}") for name in part]
                return {name: check(part[name], path_below, depth + 1) for name, path_below in paths}
            leaf_count += 1
            return self._scalar(part, at)

        if not isinstance(value, dict):
            self.note(path, "must be an object of settings and the values they must have")
            return {}
        checked: dict[str, Any] = check(value, path, 0)
        if leaf_count > MAX_LEAVES:
            self.note(path, f"must have at most {MAX_LEAVES} values; it has {leaf_count:,}")
            return {}
        return checked

    def _scalar(self, value: object, path: str) -> str | int | float | bool | None:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float | InexactNumber):
            if not isinstance(value, InexactNumber) and abs(value) <= MAX_CREDITS:
                return int(value) if float(value).is_integer() else value
            self.note(path, f"must be a number within ±{MAX_CREDITS:,} that fits a double without rounding")
            return 0
        if isinstance(value, str):
            if len(value) <= MAX_NAME_LENGTH and (value.isprintable() or not value):
                return value
            self.note(path, f"must be text of at most {MAX_NAME_LENGTH} printable characters")
            return ""
        self.note(path, "must be text, a number, true, false, null or an object; lists cannot be compared")
        return False


def _card(document: object, checks: _Checks, *, version: int, effective_at: datetime) -> Card:
    parts = checks.fields(document, "document", required={"blocks"}, optional=_OPTIONAL)
    about = parts.get("about", "")
    if not isinstance(about, str) or len(about) > MAX_ABOUT_LENGTH or not is_storable(about):
        checks.note("about", f"must be text of at most {MAX_ABOUT_LENGTH:,} characters")
    unlisted = parts.get("unlisted", "refused")
    if unlisted not in ("refused", "free"):
        checks.note("unlisted", 'must be "refused" or "free"')
    model_setting = checks.name(parts.get("model_setting", "model"), "model_setting")
    models = _models(parts.get("models", []), checks)
    blocks: dict[str, BlockPrices] = {}
    paths: dict[str, str] = {}

    def add(prices: BlockPrices, path: str) -> None:
        if prices.block in paths:
            checks.note(
                path, f"prices block {quote_value(prices.block)} a second time: {paths[prices.block]} prices it already"
            )
        paths[prices.block] = path
        blocks[prices.block] = prices

    for path, entry in checks.entries(parts.get("blocks", []), "blocks", at_most=MAX_BLOCKS):
        add(_block(entry, path, checks), path)
    by_model = tuple(Rule(price.credits, {model_setting: price.model}) for price in models)
    names = checks.entries(parts.get("model_priced_blocks", []), "model_priced_blocks", at_most=MAX_BLOCKS)
    if names and not models:
        checks.note("models", "must name at least one model: there are blocks priced by model")
    for path, name in names:
        add(BlockPrices(checks.name(name, path), by_model, priced_by_model=True), path)
    for path, name in checks.entries(parts.get("free_blocks", []), "free_blocks", at_most=MAX_BLOCKS):
        add(BlockPrices(checks.name(name, path), _FREE), path)
    _check_sizes(document, blocks, checks, unlisted_free=unlisted == "free")
    return Card(
        version=version,
        effective_at=effective_at,
        blocks=blocks,
        models=models,
        model_setting=model_setting,
        unlisted_free=unlisted == "free",
        outcomes=_outcomes(parts.get("outcomes", {}), "outcomes", checks),
    )


def _outcomes(value: object, path: str, checks: _Checks) -> OutcomePrices:
    parts = checks.fields(value, path, required=set(), optional=set(_UNSUCCESSFUL))
    return {
        _UNSUCCESSFUL[name]: _maximum_cost(price, f"{path}.{name}", checks)
        for name, price in parts.items()
        if name in _UNSUCCESSFUL
    }


def _maximum_cost(value: object, path: str, checks: _Checks) -> int | None:
    """Return the maximum cost of an outcome in credits, or None for the full price."""
    if value == "full":
        return None
    if value == "nothing":
        return 0
    if isinstance(value, dict):
        parts = checks.fields(value, path, required={"fee"}, optional=set())
        return checks.whole_number(parts.get("fee", 1), f"{path}.fee", minimum=1)
    checks.note(path, 'must be "full", "nothing" or {"fee": credits}')
    return None


def _models(value: object, checks: _Checks) -> tuple[ModelPrice, ...]:
    models: dict[str, ModelPrice] = {}
    for path, entry in checks.entries(value, "models", at_most=MAX_MODELS):
        parts = checks.fields(entry, path, required={"model", "provider", "credits"}, optional=set())
        model = checks.name(parts.get("model", "?"), f"{path}.model", spaces=True)
        provider = checks.name(parts.get("provider", "?"), f"{path}.provider", spaces=True)
        credits = checks.whole_number(parts.get("credits", 0), f"{path}.credits", minimum=0)
        if model in models and "model" in parts:
            checks.note(path, f"prices model {quote_value(model)} a second time")
        models[model] = ModelPrice(model, provider, credits)
    return tuple(models.values())


def _block(value: object, path: str, checks: _Checks) -> BlockPrices:
    parts = checks.fields(value, path, required={"block"}, optional={"provider", "rules", "outcomes", *_PRICE})
    block = checks.name(parts.get("block", path), f"{path}.block")
    provider = checks.name(parts["provider"], f"{path}.provider", spaces=True) if "provider" in parts else None
    outcomes = _outcomes(parts.get("outcomes", {}), f"{path}.outcomes", checks)
    if "rules" not in parts:
        return BlockPrices(block, (_rule(parts, path, checks),), provider, outcomes=outcomes)
    if both := sorted(_PRICE & parts.keys()):
        checks.note(path, f"has rules and also {', '.join(both)}: a block has one fixed price or a list of rules")
    if parts["rules"] == []:
        checks.note(f"{path}.rules", "must have at least one rule")
    rules: dict[int, Rule] = {}  # by position, without invalid rules, which would seem ambiguous
    entries = checks.entries(parts["rules"], f"{path}.rules", at_most=MAX_RULES_PER_BLOCK)
    for position, (at, entry) in enumerate(entries):
        noted = checks.count
        rule = _rule(checks.fields(entry, at, required=set(), optional={"when", *_PRICE}), at, checks)
        if checks.count == noted:
            rules[position] = rule
    _note_ambiguities(block, rules, path, checks)
    return BlockPrices(block, tuple(rules.values()), provider, outcomes=outcomes)


def _note_ambiguities(block: str, rules: Mapping[int, Rule], path: str, checks: _Checks) -> None:
    positions = list(rules)
    pairs = ambiguous_pairs([Condition(rule.when) for rule in rules.values()])
    for first, second in islice(pairs, MAX_AMBIGUITIES_PER_BLOCK):
        one, other = positions[first], positions[second]
        checks.note(
            f"{path}.rules.{other}",
            f"and rules.{one} of block {quote_value(block)} can both match, with equally many values: "
            f"{_condition_text(rules[one])} and {_condition_text(rules[other])}; let one name more settings",
        )


def _rule(parts: Mapping[str, Any], path: str, checks: _Checks) -> Rule:
    if "credits" not in parts:
        checks.note(path, 'lacks "credits"')
    credits = checks.whole_number(parts.get("credits", 0), f"{path}.credits", minimum=0)
    when = checks.condition(parts.get("when", {}), f"{path}.when")
    unit = parts.get("unit", "run")
    if not isinstance(unit, str) or unit not in set(Unit):
        checks.note(f"{path}.unit", f"must be one of {', '.join(Unit)}")
        unit = Unit.RUN
    per = checks.whole_number(parts.get("per", 1), f"{path}.per", minimum=1)
    if Unit(unit) is Unit.RUN and per != 1:
        checks.note(f"{path}.per", "divides a measurement: a price per run has none")
    return Rule(credits, when, Unit(unit), per)


def _condition_text(rule: Rule) -> str:
    text = canonical_json(rule.when).decode()
    return text if len(text) <= 200 else f"{text[:200]}…"


def _check_sizes(document: object, blocks: Mapping[str, BlockPrices], checks: _Checks, *, unlisted_free: bool) -> None:
    if not blocks and not unlisted_free:
        checks.note("blocks", "must price at least one block: this card would refuse everything")
    total = sum(len(prices.rules) for prices in blocks.values())
    if total > MAX_RULES:
        checks.note("document", f"must have at most {MAX_RULES:,} rules (blocks times models too); it has {total:,}")
    if not checks.problems and len(canonical_json(document)) > MAX_TEXT_LENGTH:
        checks.note("document", f"must be at most {MAX_TEXT_LENGTH:,} bytes")
