"""Invalid text: the character U+0000 in every string argument, and unknown time zones."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.api.callers import SCHEMA, arguments_of, document_of, operations, value_of
from tests.graphql_client import request_of
from tests.hostile.server_under_test import Target, codes

pytestmark = pytest.mark.anyio


def with_null_byte(kind: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """For each string in a value of this input type: its path, and a value with a null byte in that string only."""
    name = str(kind).strip("[]!")
    inner: Any = SCHEMA.type_map[name]
    if name in {"ID", "String"}:
        yield "", as_list(kind, "a\x00b")
    elif name == "JSON":
        yield "", as_list(kind, {"a\x00": 1})
        yield "value", as_list(kind, {"a": ["\x00"]})
    elif depth < 4 and (fields := getattr(inner, "fields", None)) is not None:
        for field_name, field in fields.items():
            for path, value in with_null_byte(field.type, depth + 1):
                yield f".{field_name}{path}", as_list(kind, value_of(inner) | {field_name: value})


def as_list(kind: Any, value: Any) -> Any:
    return [value] if str(kind).startswith("[") else value


def operations_with_null_bytes() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """For each string argument of each operation: its path, a document, and variables with a null byte in it."""
    for keyword, name, field in operations():
        for argument, described in field.args.items() if keyword != "subscription" else ():
            for path, value in with_null_byte(described.type):
                variables = arguments_of(field) | {argument: value}
                yield f"{name} {argument}{path}", document_of(keyword, name, field, variables), variables


async def test_a_null_byte_in_any_text_is_refused_or_finds_nothing(target: Target) -> None:
    responses: dict[str, Mapping[str, Any]] = {}
    async with target.client() as client:
        for where, document, variables in operations_with_null_bytes():
            for kind in ("operator", "service", "user"):
                reply = await client.post("/graphql", **request_of(target.tokens[kind], document, **variables))
                assert reply.status_code in {200, 400}, (where, reply.text)
                responses[where] = reply.json()
                if codes(responses[where]) != {"FORBIDDEN"}:
                    break
    assert len(responses) > 60
    assert {where: response for where, response in responses.items() if not is_refused(response)} == {}


def is_refused(response: Mapping[str, Any]) -> bool:
    """Whether the response says that the input is invalid, or that the object does not exist."""
    if response.get("errors"):
        return codes(response) == {"BAD_USER_INPUT"}
    [value] = response["data"].values()
    first = value[0] if isinstance(value, list) and value else value
    return first is None or first["__typename"].endswith("Error")


INVALID_TEXTS = [
    "\x00",
    "a\x00b",
    "",
    "../../etc/passwd",
    "/etc/passwd",
    "Europe",
    "x" * 5_000,
    "%00",
    "\u202e",
    "Europe/Zürich",
]


async def test_an_unknown_time_zone_is_refused(target: Target) -> None:
    query = """query($zone: String!) { agent(agentId: "agent-1", ownerId: "alice") {
        cost { byDay(timeZone: $zone) { day } } } }"""
    async with target.client() as client:
        for zone in INVALID_TEXTS:
            reply = await client.post("/graphql", **request_of(target.tokens["operator"], query, zone=zone))
            assert codes(reply.json()) == {"BAD_USER_INPUT"}, zone
