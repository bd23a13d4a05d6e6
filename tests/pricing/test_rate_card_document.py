"""Validation of rate card documents: what they may contain, and how every problem is reported."""

import json
from decimal import Decimal
from typing import Any

import pytest

from app.credits import MAX_CREDITS
from app.errors import InvalidRateCard
from app.pricing import rate_card_document, rate_card_json
from app.pricing.quotes import BlockPrices, ModelPrice, Rule, Unit, quote
from tests.pricing.cards import EFFECTIVE_AT, a_card


def problems_of(given: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRateCard) as refusal:
        rate_card_document.parse_rate_card(given, version=1, effective_at=EFFECTIVE_AT)
    return [(problem.path, problem.message) for problem in refusal.value.problems]


def test_a_document_is_parsed_to_a_card() -> None:
    card = a_card(
        {"block": "Fixed", "provider": "p", "credits": 2},
        {"block": "Timed", "credits": 3, "unit": "second", "per": 10},
        {"block": "Varied", "rules": [{"credits": 5.0}, {"when": {"a": {"b": 2.0}}, "credits": 9}]},
        about="an example",
        unlisted="free",
        model_setting="engine",
        model_priced_blocks=["Text"],
        models=[{"model": "Small 1", "provider": "q", "credits": 1}],
        free_blocks=["Note"],
    )

    assert list(card.blocks.values()) == [
        BlockPrices("Fixed", (Rule(2),), "p"),
        BlockPrices("Timed", (Rule(3, {}, Unit.SECOND, 10),)),
        BlockPrices("Varied", (Rule(5), Rule(9, {"a": {"b": 2}}))),
        BlockPrices("Text", (Rule(1, {"engine": "Small 1"}),), priced_by_model=True),
        BlockPrices("Note", (Rule(0),)),
    ]
    assert card.models == (ModelPrice("Small 1", "q", 1),)
    assert (card.version, card.effective_at, card.unlisted_free) == (7, EFFECTIVE_AT, True)


def test_all_problems_are_reported_at_once() -> None:
    given = {
        "unlisted": "maybe",
        "colour": "red",
        "blocks": [
            {"block": "A", "credits": -1},
            {"block": "A", "credits": 1.5},
            {"credits": True},
            {"block": "B", "rules": [], "per": 2},
            {"block": "C d", "provider": 5, "credits": MAX_CREDITS + 1},
            {"block": "E", "rules": [{"when": {"x": [1], "y": {}}, "credits": 1, "unit": "hour"}, {"when": 3}]},
            {"block": "F", "credits": 1, "per": 10},
            "G",
        ],
        "model_priced_blocks": ["A"],
        "models": [],
        "free_blocks": ["B", ""],
    }

    paths = [path for path, _ in problems_of(given)]

    assert paths == [
        "document",  # colour
        "unlisted",
        "blocks.0.credits",
        "blocks.1.credits",
        "blocks.1",  # A again
        "blocks.2",  # without a name
        "blocks.2.credits",
        "blocks.3",  # rules and per
        "blocks.3.rules",
        "blocks.4.block",
        "blocks.4.provider",
        "blocks.4.credits",
        "blocks.5.rules.0.when.x",
        "blocks.5.rules.0.when.y",
        "blocks.5.rules.0.unit",
        "blocks.5.rules.1",
        "blocks.5.rules.1.when",
        "blocks.6.per",
        "blocks.7",  # no object
        "blocks.7",  # and so without credits
        "models",
        "model_priced_blocks.0",
        "free_blocks.0",
        "free_blocks.1",
    ]


@pytest.mark.parametrize(
    ("given", "path", "words"),
    [
        (None, "document", "must be an object"),
        ([], "document", "must be an object"),
        ({}, "document", 'lacks "blocks"'),
        ({"blocks": []}, "blocks", "would refuse everything"),
        ({"blocks": {}}, "blocks", "must be a list"),
        ({"blocks": [{"block": "A"}]}, "blocks.0", 'lacks "credits"'),
        ({"blocks": [{"block": "A", "credits": "1"}]}, "blocks.0.credits", "whole number"),
        ({"blocks": [{"block": "A", "credits": float("inf")}]}, "blocks.0.credits", "whole number"),
        ({"blocks": [{"block": "x" * 256, "credits": 1}]}, "blocks.0.block", "1 to 255"),
        ({"blocks": [{"block": "A\u0000", "credits": 1}]}, "blocks.0.block", "visible"),
        ({"blocks": [{"block": "A\ud800", "credits": 1}]}, "blocks.0.block", "visible"),
        ({"blocks": [{"block": "A", "credits": 1, "unit": "second", "per": 0}]}, "blocks.0.per", "from 1 to"),
        ({"blocks": [{"block": "A", "credits": 1, "unit": []}]}, "blocks.0.unit", "run, second, item, byte, usd"),
        ({"blocks": [{"block": "A", "credits": 1, "when": {"a": 1}}]}, "blocks.0", 'unknown key "when"'),
        ({"blocks": [{"block": "A", "credits": 1}], "unlisted": []}, "unlisted", "must be"),
        ({"blocks": [{"block": "A", "credits": 1}], "about": "\u0000"}, "about", "must be text"),
        ({"blocks": [{"block": "A", "credits": 1}] * 2_001}, "blocks", "at most 2,000 entries"),
        ({"blocks": [{"block": "A", "rules": [{"credits": 1}] * 1_001}]}, "blocks.0.rules", "at most 1,000 entries"),
    ],
)
def test_each_problem_is_reported_with_its_path(given: Any, path: str, words: str) -> None:
    problems = problems_of(given)

    assert any(at == path and words in message for at, message in problems), problems


@pytest.mark.parametrize("value", [[1], float("nan"), 2**53, -(2**53), 10**400, 1e300, "x" * 256, "\u0000", "\ud800"])
def test_a_condition_accepts_only_values_that_can_be_compared_and_stored(value: Any) -> None:
    rules = [{"when": {"a": {"b": value}}, "credits": 1}]

    assert [path for path, _ in problems_of({"blocks": [{"block": "A", "rules": rules}]})] == [
        "blocks.0.rules.0.when.a.b"
    ]


@pytest.mark.parametrize(("depth", "path"), [(9, "blocks.0.rules.0.when" + ".a" * 8), (2_000, None)])
def test_conditions_nested_too_deep_are_refused(depth: int, path: str | None) -> None:
    when: Any = 1
    for _ in range(depth):
        when = {"a": when}

    problems = problems_of({"blocks": [{"block": "A", "rules": [{"when": when, "credits": 1}]}]})

    assert [at for at, _ in problems] == [path or "blocks.0.rules.0.when" + ".a" * 8]
    a_card({"block": "A", "rules": [{"when": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}}, "credits": 1}]})


def test_problems_beyond_the_first_200_are_counted() -> None:
    problems = problems_of({"blocks": [{"block": f"B{number}", "credits": -1} for number in range(300)]})

    assert len(problems) == 201
    assert problems[-1] == ("document", "has 100 more problems")


@pytest.mark.parametrize(
    ("number", "path"),
    [
        ('"credits": 9007199254740990.9', "blocks.0.credits"),
        ('"credits": 1.00000000000000001', "blocks.0.credits"),
        ('"credits": ' + "9" * 5_000, "blocks.0.credits"),
        ('"credits": 1, "when": {"size": 1.00000000000000001}', "blocks.0.rules.0.when.size"),
    ],
)
def test_a_number_in_a_file_is_never_rounded(number: str, path: str) -> None:
    inner = f'"rules": [{{{number}}}]' if "when" in number else number

    problems = problems_of(rate_card_json.parse_json(f'{{"blocks": [{{"block": "A", {inner}}}]}}'))

    assert [at for at, _ in problems] == [path]


def test_the_number_of_blocks_times_models_is_limited() -> None:
    problems = problems_of(
        {
            "blocks": [],
            "model_priced_blocks": [f"B{number}" for number in range(201)],
            "models": [{"model": f"m{number}", "provider": "p", "credits": 1} for number in range(100)],
        }
    )

    assert problems == [("document", "must have at most 20,000 rules (blocks times models too); it has 20,100")]


def test_rules_are_written_as_the_json_they_were_parsed_from() -> None:
    rules = [{"when": {"a": 1}, "credits": 5}, {"credits": 3, "unit": "usd", "per": 7}]
    card = a_card({"block": "A", "rules": rules})

    assert [rule.as_json() for rule in card.blocks["A"].rules] == rules
    assert quote(card, "A", {"a": 1}).rate == Decimal(5)


def test_the_document_hash_depends_on_the_meaning_and_not_on_the_format() -> None:
    one = rate_card_json.parse_json('{"blocks": [{"block": "A", "credits": 5.0}], "about": "é"}')
    other = rate_card_json.parse_json('{"about":"\\u00e9","blocks":[{"credits":5,"block":"A"}]}')

    assert rate_card_json.canonical_json(one) == '{"about":"é","blocks":[{"block":"A","credits":5}]}'.encode()
    assert rate_card_json.document_hash(one) == rate_card_json.document_hash(other)
    assert rate_card_json.document_hash(one) != rate_card_json.document_hash(one | {"about": "e"})
    assert rate_card_json.parse_json(rate_card_json.format_document(one)) == one


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ('{"blocks": [], "blocks": []}', "the same name twice in one object: blocks"),
        ('{"blocks": [{"block": "A", "credits": 5, "credits": 50}]}', "twice in one object: credits"),
        ('{"credits": NaN}', "NaN is not a number of JSON"),
        ('{"credits": -Infinity}', "-Infinity is not a number of JSON"),
        ("[" * 100_000, "is not JSON"),
        (" " * 4_000_001, "at most 4,000,000 characters"),
    ],
)
def test_invalid_and_ambiguous_json_is_refused(given: str, words: str) -> None:
    with pytest.raises(InvalidRateCard) as refusal:
        rate_card_json.parse_json(given)

    assert words in refusal.value.message


def test_the_default_card_is_strict_json() -> None:
    assert rate_card_json.parse_json(rate_card_json.default_rate_card_text()) == json.loads(
        rate_card_json.default_rate_card_text()
    )
