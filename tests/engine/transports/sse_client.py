"""The client's end of an event stream of the sample schema."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Message

from app.engine.transports.http import GraphQLOverHTTP
from tests.engine import sample_schema
from tests.engine.transports.http_client import development_app, http_scope, query_string_of

EVENT_STREAM = "text/event-stream"


@dataclass
class EventStreamClient:
    """What the client reads. While `is_reading` is not set, it reads nothing and the server's `send` waits."""

    incoming: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    outgoing: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    is_reading: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, message: Message) -> None:
        """The `send` of the server."""
        await self.is_reading.wait()
        await self.incoming.put(message)

    async def message(self) -> Message:
        async with asyncio.timeout(2):
            return await self.incoming.get()

    async def body(self) -> str:
        message = await self.message()
        assert message["type"] == "http.response.body", message
        return str(message["body"].decode())

    async def item(self) -> tuple[str | None, Any]:
        """Id and payload of the next item."""
        name, *fields, data, end, nothing = (await self.body()).split("\n")
        assert (name, end, nothing) == ("event: next", "", "")
        assert len(fields) <= 1
        return fields[0].removeprefix("id: ") if fields else None, orjson.loads(data.removeprefix("data: "))

    async def expect_start(self) -> None:
        start = await self.message()
        headers = dict(start["headers"])
        assert start["status"] == 200
        assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
        assert (headers[b"cache-control"], headers[b"x-content-type-options"]) == (b"no-store", b"nosniff")

    async def expect_complete(self) -> None:
        assert await self.body() == "event: complete\ndata:\n\n"
        await self.expect_end()

    async def expect_end(self) -> None:
        assert await self.message() == {"type": "http.response.body", "body": b"", "more_body": False}


@asynccontextmanager
async def event_stream(
    query: str,
    *,
    to: GraphQLOverHTTP = development_app,
    bearer: str | None = None,
    accept: str = EVENT_STREAM,
    method: str = "POST",
    is_reading: bool = True,
    last_event_id: str | None = None,
    **variables: Any,
) -> AsyncIterator[EventStreamClient]:
    """A request for an event stream. At the end the client disconnects, and the server must finish by itself."""
    client = EventStreamClient()
    sample_schema.resolver_calls.clear()
    if is_reading:
        client.is_reading.set()
    request = {"query": query, "variables": variables}
    is_get = method == "GET"
    await client.outgoing.put(
        {"type": "http.request", "body": b"" if is_get else orjson.dumps(request), "more_body": False}
    )
    scope = http_scope(
        method, bearer=bearer, accept=accept, last_event_id=last_event_id or "",
        query_string=query_string_of(request) if is_get else b"",
    )  # fmt: skip
    server = asyncio.create_task(to(scope, client.outgoing.get, client.send))
    try:
        yield client
        await client.outgoing.put({"type": "http.disconnect"})
        async with asyncio.timeout(3):
            await server
    finally:
        server.cancel()
        with suppress(asyncio.CancelledError):
            await server
