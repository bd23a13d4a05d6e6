"""Compiled subscriptions start, fail, end and are refused as in graphql-core."""

from collections import Counter
from typing import Any

import pytest

from app.auth.caller import Caller
from app.engine.execution import GraphQLEngine, GraphQLRequest
from tests.engine import sample_schema
from tests.engine.compiler import edge_case_schema
from tests.engine.compiler.comparison import ExecutionComparison, fault_log_disabled
from tests.engine.sample_schema import USER, context, decode_items

pytestmark = pytest.mark.anyio

SINKING = "subscription ($n: Int!) { sinking(count: $n) { name } }"
CASES: list[tuple[str, str, dict[str, Any], Caller | None]] = [
    ("items", "subscription { fishes { name doubled } }", {}, USER),
    ("null propagates", "subscription ($n: Int) { cages(start: $n) { __typename } }", {"n": 0}, USER),
    ("a default", "subscription { cages { __typename } }", {}, None),
    ("an alias and a fragment", "subscription { a: fishes { ...F } } fragment F on Fish { b: name }", {}, USER),
    ("the resolver raises", SINKING, {"n": 2}, USER),
    ("the resolver raises at once", SINKING, {"n": 0}, USER),
    ("an anonymous caller", SINKING, {"n": 2}, None),
    ("a variable is missing", SINKING, {}, USER),
    ("a variable is null", SINKING, {"n": None}, USER),
    ("a variable of another type", SINKING, {"n": "many"}, USER),
    ("a variable too wide", SINKING, {"n": 2**40}, USER),
    ("a null argument", "subscription ($n: Int = 2) { sinking(count: $n) { name } }", {"n": None}, USER),
]


@pytest.mark.parametrize(
    ("query", "variables", "caller"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
async def test_a_compiled_subscription_has_the_same_items(
    query: str, variables: dict[str, Any], caller: Caller | None
) -> None:
    comparison = ExecutionComparison(edge_case_schema.schema._schema)
    with fault_log_disabled():
        items = await comparison.compare_stream(GraphQLRequest(query, variables), caller)
    assert len(items) >= 2  # an item or an error, and the resolver calls
    assert comparison.compiled.execution_counts.interpreted == Counter()


async def test_a_subscription_with_conditions_is_executed_by_graphql_core() -> None:
    comparison = ExecutionComparison(edge_case_schema.schema._schema)
    query = "subscription ($on: Boolean!) { fishes { name doubled @include(if: $on) } }"
    for on in (True, False):
        with fault_log_disabled():
            await comparison.compare_stream(GraphQLRequest(query, {"on": on}), USER)
    assert comparison.compiled.execution_counts.interpreted == {"condition": 2}


async def test_closing_a_subscription_ends_its_resolver() -> None:
    engine = GraphQLEngine(sample_schema.schema._schema, introspection=True, compile_operations=True)
    stream = decode_items(engine.stream(GraphQLRequest("subscription { toyTwice { name } }"), context(USER)))
    assert await anext(stream) == {"data": {"toyTwice": {"name": "bear"}}}
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert engine.execution_counts.compiled == 1
