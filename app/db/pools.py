"""The database: Tortoise's configuration, two pools, and what may be tried again.

Pool `default` serves models, reads and small transactions. Pool `posting` writes the books: its planner settings keep
the set statements on their indexes whatever the statistics say (measured: a generic plan saves 180 us a batch, and the
wrong index costs 80 ms instead of 0.08); audits and reports want the opposite, so they stay on `default`.

Rows on hot paths come by SQL through Tortoise's own connections; each statement is a named constant beside its model.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg
from tortoise import Tortoise
from tortoise.connection import get_connection

from app.settings import Settings, get_settings


class Connection(Protocol):
    """A connection inside a transaction."""

    async def execute_query(self, query: str, values: list[Any] | None = None) -> tuple[int, Sequence[Any]]:
        """The count and the records of one statement."""


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
    # What a posting reads after its lock must see what committed before: a fresh snapshot for each statement.
    "default_transaction_isolation": "read committed",
    # A worker that hangs between two statements must not keep its accounts locked for ever.
    "idle_in_transaction_session_timeout": "30s",
}

RETRIED_SQLSTATES: Final = frozenset({"40001", "40P01"})
"""Serialisation failure and deadlock: the transaction is gone and may be run again as it was."""

CONNECTION_FAILURE_SQLSTATES: Final = frozenset({"57P01", "57P02", "57P03", "53300", "25006"})
"""The server goes, comes, is full or is read-only: nothing is wrong with the request."""

T = TypeVar("T")


def connection_arguments(url: str) -> dict[str, Any]:
    """The parts of a postgresql:// address, as asyncpg names them. `?host=` names a unix socket's directory."""
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ValueError(
            "DATABASE_URL must begin with postgresql:// (for example postgresql://user:password@host/name)"
        )
    query = dict(parse_qsl(parts.query))
    found: dict[str, Any] = {
        "host": query.pop("host", None) or parts.hostname or "localhost",
        "port": int(query.pop("port", None) or parts.port or 5432),
        "user": unquote(parts.username) if parts.username else query.pop("user", None),
        "password": unquote(parts.password) if parts.password else query.pop("password", None),
        "database": unquote(parts.path.lstrip("/")) or "postgres",
    }
    if sslmode := query.pop("sslmode", None):
        found["ssl"] = sslmode
    return found


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
    """Called when a connection returns to its pool: nothing here leaves session state to undo (settings and locks end
    with their transactions), so no round trip for it. It cost as much as the read before it."""


async def connect(url: str, *, read_connections: int | None = None, posting_connections: int | None = None) -> None:
    """Open the pools. Raises: OSError or asyncpg.PostgresError where the database does not answer."""
    here = get_settings()
    await Tortoise.init(
        config=tortoise_config(
            url,
            read_connections=read_connections or here.read_connections,
            posting_connections=posting_connections or posting_pool_size(here),
        ),
        _enable_global_fallback=True,  # resolvers and loops run in tasks that did not see this context
    )
    await fetch("SELECT 1")


def posting_pool_size(settings: Settings) -> int:
    """One for each lane, and some for the operations that post one by one."""
    return settings.posting_connections + 4


def max_connections(settings: Settings) -> int:
    """How many connections a server takes at most: both pools of each process, and the one that listens."""
    return settings.workers * (settings.read_connections + posting_pool_size(settings) + 1)


async def disconnect() -> None:
    """Close the pools."""
    await Tortoise.close_connections()


async def fetch(sql: str, *values: Any) -> Sequence[asyncpg.Record]:
    """The records of one statement, outside any transaction; of one that writes, what it RETURNs.

    Not by Tortoise's `execute_query`: that drops the records of what begins with INSERT, UPDATE or DELETE.
    """
    async with get_connection("default").acquire_connection() as connection:
        records: Sequence[asyncpg.Record] = await connection.fetch(sql, *values)
        return records


class _Transaction:
    """A connection of a pool inside a transaction, without what Tortoise does around each statement.

    Not Tortoise's `in_transaction`: it takes the connection before it begins and does not give back one on which BEGIN
    failed, so that a server that saw its database restart a few times would have no connection left.
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
    """One transaction on the `posting` pool. The ledger's; nobody else writes books."""
    async with get_connection("posting").acquire_connection() as connection, connection.transaction():
        yield _Transaction(connection)


def sqlstate(fault: BaseException | None) -> str | None:
    """The SQLSTATE behind a fault, however Tortoise wrapped it."""
    while fault is not None:
        if isinstance(fault, asyncpg.PostgresError):
            return str(fault.sqlstate)
        fault = fault.args[0] if fault.args and isinstance(fault.args[0], BaseException) else fault.__cause__
    return None


def is_connection_failure(fault: BaseException) -> bool:
    """Whether the database was out of reach: nothing is wrong with what was asked, and asking again may do."""
    state = sqlstate(fault)
    if state is not None:
        return state.startswith("08") or state in CONNECTION_FAILURE_SQLSTATES
    return isinstance(fault, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError | TimeoutError)


async def run_with_retries(operation: Callable[[], Awaitable[T]], *, attempts: int = 6) -> T:
    """`operation`, run anew after a deadlock or a serialisation failure, with a short random wait between."""
    for attempt in range(1, attempts + 1):
        try:
            return await operation()
        except Exception as fault:
            if attempt == attempts or sqlstate(fault) not in RETRIED_SQLSTATES:
                raise
        await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311  spreads retries, guards nothing
    raise AssertionError("unreachable: the last attempt returns or raises")


def __getattr__(name: str) -> Any:
    """`TORTOISE_ORM`, for Tortoise's own command line (`[tool.tortoise]`); read from the environment when asked for."""
    if name == "TORTOISE_ORM":
        return tortoise_config(get_settings().database_url or "postgresql://localhost/credits")
    raise AttributeError(name)
