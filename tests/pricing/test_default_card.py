"""Compares the default rate card with the data it was made from, block by block and model by model."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import PriceNotFound
from app.pricing import rate_card_document, rate_card_json
from app.pricing.quotes import Unit, quote
from tests.pricing.cards import EFFECTIVE_AT

DATA: dict[str, Any] = json.loads((Path(__file__).parent / "agent_platform_prices.json").read_text(encoding="utf-8"))
CARD = rate_card_document.parse_rate_card(rate_card_json.default_rate_card(), version=1, effective_at=EFFECTIVE_AT)
PRICES = [
    (entry["block"], price.get("when", {}), price["credits"]) for entry in DATA["blocks"] for price in entry["prices"]
]
MODELS = [(entry["model"], entry["credits"]) for entry in DATA["models"]]


def test_the_data_is_complete() -> None:
    counted = [len(DATA[part]) for part in ("blocks", "models", "model_priced_blocks", "free_blocks")]

    assert counted == [37, 108, 7, 24]


@pytest.mark.parametrize(("block", "when", "credits"), PRICES)
def test_every_block_costs_its_price(block: str, when: dict[str, Any], credits: int) -> None:
    quoted = quote(CARD, block, when | {"prompt": "anything"})

    assert (quoted.credits, quoted.unit) == (credits, Unit.RUN)
    assert quoted.model == when.get("model")
    assert quote(CARD, block, when, uses_own_key=True).credits == 0


@pytest.mark.parametrize("block", sorted({block for block, when, _ in PRICES if when}))
def test_settings_without_a_rule_are_refused_or_take_the_price_without_conditions(block: str) -> None:
    rules = {json.dumps(when): credits for name, when, credits in PRICES if name == block}
    setting = next(iter(next(when for name, when, _ in PRICES if name == block and when)))

    if "{}" in rules:
        assert quote(CARD, block, {setting: "unheard of"}).credits == rules["{}"]
    else:
        with pytest.raises(PriceNotFound):
            quote(CARD, block, {setting: "unheard of"})


@pytest.mark.parametrize("block", DATA["model_priced_blocks"])
def test_every_block_priced_by_model_costs_what_each_model_costs(block: str) -> None:
    quotes = [quote(CARD, block, {"model": model, "prompt": "anything"}) for model, _ in MODELS]

    assert [(quoted.model, quoted.credits) for quoted in quotes] == MODELS
    for unpriced in ({"model": "unheard-of"}, {}, {"model": None}):
        with pytest.raises(PriceNotFound):
            quote(CARD, block, unpriced)


@pytest.mark.parametrize("block", DATA["free_blocks"])
def test_every_free_block_has_an_explicit_price_of_0(block: str) -> None:
    quoted = quote(CARD, block, {"input": 1})

    assert (quoted.credits, quoted.rule) == (0, {"credits": 0})


def test_the_card_prices_these_blocks_and_no_others() -> None:
    named = [entry["block"] for entry in DATA["blocks"]] + DATA["model_priced_blocks"] + DATA["free_blocks"]

    assert list(CARD.blocks) == named
    assert CARD.unlisted_free is False
    with pytest.raises(PriceNotFound):
        quote(CARD, "UnheardOfBlock", {})


def test_providers_are_those_of_the_data() -> None:
    assert {entry["block"]: CARD.blocks[entry["block"]].provider for entry in DATA["blocks"]} == {
        entry["block"]: entry["provider"] for entry in DATA["blocks"]
    }
    assert [(price.model, price.provider) for price in CARD.models] == [
        (entry["model"], entry["provider"]) for entry in DATA["models"]
    ]


def test_the_file_has_one_block_or_model_on_each_line() -> None:
    assert rate_card_json.default_rate_card_text() == rate_card_json.format_document(rate_card_json.default_rate_card())
