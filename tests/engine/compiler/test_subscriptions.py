"""Subscriptions are begun by their plans: what begins, fails, breaks off or is refused does so as in graphql-core."""

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
    ("it breaks off", SINKING, {"n": 2}, USER),
    ("it breaks off at once", SINKING, {"n": 0}, USER),
    ("nobody may", SINKING, {"n": 2}, None),
    ("a variable is missing", SINKING, {}, USER),
    ("a variable is null", SINKING, {"n": None}, USER),
    ("a variable of another type", SINKING, {"n": "many"}, USER),
    ("a variable too wide", SINKING, {"n": 2**40}, USER),
    ("a null argument", "subscription ($n: Int = 2) { sinking(count: $n) { name } }", {"n": None}, USER),
]


@pytest.mark.parametrize(
    ("query", "variables", "viewer"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
async def test_a_subscription_is_answered_alike(query: str, variables: dict[str, Any], viewer: Caller | None) -> None:
    twins = ExecutionComparison(edge_case_schema.schema._schema)
    with fault_log_disabled():
        items = await twins.compare_stream(GraphQLRequest(query, variables), viewer, sample_schema.state)
    assert len(items) >= 2  # an item or an error; the last is what ran
    assert twins.compiled.execution_counts.interpreted == Counter()


async def test_the_conditions_of_a_subscription_are_left_to_the_ordinary_executor_and_counted() -> None:
    twins = ExecutionComparison(edge_case_schema.schema._schema)
    query = "subscription ($on: Boolean!) { fishes { name doubled @include(if: $on) } }"
    for on in (True, False):
        with fault_log_disabled():
            await twins.compare_stream(GraphQLRequest(query, {"on": on}), USER, sample_schema.state)
    assert twins.compiled.execution_counts.interpreted == {"condition": 2}


async def test_a_subscription_that_is_left_ends_its_events() -> None:
    execution = GraphQLEngine(sample_schema.schema._schema, introspection=True, compile_operations=True)
    stream = decode_items(execution.stream(GraphQLRequest("subscription { toyTwice { name } }"), context(USER)))
    assert await anext(stream) == {"data": {"toyTwice": {"name": "bear"}}}
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert execution.execution_counts.compiled == 1
