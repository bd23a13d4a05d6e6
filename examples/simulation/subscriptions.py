"""Subscriptions over graphql-transport-ws that are open while the simulation runs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from examples.simulation import documents

SUBPROTOCOL: Final = Subprotocol("graphql-transport-ws")


class Subscription:
    """A subscription. It stores every item and every problem. Subclasses define the document and check the items."""

    name: str
    field: str
    document: str

    def __init__(self, url: str, token: str, **variables: Any) -> None:
        self._url = f"ws{url.removeprefix('http')}/graphql"
        self._token = token
        self._variables = variables
        self._changed = asyncio.Event()
        self.items: list[dict[str, Any]] = []
        self.problems: list[str] = []

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[Self]:
        """Receive items until the block ends."""
        receiving = asyncio.create_task(self.receive())
        try:
            yield self
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def receive(self) -> None:
        """Receive items until cancelled. If the subscription ends before, this is a problem."""
        try:
            async with connect(self._url, subprotocols=[SUBPROTOCOL], proxy=None) as socket:
                await self._receive_from(socket)
        except (OSError, WebSocketException) as error:
            self._add_problem(f"the subscription failed: {error!r}")

    async def wait_until(self, condition: Callable[[], bool], *, timeout_seconds: float) -> bool:
        """Return whether the condition becomes true within the time. A problem ends the wait."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not condition() and not self.problems:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        return condition()

    async def _receive_from(self, socket: ClientConnection) -> None:
        await self._send(socket, {"type": "connection_init", "payload": {"authorization": f"Bearer {self._token}"}})
        async for text in socket:
            message = orjson.loads(text)
            match message["type"]:
                case "connection_ack":
                    query = {"query": self.document, "variables": self._variables}
                    await self._send(socket, {"id": "1", "type": "subscribe", "payload": query})
                case "ping":
                    await self._send(socket, {"type": "pong"})
                case "next" if "errors" not in message["payload"]:
                    self._add_item(message["payload"]["data"][self.field])
                    self._changed.set()
                case _:
                    self._add_problem(f"the subscription ended: {text!r:.300}")
        self._add_problem(f"the server closed the subscription: {socket.close_code} {socket.close_reason}")

    def _add_item(self, item: dict[str, Any]) -> None:
        self.items.append(item)

    def _add_problem(self, text: str) -> None:
        self.problems.append(f"{self.name}: {text}")
        self._changed.set()

    @staticmethod
    async def _send(socket: ClientConnection, message: dict[str, Any]) -> None:
        await socket.send(orjson.dumps(message).decode())


class BalanceHeader(Subscription):
    """The balance that a user's pages show in their header. Its versions must increase."""

    name = "header"
    field = "balance"
    document = documents.BALANCE_SUBSCRIPTION

    @property
    def version(self) -> int:
        """The version of the last item, or -1 before the first item."""
        return int(self.items[-1]["version"]) if self.items else -1

    async def wait_for_version(self, version: int, *, timeout_seconds: float) -> bool:
        """Return whether an item of this version or a later one arrives within the time."""
        return await self.wait_until(lambda: self.version >= version, timeout_seconds=timeout_seconds)

    def _add_item(self, item: dict[str, Any]) -> None:
        if item["version"] <= self.version:
            self._add_problem(f"version {item['version']} arrived after {self.version}")
        super()._add_item(item)


class TaskSignals(Subscription):
    """The signals that an executor receives."""

    name = "signals"
    field = "taskSignals"
    document = documents.SIGNALS_SUBSCRIPTION

    def has_received(self, kind: str) -> bool:
        """Return whether the latest signal that concerns all tasks is of this kind."""
        to_all = [item for item in self.items if item["taskIds"] is None]
        return bool(to_all) and max(to_all, key=lambda item: int(item["version"]))["kind"] == kind
