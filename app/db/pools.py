"""Database connections: Tortoise's configuration, the two pools, statements and transactions.

The pool `default` serves Tortoise models, reads and small transactions. The pool `posting` writes the ledger. Its
planner settings make the set statements use their indexes whatever the statistics are. (Measured: a generic plan saves
180 us per batch; a wrong index takes 80 ms instead of 0.08 ms.) Reads and reports need other plans, so they use
`default`.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import asyncpg
from tortoise import Tortoise
from tortoise.connection import get_connection

from app.db import database_url
from app.errors import Misconfigured
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


_NO_LOGIN: Final = {"host": None, "user": None, "password": None, "database": None}
"""Arguments that Tortoise expects. `database_url.connect`, which opens the connections, takes them from the URL."""
_LOGIN: Final = frozenset({*_NO_LOGIN, "port"})


def tortoise_config(url: str, *, read_connections: int = 5, posting_connections: int = 2) -> dict[str, Any]:
    """Return Tortoise's configuration for the database at `url`."""

    async def open_connection(_dsn: None = None, **arguments: Any) -> asyncpg.Connection:
        return await database_url.connect(url, **{name: arguments[name] for name in arguments.keys() - _LOGIN})

    name = database_url.parse(url).application_name or "credits"

    def pool(size: int, **more: Any) -> dict[str, Any]:
        common = {"minsize": 1, "maxsize": size, "reset": _keep_session, "connect": open_connection}
        return {"engine": "tortoise.backends.asyncpg", "credentials": _NO_LOGIN | common | more}

    return {
        "connections": {
            "default": pool(read_connections, server_settings={"application_name": name}),
            "posting": pool(
                posting_connections,
                server_settings={"application_name": f"{name}-posting", **POSTING_PLANNER},
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
    """Open the pools.

    Raises: Misconfigured: the URL is wrong, or its database cannot be used; OSError, asyncpg.PostgresError: the
    database does not answer.
    """
    chosen = get_settings()
    await Tortoise.init(
        config=tortoise_config(
            url,
            read_connections=read_connections or chosen.read_connections,
            posting_connections=posting_connections or posting_pool_size(chosen),
        ),
        _enable_global_fallback=True,  # resolvers and loops run in tasks of other contexts
    )
    try:
        [row] = await fetch("SELECT current_setting('server_encoding') AS encoding")
        problem = database_url.encoding_problem(url, row["encoding"])
    except Exception as error:
        problem = database_url.problem_of(url, error)
        if problem is None:
            raise
    if problem is not None:
        await disconnect()
        raise Misconfigured(problem)


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
