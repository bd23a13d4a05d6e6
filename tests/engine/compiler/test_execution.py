"""What an executor must do, case by case: every answer is spelled out, and the ordinary executor gives the same.

The schema is graphql-core's own, without Strawberry: what a plan does not know, it calls as graphql-core would.
"""

import asyncio
from collections.abc import AsyncIterator
from inspect import isawaitable
from typing import Any

import pytest
from graphql import ExecutionResult, build_schema, execute, get_operation_ast, parse

from app.engine.compiler.compiled_operation import CompiledOperation
from tests.engine.compiler.edge_case_schema import Delayed as later

pytestmark = pytest.mark.anyio

SCHEMA = build_schema("""
    type Query {
      nest: Nest
      sureNest: Nest!
      laterNest: Nest
      lists: Lists
      pets(kind: String): [Pet]
      animal(kind: String): Animal
      echo(text: String! = "default", number: Int, size: Size = SMALL, box: Box, boxes: [Box!]): String
      a: String
      b: String
      c: String
    }
    type Mutation { add(number: Int!, later: Boolean = false): Int  sureAdd(number: Int!): Int! }
    type Nest {
      value: String
      fails: String
      failsLater: String
      null: String
      sureValue: String!
      sureFails: String!
      sureFailsLater: String!
      sureNull: String!
      nest: Nest
      sureNest: Nest!
      laterNest: Nest
      sureLaterNest: Nest!
    }
    type Lists {
      any: [Int]
      sure: [Int]!
      ofSure: [Int!]
      sureOfSure: [Int!]!
      nests: [Nest]
      sureNests: [Nest!]
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
    """Every field, by its name: it fails, waits, holds another nest, or is a text."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.endswith("ails"):
            raise ValueError(name)
        if name.endswith("ailsLater"):
            return later(ValueError(name))
        if name.lower().endswith("nest"):
            return later(Nest()) if "ater" in name else Nest()
        return {"value": "value", "sureValue": "sure"}.get(name)


class Ledger:
    """What mutations write to."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def add(self, number: int, *, waits: bool) -> Any:
        if waits:
            return self._later(number)
        if number < 0:
            raise ValueError(f"{number} is negative")
        self.numbers.append(number)
        return sum(self.numbers)

    async def _later(self, number: int) -> Any:
        await asyncio.sleep(0)
        return self.add(number, waits=False)


async def stream(*, breaks: bool) -> AsyncIterator[int]:
    yield 1
    yield 2
    if breaks:
        raise ValueError("broke off")


def resolve(schema: Any) -> None:
    fields = schema.query_type.fields
    for name in ("nest", "sureNest"):
        fields[name].resolve = lambda *_: Nest()
    fields["laterNest"].resolve = lambda *_: later(Nest())
    fields["lists"].resolve = lambda _, info: info.context
    fields["pets"].resolve = lambda _, _info, kind=None: PETS[kind]
    fields["animal"].resolve = lambda _, _info, kind=None: PETS[kind][0]
    fields["echo"].resolve = lambda _, _info, **given: str(given)
    for name in "abc":
        fields[name].resolve = lambda *_, name=name: name
    adding = schema.mutation_type.fields
    adding["add"].resolve = lambda _, info, number, later: info.context.add(number, waits=later)
    adding["sureAdd"].resolve = lambda _, info, number: info.context.add(number, waits=False)


PETS: dict[str | None, list[Any]] = {
    None: [{"__typename": "Dog", "name": "Odie", "barks": True}, {"__typename": "Cat", "name": "Tom", "meows": False}],
    "unknown": [{"__typename": "Horse"}],
    "nameless": [{"name": "Odie"}],
    "fish": [{"__typename": "Fish", "name": "Nemo"}],
    "interface": [{"__typename": "Furry"}],
}
resolve(SCHEMA)


async def answered(query: str, context: Any = None, variables: dict[str, Any] | None = None) -> Any:
    """Data and errors of a plan, as (message, path) each."""
    document = parse(query)
    operation = get_operation_ast(document)
    assert operation is not None
    plan = CompiledOperation(SCHEMA, document, operation, hide_suggestions=False)
    return told(await finished(plan.execute(context() if callable(context) else context, variables)))


async def both(query: str, context: Any = None, **variables: Any) -> Any:
    """The same, after the ordinary executor has said the same, locations included."""
    compiled = await answered(query, context, variables)
    ordinary = await finished(
        execute(
            SCHEMA,
            parse(query),
            context_value=context() if callable(context) else context,
            variable_values=variables,
        )
    )
    assert compiled == told(ordinary)
    data, errors = compiled
    return data, [(message, path) for message, path, _ in errors]


async def finished(result: Any) -> ExecutionResult:
    found = await result if isawaitable(result) else result
    assert isinstance(found, ExecutionResult)
    return found


def told(result: ExecutionResult) -> Any:
    return result.data, [(error.message, error.path, error.locations) for error in result.errors or ()]


# Null and where it goes


@pytest.mark.parametrize("field", ["fails", "failsLater"])
async def test_a_nullable_field_that_fails_is_null_and_its_siblings_stay(field: str) -> None:
    assert await both(f"{{ nest {{ {field} value }} a }}") == (
        {"nest": {field: None, "value": "value"}, "a": "a"},
        [(field, ["nest", field])],
    )


@pytest.mark.parametrize("field", ["sureFails", "sureFailsLater"])
@pytest.mark.parametrize("nest", ["nest", "laterNest"])
async def test_a_sure_field_that_fails_makes_the_nearest_nullable_field_null(field: str, nest: str) -> None:
    assert await both(f"{{ {nest} {{ value {field} }} a }}") == ({nest: None, "a": "a"}, [(field, [nest, field])])


async def test_null_where_none_may_be_is_an_error_that_names_type_and_field() -> None:
    assert await both("{ nest { sureNull } }") == (
        {"nest": None},
        [("Cannot return null for non-nullable field Nest.sureNull.", ["nest", "sureNull"])],
    )
    assert await both("{ nest { null } }") == ({"nest": {"null": None}}, [])


@pytest.mark.parametrize("last", ["sureFails", "sureFailsLater"])
@pytest.mark.parametrize("chain", ["sureNest", "sureLaterNest"])
async def test_null_rises_through_a_chain_of_sure_fields_to_the_first_that_may_be_null(chain: str, last: str) -> None:
    query = f"{{ nest {{ nest {{ {chain} {{ {chain} {{ {last} }} }} }} value }} }}"
    path = ["nest", "nest", chain, chain, last]
    assert await both(query) == ({"nest": {"nest": None, "value": "value"}}, [(last, path)])


async def test_null_that_reaches_the_root_is_the_whole_answer() -> None:
    data, errors = await both("{ a sureNest { sureNest { sureFailsLater } } b }")
    assert data is None
    assert errors == [("sureFailsLater", ["sureNest", "sureNest", "sureFailsLater"])]


async def test_what_fails_below_a_place_that_is_null_already_is_not_told() -> None:
    """Though the answer still waits for something else when it fails."""
    data, errors = await both("{ nest { failsLater sureFails } laterNest { laterNest { laterNest { value } } } }")
    assert data == {"nest": None, "laterNest": {"laterNest": {"laterNest": {"value": "value"}}}}
    assert errors == [("sureFails", ["nest", "sureFails"])]


async def test_what_had_begun_when_its_sibling_failed_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    async def slow(*_: Any) -> None:
        await later(None)
        ended.append("slow")

    monkeypatch.setattr(SCHEMA.type_map["Nest"].fields["null"], "resolve", slow)  # type: ignore[attr-defined]  # an object's
    for waits in ("null", "nest { null }", "laterNest { null }"):
        ended.clear()
        data, errors = await both(f"{{ nest {{ {waits} sureFails }} }}")
        assert (data, errors) == ({"nest": None}, [("sureFails", ["nest", "sureFails"])])
        for _ in range(5):
            await later(None)
        assert ended == ["slow", "slow"]  # of the plan, and of the executor


async def test_errors_come_in_the_order_in_which_they_happen() -> None:
    data, errors = await both("{ nest { failsLater fails laterNest { fails failsLater } value } }")
    assert data["nest"]["value"] == "value"
    assert [path for _, path in errors] == [
        ["nest", "fails"],
        ["nest", "failsLater"],
        ["nest", "laterNest", "fails"],
        ["nest", "laterNest", "failsLater"],
    ]


# Lists


@pytest.mark.parametrize(
    ("items", "kept"),
    [
        ([1, 2], {"any": [1, 2], "sure": [1, 2], "ofSure": [1, 2], "sureOfSure": [1, 2]}),
        ([1, None], {"any": [1, None], "sure": [1, None], "ofSure": None, "sureOfSure": "lost"}),
        (None, {"any": None, "sure": "lost", "ofSure": None, "sureOfSure": "lost"}),
        ([1, "wrong"], {"any": [1, None], "sure": [1, None], "ofSure": None, "sureOfSure": "lost"}),
        ([1, ValueError("item")], {"any": [1, None], "sure": [1, None], "ofSure": None, "sureOfSure": "lost"}),
        ((1, 2), {"any": [1, 2], "sure": [1, 2], "ofSure": [1, 2], "sureOfSure": [1, 2]}),
        ({}, {"any": None, "sure": "lost", "ofSure": None, "sureOfSure": "lost"}),
    ],
)
@pytest.mark.parametrize("field", ["any", "sure", "ofSure", "sureOfSure"])
@pytest.mark.parametrize("waits", [False, True])
async def test_a_list_keeps_what_its_type_allows(items: Any, kept: dict[str, Any], field: str, waits: bool) -> None:
    def context() -> Any:
        if not waits:
            return {field: items}
        found = [later(item, place) for place, item in enumerate(items)] if isinstance(items, list) else items
        return {field: later(found)}

    data, errors = await both(f"{{ lists {{ {field} }} }}", context)
    assert data == {"lists": None if kept[field] == "lost" else {field: kept[field]}}
    assert len(errors) == (items not in ([1, 2], (1, 2)) and not (items in ([1, None], None) and kept[field] == items))


async def test_the_path_of_an_item_holds_its_index_and_the_alias() -> None:
    context = {"nests": [Nest(), later(Nest())], "grid": [[1], [2, None]]}
    data, errors = await both("{ lists { all: nests { oops: fails } grid } }", context)
    assert data == {"lists": {"all": [{"oops": None}, {"oops": None}], "grid": [[1], None]}}
    assert sorted(errors, key=str) == [
        ("Cannot return null for non-nullable field Lists.grid.", ["lists", "grid", 1, 1]),
        ("fails", ["lists", "all", 0, "oops"]),
        ("fails", ["lists", "all", 1, "oops"]),
    ]


async def test_what_is_no_list_is_an_error() -> None:
    assert await both("{ lists { text } }", {"text": "text"}) == (
        {"lists": {"text": None}},
        [("Expected Iterable, but did not find one for field 'Lists.text'.", ["lists", "text"])],
    )


@pytest.mark.parametrize("breaks", [False, True])
async def test_an_async_iterator_is_a_list(breaks: bool) -> None:
    data, errors = await both("{ lists { stream } }", lambda: {"stream": stream(breaks=breaks)})
    assert data == {"lists": {"stream": None if breaks else [1, 2]}}
    assert errors == ([("broke off", ["lists", "stream"])] if breaks else [])


# Selections


async def test_the_same_field_asked_for_twice_is_one_with_both_selections_in_the_order_of_the_first() -> None:
    query = """
      { b nest { value } ...More a nest { again: sureValue nest { null } } }
      fragment More on Query { a nest { nest { value } sureValue } }
    """
    data, errors = await both(query)
    assert errors == []
    assert list(data) == ["b", "nest", "a"]
    assert data["nest"] == {
        "value": "value", "nest": {"value": "value", "null": None}, "sureValue": "sure", "again": "sure",
    }  # fmt: skip
    assert list(data["nest"]) == ["value", "nest", "sureValue", "again"]
    assert list(data["nest"]["nest"]) == ["value", "null"]


async def test_an_error_of_a_field_asked_for_twice_names_both_places() -> None:
    document = "{ nest { fails }\n  nest { fails } }"
    _, [(_, path, locations)] = await answered(document)
    assert path == ["nest", "fails"]
    assert [(place.line, place.column) for place in locations] == [(1, 10), (2, 10)]
    await both(document)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize(
    "order", ["@skip(if: $skip) @include(if: $include)", "@include(if: $include) @skip(if: $skip)"]
)
@pytest.mark.parametrize("shape", ["b {}", "... {} {{ b }}", "...B {}"])
async def test_a_field_is_there_if_it_is_included_and_not_skipped(
    skip: bool, include: bool, order: str, shape: str
) -> None:
    spread = "fragment B on Query { b }" if "..." in shape and "B" in shape else ""
    query = f"query ($skip: Boolean!, $include: Boolean!) {{ a {shape.format(order)} c }} {spread}"
    data, errors = await both(query, skip=skip, include=include)
    assert errors == []
    assert list(data) == (["a", "b", "c"] if include and not skip else ["a", "c"])


async def test_an_operation_may_leave_everything_out() -> None:
    assert await both("{ a @skip(if: true) ... @include(if: false) { b } }") == ({}, [])


# Unions and interfaces


async def test_objects_of_a_union_and_an_interface_answer_what_is_asked_of_their_type() -> None:
    query = """{ pets { __typename ... on Dog { barks } ... on Furry { name } ... on Cat { meows } }
                 animal { name ... on Furry { fur kind: __typename } ... on Fish { __typename } } }"""
    assert await both(query) == (
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
    ("kind", "says"),
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
async def test_an_object_of_no_type_of_the_union_is_an_error(kind: str, says: str) -> None:
    query = "query ($kind: String) { pets(kind: $kind) { __typename } }"
    assert await both(query, kind=kind) == ({"pets": [None]}, [(says, ["pets", 0])])


def owns(name: str, *, waits: bool) -> Any:
    def is_type_of(value: Any, _: Any) -> Any:
        return later(value["is"] == name) if waits else value["is"] == name

    return is_type_of


@pytest.mark.parametrize("waits", [False, True])
async def test_types_may_be_asked_whether_an_object_is_theirs(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Dog", "Cat"):
        monkeypatch.setattr(SCHEMA.type_map[name], "is_type_of", owns(name, waits=waits))
    monkeypatch.setitem(PETS, "asked", [{"is": "Cat", "name": "Tom"}, {"is": "Dog"}, {"is": "Fish"}])

    data, errors = await both('{ pets(kind: "asked") { __typename ... on Cat { name } } }')

    assert data == {"pets": [{"__typename": "Cat", "name": "Tom"}, {"__typename": "Dog"}, None]}
    assert [path for _, path in errors] == [["pets", 2]]


@pytest.mark.parametrize("waits", [False, True])
async def test_an_object_that_its_type_disowns_is_an_error(waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SCHEMA.type_map["Dog"], "is_type_of", lambda *_: later(False) if waits else False)
    monkeypatch.setattr(SCHEMA.type_map["Pet"], "resolve_type", lambda *_: later("Dog") if waits else "Dog")
    monkeypatch.setitem(PETS, "one", ["it"])
    assert await both('{ pets(kind: "one") { __typename } }') == (
        {"pets": [None]},
        [("Expected value of type 'Dog' but got: 'it'.", ["pets", 0])],
    )


# Mutations


@pytest.mark.parametrize("waits", ["false", "true"])
async def test_mutations_run_one_after_the_other_whether_they_wait_or_not(waits: str) -> None:
    query = (
        f"mutation {{ a: add(number: 1, later: {waits}) b: add(number: 2) c: add(number: 3, later: true) __typename }}"
    )
    assert await both(query, Ledger) == ({"a": 1, "b": 3, "c": 6, "__typename": "Mutation"}, [])


async def test_a_mutation_that_fails_does_not_keep_the_next_from_running() -> None:
    ledger = Ledger()
    query = "mutation { a: add(number: -1, later: true) b: add(number: 2) c: add(number: -3) d: add(number: 4) }"
    assert await answered(query, ledger) == (await answered(query, Ledger()))
    assert ledger.numbers == [2, 4]
    data, errors = await both(query, Ledger)
    assert data == {"a": None, "b": 2, "c": None, "d": 6}
    assert errors == [("-1 is negative", ["a"]), ("-3 is negative", ["c"])]


@pytest.mark.parametrize("waits", ["false", "true"])
async def test_a_sure_mutation_that_fails_ends_the_operation_before_the_next(waits: str) -> None:
    ledger = Ledger()
    query = f"mutation {{ a: add(number: 1, later: {waits}) b: sureAdd(number: -1) c: add(number: 5) }}"
    data, [(message, path, _)] = await answered(query, ledger)
    assert (data, message, path) == (None, "-1 is negative", ["b"])
    assert ledger.numbers == [1]
    await both(query, Ledger)


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
    data, errors = await both(query, **variables)
    assert errors == []
    assert eval(data["echo"]) == given  # noqa: S307  the resolver's own repr


@pytest.mark.parametrize(
    ("declared", "variables", "says"),
    [
        ("Int!", {}, [": Expected a value of non-null type 'Int!' to be provided."]),
        ("Int", {"v": "1"}, [": Int cannot represent non-integer value: '1'"]),
        ("Int", {"v": True}, [": Int cannot represent non-integer value: True"]),
        ("Int", {"v": 2**31}, [": Int cannot represent non 32-bit signed integer value: 2147483648"]),
        ("Size", {"v": "MEDIUM"}, [": Value 'MEDIUM' does not exist in 'Size' enum."]),
        (
            "Box",
            {"v": {"height": 1}},
            [": Expected value of type 'Box' to include required field 'width', found: {'height': 1}."],
        ),
        (
            "Box",
            {"v": {"width": 1, "depth": 1}},
            [
                (
                    ": Expected value of type 'Box' not to include unknown field 'depth'. Did you mean 'width'? "
                    "Found: {'width': 1, 'depth': 1}."
                )
            ],
        ),
        (
            "[Box!]",
            {"v": [{"width": 1}, None, {"width": "x"}]},
            [
                " at [1]: Expected value of non-null type 'Box!' not to be None.",
                " at [2].width: Int cannot represent non-integer value: 'x'",
            ],
        ),
    ],
)
async def test_variables_that_cannot_be_coerced_are_refused_before_anything_runs(
    declared: str, variables: dict[str, Any], says: list[str]
) -> None:
    data, errors = await both(f"query ($v: {declared}) {{ a echo }}", **variables)
    assert data is None
    assert errors == [(f"Variable '$v' has invalid value{one}", None) for one in says]


async def test_null_for_an_argument_that_takes_none_fails_its_field_alone() -> None:
    data, errors = await both('query ($v: String = "x") { a echo(text: $v) }', v=None)
    assert data == {"a": "a", "echo": None}
    assert [path for _, path in errors] == [["echo"]]
