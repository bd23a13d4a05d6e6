"""The limits of the application itself, on uvicorn without the protocol classes of `serve` (`uvicorn app.main:app`)."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn
from pydantic import SecretStr
from starlette.types import ASGIApp
from uvicorn.server import ServerState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.engine.transports.websocket import GraphQLOverWebSocket
from app.main import create_app
from app.server.body_deadline import TIMED_OUT
from app.settings import Settings
from tests.engine import sample_schema

pytestmark = pytest.mark.anyio

BODY_SECONDS = 0.2
HEAD = b"POST /graphql HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
WEBHOOK = b"POST /webhooks/sandbox HTTP/1.1\r\nhost: localhost\r\n"


@asynccontextmanager
async def plain_uvicorn(app: ASGIApp) -> AsyncIterator[int]:
    """The port of a uvicorn without any protocol class of ours."""
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    config.load()
    protocol: Any = config.http_protocol_class
    server = await asyncio.get_running_loop().create_server(lambda: protocol(config, ServerState(), {}), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    settings = Settings(
        database_url=SecretStr("postgresql://localhost/nowhere"),
        data_dir=tmp_path,
        request_seconds=BODY_SECONDS,
        payment_provider="sandbox",
    )
    async with plain_uvicorn(create_app(settings)) as port:
        yield port


async def response_to(port: int, *parts: bytes) -> bytes:
    """All that the server sends until it closes. The client sends the parts at intervals of half the deadline."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(BODY_SECONDS / 2)

    sending = asyncio.create_task(send())
    try:
        response = b""
        with suppress(ConnectionError):  # a part that arrives after the server has closed resets the connection
            async with asyncio.timeout(5):
                while chunk := await reader.read(65_536):
                    response += chunk
        return response
    finally:
        sending.cancel()
        writer.close()


@pytest.mark.parametrize("head", [HEAD, WEBHOOK], ids=["graphql", "webhook"])
@pytest.mark.parametrize("parts", [[], [b"{"], [b"{", b" ", b" ", b" "]], ids=["nothing", "a part", "trickle"])
async def test_a_body_that_does_not_arrive_in_time_is_answered_with_408(
    port: int, head: bytes, parts: list[bytes]
) -> None:
    response = await response_to(port, head + b"content-length: 100\r\n\r\n", *parts)
    first_line, _, rest = response.partition(b"\r\n")
    assert first_line == b"HTTP/1.1 408 Request Timeout"
    assert b"connection: close\r\n" in rest
    assert b"cache-control: no-store\r\n" in rest
    body = json.loads(rest.rpartition(b"\r\n\r\n")[2])
    assert body == {"errors": [{"message": TIMED_OUT, "extensions": {"code": "BAD_REQUEST"}}]}


async def test_a_body_that_arrives_in_parts_within_the_deadline_is_answered(port: int) -> None:
    body = b'{"query": "{ __typename }"}'
    head = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    response = await response_to(port, head + body[:5], body[5:])
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert response.endswith(b'{"data":{"__typename":"Query"}}')


@asynccontextmanager
async def websocket(port: int) -> AsyncIterator[ClientConnection]:
    protocols: Any = ["graphql-transport-ws"]
    async with connect(f"ws://127.0.0.1:{port}/graphql", subprotocols=protocols, compression=None) as connection:
        yield connection


async def test_a_flood_of_graphql_pings_closes_the_connection(port: int) -> None:
    async with websocket(port) as connection:
        with suppress(ConnectionClosed):
            for _ in range(1_000):
                await connection.send('{"type":"ping"}')
        with suppress(ConnectionClosed):
            while True:
                await connection.recv()
        await connection.wait_closed()
    assert connection.close_code == 1008


async def test_a_message_that_is_too_large_closes_the_connection(port: int) -> None:
    async with websocket(port) as connection:
        await connection.send(json.dumps({"type": "ping", "payload": {"text": "x" * 65_536}}))
        await connection.wait_closed()
    assert connection.close_code == 1009


async def test_no_items_are_produced_for_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    produced = 0
    item = orjson.dumps({"data": secrets.token_hex(50_000)})

    async def produce() -> AsyncIterator[bytes]:
        nonlocal produced
        while produced < 500:
            produced += 1
            yield item

    monkeypatch.setattr(sample_schema.engine, "stream", lambda *_: produce())
    app = GraphQLOverWebSocket(sample_schema.engine, sample_schema.authenticator, sample_schema.state)
    async with plain_uvicorn(app) as port, websocket(port) as connection:
        await connection.send('{"type":"connection_init"}')
        assert await connection.recv() == '{"type":"connection_ack"}'
        await connection.send('{"id":"1","type":"subscribe","payload":{"query":"subscription { forever }"}}')
        before = -1
        while before != produced:  # until the buffers are full
            before = produced
            await asyncio.sleep(0.3)
        assert 0 < produced < 400
        for _ in range(500):
            await connection.recv()
        assert await connection.recv() == '{"id":"1","type":"complete"}'
