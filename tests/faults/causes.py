"""Causes of trouble in PostgreSQL and on the way to it. Each lasts as long as its `async with` block."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import asyncpg

from app.db.embedded_postgres import APPLICATION_ROLE
from tests.faults.installation import Installation

FAKETIME: Final = next(iter(sorted(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"))), None)
"""The library of Debian's package libfaketime, or None."""
DELAY_SECONDS: Final = 0.25
"""In each direction, so that a round trip takes half a second."""
PAYLOAD_BYTES: Final = 7_000
DISK_BYTES: Final = 32 * 1024 * 1024

Cause = Callable[[Installation], AbstractAsyncContextManager[object]]

END_SESSIONS: Final = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{APPLICATION_ROLE}'"
COUNT_SESSIONS: Final = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{APPLICATION_ROLE}'"


@asynccontextmanager
async def no_fault(_: Installation) -> AsyncIterator[None]:
    """The server works."""
    yield


@asynccontextmanager
async def lost_connections(installation: Installation) -> AsyncIterator[None]:
    """All connections to PostgreSQL are dead, and new ones are not answered. Nothing is closed."""
    async with installation.database_proxy.black_hole():
        yield


@asynccontextmanager
async def slow_network(installation: Installation) -> AsyncIterator[None]:
    """A round trip to PostgreSQL takes half a second."""
    installation.database_proxy.delay_seconds = DELAY_SECONDS
    try:
        yield
    finally:
        installation.database_proxy.delay_seconds = 0.0


@asynccontextmanager
async def frozen_database(installation: Installation) -> AsyncIterator[None]:
    """PostgreSQL is suspended."""
    with installation.database.frozen():
        yield


@asynccontextmanager
async def stopped_database(installation: Installation) -> AsyncIterator[None]:
    """PostgreSQL is stopped immediately, and started at the end."""
    await asyncio.to_thread(installation.database.stop, signal.SIGQUIT)
    try:
        yield
    finally:
        await asyncio.to_thread(installation.database.start)


@asynccontextmanager
async def locked_accounts(installation: Installation, *owners: str) -> AsyncIterator[None]:
    """Another session keeps the rows of these accounts, or of all, locked."""
    async with installation.database.connection() as other, other.transaction():
        condition = "owner_id = ANY($1) OR cardinality($1) = 0"
        await other.execute(f"SELECT 1 FROM account WHERE {condition} ORDER BY id FOR UPDATE", list(owners))
        yield


@asynccontextmanager
async def read_only_database(installation: Installation) -> AsyncIterator[None]:
    """The running sessions turn read-only, and back at the end, as by the reload of a setting."""
    database = installation.database
    await database.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        await database.execute(
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        )


@asynccontextmanager
async def read_only_sessions(installation: Installation) -> AsyncIterator[None]:
    """All sessions end. Those opened instead stay read-only also after the end, as those of a former primary."""
    role = f"ALTER ROLE {APPLICATION_ROLE}"
    await installation.database.execute(f"{role} SET default_transaction_read_only = on", END_SESSIONS)
    try:
        yield
    finally:
        await installation.database.execute(f"{role} RESET default_transaction_read_only")


@asynccontextmanager
async def no_free_connection(installation: Installation) -> AsyncIterator[None]:
    """Others use all connections that PostgreSQL accepts; those of the server are terminated."""
    database = installation.database
    others: list[asyncpg.Connection] = []
    async with database.connection() as admin:
        try:
            while True:
                with suppress(asyncpg.TooManyConnectionsError):
                    while True:
                        others.append(await database.connect())
                if await admin.fetchval(COUNT_SESSIONS) == 0:
                    break
                await admin.execute(END_SESSIONS)
            yield
        finally:
            for other in others:
                other.terminate()


@asynccontextmanager
async def full_notify_queue(installation: Installation) -> AsyncIterator[None]:
    """A listening session stays in a transaction, so that all notifications stay in the queue until it is full."""
    database = installation.database
    async with database.connection() as idle, database.connection() as sender:
        await idle.execute("LISTEN filled")
        await idle.execute("BEGIN")
        await idle.execute("SELECT 1")
        with suppress(asyncpg.ProgramLimitExceededError):
            while True:
                await sender.execute("SELECT pg_notify('filled', $1)", "x" * PAYLOAD_BYTES)
        with suppress(asyncpg.ProgramLimitExceededError):
            while True:  # fills the last page
                await sender.execute("SELECT pg_notify('filled', '')")
        yield
        await idle.execute("ROLLBACK")


@asynccontextmanager
async def false_clock(installation: Installation) -> AsyncIterator[Callable[[int], None]]:
    """PostgreSQL runs with a clock that a test moves. Value: a function that sets its offset in seconds."""
    offsets = installation.directory / "clock"
    settings = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offsets),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }

    def move(seconds: int) -> None:
        offsets.write_text(f"{seconds:+d}")

    move(0)
    offsets.chmod(0o644)
    await asyncio.to_thread(installation.database.stop)
    await asyncio.to_thread(installation.database.start, settings)
    try:
        yield move
    finally:
        await asyncio.to_thread(installation.database.stop)
        await asyncio.to_thread(installation.database.start)


class SmallDisk:
    """A file system in memory that contains the ledger's largest tables, and can be filled."""

    def __init__(self, place: Path) -> None:
        self._filler = place / "filler"

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """No byte is free."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            self._filler.unlink()


@asynccontextmanager
async def small_disk(installation: Installation) -> AsyncIterator[SmallDisk]:
    """Entries and block runs are on a small disk. Needs root."""
    database = installation.database
    place = installation.directory / "disk"
    place.mkdir()
    user = database.data_dir.joinpath("cluster").stat().st_uid
    options = f"size={DISK_BYTES},mode=0700,uid={user}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)  # noqa: ASYNC221, S607  short, and found in PATH
    try:
        tables = place / "tables"
        tables.mkdir(mode=0o700)
        os.chown(tables, user, -1)
        await database.execute(f"CREATE TABLESPACE small LOCATION '{tables}'")
        await database.execute(*(f"ALTER TABLE {table} SET TABLESPACE small" for table in ("entry", "block_run")))
        yield SmallDisk(place)
        await database.execute(*(f"ALTER TABLE {table} SET TABLESPACE pg_default" for table in ("entry", "block_run")))
        await database.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)  # noqa: ASYNC221, S607  short, and found in PATH
