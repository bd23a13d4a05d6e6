"""Database connections: Tortoise's configuration, the two pools, statements and transactions.

The pool `default` serves Tortoise models, reads and small transactions. The pool `posting` serves the transactions that
write the ledger. Its planner settings make the set statements use their indexes, whatever the statistics are.
(Measured: a generic plan saves 180 us per batch; a wrong index takes 80 ms instead of 0.08 ms.) Reads and reports need
other plans, so they use `default`.

Each wait for the database has a limit: see `app.db.connections`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import MappingProxyType
from typing import Any, Final, Protocol

import asyncpg
from tortoise import Tortoise
from tortoise.connection import get_connection

from app.db import connections, database_url, failures
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
    "app.verify.models",
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

COMMAND_SECONDS: Final = 30.0
"""How long a command waits for a connection, and how long its transactions may be idle. Not for servers."""


LOCK_ATTEMPT_MILLISECONDS: Final = 250
"""How long a statement on the pool `posting` waits for a lock, unless its transaction says otherwise.

Postings hold their locks for a shorter time. So a lock that is not released in time belongs to another transaction.
"""

TRANSACTION_TIMEOUT_VERSION: Final = (17,)
"""The first version of PostgreSQL that has the setting `transaction_timeout`."""
SET_TRANSACTION_TIMEOUT: Final = "SELECT set_config('transaction_timeout', $1, false)"

_NO_LOGIN: Final = {"host": None, "user": None, "password": None, "database": None}
"""Arguments that Tortoise expects. `database_url.connect`, which opens the connections, takes them from the URL."""
_LOGIN: Final = frozenset({*_NO_LOGIN, "port"})


def tortoise_config(
    url: str,
    *,
    read_connections: int = 5,
    posting_connections: int = 2,
    connect_seconds: float = COMMAND_SECONDS,
    statement_seconds: float | None = None,
) -> dict[str, Any]:
    """Return Tortoise's configuration for the database at `url`."""

    async def open_pooled(_dsn: None = None, **arguments: Any) -> asyncpg.Connection:
        options = {name: arguments[name] for name in arguments.keys() - _LOGIN}
        return await _limit_transactions(await database_url.connect(url, **options), statement_seconds)

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
                server_settings=POSTING_PLANNER | {"lock_timeout": f"{LOCK_ATTEMPT_MILLISECONDS}ms"},
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
    idle_seconds = COMMAND_SECONDS
    if statement_seconds is not None:
        idle_seconds = statement_seconds + connections.ANSWER_SECONDS
        options["command_timeout"] = idle_seconds
        settings["statement_timeout"] = _milliseconds(statement_seconds)
    settings["idle_in_transaction_session_timeout"] = _milliseconds(idle_seconds)
    return options | {"server_settings": settings}


async def _limit_transactions(connection: asyncpg.Connection, statement_seconds: float | None) -> asyncpg.Connection:
    """Let the server end transactions that take longer than two statements may, if `statement_seconds` is set.

    asyncpg sends a message that prepares a statement, then one that executes it. If the connection is lost in between,
    PostgreSQL waits for the second message. Meanwhile it ignores the limits of statements and of idle transactions, and
    keeps the locks. Before version 17 only the TCP settings limit this time.
    """
    if statement_seconds is not None and connection.get_server_version() >= TRANSACTION_TIMEOUT_VERSION:
        try:
            await connection.execute(SET_TRANSACTION_TIMEOUT, _milliseconds(2 * statement_seconds))
        except BaseException:
            connection.terminate()
            raise
    return connection


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
    is_server: bool = False,
) -> None:
    """Open the pools. For a server, waits are limited by the settings. Reports and migrations may take longer.

    Raises: Misconfigured: the URL is wrong, or its database cannot be used; OSError, asyncpg.PostgresError: the
    database does not answer.
    """
    global _slots  # noqa: PLW0603  belongs to the pools, of which a process has one set
    chosen = get_settings()
    posting_connections = posting_connections or posting_pool_size(chosen)
    connect_seconds = chosen.connect_seconds if is_server else COMMAND_SECONDS
    _slots = _PostingSlots(max(1, posting_connections - chosen.posting_connections), connect_seconds)
    await Tortoise.init(
        config=tortoise_config(
            url,
            read_connections=read_connections or chosen.read_connections,
            posting_connections=posting_connections,
            connect_seconds=connect_seconds,
            statement_seconds=chosen.statement_seconds if is_server else None,
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
    connection = await database_url.connect(url, **options, statement_cache_size=0)
    return await _limit_transactions(connection, chosen.statement_seconds)


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


class _PostingSlots:
    """Limits the connections of the pool `posting` that single postings use, so that batches always find one.

    At most half of these connections wait for locked accounts.
    """

    def __init__(self, connections: int, seconds: float) -> None:
        self._single = asyncio.Semaphore(connections)
        self._waiting = asyncio.Semaphore(max(1, connections // 2))
        self._seconds = seconds

    @asynccontextmanager
    async def slot(self, *, is_waiting: bool) -> AsyncIterator[None]:
        """Raises: NoConnection: none is free in time."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._seconds):
                    if is_waiting:
                        await stack.enter_async_context(self._waiting)
                    await stack.enter_async_context(self._single)
            except TimeoutError:
                raise failures.NoConnection(f"no connection for a posting within {self._seconds:g} s") from None
            yield


_slots = _PostingSlots(1, 1.0)


@asynccontextmanager
async def posting_transaction(
    *, is_batch: bool = False, lock_seconds: float | None = None
) -> AsyncIterator[Connection]:
    """Begin a transaction on the pool `posting`. Only postings use it.

    `is_batch` says that a queue of the group commit begins it. Each queue has a reserved connection. `lock_seconds` is
    given if an account is known to be locked, and says how long a statement waits for the lock.
    """
    if is_batch:
        async with _transaction_on("posting") as connection:
            yield connection
        return
    begin = "BEGIN" if lock_seconds is None else f"BEGIN; SET LOCAL lock_timeout = '{_milliseconds(lock_seconds)}'"
    async with _slots.slot(is_waiting=lock_seconds is not None), _transaction_on("posting", begin) as connection:
        yield connection


@asynccontextmanager
async def _transaction_on(pool: str, begin: str = "BEGIN") -> AsyncIterator[Connection]:
    """Begin a transaction.

    The context managers of asyncpg and Tortoise are not used. If the connection is lost, their ROLLBACK fails, and they
    raise this failure instead of the exception or cancellation that ended the block. Tortoise's does not return the
    connection to the pool if BEGIN fails.
    """
    async with get_connection(pool).acquire_connection() as connection:
        await connection.execute(begin)
        try:
            yield _Transaction(connection)
        except BaseException:
            with suppress(Exception):  # the connection is lost, and so the server rolls back
                await connection.execute("ROLLBACK")
            raise
        if await connection.execute("COMMIT") != "COMMIT":
            raise RuntimeError("the transaction was rolled back, because a statement in it had failed")
