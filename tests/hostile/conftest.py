"""The server under attack. After each test it must still answer, and must have logged no error."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as websocket

from tests import databases
from tests.command_line import started_server, temporary_directory
from tests.conftest import LEDGER_KEY
from tests.graphql_client import PROTOCOLS, execute, websocket_url
from tests.hostile.boundary_values import CARD
from tests.hostile.server_under_test import RATE_PER_USER, REQUEST_SECONDS, Target

SETTINGS = {
    "PORT": "0",
    "COMPILE_OPERATIONS": "on",
    "REQUEST_SECONDS": str(REQUEST_SECONDS),
    "RATE_PER_USER": str(RATE_PER_USER),
    "RATE_PER_ADDRESS": "0",
    "RATE_PER_SERVICE": "0",
    "CONNECTIONS_PER_USER": "1000",
}
PREPARATION = (
    ("operator", 'grantCredits(input: {ownerId: "alice", credits: 100000, reason: "r", idempotencyKey: "k"})'),
    ("service", 'startTask(input: {taskId: "task-1", ownerId: "alice", agentId: "agent-1"})'),
    ("service", 'charge(input: {taskId: "task-1", blockRunId: "run-1", block: "ReplicateModelBlock"})'),
)
"""Mutations that give the attackers something to find."""


@pytest.fixture(scope="package")
def server(database_url: str, application_url: str) -> Iterator[Target]:
    asyncio.run(databases.reset(database_url, CARD))
    chosen = SETTINGS | {"DATABASE_URL": application_url, "LEDGER_KEY": LEDGER_KEY.hex()}
    with (
        temporary_directory() as place,
        started_server(place / "log", DATA_DIR=str(place), **chosen) as (pid, url, tokens),
    ):
        for kind, mutation in PREPARATION:
            [answer] = execute(url, tokens[kind], f"mutation {{ {mutation} {{ __typename }} }}").values()
            assert answer["__typename"].endswith("Success"), answer
        with ThreadPoolExecutor(1) as pool:
            silent_connection = pool.submit(open_silent_connection, url)
            yield Target(
                url=url,
                tokens=tokens,
                process=psutil.Process(pid),
                log=place / "log",
                data_dir=place,
                silent_connection=silent_connection,
            )


def open_silent_connection(url: str) -> tuple[int, float]:
    """Open a WebSocket and send nothing. Returns: the close code, and the seconds until it came."""
    started = time.monotonic()
    with websocket(websocket_url(url), subprotocols=PROTOCOLS) as socket:
        try:
            socket.recv(timeout=30)
        except ConnectionClosed as closed:
            return (closed.rcvd.code if closed.rcvd is not None else 1006), time.monotonic() - started
    return 0, time.monotonic() - started


@pytest.fixture
def target(server: Target) -> Iterator[Target]:
    """The server. After the test it must answer, and must have logged no error."""
    yield server
    assert server.is_alive()
    assert server.logged_errors() == []
