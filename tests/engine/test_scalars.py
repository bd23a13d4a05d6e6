"""Numbers, instants and JSON: which input is accepted, and what is returned."""

from typing import Any

import orjson
import pytest

from app.engine.execution import GraphQLEngine, GraphQLRequest
from app.engine.scalars import MAX_INTEGER
from app.engine.transports.request_parsing import parse_body
from app.exact_json import InexactNumber
from tests.engine.compiler import edge_case_schema
from tests.engine.sample_schema import USER, context, engine

pytestmark = pytest.mark.anyio


async def execute(query: str, **variables: Any) -> dict[str, Any]:
    return dict((await engine.execute(GraphQLRequest(query, variables), context())).payload)


async def refused(query: str, **variables: Any) -> str:
    payload = await execute(query, **variables)
    assert "data" not in payload
    [error] = payload["errors"]
    assert error["extensions"]["code"] in {"BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED"}
    return str(error["message"])


@pytest.mark.parametrize("scalar", ["credits", "long"])
@pytest.mark.parametrize("value", [0, 1, -1, MAX_INTEGER, -MAX_INTEGER])
async def test_whole_numbers_within_the_bounds_are_accepted(scalar: str, value: int) -> None:
    literal = await execute(f"{{ {scalar}(value: {value}) }}")
    variable = await execute(f"query ($v: {scalar.title()}!) {{ {scalar}(value: $v) }}", v=value)
    assert literal == variable == {"data": {scalar: value}}


@pytest.mark.parametrize("value", [1.5, 5.0, 1e3, 1e29, float("nan"), True, "5", "", [], {}, InexactNumber("1.5")])
async def test_a_variable_that_is_not_a_whole_number_is_refused(value: object) -> None:
    message = await refused("query ($v: Credits!) { credits(value: $v) }", v=value)
    assert "It must be a whole number, sent as a JSON number" in message


@pytest.mark.parametrize("value", [2**53, -(2**53), 2**64, 10**4000, InexactNumber("9" * 5000)])
async def test_a_variable_outside_the_bounds_is_refused(value: object) -> None:
    message = await refused("query ($v: Credits!) { credits(value: $v) }", v=value)
    assert "It must lie within ±9,007,199,254,740,991" in message


@pytest.mark.parametrize(
    "number", ["2147483648", "-2147483649", "9" * 21, "9" * 5000, "-" + "9" * 5000, "1.0", "1e3", '"1"']
)
@pytest.mark.parametrize(
    "query",
    ["{{ toys(first: {}) {{ __typename }} }}", "query ($n: Int! = {}) {{ toys(first: $n) {{ __typename }} }}"],
)
async def test_an_int_literal_that_is_no_32_bit_integer_is_refused(query: str, number: str) -> None:
    message = await refused(query.format(number))
    assert message.partition("Int cannot represent ")[2].startswith(("non 32-bit signed integer", "non-integer"))
    assert len(message) < 200


@pytest.mark.parametrize("literal", ["1.5", "true", '"5"', "1e3", "FIVE", "[1]"])
async def test_a_literal_that_is_not_a_whole_number_is_refused(literal: str) -> None:
    assert "It must be a whole number" in await refused(f"{{ credits(value: {literal}) }}")


@pytest.mark.parametrize("literal", [str(2**53), "-" + "9" * 17, "9" * 5000])
async def test_a_literal_outside_the_bounds_is_refused(literal: str) -> None:
    message = await refused(f"{{ credits(value: {literal}) }}")
    assert "It must lie within ±9,007,199,254,740,991" in message
    assert len(message) < 200


async def test_a_returned_sum_outside_the_bounds_is_an_error_of_its_own() -> None:
    payload = await execute("{ overflown }")
    assert payload["data"] == {"overflown": None}
    assert payload["errors"][0]["extensions"] == {"code": "OUT_OF_RANGE"}


async def test_a_returned_number_of_more_than_32_bits_is_a_masked_fault() -> None:
    payload = await execute("{ tooWide }")
    assert payload["data"] == {"tooWide": None}
    assert payload["errors"][0]["extensions"]["code"] == "INTERNAL"
    assert payload["errors"][0]["message"].startswith("Something went wrong on our side.")


@pytest.mark.parametrize(
    ("sent", "returned"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00Z"),
        ("2026-01-31T12:00:00.123456-05:30", "2026-01-31T17:30:00.123456Z"),
    ],
)
async def test_an_instant_is_returned_in_utc(sent: str, returned: str) -> None:
    assert await execute("query ($v: DateTime!) { instant(at: $v) }", v=sent) == {"data": {"instant": returned}}
    assert await execute(f'{{ instant(at: "{sent}") }}') == {"data": {"instant": returned}}


async def test_a_time_without_an_offset_is_refused() -> None:
    assert "have an offset from UTC" in await refused(
        "query ($v: DateTime!) { instant(at: $v) }", v="2026-01-31T12:00:00"
    )


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yesterday",
        "2026-13-01T00:00:00Z",
        5,
        None,
        "9" * 5000,
        "0001-01-01T00:00:00+23:00",
        "9999-12-31T23:59:59.9999999Z",
        "9999-12-31T23:59:59-12:00",
        "1999-12-31T23:59:59Z",
    ],
)
async def test_an_invalid_instant_is_refused(value: object) -> None:
    assert len(await refused("query ($v: DateTime!) { instant(at: $v) }", v=value)) < 200


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"in": value}
    return value


def nested_literal(depth: int) -> str:
    return "{in: " * depth + "1" + "}" * depth


@pytest.mark.parametrize("value", [None, True, 0, 2**64 - 1, -(2**63), 0.5, "é", [], {}, {"a": [1, {"b": None}]}])
async def test_json_is_returned_unchanged(value: object) -> None:
    query = "query ($v: JSON!) { json(value: $v) }" if value is not None else "{ json(value: null) }"
    expected = {"data": {"json": value}}
    if value is None:
        assert "json" not in (await execute(query)).get("data", {})  # a required argument is not null
    else:
        assert await execute(query, v=value) == expected


async def test_a_json_literal_may_contain_variables() -> None:
    payload = await execute('query ($n: String!) { json(value: {a: [1, 2.5, "x", ENUM, null], b: $n}) }', n="inner")
    assert payload == {"data": {"json": {"a": [1, 2.5, "x", "ENUM", None], "b": "inner"}}}


async def test_json_may_be_nested_8_deep() -> None:
    assert await execute("query ($v: JSON!) { json(value: $v) }", v=nested(8)) == {"data": {"json": nested(8)}}
    assert await execute(f"{{ json(value: {nested_literal(8)}) }}") == {"data": {"json": nested(8)}}


@pytest.mark.parametrize("depth", [9, 100, 900])
async def test_json_nested_deeper_is_refused(depth: int) -> None:
    message = await refused("query ($v: JSON!) { json(value: $v) }", v=nested(depth))
    assert "nested at most 8 deep" in message


@pytest.mark.parametrize("depth", [9, 100])
async def test_a_json_literal_nested_deeper_is_refused(depth: int) -> None:
    assert "nested at most 8 deep" in await refused(f"{{ json(value: {nested_literal(depth)}) }}")


async def test_json_may_take_8_kib() -> None:
    fits = "x" * (8 * 1024 - 2)
    assert await execute("query ($v: JSON!) { json(value: $v) }", v=fits) == {"data": {"json": fits}}
    assert "at most 8,192 bytes" in await refused("query ($v: JSON!) { json(value: $v) }", v=fits + "x")
    assert "at most 8,192 bytes" in await refused("query ($v: JSON!) { json(value: $v) }", v="é" * 5000)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        ({"a": [float("-inf")]}, "finite"),
        (2**64, "64 bits"),
        (10**4000, "64 bits"),
        ("a\x00b", "U+0000"),
        ({"a\x00b": 1}, "U+0000"),
        ("\ud800", "valid Unicode"),
        ({1: 2}, "keys must be strings"),
        ({1, 2}, "must be a JSON value"),
    ],
)
async def test_values_that_json_cannot_hold_are_refused(value: object, problem: str) -> None:
    assert problem in await refused("query ($v: JSON!) { json(value: $v) }", v=value)


async def test_a_json_literal_of_thousands_of_digits_is_refused() -> None:
    assert "64 bits" in await refused(f"{{ json(value: {{seed: {'9' * 5000}}}) }}")


@pytest.mark.parametrize("number", ["1e400", "9007199254740993.0", "0.1000000000000000055", "1e-400"])
async def test_a_json_number_that_would_be_rounded_is_refused(number: str) -> None:
    problem = f"Its numbers must fit a double without rounding; {number} does not."
    assert problem in await refused(f"{{ json(value: {{a: [{number}]}}) }}")
    assert problem in await refused("query ($v: JSON!) { json(value: $v) }", v={"a": [InexactNumber(number)]})


BOTH_ENGINES = [engine, GraphQLEngine(engine.schema, introspection=True)]
"""One compiles operations, with the other graphql-core executes them."""
WISHES = [
    GraphQLEngine(edge_case_schema.schema._schema, introspection=True, compile_operations=compiled)
    for compiled in (True, False)
]
NODE = "query ($v: ID!) { node(id: $v) { id } }"


async def send_number(to: GraphQLEngine, query: str, number: str) -> dict[str, Any]:
    """The response to a request with the variable `v`, as it is parsed from the text of its body."""
    request = parse_body(orjson.dumps({"query": query})[:-1] + b', "variables": {"v": %s}}' % number.encode())
    return dict((await to.execute(request, context(USER))).payload)


@pytest.mark.parametrize("to", BOTH_ENGINES)
@pytest.mark.parametrize("number", ["0", "7", "-7", "9007199254740991", "-9007199254740991"])
async def test_an_id_may_be_a_whole_number_within_the_bounds(to: GraphQLEngine, number: str) -> None:
    assert await send_number(to, NODE, number) == {"data": {"node": None}}
    assert await send_number(to, f"{{ node(id: {number}) {{ id }} }}", "0") == {"data": {"node": None}}


NOT_IDS = [
    "9007199254740992",
    "-9007199254740992",
    "9007199254740993",
    "18446744073709551616",
    "12345678901234567890123",
    "1e3",
    "1.0",
    "1E22",
    "9007199254740993.0",
    "true",
    "[]",
]


@pytest.mark.parametrize("to", BOTH_ENGINES)
@pytest.mark.parametrize("number", NOT_IDS)
async def test_an_id_that_would_be_rounded_is_refused(to: GraphQLEngine, number: str) -> None:
    for payload in (
        await send_number(to, NODE, number),
        await send_number(to, f"{{ node(id: {number}) {{ id }} }}", "0"),
    ):
        assert "data" not in payload
        [error] = payload["errors"]
        assert error["extensions"]["code"] in {"BAD_USER_INPUT", "GRAPHQL_VALIDATION_FAILED"}
        assert "An id must be a string, or a whole number within ±9,007,199,254,740,991" in error["message"]


@pytest.mark.parametrize("to", WISHES)
@pytest.mark.parametrize("number", NOT_IDS[:9])
async def test_an_id_in_an_input_object_is_refused_too(to: GraphQLEngine, number: str) -> None:
    in_variable = "query ($v: Wish!) { wished(wish: $v) }"
    for payload in (
        await send_number(to, in_variable, f'{{"name": "a", "id": {number}}}'),
        await send_number(to, f'{{ wished(wish: {{name: "a", id: {number}}}) }}', "0"),
    ):
        assert "data" not in payload
        assert "An id must be a string" in payload["errors"][0]["message"]


@pytest.mark.parametrize("to", WISHES)
@pytest.mark.parametrize("number", ["1.00000000000000001", "9007199254740993", "9007199254740993.0", "9" * 300])
async def test_a_float_that_would_be_rounded_is_refused(to: GraphQLEngine, number: str) -> None:
    for payload in (
        await send_number(
            to, "query ($v: Wish!) { wished(wish: $v) }", f'{{"name": "a", "measure": {{"height": {number}}}}}'
        ),
        await send_number(to, f'{{ wished(wish: {{name: "a", measure: {{height: {number}}}}}) }}', "0"),
    ):
        assert "data" not in payload
        assert "Float cannot represent non numeric value" in payload["errors"][0]["message"]


@pytest.mark.parametrize("to", BOTH_ENGINES)
@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "12345678901234567890123"])
async def test_a_whole_number_in_json_beyond_64_bits_is_refused(to: GraphQLEngine, number: str) -> None:
    payload = await send_number(to, "query ($v: JSON!) { json(value: $v) }", f'{{"seed": {number}}}')
    assert "Its whole numbers must fit 64 bits." in payload["errors"][0]["message"]


async def test_refused_values_are_quoted_as_json() -> None:
    assert "it is true." in await refused("query ($v: Long!) { long(value: $v) }", v=True)
    assert 'it is {"a": null}.' in await refused("query ($v: Long!) { long(value: $v) }", v={"a": None})
