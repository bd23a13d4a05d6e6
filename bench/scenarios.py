"""What is measured: the contenders, the accounts they charge, and the block run that all of them charge."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Contender = Literal["reference", "single", "gathered", "batch", "pgbench", "floor"]
Load = Literal["many", "hot", "task", "budget"]

MANY_ACCOUNTS: Final = 10_000
HOT_TASKS: Final = 64
"""Tasks that run at once in the one hot account."""

CONNECTIONS: Final = 64
BATCH_CONNECTIONS: Final = 16
BATCH_ITEMS: Final = 100
PGBENCH_CLIENTS: Final = 32
TASK_CONNECTIONS: Final = 200
"""Block runs at once in one task, with a budget or without."""

GRANTED_CREDITS: Final = 1_000_000_000
"""To each account: no charge is ever refused."""

BLOCK: Final = "AITextGeneratorBlock"
SETTINGS: Final = {"model": "gpt-4o", "max_tokens": 500}
RUN: Final = f'"block":"{BLOCK}","settings":{json.dumps(SETTINGS, separators=(",", ":"))}'
"""What every charge sends besides its ids."""

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


@dataclass(frozen=True, slots=True)
class Measurement:
    """One contender at one load."""

    contender: Contender
    load: Load
    title: str

    @property
    def name(self) -> str:
        return f"{self.contender}-{self.load}"

    @property
    def clients(self) -> int:
        if self.load in ("task", "budget"):
            return TASK_CONNECTIONS
        return {"batch": BATCH_CONNECTIONS, "pgbench": PGBENCH_CLIENTS}.get(self.contender, CONNECTIONS)

    @property
    def database(self) -> str | None:
        """Whose books it writes, by the contender that owns them."""
        return {"batch": "gathered", "floor": None}.get(self.contender, self.contender)


_TITLES: Final[dict[Contender, str]] = {
    "reference": "reference: an ORM transaction a request",
    "single": "this server, list size 1",
    "gathered": "this server",
    "batch": f"this server, chargeBatch({BATCH_ITEMS})",
    "pgbench": "pgbench, a minimal function",
}
_LOADS: Final[tuple[Load, ...]] = ("many", "hot")

ALL: Final[tuple[Measurement, ...]] = (
    *(Measurement(contender, load, title) for load in _LOADS for contender, title in _TITLES.items()),
    Measurement("gathered", "task", "this server, one task"),
    Measurement("gathered", "budget", "this server, one task with a budget"),
    Measurement("floor", "many", "a plain Starlette route"),
)


def chosen(names: tuple[str, ...]) -> list[Measurement]:
    """The measurements of these names: a contender's (`gathered`), a load's (`hot`), or one (`gathered-hot`); no
    name means all. `stop` is none of them. Raises: ValueError: a name that there is not."""
    known = {part for one in ALL for part in (one.name, one.contender, one.load)} | {STOP}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"There is no {', '.join(unknown)}; there are {', '.join(sorted(known))}.")
    return [one for one in ALL if not names or {one.name, one.contender, one.load} & set(names)]


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
