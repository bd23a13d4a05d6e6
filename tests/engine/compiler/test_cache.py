"""Which operations are compiled and cached, and which are executed by graphql-core and counted."""

from collections import Counter
from typing import Any

import pytest
from graphql import OperationDefinitionNode, get_operation_ast, parse

from app.engine.compiler.cache import MEASURE_EVERY, OperationCache
from app.engine.compiler.compiled_operation import MAX_VARIANTS, CompiledOperation
from app.engine.compiler.compiler import Compiler
from app.engine.documents import MAX_CACHED_LENGTH
from app.engine.execution import GraphQLEngine, GraphQLRequest
from tests.engine import sample_schema
from tests.engine.compiler import edge_case_schema
from tests.engine.sample_schema import USER, context, decode_items

pytestmark = pytest.mark.anyio

SCHEMA = edge_case_schema.schema._schema


def compiling_engine() -> tuple[GraphQLEngine, OperationCache]:
    engine = GraphQLEngine(SCHEMA, introspection=True, compile_operations=True)
    return engine, engine._cache


async def execute(engine: GraphQLEngine, query: str, name: str | None = None, **variables: Any) -> Any:
    return (await engine.execute(GraphQLRequest(query, variables, name), context(USER))).payload


def operation_of(text: str) -> OperationDefinitionNode:
    operation = get_operation_ast(parse(text))
    assert operation is not None
    return operation


def texts(cache: OperationCache) -> list[str]:
    return [text for text, _ in cache._operations]


async def test_each_requested_operation_of_a_document_is_compiled_once() -> None:
    engine, cache = compiling_engine()
    both = "query A { scalars(number: 1) } query B { scalars(number: 2) }"
    first = await execute(engine, both, "A")
    assert await execute(engine, both, "A") == first
    assert await execute(engine, both, "B") != first
    assert list(cache._operations) == [(both, "A"), (both, "B")]
    assert (engine.execution_counts.compiled, engine.execution_counts.interpreted) == (3, Counter())


def test_the_least_recently_used_operation_is_dropped() -> None:
    cache = OperationCache(SCHEMA, compile_operations=True, hide_suggestions=True, max_operations=2)
    for text in ("{ __typename }", "{ audit }"):
        cache.add(text, None, parse(text), operation_of(text))
    assert cache.find("{ __typename }", None) is not None
    cache.add("{ returned }", None, parse("{ returned }"), operation_of("{ returned }"))
    assert texts(cache) == ["{ __typename }", "{ returned }"]
    assert cache.find("{ audit }", None) is None


async def test_the_cache_stays_within_its_bytes_although_operations_grow() -> None:
    engine, cache = compiling_engine()
    wide = "{ cage { animals { " + " ".join(f"...on Cat {{ name{number}: name }}" for number in range(50)) + " } } }"
    await execute(engine, wide)
    assert cache.size_bytes > 50 * 1024

    cache._max_bytes = 40 * 1024
    others = [f"{{ a{number}: audit }}" for number in range(MEASURE_EVERY)]
    for text in others:  # the wide operation grew after it was added: it is measured again after so many others
        await execute(engine, text)
    assert wide not in texts(cache)
    assert texts(cache) == others[-len(cache) :]
    assert 16 * 1024 < cache.size_bytes <= 40 * 1024


async def test_a_bounded_number_of_variants_is_kept() -> None:
    names = [f"c{number}" for number in range(5)]
    declared = ", ".join(f"${name}: Boolean!" for name in names)
    text = f"query ({declared}) {{ {' '.join(f'{name}: audit @skip(if: ${name})' for name in names)} }}"
    compiled = CompiledOperation(SCHEMA, parse(text), operation_of(text), hide_suggestions=True)
    for number in range(2**5):
        variables = {name: bool(number >> bit & 1) for bit, name in enumerate(names)}
        result: Any = compiled.execute(context(sample_schema.OPERATOR), variables)
        assert set(result.data) == {name for name in names if not variables[name]}
    assert len(compiled._variants) == MAX_VARIANTS


@pytest.mark.parametrize(
    ("query", "variables", "reason"),
    [
        ("{ __schema { queryType { name } } }", {}, "introspection"),
        ('{ a: __typename ...F } fragment F on Query { __type(name: "Cat") { name } }', {}, "introspection"),
        ("query ($c: Boolean = true) { __typename audit @skip(if: $c) }", {"c": None}, "condition"),
        ("{ __typename }" + " " * MAX_CACHED_LENGTH, {}, "length"),
    ],
)
async def test_an_operation_that_is_not_compilable_is_executed_by_graphql_core_and_counted(
    query: str, variables: dict[str, Any], reason: str
) -> None:
    engine, _ = compiling_engine()
    interpreting_engine = GraphQLEngine(SCHEMA, introspection=True)
    for _ in range(2):
        assert await execute(engine, query, **variables) == await execute(interpreting_engine, query, **variables)
    assert engine.execution_counts.interpreted == {reason: 2}
    assert engine.execution_counts.compiled == 0


@pytest.mark.parametrize("broken", [(Compiler, "_compile_field"), (CompiledOperation, "__init__")])
async def test_after_a_fault_of_the_compiler_graphql_core_executes_the_operation(
    broken: tuple[type, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: Any, **__: Any) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr(*broken, fault)
    engine, _ = compiling_engine()
    expected = await execute(GraphQLEngine(SCHEMA, introspection=True), "{ audit }")
    assert await execute(engine, "{ audit }") == expected
    request = GraphQLRequest("subscription { fishes { name } }")
    assert len([item async for item in decode_items(engine.stream(request, context(USER)))]) == 3
    assert engine.execution_counts.interpreted == {"fault": 2}
    assert "could not be compiled" in caplog.text


async def test_the_items_of_a_subscription_are_compiled_and_load_their_own_rows() -> None:
    engine, _ = compiling_engine()
    edge_case_schema.resolver_calls.clear()
    request = GraphQLRequest("subscription { fishes { name doubled } }")
    items = [item async for item in decode_items(engine.stream(request, context(USER)))]
    assert [item["data"]["fishes"] for item in items] == [
        {"name": "fish2", "doubled": 4},
        {"name": "fish2", "doubled": 4},
        {"name": "fish3", "doubled": None},
    ]
    loads = [line for line in edge_case_schema.resolver_calls if line.startswith("load")]
    assert loads == ["load [2]", "load [2]", "load [3]"]
    assert (engine.execution_counts.compiled, engine.execution_counts.interpreted) == (3, Counter())


async def test_an_engine_without_compilation_compiles_and_counts_nothing() -> None:
    engine = GraphQLEngine(SCHEMA, introspection=True)
    assert await execute(engine, "{ __typename }") == {"data": {"__typename": "Query"}}
    assert (engine.execution_counts.compiled, engine.execution_counts.interpreted) == (0, Counter())


async def test_an_invalid_document_is_not_cached() -> None:
    engine, cache = compiling_engine()
    assert "errors" in await execute(engine, "{ nothing }")
    assert len(cache) == 0
