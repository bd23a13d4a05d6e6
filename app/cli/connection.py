"""How a command connects to the database, and its identity in the ledger and the audit log."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from app.audit_log.records import AuditContext
from app.auth.caller import Scope
from app.db import embedded_postgres, migrations, pools, roles
from app.db.embedded_postgres import APPLICATION_ROLE
from app.errors import Misconfigured
from app.live.change_notifier import NOTIFIER
from app.pricing import publishing
from app.settings import data_directory, get_settings, reveal

COMMAND_LINE: Final = "operator:command-line"
"""The actor of commands. Whoever runs a command has access to the database and its secrets, and so is an operator."""


def command_line_action(action: str) -> AuditContext:
    """Return the data of a command for the audit log. `action` is the name of the mutation that does the same."""
    return AuditContext(action=action, actor=COMMAND_LINE, scope=Scope.ADMIN)


def override_settings(**values: str) -> None:
    """Set environment variables for this process and those that it starts, and read the settings again."""
    os.environ.update({name.upper(): value for name, value in values.items()})
    get_settings.cache_clear()


def embedded_directory() -> Path:
    """Return the data directory of this installation's embedded PostgreSQL."""
    return data_directory() / "postgres"


@contextmanager
def database_url() -> Iterator[str]:
    """Yield the URL of the database with the application's role.

    The URL is DATABASE_URL, or else that of the embedded PostgreSQL, which is started until the block ends if it does
    not run.
    """
    configured = reveal(get_settings().database_url)
    if url := configured or embedded_postgres.running_url(embedded_directory(), user=APPLICATION_ROLE):
        yield url
        return
    with embedded_server() as server:
        yield server.application_url


@contextmanager
def owner_and_application_urls() -> Iterator[tuple[str, str]]:
    """Yield two URLs of the database: with the role that owns its tables, and with the application's role."""
    if url := reveal(get_settings().database_url):
        yield reveal(get_settings().migration_database_url) or url, url
        return
    with database_url() as url:
        owner_url = embedded_postgres.running_url(embedded_directory())
        if owner_url is None:
            raise Misconfigured("The embedded PostgreSQL has stopped: run the command again.")
        yield owner_url, url


@contextmanager
def embedded_server() -> Iterator[embedded_postgres.EmbeddedPostgres]:
    """Run the embedded PostgreSQL until the block ends. Raises: Misconfigured: in production."""
    if get_settings().environment == "production":
        raise Misconfigured("ENVIRONMENT is production: set DATABASE_URL to a PostgreSQL 15 or newer.")
    with embedded_postgres.start(embedded_directory()) as server:
        yield server


async def migrate(owner_url: str, application_url: str) -> list[str]:
    """Apply migrations as the owner, publish the default rate card if there is none, and grant the application's role
    its privileges. Returns a message for each step.

    Raises: Misconfigured: the role does not exist, and the owner may not create it.
    """
    async with open_database(owner_url, migrated=False):
        done = [f"applied {name}" for name in await migrations.apply()]
        if await publishing.publish_default_card():
            done.append("published the default rate card")
        await roles.grant_privileges(application_url)
    return done


async def run_migrate() -> None:
    """`python -m app migrate`"""
    with owner_and_application_urls() as (owner_url, application_url):
        done = await migrate(owner_url, application_url)
    print("\n".join(done) or "there is nothing to do")


@asynccontextmanager
async def open_database(url: str, *, migrated: bool = True) -> AsyncIterator[None]:
    """Open the pools until the block ends.

    Raises: Misconfigured: `migrated` is True, but migrations are pending.
    """
    await pools.connect(url)
    try:
        if migrated and (pending := await migrations.pending()):
            raise Misconfigured(f"Migrations are pending ({', '.join(pending)}): run `python -m app migrate`.")
        yield
    finally:
        await NOTIFIER.flush()
        await pools.disconnect()
