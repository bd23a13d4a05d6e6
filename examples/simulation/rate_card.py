"""The rate card as the API shows it, and a plain look-up in it: what each charge must cost, found independently."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any, Final, Self

MODEL_SETTING: Final = "model"
MEASUREMENT_NAMES: Final = {"SECOND": "seconds", "ITEM": "items", "BYTE": "bytes", "USD": "usd"}
"""The measurement that a price by this unit asks for."""

Settings = Mapping[str, Any]
Measurements = Mapping[str, float | int | str]


class NoPrice(Exception):
    """The card says nothing about this block with these settings."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`credits` for every `per` units, where the settings hold `when`."""

    when: Settings
    credits: int
    unit: str = "RUN"
    per: int = 1


@dataclass(frozen=True, slots=True)
class Block:
    name: str
    rules: tuple[Rule, ...]
    priced_by_model: bool = False


@dataclass(frozen=True, slots=True)
class RateCard:
    version: int
    blocks: Mapping[str, Block]
    models: Mapping[str, int]
    """Credits a run, by model."""

    @classmethod
    def from_response(cls, answer: Mapping[str, Any]) -> Self:
        """Out of `rateCard`."""
        blocks = [
            Block(
                found["block"],
                tuple(Rule(rule["when"] or {}, rule["credits"], rule["unit"], rule["per"]) for rule in found["rules"]),
                found["pricedByModel"],
            )
            for found in answer["blocks"]
        ]
        models = {found["model"]: found["credits"] for found in answer["models"]}
        return cls(answer["version"], {block.name: block for block in blocks}, models)

    def price(self, block: str, settings: Settings, measurements: Measurements | None = None) -> int:
        """What a run costs without one's own key. Raises: NoPrice."""
        found = self.blocks.get(block)
        if found is None:
            raise NoPrice(block)
        if found.priced_by_model:
            if settings.get(MODEL_SETTING) not in self.models:
                raise NoPrice(block)
            return self.models[settings[MODEL_SETTING]]
        matching = [rule for rule in found.rules if matches(settings, rule.when)]
        if not matching:
            raise NoPrice(block)
        rule = max(matching, key=lambda rule: condition_count(rule.when))
        if rule.unit == "RUN":
            return rule.credits
        measure = (measurements or {}).get(MEASUREMENT_NAMES[rule.unit])
        if measure is None:
            raise NoPrice(block)
        return ceil(Fraction(rule.credits) * Fraction(str(measure)) / rule.per)


def matches(settings: Settings, when: Settings) -> bool:
    """Whether everything in `when` stands in the settings; false is also what is missing."""
    for name, wanted in when.items():
        if isinstance(wanted, Mapping):
            inner = settings.get(name, {})
            if not isinstance(inner, Mapping) or not matches(inner, wanted):
                return False
        elif not equal_json(settings.get(name, False), wanted):
            return False
    return True


def equal_json(one: object, other: object) -> bool:
    """Equal as JSON: true is not 1."""
    return isinstance(one, bool) is isinstance(other, bool) and one == other


def condition_count(when: Settings) -> int:
    return sum(condition_count(value) if isinstance(value, Mapping) else 1 for value in when.values())
