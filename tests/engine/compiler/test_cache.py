"""Which plans are kept, what is left to the ordinary executor, and that it is counted."""

from collections import Counter
from typing import Any

import pytest
from graphql import get_operation_ast, parse

from app.engine.compiler import compiler
from app.engine.compiler.cache import MEASURE_EVERY, OperationCache
from app.engine.compiler.compiled_operation import MAX_VARIANTS, CompiledOperation
from app.engine.documents import MAX_CACHED_LENGTH
from app.engine.execution import GraphQLEngine, GraphQLRequest
from tests.engine import sample_schema
from tests.engine.compiler import edge_case_schema
from tests.engine.sample_schema import USER, context, decode_items

pytestmark = pytest.mark.anyio

SCHEMA = edge_case_schema.schema._schema


def planned() -> GraphQLEngine:
    return GraphQLEngine(SCHEMA, introspection=True, compile_operations=True)


async def asked(execution: GraphQLEngine, query: str, name: str | None = None, **variables: Any) -> Any:
    return (await execution.execute(GraphQLRequest(query, variables, name), context(USER))).payload


def learned(plans: OperationCache, text: str) -> None:
    document = parse(text)
    operation = get_operation_ast(document)
    assert operation is not None
    plans.add(text, None, document, operation)


def texts(plans: OperationCache) -> list[str]:
    return [text for text, _ in plans._operations]


async def test_a_document_is_compiled_once_for_each_operation_that_is_asked_for() -> None:
    execution = planned()
    both = "query A { scalars(number: 1) } query B { scalars(number: 2) }"
    first = await asked(execution, both, "A")
    assert await asked(execution, both, "A") == first
    assert await asked(execution, both, "B") != first
    assert execution._cache is not None
    assert list(execution._cache._operations) == [(both, "A"), (both, "B")]
    assert (execution.execution_counts.compiled, execution.execution_counts.interpreted) == (3, Counter())


def test_the_plan_used_longest_ago_goes_first() -> None:
    plans = OperationCache(SCHEMA, hide_suggestions=True, max_operations=2)
    learned(plans, "{ __typename }")
    learned(plans, "{ audit }")
    assert plans.find("{ __typename }", None) is not None
    learned(plans, "{ returned }")
    assert texts(plans) == ["{ __typename }", "{ returned }"]
    assert plans.find("{ audit }", None) is None


async def test_plans_take_up_no_more_than_their_bytes_however_they_grow() -> None:
    execution = GraphQLEngine(SCHEMA, introspection=True, compile_operations=True)
    wide = "{ cage { animals { " + " ".join(f"...on Cat {{ name{place}: name }}" for place in range(50)) + " } } }"
    await asked(execution, wide)
    assert execution._cache is not None
    assert execution._cache.size_bytes > 50 * 1024

    plans = execution._cache
    plans._max_bytes = 40 * 1024
    others = [f"{{ a{number}: audit }}" for number in range(MEASURE_EVERY)]
    for text in others:  # the wide one grew after it was kept: it is measured anew by the time so many have come
        await asked(execution, text)
    assert wide not in texts(plans)
    assert texts(plans) == others[-len(plans) :]
    assert 16 * 1024 < plans.size_bytes <= 40 * 1024


async def test_one_plan_is_kept_for_a_bounded_number_of_conditions() -> None:
    names = [f"c{place}" for place in range(5)]
    declared = ", ".join(f"${name}: Boolean!" for name in names)
    text = f"query ({declared}) {{ {' '.join(f'{name}: audit @skip(if: ${name})' for name in names)} }}"
    document = parse(text)
    operation = get_operation_ast(document)
    assert operation is not None
    plan = CompiledOperation(SCHEMA, document, operation, hide_suggestions=True)
    for number in range(2**5):
        variables = {name: bool(number >> place & 1) for place, name in enumerate(names)}
        result: Any = plan.execute(context(sample_schema.OPERATOR), variables)
        assert set(result.data) == {name for name in names if not variables[name]}
    assert len(plan._variants) == MAX_VARIANTS


@pytest.mark.parametrize(
    ("query", "variables", "reason"),
    [
        ("{ __schema { queryType { name } } }", {}, "introspection"),
        ('{ a: __typename ...F } fragment F on Query { __type(name: "Cat") { name } }', {}, "introspection"),
        ("query ($c: Boolean = true) { __typename audit @skip(if: $c) }", {"c": None}, "condition"),
        ("{ __typename }" + " " * MAX_CACHED_LENGTH, {}, "length"),
    ],
)
async def test_what_no_plan_understands_is_answered_by_the_ordinary_executor_and_counted(
    query: str, variables: dict[str, Any], reason: str
) -> None:
    execution = planned()
    ordinary = GraphQLEngine(SCHEMA, introspection=True)
    for _ in range(2):
        assert await asked(execution, query, **variables) == await asked(ordinary, query, **variables)
    assert execution.execution_counts.interpreted == {reason: 2}
    assert execution.execution_counts.compiled == 0


@pytest.mark.parametrize("broken", ["_step", "__init__"])
async def test_a_fault_of_the_compiler_leaves_the_operation_to_the_ordinary_executor_and_is_counted(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: Any) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr(compiler.Compiler, broken, fault) if broken == "_step" else monkeypatch.setattr(
        CompiledOperation, "__init__", fault
    )
    execution = planned()
    expected = await asked(GraphQLEngine(SCHEMA, introspection=True), "{ audit }")
    assert await asked(execution, "{ audit }") == expected
    followed = [
        item
        async for item in decode_items(
            execution.stream(GraphQLRequest("subscription { fishes { name } }"), context(USER))
        )
    ]
    assert len(followed) == 3
    assert execution.execution_counts.interpreted == {"fault": 2}
    assert "could not be compiled" in caplog.text


async def test_the_items_of_a_subscription_are_compiled_too_each_with_rows_of_its_own() -> None:
    execution = planned()
    edge_case_schema.resolver_calls.clear()
    request = GraphQLRequest("subscription { fishes { name doubled } }")
    items = [item async for item in decode_items(execution.stream(request, context(USER)))]
    assert [item["data"]["fishes"] for item in items] == [
        {"name": "fish2", "doubled": 4},
        {"name": "fish2", "doubled": 4},
        {"name": "fish3", "doubled": None},
    ]
    assert [line for line in edge_case_schema.resolver_calls if line.startswith("load")] == [
        "load [2]",
        "load [2]",
        "load [3]",
    ]
    assert (execution.execution_counts.compiled, execution.execution_counts.interpreted) == (3, Counter())


async def test_without_plans_nothing_is_compiled_or_counted() -> None:
    execution = GraphQLEngine(SCHEMA, introspection=True)
    assert await asked(execution, "{ __typename }") == {"data": {"__typename": "Query"}}
    assert (execution.execution_counts.compiled, execution.execution_counts.interpreted) == (0, Counter())


async def test_a_refused_document_is_not_kept() -> None:
    execution = planned()
    assert "errors" in await asked(execution, "{ nothing }")
    assert execution._cache is not None
    assert len(execution._cache) == 0
