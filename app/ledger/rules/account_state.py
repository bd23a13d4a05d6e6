"""An account in memory: its figures, its open grants and holds, and the lines written so far.

Values only: `rules` and `claims` move them.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from app.ledger.rules.hash_chain import EntryContent

Draws = tuple[tuple[int, int], ...]
"""(grant number, credits) pairs: which grant paid, or got back, how much."""


class EntryKind(StrEnum):
    """What an entry is.

    REFUND: credits of a top-up that went back for money, or that a lost dispute took (its reason says so); with a plus,
    that came back because the provider refused. DEBT: the part of such a thing that was spent already, its sign in
    `owed`. ADJUSTMENT: by an operator, or the bonus of a top-up that is taken back. DEBT_PAID: credits that paid debt.
    """

    TOP_UP = "TOP_UP"
    GRANT = "GRANT"
    CHARGE = "CHARGE"
    REVERSAL = "REVERSAL"
    REFUND = "REFUND"
    EXPIRY = "EXPIRY"
    ADJUSTMENT = "ADJUSTMENT"
    DEBT = "DEBT"
    DEBT_PAID = "DEBT_PAID"


class GrantSource(StrEnum):
    """Where the credits of a grant came from."""

    PURCHASED = "PURCHASED"
    PROMOTIONAL = "PROMOTIONAL"
    ADJUSTMENT = "ADJUSTMENT"


class HoldStatus(StrEnum):
    """Where a hold stands. Only OPEN ones claim; the others are for good (an envelope may be opened again)."""

    OPEN = "OPEN"
    CAPTURED = "CAPTURED"
    VOIDED = "VOIDED"
    EXPIRED = "EXPIRED"


class Cause(NamedTuple):
    """Who did it and what for: stands in every entry that follows from it. `hold`: the number of the hold that paid."""

    actor: str
    reason: str | None = None
    task_id: str | None = None
    block_run_id: str | None = None
    top_up_id: str | None = None
    request_id: str | None = None
    hold_number: int | None = None


CAUSED_BY_TIME = Cause(actor="time")
"""The cause of what nobody did: grants that start and expire."""

CAUSED_BY_DEBT = Cause(actor="debt")
"""The cause of what nobody did either: debt that is paid by whatever frees credits."""


@dataclass(slots=True, kw_only=True)
class GrantState:
    """A grant in memory. `remaining` counts credits that are posted (all of them once `started`).

    `pays_debt`: whether debt may be paid of it. A promotional grant pays only where the operator says so.
    """

    number: int
    source: GrantSource
    credits: int
    remaining: int
    claimed: int
    priority: int
    starts_at: datetime | None
    expires_at: datetime | None
    is_started: bool
    is_open: bool
    actor: str
    reason: str | None
    top_up_id: str | None
    pays_debt: bool
    created_at: datetime

    @property
    def spendable(self) -> int:
        return self.remaining - self.claimed if self.is_started else 0

    @property
    def next_change_at(self) -> datetime | None:
        """The next instant at which time alone changes this grant; None when nothing will."""
        if not self.is_open:
            return None
        if not self.is_started:
            return self.starts_at
        # Nothing leaves at the expiry of a grant that is claimed altogether: it leaves when its claims are released.
        return self.expires_at if self.spendable else None


@dataclass(slots=True, kw_only=True)
class Hold:
    """Credits of named grants, claimed for one block run, or for a whole task: then it is an *envelope*.

    `claims` says which grants, in no order that counts. At every moment credits = captured + released + remaining +
    lent. `within` is the envelope that its claims came from and go back to; `lent` is what holds within this
    one have taken and not given back: claimed there, or drawn. `reserve`: the part that only closing work may draw.
    `terms` belong to whoever placed it.
    """

    number: int
    task_id: str
    block_run_id: str | None
    parent_budget: int | None
    credits: int
    captured: int = 0
    released: int = 0
    allocated: int = 0
    closing_reserve: int = 0
    claims: dict[int, int]
    status: HoldStatus = HoldStatus.OPEN
    timeout_seconds: int
    placed_at: datetime
    expires_at: datetime
    closed_at: datetime | None = None
    terms: Any = None
    priced_credits: int | None = None
    request_hash: bytes | None = None
    capture_request_hash: bytes | None = None
    actor: str
    request_id: str | None = None
    """Written with a new hold, for the trail; not read again."""

    @property
    def remaining(self) -> int:
        """What it claims now."""
        return sum(self.claims.values())

    @property
    def is_open(self) -> bool:
        return self.status is HoldStatus.OPEN

    @property
    def is_budget(self) -> bool:
        return self.block_run_id is None


class LedgerEntry(NamedTuple):
    """An entry as it was written: its line and the MAC that signs it."""

    line: EntryContent
    mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountBalance:
    """One state of an account: the same for every reader of that version, whenever it was read.

    `low_balance_at` is the account's own threshold, None where it has chosen none.
    """

    account_id: int
    owner_id: str
    version: int
    posted: int
    held: int
    frozen: int
    owed: int
    low_balance_threshold: int | None = field(default=None, compare=False)
    as_of: datetime = field(compare=False)

    @property
    def available(self) -> int:
        """posted - held - frozen, never below 0."""
        return max(0, self.posted - self.held - self.frozen)

    def audit_fields(self) -> dict[str, object]:
        """As the trail tells of them."""
        return {name: getattr(self, name) for name in ("version", "posted", "held", "frozen", "owed")}


@dataclass(slots=True, kw_only=True)
class AccountState:
    """One account under its lock, with what is written to it. `at` is the instant at which everything is decided.

    `lots` has every open grant; `holds` has those that are due and those that the caller named.
    """

    account_id: int
    owner_id: str
    seq: int
    version: int
    grant_count: int
    hold_count: int = 0
    open_holds: int = 0
    notification_count: int = 0
    posted: int
    held: int
    frozen: int
    owed: int
    last_mac: bytes
    last_entry_at: datetime | None
    next_change_at: datetime | None
    low_balance_threshold: int | None = None
    at: datetime
    signing_key: bytes
    grants: dict[int, GrantState] = field(default_factory=dict)
    holds: dict[int, Hold] = field(default_factory=dict)
    next_hold_expiry_at: datetime | None = None
    """The earliest expiry of the holds that are not in `holds`, or earlier: a bound, not the instant itself."""
    new_entries: list[LedgerEntry] = field(default_factory=list)
    changed_grants: set[int] = field(default_factory=set)
    new_grants: set[int] = field(default_factory=set)
    changed_holds: set[int] = field(default_factory=set)
    new_holds: set[int] = field(default_factory=set)
    expired_holds: list[Hold] = field(default_factory=list)
    """What time has ended while the book was settled."""
    locked_version: int = 0
    locked_available: int = 0
    locked_posted: int = 0
    locked_notification_count: int = 0
    """As they were locked, before anything was settled or decided."""
    burn_order: list[GrantState] | None = None

    @property
    def available(self) -> int:
        return max(0, self.posted - self.held - self.frozen)

    def balance(self) -> AccountBalance:
        return AccountBalance(
            account_id=self.account_id,
            owner_id=self.owner_id,
            version=self.version,
            posted=self.posted,
            held=self.held,
            frozen=self.frozen,
            owed=self.owed,
            low_balance_threshold=self.low_balance_threshold,
            as_of=self.at,
        )
