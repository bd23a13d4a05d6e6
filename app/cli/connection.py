"""How a command comes to a database: DATABASE_URL, the embedded server that runs already, or one started meanwhile."""

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
from app.pricing import publishing
from app.settings import data_directory, get_settings


def embedded_directory() -> Path:
    """Where this installation's embedded PostgreSQL keeps its data."""
    return data_directory() / "postgres"


@contextmanager
def database_url() -> Iterator[str]:
    """The database of this installation as the application reaches it, for as long as this lasts."""
    if url := get_settings().database_url or embedded_postgres.running_url(embedded_directory(), user=APPLICATION_ROLE):
        yield url
        return
    with embedded_server() as server:
        yield server.application_url


@contextmanager
def owner_and_application_urls() -> Iterator[tuple[str, str]]:
    """The database of this installation, as the owner of its tables reaches it and as the application does."""
    if url := get_settings().database_url:
        yield get_settings().migration_database_url or url, url
        return
    with database_url() as url:
        owner = embedded_postgres.running_url(embedded_directory())
        if owner is None:
            raise Misconfigured("The embedded PostgreSQL has stopped meanwhile: try again.")
        yield owner, url


@contextmanager
def embedded_server() -> Iterator[embedded_postgres.EmbeddedPostgres]:
    """The embedded PostgreSQL, started for as long as this lasts."""
    if get_settings().environment == "production":
        raise Misconfigured("ENVIRONMENT is production: set DATABASE_URL to a PostgreSQL 15 or newer.")
    with embedded_postgres.start(embedded_directory()) as server:
        yield server


async def migrate(owner_url: str, application_url: str) -> list[str]:
    """Bring the database up to date as its owner, and let the application's role do its work. Returns: what was done.

    Raises: Misconfigured: there is no such role, and the owner may not make it.
    """
    async with open_database(owner_url, migrated=False):
        done = [f"applied {name}" for name in await migrations.apply()]
        if await publishing.publish_default_card():
            done.append("loaded the default rate card")
        await roles.grant_privileges(application_url)
    return done


@asynccontextmanager
async def open_database(url: str, *, migrated: bool = True) -> AsyncIterator[None]:
    """The pools of `database`, open. Raises: Misconfigured: it is meant to be migrated and is not."""
    await pools.connect(url)
    try:
        if migrated and (missing := await migrations.pending()):
            raise Misconfigured(
                f"The database lacks {len(missing)} migrations ({', '.join(missing)}): run `python -m app migrate`."
            )
        yield
    finally:
        await pools.disconnect()


COMMAND_LINE: Final = "operator:command-line"
"""Whoever runs a command: it has the database and its secrets, and so is an operator."""


def command_line_action(action: str) -> AuditContext:
    """What a command does, as the trail tells it; named as the mutation is that does the same."""
    return AuditContext(action=action, actor=COMMAND_LINE, scope=Scope.ADMIN)


def override_settings(**values: str) -> None:
    """Settle settings for this process and the ones it starts."""
    os.environ.update({name.upper(): value for name, value in values.items()})
    get_settings.cache_clear()
