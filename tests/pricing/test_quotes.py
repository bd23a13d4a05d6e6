"""Which rule prices a block run."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.errors import InvalidRateCard, PriceNotFound
from app.pricing.block_names import BlockNames
from app.pricing.quotes import Quote, Unit, quote
from tests.pricing.cards import a_card, a_card_with_rules, leaf_count, matches

SPECIFIC = (
    {"credits": 1},
    {"when": {"size": "big"}, "credits": 2},
    {"when": {"size": "big", "hd": True}, "credits": 3},
    {"when": {"size": "big", "style": {"name": "oil", "depth": 2}}, "credits": 4},
)


FREE = Quote(credits=0, unit=Unit.RUN, rate=Decimal(0), rule=None, model=None, rate_card_version=7)


@pytest.mark.parametrize("order", [1, -1], ids=["as listed", "reversed"])
@pytest.mark.parametrize(
    ("sent", "credits"),
    [
        ({}, 1),
        ({"size": "small"}, 1),
        ({"size": "big"}, 2),
        ({"size": "big", "hd": False}, 2),
        ({"size": "big", "hd": True}, 3),
        ({"size": "big", "hd": True, "prompt": "a cat"}, 3),
        ({"size": "big", "style": {"name": "oil"}}, 2),
        ({"size": "big", "style": {"name": "oil", "depth": 2, "more": [1]}}, 4),
        ({"size": "big", "hd": True, "style": {"name": "oil", "depth": 2}}, 4),
        ({"hd": True}, 1),
    ],
)
def test_the_rule_with_the_most_matched_values_wins_in_any_order(order: int, sent: Any, credits: int) -> None:
    card = a_card_with_rules(*SPECIFIC[::order])

    assert quote(card, "Block", sent).credits == credits


def test_a_quote_has_the_rule_the_unit_and_the_version() -> None:
    card = a_card_with_rules(*SPECIFIC)

    assert quote(card, "Block", {"size": "big", "prompt": "a secret"}) == Quote(
        credits=2,
        unit=Unit.RUN,
        rate=Decimal(2),
        rule={"when": {"size": "big"}, "credits": 2},
        model=None,
        rate_card_version=7,
    )
    assert quote(card, "Block", None).rule == {"credits": 1}


@pytest.mark.parametrize(
    ("when", "sent", "does"),
    [
        ({"a": False}, {}, True),
        ({"a": False}, {"a": False}, True),
        ({"a": False}, {"a": None}, False),
        ({"a": False}, {"a": 0}, False),
        ({"a": False}, {"a": ""}, False),
        ({"a": False}, {"a": {}}, False),
        ({"a": False}, {"a": []}, False),
        ({"a": {"b": False}}, {}, True),
        ({"a": {"b": False}}, {"a": {}}, True),
        ({"a": {"b": {"c": False}}}, {"a": {"x": 1}}, True),
        ({"a": {"b": False}}, {"a": {"b": True}}, False),
        ({"a": {"b": False}}, {"a": False}, False),
        ({"a": {"b": False}}, {"a": None}, False),
        ({"a": {"b": False}}, {"a": "text"}, False),
        ({"a": {"b": False, "c": 1}}, {}, False),
        ({"a": True}, {}, False),
        ({"a": None}, {}, False),
        ({"a": None}, {"a": None}, True),
    ],
)
def test_only_false_also_matches_a_missing_setting(when: Any, sent: Any, does: bool) -> None:
    _expect_match(when, sent, does)


@pytest.mark.parametrize(
    ("when", "sent", "does"),
    [
        ({"a": 1}, {"a": True}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 0}, {"a": False}, False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 0.5}, {"a": 0.5}, True),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": 1}, {"a": [1]}, False),
        ({"a": "true"}, {"a": True}, False),
        ({"a": "null"}, {"a": None}, False),
        ({"a": "x"}, {"a": "X"}, False),
        ({"a": {"b": "x"}}, {"a": [{"b": "x"}]}, False),
        ({"a": {"b": "x"}}, {"a.b": "x"}, False),
        ({"a.b": "x"}, {"a.b": "x"}, True),
        ({"a": {"b": {"c": {"d": "x"}}}}, {"a": {"b": {"c": {"d": "x", "e": 1}}}}, True),
    ],
)
def test_values_are_compared_by_type_and_objects_as_subsets(when: Any, sent: Any, does: bool) -> None:
    _expect_match(when, sent, does)


def _expect_match(when: Any, sent: Any, does: bool) -> None:
    card = a_card_with_rules({"when": when, "credits": 5})

    if does:
        assert quote(card, "Block", sent).credits == 5
    else:
        with pytest.raises(PriceNotFound):
            quote(card, "Block", sent)


def test_an_unknown_block_is_refused_unless_the_card_makes_it_free() -> None:
    refusing = a_card({"block": "Known", "credits": 1})
    giving = a_card({"block": "Known", "rules": [{"when": {"a": 1}, "credits": 1}]}, unlisted="free")

    with pytest.raises(PriceNotFound) as refusal:
        quote(refusing, "Unknown", {})
    assert refusal.value.message == (
        'Rate card 7 has no price for block "Unknown". The block is not in the rate card. Did you mean "Known"?'
    )

    assert quote(giving, "Unknown", {}) == FREE
    with pytest.raises(PriceNotFound):
        quote(giving, "Known", {"a": 2})


def test_a_refusal_names_the_priced_settings_and_nothing_that_was_sent() -> None:
    card = a_card_with_rules({"when": {"size": "big", "hd": False}, "credits": 1}, {"when": {"n": 2}, "credits": 1})

    with pytest.raises(PriceNotFound) as refusal:
        quote(card, "Block", {"size": "my password"})

    assert refusal.value.reason == (
        'No price matches the values of "hd" and "size" together. Prices exist for: hd = false and size = "big"; n = 2.'
    )


@pytest.mark.parametrize(
    ("rules", "sent", "reason"),
    [
        ([{"size": "big"}], {}, 'The setting "size" is missing.'),
        ([{"size": "big"}], {"size": "huge"}, 'No price matches the value of "size".'),
        ([{"size": "big"}], {"size": None}, 'No price matches the value of "size".'),
        ([{"size": "big", "hd": True}], {}, 'The settings "hd" and "size" are missing.'),
        ([{"size": "big", "hd": True}], {"size": "big"}, 'The setting "hd" is missing.'),
        ([{"size": "big", "hd": False}], {}, 'The setting "size" is missing.'),
        ([{"style": {"name": "oil"}}], {"style": {}}, 'The setting "style.name" is missing.'),
        ([{"style": {"name": "oil"}}], {"style": "oil"}, 'No price matches the value of "style.name".'),
        ([{"size": "big", "hd": True}, {"model": "a"}], {"size": "big"}, 'The setting "hd" is missing.'),
        ([{"size": "big", "hd": True}, {"model": "a"}], {}, 'The setting "model" is missing.'),
    ],
)
def test_a_refusal_names_the_missing_setting_or_the_one_without_a_price(rules: Any, sent: Any, reason: str) -> None:
    card = a_card_with_rules(*({"when": when, "credits": 1} for when in rules))

    with pytest.raises(PriceNotFound) as refusal:
        quote(card, "Block", sent)

    assert refusal.value.reason.startswith(f"{reason} Prices exist for: ")


@pytest.mark.parametrize(
    ("block", "nearest"),
    [
        ("ScreenshotWebpage", "ScreenshotWebPage"),
        ("screenshot_web_page", "ScreenshotWebPage"),
        ("ScreenshotWebPageBlock", "ScreenshotWebPage"),
        ("ScreenshotWbPage", "ScreenshotWebPage"),
        ("WriteTxt", "WriteText"),
        ("", None),
        ("Xyz", None),
        ("W" * 255, None),
    ],
)
def test_the_nearest_block_is_suggested_if_one_is_similar(block: str, nearest: str | None) -> None:
    names = BlockNames(["ScreenshotWebPage", "WriteText", "WriteFile", "MakeVideo", "X"])

    assert names.nearest(block) == nearest


@pytest.mark.parametrize(
    ("setting", "values"), [("s" * 200, ["x" * 255, "y"]), ("model", [f"model-{number}" for number in range(500)])]
)
def test_the_message_of_a_refusal_has_a_readable_length(setting: str, values: list[str]) -> None:
    card = a_card_with_rules(*({"when": {setting: value}, "credits": 1} for value in values))

    with pytest.raises(PriceNotFound) as refusal:
        quote(card, "Block", {})

    assert refusal.value.reason.endswith(" more.") or "…" in refusal.value.reason
    assert len(refusal.value.reason) < 500


def test_every_block_costs_nothing_with_the_customers_own_key() -> None:
    card = a_card({"block": "Slow", "credits": 5, "unit": "second"}, {"block": "Dear", "credits": 999})

    for block in ("Slow", "Dear", "Unknown"):
        assert quote(card, block, {}, uses_own_key=True) == FREE


def test_a_quote_has_a_model_only_if_the_rule_names_it() -> None:
    card = a_card(
        {"block": "Picture", "rules": [{"credits": 1}, {"when": {"engine": "fast", "size": 1}, "credits": 2}]},
        model_setting="engine",
        model_priced_blocks=["Text"],
        models=[{"model": "small", "provider": "p", "credits": 3}],
    )

    assert quote(card, "Text", {"engine": "small"}).model == "small"
    assert quote(card, "Text", {"engine": "small"}).rule == {"when": {"engine": "small"}, "credits": 3}
    assert quote(card, "Picture", {"engine": "fast", "size": 1}).model == "fast"
    assert quote(card, "Picture", {"engine": "a secret"}).model is None
    with pytest.raises(PriceNotFound):
        quote(card, "Text", {"engine": "large"})
    with pytest.raises(PriceNotFound):
        quote(card, "Text", {"model": "small"})


def test_deep_and_large_settings_are_priced_like_others() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"a": deep}
    card = a_card_with_rules({"credits": 1}, {"when": {"a": {"a": {"b": 1}}}, "credits": 2})

    assert quote(card, "Block", deep).credits == 1
    assert quote(card, "Block", {"a": {"a": {"b": 1, "text": "x" * 1_000_000}}}).credits == 2
    assert quote(card, "Block", {"a": float("nan"), "b": 10**4_000}).credits == 1


names = st.sampled_from(["a", "b", "c"])
scalars = st.sampled_from([True, False, None, 0, 1, 1.0, 0.5, "", "x", "1"])
conditions = st.dictionaries(
    names, st.one_of(scalars, st.dictionaries(names, scalars, min_size=1, max_size=2)), max_size=3
)
sent_settings: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    names,
    st.one_of(scalars, st.just([1]), st.dictionaries(names, st.one_of(scalars, st.just({})), max_size=3)),
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(whens=st.lists(conditions, min_size=1, max_size=6), sent=st.lists(sent_settings, min_size=1, max_size=8))
def test_the_index_agrees_with_the_specification(whens: list[Any], sent: list[Any]) -> None:
    rules = [{"when": when, "credits": number} for number, when in enumerate(whens)]
    try:
        card = a_card_with_rules(*rules)
    except InvalidRateCard:
        assume(False)
        return

    for these in sent:
        fitting = [number for number, when in enumerate(whens) if matches(when, these)]
        if fitting:
            assert quote(card, "Block", these).credits == max(fitting, key=lambda number: leaf_count(whens[number]))
        else:
            with pytest.raises(PriceNotFound):
                quote(card, "Block", these)
