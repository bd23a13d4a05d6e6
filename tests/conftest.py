"""What every test may ask for: a migrated PostgreSQL, emptied before each test that names `db`.

The server is the one of DATABASE_URL (a pools of its own is made there) or an embedded_postgres one in a directory made for
this run. Emptied before, not after: what a failed test left can be looked at. No rollback per test: NOTIFY and
contention need commits.
"""

import asyncio
import logging
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import asyncpg
import pytest
from tortoise.connection import get_connection
from tortoise.exceptions import ConfigurationError

from app.db import embedded_postgres, migrations, pools, roles
from app.ledger import accounts
from app.pricing import publishing
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import lapses, task_accounts
from tests.command_line import url_for_role
from tests.processes import (
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    pytest_xdist_make_scheduler,
    tell,
)
from tests.secret_leaks import Watch

__all__ = [
    "pytest_configure",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_xdist_make_scheduler",
    "tell",
]

LEDGER_KEY = bytes(range(32))

EMPTY = """
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
"""Deletes all rows of all tables, in one round trip; tables without rows cost nothing.

Only a superuser who switches triggers off may delete entries. The accounts are locked first, as every posting does: a
server of another test may still be posting.
"""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def watch() -> Iterator[Watch]:
    """Sees each record that any test logs."""
    handler = Watch(LEDGER_KEY.hex())
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.fixture(autouse=True)
def no_secret_is_logged(watch: Watch) -> Iterator[None]:
    """Whatever a test is about: no token, key or password stands in a record."""
    yield
    found, watch.found = watch.found, []
    assert found == []


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """A migrated pools of this run's own."""
    given = os.environ.get("DATABASE_URL")
    if given:
        name = f"credits_test_{secrets.token_hex(6)}"
        anyio.run(_administer, given, f'CREATE DATABASE "{name}"')
        url = urlunsplit(urlsplit(given)._replace(path=f"/{name}"))
        try:
            anyio.run(_migrate, url)
            yield url
        finally:
            anyio.run(_administer, given, f'DROP DATABASE "{name}" WITH (FORCE)')
        return
    with tempfile.TemporaryDirectory(prefix="credits-test-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        with embedded_postgres.start(Path(directory) / "postgres") as server:
            anyio.run(_migrate, server.url)
            yield server.url


@pytest.fixture(scope="session")
def application_url(database_url: str) -> Iterator[str]:
    """The same pools for a role that owns nothing, as a server has it in production."""
    name = f"application_{secrets.token_hex(4)}"
    url = url_for_role(database_url, name, secrets.token_hex(16))
    anyio.run(_allow, database_url, url)
    yield url
    anyio.run(_administer, database_url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


class Pools:
    """The connection pools of the tests of one module, and a connection that empties the tables between them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._admin: asyncpg.Connection | None = None
        self._opened: list[Any] = []

    async def empty_tables(self) -> None:
        if self._admin is None or self._admin.is_closed():
            self._admin = await asyncpg.connect(**pools.connection_arguments(self.url))
        await self._admin.execute(EMPTY)

    async def open(self) -> None:
        """Open the pools anew if a test has closed or replaced them, or has kept a connection."""
        if self._opened and self._opened == _clients() and all(map(_is_idle, self._opened)):
            return
        await pools.disconnect()
        await pools.connect(self.url)
        self._opened = _clients()

    async def close(self) -> None:
        await pools.disconnect()
        if self._admin is not None:
            await self._admin.close()


def _clients() -> list[Any]:
    """Tortoise's clients of both pools, none if they are closed."""
    with suppress(ConfigurationError):
        return [get_connection(name) for name in ("default", "posting")]
    return []


def _is_idle(client: Any) -> bool:
    pool: asyncpg.Pool | None = client._pool
    return pool is None or pool.get_size() == pool.get_idle_size()


@pytest.fixture(scope="module")
async def connection_pools(database_url: str) -> AsyncIterator[Pools]:
    """What `db` uses. The event loop lives as long as the module, too."""
    pools = Pools(database_url)
    yield pools
    await pools.close()


@pytest.fixture
async def db(connection_pools: Pools) -> AsyncIterator[str]:
    """An empty pools with open pools. Value: its address.

    Tasks that the test leaves running are cancelled, for they would write into the next test's tables.
    """
    tasks = asyncio.all_tasks()
    await connection_pools.empty_tables()
    await connection_pools.open()
    accounts.clear_cache()
    task_accounts.clear_cache()
    lapses.configure_ledger(LEDGER_KEY)
    yield connection_pools.url
    left = [task for task in asyncio.all_tasks() - tasks if not _is_of_test_runner(task)]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _is_of_test_runner(task: asyncio.Task[Any]) -> bool:
    """Whether it is the task by which anyio runs a fixture or a test."""
    return getattr(task.get_coro(), "__qualname__", "").startswith("TestRunner.")


@pytest.fixture
async def rate_cards(db: str) -> RateCardCache:
    """The default rate card, in force."""
    rate_cards = RateCardCache()
    await publishing.publish_default_card()
    await rate_cards.refresh()
    return rate_cards


async def _migrate(url: str) -> None:
    await pools.connect(url)
    await migrations.apply()
    await pools.disconnect()


@pytest.fixture
def statements_sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that reads send while the test runs."""
    sent: list[str] = []
    fetch = pools.fetch

    async def counted(sql: str, *values: Any) -> Any:
        sent.append(sql)
        return await fetch(sql, *values)

    monkeypatch.setattr(pools, "fetch", counted)
    return sent


async def _allow(owner_url: str, application_url: str) -> None:
    await pools.connect(owner_url)
    assert await roles.grant_privileges(application_url)
    await pools.disconnect()


async def _administer(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(**pools.connection_arguments(url))
    for statement in statements:
        await connection.execute(statement)
    await connection.close()
