"""A rate card's document (JSON, written by people) -> Card, or every reason why it may not be published.

    {
      "about": "for people",
      "unlisted": "refused",                                              or "free": blocks that are not named cost 0
      "model_setting": "model",                                           the setting that names the model
      "blocks": [
        {"block": "ScreenshotWebPage", "provider": "x", "credits": 2},    a fixed price
        {"block": "MakeVideo", "credits": 3, "unit": "second", "per": 10},
        {"block": "MakeImage", "rules": [{"credits": 5}, {"when": {"size": {"hd": true}}, "credits": 9}]}
      ],
      "model_priced_blocks": ["WriteText"],                               these cost what their model costs
      "models": [{"model": "small-1", "provider": "y", "credits": 1}],
      "free_blocks": ["Note"],                                            explicit zeros
      "outcomes": {"failed": "full", "cancelled": {"fee": 1}, "provider_failed": "nothing"}
    }

Units are run (the default), second, item, byte and usd; `per` divides. Only `blocks` is required. `outcomes` says what
a block run costs that did not succeed: in full (the default), nothing, or at most a fee; a block may have its own.
"""

from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Final

from app.errors import InvalidRateCard, Problem
from app.pricing.checks import Checks
from app.pricing.conditions import Condition, ambiguous_pairs
from app.pricing.outcomes import BlockRunOutcome, OutcomePrices
from app.pricing.quotes import BlockPrices, Card, ModelPrice, Rule, Unit
from app.pricing.rate_card_json import MAX_TEXT_LENGTH, canonical_json

MAX_BLOCKS: Final = 2_000
MAX_MODELS: Final = 2_000
MAX_RULES_PER_BLOCK: Final = 1_000
MAX_RULES: Final = 20_000
"""Of all blocks together, where every block priced by model counts a rule for each model."""
MAX_ABOUT_LENGTH: Final = 10_000
MAX_AMBIGUITIES_PER_BLOCK: Final = 20

_OPTIONAL: Final = {"about", "unlisted", "model_setting", "model_priced_blocks", "models", "free_blocks", "outcomes"}
_UNSUCCESSFUL: Final = tuple(outcome.value for outcome in BlockRunOutcome if outcome is not BlockRunOutcome.SUCCEEDED)
_PRICE: Final = {"credits", "unit", "per"}


def parse_rate_card(document: object, *, version: int, effective_at: datetime) -> Card:
    """The card that `document` describes. Raises: InvalidRateCard, with all of its problems (the first 200)."""
    checks = Checks()
    card = _read(document, checks, version=version, effective_at=effective_at)
    if checks.unlisted:
        checks.problems.append(Problem("document", f"has {checks.unlisted:,} more problems"))
    if checks.problems:
        raise InvalidRateCard(problems=checks.problems)
    return card


def _read(document: object, checks: Checks, *, version: int, effective_at: datetime) -> Card:
    parts = checks.fields(document, "document", required={"blocks"}, optional=_OPTIONAL)
    about = parts.get("about", "")
    if not isinstance(about, str) or len(about) > MAX_ABOUT_LENGTH or not _can_be_stored(about):
        checks.note("about", f"must be text of at most {MAX_ABOUT_LENGTH:,} characters")
    unlisted = parts.get("unlisted", "refused")
    if unlisted not in ("refused", "free"):
        checks.note("unlisted", 'must be "refused" or "free"')
    model_setting = checks.name(parts.get("model_setting", "model"), "model_setting")
    models = _models(parts.get("models", []), checks)
    blocks: dict[str, BlockPrices] = {}
    placed: dict[str, str] = {}

    def place(prices: BlockPrices, path: str) -> None:
        if prices.block in placed:
            checks.note(path, f"prices block {prices.block!r} a second time: {placed[prices.block]} does already")
        placed[prices.block] = path
        blocks[prices.block] = prices

    for position, entry in enumerate(checks.entries(parts.get("blocks", []), "blocks", at_most=MAX_BLOCKS)):
        path = f"blocks.{position}"
        place(_block(entry, path, checks), path)
    by_model = tuple(Rule(price.credits, {model_setting: price.model}) for price in models)
    names = checks.entries(parts.get("model_priced_blocks", []), "model_priced_blocks", at_most=MAX_BLOCKS)
    if names and not models:
        checks.note("models", "must name at least one model: there are blocks priced by model")
    for position, name in enumerate(names):
        path = f"model_priced_blocks.{position}"
        place(BlockPrices(checks.name(name, path), by_model, priced_by_model=True), path)
    free = (Rule(0),)
    for position, name in enumerate(checks.entries(parts.get("free_blocks", []), "free_blocks", at_most=MAX_BLOCKS)):
        path = f"free_blocks.{position}"
        place(BlockPrices(checks.name(name, path), free), path)
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


def _outcomes(value: object, path: str, checks: Checks) -> OutcomePrices:
    parts = checks.fields(value, path, required=set(), optional={name.lower() for name in _UNSUCCESSFUL})
    return {BlockRunOutcome(name.upper()): _most(price, f"{path}.{name}", checks) for name, price in parts.items()
            if name.upper() in _UNSUCCESSFUL}  # fmt: skip


def _most(value: object, path: str, checks: Checks) -> int | None:
    """The most that an outcome costs."""
    if value == "full":
        return None
    if value == "nothing":
        return 0
    if isinstance(value, dict):
        parts = checks.fields(value, path, required={"fee"}, optional=set())
        return checks.whole(parts.get("fee", 1), f"{path}.fee", minimum=1)
    checks.note(path, 'must be "full", "nothing" or {"fee": credits}')
    return None


def _models(value: object, checks: Checks) -> tuple[ModelPrice, ...]:
    models: dict[str, ModelPrice] = {}
    for position, entry in enumerate(checks.entries(value, "models", at_most=MAX_MODELS)):
        path = f"models.{position}"
        parts = checks.fields(entry, path, required={"model", "provider", "credits"}, optional=set())
        model = checks.name(parts.get("model", "?"), f"{path}.model", spaces=True)
        provider = checks.name(parts.get("provider", "?"), f"{path}.provider", spaces=True)
        if model in models and "model" in parts:
            checks.note(path, f"prices model {model!r} a second time")
        models[model] = ModelPrice(model, provider, checks.whole(parts.get("credits", 0), f"{path}.credits", minimum=0))
    return tuple(models.values())


def _block(value: object, path: str, checks: Checks) -> BlockPrices:
    parts = checks.fields(value, path, required={"block"}, optional={"provider", "rules", "outcomes", *_PRICE})
    block = checks.name(parts.get("block", path), f"{path}.block")
    provider = checks.name(parts["provider"], f"{path}.provider", spaces=True) if "provider" in parts else None
    outcomes = _outcomes(parts.get("outcomes", {}), f"{path}.outcomes", checks)
    if "rules" not in parts:
        return BlockPrices(block, (_rule(parts, path, checks),), provider, outcomes=outcomes)
    if both := sorted(_PRICE & parts.keys()):
        checks.note(path, f"has rules and also {', '.join(both)}: a block has one fixed price or a list of rules")
    entries = checks.entries(parts["rules"], f"{path}.rules", at_most=MAX_RULES_PER_BLOCK)
    if not parts["rules"] and isinstance(parts["rules"], list):
        checks.note(f"{path}.rules", "must have at least one rule")
    rules: dict[int, Rule] = {}  # by position; a faulty one is left out, it would seem to clash with others
    for position, entry in enumerate(entries):
        at, noted = f"{path}.rules.{position}", checks.count
        rule = _rule(checks.fields(entry, at, required=set(), optional={"when", *_PRICE}), at, checks)
        if checks.count == noted:
            rules[position] = rule
    _note_ambiguities(block, rules, path, checks)
    return BlockPrices(block, tuple(rules.values()), provider, outcomes=outcomes)


def _note_ambiguities(block: str, rules: Mapping[int, Rule], path: str, checks: Checks) -> None:
    positions = list(rules)
    pairs = ambiguous_pairs([Condition(rule.when) for rule in rules.values()])
    for first, second in islice(pairs, MAX_AMBIGUITIES_PER_BLOCK):
        one, other = positions[first], positions[second]
        checks.note(
            f"{path}.rules.{other}",
            f"and rules.{one} of block {block!r} can both match, with equally many values: "
            f"{_when(rules[one])} and {_when(rules[other])}; let one name more settings",
        )


def _rule(parts: Mapping[str, Any], path: str, checks: Checks) -> Rule:
    if "credits" not in parts:
        checks.note(path, "lacks its 'credits'")
    credits = checks.whole(parts.get("credits", 0), f"{path}.credits", minimum=0)
    when = checks.condition(parts.get("when", {}), f"{path}.when")
    unit = parts.get("unit", "run")
    if not isinstance(unit, str) or unit not in set(Unit):
        checks.note(f"{path}.unit", f"must be one of {', '.join(Unit)}")
        unit = Unit.RUN
    per = checks.whole(parts.get("per", 1), f"{path}.per", minimum=1)
    if Unit(unit) is Unit.RUN and per != 1:
        checks.note(f"{path}.per", "divides a measure: a price per run has none")
    return Rule(credits, when, Unit(unit), per)


def _when(rule: Rule) -> str:
    words = canonical_json(rule.when).decode()
    return words if len(words) <= 200 else f"{words[:200]}…"


def _check_sizes(document: object, blocks: Mapping[str, BlockPrices], checks: Checks, *, unlisted_free: bool) -> None:
    if not blocks and not unlisted_free:
        checks.note("blocks", "must price at least one block: this card would refuse everything")
    total = sum(len(prices.rules) for prices in blocks.values())
    if total > MAX_RULES:
        checks.note("document", f"must have at most {MAX_RULES:,} rules (blocks times models too); it has {total:,}")
    if not checks.problems and len(canonical_json(document)) > MAX_TEXT_LENGTH:
        checks.note("document", f"must be at most {MAX_TEXT_LENGTH:,} bytes")


def _can_be_stored(text: str) -> bool:
    """PostgreSQL takes neither NUL nor half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
