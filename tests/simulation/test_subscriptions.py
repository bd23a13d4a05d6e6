"""The balance subscription, against a test server that sends what a correct server does not send."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from websockets.asyncio.server import ServerConnection, serve

from examples.simulation.subscriptions import SUBPROTOCOL, BalanceHeader


@asynccontextmanager
async def subscribed(*versions: int, closes: bool = False) -> AsyncIterator[tuple[BalanceHeader, list[Any]]]:
    """A subscription that receives these versions, and the messages that it sent."""
    sent: list[Any] = []

    async def handle(socket: ServerConnection) -> None:
        sent.append(orjson.loads(await socket.recv()))
        await socket.send('{"type": "connection_ack"}')
        sent.append(orjson.loads(await socket.recv()))
        await socket.send('{"type": "ping"}')
        sent.append(orjson.loads(await socket.recv()))
        for version in versions:
            item = {"available": version * 10, "posted": version * 10, "version": version, "status": "OK"}
            message = {"id": sent[1]["id"], "type": "next", "payload": {"data": {"balance": item}}}
            await socket.send(orjson.dumps(message).decode())
        if not closes:
            await socket.wait_closed()

    async with serve(handle, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as server:
        [listener] = server.sockets
        header = BalanceHeader(f"http://127.0.0.1:{listener.getsockname()[1]}", "a-token")
        async with header.followed():
            yield header, sent


async def test_every_item_is_kept_and_a_version_can_be_awaited() -> None:
    async with subscribed(0, 1, 5) as (header, sent):
        reached = await header.wait_for_version(5, timeout_seconds=5)

    assert reached
    assert [item["version"] for item in header.items] == [0, 1, 5]
    assert header.problems == []
    assert sent[0] == {"type": "connection_init", "payload": {"authorization": "Bearer a-token"}}
    assert sent[1]["type"] == "subscribe"
    assert sent[2] == {"type": "pong"}


async def test_a_version_that_does_not_increase_is_a_problem() -> None:
    async with subscribed(0, 3, 3, 2) as (header, _):
        reached = await header.wait_for_version(9, timeout_seconds=5)

    assert not reached
    assert header.problems[0] == "header: version 3 arrived after 3"


async def test_waiting_for_a_version_times_out() -> None:
    async with subscribed(4) as (header, _):
        assert await header.wait_for_version(4, timeout_seconds=5)
        assert not await header.wait_for_version(5, timeout_seconds=0.1)

    assert header.problems == []


async def test_a_subscription_that_the_server_ends_is_a_problem() -> None:
    async with subscribed(1, closes=True) as (header, _):
        await header.wait_for_version(2, timeout_seconds=5)

    assert header.problems == ["header: the server closed the subscription: 1000 "]


async def test_a_server_that_does_not_listen_is_a_problem() -> None:
    header = BalanceHeader("http://127.0.0.1:1", "a-token")

    await header.receive()

    assert len(header.problems) == 1
    assert header.problems[0].startswith("header: the subscription failed: ")
