"""Fixtures for all tests: a migrated PostgreSQL, and `db`, which empties it before each test.

The server is that of DATABASE_URL (the run makes a database there) or an embedded one in a temporary directory. Tables
are emptied before a test, not after it, so that what a failed test left can be looked at. There is no rollback instead,
because NOTIFY and lock contention need commits.
"""

import asyncio
import logging
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tortoise.backends.asyncpg.client import AsyncpgDBClient

from app.db import embedded_postgres, pools, roles
from app.pricing import publishing
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import stop_and_resume
from tests.command_line import url_for_role
from tests.databases import OpenPools, clear_id_caches, execute, migrate, temporary_database
from tests.secret_leaks import SecretDetector
from tests.worker_processes import (
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    pytest_xdist_auto_num_workers,
    pytest_xdist_make_scheduler,
    report,
)

__all__ = [
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_xdist_auto_num_workers",
    "pytest_xdist_make_scheduler",
    "report",
]

LEDGER_KEY = bytes(range(32))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def watch() -> Iterator[SecretDetector]:
    """Receives every log record of all tests."""
    handler = SecretDetector(LEDGER_KEY.hex())
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.fixture(autouse=True)
def no_secret_is_logged(watch: SecretDetector) -> Iterator[None]:
    """Fail any test during which a token, key or password was logged."""
    yield
    found, watch.found = watch.found, []
    assert found == []


@pytest.fixture(scope="session")
def database_url() -> Iterator[str]:
    """The URL of a migrated database of this process, as its owner."""
    with asyncio.Runner() as runner:
        if given := os.environ.get("DATABASE_URL"):
            database = temporary_database(given)
            url = runner.run(database.__aenter__())
            try:
                runner.run(migrate(url))
                yield url
            finally:
                runner.run(database.__aexit__(None, None, None))
            return
        with tempfile.TemporaryDirectory(prefix="credits-test-", ignore_cleanup_errors=True) as directory:
            Path(directory).chmod(0o755)
            with embedded_postgres.start(Path(directory) / "postgres") as server:
                runner.run(migrate(server.url))
                yield server.url


@pytest.fixture(scope="session")
def application_url(database_url: str) -> Iterator[str]:
    """The URL of the same database for a role that owns nothing, as a production server uses it."""
    name = f"application_{secrets.token_hex(4)}"
    url = url_for_role(database_url, name, secrets.token_hex(16))
    asyncio.run(_grant_privileges(database_url, url))
    yield url
    asyncio.run(execute(database_url, f"DROP OWNED BY {name}", f"DROP ROLE {name}"))


async def _grant_privileges(owner_url: str, application_url: str) -> None:
    await pools.connect(owner_url)
    assert await roles.grant_privileges(application_url)
    await pools.disconnect()


@pytest.fixture(scope="module")
async def open_pools(database_url: str) -> AsyncIterator[OpenPools]:
    """The pools that `db` opens. They and the event loop live as long as the test module."""
    open_pools = OpenPools(database_url)
    yield open_pools
    await open_pools.close()


@pytest.fixture
async def db(open_pools: OpenPools) -> AsyncIterator[str]:
    """An empty database with open pools. Value: its URL.

    Tasks that the test leaves running are cancelled: they could write into the tables of the next test.
    """
    tasks = asyncio.all_tasks()
    await open_pools.empty_tables()
    await open_pools.open()
    clear_id_caches()
    stop_and_resume.configure_ledger(LEDGER_KEY)
    yield open_pools.url
    left = [task for task in asyncio.all_tasks() - tasks if not _belongs_to_anyio(task)]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _belongs_to_anyio(task: asyncio.Task[Any]) -> bool:
    """Whether anyio runs a fixture or a test by this task."""
    return getattr(task.get_coro(), "__qualname__", "").startswith("TestRunner.")


@pytest.fixture
async def rate_cards(db: str) -> RateCardCache:
    """A cache with the default rate card, which is in force."""
    rate_cards = RateCardCache()
    await publishing.publish_default_card()
    await rate_cards.refresh()
    return rate_cards


@pytest.fixture
def statements_sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that reads send while the test runs, those of Tortoise models included."""
    sent: list[str] = []
    for owner, name in ((pools, "fetch"), (AsyncpgDBClient, "execute_query"), (AsyncpgDBClient, "execute_query_dict")):
        monkeypatch.setattr(owner, name, _recorded(getattr(owner, name), sent))
    return sent


def _recorded(send: Callable[..., Awaitable[Any]], sent: list[str]) -> Callable[..., Awaitable[Any]]:
    async def record_and_send(*arguments: Any, **named: Any) -> Any:
        statement = next(one for one in arguments if isinstance(one, str))
        if "pg_notify" not in statement:  # change notifications are sent in the background
            sent.append(statement)
        return await send(*arguments, **named)

    return record_and_send
