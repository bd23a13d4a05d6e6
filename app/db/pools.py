"""Database connections: Tortoise's configuration, the two pools, statements and transactions.

The pool `default` serves Tortoise models, reads and small transactions. The pool `posting` writes the ledger. Its
planner settings make the set statements use their indexes whatever the statistics are. (Measured: a generic plan saves
180 us per batch; a wrong index takes 80 ms instead of 0.08 ms.) Reads and reports need other plans, so they use
`default`.

Each wait for the database has a limit: see `app.db.connections`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import Any, Final, Protocol

import asyncpg
from tortoise import Tortoise
from tortoise.connection import get_connection

from app.db import connections, database_url
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
    "app.outgoing_webhooks.models",
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
}

IDLE_IN_TRANSACTION_SECONDS: Final = 30.0
"""How long a transaction of a command may be idle. For the server it is the time limit of a statement."""


_NO_LOGIN: Final = {"host": None, "user": None, "password": None, "database": None}
"""Arguments that Tortoise expects. `database_url.connect`, which opens the connections, takes them from the URL."""
_LOGIN: Final = frozenset({*_NO_LOGIN, "port"})


def tortoise_config(
    url: str,
    *,
    read_connections: int = 5,
    posting_connections: int = 2,
    connect_seconds: float = 10.0,
    statement_seconds: float | None = None,
) -> dict[str, Any]:
    """Return Tortoise's configuration for the database at `url`."""

    async def open_pooled(_dsn: None = None, **arguments: Any) -> asyncpg.Connection:
        return await database_url.connect(url, **{name: arguments[name] for name in arguments.keys() - _LOGIN})

    parsed = database_url.parse(url)
    name = parsed.application_name or "credits"
    # The hosts of a URL are tried one by one, within the time limit of a pool.
    hosts = max(1, len(parsed.hosts))
    acquire_seconds = max(connect_seconds, hosts * (parsed.connect_timeout_seconds or 0))

    def pool(name: str, size: int, *, server_settings: Mapping[str, str], **more: Any) -> dict[str, Any]:
        options = connection_options(
            name,
            connect_seconds=connect_seconds / hosts,
            statement_seconds=statement_seconds,
            server_settings=server_settings,
        )
        common = {"minsize": 1, "maxsize": size, "reset": _keep_session, "connect": open_pooled}
        limits = options | {"acquire_seconds": acquire_seconds}
        return {"engine": "app.db.connections", "credentials": _NO_LOGIN | common | limits | more}

    return {
        "connections": {
            "default": pool(name, read_connections, server_settings={}),
            "posting": pool(
                f"{name}-posting",
                posting_connections,
                server_settings=POSTING_PLANNER,
                max_cached_statement_lifetime=0,
            ),
        },
        "apps": {"credits": {"models": MODELS, "default_connection": "default", "migrations": "migrations"}},
        "use_tz": True,
        "timezone": "UTC",
    }


def connection_options(
    name: str,
    *,
    connect_seconds: float,
    statement_seconds: float | None,
    server_settings: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the arguments of asyncpg.connect that limit each wait.

    `name` is shown by pg_stat_activity. If `statement_seconds` is None, statements may take any time.
    """
    settings = {"application_name": name, **connections.SERVER_TCP_SETTINGS, **server_settings}
    options: dict[str, Any] = {"connection_class": connections.Connection, "timeout": connect_seconds}
    # A process that hangs between two statements, or that the network has cut off, must not keep its accounts locked.
    idle_seconds = IDLE_IN_TRANSACTION_SECONDS
    if statement_seconds is not None:
        idle_seconds = statement_seconds + connections.ANSWER_SECONDS
        options["command_timeout"] = idle_seconds
        settings["statement_timeout"] = _milliseconds(statement_seconds)
    settings["idle_in_transaction_session_timeout"] = _milliseconds(idle_seconds)
    return options | {"server_settings": settings}


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


async def _keep_session(connection: object) -> None:
    """Do nothing. asyncpg calls this instead of resetting the session when a connection returns to its pool.

    Settings and locks end with their transactions, so nothing has to be reset. A reset takes as long as a read.
    """


async def connect(
    url: str,
    *,
    read_connections: int | None = None,
    posting_connections: int | None = None,
    statement_seconds: float | None = None,
) -> None:
    """Open the pools. The server limits the time of statements; reports and migrations of commands may take longer.

    Raises: Misconfigured: the URL is wrong, or its database cannot be used; OSError, asyncpg.PostgresError: the
    database does not answer.
    """
    chosen = get_settings()
    await Tortoise.init(
        config=tortoise_config(
            url,
            read_connections=read_connections or chosen.read_connections,
            posting_connections=posting_connections or posting_pool_size(chosen),
            connect_seconds=chosen.connect_seconds,
            statement_seconds=statement_seconds,
        ),
        _enable_global_fallback=True,  # resolvers and loops run in tasks of other contexts
    )
    try:
        [row] = await fetch("SELECT current_setting('server_encoding') AS encoding")
        problem = database_url.encoding_problem(url, row["encoding"])
        # Tortoise opens a pool at its first use, under a lock, where callers would wait for each other.
        await get_connection("posting").create_connection(with_db=True)
    except Exception as error:
        problem = database_url.problem_of(url, error)
        if problem is None:
            raise
    if problem is not None:
        await disconnect()
        raise Misconfigured(problem)


async def open_connection(url: str, *, name: str) -> asyncpg.Connection:
    """Open a connection that belongs to no pool, with the same limits as those of a server."""
    chosen = get_settings()
    options = connection_options(
        f"{database_url.parse(url).application_name or 'credits'}-{name}",
        connect_seconds=chosen.connect_seconds,
        statement_seconds=chosen.statement_seconds,
    )
    return await database_url.connect(url, **options, statement_cache_size=0)


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
    """A pool's connection inside a transaction, without Tortoise's wrapper around each statement."""

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
    async with _transaction_on("default") as connection:
        yield connection


@asynccontextmanager
async def posting_transaction() -> AsyncIterator[Connection]:
    """Begin a transaction on the pool `posting`. Only postings use it."""
    async with _transaction_on("posting") as connection:
        yield connection


@asynccontextmanager
async def _transaction_on(pool: str) -> AsyncIterator[Connection]:
    """Begin a transaction.

    The contexts of asyncpg and Tortoise are not used: theirs replace the exception of the block, also a cancellation,
    if the connection was lost and cannot be rolled back. Tortoise's does not return a connection to the pool if BEGIN
    fails.
    """
    async with get_connection(pool).acquire_connection() as connection:
        await connection.execute("BEGIN")
        try:
            yield _Transaction(connection)
        except BaseException:
            with suppress(Exception):  # the connection is lost, and so the server rolls back
                await connection.execute("ROLLBACK")
            raise
        if await connection.execute("COMMIT") != "COMMIT":
            raise RuntimeError("the transaction was rolled back, because a statement in it had failed")
