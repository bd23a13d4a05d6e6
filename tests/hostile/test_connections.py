"""Slow, idle and flooding connections: each is closed in time, and other clients do not wait for it."""

import asyncio
import base64
import json
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import httpx
import pytest

from tests.graphql_client import data_of, request_of
from tests.hostile.server_under_test import ANSWERED_SECONDS, REQUEST_SECONDS, Target

pytestmark = pytest.mark.anyio

HALF_OPEN: Final = 100
GROWTH_BYTES: Final = 8 * 1024 * 1024
SLACK_SECONDS: Final = 3
"""Timers fire late on a busy machine."""
HEAD: Final = b"POST /graphql HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
QUERY: Final = b'{"query": "{ __schema { types { name description fields { name description } } } }"}'
UPGRADE: Final = (
    b"GET /graphql HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: " + base64.b64encode(b"k" * 16) + b"\r\n"
    b"sec-websocket-protocol: graphql-transport-ws\r\n\r\n"
)
ALIASES: Final = 90
SUBSCRIPTIONS: Final = 100
CHANGES: Final = 100
"""Each could send 10 KB to each stream: 100 MB altogether."""
PING: Final = 9
TEXT: Final = 1


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection, aborted at the end."""
    reader, writer = await asyncio.open_connection(target.host, target.port, limit=4_096)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ending(reader: asyncio.StreamReader, *, within: float) -> bytes:
    """All that the server sends until it closes."""
    async with asyncio.timeout(within):
        received = b""
        with suppress(ConnectionError):  # it closed before it had read everything
            while chunk := await reader.read(65_536):
                received += chunk
        return received


async def test_a_request_that_arrives_a_byte_a_second_is_answered_with_408(target: Target) -> None:
    async def send_slowly(start: bytes) -> bytes:
        async with opened(target) as (reader, writer):
            writer.write(start)
            trickling = asyncio.create_task(trickle(writer))
            response = await ending(reader, within=REQUEST_SECONDS + SLACK_SECONDS)
            trickling.cancel()
            return response

    started = time.monotonic()
    for response in await asyncio.gather(send_slowly(HEAD + b"content-length: 100\r\n\r\n"), send_slowly(b"POST /gra")):
        assert response.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert time.monotonic() - started >= REQUEST_SECONDS * 0.9


async def trickle(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"a")
        await asyncio.sleep(1)


async def test_silent_connections_are_closed_and_do_not_delay_others(target: Target) -> None:
    async def stay_silent(start: bytes) -> bytes:
        async with opened(target) as (reader, writer):
            writer.write(start)
            return await ending(reader, within=REQUEST_SECONDS + SLACK_SECONDS)

    responses = asyncio.gather(*(stay_silent(HEAD if number % 2 else b"") for number in range(HALF_OPEN)))
    await asyncio.sleep(0.2)
    started = time.monotonic()
    assert await asyncio.to_thread(target.is_alive)
    assert time.monotonic() - started < REQUEST_SECONDS
    assert {response.partition(b"\r\n")[0] for response in await responses} == {b"HTTP/1.1 408 Request Timeout"}


async def test_clients_may_disconnect_in_the_middle_of_a_request(target: Target) -> None:
    for length in (0, 50, len(QUERY)):
        async with opened(target) as (_, writer):
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(QUERY) + QUERY[:length])
            await writer.drain()


async def test_reading_stops_while_a_client_does_not_read_its_responses(target: Target) -> None:
    memory = target.resident_bytes()
    async with opened(target) as (_, writer):
        await fill(writer, (HEAD + b"content-length: %d\r\n\r\n" % len(QUERY) + QUERY) * 20)
        assert target.resident_bytes() - memory < GROWTH_BYTES
        assert await asyncio.to_thread(target.is_alive)


@pytest.mark.parametrize(
    "flood", [(PING, b"x" * 125), (PING, b""), (TEXT, b'{"type":"ping"}')], ids=["pings", "empty", "graphql's"]
)
async def test_a_client_that_floods_with_pings_and_reads_nothing_is_disconnected(
    target: Target, flood: tuple[int, bytes]
) -> None:
    async with opened(target) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(TEXT, b'{"type":"connection_init"}'))
        await reader.readuntil(b'{"type":"connection_ack"}')
        memory = target.resident_bytes()
        await fill(writer, frame(*flood) * 400)
        assert target.resident_bytes() - memory < GROWTH_BYTES
        assert await asyncio.to_thread(target.is_alive)
        assert await is_closed(reader)


async def test_a_subscriber_that_reads_nothing_costs_no_memory_and_later_gets_the_latest_state(target: Target) -> None:
    wide = "subscription { balance { version " + " ".join(f"{'a' * 100}{n}: available" for n in range(ALIASES)) + " } }"
    async with subscribed_connection(target, "slow", wide) as (reader, _), target.client() as client:
        memory = target.resident_bytes()
        for change in range(1, CHANGES + 1):
            await grant_credit(client, target, "slow", change)
            await asyncio.sleep(0.02)  # long enough for each change to be sent by itself
        assert target.resident_bytes() - memory < 2 * GROWTH_BYTES
        async with asyncio.timeout(ANSWERED_SECONDS):
            versions, messages = [0] * SUBSCRIPTIONS, 0
            while min(versions) < CHANGES:
                received = json.loads(await message(reader))
                if received["type"] == "next":
                    messages += 1
                    versions[int(received["id"])] = received["payload"]["data"]["balance"]["version"]
        assert messages < SUBSCRIPTIONS * CHANGES / 5  # what was in transit, and then the latest states


@asynccontextmanager
async def subscribed_connection(
    target: Target, user: str, document: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection with as many subscriptions as allowed, which reads nothing by itself."""
    async with opened(target) as (reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        token = target.user(user)
        writer.write(frame(TEXT, json.dumps({"type": "connection_init", "payload": {"token": token}}).encode()))
        for number in range(SUBSCRIPTIONS):
            begin = {"id": str(number), "type": "subscribe", "payload": {"query": document}}
            writer.write(frame(TEXT, json.dumps(begin).encode()))
        yield reader, writer


async def grant_credit(client: httpx.AsyncClient, target: Target, user: str, number: int) -> None:
    grant = f'{{ownerId: "{user}", credits: 1, reason: "r", idempotencyKey: "k-{number}"}}'
    query = f"mutation {{ grantCredits(input: {grant}) {{ __typename }} }}"
    reply = await client.post("/graphql", **request_of(target.tokens["operator"], query))
    assert data_of(reply) == {"grantCredits": {"__typename": "GrantCreditsSuccess"}}


async def message(reader: asyncio.StreamReader) -> bytes:
    """The next message of the server."""
    _, length = await reader.readexactly(2)
    if length == 126:
        [length] = struct.unpack("!H", await reader.readexactly(2))
    return await reader.readexactly(length)


async def test_a_client_that_goes_on_sending_after_the_close_is_disconnected(target: Target) -> None:
    async with opened(target) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(TEXT, b'{"type":"nonsense"}'))
        await reader.readuntil(b"Invalid message")
        await fill(writer, frame(TEXT, b'{"type":"ping"}') * 400)
        with suppress(ConnectionError):
            async with asyncio.timeout(SLACK_SECONDS):  # uvicorn itself waits ten seconds for the close frame
                assert await reader.read() == b""


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Whether the close frame arrives, or the connection ends: the frame is lost if the server stops reading."""
    async with asyncio.timeout(ANSWERED_SECONDS):
        try:
            return bool(await reader.readuntil(b"oo many pings"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return True


async def fill(writer: asyncio.StreamWriter, what: bytes) -> None:
    """Send until the server stops reading or closes. Raises: AssertionError: it has read 64 MB."""
    for _ in range(64 * 1024 * 1024 // len(what)):
        writer.write(what)
        try:
            async with asyncio.timeout(0.5):
                await writer.drain()
        except (TimeoutError, ConnectionError):
            return
    raise AssertionError("the server has read everything")


def frame(opcode: int, data: bytes) -> bytes:
    """A frame with a whole message, masked with zeros."""
    length = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0x80 | 126]) + struct.pack("!H", len(data))
    return bytes([0x80 | opcode]) + length + bytes(4) + data


@pytest.mark.parametrize(
    "handshake",
    [
        UPGRADE.replace(b"13", b"7"),
        UPGRADE.replace(b"sec-websocket-key", b"x-key"),
        UPGRADE.replace(b"GET", b"POST"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /graphql HTTP/9.9\r\n\r\n",
        b"\x00" * 1_000,
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /graphql HTTP/1.1\r\n" + b"x: y\r\n" * 200_000,
        b"GET /graphql HTTP/1.1\r\nx: " + b"y" * 1_000_000,
        HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 200_000,
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}",
        HEAD + b"content-length: -1\r\n\r\n{}",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        HEAD + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
    ],
    ids=["old version", "no key", "by POST", "TLS", "HTTP/9.9", "null bytes", "long path", "many headers",
         "long header", "many trailers", "two lengths", "negative length", "bad chunk", "chunks and length"],
)  # fmt: skip
async def test_a_malformed_handshake_or_request_is_closed_at_once(target: Target, handshake: bytes) -> None:
    memory = target.resident_bytes()
    async with opened(target) as (reader, writer):
        writer.write(handshake)
        response = await ending(reader, within=REQUEST_SECONDS + SLACK_SECONDS)
    assert target.resident_bytes() - memory < GROWTH_BYTES
    assert not response.startswith(b"HTTP/1.1 5")
    assert b"Traceback" not in response
