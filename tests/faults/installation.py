"""A server with two workers and its PostgreSQL, with a proxy before each of them."""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from app.db.embedded_postgres import APPLICATION_ROLE, DATABASE
from tests.command_line import ServerProcess, run_beside, temporary_directory
from tests.conftest import LEDGER_KEY
from tests.faults.database import Database
from tests.faults.tcp_proxy import Streams, TcpProxy, running_proxy

WORKERS = 2


class Installation:
    """The server reaches PostgreSQL by `database_proxy`; clients may reach the server by `client_proxy`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = Database(directory / "postgres")
        self.database_proxy: TcpProxy
        self.client_proxy: TcpProxy
        self.uses_client_proxy = False
        self._server: ServerProcess | None = None

    @property
    def server(self) -> ServerProcess:
        assert self._server is not None
        return self._server

    @property
    def tokens(self) -> Mapping[str, str]:
        return self.server.tokens

    @property
    def server_port(self) -> int:
        return urlsplit(self.server.url).port or 0

    @property
    def port(self) -> int:
        """The port for clients."""
        return self.client_proxy.port if self.uses_client_proxy else self.server_port

    async def start_server(self) -> None:
        """Start the server on a new port, and wait until it is ready."""
        settings = {
            "DATABASE_URL": f"postgresql://{APPLICATION_ROLE}@127.0.0.1:{self.database_proxy.port}/{DATABASE}",
            "MIGRATION_DATABASE_URL": self.database.url,
            "DATA_DIR": str(self.directory),
            "LEDGER_KEY": LEDGER_KEY.hex(),
            "PORT": "0",
            "WORKERS": str(WORKERS),
            "REQUEST_LOG": "none",
        }
        server = await asyncio.to_thread(ServerProcess, settings, log=self.directory / "log", new_session=True)
        try:
            await _until_ready(server)
        except BaseException:
            server.end(signal.SIGKILL)
            raise
        self._server = server  # clients use it from now on, as behind a load balancer

    async def end_server(self, number: signal.Signals) -> float:
        """Send a signal to the first process of the server. Returns: the seconds until it has ended, at most 30."""
        started = time.monotonic()
        try:
            await asyncio.to_thread(self.server.end, number)
        except subprocess.TimeoutExpired:
            await asyncio.to_thread(self.server.end, signal.SIGKILL)
        return time.monotonic() - started

    def workers(self) -> list[psutil.Process]:
        """The server's workers that run."""
        found = []
        for child in psutil.Process(self.server.process.pid).children():
            with suppress(psutil.NoSuchProcess):  # killed, and not yet replaced
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def errors(self) -> str:
        """The last lines that the server logged."""
        lines = (self.directory / "log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-60:])

    async def verify(self) -> str:
        """The output of `python -m app verify`, which must find the ledger intact."""
        result = await run_beside("verify", DATABASE_URL=self.database.url, LEDGER_KEY=LEDGER_KEY.hex())
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout.splitlines()[-1]

    async def _server_streams(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self.server_port)


async def _until_ready(server: ServerProcess) -> None:
    deadline = time.monotonic() + 30
    async with httpx.AsyncClient(timeout=30) as client:
        while (await client.get(f"{server.url}/readyz")).status_code != 200:
            assert time.monotonic() < deadline, "the server is not ready"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running_installation(**database_settings: str) -> AsyncIterator[Installation]:
    """An installation with these settings of PostgreSQL, which ends with the block."""
    with temporary_directory() as directory:
        installation = Installation(directory)
        database = installation.database
        await asyncio.to_thread(database.start)
        try:
            if database_settings:
                await database.execute(*(f"ALTER SYSTEM SET {name} = {it}" for name, it in database_settings.items()))
                await asyncio.to_thread(database.stop)
                await asyncio.to_thread(database.start)
            async with (
                running_proxy(database.streams) as installation.database_proxy,
                running_proxy(installation._server_streams) as installation.client_proxy,
            ):
                try:
                    await installation.start_server()
                    yield installation
                finally:
                    if installation._server is not None:
                        await installation.end_server(signal.SIGKILL)
        finally:
            await asyncio.to_thread(database.stop)
