"""Database connections and pools in which no wait is unlimited.

If a statement takes too long or its caller is cancelled, asyncpg sends a cancel request over a new connection and waits
for the answer on the old one. A network that drops packets never delivers that answer. So this module closes the old
connection instead, without waiting.

- A statement has a time limit in the server (`statement_timeout`). It has a longer one in this process, in case the
  server does not answer.
- TCP keepalive finds idle connections whose peer is gone. TCP_USER_TIMEOUT finds connections whose peer does not
  acknowledge sent data, which keepalive does not find.
- A connection is closed after an error that makes it useless (`failures.is_connection_lost`). If the database is
  read-only or does not answer, all other connections of the process are replaced when they are next used. The reason:
  after a failover or a network fault they probably lead to the same dead or old server.

Tortoise uses this module as its database engine (`client_class`), so its statements have the same limits.
"""

import asyncio
import socket
import time
from typing import Any, Final
from weakref import WeakSet

import asyncpg
from tortoise.backends.asyncpg.client import AsyncpgDBClient

from app import metrics, tracing
from app.db import failures

KEEPALIVE_IDLE_SECONDS: Final = 5
KEEPALIVE_INTERVAL_SECONDS: Final = 2
KEEPALIVE_COUNT: Final = 3
UNACKNOWLEDGED_SECONDS: Final = 8
ANSWER_SECONDS: Final = 1.0
"""How much longer this process waits than the server's statement_timeout, so that the server's error can arrive."""
CLOSE_SECONDS: Final = 2.0
"""How long closing a pool waits until its connections are released. Those that are still in use are aborted."""
REPLACEMENT_SECONDS: Final = 1.0
"""The minimum time between two replacements, so that a long fault does not cause a reconnect for every request."""

SERVER_TCP_SETTINGS: Final = {
    "tcp_keepalives_idle": str(KEEPALIVE_IDLE_SECONDS),
    "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL_SECONDS),
    "tcp_keepalives_count": str(KEEPALIVE_COUNT),
    "tcp_user_timeout": f"{UNACKNOWLEDGED_SECONDS}s",
}
"""The same limits for the server, so that it ends the session of a process that is gone and releases its locks.

PostgreSQL ignores them for unix sockets.
"""

_SOCKET_OPTIONS: Final = {
    "TCP_KEEPIDLE": KEEPALIVE_IDLE_SECONDS,
    "TCP_KEEPINTVL": KEEPALIVE_INTERVAL_SECONDS,
    "TCP_KEEPCNT": KEEPALIVE_COUNT,
    "TCP_USER_TIMEOUT": UNACKNOWLEDGED_SECONDS * 1000,
}


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no annotations
    """A connection that closes itself after an error that makes it useless."""

    def __init__(self, protocol: Any, transport: Any, *arguments: Any) -> None:
        super().__init__(protocol, transport, *arguments)
        _limit_waits(transport.get_extra_info("socket"))

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        try:
            with tracing.statement_span(query) if tracing.is_on() else tracing.NO_SPAN:
                status: str = await super().execute(query, *args, **options)
        except Exception as failure:
            self._close_if_useless(failure)
            raise
        return status

    async def _execute(self, query: str, *arguments: Any, **options: Any) -> Any:
        try:
            with tracing.statement_span(query) if tracing.is_on() else tracing.NO_SPAN:
                return await super()._execute(query, *arguments, **options)
        except Exception as failure:
            self._close_if_useless(failure)
            raise

    def _close_if_useless(self, failure: Exception) -> None:
        if isinstance(failure, TimeoutError):  # asyncpg has called _cancel_current_command
            replace_connections()
        elif failures.is_connection_lost(failure):
            self.terminate()
            if failures.sqlstate(failure) == failures.READ_ONLY:
                replace_connections()

    def _cancel_current_command(self, waiter: Any, cancel_waiter: Any = None) -> None:
        # The protocol still changes its state after this call, so the connection is aborted in the next loop turn. That
        # is before the caller receives its exception.
        self._loop.call_soon(self.terminate)


def _limit_waits(connected: Any) -> None:
    """Set keepalive and TCP_USER_TIMEOUT on a TCP socket, as far as the platform has them."""
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SOCKET_OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


class Pool(asyncpg.Pool):  # type: ignore[misc]  # asyncpg has no annotations
    """A pool in which waiting for a free connection and opening a new one have a common time limit."""

    def __init__(self, *, acquire_seconds: float, **options: Any) -> None:
        defaults = {
            "max_queries": 50_000,
            "max_inactive_connection_lifetime": 300.0,
            "record_class": asyncpg.Record,
        }
        super().__init__(**(defaults | options))
        self._acquire_seconds = acquire_seconds
        label = "posting" if options["server_settings"]["application_name"].endswith("-posting") else "default"
        self._used = metrics.POOL_CONNECTIONS.labels(label)
        self._waits = metrics.POOL_WAIT.labels(label)
        _pools.add(self)

    async def _acquire(self, timeout: float | None) -> Any:  # noqa: ASYNC109  asyncpg's signature
        seconds = self._acquire_seconds if timeout is None else timeout
        started = time.perf_counter()
        try:
            connection = await super()._acquire(seconds)
        except TimeoutError:
            raise failures.NoConnection(f"no database connection within {seconds:g} s") from None
        self._waits.observe(time.perf_counter() - started)
        self._used.inc()
        return connection

    async def release(self, connection: Any, **options: Any) -> None:
        self._used.dec()
        aborted = connection._con
        if aborted is not None and aborted._protocol is not None and aborted._protocol._is_cancelling():
            aborted.terminate()  # its caller was cancelled; this also returns its place to the pool
        else:
            await super().release(connection, **options)

    def replace_connections(self) -> None:
        """Replace each connection that exists now when it is next used."""
        self._generation += 1


_pools: WeakSet[Pool] = WeakSet()
_replaced_at = float("-inf")


def replace_connections() -> None:
    """Replace the connections of all pools of this process when they are next used."""
    global _replaced_at  # noqa: PLW0603  one time for all pools
    if (now := time.monotonic()) - _replaced_at >= REPLACEMENT_SECONDS:
        _replaced_at = now
        for pool in _pools:
            pool.replace_connections()


class Client(AsyncpgDBClient):
    """Tortoise's client, with these pools and connections."""

    connection_class = Connection
    _is_closed = False

    async def create_connection(self, with_db: bool) -> None:
        # A background task may use this client while it is being closed. A pool that opened then would never be closed.
        if self._is_closed:
            raise failures.NoConnection("the connection pools are closed")
        await super().create_connection(with_db)

    async def create_pool(self, **options: Any) -> Pool:
        pool: Pool = await Pool(**options)
        return pool

    def acquire_connection(self) -> Any:
        # Tortoise's context fails at its end if the pool was closed in the meantime.
        return super().acquire_connection() if self._pool is None else self._pool.acquire()

    async def _close(self) -> None:
        self._is_closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await pool.close()
            except TimeoutError:
                pool.terminate()


client_class = Client
