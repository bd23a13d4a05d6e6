"""The HTTP transport: methods, status codes, media types and limits."""

import asyncio
import gzip
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from starlette.types import Message

from app.db import pools
from app.engine.transports import http
from app.engine.transports.request_parsing import MAX_SERVICE_BODY_BYTES, MAX_USER_BODY_BYTES
from app.server.stopping import Stopping
from tests.engine import sample_schema
from tests.engine.sample_schema import token
from tests.engine.transports.http_client import (
    GRAPHQL_JSON,
    Reply,
    development_app,
    graphql_body,
    production_app,
    send_get_request,
    send_request,
)

pytestmark = pytest.mark.anyio

UNKNOWN_KEY = f"ck_{'0' * 16}_{'0' * 64}"


async def test_a_query_is_answered() -> None:
    reply = await send_request(graphql_body("query ($n: String!) { hello(name: $n) }", variables={"n": "you"}))
    assert (reply.status, reply.json) == (200, {"data": {"hello": "hello you"}})
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert reply.headers["content-length"] == str(len(reply.body))


async def test_a_request_that_is_cancelled_because_the_server_stops_can_be_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopping = Stopping()
    monkeypatch.setattr(http, "STOPPING", stopping)
    waiting = asyncio.create_task(send_request(graphql_body("{ slow }")))
    await asyncio.sleep(0.01)
    stopping.begin()
    waiting.cancel()
    reply = await waiting
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "UNAVAILABLE", "1")


async def test_a_token_identifies_the_caller() -> None:
    assert (await send_request(graphql_body("{ me }"), bearer=token("ada"))).json == {"data": {"me": "user:ada"}}


async def test_a_body_may_arrive_in_chunks() -> None:
    whole = graphql_body("{ hello }")
    reply = await send_request([whole[:5], b"", whole[5:9], whole[9:]])
    assert reply.json == {"data": {"hello": "hello world"}}


REFUSED_HEADERS = [
    *(
        (401, "UNAUTHENTICATED", {"authorization": text})
        for text in ("Bearer nonsense", "Bearer ", "Basic YTpi", "nonsense", "Bearer a, Bearer b")
    ),
    *(
        (406, "NOT_ACCEPTABLE", {"accept": text})
        for text in ("text/plain", "text/html", "image/*", "application/xml", "application/json;q=0", "*/*;q=0")
    ),
    *(
        (415, "UNSUPPORTED_MEDIA_TYPE", {"content_type": text})
        for text in (
            "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
            "application/graphql", "application/json; charset=utf-16",
            "application/json; charset=latin1; charset=utf-8", "application/jsonp",
        )
    ),
    (400, "BAD_REQUEST", {"content_encoding": "gzip"}),
    (413, "PAYLOAD_TOO_LARGE", {"content_length": str(MAX_USER_BODY_BYTES + 1)}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "headers"), REFUSED_HEADERS, ids=str)
async def test_a_request_may_be_refused_for_its_headers_before_the_body_is_read(
    status: int, code: str, headers: Any
) -> None:
    reply = await send_request([], **headers)
    assert (reply.status, reply.code) == (status, code)
    assert reply.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


async def test_an_expired_token_is_401() -> None:
    reply = await send_request(graphql_body("{ me }"), bearer=token(seconds=-3600))
    assert (reply.status, reply.code) == (401, "UNAUTHENTICATED")


MALFORMED = {
    "empty": b"",
    "not JSON": b"{",
    "null": b"null",
    "number": b"42",
    "string": b'"{ hello }"',
    "true": b"true",
    "empty list": b"[]",
    "batch": orjson.dumps([{"query": "{ hello }"}]),
    "no query": b"{}",
    "null query": b'{"query": null}',
    "query is a number": b'{"query": 1}',
    "query is an object": b'{"query": {}}',
    "variables are a list": b'{"query": "{ hello }", "variables": []}',
    "variables are text": b'{"query": "{ hello }", "variables": "{}"}',
    "operationName is a number": b'{"query": "{ hello }", "operationName": 1}',
    "extensions are a list": b'{"query": "{ hello }", "extensions": []}',
    "invalid UTF-8": b'{"query": "\xff\xfe"}',
    "UTF-16": '{"query": "{ hello }"}'.encode("utf-16"),
    "gzip": gzip.compress(graphql_body("{ hello }")),
    "nested too deep for the parser": b'{"query": "{ hello }", "variables": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    "an integer of thousands of digits": b'{"query": "{ hello }", "variables": {"a": ' + b"9" * 5000 + b"}}",
    "NaN": b'{"query": "{ hello }", "variables": {"a": NaN}}',
    "lone surrogate": b'{"query": "\\ud800"}',
    "two values": b'{"query": "{ hello }"} {}',
}


@pytest.mark.parametrize("accept", ["*/*", GRAPHQL_JSON])
@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_body_is_400(name: str, accept: str) -> None:
    reply = await send_request(MALFORMED[name], accept=accept)
    assert (reply.status, reply.code) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/json;charset=UTF-8",
        'application/json; charset="utf8"',
        "application/json;",
        " application/json ; ",
        "application/json; profile=x; charset=utf-8",
        "application/json; odata=verbose",
    ],
)
async def test_the_content_type_may_have_parameters_and_name_utf_8(content_type: str) -> None:
    assert (await send_request(graphql_body("{ hello }"), content_type=content_type)).status == 200


def padded(size: int) -> bytes:
    whole = graphql_body("{ hello }")
    return whole + b" " * (size - len(whole))


@pytest.mark.parametrize(
    ("operator", "limit"), [(None, MAX_USER_BODY_BYTES), (False, MAX_USER_BODY_BYTES), (True, MAX_SERVICE_BODY_BYTES)]
)
async def test_a_body_may_have_the_maximum_size_and_not_a_byte_more(operator: bool | None, limit: int) -> None:
    bearer = None if operator is None else token("olga", operator=operator)
    assert (await send_request(padded(limit), bearer=bearer)).status == 200
    reply = await send_request(padded(limit + 1), bearer=bearer)
    assert (reply.status, reply.code) == (413, "PAYLOAD_TOO_LARGE")
    assert reply.json["errors"][0]["message"] == f"The body exceeds {limit:,} bytes."


async def test_reading_stops_at_the_limit_whatever_the_content_length() -> None:
    taken = 0

    def endless() -> Iterable[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b" " * 16 * 1024

    chunks = iter(endless())

    async def receive() -> Message:
        return {"type": "http.request", "body": next(chunks), "more_body": True}

    replies: list[Message] = []

    async def send(message: Message) -> None:
        replies.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"10")]
    await development_app({"type": "http", "method": "POST", "path": "/graphql", "headers": headers}, receive, send)
    assert Reply(replies).status == 413
    assert taken == 5


@pytest.mark.parametrize("content_length", ["-1", "many", "²", ""])
async def test_an_invalid_content_length_is_ignored(content_length: str) -> None:
    assert (await send_request(graphql_body("{ hello }"), content_length=content_length)).status == 200


async def test_a_client_that_disconnects_gets_no_response() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    headers = [(b"content-type", b"application/json")]
    await development_app({"type": "http", "method": "POST", "path": "/graphql", "headers": headers}, receive, send)


@pytest.mark.parametrize(
    "query", ["{", "{ nothing }", "query ($n: String!) { hello(name: $n) }", "subscription { forever }"]
)
async def test_an_operation_that_cannot_run_is_200_as_json_and_400_as_graphql_json(
    query: str,
) -> None:
    plain = await send_request(graphql_body(query), accept="application/json")
    modern = await send_request(graphql_body(query), accept=f"{GRAPHQL_JSON}, application/json;q=0.9")
    assert (plain.status, modern.status) == (200, 400)
    assert plain.json == modern.json
    assert "data" not in plain.json
    assert modern.headers["content-type"] == f"{GRAPHQL_JSON}; charset=utf-8"


async def test_an_error_in_a_field_is_200() -> None:
    reply = await send_request(graphql_body("{ hello broken }"), accept=GRAPHQL_JSON)
    assert reply.status == 200
    assert reply.json["data"] == {"hello": "hello world", "broken": None}


async def test_an_internal_error_has_the_request_id_of_the_proxy_as_reference() -> None:
    reply = await send_request(graphql_body("{ broken }"), x_request_id="edge-42")
    assert reply.json["errors"][0]["extensions"]["reference"] == "edge-42"
    forged = await send_request(graphql_body("{ broken }"), x_request_id="two\tlines")
    assert forged.json["errors"][0]["extensions"]["reference"] != "two\tlines"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
async def test_production_accepts_post_only(method: str) -> None:
    reply = await send_request([], method=method, to=production_app, query_string=b"query={hello}")
    assert reply.status == 405
    assert reply.headers["allow"] == "POST, OPTIONS"
    if method != "HEAD":
        assert reply.code == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE"])
async def test_development_accepts_post_and_get(method: str) -> None:
    reply = await send_request([], method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "POST, GET, HEAD, OPTIONS")


async def test_options_lists_the_methods() -> None:
    for to, allowed in ((development_app, "POST, GET, HEAD, OPTIONS"), (production_app, "POST, OPTIONS")):
        reply = await send_request([], method="OPTIONS", to=to)
        assert (reply.status, reply.headers["allow"], reply.body) == (204, allowed, b"")


async def test_browsers_get_graphiql_in_development_only() -> None:
    page = await send_request([], method="GET", accept="text/html,application/xhtml+xml")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert b"graphiql" in page.body
    assert (await send_request([], method="GET", accept="text/html", to=production_app)).status == 405


async def test_get_runs_a_query_with_variables_in_the_url() -> None:
    parameters = {
        "query": "query A { me } query B($n: String!) { hello(name: $n) }",
        "variables": {"n": "é&?"},
        "operationName": "B",
        "extensions": {"any": 1},
    }
    reply = await send_get_request(parameters, accept=GRAPHQL_JSON, bearer=token())
    assert (reply.status, reply.json) == (200, {"data": {"hello": "hello é&?"}})
    assert reply.headers["content-type"] == f"{GRAPHQL_JSON}; charset=utf-8"


async def test_head_has_the_response_of_get_without_its_body() -> None:
    full = await send_get_request({"query": "{ hello }"})
    bare = await send_get_request({"query": "{ hello }"}, method="HEAD")
    assert (bare.status, bare.headers, bare.body) == (full.status, full.headers, b"")


@pytest.mark.parametrize("accept", ["", "application/json", GRAPHQL_JSON, "text/event-stream"])
async def test_a_mutation_by_get_is_405_and_does_not_run(accept: str) -> None:
    sample_schema.resolver_calls.clear()
    reply = await send_get_request({"query": "mutation { spend(cost: 1) { __typename } }"}, accept=accept)
    assert (reply.status, reply.code, reply.headers["allow"]) == (405, "METHOD_NOT_ALLOWED", "POST")
    assert sample_schema.resolver_calls == []


async def test_get_may_run_a_query_of_a_document_that_also_has_mutations() -> None:
    both = "query Q { hello } mutation M { spend(cost: 1) { __typename } }"
    assert (await send_get_request({"query": both, "operationName": "Q"})).json == {"data": {"hello": "hello world"}}
    assert (await send_get_request({"query": both, "operationName": "M"})).status == 405


MALFORMED_URLS = {
    "nothing": b"",
    "no query": b"operationName=A",
    "variables are no JSON": b"query={hello}&variables={",
    "variables are a list": b"query={hello}&variables=[]",
    "variables are text": b"query={hello}&variables=%22a%22",
    "extensions are a number": b"query={hello}&extensions=1",
    "query twice": b"query={hello}&query={me}",
    "variables twice": b"query={hello}&variables={}&variables={}",
    "invalid UTF-8": b"query=%ff",
    "not ASCII": "query={é}".encode(),
    "too many": b"query={hello}" + b"&a=1" * 30,
}


@pytest.mark.parametrize("name", MALFORMED_URLS)
async def test_a_malformed_url_is_400(name: str) -> None:
    reply = await send_request([], method="GET", query_string=MALFORMED_URLS[name], content_type="")
    assert (reply.status, reply.code) == (400, "BAD_REQUEST")


async def test_a_url_may_be_as_long_as_a_body_and_not_a_byte_longer() -> None:
    for size, status in ((MAX_USER_BODY_BYTES, 200), (MAX_USER_BODY_BYTES + 1, 413)):
        reply = await send_request(
            [], method="GET", query_string=b"query={hello}&a=" + b"x" * (size - 16), content_type=""
        )
        assert reply.status == status


async def test_a_request_without_accept_gets_json() -> None:
    for accept in ("", "*/*", "application/*", "text/html, */*;q=0.1"):
        reply = await send_request(graphql_body("{ hello }"), accept=accept)
        assert reply.headers["content-type"] == "application/json; charset=utf-8"


async def test_a_service_key_that_cannot_be_read_is_503() -> None:
    with pytest.raises(OSError, match=r"refused|failed"):
        await pools.connect("postgresql://127.0.0.1:1/nobody")
    try:
        reply = await send_request(graphql_body("{ hello }"), bearer=UNKNOWN_KEY)
    finally:
        await pools.disconnect()
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "UNAVAILABLE", "1")
