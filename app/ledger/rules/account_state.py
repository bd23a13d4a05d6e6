"""One account in memory, under its lock: figures, open grants and holds, and the entries written so far.

Values only. The other modules of `rules` change them.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

Draws = tuple[tuple[int, int], ...]
"""(grant number, credits) pairs: which grant paid, or got back, how much."""


class EntryKind(StrEnum):
    """What an entry records.

    REFUND: credits of a top-up that left for a refund or a lost dispute (the reason says which); positive when the
    provider refused the refund and the credits come back. DEBT: the part of a refund or dispute that was already spent;
    its amount is in `owed`. DEBT_PAID: credits that paid debt. ADJUSTMENT: made by an operator, or the bonus of a
    refunded top-up.
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
    """The state of a hold. Only an OPEN hold claims credits. A closed budget can be reopened; other holds cannot."""

    OPEN = "OPEN"
    CAPTURED = "CAPTURED"
    VOIDED = "VOIDED"
    EXPIRED = "EXPIRED"


class Cause(NamedTuple):
    """Who caused an entry, and for what. `hold_number`: the hold that paid."""

    actor: str
    reason: str | None = None
    task_id: str | None = None
    block_run_id: str | None = None
    top_up_id: str | None = None
    request_id: str | None = None
    hold_number: int | None = None


CAUSED_BY_TIME = Cause(actor="time")
"""The cause of expiries."""

CAUSED_BY_DEBT = Cause(actor="debt")
"""The cause of debt payments, which follow from whatever frees credits."""


class LedgerEntry(NamedTuple):
    """One entry. The fields before `mac` are its content, in the order in which they are signed (`hash_chain`).

    `credits` and `owed` are the signed changes of `posted` and `owed`; `balance_after` is `posted` after the entry.
    `hold_number`: the hold that paid. `mac`: 32 bytes.
    """

    account_id: int
    seq: int
    version: int
    kind: str
    credits: int
    owed: int
    balance_after: int
    at: datetime
    actor: str
    reason: str | None
    task_id: str | None
    block_run_id: str | None
    top_up_id: str | None
    request_id: str | None
    draws: Draws
    hold_number: int | None
    mac: bytes


@dataclass(slots=True, kw_only=True)
class GrantState:
    """Credits granted together. `remaining` counts the posted credits that are left (0 before the grant starts).

    `claimed`: the part of `remaining` that open holds claim. `is_open`: False once nothing is left or it was revoked; a
    reversal can open it again. `pays_debt`: whether debt may be paid from it.
    """

    account_id: int
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
        """The next instant at which time alone changes this grant; None if there is none."""
        if not self.is_open:
            return None
        if not self.is_started:
            return self.starts_at
        # A grant that is claimed completely does not change at its expiry, but when its claims are released.
        return self.expires_at if self.spendable else None


@dataclass(slots=True, kw_only=True)
class Hold:
    """Credits of certain grants, claimed for one block run, or for a whole task (then the hold is a budget).

    Always credits = captured + released + remaining + allocated.

    - `claims`: credits claimed by grant number; the order has no meaning.
    - `parent_budget`: the number of the budget that its claims come from and return to.
    - `allocated`: what holds inside this budget took and did not give back, whether claimed there or drawn.
    - `closing_reserve`: the part that only closing work may draw.
    - `terms`: JSON of the caller that placed the hold; the ledger does not read it.
    """

    account_id: int
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

    @property
    def remaining(self) -> int:
        """The credits claimed now."""
        return sum(self.claims.values())

    @property
    def is_open(self) -> bool:
        return self.status is HoldStatus.OPEN

    @property
    def is_budget(self) -> bool:
        return self.block_run_id is None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountBalance:
    """The figures of an account at one version: equal for every reader of that version.

    `low_balance_threshold`: the account's own low-balance threshold; None if it has not set one.
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
        """The figures as they are written to the audit log."""
        return {name: getattr(self, name) for name in ("version", "posted", "held", "frozen", "owed")}


@dataclass(slots=True, kw_only=True)
class AccountState:
    """One account under its lock, and what is to be written to it.

    `at` is the instant at which everything is decided: the database's clock, never before the last entry. `grants` has
    every open grant. `holds` has the holds that have expired, those that the caller named, and the budgets around them.
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
    """A lower bound of the expiry of the holds that are not in `holds`."""
    new_entries: list[LedgerEntry] = field(default_factory=list)
    new_grants: set[int] = field(default_factory=set)
    changed_grants: set[int] = field(default_factory=set)
    new_holds: set[int] = field(default_factory=set)
    changed_holds: set[int] = field(default_factory=set)
    expired_holds: list[Hold] = field(default_factory=list)
    """The holds that time has ended while due changes were applied."""
    locked_version: int = 0
    locked_available: int = 0
    locked_posted: int = 0
    locked_notification_count: int = 0
    """Values at the time of the lock, before anything was applied or decided."""
    burn_order: list[GrantState] | None = None
    """Cache of `grants_in_burn_order`; None after a change of the set of open grants."""

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
