"""Bounds on documents, and that checking them is cheap."""

import time

import pytest
from graphql import get_introspection_query, parse

from app.graphql.documents import KNOWN_LENGTH, DocumentRefused, Documents
from app.graphql.guards import MAX_ALIASES, MAX_DEPTH, MAX_FIELDS, MAX_OPERATIONS, MAX_ROOT_FIELDS, exceeded
from tests.graphql.toy import schema


def complaints(text: str) -> list[str]:
    return [error.message for error in exceeded(parse(text))]


def deep(levels: int) -> str:
    return "{" + "a {" * (levels - 1) + "b" + "}" * levels


@pytest.mark.parametrize(
    ("within", "beyond", "what"),
    [
        (deep(MAX_DEPTH), deep(MAX_DEPTH + 1), "levels"),
        ("{" + "a " * MAX_ROOT_FIELDS + "}", "{" + "a " * (MAX_ROOT_FIELDS + 1) + "}", "fields at its root"),
        (
            "{ a {" + "x: b " * MAX_ALIASES + "} }",
            "{ a {" + "x: b " * (MAX_ALIASES + 1) + "} }",
            "aliases",
        ),
        ("{ a {" + "b " * (MAX_FIELDS - 1) + "} }", "{ a {" + "b " * MAX_FIELDS + "} }", "fields, "),
        (
            " ".join(f"query Q{n} {{ a }}" for n in range(MAX_OPERATIONS)),
            " ".join(f"query Q{n} {{ a }}" for n in range(MAX_OPERATIONS + 1)),
            "operations",
        ),
    ],
)
def test_a_document_may_go_to_the_bound_and_not_beyond(within: str, beyond: str, what: str) -> None:
    assert complaints(within) == []
    [complaint] = complaints(beyond)
    assert what in complaint


def test_fragments_count_where_they_are_spread() -> None:
    text = "{ a { ...F ...F } } fragment F on T { x: b c { d } ... on T { y: e } }"
    assert complaints(text) == []
    spread_often = "{ a {" + "...F " * 51 + "} } fragment F on T { x: b y: c }"
    [complaint] = complaints(spread_often)
    assert complaint == "An operation may have at most 100 aliases, fragments included; this one has 102."


def test_depth_is_counted_through_fragments() -> None:
    chain = " ".join(f"fragment F{n} on T {{ a {{ ...F{n + 1} }} }}" for n in range(20))
    [complaint] = complaints(f"{{ ...F0 }} {chain} fragment F20 on T {{ b }}")
    assert complaint == "An operation may have at most 15 levels, fragments included; this one has 21."


@pytest.mark.parametrize("doublings", [20, 150])
def test_doubling_fragments_are_measured_without_being_walked(doublings: int) -> None:
    fragments = " ".join(f"fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }}" for n in range(doublings))
    text = f"{{ ...F0 }} {fragments} fragment F{doublings} on Query {{ hello }}"
    started = time.process_time()
    assert complaints(text)
    assert time.process_time() - started < 0.2


def test_a_fragment_that_spreads_itself_is_left_to_validation() -> None:
    assert complaints("{ ...F } fragment F on Query { hello ...F }") == []
    with pytest.raises(DocumentRefused) as refused:
        Documents(schema._schema, open_to_explorers=True).prepared("{ ...F } fragment F on Query { hello ...F }")
    assert "Cannot spread fragment 'F' within itself." in refused.value.errors[0].message


def test_a_chain_of_hundreds_of_fragments_is_refused_and_not_a_crash() -> None:
    chain = " ".join(f"fragment F{n} on Query {{ ...F{n + 1} }}" for n in range(600))
    assert complaints(f"{{ ...F0 }} {chain} fragment F600 on Query {{ hello }}") == [
        "An operation may have at most 15 levels, fragments included."
    ]


def test_the_query_of_tools_that_explore_the_schema_is_allowed() -> None:
    Documents(schema._schema, open_to_explorers=True).prepared(get_introspection_query())


def test_a_document_is_prepared_once() -> None:
    documents = Documents(schema._schema, open_to_explorers=True)
    assert documents.prepared("{ hello }") is documents.prepared("{ hello }")


def test_a_very_long_document_is_served_and_not_kept() -> None:
    documents = Documents(schema._schema, open_to_explorers=True)
    long = "{ hello }" + " " * KNOWN_LENGTH
    assert documents.prepared(long) is not documents.prepared(long)


def test_a_document_of_too_many_tokens_is_not_parsed_to_its_end() -> None:
    with pytest.raises(DocumentRefused, match="2000 tokens"):
        Documents(schema._schema, open_to_explorers=True).prepared("{" + " hello" * 2001 + "}")
