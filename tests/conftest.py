"""What every test may ask for: a migrated PostgreSQL, emptied before each test that names `db`.

The server is the one of DATABASE_URL (a database of its own is made there) or an embedded one in a directory made for
this run. Emptied before, not after: what a failed test left can be looked at. No rollback per test: NOTIFY and
contention need commits.
"""

import logging
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import asyncpg
import pytest

from app import database, embedded, migrating, roles
from app.ledger import accounts
from app.pricing import publishing
from app.pricing.catalogue import Catalogue
from app.tasks import lapses, owners
from tests.canaries import Watch
from tests.commands import address_of
from tests.processes import (
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    pytest_xdist_make_scheduler,
    tell,
)

__all__ = [
    "pytest_configure",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_xdist_make_scheduler",
    "tell",
]

LEDGER_KEY = bytes(range(32))

TABLES = (
    "operation", "notice", "skipped_tick", "hold", "block_run", "task", "task_account", "top_up", "top_up_refund",
    "dispute", "provider_payment", "payment_customer", "auto_top_up", "provider_notice", "entry", "credit_grant",
    "account", "owner", "rate_card", "api_key", "sandbox_payment", "sandbox_refund", "sandbox_dispute",
    "sandbox_card", "sandbox_customer", "audit_record",
)  # fmt: skip

# Nothing but a superuser who switches triggers off may empty the entries.
# The accounts are locked first, as every posting does: the server of the stories may still settle what is due.
EMPTY = (
    "SET session_replication_role = replica; BEGIN; LOCK TABLE account IN EXCLUSIVE MODE;"
    + "".join(f"DELETE FROM {table};" for table in TABLES)
    + "COMMIT;"
)


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
    """A migrated database of this run's own."""
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
        with embedded.start(Path(directory) / "postgres") as server:
            anyio.run(_migrate, server.url)
            yield server.url


@pytest.fixture(scope="session")
def application_url(database_url: str) -> Iterator[str]:
    """The same database for a role that owns nothing, as a server has it in production."""
    name = f"application_{secrets.token_hex(4)}"
    url = address_of(database_url, name, secrets.token_hex(16))
    anyio.run(_allow, database_url, url)
    yield url
    anyio.run(_administer, database_url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[str]:
    """The pools of this test, open on an empty database. Value: its address."""
    admin = await asyncpg.connect(**database.credentials(database_url))
    await admin.execute(EMPTY)
    await admin.close()
    accounts.forget()
    owners.forget()
    lapses.open_books(LEDGER_KEY)
    await database.connect(database_url)
    yield database_url
    await database.disconnect()


@pytest.fixture
async def catalogue(db: str) -> Catalogue:
    """The default rate card, in force."""
    catalogue = Catalogue()
    await publishing.load_default()
    await catalogue.refresh()
    return catalogue


async def _migrate(url: str) -> None:
    await database.connect(url)
    await migrating.apply()
    await database.disconnect()


@pytest.fixture
def statements_sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that reads send while the test runs."""
    sent: list[str] = []
    fetch = database.fetch

    async def counted(sql: str, *values: Any) -> Any:
        sent.append(sql)
        return await fetch(sql, *values)

    monkeypatch.setattr(database, "fetch", counted)
    return sent


async def _allow(owner_url: str, application_url: str) -> None:
    await database.connect(owner_url)
    assert await roles.allow(application_url)
    await database.disconnect()


async def _administer(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(**database.credentials(url))
    for statement in statements:
        await connection.execute(statement)
    await connection.close()
