"""The header of one user's page: its balance, followed over graphql-transport-ws while everything happens."""

import asyncio
from typing import Any, Final

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from app.simulation.documents import BALANCE_FOLLOWED

PROTOCOL: Final = Subprotocol("graphql-transport-ws")


class Header:
    """Every item that was pushed, and what was wrong with them."""

    def __init__(self, url: str, token: str) -> None:
        self._url = f"ws{url.removeprefix('http')}/graphql"
        self._token = token
        self._news = asyncio.Event()
        self.items: list[dict[str, Any]] = []
        self.problems: list[str] = []

    @property
    def version(self) -> int:
        """Of the last item; -1 before the first."""
        return int(self.items[-1]["version"]) if self.items else -1

    async def follow(self) -> None:
        """Receive until cancelled."""
        try:
            async with connect(self._url, subprotocols=[PROTOCOL], proxy=None) as socket:
                await self._converse(socket)
        except (OSError, WebSocketException) as fault:
            self._problem(f"the subscription broke: {fault!r}")

    async def reached(self, version: int, *, within_seconds: float) -> bool:
        """Whether an item of this version or a later one arrives in time."""
        try:
            async with asyncio.timeout(within_seconds):
                while self.version < version and not self.problems:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return self.version >= version

    async def _converse(self, socket: ClientConnection) -> None:
        await self._say(socket, {"type": "connection_init", "payload": {"authorization": f"Bearer {self._token}"}})
        async for text in socket:
            message = orjson.loads(text)
            match message["type"]:
                case "connection_ack":
                    query = {"query": BALANCE_FOLLOWED, "variables": {}}
                    await self._say(socket, {"id": "header", "type": "subscribe", "payload": query})
                case "ping":
                    await self._say(socket, {"type": "pong"})
                case "next" if "errors" not in message["payload"]:
                    self._take(message["payload"]["data"]["balance"])
                case _:
                    self._problem(f"the subscription ended: {text!r:.300}")
        self._problem(f"the server closed the subscription: {socket.close_code} {socket.close_reason}")

    def _take(self, item: dict[str, Any]) -> None:
        if item["version"] <= self.version:
            self._problem(f"version {item['version']} came after {self.version}")
        self.items.append(item)
        self._news.set()

    def _problem(self, text: str) -> None:
        self.problems.append(f"header: {text}")
        self._news.set()

    @staticmethod
    async def _say(socket: ClientConnection, message: dict[str, Any]) -> None:
        await socket.send(orjson.dumps(message).decode())
