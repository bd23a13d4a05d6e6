"""What leaves in one write, read off the wire: a piece is what the client's socket gave at once."""

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
    """Keeps the pieces that came, each as it came."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ended = False
        self._something = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        self._something.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._something.set()

    async def until(self, seen: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not seen():
                await self._something.wait()
                self._something.clear()

    @property
    def said(self) -> bytes:
        return b"".join(self.pieces)


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


async def begin(send: Send, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def part(send: Send, body: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


LENGTH = (b"content-length", b"1000")
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    await begin(send, LENGTH)
    await asyncio.sleep(0.05)  # what was written by now would have come as a piece of its own
    await part(send, BODY)


async def test_head_and_body_come_as_one_piece() -> None:
    async with connected(whole) as client:
        client.write(GET)
        await client.until(lambda: len(client.said) >= len(HEAD + BODY))

        assert client.pieces == [HEAD + BODY]


async def test_each_answer_of_a_kept_connection_comes_as_one_piece() -> None:
    async with connected(whole) as client:
        client.write(GET + GET)
        await client.until(lambda: len(client.said) >= 2 * len(HEAD + BODY))

        assert client.pieces == [HEAD + BODY, HEAD + BODY]


async def test_the_first_part_comes_with_the_head_and_waits_for_no_other() -> None:
    first_came = asyncio.Event()

    async def in_parts(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send, LENGTH)
        await part(send, BODY[:400], more=True)
        await first_came.wait()
        await part(send, BODY[400:])

    async with connected(in_parts) as client:
        client.write(GET)
        await client.until(lambda: client.said == HEAD + BODY[:400])
        first_came.set()
        await client.until(lambda: client.said == HEAD + BODY)


async def test_a_head_is_not_kept_back_where_nobody_knows_how_long_its_body_will_be() -> None:
    head_came = asyncio.Event()

    async def streamed(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send)
        await head_came.wait()
        await part(send, b"later")

    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with connected(streamed) as client:
        client.write(GET)
        await client.until(lambda: client.said == head)
        head_came.set()
        await client.until(lambda: client.said == head + b"5\r\nlater\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "length"), [(GET.replace(b"GET", b"HEAD"), b"1000"), (GET, b"0")], ids=["HEAD", "length 0"]
)
async def test_a_head_that_no_body_follows_comes_alone(request_: bytes, length: bytes) -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send, (b"content-length", length))
        await part(send, b"")

    async with connected(bare) as client:
        client.write(request_)
        await client.until(lambda: client.said == b"HTTP/1.1 200 OK\r\ncontent-length: %b\r\n\r\n" % length)


async def test_who_waits_to_be_told_to_continue_is_told_at_once() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        while len(body) < 1_000:
            body += (await receive())["body"]
        await begin(send, LENGTH)
        await part(send, body)

    async with connected(echo) as client:
        client.write(b"POST / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n")
        await client.until(lambda: client.said == b"HTTP/1.1 100 Continue\r\n\r\n")
        client.write(BODY)
        await client.until(lambda: client.said.endswith(BODY))

        assert client.pieces == [b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + BODY]


async def test_an_answer_that_faults_before_its_body_never_began() -> None:
    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send, LENGTH)
        raise RuntimeError("no body after all")

    async with connected(faulty) as client:
        client.write(GET)
        await client.until(lambda: client.ended)

        assert client.said == b""
