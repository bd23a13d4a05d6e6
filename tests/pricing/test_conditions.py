"""Whether two conditions can match the same settings, and how that is reported."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidRateCard
from app.pricing.conditions import Condition, ambiguous_pairs, can_both_match
from tests.pricing.cards import a_card_with_rules, leaf_count, matches


@pytest.mark.parametrize(
    ("one", "other", "can"),
    [
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"b": 1}, True),
        ({"a": False}, {"a": True}, False),
        ({"a": False}, {"b": 1}, True),
        ({"a": 1, "b": 1}, {"a": 1, "c": 1}, True),
        ({"a": 1, "b": 1}, {"a": 2, "c": 1}, False),
        ({"a": {"b": 1}}, {"a": "x"}, False),
        ({"a": {"b": 1}}, {"a": False}, False),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, True),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, False),
        ({"a": {"b": False}}, {"a": False}, True),  # both match {}
        ({"a": {"b": False}}, {"a": None}, False),
        ({"a": {"b": False, "c": 1}}, {"a": False}, False),
        ({}, {"a": 1}, True),
    ],
)
def test_whether_two_conditions_can_both_match(one: Any, other: Any, can: bool) -> None:
    assert can_both_match(Condition(one), Condition(other)) is can
    assert can_both_match(Condition(other), Condition(one)) is can


BOTH = 'of block "Block" can both match, with equally many values'
ADVICE = "let one name more settings"
SCALARS = (True, False, 1, "x")
INNER = [
    {name: value for name, value in zip("ab", values, strict=True) if value != "missing"}
    for values in product([*SCALARS, "missing"], repeat=2)
]
EVERY_SETTING = [
    {name: value for name, value in zip("ab", values, strict=True) if value != "missing"}
    for values in product([*SCALARS, *INNER, "missing"], repeat=2)
]
few_conditions = st.dictionaries(
    st.sampled_from("ab"),
    st.one_of(
        st.sampled_from(SCALARS),
        st.dictionaries(st.sampled_from("ab"), st.sampled_from(SCALARS), min_size=1),
    ),
)


@settings(max_examples=150, deadline=None)
@given(one=few_conditions, other=few_conditions)
def test_can_both_match_agrees_with_trying_every_setting(one: Any, other: Any) -> None:
    found = any(matches(one, sent) and matches(other, sent) for sent in EVERY_SETTING)

    assert can_both_match(Condition(one), Condition(other)) is found


@settings(max_examples=150, deadline=None)
@given(whens=st.lists(few_conditions, max_size=12))
def test_exactly_the_ambiguous_pairs_are_found(whens: list[Any]) -> None:
    prepared = [Condition(when) for when in whens]
    expected = {
        (one, other)
        for other in range(len(whens))
        for one in range(other)
        if leaf_count(whens[one]) == leaf_count(whens[other]) and can_both_match(prepared[one], prepared[other])
    }

    assert set(ambiguous_pairs(prepared)) == expected


def test_an_ambiguous_card_is_refused_with_both_rules_of_every_pair() -> None:
    with pytest.raises(InvalidRateCard) as refusal:
        a_card_with_rules(
            {"when": {"hd": False}, "credits": 1},
            {"when": {"size": "big"}, "credits": 2},
            {"credits": 3},
            {"when": {}, "credits": 4},
            {"when": {"hd": False, "size": "big"}, "credits": 5},
        )

    assert [(problem.path, problem.message) for problem in refusal.value.problems] == [
        ("blocks.0.rules.1", f'and rules.0 {BOTH}: {{"hd":false}} and {{"size":"big"}}; {ADVICE}'),
        ("blocks.0.rules.3", f"and rules.2 {BOTH}: {{}} and {{}}; {ADVICE}"),
    ]


def test_rules_with_different_numbers_of_values_can_both_match() -> None:
    card = a_card_with_rules({"credits": 1}, {"when": {"a": 1}, "credits": 2}, {"when": {"a": 1, "b": 1}, "credits": 3})

    assert len(card.blocks["Block"].rules) == 3
