"""Responses of known length are sent in one write. A chunk is what the client's socket receives at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from app.server.request_deadline import DeadlineHttpProtocol

pytestmark = pytest.mark.anyio

App = Callable[[Scope, Receive, Send], Awaitable[None]]
SECONDS = 5.0
BODY = b"x" * 1_000
GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Client(asyncio.Protocol):
    """Records the chunks it receives."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.is_closed = False
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.chunks.append(data)
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._changed.set()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                await self._changed.wait()
                self._changed.clear()

    @property
    def received(self) -> bytes:
        return b"".join(self.chunks)


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[Client]:
    config = uvicorn.Config(app, log_config=None, server_header=False, date_header=False)
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: DeadlineHttpProtocol(config, ServerState(), {}), "127.0.0.1", 0)
    transport, client = await loop.create_connection(Client, *server.sockets[0].getsockname())
    try:
        yield client
    finally:
        transport.close()
        server.close()
        await server.wait_closed()


async def start_response(send: Send, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def send_body(send: Send, body: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


LENGTH = (b"content-length", b"1000")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"


async def respond(scope: Scope, receive: Receive, send: Send) -> None:
    await start_response(send, LENGTH)
    await asyncio.sleep(0.05)  # what was written by now would be received as a chunk of its own
    await send_body(send, BODY)


async def test_head_and_body_are_one_write() -> None:
    async with connected(respond) as client:
        client.write(GET)
        await client.wait_until(lambda: len(client.received) >= len(HEAD + BODY))

        assert client.chunks == [HEAD + BODY]


async def test_each_response_of_a_kept_alive_connection_is_one_write() -> None:
    async with connected(respond) as client:
        client.write(GET + GET)
        await client.wait_until(lambda: len(client.received) >= 2 * len(HEAD + BODY))

        assert client.chunks == [HEAD + BODY, HEAD + BODY]


async def test_the_first_part_of_the_body_is_sent_with_the_head_at_once() -> None:
    first_came = asyncio.Event()

    async def respond_in_parts(scope: Scope, receive: Receive, send: Send) -> None:
        await start_response(send, LENGTH)
        await send_body(send, BODY[:400], more=True)
        await first_came.wait()
        await send_body(send, BODY[400:])

    async with connected(respond_in_parts) as client:
        client.write(GET)
        await client.wait_until(lambda: client.received == HEAD + BODY[:400])
        first_came.set()
        await client.wait_until(lambda: client.received == HEAD + BODY)


async def test_the_head_of_a_response_of_unknown_length_is_sent_at_once() -> None:
    head_came = asyncio.Event()

    async def streamed(scope: Scope, receive: Receive, send: Send) -> None:
        await start_response(send)
        await head_came.wait()
        await send_body(send, b"later")

    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with connected(streamed) as client:
        client.write(GET)
        await client.wait_until(lambda: client.received == head)
        head_came.set()
        await client.wait_until(lambda: client.received == head + b"5\r\nlater\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "length"), [(GET.replace(b"GET", b"HEAD"), b"1000"), (GET, b"0")], ids=["HEAD", "length 0"]
)
async def test_a_head_without_a_body_is_sent_alone(request_: bytes, length: bytes) -> None:
    async def respond_without_body(scope: Scope, receive: Receive, send: Send) -> None:
        await start_response(send, (b"content-length", length))
        await send_body(send, b"")

    async with connected(respond_without_body) as client:
        client.write(request_)
        await client.wait_until(lambda: client.received == b"HTTP/1.1 200 OK\r\ncontent-length: %b\r\n\r\n" % length)


async def test_100_continue_is_sent_at_once() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        while len(body) < 1_000:
            body += (await receive())["body"]
        await start_response(send, LENGTH)
        await send_body(send, body)

    async with connected(echo) as client:
        client.write(b"POST / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n")
        await client.wait_until(lambda: client.received == b"HTTP/1.1 100 Continue\r\n\r\n")
        client.write(BODY)
        await client.wait_until(lambda: client.received.endswith(BODY))

        assert client.chunks == [b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + BODY]


async def test_a_response_that_fails_before_its_body_sends_nothing() -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        await start_response(send, LENGTH)
        raise RuntimeError("no body after all")

    async with connected(fail) as client:
        client.write(GET)
        await client.wait_until(lambda: client.is_closed)

        assert client.received == b""


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    await start_response(send)
    await send_body(send, b"a", more=True)
    await send_body(send, b"bc", more=True)
    await send_body(send, b"")


@pytest.mark.parametrize(
    ("version", "response"),
    [
        (b"1.0", b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc"),
        (b"1.1", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
    ],
)
async def test_a_stream_to_an_http_1_0_client_has_no_chunks_and_ends_with_the_connection(
    version: bytes, response: bytes
) -> None:
    async with connected(stream) as client:
        client.write(GET.replace(b"1.1", version))
        await client.wait_until(lambda: client.received.endswith((b"abc", b"\r\n0\r\n\r\n")))
        if version == b"1.0":
            await client.wait_until(lambda: client.is_closed)
        assert client.received == response


async def test_a_response_of_known_length_to_an_http_1_0_client_has_its_length() -> None:
    async with connected(respond) as client:
        client.write(GET.replace(b"1.1", b"1.0"))
        await client.wait_until(lambda: client.is_closed)
        assert client.received == HEAD[:-2] + b"connection: close\r\n\r\n" + BODY
