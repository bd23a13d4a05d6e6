"""Connections that are kept without being used as they are meant: each ends in time, and nobody else waits for it."""

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

from tests.hostile.server_under_test import ANSWERED_SECONDS, REQUEST_SECONDS, Target, authorized

pytestmark = pytest.mark.anyio

HALF_OPEN: Final = 100
GROWTH_BYTES: Final = 8 * 1024 * 1024
SLACK_SECONDS: Final = 3
"""A busy machine looks at its clock later."""
HEAD: Final = b"POST /graphql HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
QUERY: Final = b'{"query": "{ __schema { types { name description fields { name description } } } }"}'
UPGRADE: Final = (
    b"GET /graphql HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: " + base64.b64encode(b"k" * 16) + b"\r\n"
    b"sec-websocket-protocol: graphql-transport-ws\r\n\r\n"
)
ALIASES: Final = 90
STREAMS: Final = 100
CHANGES: Final = 100
"""Of which each stream could be sent 10 KB: 100 MB altogether."""
PING: Final = 9
TEXT: Final = 1


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection, cut off at the end whatever is still in it."""
    reader, writer = await asyncio.open_connection(target.host, target.port, limit=4_096)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ending(reader: asyncio.StreamReader, *, within: float) -> bytes:
    """All that came until the server closed."""
    async with asyncio.timeout(within):
        said = b""
        with suppress(ConnectionError):  # it closed without reading all that was sent
            while chunk := await reader.read(65_536):
                said += chunk
        return said


async def test_what_comes_a_byte_a_second_is_cut_off(target: Target) -> None:
    async def slowly(beginning: bytes) -> bytes:
        async with opened(target) as (reader, writer):
            writer.write(beginning)
            trickling = asyncio.create_task(trickle(writer))
            said = await ending(reader, within=REQUEST_SECONDS + SLACK_SECONDS)
            trickling.cancel()
            return said

    begun = time.monotonic()
    for said in await asyncio.gather(slowly(HEAD + b"content-length: 100\r\n\r\n"), slowly(b"POST /gra")):
        assert said.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert time.monotonic() - begun >= REQUEST_SECONDS * 0.9


async def trickle(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"a")
        await asyncio.sleep(1)


async def test_connections_that_say_nothing_are_ended_and_nobody_waits_for_them(target: Target) -> None:
    async def silent(said: bytes) -> bytes:
        async with opened(target) as (reader, writer):
            writer.write(said)
            return await ending(reader, within=REQUEST_SECONDS + SLACK_SECONDS)

    ended = asyncio.gather(*(silent(HEAD if number % 2 else b"") for number in range(HALF_OPEN)))
    await asyncio.sleep(0.2)
    begun = time.monotonic()
    assert await asyncio.to_thread(target.is_alive)
    assert time.monotonic() - begun < REQUEST_SECONDS
    assert {said.partition(b"\r\n")[0] for said in await ended} == {b"HTTP/1.1 408 Request Timeout"}


async def test_who_hangs_up_in_the_middle_of_a_request_leaves_nothing(target: Target) -> None:
    for length in (0, 50, len(QUERY)):
        async with opened(target) as (_, writer):
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(QUERY) + QUERY[:length])
            await writer.drain()


async def test_who_sends_requests_and_reads_no_answers_is_no_longer_read(target: Target) -> None:
    memory = target.resident_bytes()
    async with opened(target) as (_, writer):
        await fill(writer, (HEAD + b"content-length: %d\r\n\r\n" % len(QUERY) + QUERY) * 20)
        assert target.resident_bytes() - memory < GROWTH_BYTES
        assert await asyncio.to_thread(target.is_alive)


@pytest.mark.parametrize(
    "flood", [(PING, b"x" * 125), (PING, b""), (TEXT, b'{"type":"ping"}')], ids=["pings", "empty", "graphql's"]
)
async def test_who_sends_pings_without_end_and_reads_no_answers_is_sent_away(
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
        assert await is_sent_away(reader)


async def test_who_follows_a_balance_and_reads_nothing_is_kept_only_the_newest(target: Target) -> None:
    wide = "subscription { balance { version " + " ".join(f"{'a' * 100}{n}: available" for n in range(ALIASES)) + " } }"
    async with following(target, "slow", wide) as (reader, _), target.client() as client:
        memory = target.resident_bytes()
        for change in range(1, CHANGES + 1):
            await granted(client, target, "slow", change)
            await asyncio.sleep(0.02)  # a tick, so that each change could be told for itself
        assert target.resident_bytes() - memory < 2 * GROWTH_BYTES
        async with asyncio.timeout(ANSWERED_SECONDS):
            told, messages = [0] * STREAMS, 0
            while min(told) < CHANGES:
                said = json.loads(await message(reader))
                if said["type"] == "next":
                    messages += 1
                    told[int(said["id"])] = said["payload"]["data"]["balance"]["version"]
        assert messages < STREAMS * CHANGES / 5  # what lay on the way, and then the newest


@asynccontextmanager
async def following(
    target: Target, user: str, document: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has begun this as many times as may be, and reads nothing of itself."""
    async with opened(target) as (reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        token = target.user(user)
        writer.write(frame(TEXT, json.dumps({"type": "connection_init", "payload": {"token": token}}).encode()))
        for number in range(STREAMS):
            begin = {"id": str(number), "type": "subscribe", "payload": {"query": document}}
            writer.write(frame(TEXT, json.dumps(begin).encode()))
        yield reader, writer


async def granted(client: httpx.AsyncClient, target: Target, user: str, number: int) -> None:
    given = f'{{ownerId: "{user}", credits: 1, reason: "r", idempotencyKey: "k-{number}"}}'
    reply = await client.post(
        "/graphql",
        json={"query": f"mutation {{ grantCredits(input: {given}) {{ __typename }} }}"},
        headers=authorized(target.tokens["operator"]),
    )
    assert reply.json() == {"data": {"grantCredits": {"__typename": "GrantCreditsSuccess"}}}


async def message(reader: asyncio.StreamReader) -> bytes:
    """The next message of the server's."""
    _, length = await reader.readexactly(2)
    if length == 126:
        [length] = struct.unpack("!H", await reader.readexactly(2))
    return await reader.readexactly(length)


async def test_who_was_sent_away_and_goes_on_sending_is_cut_off(target: Target) -> None:
    async with opened(target) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(frame(TEXT, b'{"type":"nonsense"}'))
        await reader.readuntil(b"Invalid message")
        await fill(writer, frame(TEXT, b'{"type":"ping"}') * 400)
        with suppress(ConnectionError):
            async with asyncio.timeout(SLACK_SECONDS):  # uvicorn waits ten seconds for the other's goodbye
                assert await reader.read() == b""


async def is_sent_away(reader: asyncio.StreamReader) -> bool:
    """Whether the close frame comes, or, as it is lost where the server does not read to the end, the end."""
    async with asyncio.timeout(ANSWERED_SECONDS):
        try:
            return bool(await reader.readuntil(b"oo many pings"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return True


async def fill(writer: asyncio.StreamWriter, what: bytes) -> None:
    """Send until nothing more is taken, or the server hangs up. Raises: AssertionError: 64 MB were taken."""
    for _ in range(64 * 1024 * 1024 // len(what)):
        writer.write(what)
        try:
            async with asyncio.timeout(0.5):
                await writer.drain()
        except (TimeoutError, ConnectionError):
            return
    raise AssertionError("it took everything")


def frame(opcode: int, data: bytes) -> bytes:
    """A whole message, masked by zeros."""
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
async def test_what_is_no_handshake_and_no_http_ends_at_once(target: Target, handshake: bytes) -> None:
    memory = target.resident_bytes()
    async with opened(target) as (reader, writer):
        writer.write(handshake)
        said = await ending(reader, within=REQUEST_SECONDS + SLACK_SECONDS)
    assert target.resident_bytes() - memory < GROWTH_BYTES
    assert not said.startswith(b"HTTP/1.1 5")
    assert b"Traceback" not in said
