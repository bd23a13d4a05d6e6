"""Database connections: Tortoise's configuration, the two pools, statements and transactions.

The pool `default` serves Tortoise models, reads and small transactions. The pool `posting` writes the ledger. Its
planner settings make the set statements use their indexes whatever the statistics are. (Measured: a generic plan saves
180 us per batch; a wrong index takes 80 ms instead of 0.08 ms.) Reads and reports need other plans, so they use
`default`.
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
        """Return the number of records of one statement, and the records."""


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
    # The read after the lock must see what was committed before the lock, so each statement needs a new snapshot.
    "default_transaction_isolation": "read committed",
    # A process that hangs between two statements must not keep its accounts locked.
    "idle_in_transaction_session_timeout": "30s",
}


def connection_arguments(url: str) -> dict[str, Any]:
    """Return the parts of a postgresql:// URL as arguments of asyncpg.connect.

    `?host=` is the directory of a unix socket.
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
    """Return Tortoise's configuration for the database at `url`."""

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
    """Do nothing. asyncpg calls this instead of resetting the session when a connection returns to its pool.

    Settings and locks end with their transactions, so nothing has to be reset. A reset takes as long as a read.
    """


async def connect(url: str, *, read_connections: int | None = None, posting_connections: int | None = None) -> None:
    """Open the pools. Raises: OSError, asyncpg.PostgresError: the database does not answer."""
    chosen = get_settings()
    await Tortoise.init(
        config=tortoise_config(
            url,
            read_connections=read_connections or chosen.read_connections,
            posting_connections=posting_connections or posting_pool_size(chosen),
        ),
        _enable_global_fallback=True,  # resolvers and loops run in tasks of other contexts
    )
    await fetch("SELECT 1")


def posting_pool_size(settings: Settings) -> int:
    """Return the size of the pool: one connection for each queue of the group commit, and some for single postings."""
    return settings.posting_connections + 4


def max_connections(settings: Settings) -> int:
    """Return how many connections the server opens at most: for each process both pools, and one that listens."""
    return settings.workers * (settings.read_connections + posting_pool_size(settings) + 1)


async def disconnect() -> None:
    """Close the pools."""
    await Tortoise.close_connections()


async def fetch(sql: str, *values: Any) -> Sequence[asyncpg.Record]:
    """Return the records of one statement outside any transaction.

    A statement that writes returns the records of RETURNING. Tortoise's `execute_query` drops the records of INSERT,
    UPDATE and DELETE.
    """
    async with get_connection("default").acquire_connection() as connection:
        records: Sequence[asyncpg.Record] = await connection.fetch(sql, *values)
        return records


class _Transaction:
    """A pool's connection inside a transaction, without Tortoise's wrapper around each statement.

    Tortoise's `in_transaction` does not return a connection to the pool if BEGIN fails. So a server whose database
    restarts a few times would have no connections left.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def execute_query(self, query: str, values: list[Any] | None = None) -> tuple[int, Sequence[Any]]:
        records = await self._connection.fetch(query, *(values or ()))
        return len(records), records


@asynccontextmanager
async def transaction() -> AsyncIterator[Connection]:
    """Begin a transaction on the pool `default`.

    It is committed at the end of the block, or rolled back by an exception.
    """
    async with get_connection("default").acquire_connection() as connection, connection.transaction():
        yield _Transaction(connection)


@asynccontextmanager
async def posting_transaction() -> AsyncIterator[Connection]:
    """Begin a transaction on the pool `posting`. Only postings use it."""
    async with get_connection("posting").acquire_connection() as connection, connection.transaction():
        yield _Transaction(connection)
