"""One run: the contenders' servers and databases for as long as it lasts, and one measurement at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg

from app.db import pools
from bench import client, databases, library, reference, scenarios, servers
from bench.environment import postgres as own_postgres
from bench.pgbench import Pgbench, set_up
from bench.requests import Kind, Plan
from bench.scenarios import Measurement
from bench.servers import Server
from bench.tally import Tally

WARM_UP_SECONDS: Final = 0.5
SETTLE_SECONDS: Final = 0.2

PRODUCTS: Final = ("gathered", "single", "plain", "pair")
REFERENCES: Final = ("reference", "cached")
"""The contenders with books of their own, by how these are kept."""

# Charges that are in a contender's books; in the product's, the block runs.
RECORDED: Final = "SELECT count(*) FROM block_run WHERE cost > 0"
RECORDED_BY_REFERENCE: Final = """
SELECT count(*) FROM reference_block_run AS b
JOIN reference_entry AS e ON e.id = b.entry_id AND e.credits = -b.cost
"""
DIFFERENT: Final[Mapping[str, Mapping[str, str]]] = {
    "single": {"BATCH_LIMIT": "1"},
    "plain": {"COMPILE_OPERATIONS": "off"},
    "pair": {"WORKERS": "2"},
}
"""The settings by which a contender differs from this server as it is."""
UNBALANCED: Final = """
SELECT count(*) FROM reference_account AS a
WHERE a.balance <> $1 + (SELECT coalesce(sum(e.credits), 0) FROM reference_entry AS e WHERE e.account_id = a.id)
"""

Said = Callable[[str], object]


class Failed(Exception):
    """A measurement that cannot be believed; the text says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the books of one contender say after the run."""

    database: str
    exact: bool
    said: str


@dataclass(slots=True)
class Field:
    """Where the contenders meet."""

    place: Path
    database_pids: list[int]
    urls: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    running: dict[str, Server] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    """Charges that the clients were told of, by the database that has them."""

    async def measure(self, measurement: Measurement, *, number: int, seconds: float) -> Tally:
        """Raises: Failed: a charge was refused. ClientFailed."""
        run = f"{measurement.name}-{number:03d}"
        await asyncio.sleep(SETTLE_SECONDS)
        if measurement.contender == "pgbench":
            pgbench = Pgbench(self.urls["pgbench"], self.place, self.database_pids)
            await pgbench.empty()
            tally = await asyncio.to_thread(
                pgbench.run, measurement.load, clients=measurement.clients, seconds=seconds, run=run
            )
        else:
            tally = await asyncio.to_thread(self._load, measurement, run, seconds)
        if tally.refused:
            raise Failed(f"{tally.refused:,} requests of {run} were not answered as they should be: {tally.refusal}")
        if measurement.charges and measurement.database is not None:
            self.acknowledged[measurement.database] += tally.acknowledged
        return tally

    def _load(self, measurement: Measurement, run: str, seconds: float) -> Tally:
        server = self.running[measurement.server]
        plan = Plan(
            kind=_kind(measurement),
            load=measurement.load,
            port=server.port,
            key=self.keys.get(measurement.database or "", "none"),
            run=run,
            connections=measurement.clients,
            warm_up_seconds=WARM_UP_SECONDS,
            seconds=seconds,
            server_pids=[server.pid],
            database_pids=self.database_pids,
        )
        return client.carry_out(plan)

    async def verdicts(self) -> list[Verdict]:
        """Whether the books of each contender are exact and hold exactly the charges that were acknowledged."""
        found = []
        for name in (*PRODUCTS, *REFERENCES, scenarios.STOP):
            if name not in self.urls:
                continue
            whole, said = await (self._balanced(name) if name in REFERENCES else self._audited(name))
            if name == scenarios.STOP:  # whoever keeps its server busy is cut off
                found.append(Verdict(name, whole, said))
                continue
            recorded = await self._count(name, RECORDED_BY_REFERENCE if name in REFERENCES else RECORDED)
            told = self.acknowledged[name]
            said += f"; {recorded:,} charges recorded, {told:,} acknowledged"
            found.append(Verdict(name, whole and recorded == told, said))
        return found

    async def _audited(self, name: str) -> tuple[bool, str]:
        told = await asyncio.to_thread(servers.run, "app", "audit", **servers.settings_of(self.urls[name]))
        return told.returncode == 0, (told.stdout.strip() or told.stderr.strip())[-2000:]

    async def _balanced(self, name: str) -> tuple[bool, str]:
        wrong = await self._count(name, UNBALANCED, scenarios.GRANTED_CREDITS)
        return wrong == 0, f"{wrong} accounts differ from their entries"

    async def _count(self, name: str, sql: str, *values: object) -> int:
        connection = await asyncpg.connect(**pools.connection_arguments(self.urls[name]))
        try:
            return int(await connection.fetchval(sql, *values))
        finally:
            await connection.close()


@asynccontextmanager
async def opened(
    measurements: list[Measurement], *, stops: bool, place: Path, advanced: databases.Advanced, say: Said
) -> AsyncIterator[Field]:
    """Everything that these measurements need, started and filled; all of it ended afterwards. `stops`: and what
    `stopping` needs, filled only."""
    needed = {measurement.server for measurement in measurements}
    loads = scenarios.books_of(measurements)
    with ExitStack() as stack:
        say("starting PostgreSQL")
        postgres = stack.enter_context(own_postgres(place / "postgres"))
        found = Field(place, [postgres.server.pid])
        await _fill(found, measurements, postgres.url, advanced, say)
        if stops:
            say("making accounts to be emptied")
            found.urls[scenarios.STOP] = await databases.create_database(postgres.url, scenarios.STOP)
            found.keys[scenarios.STOP] = await databases.fill_stops(found.urls[scenarios.STOP])
            await databases.settle(found.urls[scenarios.STOP])
        say("starting the servers")
        for name in sorted(needed - {"pgbench"}):
            found.running[name] = stack.enter_context(_server(found, name))
        for name in sorted(needed & set(PRODUCTS)):
            await databases.introduce(found.running[name].url, found.keys[name], loads)
        await _rehearse(found, measurements, say)
        if {"gathered", "stock"} <= needed and any(one.load == "library" for one in measurements):
            say("comparing the library pages")
            sides = (found.running["gathered"].url, found.running["stock"].url)
            if (wrong := await library.difference(*sides, found.keys["gathered"])) is not None:
                raise Failed(f"The library page of stock Strawberry is another one: {wrong}")
        yield found


async def _rehearse(found: Field, measurements: list[Measurement], say: Said) -> None:
    """Some charges and reads that do not count, so that no server is new to it and no table is empty when rows are
    counted."""
    begun: set[tuple[str, str]] = set()
    for measurement in measurements:
        kind = (measurement.server, measurement.load if measurement.load in scenarios.READS else "charges")
        if kind not in begun:
            begun.add(kind)
            say(f"rehearsing {measurement.name}")
            await found.measure(measurement, number=0, seconds=1)
            if measurement.database is not None:
                await databases.settle(found.urls[measurement.database])


async def _fill(
    found: Field, measurements: list[Measurement], server_url: str, advanced: databases.Advanced, say: Said
) -> None:
    needed = {measurement.database for measurement in measurements}
    loads = scenarios.books_of(measurements)

    async def fill(names: Iterable[str], filled: Callable[[str], Awaitable[str]]) -> None:
        """The first is filled, the others are copies of it."""
        wanted = [name for name in names if name in needed]
        if not wanted:
            return
        first, *others = wanted
        say(f"making accounts and tasks of {first}")
        found.urls[first] = await databases.create_database(server_url, first)
        found.keys[first] = await filled(found.urls[first])
        for name in others:
            found.urls[name] = await databases.create_database(server_url, name, template=first)
            found.keys[name] = found.keys[first]

    await fill(PRODUCTS, lambda url: databases.fill_product(url, loads, advanced))
    await fill(REFERENCES, databases.fill_reference)
    if "pgbench" in needed:
        found.urls["pgbench"] = await databases.create_database(server_url, "pgbench")
        await set_up(found.urls["pgbench"])
    found.acknowledged.update(dict.fromkeys(found.urls, 0))
    if any(measurement.load == "library" for measurement in measurements):
        say("filling the library")
        found.acknowledged["gathered"] = await library.fill(found.urls["gathered"])


def _server(found: Field, name: str) -> contextlib.AbstractContextManager[Server]:
    if name == "floor":
        return servers.running(name, "bench.plain_route", place=found.place)
    environment = servers.settings_of(found.urls["gathered" if name == "stock" else name], **DIFFERENT.get(name, {}))
    if name == "stock":
        return servers.running(name, "bench.stock_pages", place=found.place, **environment)
    if name in REFERENCES:
        arguments = [reference.CACHES] if name == "cached" else []
        return servers.running(name, "bench.reference", *arguments, place=found.place, **environment)
    return servers.running(name, "app", "serve", place=found.place, RATE_PER_SERVICE="0", **environment)


def _kind(measurement: Measurement) -> Kind:
    if measurement.contender == "batch":
        return "batch"
    if measurement.contender == "floor":
        return "floor"
    reads: Mapping[str, Kind] = {"balance": "balance", "library": "library"}
    return reads.get(measurement.load, "charge")
