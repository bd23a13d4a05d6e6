"""Runs an operation of the sample schema over each transport. Tests of limits use all of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Message

from app.engine.execution import GraphQLEngine
from app.engine.transports.http import GraphQLOverHTTP
from app.engine.transports.websocket import PROTOCOL, GraphQLOverWebSocket
from tests.engine import sample_schema
from tests.engine.transports.websocket_client import Client


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


def over_post(accept: bytes) -> Execute:
    """Executes by one POST with this Accept header. The result of a stream is its first item."""

    async def execute(
        engine: GraphQLEngine, query: str, *, bearer: str | None = None, address: str | None = None, **variables: Any
    ) -> Outcome:
        app = GraphQLOverHTTP(engine, sample_schema.authenticator, sample_schema.state, graphiql=False)
        request = {"query": query, "variables": variables}
        client = (address, 1) if address else None
        status, headers, item = await first_item(app, request, bearer=bearer, client=client, accept=accept)
        retry_after = headers.get(b"retry-after")
        return Outcome(
            data=item.get("data"),
            errors=item.get("errors", ()),
            status=status,
            retry_after=retry_after.decode() if retry_after is not None else None,
        )

    return execute


async def first_item(
    app: GraphQLOverHTTP,
    request: Mapping[str, Any],
    *,
    bearer: str | None = None,
    client: tuple[str, int] | None = None,
    accept: bytes = b"text/event-stream",
) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
    """Status, headers and first item of an event stream, or of the JSON response instead of it.

    Then the client disconnects, and the server must finish by itself.
    """
    to_server: asyncio.Queue[Message] = asyncio.Queue()
    from_server: asyncio.Queue[Message] = asyncio.Queue()
    await to_server.put({"type": "http.request", "body": orjson.dumps(request), "more_body": False})
    headers = [(b"content-type", b"application/json"), (b"accept", accept), *_authorization(bearer)]
    scope = {"type": "http", "method": "POST", "path": "/graphql", "headers": headers, "client": client}
    serving = asyncio.create_task(app(scope, to_server.get, from_server.put))
    try:
        async with asyncio.timeout(5):
            start, first_body = await from_server.get(), await from_server.get()
            response_headers = dict(start["headers"])
            payload = first_body["body"]
            if response_headers[b"content-type"].startswith(b"text/event-stream"):
                name, *_, data, _, _ = payload.split(b"\n")
                assert name in {b"event: next", b"event: complete"}, payload
                payload = data.removeprefix(b"data: ") if name == b"event: next" else b'{"data": null}'
            await to_server.put({"type": "http.disconnect"})
            await serving
        return start["status"], response_headers, orjson.loads(payload)
    finally:
        serving.cancel()


over_http = over_post(b"application/json")


async def over_websocket(
    execution: GraphQLEngine, query: str, *, bearer: str | None = None, address: str | None = None, **variables: Any
) -> Outcome:
    """One operation over its own connection. The result is its first item."""
    async with connect(execution, bearer=bearer, address=address) as client:
        await client.init()
        await client.subscribe("1", query, **variables)
        event = await client.next_event()
    if event["type"] == "websocket.close":
        return Outcome(close_code=event["code"])
    message = orjson.loads(event["text"])
    if message["type"] == "error":
        return Outcome(errors=message["payload"])
    return Outcome(message["payload"].get("data"), message["payload"].get("errors", ()))


@asynccontextmanager
async def connect(
    execution: GraphQLEngine,
    *,
    bearer: str | None = None,
    address: str | None = None,
    sockets: GraphQLOverWebSocket | None = None,
) -> AsyncIterator[Client]:
    """An accepted connection before connection_init. `sockets`: a server that is shared with other connections."""
    server = sockets or GraphQLOverWebSocket(execution, sample_schema.authenticator, sample_schema.state)
    client = Client()
    await client.to_server.put({"type": "websocket.connect"})
    scope = {
        "type": "websocket",
        "path": "/graphql",
        "headers": [(b"host", b"credits.example"), *_authorization(bearer)],
        "subprotocols": [PROTOCOL],
        "client": (address, 1) if address else None,
    }
    serving = asyncio.create_task(server(scope, client.to_server.get, client.from_server.put))
    try:
        assert (await client.next_event())["type"] == "websocket.accept"
        yield client
        await client.to_server.put({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(2):
            await serving
    finally:
        serving.cancel()


def _authorization(bearer: str | None) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {bearer}".encode())] if bearer is not None else []


TRANSPORTS: dict[str, Execute] = {
    "http": over_http,
    "websocket": over_websocket,
    "event stream": over_post(b"text/event-stream"),
    "either": over_post(b"application/json, text/event-stream"),
}
"""By name. A transport that is added here is tested with every limit."""
