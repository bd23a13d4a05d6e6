"""The requests that callers send. Equal values are the same request."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Start:
    task: str
    parent: str | None = None
    budget: int | None = None
    timeout_seconds: int | None = None
    reserve: int | None = None
    scheduled: bool = False


@dataclass(frozen=True, kw_only=True)
class Charge:
    task: str
    run: str
    block: str
    measured: tuple[tuple[str, int], ...] = ()
    own_key: bool = False
    closing: bool = False


@dataclass(frozen=True, kw_only=True)
class Place:
    task: str
    run: str
    block: str
    at_most: tuple[tuple[str, int], ...]
    timeout_seconds: int
    own_key: bool = False


@dataclass(frozen=True, kw_only=True)
class Capture:
    task: str
    run: str
    measured: tuple[tuple[str, int], ...]
    cap: bool = False


@dataclass(frozen=True, kw_only=True)
class Void:
    task: str
    run: str


@dataclass(frozen=True, kw_only=True)
class AddGrant:
    key: str
    credits: int
    source: str = "PROMOTIONAL"
    priority: int = 0
    starts_at: datetime | None = None
    expires_at: datetime | None = None
    pays_debt: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Revoke:
    key: str
    number: int


@dataclass(frozen=True, kw_only=True)
class ReverseCharge:
    key: str
    task: str
    run: str
    credits: int | None


@dataclass(frozen=True, kw_only=True)
class ReverseTask:
    key: str
    task: str


@dataclass(frozen=True, kw_only=True)
class Finish:
    task: str
    run: str
    outcome: str


@dataclass(frozen=True, kw_only=True)
class Resume:
    task: str
    add_budget: int | None = None
    key: str | None = None


@dataclass(frozen=True, kw_only=True)
class End:
    task: str
    status: str


@dataclass(frozen=True, kw_only=True)
class Buy:
    """A top-up that is begun and paid. Refunds and disputes name it by its key."""

    key: str
    credits: int


@dataclass(frozen=True, kw_only=True)
class Refund:
    """`answer`: the provider's immediate answer, DONE or FAILED; PENDING: none arrives."""

    key: str
    top_up: str
    credits: int | None
    answer: str


@dataclass(frozen=True, kw_only=True)
class RefundEvent:
    """A provider event about the outcome of a refund."""

    refund: str
    state: str


@dataclass(frozen=True, kw_only=True)
class DisputeEvent:
    """A provider event about a dispute of the whole payment or half of it."""

    top_up: str
    state: str
    half: bool


@dataclass(frozen=True, kw_only=True)
class ChargeList:
    items: Sequence[Charge] = field(default_factory=tuple)


Request = (
    Start | Charge | Place | Capture | Void | AddGrant | Revoke | ReverseCharge | ReverseTask | Finish | Resume | End
    | ChargeList | Buy | Refund | RefundEvent | DisputeEvent
)  # fmt: skip
