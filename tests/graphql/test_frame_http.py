"""The HTTP transport: statuses, sizes, malformed bodies; whatever arrives, the answer is typed and the server alive."""

import gzip
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from starlette.types import Message

from app import database
from app.graphql.body import LARGE_BODY, SMALL_BODY
from app.graphql.view import GraphQLOverHTTP
from tests.graphql.toy import doorway, execution, house, token

pytestmark = pytest.mark.anyio

KEY_OF_NOBODY = f"ck_{'0' * 16}_{'0' * 64}"
GRAPHQL_JSON = "application/graphql-response+json"
view = GraphQLOverHTTP(execution, doorway, house, explorer=True, reads_by_get=True)
production_view = GraphQLOverHTTP(execution, doorway, house, explorer=False)


class Reply:
    def __init__(self, messages: list[Message]) -> None:
        assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
        self.status: int = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.body: bytes = messages[1]["body"]
        assert self.headers["content-length"] == str(len(self.body))

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        assert "data" not in self.json
        [error] = self.json["errors"]
        return str(error["extensions"]["code"])


async def sent(
    chunks: Iterable[bytes] | bytes,
    *,
    method: str = "POST",
    to: GraphQLOverHTTP = view,
    bearer: str | None = None,
    **headers: str,
) -> Reply:
    """The reply to a request that arrives in these chunks."""
    waiting = [chunks] if isinstance(chunks, bytes) else list(chunks)
    named = {"content_type": "application/json"} | headers | ({"authorization": f"Bearer {bearer}"} if bearer else {})
    replies: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        replies.append(message)

    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in named.items() if value]
    await to({"type": "http", "method": method, "path": "/graphql", "headers": pairs}, receive, send)
    return Reply(replies)


def body(query: str, **more: Any) -> bytes:
    return orjson.dumps({"query": query, **more})


async def test_a_query_is_answered() -> None:
    reply = await sent(body("query ($n: String!) { hello(name: $n) }", variables={"n": "you"}))
    assert (reply.status, reply.json) == (200, {"data": {"hello": "hello you"}})
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert reply.headers["cache-control"] == "no-store"


async def test_a_token_makes_the_viewer() -> None:
    assert (await sent(body("{ me }"), bearer=token("ada"))).json == {"data": {"me": "user:ada"}}


async def test_a_body_in_many_chunks_is_one_body() -> None:
    whole = body("{ hello }")
    reply = await sent([whole[:5], b"", whole[5:9], whole[9:]])
    assert reply.json == {"data": {"hello": "hello world"}}


@pytest.mark.parametrize(
    "authorization", ["Bearer nonsense", "Bearer ", "Basic YTpi", "nonsense", "Bearer a, Bearer b"]
)
async def test_a_refused_token_is_401_before_the_body_is_read(authorization: str) -> None:
    reply = await sent([], authorization=authorization)
    assert (reply.status, reply.code) == (401, "UNAUTHENTICATED")
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_an_expired_token_is_401() -> None:
    reply = await sent(body("{ me }"), bearer=token(seconds=-3600))
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
    "gzip": gzip.compress(body("{ hello }")),
    "nested too deep for the parser": b'{"query": "{ hello }", "variables": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    "an integer of thousands of digits": b'{"query": "{ hello }", "variables": {"a": ' + b"9" * 5000 + b"}}",
    "NaN": b'{"query": "{ hello }", "variables": {"a": NaN}}',
    "lone surrogate": b'{"query": "\\ud800"}',
    "two values": b'{"query": "{ hello }"} {}',
}


@pytest.mark.parametrize("accept", ["*/*", GRAPHQL_JSON])
@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_body_is_400(name: str, accept: str) -> None:
    reply = await sent(MALFORMED[name], accept=accept)
    assert (reply.status, reply.code) == (400, "BAD_REQUEST")


async def test_a_compressed_body_is_400_and_is_not_unpacked() -> None:
    reply = await sent([], content_encoding="gzip")
    assert (reply.status, reply.code) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/graphql",
        "application/json; charset=utf-16",
        "application/jsonp",
    ],
)
async def test_another_content_type_is_415(content_type: str) -> None:
    reply = await sent([], content_type=content_type)
    assert (reply.status, reply.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;charset=UTF-8"]
)
async def test_json_in_utf_8_may_say_so(content_type: str) -> None:
    assert (await sent(body("{ hello }"), content_type=content_type)).status == 200


def padded(size: int) -> bytes:
    whole = body("{ hello }")
    return whole + b" " * (size - len(whole))


@pytest.mark.parametrize(("operator", "limit"), [(None, SMALL_BODY), (False, SMALL_BODY), (True, LARGE_BODY)])
async def test_a_body_may_have_its_size_and_not_a_byte_more(operator: bool | None, limit: int) -> None:
    bearer = None if operator is None else token("olga", operator=operator)
    assert (await sent(padded(limit), bearer=bearer)).status == 200
    reply = await sent(padded(limit + 1), bearer=bearer)
    assert (reply.status, reply.code) == (413, "PAYLOAD_TOO_LARGE")
    assert reply.json["errors"][0]["message"] == f"The body may take at most {limit:,} bytes."


async def test_a_stream_is_cut_at_the_limit_whatever_its_content_length_says() -> None:
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
    await view({"type": "http", "method": "POST", "path": "/graphql", "headers": headers}, receive, send)
    assert Reply(replies).status == 413
    assert taken == 5


async def test_a_content_length_beyond_the_limit_is_413_before_the_body_is_read() -> None:
    reply = await sent([], content_length=str(SMALL_BODY + 1))
    assert (reply.status, reply.code) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("content_length", ["-1", "many", "²", ""])
async def test_a_content_length_that_is_no_number_is_not_believed(content_length: str) -> None:
    assert (await sent(body("{ hello }"), content_length=content_length)).status == 200


async def test_a_caller_who_leaves_is_not_answered() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    headers = [(b"content-type", b"application/json")]
    await view({"type": "http", "method": "POST", "path": "/graphql", "headers": headers}, receive, send)


@pytest.mark.parametrize(
    "query", ["{", "{ nothing }", "query ($n: String!) { hello(name: $n) }", "subscription { forever }"]
)
async def test_an_operation_that_cannot_run_is_200_in_plain_json_and_400_where_the_client_knows_better(
    query: str,
) -> None:
    plain = await sent(body(query), accept="application/json")
    modern = await sent(body(query), accept=f"{GRAPHQL_JSON}, application/json;q=0.9")
    assert (plain.status, modern.status) == (200, 400)
    assert plain.json == modern.json
    assert "data" not in plain.json
    assert modern.headers["content-type"] == f"{GRAPHQL_JSON}; charset=utf-8"


async def test_an_error_in_a_field_is_200() -> None:
    reply = await sent(body("{ hello broken }"), accept=GRAPHQL_JSON)
    assert reply.status == 200
    assert reply.json["data"] == {"hello": "hello world", "broken": None}


async def test_a_fault_names_the_request_id_that_a_proxy_gave() -> None:
    reply = await sent(body("{ broken }"), x_request_id="edge-42")
    assert reply.json["errors"][0]["extensions"]["reference"] == "edge-42"
    forged = await sent(body("{ broken }"), x_request_id="two\tlines")
    assert forged.json["errors"][0]["extensions"]["reference"] != "two\tlines"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_in_production_operations_are_sent_by_post_only(method: str) -> None:
    reply = await sent([], method=method, to=production_view)
    assert (reply.status, reply.code) == (405, "METHOD_NOT_ALLOWED")
    assert reply.headers["allow"] == "POST, OPTIONS"


async def test_a_browser_is_shown_graphiql_in_development_only() -> None:
    page = await sent([], method="GET", accept="text/html,application/xhtml+xml")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert b"graphiql" in page.body
    assert (await sent([], method="GET", accept="text/html", to=production_view)).status == 405


async def test_a_service_whose_key_cannot_be_looked_up_is_told_to_ask_again() -> None:
    with pytest.raises(OSError, match=r"refused|failed"):
        await database.connect("postgresql://127.0.0.1:1/nobody")
    try:
        reply = await sent(body("{ hello }"), bearer=KEY_OF_NOBODY)
    finally:
        await database.disconnect()
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "UNAVAILABLE", "1")
