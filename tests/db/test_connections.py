"""Limits of each wait for the database, on a network that loses everything, and the replacement of connections."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self
from urllib.parse import quote

import asyncpg
import pytest
from tortoise.connection import get_connection

from app.auth.models import ServiceKey
from app.db import connections, database_url, failures, pools
from app.db.database_url import connection_arguments
from app.pricing.rate_card_cache import RateCardCache
from app.settings import get_settings
from app.tasks.charging import Charge, ChargeQueue
from tests.factories import block_run_request, grant_credits, start_task

pytestmark = pytest.mark.anyio

STATEMENT_SECONDS = 0.2
ANSWER_SECONDS = 0.2
ACQUIRE_SECONDS = 0.3


class Network:
    """A TCP proxy in front of PostgreSQL. While `is_up` is not set, it delivers nothing and closes nothing."""

    def __init__(self, url: str) -> None:
        self._target = connection_arguments(url)
        self.is_up = asyncio.Event()
        self.is_up.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dead: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        user, password = (quote(self._target[name] or "", safe="") for name in ("user", "password"))
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{self._target['database']}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._dead:
            writer.transport.abort()

    def lose_connections(self) -> None:
        """From now on, open connections are dead: what they send arrives nowhere, and they are never closed."""
        for task in self._tasks:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target["host"][0], self._target["port"][0]
        unix = f"{host}/.s.PGSQL.{port}"
        opened = asyncio.open_unix_connection(unix) if host.startswith("/") else asyncio.open_connection(host, port)
        server_reader, server_writer = await opened
        self._dead += [writer, server_writer]
        for source, target in ((reader, server_writer), (server_reader, writer)):
            task = asyncio.create_task(self._forward(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            await self.is_up.wait()
            target.write(data)
        target.close()


@pytest.fixture
async def network(db: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Network]:
    """Pools with short limits, which are connected to PostgreSQL through a `Network`."""
    monkeypatch.setattr(connections, "ANSWER_SECONDS", ANSWER_SECONDS)
    monkeypatch.setattr(connections, "_replaced_at", float("-inf"))
    monkeypatch.setattr(pools, "get_settings", lambda: SETTINGS)
    await pools.disconnect()
    async with Network(db) as network:
        await pools.connect(network.url, read_connections=2, posting_connections=2, is_server=True)
        for name in ("default", "posting"):
            get_connection(name)._pool._acquire_seconds = ACQUIRE_SECONDS  # after the first connections were opened
        yield network
        await pools.disconnect()


async def fetch() -> None:
    await pools.fetch("SELECT 1")


async def query_by_tortoise() -> None:
    await ServiceKey.all().count()


async def execute_in_a_transaction() -> None:
    async with pools.transaction() as connection:
        await connection.execute_query("SELECT 1")


async def execute_in_a_posting_transaction() -> None:
    async with pools.posting_transaction() as connection:
        await connection.execute_query("SELECT 1")


WAYS = [fetch, query_by_tortoise, execute_in_a_transaction, execute_in_a_posting_transaction]
Way = Callable[[], Awaitable[None]]


@asynccontextmanager
async def takes_less_than(seconds: float) -> AsyncIterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


SETTINGS = get_settings().model_copy(update={"statement_seconds": STATEMENT_SECONDS})
EVERY_WAIT = ACQUIRE_SECONDS + STATEMENT_SECONDS + ANSWER_SECONDS + 2
"""The longest time of one statement, for a connection and for the answer, and some time for a slow machine."""


@pytest.mark.parametrize("way", WAYS)
async def test_a_statement_on_a_dead_connection_times_out_and_the_next_one_succeeds(network: Network, way: Way) -> None:
    await way()
    network.lose_connections()

    async with takes_less_than(EVERY_WAIT):
        with pytest.raises(TimeoutError) as raised:
            await way()
    await way()

    assert failures.answer_to(raised.value) is failures.Answer.TIMED_OUT


async def test_after_one_statement_without_answer_idle_connections_are_not_used_again(network: Network) -> None:
    network.lose_connections()

    with pytest.raises(TimeoutError):
        await fetch()

    for way in WAYS:
        await way()  # would time out on a dead connection


@pytest.mark.parametrize("way", WAYS)
async def test_without_network_no_connection_is_opened(network: Network, way: Way) -> None:
    network.is_up.clear()
    connections.replace_connections()

    async with takes_less_than(EVERY_WAIT):
        with pytest.raises(failures.NoConnection, match=r"no database connection within 0.3 s"):
            await way()
    network.is_up.set()
    await way()

    assert failures.answer_to(failures.NoConnection()) is failures.Answer.UNAVAILABLE


async def test_a_caller_waits_a_limited_time_for_a_connection_that_others_use(network: Network) -> None:
    used = get_connection("default").acquire_connection
    async with used(), used(), takes_less_than(EVERY_WAIT):
        with pytest.raises(failures.NoConnection):
            await fetch()
    await fetch()


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancelled_caller_does_not_wait_for_a_dead_connection(network: Network, way: Way) -> None:
    network.lose_connections()
    task = asyncio.ensure_future(way())
    await asyncio.sleep(0.05)

    async with takes_less_than(0.5):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_pools_with_dead_connections_in_use_are_closed_in_a_limited_time(network: Network) -> None:
    async def hold() -> None:
        async with pools.posting_transaction():
            await asyncio.Event().wait()

    held = asyncio.create_task(hold())
    await asyncio.sleep(0.05)
    network.lose_connections()

    async with takes_less_than(2 * connections.CLOSE_SECONDS + 1):
        await pools.disconnect()
    held.cancel()
    with suppress(asyncio.CancelledError):
        await held
    await pools.connect(network.url, read_connections=2, posting_connections=2)


@pytest.mark.usefixtures("fresh_pools")
async def test_a_client_that_is_closed_opens_no_pool_again() -> None:
    client = get_connection("default")
    await pools.fetch("SELECT 1")
    await pools.disconnect()

    with pytest.raises(failures.NoConnection, match="the connection pools are closed"):
        async with client.acquire_connection():
            pass
    assert client._pool is None


async def test_sockets_detect_a_peer_that_is_gone(network: Network) -> None:
    async with get_connection("posting").acquire_connection() as connection:
        connected = connection._con._transport.get_extra_info("socket")

        options = {
            name: connected.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        }
        assert options == {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 8000}
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


async def pid(pool: str = "default") -> int:
    async with get_connection(pool).acquire_connection() as connection:
        return int(connection.get_server_pid())


@pytest.fixture
async def fresh_pools(db: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Pools of a server, with a short limit of statements."""
    monkeypatch.setattr(connections, "_replaced_at", float("-inf"))
    monkeypatch.setattr(pools, "get_settings", lambda: SETTINGS)
    await pools.disconnect()
    await pools.connect(db, read_connections=1, posting_connections=1, is_server=True)
    yield
    await pools.disconnect()


@pytest.mark.usefixtures("fresh_pools")
async def test_the_server_ends_a_statement_that_takes_too_long_and_the_connection_is_kept() -> None:
    before = await pid()

    with pytest.raises(asyncpg.QueryCanceledError) as raised:
        await pools.fetch("SELECT pg_sleep(5)")

    assert failures.answer_to(raised.value) is failures.Answer.TIMED_OUT
    assert await pid() == before


@pytest.mark.usefixtures("fresh_pools")
async def test_a_transaction_whose_connection_is_lost_between_two_messages_keeps_no_lock(db: str) -> None:
    lost, other = await pools.open_connection(db, name="lost"), await database_url.connect(db)
    try:
        if lost.get_server_version() < pools.TRANSACTION_TIMEOUT_VERSION:
            pytest.skip("transaction_timeout exists since PostgreSQL 17")
        await lost.execute("BEGIN; LOCK TABLE account IN EXCLUSIVE MODE")
        await lost.prepare("SELECT $1::int")  # PostgreSQL now waits for the value

        async with takes_less_than(EVERY_WAIT):
            await other.execute("BEGIN; LOCK TABLE account IN EXCLUSIVE MODE; COMMIT")

        for pool in ("default", "posting"):
            async with get_connection(pool).acquire_connection() as connection:
                assert await connection.fetchval("SHOW transaction_timeout") == "400ms"
    finally:
        lost.terminate()
        other.terminate()


async def test_statements_of_commands_have_no_time_limit(db: str) -> None:
    assert [record["statement_timeout"] for record in await pools.fetch("SHOW statement_timeout")] == ["0"]
    async with get_connection("default").acquire_connection() as connection:
        assert connection._con._config.command_timeout is None


@pytest.mark.usefixtures("fresh_pools")
@pytest.mark.parametrize("pool", ["default", "posting"])
async def test_a_read_only_session_replaces_all_connections(pool: str) -> None:
    before = {name: await pid(name) for name in ("default", "posting")}
    async with get_connection(pool).acquire_connection() as connection:
        await connection.execute("SET default_transaction_read_only = on")

        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("CREATE TABLE refused ()")

    after = {name: await pid(name) for name in ("default", "posting")}
    assert set(before.values()).isdisjoint(after.values())


RAISE = "DO $$ BEGIN RAISE EXCEPTION 'provoked' USING ERRCODE = '{state}'; END $$"


@pytest.mark.usefixtures("fresh_pools")
@pytest.mark.parametrize("state", ["08006", "08P01", "25P03", "57P01", "57P02", "57P03", "57P05", "26000"])
async def test_a_connection_whose_error_makes_it_useless_is_replaced(state: str) -> None:
    before = await pid()

    with pytest.raises(asyncpg.PostgresError) as raised:
        await pools.fetch(RAISE.format(state=state))

    assert raised.value.sqlstate == state
    assert await pid() != before


@pytest.mark.usefixtures("fresh_pools")
@pytest.mark.parametrize("state", ["40001", "40P01", "53100", "53200", "55P03", "57014", "23505", "42601", "XX000"])
async def test_a_connection_is_kept_after_other_errors(state: str) -> None:
    before = await pid()

    with pytest.raises(asyncpg.PostgresError):
        await pools.fetch(RAISE.format(state=state))

    assert await pid() == before


async def test_a_transaction_reports_its_own_error_if_its_connection_is_lost(network: Network) -> None:
    class Refused(Exception):
        """Raised by the block."""

    async def refuse() -> None:
        async with pools.transaction() as connection:
            await connection.execute_query("SELECT 1")
            network.lose_connections()
            raise Refused

    with pytest.raises(Refused):
        await refuse()


async def test_a_transaction_in_which_a_statement_failed_is_not_reported_as_committed(db: str) -> None:
    async def ignore_an_error() -> None:
        async with pools.transaction() as connection:
            with suppress(asyncpg.DivisionByZeroError):
                await connection.execute_query("SELECT 1 / 0")

    with pytest.raises(RuntimeError, match="was rolled back"):
        await ignore_an_error()


async def test_tables_can_change_while_statements_are_cached(db: str) -> None:
    async def read() -> list[dict[str, Any]]:
        async with pools.transaction() as connection:
            _, records = await connection.execute_query("SELECT * FROM changing")
        return [dict(record) for record in records]

    await pools.fetch("CREATE TABLE changing AS SELECT 1 AS a")
    try:
        assert await read() == [{"a": 1}]
        await pools.fetch("ALTER TABLE changing ADD COLUMN b int")

        assert await failures.run_with_retries(read) == [{"a": 1, "b": None}]
    finally:
        await pools.fetch("DROP TABLE changing")


async def test_a_charge_takes_five_round_trips(db: str, rate_cards: RateCardCache) -> None:
    await grant_credits("alice", 100)
    task = await start_task("alice")
    queue = ChargeQueue(rate_cards, queues=1, batch_limit=256, queue_limit=4096)
    await queue.charge(block_run_request(task))
    sent: list[str] = []
    async with get_connection("posting").acquire_connection() as connection:
        connection._con.add_query_logger(lambda record: sent.append(record.query.split()[0]))

    assert isinstance(await queue.charge(block_run_request(task)), Charge)

    await asyncio.sleep(0.05)  # the logger is called later
    assert sent == ["BEGIN", "SELECT", "WITH", "WITH", "COMMIT"]
