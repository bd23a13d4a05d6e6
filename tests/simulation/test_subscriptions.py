"""The follower of the header, against a server of the test's own that says what no sound server says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from websockets.asyncio.server import ServerConnection, serve

from examples.simulation.balance_header import BalanceHeader
from examples.simulation.subscriptions import PROTOCOL


@asynccontextmanager
async def followed(*versions: int, closes: bool = False) -> AsyncIterator[tuple[BalanceHeader, list[Any]]]:
    """A header to which these versions are pushed, and what it said to the server."""
    said: list[Any] = []

    async def converse(socket: ServerConnection) -> None:
        said.append(orjson.loads(await socket.recv()))
        await socket.send('{"type": "connection_ack"}')
        said.append(orjson.loads(await socket.recv()))
        await socket.send('{"type": "ping"}')
        said.append(orjson.loads(await socket.recv()))
        for version in versions:
            item = {"available": version * 10, "posted": version * 10, "version": version, "status": "OK"}
            message = {"id": said[1]["id"], "type": "next", "payload": {"data": {"balance": item}}}
            await socket.send(orjson.dumps(message).decode())
        if not closes:
            await socket.wait_closed()

    async with serve(converse, "127.0.0.1", 0, subprotocols=[PROTOCOL]) as server:
        [listener] = server.sockets
        header = BalanceHeader(f"http://127.0.0.1:{listener.getsockname()[1]}", "a-token")
        following = asyncio.create_task(header.receive())
        try:
            yield header, said
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_every_item_is_kept_and_the_last_version_can_be_waited_for() -> None:
    async with followed(0, 1, 5) as (header, said):
        reached = await header.wait_for_version(5, within_seconds=5)

    assert reached
    assert [item["version"] for item in header.items] == [0, 1, 5]
    assert header.problems == []
    assert said[0] == {"type": "connection_init", "payload": {"authorization": "Bearer a-token"}}
    assert said[1]["type"] == "subscribe"
    assert said[2] == {"type": "pong"}


async def test_a_version_that_does_not_rise_is_a_problem() -> None:
    async with followed(0, 3, 3, 2) as (header, _):
        reached = await header.wait_for_version(9, within_seconds=5)

    assert not reached
    assert header.problems[0] == "header: version 3 came after 3"


async def test_a_version_that_never_comes_is_not_waited_for_for_ever() -> None:
    async with followed(4) as (header, _):
        assert await header.wait_for_version(4, within_seconds=5)
        assert not await header.wait_for_version(5, within_seconds=0.1)

    assert header.problems == []


async def test_a_subscription_that_the_server_ends_is_a_problem() -> None:
    async with followed(1, closes=True) as (header, _):
        await header.wait_for_version(2, within_seconds=5)

    assert header.problems == ["header: the server closed the subscription: 1000 "]


async def test_a_server_that_is_not_there_is_a_problem() -> None:
    header = BalanceHeader("http://127.0.0.1:1", "a-token")

    await header.receive()

    assert len(header.problems) == 1
    assert header.problems[0].startswith("header: the subscription broke: ")
