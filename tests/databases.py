"""Databases of tests: emptying all tables, pools that stay open between tests, databases made for one test."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from tortoise.connection import get_connection
from tortoise.exceptions import ConfigurationError

from app.db import migrations, pools
from app.db.database_url import connection_arguments
from app.ledger import accounts
from app.pricing import publishing
from app.tasks import task_accounts

EMPTY_TABLES_SQL: Final = """
DO $$
DECLARE name text; has_rows boolean;
BEGIN
    SET LOCAL session_replication_role = replica;
    LOCK TABLE account IN EXCLUSIVE MODE;
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'tortoise_migrations' LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO has_rows;
        IF has_rows THEN EXECUTE format('DELETE FROM %I', name); END IF;
    END LOOP;
END $$
"""
"""Deletes all rows of all tables in one round trip; a table without rows costs next to nothing.

Entries can only be deleted by a superuser who switches triggers off. The accounts are locked first, as in every
posting, because a server of another test may still be posting.
"""


class OpenPools:
    """The connection pools of the tests of one module, and a connection that empties the tables between them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._admin: asyncpg.Connection | None = None
        self._clients: list[Any] = []

    async def empty_tables(self) -> None:
        if self._admin is None or self._admin.is_closed():
            self._admin = await asyncpg.connect(**connection_arguments(self.url))
        await self._admin.execute(EMPTY_TABLES_SQL)

    async def open(self) -> None:
        """Open the pools, also if a test has closed or replaced them or has not released a connection."""
        if self._clients and self._clients == _open_clients() and all(map(_is_idle, self._clients)):
            return
        await pools.disconnect()
        await pools.connect(self.url)
        self._clients = _open_clients()

    async def close(self) -> None:
        await pools.disconnect()
        if self._admin is not None:
            await self._admin.close()


def _open_clients() -> list[Any]:
    """Tortoise's clients of both pools; none if they are closed."""
    with suppress(ConfigurationError):
        return [get_connection(name) for name in ("default", "posting")]
    return []


def _is_idle(client: Any) -> bool:
    pool: asyncpg.Pool | None = client._pool
    return pool is None or pool.get_size() == pool.get_idle_size()


async def execute(url: str, *statements: str) -> None:
    """Execute statements on a connection of their own."""
    connection = await asyncpg.connect(**connection_arguments(url))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def migrate(url: str) -> None:
    await pools.connect(url)
    await migrations.apply()
    await pools.disconnect()


def clear_id_caches() -> None:
    """Forget the ids of accounts and tasks, which belong to another database or to rows that were deleted."""
    accounts.clear_cache()
    task_accounts.clear_cache()


async def reset(url: str, document: Mapping[str, Any] | None = None) -> None:
    """Empty the database and publish a rate card, for a server that is about to start on it.

    `document`: the rate card that is in force; None means the default rate card.
    """
    await execute(url, EMPTY_TABLES_SQL)
    await pools.connect(url)
    try:
        await publishing.publish_default_card()
        if document is not None:
            await publishing.publish_rate_card(document, actor="operator:test", idempotency_key="reset")
            await pools.fetch("UPDATE rate_card SET effective_at = clock_timestamp() WHERE version = 2 RETURNING 1")
    finally:
        await pools.disconnect()


@asynccontextmanager
async def temporary_database(url: str) -> AsyncIterator[str]:
    """The URL of a new database without tables on the server of `url`; it is dropped afterwards."""
    name = f"credits_test_{secrets.token_hex(6)}"
    await execute(url, f'CREATE DATABASE "{name}"')
    try:
        yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    finally:
        await execute(url, f'DROP DATABASE "{name}" WITH (FORCE)')
