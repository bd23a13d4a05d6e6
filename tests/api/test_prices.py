"""Prices: block prices, the rate card and publishing."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from app.db import pools
from app.pricing.rate_card_json import default_rate_card
from tests.api.conftest import ALICE, OPERATOR, SERVICE, Api

pytestmark = pytest.mark.anyio

PRICE = """query($block: String!, $settings: JSON, $own: Boolean! = false) {
  blockPrice(block: $block, settings: $settings, usesOwnKey: $own) { __typename
    ... on BlockPrice { credits unit rate rule rateCardVersion } ... on PriceNotFoundError { block rateCardVersion } }
    }"""

PUBLISH = """mutation($input: PublishRateCardInput!) { publishRateCard(input: $input) { __typename
    ... on PublishRateCardSuccess { replayed rateCard { version effectiveAt unlistedBlocks
        blocks { block pricedByModel rules { when credits unit per } } } }
    ... on InvalidRateCardError { problems { path message } }
    ... on InvalidInputError { problems { path } } } }"""


async def test_the_price_names_the_rule_that_matched(api: Api) -> None:
    found = await api.data(ALICE, PRICE, block="SearchPeopleBlock", settings={"enrich_info": True, "extra": 1})
    assert found["blockPrice"] == {
        "__typename": "BlockPrice",
        "credits": 20,
        "unit": "RUN",
        "rate": 20.0,
        "rule": {"when": {"enrich_info": True}, "credits": 20},
        "rateCardVersion": 1,
    }
    assert (await api.data(ALICE, PRICE, block="SearchPeopleBlock"))["blockPrice"][
        "credits"
    ] == 10  # a setting that is false or missing
    own = (await api.data(ALICE, PRICE, block="ClaudeCodeBlock", own=True))["blockPrice"]
    assert (own["credits"], own["rule"]) == (0, None)
    assert (await api.data(ALICE, PRICE, block="Unheard"))["blockPrice"] == {
        "__typename": "PriceNotFoundError",
        "block": "Unheard",
        "rateCardVersion": 1,
    }


async def test_the_default_rate_card_is_returned_in_full(api: Api) -> None:
    card = (
        await api.data(
            ALICE,
            """{ rateCard { version unlistedBlocks blocks { block pricedByModel rules { credits } }
            models { model credits } } }""",
        )
    )["rateCard"]
    assert (card["version"], card["unlistedBlocks"]) == (1, "REFUSED")
    by_model = [block for block in card["blocks"] if block["pricedByModel"]]
    free = [block for block in card["blocks"] if block["rules"] == [{"credits": 0}]]
    assert (len(card["blocks"]), len(by_model), len(free), len(card["models"])) == (37 + 7 + 24, 7, 24, 108)
    assert await api.data(ALICE, "{ rateCard(version: 2) { version } }") == {"rateCard": None}


async def test_a_rate_card_is_published_once_and_takes_effect_later(api: Api) -> None:
    document = default_rate_card() | {"unlisted": "free"}
    input: dict[str, Any] = {"document": document, "reason": "try", "idempotencyKey": "k1"}
    first = (await api.data(OPERATOR, PUBLISH, input=input))["publishRateCard"]
    assert (first["__typename"], first["replayed"]) == ("PublishRateCardSuccess", False)
    assert (first["rateCard"]["version"], first["rateCard"]["unlistedBlocks"]) == (2, "FREE")
    [clock] = await pools.fetch("SELECT clock_timestamp() AS now")
    assert datetime.fromisoformat(first["rateCard"]["effectiveAt"]) >= clock["now"] + timedelta(seconds=9)
    assert (await api.data(OPERATOR, PUBLISH, input=input))["publishRateCard"] == first | {"replayed": True}
    assert (await api.data(ALICE, PRICE, block="Unheard"))["blockPrice"]["__typename"] == "PriceNotFoundError"
    assert (await api.error(SERVICE, PUBLISH, input=input))[0] == "FORBIDDEN"


@pytest.mark.parametrize("per", [2**31, 10**12, 2**53 - 1])
async def test_a_price_per_many_bytes_is_shown(api: Api, per: int) -> None:
    document = {"blocks": [{"block": "Store", "credits": 1, "unit": "byte", "per": per}]}

    published = await api.data(OPERATOR, PUBLISH, input={"document": document, "idempotencyKey": "k"})

    [block] = published["publishRateCard"]["rateCard"]["blocks"]
    assert block["rules"] == [{"when": None, "credits": 1, "unit": "BYTE", "per": per}]


async def test_an_ambiguous_rate_card_is_refused_with_both_rules(api: Api) -> None:
    rules = [{"when": {"a": 1}, "credits": 1}, {"when": {"b": 2}, "credits": 2}]
    input = {"document": {"blocks": [{"block": "Both", "rules": rules}]}, "idempotencyKey": "k"}
    found = (await api.data(OPERATOR, PUBLISH, input=input))["publishRateCard"]
    assert found["__typename"] == "InvalidRateCardError"
    [problem] = found["problems"]
    assert '"a": 1' in problem["message"] + problem["path"] or "a" in problem["message"]
    soon = {"document": default_rate_card(), "idempotencyKey": "k", "effectiveAt": "2020-01-01T00:00:00Z"}
    assert (await api.data(OPERATOR, PUBLISH, input=soon))["publishRateCard"] == {
        "__typename": "InvalidInputError",
        "problems": [{"path": "effectiveAt"}],
    }
