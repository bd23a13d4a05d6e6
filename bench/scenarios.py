"""What is measured: the contenders, the accounts they charge, the block run that all of them charge, and the reads."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Contender = Literal["reference", "cached", "single", "plain", "gathered", "pair", "batch", "pgbench", "stock", "floor"]
Load = Literal["many", "hot", "task", "budget", "balance", "library"]
READS: Final[frozenset[Load]] = frozenset({"balance", "library"})

MANY_ACCOUNTS: Final = 10_000
HOT_TASKS: Final = 64
"""Tasks that run at once in the one hot account."""

CONNECTIONS: Final = 64
BATCH_CONNECTIONS: Final = 16
BATCH_ITEMS: Final = 100
PGBENCH_CLIENTS: Final = 32
TASK_CONNECTIONS: Final = 200
"""Block runs at once in one task, with a budget or without."""
LIBRARY_CONNECTIONS: Final = 16
CROWD: Final = 256
ALONE: Final = 1

GRANTED_CREDITS: Final = 1_000_000_000
"""To each account: no charge is ever refused."""

BLOCK: Final = "AITextGeneratorBlock"
SETTINGS: Final = {"model": "gpt-4o", "max_tokens": 500}
RUN: Final = f'"block":"{BLOCK}","settings":{json.dumps(SETTINGS, separators=(",", ":"))}'
"""What every charge sends besides its ids."""

LIVE: Final = "live"
"""The measurement of subscriptions."""
GROWTH: Final = "growth"
"""The measurement of what larger books cost."""
STOP: Final = "stop"
"""The measurement of how long it takes to tell an executor to stop, and the database that it has of its own."""
STOPS: Final = 100
STOP_REHEARSALS: Final = 5
STOP_CREDITS: Final = 10
STOP_RUN: Final = {"block": "ReplicateModelBlock"}
"""Costs exactly those credits."""

_ANSWER: Final = (
    "{ __typename ... on ChargeSuccess { cost replayed balance { available version } } ... on UserError { message } }"
)
CHARGE: Final = f"mutation Charge($input: ChargeInput!) {{ charge(input: $input) {_ANSWER} }}"
CHARGE_BATCH: Final = f"mutation ChargeBatch($input: [ChargeInput!]!) {{ chargeBatch(input: $input) {_ANSWER} }}"

BALANCE: Final = """query Header($ownerId: ID!) {
  account(ownerId: $ownerId) { id balance { id available held owed version status } }
}"""
"""What the header of every page shows, of one of the many accounts."""
LIBRARY_OWNER: Final = "reader"
LIBRARY_AGENT: Final = "library-agent"
LIBRARY_TASKS: Final = 50
LIBRARY_RUNS: Final = 3
"""Block runs of each of those tasks."""
LIBRARY: Final = """query Library($agentId: ID!, $ownerId: ID!, $first: Int!) {
  agent(agentId: $agentId, ownerId: $ownerId) { id agentId tasks(first: $first) {
    edges { cursor node { id taskId status stopReason trigger startedAt endedAt steps
      cost { id total charged reversed version } } }
    pageInfo { hasNextPage endCursor } } }
}"""
"""The library page: an agent's tasks, and what each has cost."""
LIBRARY_ASKED: Final = {"agentId": LIBRARY_AGENT, "ownerId": LIBRARY_OWNER, "first": LIBRARY_TASKS}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One contender at one load."""

    contender: Contender
    load: Load
    title: str
    connections: int | None = None
    """None: as many as is usual; others are part of its name."""

    @property
    def name(self) -> str:
        return f"{self.contender}-{self.load}" + (f"-{self.connections}" if self.connections is not None else "")

    @property
    def clients(self) -> int:
        if self.connections is not None:
            return self.connections
        if self.contender == "pgbench":
            return PGBENCH_CLIENTS
        usual = {"task": TASK_CONNECTIONS, "budget": TASK_CONNECTIONS, "library": LIBRARY_CONNECTIONS}
        return BATCH_CONNECTIONS if self.contender == "batch" else usual.get(self.load, CONNECTIONS)

    @property
    def server(self) -> str:
        """Who answers, by the contender whose process it is."""
        return "gathered" if self.contender == "batch" else self.contender

    @property
    def database(self) -> str | None:
        """Whose books it reads or writes, by the contender that owns them."""
        return {"batch": "gathered", "stock": "gathered", "floor": None}.get(self.contender, self.contender)

    @property
    def charges(self) -> bool:
        """Whether it leaves charges in those books."""
        return self.load not in READS and self.contender != "floor"


_TITLES: Final[dict[Contender, str]] = {
    "reference": "reference: an ORM transaction a request",
    "cached": "reference, with Strawberry's caches",
    "single": "this server, list size 1",
    "plain": "this server, plans off",
    "gathered": "this server",
    "pair": "this server, two workers",
    "batch": f"this server, chargeBatch({BATCH_ITEMS})",
    "pgbench": "pgbench, a minimal function",
}
_LOADS: Final[tuple[Load, ...]] = ("many", "hot")

ALL: Final[tuple[Measurement, ...]] = (
    *(Measurement(contender, load, title) for load in _LOADS for contender, title in _TITLES.items()),
    Measurement("gathered", "task", "this server, one task"),
    Measurement("gathered", "budget", "this server, one task with a budget"),
    Measurement("gathered", "many", "this server", CROWD),
    Measurement("pair", "many", "this server, two workers", CROWD),
    Measurement("gathered", "many", "this server", ALONE),
    Measurement("pgbench", "many", "pgbench, a minimal function", ALONE),
    Measurement("gathered", "balance", "this server, balance query"),
    Measurement("pgbench", "balance", "pgbench, a row by its primary key"),
    Measurement("gathered", "library", f"this server, page of {LIBRARY_TASKS} tasks"),
    Measurement("stock", "library", f"stock Strawberry, page of {LIBRARY_TASKS} tasks"),
    Measurement("floor", "many", "a plain Starlette route"),
)


def chosen(names: tuple[str, ...]) -> list[Measurement]:
    """The measurements of these names: a contender's (`gathered`), a load's (`hot`), or one (`gathered-hot`); no
    name means all. `stop`, `live` and `growth` are none of them. Raises: ValueError: a name that there is not."""
    known = {part for one in ALL for part in (one.name, one.contender, one.load)} | {STOP, LIVE, GROWTH}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"There is no {', '.join(unknown)}; there are {', '.join(sorted(known))}.")
    return [one for one in ALL if not names or {one.name, one.contender, one.load} & set(names)]


def books_of(measurements: Iterable[Measurement]) -> set[Load]:
    """The loads whose accounts and tasks must be there: the balances that are read are those of the many."""
    loads = {one.load for one in measurements}
    return (loads - READS) | ({"many"} if "balance" in loads else set())


def task_id(load: Load, number: int) -> str:
    """The task that is charged: its own account's only one, or one of the hot account's. All ids are equally long."""
    return f"{load}-{number:06d}"


def task_count(load: Load) -> int:
    return {"many": MANY_ACCOUNTS, "hot": HOT_TASKS}.get(load, 1)


def stop_numbers(*, busy: bool) -> Sequence[int]:
    """The accounts that are emptied while the servers are idle, or busy."""
    count = STOP_REHEARSALS + STOPS
    return range(count, 2 * count) if busy else range(count)


def stop_owner(number: int) -> str:
    return f"stop-{number:03d}"


def stop_task(number: int) -> str:
    """The one task of an account that its first charge empties."""
    return f"task-of-{stop_owner(number)}"
