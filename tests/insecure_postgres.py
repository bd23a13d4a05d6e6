"""A real PostgreSQL that is set up as none should be, reached through this machine's own address on a network."""

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from app.db import embedded_postgres, pools

SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "12",
    "shared_buffers": "16MB",
}


@dataclass(frozen=True, slots=True)
class MisconfiguredPostgres:
    """`url`: by a socket, as a superuser. `network_url`: by an address that is no loopback; None: there is none."""

    url: str
    network_url: str | None


@contextmanager
def misconfigured_postgres(place: Path, patch: pytest.MonkeyPatch) -> Iterator[MisconfiguredPostgres]:
    """Empty: nothing was migrated."""
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
    connection = await asyncpg.connect(**pools.connection_arguments(url))
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def network_address() -> str | None:
    """This machine's IPv4 address on a network. Nothing is sent: a datagram socket only chooses its route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("198.51.100.1", 9))
        except OSError:
            return None
        address = str(asking.getsockname()[0])
    return None if address.startswith("127.") else address


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
