"""The rate card as the API returns it, and a computation of prices that is independent of the server."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any, Final, Self

MODEL_SETTING: Final = "model"
MEASUREMENT_NAMES: Final = {"SECOND": "seconds", "ITEM": "items", "BYTE": "bytes", "USD": "usd"}
"""For each unit of prices, the measurement that it needs."""

Settings = Mapping[str, Any]
Measurements = Mapping[str, float | int | str]


class NoPrice(Exception):
    """The rate card has no price for this block with these settings."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A price: `credits` for every `per` units, if the settings match `when`."""

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
    """A rate card. `models`: the credits for a run, by model."""

    version: int
    blocks: Mapping[str, Block]
    models: Mapping[str, int]

    @classmethod
    def from_response(cls, response: Mapping[str, Any]) -> Self:
        """Build the rate card from the value of the field `rateCard`."""
        blocks = {
            block["block"]: Block(
                name=block["block"],
                rules=tuple(
                    Rule(when=rule["when"] or {}, credits=rule["credits"], unit=rule["unit"], per=rule["per"])
                    for rule in block["rules"]
                ),
                priced_by_model=block["pricedByModel"],
            )
            for block in response["blocks"]
        }
        models = {model["model"]: model["credits"] for model in response["models"]}
        return cls(response["version"], blocks, models)

    def price(self, block_name: str, settings: Settings, measurements: Measurements | None = None) -> int:
        """Return the cost of a block run that does not use the user's own key. Raises: NoPrice."""
        block = self.blocks.get(block_name)
        if block is None:
            raise NoPrice(block_name)
        if block.priced_by_model:
            if settings.get(MODEL_SETTING) not in self.models:
                raise NoPrice(block_name)
            return self.models[settings[MODEL_SETTING]]
        matching = [rule for rule in block.rules if matches(settings, rule.when)]
        if not matching:
            raise NoPrice(block_name)
        rule = max(matching, key=lambda rule: condition_count(rule.when))
        if rule.unit == "RUN":
            return rule.credits
        measurement = (measurements or {}).get(MEASUREMENT_NAMES[rule.unit])
        if measurement is None:
            raise NoPrice(block_name)
        return ceil(Fraction(rule.credits) * Fraction(str(measurement)) / rule.per)


def matches(settings: Settings, when: Settings) -> bool:
    """Return whether the settings contain everything in `when`. A missing setting counts as false."""
    for name, expected in when.items():
        value = settings.get(name, False)
        if isinstance(expected, Mapping):
            value = settings.get(name, {})
            if not isinstance(value, Mapping) or not matches(value, expected):
                return False
        elif isinstance(value, bool) is not isinstance(expected, bool) or value != expected:  # in JSON true is not 1
            return False
    return True


def condition_count(when: Settings) -> int:
    return sum(condition_count(value) if isinstance(value, Mapping) else 1 for value in when.values())
