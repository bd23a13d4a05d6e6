"""A separate database for the state machine, with a clock that the test sets.

The product takes all times from PostgreSQL's `clock_timestamp()`. In this database a function of that name comes first
in the search path and returns the value of a row, so a day passes with one statement.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg

from app.db import pools
from app.db.database_url import connect
from app.pricing import publishing
from app.pricing.rate_card_cache import RateCardCache
from app.pricing.rate_card_json import default_rate_card
from app.tasks import stop_and_resume
from tests.conftest import LEDGER_KEY
from tests.databases import clear_id_caches, execute, migrate, temporary_database
from tests.state_machine.values import FEE, Price

T = TypeVar("T")

BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)

CLOCK = f"""
CREATE SCHEMA machine;
CREATE TABLE machine.clock (at timestamptz NOT NULL);
INSERT INTO machine.clock VALUES ('{BEGINNING.isoformat()}');
CREATE FUNCTION machine.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT at FROM machine.clock';
"""

CHEAP = {
    "Video": Price(3, "seconds", 10), "Mail": Price(2, "items"), "ReplicateModelBlock": Price(10),
    "UnrealTextToSpeechBlock": Price(5), "SearchTheWebBlock": Price(1), "IdeogramModelBlock": Price(16),
    "NoteBlock": Price(0),
}  # fmt: skip
"""The prices that the machine uses: those of the default card, and two by measure that are added."""

DEAR = CHEAP | {"Video": Price(7, "seconds", 10), "Mail": Price(3, "items")}


class MachineDatabase:
    """The database, its clock, and statistics of the examples."""

    def __init__(self, runner: asyncio.Runner, connection: asyncpg.Connection) -> None:
        self._runner = runner
        self._connection = connection
        self.rate_cards = RateCardCache()
        self.now = BEGINNING
        self._cards = 0
        self.examples = 0
        self.steps = 0
        self.answers: Counter[str] = Counter()
        """How often each request had each result: "Start done", "Capture HoldClosed"."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def set_clock(self, now: datetime) -> None:
        self.now = now
        await self._connection.execute("UPDATE machine.clock SET at = $1", now)

    async def fetchrow(self, sql: str, *values: Any) -> Any:
        return await self._connection.fetchrow(sql, *values)

    async def publish(self, prices: Mapping[str, Price]) -> tuple[datetime, Mapping[str, Price]]:
        """Publish the default card with these prices by measure.

        Returns: the instant from which they apply, and the prices.
        """
        document: Any = default_rate_card()
        by_measure = [
            {"block": block, "credits": price.credits, "unit": price.measure[:-1], "per": price.per}
            for block, price in prices.items()
            if price.measure is not None
        ]
        self._cards += 1
        published = await publishing.publish_rate_card(
            document
            | {"blocks": document["blocks"] + by_measure}
            | {"outcomes": {"failed": {"fee": FEE}, "provider_failed": "nothing"}},
            actor="operator:test",
            idempotency_key=f"card-{self._cards}",
        )
        return published.card.effective_at, prices


@contextmanager
def machine_database(database_url: str) -> Iterator[MachineDatabase]:
    """A new, migrated database on the same server, dropped at the end."""
    with asyncio.Runner() as runner:
        temporary = temporary_database(database_url)
        url = runner.run(temporary.__aenter__())
        name = urlsplit(url).path[1:]
        try:
            runner.run(migrate(url))
            search_path = f'ALTER DATABASE "{name}" SET search_path = machine, pg_catalog, public'
            # The data is not needed after the run.
            asynchronous = f'ALTER DATABASE "{name}" SET synchronous_commit = off'
            runner.run(execute(url, CLOCK, search_path, asynchronous))
            connection = runner.run(connect(url))
            database = MachineDatabase(runner, connection)
            runner.run(pools.connect(url, read_connections=2, posting_connections=1))
            try:
                clear_id_caches()
                stop_and_resume.configure_ledger(LEDGER_KEY)
                runner.run(publishing.publish_default_card())
                effective_at, _ = runner.run(database.publish(CHEAP))
                runner.run(database.set_clock(effective_at))
                yield database
            finally:
                clear_id_caches()
                runner.run(pools.disconnect())
                runner.run(connection.close())
        finally:
            runner.run(temporary.__aexit__(None, None, None))
