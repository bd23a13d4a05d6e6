"""Limits on the size and shape of documents."""

import pytest
from graphql import (
    FragmentDefinitionNode,
    OperationDefinitionNode,
    assert_object_type,
    build_schema,
    get_introspection_query,
    parse,
)

from app.engine.documents import MAX_CACHED_LENGTH, DocumentCache, InvalidDocument
from app.engine.limits.query_complexity import (
    LIST_SIZE,
    MAX_COST,
    MAX_DIRECTIVES,
    MAX_FIELDS,
    MAX_FRAGMENTS,
    MAX_OPERATIONS,
    SizeCalculator,
    exceeded_limits,
)
from app.engine.pagination import MAX_PAGE
from tests.engine.sample_schema import schema

PAGES = build_schema("""
    type Query { account: Account  agent(agentId: ID!): Agent  rateCard: RateCard  node(id: ID!): Node }
    interface Node { id: ID! }
    type Account { id: ID!  balance: Balance  entries(first: Int): EntryConnection }
    type Balance { available: Int  held: Int }
    type EntryConnection { edges: [EntryEdge!]!  pageInfo: PageInfo! }
    type EntryEdge { cursor: String!  node: Account! }
    type PageInfo { endCursor: String }
    type Agent { tasks(first: Int): TaskConnection }
    type TaskConnection { edges: [TaskEdge!]! }
    type TaskEdge { node: Task! }
    type Task implements Node { id: ID!  blockRuns(first: Int): BlockRunConnection }
    type BlockRunConnection { edges: [BlockRunEdge!]! }
    type BlockRunEdge { cursor: String!  node: BlockRun! }
    type BlockRun { cost: Int }
    type RateCard { blocks: [Block!]! }
    type Block { block: String }
""")
"""A schema with pages and a list."""
for page in ("Account.entries", "Agent.tasks", "Task.blockRuns"):
    type_name, field_name = page.split(".")
    object_type = assert_object_type(PAGES.type_map[type_name])
    object_type.fields[field_name].args["first"].default_value = 25  # as in a schema of Strawberry


def errors(text: str) -> list[str]:
    return [error.message for error in exceeded_limits(parse(text), schema._schema)]


def cost(text: str) -> int:
    """The cost of the only operation of a document."""
    document = parse(text)
    [operation] = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    return SizeCalculator(PAGES, fragments).operation_size(operation).cost


def operation_of_cost(cost: int) -> str:
    page = "tasks(first: 100) { edges { node { blockRuns(first: 82) { edges { node { cost } } } } } }"
    inner = 100 * (1 + 1 + 1 + 82 * 3)
    rest = cost - (1 + 1 + inner)
    assert 0 < rest < MAX_FIELDS
    return '{ agent(agentId: "a") { ' + page + " ".join(f" a{n}: __typename" for n in range(rest)) + " } }"


@pytest.mark.parametrize(
    ("within", "beyond", "what"),
    [
        (
            " ".join(f"query Q{n} {{ a }}" for n in range(MAX_OPERATIONS)),
            " ".join(f"query Q{n} {{ a }}" for n in range(MAX_OPERATIONS + 1)),
            "operations",
        ),
        (
            "query @d { a @d { ... @d { b @d } ...F @d } } fragment F on Toy @d { b"
            + " @d" * (MAX_DIRECTIVES - 6)
            + "}",
            "query @d { a @d { ... @d { b @d } ...F @d } } fragment F on Toy @d { b"
            + " @d" * (MAX_DIRECTIVES - 5)
            + "}",
            "directives",
        ),
        (
            "{ a }" + " ".join(f"fragment F{n} on Toy {{ b }}" for n in range(MAX_FRAGMENTS)),
            "{ a }" + " ".join(f"fragment F{n} on Toy {{ b }}" for n in range(MAX_FRAGMENTS + 1)),
            "fragments",
        ),
    ],
)
def test_a_document_may_reach_each_limit_that_counts_definitions_but_not_exceed_it(
    within: str, beyond: str, what: str
) -> None:
    assert errors(within) == []
    [error] = errors(beyond)
    assert what in error


def test_an_operation_may_reach_the_cost_limit_but_not_exceed_it() -> None:
    assert exceeded_limits(parse(operation_of_cost(MAX_COST)), PAGES) == []
    [error] = exceeded_limits(parse(operation_of_cost(MAX_COST + 1)), PAGES)
    assert "may cost at most 25,000" in error.message
    assert "this one costs 25,001" in error.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{ account { id } }", 2),
        ("{ account { balance { available held } } }", 4),
        ("{ account { entries { edges { node { id } } } } }", 1 + 1 + 25 * 3),
        ("{ account { entries(first: 7) { edges { node { id } } pageInfo { endCursor } } } }", 1 + 1 + 7 * 5),
        ("query ($n: Int!) { account { entries(first: $n) { edges { cursor } } } }", 1 + 1 + MAX_PAGE * 2),
        ("{ account { entries(first: 4000) { edges { cursor } } } }", 1 + 1 + MAX_PAGE * 2),
        ("{ account { entries(first: -5) { edges { cursor } } } }", 1 + 1 + 2),
        ("{ rateCard { blocks { block } } }", 1 + 1 + LIST_SIZE),
        ("{ account { ...F ...F } } fragment F on Account { entries(first: 3) { edges { cursor } } }", 1 + 2 * 7),
        ('{ node(id: "x") { ... on Task { blockRuns(first: 2) { edges { cursor } } } } }', 1 + 1 + 2 * 2),
        ("{ __schema { types { fields { args { name } } } } }", 5),
        ("{ nothing { nowhere { id } } }", 3),
    ],
)
def test_the_cost_of_a_page_is_multiplied_by_its_items(text: str, expected: int) -> None:
    assert cost(text) == expected


def test_a_fragment_spread_twice_in_a_selection_set_is_compared_once() -> None:
    fields = " ".join(f"f{n}" for n in range(9))
    assert errors("{ a {" + "...F " * 50 + f"}} }} fragment F on Toy {{ {fields} }}") == []


def test_comparisons_are_counted_through_fragments_and_merged_fields() -> None:
    inner = "a { b b b b b b b b }"  # 8 of them are 64 fields with one response name
    assert (
        errors("{ a { ...F ...G ...H } }" + "".join(f"fragment {name} on Toy {{ {inner} {inner} }}" for name in "FGH"))
        == []
    )
    assert errors(
        "{ a { ...F ...G ...H ...I } }" + "".join(f"fragment {name} on Toy {{ {inner} {inner} }}" for name in "FGHI")
    ) == ["An operation may not select the same fields over and over."]


def test_fragments_count_at_each_spread() -> None:
    text = "{ a { ...F ...F } } fragment F on Toy { x: b c { d } ... on Toy { y: e } }"
    assert errors(text) == []
    spread_often = "{ a {" + "...F " * 51 + "} } fragment F on T { x: b y: c }"
    [error] = errors(spread_often)
    assert error == "An operation may have at most 100 aliases, fragments included; this one has 102."


def test_depth_is_counted_through_fragments() -> None:
    chain = " ".join(f"fragment F{n} on T {{ a {{ ...F{n + 1} }} }}" for n in range(20))
    [error] = errors(f"{{ ...F0 }} {chain} fragment F20 on T {{ b }}")
    assert error == "An operation may have at most 15 levels, fragments included; this one has 21."


def test_doubling_fragments_are_multiplied_not_walked() -> None:
    doublings = MAX_FRAGMENTS - 1  # a walk would not end
    fragments = " ".join(f"fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }}" for n in range(doublings))
    text = f"{{ ...F0 }} {fragments} fragment F{doublings} on Query {{ hello }}"
    assert errors(text) == [
        "An operation may have at most 20 fields at its root, fragments included; this one has 1,000,000.",
        "An operation may have at most 500 fields, fragments included; this one has 1,000,000.",
    ]


def test_a_cyclic_fragment_is_refused_by_validation() -> None:
    assert errors("{ ...F } fragment F on Query { hello ...F }") == []
    with pytest.raises(InvalidDocument) as refused:
        DocumentCache(schema._schema, introspection=True).parse_and_validate(
            "{ ...F } fragment F on Query { hello ...F }"
        )
    assert "Cannot spread fragment 'F' within itself." in refused.value.errors[0].message


def test_the_deepest_nesting_of_the_parser_is_refused_without_a_crash() -> None:
    # Each fragment spreads the next one through as many inline fragments as the parser allows.
    inline = 150
    fragments = " ".join(
        f"fragment F{n} on Query {{ {'... {' * inline} ...F{n + 1} {'}' * inline} }}" for n in range(MAX_FRAGMENTS - 1)
    )
    text = f"{{ ...F0 }} {fragments} fragment F{MAX_FRAGMENTS - 1} on Query {{ hello }}"
    assert errors(text) == ["An operation may have at most 15 levels, fragments included."]


def test_the_introspection_query_of_tools_is_allowed() -> None:
    DocumentCache(schema._schema, introspection=True).parse_and_validate(get_introspection_query())


def test_a_document_is_parsed_once() -> None:
    documents = DocumentCache(schema._schema, introspection=True)
    assert documents.parse_and_validate("{ hello }") is documents.parse_and_validate("{ hello }")


def test_a_very_long_document_is_not_cached() -> None:
    documents = DocumentCache(schema._schema, introspection=True)
    long = "{ hello }" + " " * MAX_CACHED_LENGTH
    assert documents.parse_and_validate(long) is not documents.parse_and_validate(long)
