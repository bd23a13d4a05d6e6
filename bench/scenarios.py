"""What is measured: the contenders, the accounts they charge, and the block run that all of them charge."""

import json
from dataclasses import dataclass
from typing import Final, Literal

Contender = Literal["reference", "single", "gathered", "batch", "pgbench", "floor"]
Load = Literal["many", "hot"]

MANY_ACCOUNTS: Final = 10_000
HOT_TASKS: Final = 64
"""Tasks that run at once in the one hot account."""

CONNECTIONS: Final = 64
BATCH_CONNECTIONS: Final = 16
BATCH_ITEMS: Final = 100
PGBENCH_CLIENTS: Final = 32

GRANTED_CREDITS: Final = 1_000_000_000
"""To each account: no charge is ever refused."""

BLOCK: Final = "AITextGeneratorBlock"
SETTINGS: Final = {"model": "gpt-4o", "max_tokens": 500}
RUN: Final = f'"block":"{BLOCK}","settings":{json.dumps(SETTINGS, separators=(",", ":"))}'
"""What every charge sends besides its ids."""

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
    Measurement("floor", "many", "a plain Starlette route"),
)


def chosen(names: tuple[str, ...]) -> list[Measurement]:
    """The measurements of these names: a contender's (`gathered`), a load's (`hot`), or one (`gathered-hot`); no
    name means all. Raises: ValueError: a name that there is not."""
    known = {part for one in ALL for part in (one.name, one.contender, one.load)}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"There is no {', '.join(unknown)}; there are {', '.join(sorted(known))}.")
    return [one for one in ALL if not names or {one.name, one.contender, one.load} & set(names)]


def task_id(load: Load, number: int) -> str:
    """The task that is charged: its own account's only one, or one of the hot account's. All ids are equally long."""
    return f"{load}-{number:06d}"


def task_count(load: Load) -> int:
    return MANY_ACCOUNTS if load == "many" else HOT_TASKS
