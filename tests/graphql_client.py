"""Requests to a running server over its public API: GraphQL over HTTP and WebSocket, and the sandbox's payment page."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection, connect

TIMEOUT_SECONDS: Final = 30
PROTOCOLS: Final[Any] = ["graphql-transport-ws"]


def authorization(token: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token is not None else {}


def request_of(token: str | None, query: str, **variables: Any) -> dict[str, Any]:
    """Body and headers of an operation, as arguments for httpx."""
    return {"json": {"query": query, "variables": variables}, "headers": authorization(token)}


def data_of(reply: httpx.Response) -> Any:
    """The data of a response without errors."""
    body = reply.json()
    assert "errors" not in body, body
    return body["data"]


def execute(url: str, token: str | None, query: str, **variables: Any) -> Any:
    """The data of an operation, which must have no errors."""
    return data_of(httpx.post(f"{url}/graphql", timeout=TIMEOUT_SECONDS, **request_of(token, query, **variables)))


def websocket_url(url: str) -> str:
    return url.replace("http", "ws", 1) + "/graphql"


@asynccontextmanager
async def connected(url: str, token: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """An authenticated graphql-transport-ws connection. `options`: of the `websockets` package."""
    async with connect(websocket_url(url), subprotocols=PROTOCOLS, **options) as socket:
        await socket.send(json.dumps({"type": "connection_init", "payload": authorization(token)}))
        assert json.loads(await socket.recv()) == {"type": "connection_ack"}
        yield socket


async def subscribe(socket: ClientConnection, query: str, **variables: Any) -> None:
    payload = {"query": query, "variables": variables}
    await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))


def form_token(page: str) -> str:
    """The token in the form of a payment page."""
    found = re.search(r'name="token" value="(\w+)"', page)
    assert found is not None, page
    return found[1]
