"""Database connections: Tortoise's configuration, the two pools, statements and transactions.

Pool `default` serves Tortoise models, reads and small transactions. Pool `posting` writes the ledger. Its planner
settings keep the set statements on their indexes whatever the statistics say (measured: a generic plan saves 180 us per
batch, and a wrong index costs 80 ms instead of 0.08). Reads and reports need the opposite, so they use `default`.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg
from tortoise import Tortoise
from tortoise.connection import get_connection

from app.settings import Settings, get_settings


class Connection(Protocol):
    """A connection inside a transaction."""

    async def execute_query(self, query: str, values: list[Any] | None = None) -> tuple[int, Sequence[Any]]:
        """The number of records of one statement, and the records."""


MODELS: Final = [
    "app.ledger.models",
    "app.tasks.models",
    "app.topups.models",
    "app.pricing.models",
    "app.auth.models",
    "app.audit_log.models",
]

POSTING_PLANNER: Final = {
    "plan_cache_mode": "force_generic_plan",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "enable_seqscan": "off",
    "jit": "off",
    # The read after the lock must see what was committed before the lock: a new snapshot for each statement.
    "default_transaction_isolation": "read committed",
    # A process that hangs between two statements must not keep its accounts locked.
    "idle_in_transaction_session_timeout": "30s",
}


def connection_arguments(url: str) -> dict[str, Any]:
    """The parts of a postgresql:// URL as arguments of asyncpg.connect. `?host=` is the directory of a unix socket.

    Raises: ValueError.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ValueError(
            "DATABASE_URL must begin with postgresql:// (for example postgresql://user:password@host/name)"
        )
    query = dict(parse_qsl(parts.query))
    arguments: dict[str, Any] = {
        "host": query.pop("host", None) or parts.hostname or "localhost",
        "port": int(query.pop("port", None) or parts.port or 5432),
        "user": unquote(parts.username) if parts.username else query.pop("user", None),
        "password": unquote(parts.password) if parts.password else query.pop("password", None),
        "database": unquote(parts.path.lstrip("/")) or "postgres",
    }
    if sslmode := query.pop("sslmode", None):
        arguments["ssl"] = sslmode
    return arguments


def tortoise_config(url: str, *, read_connections: int = 5, posting_connections: int = 2) -> dict[str, Any]:
    """Tortoise's configuration for the database at `url`."""

    def pool(size: int, **more: Any) -> dict[str, Any]:
        return {
            "engine": "tortoise.backends.asyncpg",
            "credentials": connection_arguments(url) | {"minsize": 1, "maxsize": size, "reset": _keep_session} | more,
        }

    return {
        "connections": {
            "default": pool(read_connections, server_settings={"application_name": "credits"}),
            "posting": pool(
                posting_connections,
                server_settings={"application_name": "credits-posting", **POSTING_PLANNER},
                max_cached_statement_lifetime=0,
            ),
        },
        "apps": {"credits": {"models": MODELS, "default_connection": "default", "migrations": "migrations"}},
        "use_tz": True,
        "timezone": "UTC",
    }


async def _keep_session(connection: object) -> None:
    """asyncpg calls this when a connection returns to its pool, instead of resetting the session.

    Settings and locks end with their transactions, so there is nothing to reset; the round trip cost as much as a read.
    """


async def connect(url: str, *, read_connections: int | None = None, posting_connections: int | None = None) -> None:
    """Open the pools. Raises: OSError or asyncpg.PostgresError if the database does not answer."""
    chosen = get_settings()
    await Tortoise.init(
        config=tortoise_config(
            url,
            read_connections=read_connections or chosen.read_connections,
            posting_connections=posting_connections or posting_pool_size(chosen),
        ),
        _enable_global_fallback=True,  # resolvers and loops run in tasks that were not started from this context
    )
    await fetch("SELECT 1")


def posting_pool_size(settings: Settings) -> int:
    """One connection for each queue of the group commit, and some for operations that are posted one by one."""
    return settings.posting_connections + 4


def max_connections(settings: Settings) -> int:
    """How many connections a server opens at most: for each process both pools and the one that listens."""
    return settings.workers * (settings.read_connections + posting_pool_size(settings) + 1)


async def disconnect() -> None:
    """Close the pools."""
    await Tortoise.close_connections()


async def fetch(sql: str, *values: Any) -> Sequence[asyncpg.Record]:
    """The records of one statement outside any transaction; of a statement that writes, what it RETURNs.

    Tortoise's `execute_query` drops the records of INSERT, UPDATE and DELETE.
    """
    async with get_connection("default").acquire_connection() as connection:
        records: Sequence[asyncpg.Record] = await connection.fetch(sql, *values)
        return records


class _Transaction:
    """A pool's connection inside a transaction, without Tortoise's wrapper around each statement.

    Tortoise's `in_transaction` does not return a connection to the pool if BEGIN fails, so a server whose database
    restarts a few times would run out of connections.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def execute_query(self, query: str, values: list[Any] | None = None) -> tuple[int, Sequence[Any]]:
        records = await self._connection.fetch(query, *(values or ()))
        return len(records), records


@asynccontextmanager
async def transaction() -> AsyncIterator[Connection]:
    """One transaction on the `default` pool: committed at the end, rolled back by an exception."""
    async with get_connection("default").acquire_connection() as connection, connection.transaction():
        yield _Transaction(connection)


@asynccontextmanager
async def posting_transaction() -> AsyncIterator[Connection]:
    """One transaction on the `posting` pool, for postings only."""
    async with get_connection("posting").acquire_connection() as connection, connection.transaction():
        yield _Transaction(connection)
