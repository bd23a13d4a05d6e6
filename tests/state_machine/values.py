"""Values of the model: grants with pockets, holds, tasks, block runs, entries, prices, refusals."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.state_machine.requests import Start

ACCOUNT = ""
"""The pocket of the available credits."""

DAY = timedelta(hours=24)
SOURCES = ["PROMOTIONAL", "ADJUSTMENT", "PURCHASED"]
ENDED = {"COMPLETED", "FAILED", "CANCELLED"}

Answer = dict[str, Any]


class Refused(Exception):
    """A refusal: the name of the error and its fields."""

    def __init__(self, name: str, **facts: Any) -> None:
        super().__init__(name)
        self.answer: Answer = {"refused": name} | facts


@dataclass(kw_only=True)
class Grant:
    number: int
    source: str
    credits: int
    priority: int
    starts_at: datetime | None
    expires_at: datetime | None
    started: bool
    pays_debt: bool = True
    kind: str = "GRANT"
    revoked: bool = False
    pockets: dict[str, int] = field(default_factory=dict)

    def inside(self, pocket: str) -> int:
        return self.pockets.get(pocket, 0)

    def move(self, credits: int, source: str, target: str | None) -> None:
        """Move credits from one pocket to another; None: out of the account."""
        self.pockets[source] -= credits
        if target is not None:
            self.pockets[target] = self.inside(target) + credits

    def expired(self, at: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= at


@dataclass(kw_only=True)
class Hold:
    """A hold for a block run, or a task's budget (`run` is None)."""

    pocket: str
    task: str
    run: str | None
    parent: str
    credits: int
    reserve: int
    timeout: timedelta
    expires_at: datetime
    status: str = "OPEN"
    captured: int = 0
    price: "Price | None" = None
    request: object = None
    capture: object = None

    @property
    def open(self) -> bool:
        return self.status == "OPEN"


@dataclass(kw_only=True)
class Task:
    name: str
    pocket: str
    request: Start
    status: str = "RUNNING"
    reason: str | None = None
    required: int | None = None
    shortfall: int | None = None
    charged: int = 0
    reversed: int = 0
    steps: int = 0


@dataclass(kw_only=True)
class Run:
    name: str
    task: str
    cost: int
    request: object
    draws: list[tuple[int, int]]
    reversed: int = 0
    outcome: str | None = None
    given_back: int = 0
    """The cost by outcome."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    kind: str
    credits: int
    at: datetime
    task: str | None
    run: str | None
    draws: tuple[tuple[int, int], ...]
    owed: int = 0


@dataclass(kw_only=True)
class TopUp:
    """A paid top-up, its grant, and the dispute of its payment."""

    key: str
    grant: int
    credits: int
    dispute: str | None = None
    half: bool = False
    disputed: int = 0
    """The credits that the dispute concerns, or has clawed back."""
    frozen: int = 0
    debt: int = 0
    """The part of `disputed` that became debt."""


@dataclass(kw_only=True)
class ModelRefund:
    """A refund, and the credits of it that became debt."""

    top_up: str
    credits: int
    debt: int
    state: str


@dataclass(frozen=True)
class Price:
    """Credits per `per` units of a measure, rounded up; without a measure: per block run."""

    credits: int
    measure: str | None = None
    per: int = 1

    def of(self, block: str, measured: Mapping[str, int]) -> int:
        if self.measure is None:
            return self.credits
        if self.measure not in measured:
            raise Refused("MeasurementMissing", block=block, measurement=self.measure)
        return -(-self.credits * measured[self.measure] // self.per)


FREE = Price(0)
FEE = 3
"""The most that a failed block run costs."""


def budget_of(task: str) -> str:
    return f"budget of {task}"


def hold_for(run: str) -> str:
    return f"hold for {run}"
