"""What callers send, as values: the same request is an equal one."""

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
class Give:
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
    """A top-up that is begun and paid. Later ones name it by its key."""

    key: str
    credits: int


@dataclass(frozen=True, kw_only=True)
class Refund:
    """`answer`: what the provider says at once, DONE or FAILED; PENDING: nothing that arrives."""

    key: str
    top_up: str
    credits: int | None
    answer: str


@dataclass(frozen=True, kw_only=True)
class TellOfRefund:
    """The provider tells of what has become of a refund."""

    refund: str
    state: str


@dataclass(frozen=True, kw_only=True)
class TellOfDispute:
    """The provider tells of a dispute: of all that was paid, or of half."""

    top_up: str
    state: str
    half: bool


@dataclass(frozen=True, kw_only=True)
class ChargeList:
    items: Sequence[Charge] = field(default_factory=tuple)


Request = (
    Start | Charge | Place | Capture | Void | Give | Revoke | ReverseCharge | ReverseTask | Finish | Resume | End
    | ChargeList | Buy | Refund | TellOfRefund | TellOfDispute
)  # fmt: skip
