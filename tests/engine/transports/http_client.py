"""An HTTP client of the sample schema, without a network."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

import orjson
from starlette.types import Message, Scope

from app.engine.transports.http import GraphQLOverHTTP
from tests.engine.sample_schema import authenticator, engine, state

GRAPHQL_JSON = "application/graphql-response+json"
development_app = GraphQLOverHTTP(engine, authenticator, state, graphiql=True, get_queries=True)
production_app = GraphQLOverHTTP(engine, authenticator, state, graphiql=False)


class Reply:
    def __init__(self, messages: list[Message]) -> None:
        assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
        self.status: int = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.body: bytes = messages[1]["body"]
        assert self.headers["cache-control"] == "no-store"
        assert self.headers["x-content-type-options"] == "nosniff"

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        assert "data" not in self.json
        [error] = self.json["errors"]
        return str(error["extensions"]["code"])


def http_scope(
    method: str = "POST",
    *,
    bearer: str | None = None,
    address: str | None = None,
    query_string: bytes = b"",
    **headers: str,
) -> Scope:
    """The scope of a request. A header with an empty value is not sent. `address`: that of the client."""
    named = {"content_type": "application/json"} | headers | ({"authorization": f"Bearer {bearer}"} if bearer else {})
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in named.items() if value]
    client = (address, 1) if address else None
    return {
        "type": "http", "method": method, "path": "/graphql", "query_string": query_string, "headers": pairs,
        "client": client,
    }  # fmt: skip


async def send_request(chunks: Iterable[bytes] | bytes, *, to: GraphQLOverHTTP = development_app, **how: Any) -> Reply:
    """The response to a request whose body arrives in these chunks; [] if it must not be read."""
    waiting = [chunks] if isinstance(chunks, bytes) else list(chunks)
    replies: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        replies.append(message)

    await to(http_scope(**how), receive, send)
    return Reply(replies)


def graphql_body(query: str, **more: Any) -> bytes:
    return orjson.dumps({"query": query, **more})


def query_string_of(parameters: Mapping[str, object]) -> bytes:
    """The parameters of a GET request. Those that are not strings are encoded as JSON."""
    texts = {name: value if isinstance(value, str) else orjson.dumps(value) for name, value in parameters.items()}
    return urlencode(texts).encode()


async def send_get_request(parameters: Mapping[str, object], *, method: str = "GET", **how: Any) -> Reply:
    return await send_request([], method=method, query_string=query_string_of(parameters), content_type="", **how)
