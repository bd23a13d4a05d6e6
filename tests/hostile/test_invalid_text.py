"""Texts that nothing of ours can hold or has made: the character U+0000 everywhere, odd cursors, odd time zones."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from app.api.schema import build_schema
from tests.hostile.server_under_test import Target, authorized, codes

pytestmark = pytest.mark.anyio

SCHEMA = build_schema()._schema
SAMPLES: Final[dict[str, Any]] = {
    "ID": "a", "String": "a", "Int": 1, "Float": 1.0, "Boolean": True, "Credits": 1000, "Long": 1, "JSON": {},
    "DateTime": "2027-01-01T00:00:00Z", "RateCardDocument": {},
}  # fmt: skip


def texts(kind: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """A path to each text in a value of this input type, and a whole value with a null byte there and nowhere else."""
    name = str(kind).strip("[]!")
    inner = SCHEMA.type_map[name]
    if name in {"ID", "String"}:
        yield "", listed(kind, "a\x00b")
    elif name == "JSON":
        yield "", listed(kind, {"a\x00": 1})
        yield "value", listed(kind, {"a": ["\x00"]})
    elif depth < 4 and (fields := getattr(inner, "fields", None)) is not None:
        for field_name, field in fields.items():
            for path, value in texts(field.type, depth + 1):
                yield f".{field_name}{path}", listed(kind, plain(inner) | {field_name: value})


def listed(kind: Any, value: Any) -> Any:
    return [value] if str(kind).startswith("[") else value


def plain(kind: Any) -> dict[str, Any]:
    """What an input object has to have."""
    return {name: sample(field.type) for name, field in kind.fields.items() if str(field.type).endswith("!")}


def sample(kind: Any) -> Any:
    inner = SCHEMA.type_map[str(kind).strip("[]!")]
    if str(inner) in SAMPLES:
        return listed(kind, SAMPLES[str(inner)])
    if values := getattr(inner, "values", None):
        return listed(kind, next(iter(values)))
    return listed(kind, plain(inner))


def with_null_bytes() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each text that an operation takes: where it stands, a document, and its variables with a null byte there."""
    roots = {"query": SCHEMA.query_type, "mutation": SCHEMA.mutation_type}
    for keyword, root in roots.items():
        assert root is not None
        for name, field in root.fields.items():
            needed = {arg: one.type for arg, one in field.args.items() if str(one.type).endswith("!")}
            for argument, described in field.args.items():
                for path, value in texts(described.type):
                    types = needed | {argument: described.type}
                    variables = {arg: sample(kind) for arg, kind in needed.items()} | {argument: value}
                    header = ", ".join(f"${arg}: {kind}" for arg, kind in types.items())
                    passed = ", ".join(f"{arg}: ${arg}" for arg in types)
                    selection = "" if str(field.type).strip("!") in {"ID", "String"} else "{ __typename }"
                    yield (
                        f"{name} {argument}{path}",
                        f"{keyword}({header}) {{ {name}({passed}) {selection} }}",
                        variables,
                    )


async def test_a_null_byte_in_any_text_is_refused_or_finds_nothing(target: Target) -> None:
    ended: dict[str, Mapping[str, Any]] = {}
    async with target.client() as client:
        for where, document, variables in with_null_bytes():
            for kind in ("operator", "service", "user"):
                content = {"query": document, "variables": variables}
                reply = await client.post("/graphql", json=content, headers=authorized(target.tokens[kind]))
                assert reply.status_code in {200, 400}, (where, reply.text)
                ended[where] = reply.json()
                if codes(ended[where]) != {"FORBIDDEN"}:
                    break
    assert len(ended) > 60
    assert {where: answer for where, answer in ended.items() if not is_refused(answer)} == {}


def is_refused(answer: Mapping[str, Any]) -> bool:
    """Whether the caller was told what was wrong, or that there is no such thing; nothing was done."""
    if answer.get("errors"):
        return codes(answer) == {"BAD_USER_INPUT"}
    [value] = answer["data"].values()
    first = value[0] if isinstance(value, list) and value else value
    return first is None or first["__typename"].endswith("Error")


ODD = ["\x00", "a\x00b", "", "../../etc/passwd", "/etc/passwd", "Europe", "x" * 5_000, "%00", "\u202e", "Europe/Zürich"]
CURSORS = [*ODD, "AAAA", "WyIAIl0=", "W1tbW1s=", "bnVsbA==", "MTI=", "eyJhIjoxfQ=="]
"""Bytes, brackets, null, a number and an object, as cursors are written."""
PAGED = ["statement", "entries", "grants", "holds", "resumableTasks", "notices", "topUps"]


@pytest.mark.parametrize("field", PAGED)
async def test_a_cursor_of_nobodys_making_is_refused(target: Target, field: str) -> None:
    query = f'query($a: String) {{ account(ownerId: "alice") {{ {field}(after: $a) {{ __typename }} }} }}'
    async with target.client() as client:
        for after in CURSORS:
            content = {"query": query, "variables": {"a": after}}
            reply = await client.post("/graphql", json=content, headers=authorized(target.tokens["operator"]))
            assert codes(reply.json()) == {"BAD_USER_INPUT"}, after


async def test_a_time_zone_that_does_not_exist_is_refused(target: Target) -> None:
    query = """query($zone: String!) { agent(agentId: "agent-1", ownerId: "alice") {
        cost { byDay(timeZone: $zone) { day } } } }"""
    async with target.client() as client:
        for zone in ODD:
            content = {"query": query, "variables": {"zone": zone}}
            reply = await client.post("/graphql", json=content, headers=authorized(target.tokens["operator"]))
            assert codes(reply.json()) == {"BAD_USER_INPUT"}, zone
