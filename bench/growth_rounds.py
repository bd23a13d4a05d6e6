"""Charges at books of a size, and pages of a history at a depth: CPU and latency of each."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.auth import development_keys
from app.engine.pagination import encode_cursor
from bench import databases, scenarios
from bench.cpu import fine_cpu_seconds
from bench.growth_books import count
from bench.growth_report import Point, Sample
from bench.pacing import Caller, Steady, asking, charge_steadily
from bench.servers import Server
from bench.tally import percentile

ONE: Final = "a charge, entries in its one account"
SPREAD: Final = "a charge, entries in the ledger"
PAGE: Final = "a page of the history, at entry"
SPREAD_ACCOUNTS: Final = 1_000
DEPTHS: Final = (1, 10_000, 500_000)
"""The last is where page 10,000 begins."""
PAGE_ITEMS: Final = 50
HISTORY: Final = (
    "query History($after: String) { account { entries(first: 50, after: $after) {"
    " edges { node { id seq kind credits balanceAfter at } } pageInfo { hasNextPage endCursor } } } }"
)
_ACCOUNT: Final = "SELECT id FROM account WHERE owner_id = 'hot'"
_NEWEST: Final = "SELECT seq FROM account WHERE owner_id = 'hot'"


class Unequal(Exception):
    """A page does not hold what it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """A database of some size, and the server that works on it."""

    point: Point
    url: str
    key: str
    server: Server
    database_pids: Sequence[int]


def tasks_of(subject: str) -> list[str]:
    if subject == ONE:
        return databases.task_ids("hot")
    return [scenarios.task_id("many", number) for number in range(SPREAD_ACCOUNTS)]


def depths(entries: int) -> list[int]:
    """Those of `DEPTHS` that an account with so many entries has a whole page at; in a small one, its last page too."""
    last = max(entries - PAGE_ITEMS, 1)
    found = [depth for depth in DEPTHS if depth <= last]
    return found if len(found) > 1 else list(dict.fromkeys((1, last)))


async def charge(books: Books, *, run: str, per_second: float, seconds: float) -> Sample:
    """Charges at a steady rate. Raises: bench.pacing.Unpaced."""
    load = "hot" if books.point.subject == ONE else "many"
    plan = Steady(
        port=books.server.port, key=books.key, load=load, tasks=len(tasks_of(books.point.subject)),
        run=run, per_second=per_second, seconds=seconds,
    )  # fmt: skip
    server, postgres = _used(books)
    charges = await charge_steadily(plan)
    latencies = [one.answered_at - one.sent_at for one in charges]
    return _sample(books, books.point, server, postgres, latencies)


async def page(books: Books, depth: int, *, requests: int) -> Sample:
    """The page that begins at the entry of this depth (the newest has 1), asked for again and again.

    Raises: Unequal: it is another page.
    """
    number, newest = await count(books.url, _ACCOUNT), await count(books.url, _NEWEST)
    after = None if depth == 1 else encode_cursor("entries", number, newest - depth + 2)
    request = asking(development_keys.user_token(databases.HOT_OWNER), HISTORY, {"after": after})
    expected = [newest - depth + 1 - place for place in range(PAGE_ITEMS)]
    caller = await Caller.connected(books.server.port)
    try:
        answer = await caller.ask(request)
        edges = ((answer.get("data") or {}).get("account") or {}).get("entries", {}).get("edges", [])
        if [int(edge["node"]["seq"]) for edge in edges] != expected:
            raise Unequal(f"the page at depth {depth:,} is another one: {str(answer)[:500]}")
        server, postgres = _used(books)
        latencies = []
        for _ in range(requests):
            begun = time.perf_counter()
            await caller.ask(request)
            latencies.append(time.perf_counter() - begun)
        return _sample(books, Point(PAGE, depth), server, postgres, latencies)
    finally:
        caller.transport.close()


def _used(books: Books) -> tuple[float, float]:
    return fine_cpu_seconds([books.server.pid]), fine_cpu_seconds(books.database_pids)


def _sample(books: Books, point: Point, server: float, postgres: float, latencies: list[float]) -> Sample:
    server_then, postgres_then = _used(books)
    return Sample(
        point=point,
        requests=len(latencies),
        server_micros=(server_then - server) * 1_000_000 / len(latencies),
        database_micros=(postgres_then - postgres) * 1_000_000 / len(latencies),
        p50_ms=percentile(latencies, 50) * 1_000,
    )
