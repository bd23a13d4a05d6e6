"""A PostgreSQL cluster that a test stops, kills, freezes and starts again, with or without a false clock."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
import psutil
import pytest

from app.db import database_url, embedded_postgres
from app.db.embedded_postgres import APPLICATION_ROLE, EmbeddedPostgres
from tests.faults.tcp_proxy import Streams


class Database:
    """The embedded PostgreSQL of one data directory. It runs, unless a test has stopped it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._server: EmbeddedPostgres | None = None

    @property
    def server(self) -> EmbeddedPostgres:
        assert self._server is not None
        return self._server

    @property
    def url(self) -> str:
        """Its URL for a superuser, past every proxy."""
        return self.server.url

    def start(self, variables: Mapping[str, str] = MappingProxyType({})) -> None:
        """Start PostgreSQL with more environment variables, and wait until it accepts connections."""
        with pytest.MonkeyPatch.context() as environment:
            for name, value in variables.items():
                environment.setenv(name, value)
            self._server = embedded_postgres.start(self.data_dir)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop PostgreSQL: SIGINT is a fast shutdown, SIGQUIT an immediate one, SIGKILL kills the first process."""
        self.server.server.send_signal(number)
        self.server.server.wait(timeout=60)
        self.server.stop()

    def processes(self) -> list[psutil.Process]:
        """PostgreSQL's processes, the first one first."""
        first = psutil.Process(self.server.server.pid)
        return [first, *first.children()]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend all processes of PostgreSQL: connections stay open and nothing is answered."""
        processes = self.processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    async def connect(self) -> asyncpg.Connection:
        return await database_url.connect(self.url, timeout=60)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A superuser's connection past every proxy."""
        connection = await self.connect()
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def backend_pids(self) -> list[int]:
        """The processes that serve the connections of `python -m app serve`."""
        found = await self.fetch("SELECT pid FROM pg_stat_activity WHERE usename = $1", APPLICATION_ROLE)
        return [record["pid"] for record in found]

    async def execute(self, *statements: str) -> None:
        async with self.connection() as connection:
            for statement in statements:
                await connection.execute(statement)

    async def fetch(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        async with self.connection() as connection:
            records: list[asyncpg.Record] = await connection.fetch(sql, *values)
            return records

    async def streams(self) -> Streams:
        """A connection to its socket, for a proxy."""
        return await asyncio.open_unix_connection(self.server.socket_dir / embedded_postgres.SOCKET_NAME)
