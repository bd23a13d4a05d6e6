"""Errors in responses: refusals as union members, top-level errors with codes, masked faults."""

import logging
from typing import Any

import pytest

from app.auth.caller import Caller
from app.engine.execution import GraphQLEngine, GraphQLRequest, OperationFailed
from tests.engine import sample_schema
from tests.engine.sample_schema import SERVICE, USER, context, decode_items, engine, production_engine

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("compiled_and_interpreted")]


async def execute(query: str, caller: Caller | None = None, *, by: GraphQLEngine = engine, **variables: Any) -> Any:
    return (await by.execute(GraphQLRequest(query, variables), context(caller))).payload


async def test_a_raised_refusal_is_returned_as_a_union_member() -> None:
    query = """mutation { spend(cost: 500) { __typename ... on UserError { message }
        ... on InsufficientCreditsError { required } } }"""
    assert await execute(query, SERVICE) == {
        "data": {
            "spend": {
                "__typename": "InsufficientCreditsError",
                "message": "This needs 500 credits and 100 are available.",
                "required": 500,
            }
        }
    }


async def test_each_item_of_a_list_may_be_its_own_refusal() -> None:
    query = """mutation { spendAll(costs: [5, 500, -1]) { __typename ... on SpendSuccess { spent }
        ... on InvalidInputError { path message } } }"""
    assert await execute(query, SERVICE) == {
        "data": {
            "spendAll": [
                {"__typename": "SpendSuccess", "spent": 5},
                {"__typename": "InsufficientCreditsError"},
                {"__typename": "InvalidInputError", "path": "cost", "message": "cost must not be negative"},
            ]
        }
    }


@pytest.mark.parametrize("query", ["mutation { spend(cost: 13) { __typename } }", "{ unforeseen }"])
async def test_a_refusal_outside_the_union_is_a_masked_fault(query: str) -> None:
    payload = await execute(query, SERVICE)
    assert payload["errors"][0]["extensions"]["code"] == "INTERNAL"


async def test_a_refusal_outside_the_union_of_a_list_is_never_sent_as_another_one() -> None:
    payload = await execute("mutation { spendAll(costs: [13]) { __typename } }", SERVICE)
    assert payload["data"] is None
    assert payload["errors"][0]["extensions"]["code"] == "INTERNAL"


async def test_a_fault_of_many_fields_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    payload = await execute("{ " + " ".join(f"field{number}: broken" for number in range(20)) + " }")
    assert [error["extensions"]["code"] for error in payload["errors"]] == ["INTERNAL"] * 20
    assert len({error["extensions"]["reference"] for error in payload["errors"]}) == 1
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_fault_is_masked_and_logged_with_its_reference(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        payload = await execute("{ broken hello }")
    [error] = payload["errors"]
    reference = error["extensions"]["reference"]
    assert payload["data"] == {"broken": None, "hello": "hello world"}
    assert error["message"] == f"Something went wrong on our side. Quote reference {reference}."
    assert error["extensions"] == {"code": "INTERNAL", "reference": reference}
    assert error["path"] == ["broken"]
    assert "hunter2" not in str(payload)
    [record] = caplog.records
    assert reference in record.getMessage()
    assert "hunter2" in caplog.text


async def test_an_invalid_return_value_is_a_masked_fault() -> None:
    payload = await execute("{ mistaken { id } hello }")
    [error] = payload["errors"]
    assert payload["data"] == {"mistaken": None, "hello": "hello world"}
    assert (error["extensions"]["code"], error["path"]) == ("INTERNAL", ["mistaken"])
    assert "hunter2" not in str(payload)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "GRAPHQL_PARSE_FAILED"),
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ hello }" * 2000, "GRAPHQL_PARSE_FAILED"),
        ('{ hello(name: "\\ud800") }', "GRAPHQL_PARSE_FAILED"),
        ("{" + "a {" * 300 + "b" + "}" * 301, "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ hello(loud: true) }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ toy { name } }", "GRAPHQL_VALIDATION_FAILED"),
        ("type Query { a: Int }", "GRAPHQL_VALIDATION_FAILED"),
        ("query A { hello } query B { hello }", "BAD_USER_INPUT"),
        ("fragment F on Query { hello }", "GRAPHQL_VALIDATION_FAILED"),
        ("query ($n: String!) { hello(name: $n) }", "BAD_USER_INPUT"),
        ("subscription { forever }", "BAD_REQUEST"),
    ],
)
async def test_an_operation_that_cannot_run_has_an_error_code(query: str, code: str) -> None:
    response = await engine.execute(GraphQLRequest(query), context())
    assert not response.ran
    assert "data" not in response.payload
    assert {error["extensions"]["code"] for error in response.payload["errors"]} == {code}


async def test_variables_of_the_wrong_type_are_bad_input() -> None:
    payload = await execute("query ($n: String!) { hello(name: $n) }", n=5)
    assert payload["errors"][0]["extensions"] == {"code": "BAD_USER_INPUT"}


async def test_an_unknown_operation_name_is_bad_input() -> None:
    response = await engine.execute(GraphQLRequest("query A { hello }", None, "B"), context())
    assert not response.ran
    assert response.payload["errors"][0]["message"] == 'The document has no operation named "B".'


async def test_an_operation_is_selected_by_its_name() -> None:
    response = await engine.execute(
        GraphQLRequest('query A { hello } query B { hello(name: "b") }', None, "B"), context()
    )
    assert response.payload == {"data": {"hello": "hello b"}}


async def test_in_production_there_is_no_introspection_and_no_suggestion() -> None:
    assert "Did you mean 'hello'?" in str(await execute("{ helo }"))
    assert "Did you mean" not in str(await execute("{ helo }", by=production_engine))
    assert "data" in await execute("{ __schema { queryType { name } } }")
    hidden = await execute("{ __schema { queryType { name } } }", by=production_engine)
    assert hidden["errors"][0]["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}
    assert await execute("{ __typename }", by=production_engine) == {"data": {"__typename": "Query"}}


async def stream(query: str, caller: Caller | None = None) -> tuple[list[Any], list[Any]]:
    """The items of a stream, and the errors it ends with."""
    items: list[Any] = []
    try:
        async for item in decode_items(engine.stream(GraphQLRequest(query), context(caller))):
            items.append(item)  # noqa: PERF401  a comprehension would lose the items before a failure
    except OperationFailed as failed:
        return items, failed.errors
    return items, []


async def test_a_subscription_yields_its_items() -> None:
    assert await stream("subscription { count(to: 2) }", USER) == (
        [{"data": {"count": 1}}, {"data": {"count": 2}}],
        [],
    )


async def test_a_forbidden_subscription_does_not_start() -> None:
    items, [error] = await stream("subscription { count(to: 2) }")
    assert items == []
    assert error["extensions"] == {"code": "UNAUTHENTICATED"}


async def test_a_fault_in_a_subscription_is_masked() -> None:
    items, [error] = await stream("subscription { breaking }")
    assert items == [{"data": {"breaking": 1}}]
    assert error["extensions"]["code"] == "INTERNAL"
    assert "hunter2" not in str(error)


async def test_a_refusal_in_a_subscription_keeps_its_code() -> None:
    items, [error] = await stream("subscription { breaking(politely: true) }")
    assert items == [{"data": {"breaking": 1}}]
    assert error == {"message": "sinceVersion lies ahead", "extensions": {"code": "BAD_USER_INPUT"}}


async def test_each_item_of_a_subscription_loads_its_own_rows() -> None:
    items, errors_sent = await stream("subscription { toyTwice { loud } }")
    assert items == [{"data": {"toyTwice": {"loud": "BEAR"}}}] * 2
    assert errors_sent == []
    assert sample_schema.resolver_calls == ["load bear", "load bear"]


async def test_the_rows_of_a_request_are_loaded_once_in_one_batch() -> None:
    await execute('{ a: toy(name: "a") { loud } b: toy(name: "b") { loud } again: toy(name: "a") { loud } }')
    assert sample_schema.resolver_calls == ["load a,b"]
