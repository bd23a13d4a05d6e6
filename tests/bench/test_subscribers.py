"""The subscribers: which push belongs to which charge, and what a subscriber does and reports."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bench.environment import BenchmarkFailed, Server
from bench.http_client import AnsweredCharge
from bench.subscribers import SUBPROTOCOL, Push, Subscribers, push_latencies


def message(version: int) -> str:
    balance = {"available": 5, "version": version}
    return json.dumps({"id": "1", "type": "next", "payload": {"data": {"balance": balance}}})


def a_push(number: int, arrived_at: float, version: int) -> Push:
    return (number, arrived_at, message(version).encode())


def test_a_charge_is_pushed_with_the_first_push_to_its_account_of_its_version_or_a_later_one() -> None:
    charges = [
        AnsweredCharge(3, sent_at=10.0, answered_at=10.25, version=7),
        AnsweredCharge(3, sent_at=10.125, answered_at=10.25, version=8),
        AnsweredCharge(4, sent_at=10.0, answered_at=10.25, version=7),
    ]

    pushes = [a_push(3, 9.0, 6), a_push(4, 9.5, 6), a_push(3, 10.5, 8), a_push(3, 11.0, 9)]

    assert push_latencies(charges, pushes) == [500.0, 375.0]


@asynccontextmanager
async def a_server(*messages: str, closes: bool = False) -> AsyncIterator[tuple[Subscribers, asyncio.Queue[Any]]]:
    """Subscribers of a server that sends these messages to each, and what each has sent when it has them."""
    finished: asyncio.Queue[Any] = asyncio.Queue()

    async def handle(socket: ServerConnection) -> None:
        received = [json.loads(await socket.recv())]
        await socket.send('{"type": "connection_ack"}')
        received.append(json.loads(await socket.recv()))
        for text in messages:
            await socket.send(text)
        await (await socket.ping())
        finished.put_nowait(received)
        if not closes:
            await socket.wait_closed()

    async with serve(handle, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as server:
        [listener] = server.sockets
        yield Subscribers(Server(os.getpid(), listener.getsockname()[1])), finished


async def test_subscribers_are_connected_with_their_first_balance_and_count_the_pushes_after_it() -> None:
    async with a_server(message(1), message(2), message(3)) as (subscribers, finished):
        await subscribers.connect(["one", "two"])
        received = [await finished.get(), await finished.get()]
        await subscribers.disconnect()

    assert sorted(number for number, _, _ in subscribers.pushes) == [0, 0, 1, 1]
    assert sorted(sent["payload"]["authorization"] for sent, _ in received) == ["Bearer one", "Bearer two"]
    assert [sent["type"] for _, sent in received] == ["subscribe", "subscribe"]


@pytest.mark.parametrize(
    ("first", "says"),
    [('{"id": "1", "type": "error", "payload": []}', "a subscriber received"), ('{"type": "ping"}', "received")],
)
async def test_any_other_message_is_an_error(first: str, says: str) -> None:
    async with a_server(first) as (subscribers, _):
        with pytest.raises(BenchmarkFailed, match=says):
            await subscribers.connect(["one"])


async def test_a_subscriber_that_the_server_disconnects_is_an_error() -> None:
    async with a_server(message(1), closes=True) as (subscribers, _):
        await subscribers.connect(["one"])
        await subscribers._subscribers[0].is_closed.wait()

        with pytest.raises(BenchmarkFailed, match="a subscriber received"):  # the close frame
            await subscribers.disconnect()


async def test_a_server_that_refuses_the_websocket_is_an_error(free_tcp_port: int) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", free_tcp_port):
        with pytest.raises(BenchmarkFailed, match="403"):
            await Subscribers(Server(os.getpid(), free_tcp_port)).connect(["one"])
