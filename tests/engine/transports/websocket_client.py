"""A WebSocket client of the sample schema, without a network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.types import Message

from app.engine.execution import GraphQLEngine
from app.engine.transports.websocket import PROTOCOL, GraphQLOverWebSocket
from tests.engine import sample_schema
from tests.engine.sample_schema import authenticator, engine, state

sockets = GraphQLOverWebSocket(engine, authenticator, state, allowed_origins=["https://app.example"], init_seconds=0.2)


def websocket_server(engine: GraphQLEngine, **options: Any) -> GraphQLOverWebSocket:
    return GraphQLOverWebSocket(engine, authenticator, state, **options)


class Client:
    """The client of one connection."""

    def __init__(self) -> None:
        self.to_server: asyncio.Queue[Message] = asyncio.Queue()
        self.from_server: asyncio.Queue[Message] = asyncio.Queue()

    async def next_event(self) -> Message:
        async with asyncio.timeout(2):
            return await self.from_server.get()

    async def next_message(self) -> Any:
        event = await self.next_event()
        assert event["type"] == "websocket.send", event
        return orjson.loads(event["text"])

    async def next_close(self) -> tuple[int, str]:
        event = await self.next_event()
        assert event["type"] == "websocket.close", event
        return event["code"], event["reason"]

    async def send(self, *messages: object) -> None:
        for message in messages:
            text = message if isinstance(message, str) else orjson.dumps(message).decode()
            await self.to_server.put({"type": "websocket.receive", "text": text})

    async def init(self, payload: object = None) -> None:
        await self.send({"type": "connection_init", "payload": payload})
        assert await self.next_message() == {"type": "connection_ack"}

    async def subscribe(self, id: str, query: str, **variables: Any) -> None:
        await self.send({"id": id, "type": "subscribe", "payload": {"query": query, "variables": variables}})

    async def is_silent(self) -> bool:
        await asyncio.sleep(0.05)
        return self.from_server.empty()


@asynccontextmanager
async def open_connection(
    server: GraphQLOverWebSocket | None = None,
    *,
    subprotocols: tuple[str, ...] = (PROTOCOL,),
    bearer: str | None = None,
    address: str | None = None,
    **headers: str,
) -> AsyncIterator[Client]:
    """A connection after its handshake. At the end the client disconnects, and the server must finish by itself."""
    client = Client()
    sample_schema.resolver_calls.clear()
    await client.to_server.put({"type": "websocket.connect"})
    named = {"host": "credits.example"} | headers | ({"authorization": f"Bearer {bearer}"} if bearer else {})
    scope = {
        "type": "websocket", "path": "/graphql", "subprotocols": list(subprotocols),
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "client": (address, 1) if address else None,
    }  # fmt: skip
    serving = asyncio.create_task((server or sockets)(scope, client.to_server.get, client.from_server.put))
    try:
        yield client
        await client.to_server.put({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(2):
            await serving
    finally:
        serving.cancel()


@asynccontextmanager
async def open_accepted_connection(server: GraphQLOverWebSocket | None = None, **how: Any) -> AsyncIterator[Client]:
    """An accepted connection before connection_init."""
    async with open_connection(server, **how) as client:
        assert await client.next_event() == {"type": "websocket.accept", "subprotocol": PROTOCOL}
        yield client
