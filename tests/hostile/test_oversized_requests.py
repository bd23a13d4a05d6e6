"""Oversized and malformed requests: each is refused at once with a code, at little cost to the server."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Final

import httpx
import pytest

from tests.hostile.server_under_test import DOCUMENTS, Target, authorized, codes
from tests.worker_processes import Report

pytestmark = pytest.mark.anyio

REPEATS: Final = 20 if DOCUMENTS >= 1_000 else 2
"""How often a request is sent, so that its CPU time can be measured."""
VALIDATION = "GRAPHQL_VALIDATION_FAILED"
PARSE = "GRAPHQL_PARSE_FAILED"
MEGABYTE: Final = 1024 * 1024


def bomb(levels: int) -> str:
    """Fragments that each spread the next one twice: 2^levels fields."""
    parts = [f"fragment F{n} on Account {{ ...F{n + 1} ...F{n + 1} }}" for n in range(levels)]
    return " ".join(["{ account { ...F0 } }", *parts, f"fragment F{levels} on Account {{ ownerId }}"])


def overlapping(count: int) -> str:
    """Fragments that all select the same field, which validation compares in pairs."""
    parts = [f"fragment G{n} on Account {{ b: balance {{ available posted }} }}" for n in range(count)]
    return " ".join(["{ account {", *(f"...G{n}" for n in range(count)), "} }", *parts])


DOCUMENTS_TO_REFUSE: Final[dict[str, tuple[str, str]]] = {
    "1,000 aliases": (PARSE, "{ " + " ".join(f"a{n}: account {{ ownerId }}" for n in range(1_000)) + " }"),
    "240 aliases": (VALIDATION, "{ account { " + " ".join(f"a{n}: ownerId" for n in range(240)) + " } }"),
    "10,000 directives": (PARSE, "{ account { ownerId " + "@a " * 10_000 + "} }"),
    "400 directives": (VALIDATION, "{ account { ownerId " + "@a " * 400 + "} }"),
    "depth 1,000": (PARSE, "{ a " * 1_000 + "}" * 1_000),
    "depth 200": (VALIDATION, "{ a " * 200 + "}" * 200),
    "1,000 operations": (PARSE, " ".join(f"query Q{n} {{ __typename }}" for n in range(1_000))),
    "a fragment in itself": (VALIDATION, "{ account { ...A } } fragment A on Account { ...A }"),
    "fragments in a circle": (
        VALIDATION,
        "{ account { ...A } } " + " ".join(f"fragment {a} on Account {{ ...{b} }}" for a, b in ("AB", "BC", "CA")),
    ),
    "bomb of 30 fragments": (VALIDATION, bomb(30)),
    "bomb of 90 fragments": (VALIDATION, bomb(90)),
    "overlapping fragments": (VALIDATION, overlapping(60)),
    "the same field 400 times": (VALIDATION, "{ account { " + "ownerId " * 400 + "} }"),
    "pages of pages": (
        VALIDATION,
        "{ account { tasks(first: 100) { edges { node { "
        + "blockRuns(first: 100) { edges { node { task { " * 3
        + "taskId"
        + " }" * 12
        + " } } } } }",
    ),
    "introspection of introspection": (
        VALIDATION,
        "{ __schema { types { " + "fields { type { " * 4 + "name" + " } }" * 4 + " } } }",
    ),
    "a deep list": (PARSE, f"{{ account(ownerId: {'[' * 10_000}) {{ ownerId }} }}"),
    "a deep object": (PARSE, "{ account(ownerId: " + "{a: " * 5_000 + ") { ownerId } }"),
    "a number of 30,000 digits": (VALIDATION, f"{{ account(ownerId: {'9' * 30_000}.0) {{ ownerId }} }}"),
    "an unknown field with a long name": (VALIDATION, "{ " + "a" * 30_000 + " }"),
    "unknown fields": (VALIDATION, "{ account { " + " ".join(f"ownerI{n}" for n in range(300)) + " } }"),
    "variables of unknown types": (
        VALIDATION,
        "query(" + " ".join(f"$v{n}: T{n}" for n in range(180)) + ") { account { ownerId } }",
    ),
    "a long comment": (PARSE, "#" * 40_000 + "\n{ __typename }"),
    "a string without end": (PARSE, '{ account(ownerId: "' + "a" * 30_000),
    "a null byte": (PARSE, "{ account\x00 { ownerId } }"),
    "a lone surrogate, escaped": (PARSE, '{ account(ownerId: "\\uD800") { ownerId } }'),
    "nothing": (PARSE, ""),
    "dots": (PARSE, "..." * 10_000),
}
"""The error code, and the document."""


@pytest.fixture
async def client(target: Target) -> AsyncIterator[httpx.AsyncClient]:
    async with target.client() as client:
        yield client


@pytest.fixture(scope="module")
def cpu_ms(report: Report) -> Iterator[dict[str, float]]:
    """The CPU milliseconds of each refusal. The most expensive ones are reported at the end."""
    found: dict[str, float] = {}
    yield found
    highest = sorted(found.items(), key=lambda item: -item[1])[:5]
    report("Most expensive refusals in CPU ms: " + "; ".join(f"{name} {cost:.1f}" for name, cost in highest))


@pytest.mark.parametrize("name", DOCUMENTS_TO_REFUSE)
async def test_an_oversized_or_malformed_document_is_refused(
    target: Target, client: httpx.AsyncClient, cpu_ms: dict[str, float], name: str
) -> None:
    code, document = DOCUMENTS_TO_REFUSE[name]
    headers = authorized(target.user(f"prober-{len(cpu_ms)}"))
    before = target.cpu_seconds()
    for _ in range(REPEATS):
        reply = await client.post("/graphql", json={"query": document}, headers=headers)
        assert (reply.status_code, codes(reply.json())) == (400, {code})
    cpu_ms[name] = (target.cpu_seconds() - before) * 1000 / REPEATS


ACCOUNT = "query($a: ID) { account(ownerId: $a) { ownerId } }"


def body(variables: str, query: str = ACCOUNT) -> bytes:
    return f'{{"query": {json.dumps(query)}, "variables": {variables}}}'.encode()


MANY: Final = json.dumps(dict.fromkeys(map(str, range(100_000)), 0), separators=(",", ":"))
BODIES_TO_REFUSE: Final[dict[str, tuple[int, str, bytes]]] = {
    "100,000 variables": (400, "BAD_REQUEST", body(MANY)),
    "200,000 values": (400, "BAD_REQUEST", body(f'{{"a": [{",".join(["1"] * 200_000)}]}}')),
    "variables 900 deep": (400, "BAD_REQUEST", body('{"a": ' + "[" * 900 + "]" * 900 + "}")),
    "variables 300,000 deep": (400, "BAD_REQUEST", body('{"a": ' + "[" * 300_000 + "]" * 300_000 + "}")),
    "objects 100,000 deep": (400, "BAD_REQUEST", body('{"a":' * 100_000 + "1" + "}" * 100_000)),
    "a number of 500,000 digits": (400, "BAD_REQUEST", body('{"a": ' + "9" * 500_000 + "}")),
    "NaN": (400, "BAD_REQUEST", body('{"a": NaN}')),
    "10 MB": (413, "PAYLOAD_TOO_LARGE", body('{"a": "' + "x" * 10 * MEGABYTE + '"}')),
    "a document of 10 MB": (413, "PAYLOAD_TOO_LARGE", body("{}", "{ a }" + " " * 10 * MEGABYTE)),
    "a document of 900 KB": (400, PARSE, body("{}", "{ " + "a " * 450_000 + "}")),
    "invalid UTF-8": (400, "BAD_REQUEST", b'{"query": "{ a\xff }"}'),
    "invalid UTF-8 in a variable": (400, "BAD_REQUEST", body('{"a": "?"}').replace(b"?", b"\xc3\x28")),
    "UTF-16": (400, "BAD_REQUEST", body("{}").decode().encode("utf-16")),
    "a byte order mark": (400, "BAD_REQUEST", b"\xef\xbb\xbf" + body("{}")),
    "a lone surrogate": (400, "BAD_REQUEST", body('{"a": "\\ud800"}')),
    "a null byte": (400, "BAD_REQUEST", b"\x00" + body("{}")),
    "a batch": (400, "BAD_REQUEST", b"[" + body("{}") + b"," + body("{}") + b"]"),
    "null": (400, "BAD_REQUEST", b"null"),
    "nothing": (400, "BAD_REQUEST", b""),
    "brackets": (400, "BAD_REQUEST", b"[" * 1_000_000),
}  # fmt: skip
"""The status, the error code, and the body, which a service sends."""


@pytest.mark.parametrize("name", BODIES_TO_REFUSE)
async def test_an_oversized_or_malformed_body_is_refused(
    target: Target, client: httpx.AsyncClient, cpu_ms: dict[str, float], name: str
) -> None:
    status, code, content = BODIES_TO_REFUSE[name]
    headers = authorized(target.tokens["service"]) | {"content-type": "application/json"}
    before = target.cpu_seconds()
    for _ in range(REPEATS):
        reply = await client.post("/graphql", content=content, headers=headers)
        assert (reply.status_code, codes(reply.json())) == (status, {code})
    cpu_ms[name] = (target.cpu_seconds() - before) * 1000 / REPEATS


async def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(target: Target, client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * MEGABYTE:
            sent += 65_536
            yield b" " * 65_536

    headers = authorized(target.tokens["user"]) | {"content-type": "application/json"}
    memory = target.resident_bytes()
    try:
        reply = await client.post("/graphql", content=endless(), headers=headers)
        assert (reply.status_code, codes(reply.json())) == (413, {"PAYLOAD_TOO_LARGE"})
    except httpx.WriteError:
        pass  # the server has responded and closed before the body was sent
    assert target.resident_bytes() - memory < 16 * MEGABYTE


async def test_a_flood_is_rate_limited_with_a_time_to_retry(target: Target, client: httpx.AsyncClient) -> None:
    headers = authorized(target.user("flooder"))
    replies: list[httpx.Response] = []
    async with asyncio.timeout(30):
        while all(reply.is_success for reply in replies):
            requests = (client.post("/graphql", json={"query": "{ __typename }"}, headers=headers) for _ in range(40))
            replies = await asyncio.gather(*requests)
    reply = next(reply for reply in replies if not reply.is_success)
    assert (reply.status_code, codes(reply.json())) == (429, {"RATE_LIMITED"})
    assert 1 <= int(reply.headers["retry-after"]) == reply.json()["errors"][0]["extensions"]["retryAfterSeconds"]
