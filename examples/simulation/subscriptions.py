"""A subscription over graphql-transport-ws, followed while everything happens."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

PROTOCOL: Final = Subprotocol("graphql-transport-ws")


class Subscription:
    """Every item that was pushed, and what was wrong. Its kinds say what is right: `_take`."""

    name: str
    """In problems."""
    field: str
    """The subscription's."""
    document: str

    def __init__(self, url: str, token: str, **variables: Any) -> None:
        self._url = f"ws{url.removeprefix('http')}/graphql"
        self._token = token
        self._variables = variables
        self._news = asyncio.Event()
        self.items: list[dict[str, Any]] = []
        self.problems: list[str] = []

    async def receive(self) -> None:
        """Receive until cancelled."""
        try:
            async with connect(self._url, subprotocols=[PROTOCOL], proxy=None) as socket:
                await self._converse(socket)
        except (OSError, WebSocketException) as fault:
            self._problem(f"the subscription broke: {fault!r}")

    async def wait_until(self, so: Callable[[], bool], *, within_seconds: float) -> bool:
        """Whether it becomes so, by what arrives in time."""
        try:
            async with asyncio.timeout(within_seconds):
                while not so() and not self.problems:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return so()

    async def _converse(self, socket: ClientConnection) -> None:
        await self._say(socket, {"type": "connection_init", "payload": {"authorization": f"Bearer {self._token}"}})
        async for text in socket:
            message = orjson.loads(text)
            match message["type"]:
                case "connection_ack":
                    query = {"query": self.document, "variables": self._variables}
                    await self._say(socket, {"id": "1", "type": "subscribe", "payload": query})
                case "ping":
                    await self._say(socket, {"type": "pong"})
                case "next" if "errors" not in message["payload"]:
                    self._take(message["payload"]["data"][self.field])
                    self._news.set()
                case _:
                    self._problem(f"the subscription ended: {text!r:.300}")
        self._problem(f"the server closed the subscription: {socket.close_code} {socket.close_reason}")

    def _take(self, item: dict[str, Any]) -> None:
        self.items.append(item)

    def _problem(self, text: str) -> None:
        self.problems.append(f"{self.name}: {text}")
        self._news.set()

    @staticmethod
    async def _say(socket: ClientConnection, message: dict[str, Any]) -> None:
        await socket.send(orjson.dumps(message).decode())
