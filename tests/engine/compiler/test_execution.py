"""Execution case by case: the expected response is written out, and graphql-core returns the same.

The schema is built by graphql-core, without Strawberry: the compiler calls its resolvers as graphql-core would.
"""

import asyncio
from collections.abc import AsyncIterator
from inspect import isawaitable
from typing import Any

import pytest
from graphql import ExecutionResult, build_schema, execute, get_operation_ast, parse

from app.engine.compiler.compiled_operation import CompiledOperation
from tests.engine.compiler.edge_case_schema import Delayed

pytestmark = pytest.mark.anyio

SCHEMA = build_schema("""
    type Query {
      nest: Nest
      requiredNest: Nest!
      laterNest: Nest
      lists: Lists
      pets(kind: String): [Pet]
      animal(kind: String): Animal
      echo(text: String! = "default", number: Int, size: Size = SMALL, box: Box, boxes: [Box!]): String
      a: String
      b: String
      c: String
    }
    type Mutation { add(number: Int!, later: Boolean = false): Int  requiredAdd(number: Int!): Int! }
    type Nest {
      value: String
      fails: String
      failsLater: String
      null: String
      requiredValue: String!
      requiredFails: String!
      requiredFailsLater: String!
      requiredNull: String!
      nest: Nest
      requiredNest: Nest!
      laterNest: Nest
      requiredLaterNest: Nest!
    }
    type Lists {
      any: [Int]
      required: [Int]!
      ofRequired: [Int!]
      requiredOfRequired: [Int!]!
      nests: [Nest]
      requiredNests: [Nest!]
      grid: [[Int!]]
      text: [String]
      stream: [Int]
      broken: [Int]
    }
    interface Animal { name: String }
    interface Furry implements Animal { name: String  fur: String }
    type Dog implements Animal & Furry { name: String  fur: String  barks: Boolean }
    type Cat implements Animal & Furry { name: String  fur: String  meows: Boolean }
    type Fish implements Animal { name: String }
    union Pet = Dog | Cat
    enum Size { SMALL LARGE }
    input Box { width: Int!  height: Int = 2  inner: Box  sizes: [Size] }
""")


class Nest:
    """Returns for each field by its name: an exception, an awaitable, another Nest, or a string."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.endswith("ails"):
            raise ValueError(name)
        if name.endswith("ailsLater"):
            return Delayed(ValueError(name))
        if name.lower().endswith("nest"):
            return Delayed(Nest()) if "ater" in name else Nest()
        return {"value": "value", "requiredValue": "required"}.get(name)


class Numbers:
    """The numbers that mutations have added."""

    def __init__(self) -> None:
        self.values: list[int] = []

    def add(self, number: int, *, waits: bool) -> Any:
        if waits:
            return self._later(number)
        if number < 0:
            raise ValueError(f"{number} is negative")
        self.values.append(number)
        return sum(self.values)

    async def _later(self, number: int) -> Any:
        await asyncio.sleep(0)
        return self.add(number, waits=False)


async def stream(*, breaks: bool) -> AsyncIterator[int]:
    yield 1
    yield 2
    if breaks:
        raise ValueError("stream failed")


def resolve(schema: Any) -> None:
    fields = schema.query_type.fields
    for name in ("nest", "requiredNest"):
        fields[name].resolve = lambda *_: Nest()
    fields["laterNest"].resolve = lambda *_: Delayed(Nest())
    fields["lists"].resolve = lambda _, info: info.context
    fields["pets"].resolve = lambda _, _info, kind=None: PETS[kind]
    fields["animal"].resolve = lambda _, _info, kind=None: PETS[kind][0]
    fields["echo"].resolve = lambda _, _info, **given: str(given)
    for name in "abc":
        fields[name].resolve = lambda *_, name=name: name
    adding = schema.mutation_type.fields
    adding["add"].resolve = lambda _, info, number, later: info.context.add(number, waits=later)
    adding["requiredAdd"].resolve = lambda _, info, number: info.context.add(number, waits=False)


PETS: dict[str | None, list[Any]] = {
    None: [{"__typename": "Dog", "name": "Odie", "barks": True}, {"__typename": "Cat", "name": "Tom", "meows": False}],
    "unknown": [{"__typename": "Horse"}],
    "nameless": [{"name": "Odie"}],
    "fish": [{"__typename": "Fish", "name": "Nemo"}],
    "interface": [{"__typename": "Furry"}],
}
resolve(SCHEMA)


async def execute_compiled(query: str, context: Any = None, variables: dict[str, Any] | None = None) -> Any:
    """Data and errors of the compiled operation."""
    document = parse(query)
    operation = get_operation_ast(document)
    assert operation is not None
    compiled = CompiledOperation(SCHEMA, document, operation, hide_suggestions=False)
    return data_and_errors(await await_result(compiled.execute(context() if callable(context) else context, variables)))


async def execute_both(query: str, context: Any = None, **variables: Any) -> Any:
    """Data and errors (message, path), after a check that graphql-core returns the same, locations included."""
    compiled = await execute_compiled(query, context, variables)
    interpreted = await await_result(
        execute(
            SCHEMA,
            parse(query),
            context_value=context() if callable(context) else context,
            variable_values=variables,
        )
    )
    assert compiled == data_and_errors(interpreted)
    data, errors = compiled
    return data, [(message, path) for message, path, _ in errors]


async def await_result(result: Any) -> ExecutionResult:
    found = await result if isawaitable(result) else result
    assert isinstance(found, ExecutionResult)
    return found


def data_and_errors(result: ExecutionResult) -> Any:
    return result.data, [(error.message, error.path, error.locations) for error in result.errors or ()]


# Null propagation


@pytest.mark.parametrize("field", ["fails", "failsLater"])
async def test_a_nullable_field_that_fails_is_null(field: str) -> None:
    assert await execute_both(f"{{ nest {{ {field} value }} a }}") == (
        {"nest": {field: None, "value": "value"}, "a": "a"},
        [(field, ["nest", field])],
    )


@pytest.mark.parametrize("field", ["requiredFails", "requiredFailsLater"])
@pytest.mark.parametrize("nest", ["nest", "laterNest"])
async def test_a_required_field_that_fails_makes_the_nearest_nullable_field_null(field: str, nest: str) -> None:
    assert await execute_both(f"{{ {nest} {{ value {field} }} a }}") == (
        {nest: None, "a": "a"},
        [(field, [nest, field])],
    )


async def test_null_for_a_required_field_is_an_error() -> None:
    assert await execute_both("{ nest { requiredNull } }") == (
        {"nest": None},
        [("Cannot return null for non-nullable field Nest.requiredNull.", ["nest", "requiredNull"])],
    )
    assert await execute_both("{ nest { null } }") == ({"nest": {"null": None}}, [])


@pytest.mark.parametrize("last", ["requiredFails", "requiredFailsLater"])
@pytest.mark.parametrize("chain", ["requiredNest", "requiredLaterNest"])
async def test_null_propagates_through_required_fields_to_the_first_nullable_one(chain: str, last: str) -> None:
    query = f"{{ nest {{ nest {{ {chain} {{ {chain} {{ {last} }} }} }} value }} }}"
    path = ["nest", "nest", chain, chain, last]
    assert await execute_both(query) == ({"nest": {"nest": None, "value": "value"}}, [(last, path)])


async def test_null_that_reaches_the_root_makes_data_null() -> None:
    data, errors = await execute_both("{ a requiredNest { requiredNest { requiredFailsLater } } b }")
    assert data is None
    assert errors == [("requiredFailsLater", ["requiredNest", "requiredNest", "requiredFailsLater"])]


async def test_an_error_below_a_field_that_is_already_null_is_not_reported() -> None:
    """Although the response still waits for another field when the error occurs."""
    data, errors = await execute_both(
        "{ nest { failsLater requiredFails } laterNest { laterNest { laterNest { value } } } }"
    )
    assert data == {"nest": None, "laterNest": {"laterNest": {"laterNest": {"value": "value"}}}}
    assert errors == [("requiredFails", ["nest", "requiredFails"])]


async def test_running_resolvers_finish_after_a_sibling_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    async def slow(*_: Any) -> None:
        await Delayed(None)
        ended.append("slow")

    monkeypatch.setattr(SCHEMA.type_map["Nest"].fields["null"], "resolve", slow)  # type: ignore[attr-defined]  # an object's
    for waits in ("null", "nest { null }", "laterNest { null }"):
        ended.clear()
        data, errors = await execute_both(f"{{ nest {{ {waits} requiredFails }} }}")
        assert (data, errors) == ({"nest": None}, [("requiredFails", ["nest", "requiredFails"])])
        for _ in range(5):
            await Delayed(None)
        assert ended == ["slow", "slow"]  # compiled and interpreted


async def test_errors_are_in_the_order_of_their_occurrence() -> None:
    data, errors = await execute_both("{ nest { failsLater fails laterNest { fails failsLater } value } }")
    assert data["nest"]["value"] == "value"
    assert [path for _, path in errors] == [
        ["nest", "fails"],
        ["nest", "failsLater"],
        ["nest", "laterNest", "fails"],
        ["nest", "laterNest", "failsLater"],
    ]


# Lists


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([1, 2], {"any": [1, 2], "required": [1, 2], "ofRequired": [1, 2], "requiredOfRequired": [1, 2]}),
        ([1, None], {"any": [1, None], "required": [1, None], "ofRequired": None, "requiredOfRequired": "lost"}),
        (None, {"any": None, "required": "lost", "ofRequired": None, "requiredOfRequired": "lost"}),
        ([1, "wrong"], {"any": [1, None], "required": [1, None], "ofRequired": None, "requiredOfRequired": "lost"}),
        (
            [1, ValueError("item")],
            {"any": [1, None], "required": [1, None], "ofRequired": None, "requiredOfRequired": "lost"},
        ),
        ((1, 2), {"any": [1, 2], "required": [1, 2], "ofRequired": [1, 2], "requiredOfRequired": [1, 2]}),
        ({}, {"any": None, "required": "lost", "ofRequired": None, "requiredOfRequired": "lost"}),
    ],
)
@pytest.mark.parametrize("field", ["any", "required", "ofRequired", "requiredOfRequired"])
@pytest.mark.parametrize("waits", [False, True])
async def test_null_and_errors_in_lists_are_handled_by_the_list_type(
    items: Any, expected: dict[str, Any], field: str, waits: bool
) -> None:
    def context() -> Any:
        if not waits:
            return {field: items}
        found = [Delayed(item, place) for place, item in enumerate(items)] if isinstance(items, list) else items
        return {field: Delayed(found)}

    data, errors = await execute_both(f"{{ lists {{ {field} }} }}", context)
    assert data == {"lists": None if expected[field] == "lost" else {field: expected[field]}}
    assert len(errors) == (
        items not in ([1, 2], (1, 2)) and not (items in ([1, None], None) and expected[field] == items)
    )


async def test_the_path_of_an_item_contains_its_index_and_the_alias() -> None:
    context = {"nests": [Nest(), Delayed(Nest())], "grid": [[1], [2, None]]}
    data, errors = await execute_both("{ lists { all: nests { oops: fails } grid } }", context)
    assert data == {"lists": {"all": [{"oops": None}, {"oops": None}], "grid": [[1], None]}}
    assert sorted(errors, key=str) == [
        ("Cannot return null for non-nullable field Lists.grid.", ["lists", "grid", 1, 1]),
        ("fails", ["lists", "all", 0, "oops"]),
        ("fails", ["lists", "all", 1, "oops"]),
    ]


async def test_a_value_that_is_not_iterable_is_an_error() -> None:
    assert await execute_both("{ lists { text } }", {"text": "text"}) == (
        {"lists": {"text": None}},
        [("Expected Iterable, but did not find one for field 'Lists.text'.", ["lists", "text"])],
    )


@pytest.mark.parametrize("breaks", [False, True])
async def test_an_async_iterator_is_a_list(breaks: bool) -> None:
    data, errors = await execute_both("{ lists { stream } }", lambda: {"stream": stream(breaks=breaks)})
    assert data == {"lists": {"stream": None if breaks else [1, 2]}}
    assert errors == ([("stream failed", ["lists", "stream"])] if breaks else [])


# Selections


async def test_selections_of_the_same_field_are_merged_in_the_order_of_the_first() -> None:
    query = """
      { b nest { value } ...More a nest { again: requiredValue nest { null } } }
      fragment More on Query { a nest { nest { value } requiredValue } }
    """
    data, errors = await execute_both(query)
    assert errors == []
    assert list(data) == ["b", "nest", "a"]
    assert data["nest"] == {
        "value": "value", "nest": {"value": "value", "null": None}, "requiredValue": "required", "again": "required",
    }  # fmt: skip
    assert list(data["nest"]) == ["value", "nest", "requiredValue", "again"]
    assert list(data["nest"]["nest"]) == ["value", "null"]


async def test_an_error_of_merged_selections_has_all_their_locations() -> None:
    document = "{ nest { fails }\n  nest { fails } }"
    _, [(_, path, locations)] = await execute_compiled(document)
    assert path == ["nest", "fails"]
    assert [(place.line, place.column) for place in locations] == [(1, 10), (2, 10)]
    await execute_both(document)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize(
    "order", ["@skip(if: $skip) @include(if: $include)", "@include(if: $include) @skip(if: $skip)"]
)
@pytest.mark.parametrize("shape", ["b {}", "... {} {{ b }}", "...B {}"])
async def test_a_field_is_executed_if_it_is_included_and_not_skipped(
    skip: bool, include: bool, order: str, shape: str
) -> None:
    spread = "fragment B on Query { b }" if "..." in shape and "B" in shape else ""
    query = f"query ($skip: Boolean!, $include: Boolean!) {{ a {shape.format(order)} c }} {spread}"
    data, errors = await execute_both(query, skip=skip, include=include)
    assert errors == []
    assert list(data) == (["a", "b", "c"] if include and not skip else ["a", "c"])


async def test_an_operation_may_skip_all_its_fields() -> None:
    assert await execute_both("{ a @skip(if: true) ... @include(if: false) { b } }") == ({}, [])


# Unions and interfaces


async def test_fields_of_unions_and_interfaces_depend_on_the_object_type() -> None:
    query = """{ pets { __typename ... on Dog { barks } ... on Furry { name } ... on Cat { meows } }
                 animal { name ... on Furry { fur kind: __typename } ... on Fish { __typename } } }"""
    assert await execute_both(query) == (
        {
            "pets": [
                {"__typename": "Dog", "barks": True, "name": "Odie"},
                {"__typename": "Cat", "name": "Tom", "meows": False},
            ],
            "animal": {"name": "Odie", "fur": None, "kind": "Dog"},
        },
        [],
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("unknown", "Abstract type 'Pet' was resolved to a type 'Horse' that does not exist inside the schema."),
        (
            "nameless",
            (
                "Abstract type 'Pet' must resolve to an Object type at runtime for field 'Query.pets'. Either the "
                "'Pet' type should provide a 'resolve_type' function or each possible type should provide an "
                "'is_type_of' function."
            ),
        ),
        ("fish", "Runtime Object type 'Fish' is not a possible type for 'Pet'."),
        ("interface", "Abstract type 'Pet' was resolved to a non-object type 'Furry'."),
    ],
)
async def test_an_object_outside_the_union_is_an_error(kind: str, message: str) -> None:
    query = "query ($kind: String) { pets(kind: $kind) { __typename } }"
    assert await execute_both(query, kind=kind) == ({"pets": [None]}, [(message, ["pets", 0])])


def is_type(name: str, *, waits: bool) -> Any:
    def is_type_of(value: Any, _: Any) -> Any:
        return Delayed(value["is"] == name) if waits else value["is"] == name

    return is_type_of


@pytest.mark.parametrize("waits", [False, True])
async def test_is_type_of_identifies_the_type_of_an_object(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Dog", "Cat"):
        monkeypatch.setattr(SCHEMA.type_map[name], "is_type_of", is_type(name, waits=waits))
    monkeypatch.setitem(PETS, "by is_type_of", [{"is": "Cat", "name": "Tom"}, {"is": "Dog"}, {"is": "Fish"}])

    data, errors = await execute_both('{ pets(kind: "by is_type_of") { __typename ... on Cat { name } } }')

    assert data == {"pets": [{"__typename": "Cat", "name": "Tom"}, {"__typename": "Dog"}, None]}
    assert [path for _, path in errors] == [["pets", 2]]


@pytest.mark.parametrize("waits", [False, True])
async def test_an_object_refused_by_is_type_of_is_an_error(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SCHEMA.type_map["Dog"], "is_type_of", lambda *_: Delayed(False) if waits else False)
    monkeypatch.setattr(SCHEMA.type_map["Pet"], "resolve_type", lambda *_: Delayed("Dog") if waits else "Dog")
    monkeypatch.setitem(PETS, "one", ["it"])
    assert await execute_both('{ pets(kind: "one") { __typename } }') == (
        {"pets": [None]},
        [("Expected value of type 'Dog' but got: 'it'.", ["pets", 0])],
    )


# Mutations


@pytest.mark.parametrize("waits", ["false", "true"])
async def test_mutations_run_in_series(waits: str) -> None:
    query = (
        f"mutation {{ a: add(number: 1, later: {waits}) b: add(number: 2) c: add(number: 3, later: true) __typename }}"
    )
    assert await execute_both(query, Numbers) == ({"a": 1, "b": 3, "c": 6, "__typename": "Mutation"}, [])


async def test_a_failed_nullable_mutation_does_not_stop_the_next() -> None:
    numbers = Numbers()
    query = "mutation { a: add(number: -1, later: true) b: add(number: 2) c: add(number: -3) d: add(number: 4) }"
    assert await execute_compiled(query, numbers) == (await execute_compiled(query, Numbers()))
    assert numbers.values == [2, 4]
    data, errors = await execute_both(query, Numbers)
    assert data == {"a": None, "b": 2, "c": None, "d": 6}
    assert errors == [("-1 is negative", ["a"]), ("-3 is negative", ["c"])]


@pytest.mark.parametrize("waits", ["false", "true"])
async def test_a_failed_required_mutation_stops_the_next(waits: str) -> None:
    numbers = Numbers()
    query = f"mutation {{ a: add(number: 1, later: {waits}) b: requiredAdd(number: -1) c: add(number: 5) }}"
    data, [(message, path, _)] = await execute_compiled(query, numbers)
    assert (data, message, path) == (None, "-1 is negative", ["b"])
    assert numbers.values == [1]
    await execute_both(query, Numbers)


# Variables and arguments


@pytest.mark.parametrize(
    ("declared", "argument", "variables", "given"),
    [
        ("$v: String!", "text: $v", {"v": "x"}, {"text": "x", "size": "SMALL"}),
        ('$v: String = "own"', "text: $v", {}, {"text": "own", "size": "SMALL"}),
        ("$v: Int", "number: $v", {}, {"text": "default", "size": "SMALL"}),
        ("$v: Int", "number: $v", {"v": None}, {"text": "default", "number": None, "size": "SMALL"}),
        ("$v: Size", "size: $v", {}, {"text": "default", "size": "SMALL"}),
        ("$v: Size", "size: $v", {"v": None}, {"text": "default", "size": None}),
        ("$v: Size", "size: $v", {"v": "LARGE"}, {"text": "default", "size": "LARGE"}),
        (
            "$v: Box",
            "box: $v",
            {"v": {"width": 1}},
            {"text": "default", "size": "SMALL", "box": {"width": 1, "height": 2}},
        ),
        (
            "$v: Box",
            "box: $v",
            {"v": {"height": None, "width": 1, "inner": {"width": 5, "sizes": "LARGE"}}},
            {
                "text": "default",
                "size": "SMALL",
                "box": {"width": 1, "height": None, "inner": {"width": 5, "height": 2, "sizes": ["LARGE"]}},
            },
        ),
        (
            "$v: Int!, $w: [Size]",
            "boxes: [{width: $v, sizes: $w}, {width: 2, sizes: [$s, LARGE]}]",
            {"v": 3, "s": "SMALL"},
            {
                "text": "default",
                "size": "SMALL",
                "boxes": [{"width": 3, "height": 2}, {"width": 2, "height": 2, "sizes": ["SMALL", "LARGE"]}],
            },
        ),
        (
            "$v: [Box!]",
            "boxes: $v",
            {"v": {"width": 1}},
            {"text": "default", "size": "SMALL", "boxes": [{"width": 1, "height": 2}]},
        ),
    ],
)
async def test_arguments_are_coerced(
    declared: str, argument: str, variables: dict[str, Any], given: dict[str, Any]
) -> None:
    query = f"query ({declared}, $s: Size) {{ echo({argument}) }}"
    data, errors = await execute_both(query, **variables)
    assert errors == []
    assert eval(data["echo"]) == given  # noqa: S307  the resolver's own repr


@pytest.mark.parametrize(
    ("declared", "variables", "messages"),
    [
        ("Int!", {}, [": Expected a value of non-null type 'Int!' to be provided."]),
        ("Int", {"v": "1"}, [': Int cannot represent non-integer value: "1"']),
        ("Int", {"v": True}, [": Int cannot represent non-integer value: true"]),
        ("Int", {"v": 2**31}, [": Int cannot represent non 32-bit signed integer value: 2147483648"]),
        ("Size", {"v": "MEDIUM"}, [": Value 'MEDIUM' does not exist in 'Size' enum."]),
        (
            "Box",
            {"v": {"height": 1}},
            [": Expected value of type 'Box' to include required field 'width', found: {\"height\": 1}."],
        ),
        (
            "Box",
            {"v": {"width": 1, "depth": 1}},
            [
                (
                    ": Expected value of type 'Box' not to include unknown field 'depth'. Did you mean 'width'? "
                    'Found: {"width": 1, "depth": 1}.'
                )
            ],
        ),
        (
            "[Box!]",
            {"v": [{"width": 1}, None, {"width": "x"}]},
            [
                " at [1]: Expected value of non-null type 'Box!' not to be null.",
                ' at [2].width: Int cannot represent non-integer value: "x"',
            ],
        ),
    ],
)
async def test_invalid_variables_are_refused_before_any_resolver_runs(
    declared: str, variables: dict[str, Any], messages: list[str]
) -> None:
    data, errors = await execute_both(f"query ($v: {declared}) {{ a echo }}", **variables)
    assert data is None
    assert errors == [(f"Variable '$v' has invalid value{one}", None) for one in messages]


async def test_null_for_a_required_argument_is_an_error_of_its_field() -> None:
    data, errors = await execute_both('query ($v: String = "x") { a echo(text: $v) }', v=None)
    assert data == {"a": "a", "echo": None}
    assert [path for _, path in errors] == [["echo"]]
