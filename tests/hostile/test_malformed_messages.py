"""Messages that no client of graphql-transport-ws sends: each closes its connection with the right code, or is
answered."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, Final

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from app.engine.transports.websocket import MAX_MESSAGE_BYTES
from tests.engine.transports.protocol_violations import CLOSING, HUGE, INIT, PING, message, subscribe
from tests.hostile.server_under_test import ANSWERED_SECONDS, MESSAGES, Target, codes
from tests.worker_processes import Report

pytestmark = pytest.mark.anyio

Sent = str | bytes | bytearray
"""A text, a binary message (bytes), or a text frame of these bytes (bytearray)."""

FOLLOW: Final = subscribe(payload={"query": "subscription { balance { available } }"})
AT_ONCE = 8
GROWTH_BYTES = 24 * 1024 * 1024
CLOSE_CODES = {1002, 1007, 1009, 4400, 4401, 4403, 4409, 4429}
"""The close codes that are allowed. 1006 and 1011 would be errors of the server."""


CLOSING_HERE: Final[dict[str, tuple[int, Sequence[Sent]]]] = {
    "binary": (4400, [INIT.encode()]),
    "invalid UTF-8": (1007, [bytearray(b'{"type": "\xff\xfe"}')]),
    "overlong UTF-8": (1007, [bytearray(b"\xc0\x80")]),
    "surrogates in UTF-8": (1007, [bytearray(b"\xed\xa0\x80")]),
    "invalid UTF-8 while an answer is on its way": (1007, [INIT, FOLLOW, subscribe("2"), bytearray(b"\xff")]),
    "huge and binary": (1009, [b"\x00" * HUGE]),
    "an id twice": (4409, [INIT, FOLLOW, FOLLOW]),
}
"""What only a running server can receive: the close code, and the messages that are sent."""
ANSWERED: Final[dict[str, Sequence[Sent]]] = {
    "complete of nothing": [INIT, message(id="nothing", type="complete")],
    "complete before init": [message(id="nothing", type="complete")],
    "ping before init": [PING],
    "pong of nothing": [message(type="pong", payload={"a": 1})],
    "keys twice": ['{"type": "subscribe", "type": "ping"}'],
    "null byte in an id": [INIT, subscribe("\x00", {"query": "{ __typename }"})],
    "huge id": [INIT, subscribe("i" * 60_000, {"query": "{ __typename }"})],
    "no operation": [INIT, subscribe(payload={"query": ""})],
    "unknown operation": [INIT, subscribe(payload={"query": "{ __typename }", "operationName": "\x00"})],
    "bomb": [INIT, subscribe(payload={"query": "{" + "a{" * 500})],
    "null byte in a variable": [
        INIT,
        subscribe(payload={"query": "query($o: ID) { account(ownerId: $o) { ownerId } }", "variables": {"o": "\x00"}}),
    ],
}
"""Messages after which the connection stays open."""


@asynccontextmanager
async def connected(target: Target, token: str) -> AsyncIterator[ClientConnection]:
    socket = await connect(
        target.socket_url,
        subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]  # a NewType
        additional_headers={"authorization": f"Bearer {token}"},
        compression=None,
        ping_interval=None,
    )
    try:
        yield socket
    finally:
        # `abort` of a transport that has ended with unsent data raises AttributeError in Python 3.11.
        with suppress(AttributeError):
            await socket.close()


async def send_all(socket: ClientConnection, messages: Sequence[Sent]) -> tuple[int | None, list[Any]]:
    """Send messages and a last ping. Returns: the close code (None: still open) and the messages received."""
    received: list[Any] = []
    async with asyncio.timeout(ANSWERED_SECONDS):
        try:
            for one in [*messages, message(type="ping", payload={"n": "last"})]:
                if socket.state is not State.OPEN:
                    break  # to send now would raise the same AttributeError instead of ConnectionClosed
                await socket.send(
                    bytes(one) if isinstance(one, bytearray) else one, text=isinstance(one, str | bytearray)
                )
            pings = 1 + sum(
                one in {PING, '{"type": "subscribe", "type": "ping"}'} for one in messages if isinstance(one, str)
            )
            while pings:
                received.append(json.loads(await socket.recv()))
                pings -= received[-1]["type"] == "pong"
        except ConnectionClosed as closed:
            return (closed.rcvd.code if closed.rcvd is not None else 1006), received
    return None, received


@pytest.mark.parametrize(("code", "messages"), (ALL_CLOSING := CLOSING | CLOSING_HERE).values(), ids=ALL_CLOSING)
async def test_a_malformed_message_closes_the_connection_with_its_code(
    target: Target, code: int, messages: Sequence[Sent]
) -> None:
    async with connected(target, target.tokens["user"]) as socket:
        assert (await send_all(socket, messages))[0] == code


@pytest.mark.parametrize("name", ANSWERED)
async def test_an_unusual_message_is_answered_and_the_connection_stays_open(target: Target, name: str) -> None:
    async with connected(target, target.tokens["user"]) as socket:
        code, received = await send_all(socket, ANSWERED[name])
    assert code is None
    assert error_codes(received) <= {"BAD_USER_INPUT", "GRAPHQL_PARSE_FAILED", "FORBIDDEN"}


def error_codes(received: Sequence[Any]) -> set[str]:
    """The codes of all errors received."""
    payloads = [one["payload"] for one in received if one["type"] in {"next", "error"}]
    return set().union(*(codes(one if isinstance(one, dict) else {"errors": one}) for one in payloads))


def damaged_messages(chance: Random) -> Sequence[Sent]:
    """The messages of a connection, with one of them damaged."""
    last_messages: Sequence[Sent] = [
        message(id="1", type="complete"),
        PING,
        subscribe("2", {"query": "{ account { ownerId } }"}),
    ]
    messages = [INIT, FOLLOW, *chance.sample(last_messages, chance.randint(0, 3))]
    place = chance.randrange(len(messages))
    text = bytearray(str(messages[place]).encode())
    for _ in range(chance.choice((1, 1, 2))):
        where = chance.randrange(len(text))
        match chance.randrange(5):
            case 0:
                text[where] = chance.randrange(128)
            case 1:
                del text[where:]
            case 2:
                text[where:where] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 20)))
            case 3:
                text[where:where] = text[where : where + 10] * chance.randint(1, 500)
            case _:
                text[where:where] = chance.choice([b"\x00", b"\\ud800", b'"', b"{", b"[" * 1_100, b"9" * 400, b"null"])
        text = text or bytearray(b" ")
    return [*messages[:place], bytes(text) if chance.random() < 0.1 else text, *messages[place + 1 :]]


def may_lose_close_frame(messages: Sequence[Sent]) -> bool:
    """Whether a message is not UTF-8 or too big. What follows it is not read, and TCP may then lose the close frame."""
    texts = [bytes(one) for one in messages if isinstance(one, bytearray)]
    return any(len(text) > MAX_MESSAGE_BYTES or not _is_utf_8(text) for text in texts)


def _is_utf_8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


async def test_damaged_messages_close_with_codes_of_the_protocol_and_leak_no_memory(
    target: Target, report: Report
) -> None:
    outcomes: Counter[str] = Counter()
    memory_before, started = 0, time.monotonic()
    token = target.user("attacker")

    async def attack(seed: int) -> None:
        messages = damaged_messages(Random(seed))  # noqa: S311  the same messages in each run
        async with connected(target, token) as socket:
            code, received = await send_all(socket, messages)
        assert code in {None, *CLOSE_CODES} or (code == 1006 and may_lose_close_frame(messages)), (seed, code)
        found = error_codes(received)
        assert "INTERNAL" not in found, (seed, received)
        outcomes.update({str(code)} if code else found or {"ok"})

    for first in range(0, MESSAGES, AT_ONCE):
        if first * 3 // MESSAGES and not memory_before:
            memory_before = target.resident_bytes()
        await asyncio.gather(*(attack(seed) for seed in range(first, min(first + AT_ONCE, MESSAGES))))
    growth = target.resident_bytes() - memory_before
    seconds = f"{MESSAGES} messages in {time.monotonic() - started:.1f} s"
    report(f"{seconds}: {dict(sorted(outcomes.items()))}, memory {growth / 2**20:+.1f} MiB")
    assert growth < GROWTH_BYTES
