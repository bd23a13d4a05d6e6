"""The state of a locked account in memory: balance, open grants, holds, and new entries.

This module only defines values. The other modules of `rules` change them.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from app.ledger.rules.ledger_keys import LedgerKey

Draws = tuple[tuple[int, int], ...]
"""(grant number, credits) pairs: how many credits each grant paid or received."""


class EntryKind(StrEnum):
    """What an entry records.

    A REFUND removes credits of a top-up because of a refund, and a DISPUTE_LOST because of a lost dispute. They are
    positive if the provider refused the refund, or the decision was reversed, and the credits are returned. A DEBT
    records the part of a refund or dispute that was already spent; its amount is in `owed`. A DEBT_PAID pays debt. An
    ADJUSTMENT was made by an operator, or removes the bonus of a refunded or disputed top-up.
    """

    TOP_UP = "TOP_UP"
    GRANT = "GRANT"
    CHARGE = "CHARGE"
    REVERSAL = "REVERSAL"
    REFUND = "REFUND"
    DISPUTE_LOST = "DISPUTE_LOST"
    EXPIRY = "EXPIRY"
    ADJUSTMENT = "ADJUSTMENT"
    DEBT = "DEBT"
    DEBT_PAID = "DEBT_PAID"


class GrantSource(StrEnum):
    """The origin of a grant's credits."""

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
    """Who caused an entry, and for what. `hold_number` is the hold that paid, if there is one."""

    actor: str
    reason: str | None = None
    task_id: str | None = None
    block_run_id: str | None = None
    top_up_id: str | None = None
    request_id: str | None = None
    hold_number: int | None = None


CAUSED_BY_TIME = Cause(actor="time")
"""The cause of entries for an expiry."""

CAUSED_BY_DEBT = Cause(actor="debt")
"""The cause of debt payments, which follow from any operation that makes credits available."""


class LedgerEntry(NamedTuple):
    """One entry. The fields before `mac` are its content, in the order in which they are signed (`hash_chain`).

    `credits` and `owed` are the signed changes of `posted` and `owed`; `balance_after` is `posted` after the entry.
    `hold_number` is the hold that paid, if there is one. `mac` has 32 bytes. `key_id` is the id of the ledger key from
    which the key of the MAC was derived. If it is None, the ledger key itself was the key of the MAC.
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
    key_id: str | None = None


@dataclass(slots=True, kw_only=True)
class GrantState:
    """Credits granted together. `remaining` is the posted credits that are left (0 before the grant starts).

    `claimed` is the part of `remaining` that open holds claim. `is_open` is False when nothing is left or the grant was
    revoked; a reversal can open it again. `pays_debt` says whether debt may be paid from the grant.
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
        """Return the next time at which the grant starts or expires, or None if it does neither."""
        if not self.is_open:
            return None
        if not self.is_started:
            return self.starts_at
        # A grant whose credits are all claimed does not change when it expires, but when the claims are released.
        return self.expires_at if self.spendable else None


@dataclass(slots=True, kw_only=True)
class Hold:
    """Credits of certain grants, claimed for one block run or for a whole task. A hold for a task is a *budget*.

    Invariant: credits = captured + released + remaining + allocated.

    - `claims` contains the claimed credits by grant number. Their order has no meaning.
    - `parent_budget` is the number of the budget from which the claims were taken and to which they return.
    - `allocated` is the credits that holds inside this budget took and did not return.
    - `closing_reserve` is the part that only closing work may draw.
    - `terms` is JSON of the caller that placed the hold. The ledger does not read it. Of a budget it is
      `{"closingReserve": credits}`, the full closing reserve, or None without one.
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

    @property
    def is_used_up(self) -> bool:
        """Whether this is an open budget in which nothing is left but the closing reserve."""
        return self.is_budget and self.is_open and self.remaining <= self.closing_reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountBalance:
    """The balance of an account at one version. Every reader of that version sees the same values.

    `low_balance_threshold` is the account's own threshold, or None if it has none.
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

    def shortfall(self, required: int) -> int:
        """Return how many credits a top-up must add to pay all debt and make `required` credits available.

        If more credits are held and frozen than posted, the top-up must also add this difference.
        """
        return self.owed + max(0, required - (self.posted - self.held - self.frozen))

    def audit_fields(self) -> dict[str, object]:
        """Return the fields that are written to the audit log."""
        return {name: getattr(self, name) for name in ("version", "posted", "held", "frozen", "owed")}


@dataclass(slots=True, kw_only=True)
class AccountState:
    """A locked account, and the rows to write for it.

    `at` is the time of all decisions and new entries: the database's clock, but never before the last entry. `grants`
    contains every open grant. `holds` contains the expired holds, those that the caller named, and the budgets that
    contain them.
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
    signing_key: LedgerKey
    grants: dict[int, GrantState] = field(default_factory=dict)
    holds: dict[int, Hold] = field(default_factory=dict)
    next_hold_expiry_at: datetime | None = None
    """No hold outside `holds` expires before this time."""
    new_entries: list[LedgerEntry] = field(default_factory=list)
    new_grants: set[int] = field(default_factory=set)
    changed_grants: set[int] = field(default_factory=set)
    new_holds: set[int] = field(default_factory=set)
    changed_holds: set[int] = field(default_factory=set)
    expired_holds: list[Hold] = field(default_factory=list)
    """The holds that expired while due changes were applied."""
    has_more_due_changes: bool = False
    """Whether more changes may be due than were applied."""
    locked_version: int = 0
    locked_available: int = 0
    locked_posted: int = 0
    locked_owed: int = 0
    locked_notification_count: int = 0
    locked_used_up_budgets: frozenset[int] = frozenset()
    """The `locked_…` fields are values read under the lock, before anything was applied or decided."""
    events: list[Any] = field(default_factory=list)
    """The events of this posting for outgoing webhooks (`app.ledger.account_events`)."""
    burn_order: list[GrantState] | None = None
    """The cache of `grants_in_burn_order`, or None after the set of open grants has changed."""

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
