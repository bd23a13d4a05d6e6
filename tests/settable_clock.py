"""A database whose clock a test can set. The product's statements call `clock_timestamp()` without a schema."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.db import migrations, pools
from app.ledger import accounts
from app.tasks import stop_and_resume, task_accounts
from tests.conftest import LEDGER_KEY
from tests.databases import temporary_database

_SET_CLOCK = """
    CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql VOLATILE
    AS $$ BEGIN RETURN pg_catalog.clock_timestamp() + interval '{seconds} s'; END $$
"""


@dataclass(frozen=True, slots=True)
class SettableClock:
    url: str

    async def set(self, *, seconds_ahead: float) -> None:
        """Set the clock of the database. 0 is the true time."""
        await pools.fetch(_SET_CLOCK.format(seconds=seconds_ahead))


@asynccontextmanager
async def database_with_settable_clock(server_url: str) -> AsyncIterator[SettableClock]:
    """A new, migrated database with open pools."""
    async with temporary_database(server_url) as url:
        clock = SettableClock(url)
        await pools.disconnect()
        await pools.connect(url)
        try:
            await migrations.apply()
            await clock.set(seconds_ahead=0)
            [database] = await pools.fetch("SELECT current_database() AS name")
            await pools.fetch(f'ALTER DATABASE "{database["name"]}" SET search_path = public, pg_catalog')
            await pools.disconnect()
            await pools.connect(url)
            accounts.clear_cache()
            task_accounts.clear_cache()
            stop_and_resume.configure_ledger(LEDGER_KEY)
            yield clock
        finally:
            await pools.disconnect()
