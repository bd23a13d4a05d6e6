"""A PostgreSQL with insecure and unsafe settings, which accepts connections over the network."""

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from app.db import embedded_postgres
from app.db.database_url import connection_arguments

SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "12",
    "shared_buffers": "16MB",
}


@dataclass(frozen=True, slots=True)
class MisconfiguredPostgres:
    """`url`: by a Unix socket, as a superuser. `network_url`: by a network address of this machine; None: it has
    none."""

    url: str
    network_url: str | None


@contextmanager
def misconfigured_postgres(place: Path, patch: pytest.MonkeyPatch) -> Iterator[MisconfiguredPostgres]:
    """The server, with an empty database that is not migrated."""
    host, port = network_address(), free_port()
    patch.setattr(embedded_postgres, "PORT", port)
    patch.setattr(embedded_postgres, "SOCKET_NAME", f".s.PGSQL.{port}")
    for name, value in {**SETTINGS, "port": str(port), "listen_addresses": host or ""}.items():
        patch.setitem(embedded_postgres.SETTINGS, name, value)
    with embedded_postgres.start(place / "postgres") as server:
        if host is not None:
            with (place / "postgres" / "cluster" / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {host}/32 trust\n")
            asyncio.run(execute(server.url, "SELECT pg_reload_conf()"))
        role, name = embedded_postgres.SUPERUSER, embedded_postgres.DATABASE
        yield MisconfiguredPostgres(
            server.url, host and f"postgresql://{role}:{secrets.token_hex(8)}@{host}:{port}/{name}"
        )


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(**connection_arguments(url))
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def network_address() -> str | None:
    """The IPv4 address of this machine. Nothing is sent: connecting a datagram socket only chooses a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
