"""How a command comes to a database: DATABASE_URL, the embedded server that runs already, or one started meanwhile."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from app import database, embedded, migrating
from app.errors import Misconfigured
from app.settings import data_directory, settings


def embedded_directory() -> Path:
    """Where this installation's embedded PostgreSQL keeps its data."""
    return data_directory() / "postgres"


@contextmanager
def database_url() -> Iterator[str]:
    """The database of this installation, for as long as this lasts."""
    if url := settings().database_url or embedded.running_url(embedded_directory()):
        yield url
        return
    with embedded_server() as server:
        yield server.url


@contextmanager
def embedded_server() -> Iterator[embedded.EmbeddedPostgres]:
    """The embedded PostgreSQL, started for as long as this lasts."""
    if settings().environment == "production":
        raise Misconfigured("ENVIRONMENT is production: set DATABASE_URL to a PostgreSQL 15 or newer.")
    with embedded.start(embedded_directory()) as server:
        yield server


@asynccontextmanager
async def open_database(url: str, *, migrated: bool = True) -> AsyncIterator[None]:
    """The pools of `database`, open. Raises: Misconfigured: it is meant to be migrated and is not."""
    await database.connect(url)
    try:
        if migrated and (missing := await migrating.pending()):
            raise Misconfigured(
                f"The database lacks {len(missing)} migrations ({', '.join(missing)}): run `python -m app migrate`."
            )
        yield
    finally:
        await database.disconnect()


def use_settings(**values: str) -> None:
    """Settle settings for this process and the ones it starts."""
    os.environ.update({name.upper(): value for name, value in values.items()})
    settings.cache_clear()
