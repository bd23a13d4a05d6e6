"""Books of a given size: filled by this server's own use case in long lists, so that every entry is a true one."""

from typing import Final

import asyncpg

from app.db import pools
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import task_accounts
from app.tasks.charging import Charge, charge_many
from app.tasks.rules import ChargeRequest
from bench import databases, scenarios
from bench.databases import Advanced

LIST: Final = 256
ENTRIES: Final = "SELECT count(*) FROM entry"


class Unfilled(Exception):
    """A charge that was to fill the books was refused."""


async def count(url: str, sql: str = ENTRIES) -> int:
    """The one number that this statement returns."""
    connection = await asyncpg.connect(**pools.connection_arguments(url))
    try:
        return int(await connection.fetchval(sql))
    finally:
        await connection.close()


async def fill(url: str, tasks: list[str], entries: int, advanced: Advanced) -> None:
    """Charge these tasks in turn until there are so many entries, then tidy up. Raises: Unfilled."""
    begun = await count(url)
    async with databases.books(url):
        rate_cards = RateCardCache()
        accounts = await task_accounts.find_accounts(tasks)
        for start in range(begun, entries, LIST):
            numbers = range(start, min(start + LIST, entries))
            items = [
                (accounts[task_id], _request(task_id, number))
                for number in numbers
                for task_id in (tasks[number % len(tasks)],)
            ]
            for outcome in await charge_many(items, rate_cards):
                if not isinstance(outcome, Charge):
                    raise Unfilled(f"a charge that was to fill the books was refused: {outcome}")
            advanced(len(numbers))
    await databases.settle(url)


def _request(task_id: str, number: int) -> ChargeRequest:
    return ChargeRequest(
        task_id=task_id,
        block_run_id=f"fill-{number:08d}",
        block=scenarios.BLOCK,
        settings=scenarios.SETTINGS,
        actor="service:bench",
    )
