"""Runs an operation of the sample schema over each transport. Tests of limits use all of them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Message

from app.engine.execution import GraphQLEngine
from app.engine.transports.http import GraphQLOverHTTP
from tests.engine import sample_schema
from tests.engine.transports.http_client import http_scope, query_string_of
from tests.engine.transports.sse_client import EVENT_STREAM
from tests.engine.transports.websocket_client import open_accepted_connection, websocket_server


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an operation."""

    data: Any = None
    errors: Sequence[Any] = field(default_factory=tuple)
    status: int | None = None
    """Of an HTTP response."""
    retry_after: str | None = None
    """The Retry-After header of an HTTP response."""
    close_code: int | None = None
    """Of a WebSocket connection that the server closed."""

    @property
    def codes(self) -> set[str]:
        return {error["extensions"]["code"] for error in self.errors}

    @property
    def text(self) -> str:
        return " ".join(error["message"] for error in self.errors)


Execute = Callable[..., Awaitable[Outcome]]


def over_post(accept: str) -> Execute:
    """Executes by one POST with this Accept header. The result of a stream is its first item."""

    async def execute(
        engine: GraphQLEngine, query: str, *, bearer: str | None = None, address: str | None = None, **variables: Any
    ) -> Outcome:
        app = GraphQLOverHTTP(engine, sample_schema.authenticator, sample_schema.state, graphiql=False)
        request = {"query": query, "variables": variables}
        status, headers, item = await first_item(app, request, bearer=bearer, address=address, accept=accept)
        retry_after = headers.get(b"retry-after")
        return Outcome(
            data=item.get("data"),
            errors=item.get("errors", ()),
            status=status,
            retry_after=retry_after.decode() if retry_after is not None else None,
        )

    return execute


async def first_item(
    app: GraphQLOverHTTP, request: Mapping[str, Any], *, method: str = "POST", accept: str = EVENT_STREAM, **how: Any
) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
    """Status, headers and first item of an event stream, or of the JSON response instead of it.

    Then the client disconnects, and the server must finish by itself.
    """
    to_server: asyncio.Queue[Message] = asyncio.Queue()
    from_server: asyncio.Queue[Message] = asyncio.Queue()
    is_get = method == "GET"
    body = b"" if is_get else orjson.dumps(request)
    await to_server.put({"type": "http.request", "body": body, "more_body": False})
    scope = http_scope(method, accept=accept, query_string=query_string_of(request) if is_get else b"", **how)
    serving = asyncio.create_task(app(scope, to_server.get, from_server.put))
    try:
        async with asyncio.timeout(5):
            start, first_body = await from_server.get(), await from_server.get()
            headers = dict(start["headers"])
            payload = first_body["body"]
            if headers[b"content-type"].startswith(b"text/event-stream"):
                name, *_, data, _, _ = payload.split(b"\n")
                assert name in {b"event: next", b"event: complete"}, payload
                payload = data.removeprefix(b"data: ") if name == b"event: next" else b'{"data": null}'
            await to_server.put({"type": "http.disconnect"})
            await serving
        return start["status"], headers, orjson.loads(payload)
    finally:
        serving.cancel()


over_http = over_post("application/json")


async def over_websocket(
    engine: GraphQLEngine, query: str, *, bearer: str | None = None, address: str | None = None, **variables: Any
) -> Outcome:
    """One operation over its own connection. The result is its first item."""
    async with open_accepted_connection(websocket_server(engine), bearer=bearer, address=address) as client:
        await client.init()
        await client.subscribe("1", query, **variables)
        event = await client.next_event()
    if event["type"] == "websocket.close":
        return Outcome(close_code=event["code"])
    message = orjson.loads(event["text"])
    if message["type"] == "error":
        return Outcome(errors=message["payload"])
    return Outcome(message["payload"].get("data"), message["payload"].get("errors", ()))


TRANSPORTS: dict[str, Execute] = {
    "http": over_http,
    "websocket": over_websocket,
    "event stream": over_post("text/event-stream"),
    "either": over_post("application/json, text/event-stream"),
}
"""By name. A transport that is added here is tested with every limit."""
