"""Posting: the only way to change accounts.

`post` opens a transaction, locks the accounts in id order, reads in one statement, applies due changes (grants that
start or expire, holds that expire), calls `decide`, writes everything in one statement, and commits. So the usual
posting takes five round trips for any number of items. The read is a separate statement after the lock, so it sees
everything that was committed before the lock was granted. After a deadlock or a serialization failure the transaction
is repeated. After the commit the changes are announced to subscribers.

    async def decide(posting: Posting) -> LedgerEntry:
        return balance_changes.charge(posting.accounts[account_id], 10, cause)

    entry = await post([account_id], decide)

A caller can read and write other rows in the same round trips: the argument `reads` adds selects to the read, and
`decide` adds rows to `posting.write`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

from app import metrics
from app.audit_log import records
from app.audit_log.records import AuditContext, AuditState
from app.db import failures, pools
from app.db.pools import Connection
from app.db.set_writes import SetWrite, renumber_parameters
from app.db.tables import RowSelect
from app.ledger import account_events, account_locks, notifications, rows
from app.ledger.rules import due_changes, entries
from app.ledger.rules.account_state import AccountState
from app.ledger.rules.ledger_keys import LedgerKeys
from app.live import change_feed
from app.live.change_notifier import NOTIFIER

T = TypeVar("T")

POSTING_SECONDS: Final = 9.0
"""The time limit of a posting of one account, including its waits for the lock and for a connection."""

DUE_CHANGES_PER_TRANSACTION: Final = 500
"""How many due changes of an account one transaction applies at most, so that it locks the account only briefly."""

_LOCK: Final = f"""
    SELECT {rows.ACCOUNT_COLUMNS} FROM account AS a WHERE a.id = ANY($1::bigint[]) ORDER BY a.id FOR NO KEY UPDATE
"""  # noqa: S608  our own constant

_OPEN_GRANTS: Final = RowSelect(
    rows.GRANTS.column_list("g"), "FROM credit_grant AS g WHERE g.account_id = ANY($1::bigint[]) AND g.is_open"
)

_GRANTS_BY_NUMBER: Final = f"""
    SELECT {rows.GRANTS.columns("g")} FROM credit_grant AS g WHERE g.account_id = $1 AND g.number = ANY($2::int[])
"""  # noqa: S608  our own constant

# Selects the expired holds of the accounts with open holds ($2). OFFSET 0 makes the planner look up each account by
# key, whatever it estimates.
_EXPIRED_HOLDS: Final = """
    SELECT d.account_id, d.number FROM unnest($2::bigint[]) AS a(id)
    CROSS JOIN LATERAL (
        SELECT account_id, number FROM hold
        WHERE account_id = a.id AND status = 'OPEN' AND expires_at <= (SELECT at FROM clock) OFFSET 0
    ) AS d
"""

_NEXT_HOLD_EXPIRIES: Final = RowSelect(
    ["a.id AS account_id", "n.expires_at"],
    """
    FROM unnest($2::bigint[]) AS a(id)
    CROSS JOIN LATERAL (
        SELECT expires_at FROM hold
        WHERE account_id = a.id AND status = 'OPEN' AND expires_at > (SELECT at FROM clock)
        ORDER BY expires_at LIMIT 1
    ) AS n
    """,
)

_HOLDS: Final = RowSelect(rows.HOLDS.column_list("named"), "FROM named")

OnHoldsExpired = Callable[[SetWrite, AccountState], None]
"""A function that adds the rows to write because the holds in `account.expired_holds` have expired."""


@dataclass(frozen=True, slots=True)
class _Configuration:
    keys: LedgerKeys
    low_balance_threshold: int
    lock_seconds: float
    on_holds_expired: OnHoldsExpired


_configuration: _Configuration | None = None


def configure(
    keys: LedgerKeys, *, low_balance_threshold: int, lock_seconds: float, on_holds_expired: OnHoldsExpired
) -> None:
    """Set the keys that sign and verify entries, the default threshold, the longest wait for a lock, and the function
    that is called when holds have expired.

    Called once at start.
    """
    global _configuration  # noqa: PLW0603  set once, before the first posting
    _configuration = _Configuration(keys, low_balance_threshold, lock_seconds, on_holds_expired)


def ledger_keys() -> LedgerKeys:
    """Return the keys that sign and verify. Raises: RuntimeError: `configure` was not called."""
    return _configured().keys


def _configured() -> _Configuration:
    if _configuration is None:
        raise RuntimeError("the ledger is not configured: call configure_ledger of app.tasks at start")
    return _configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class LockWait:
    """How a posting waits for an account that another transaction has locked.

    `seconds`: the longest wait. `is_batch`: the posting is a batch of the group commit, which waits only briefly.
    `is_locked`: an earlier attempt found the account locked.
    """

    seconds: float = 0.0
    is_batch: bool = False
    is_locked: bool = False


@dataclass(frozen=True, slots=True)
class ExtraRead:
    """An additional select of the caller, which becomes part of the read. Its parameters are $1, $2 and so on."""

    select: RowSelect
    values: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class HoldRead:
    """A select of holds by (account_id, number). They and the budgets that contain them are loaded into the accounts.

    If `only_open` is True, the select is skipped when none of the accounts has an open hold.
    """

    sql: str
    values: Sequence[Any] = ()
    only_open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """The argument of `decide`: the locked accounts, the rows that were read, and the rows to write.

    `rows[0]` contains the rows of the first of `reads`, and so on. Each row maps column names to values.
    """

    connection: Connection
    at: datetime
    accounts: dict[int, AccountState]
    rows: Sequence[list[dict[str, Any]]]
    write: SetWrite = field(default_factory=SetWrite)
    published: set[int] = field(default_factory=set)
    signalled: set[int] = field(default_factory=set)

    def publish_change(self, account_id: int) -> None:
        """Notify subscribers of the account, even if its balance has not changed (for example, a task cost 0)."""
        self.published.add(account_id)

    def signal_tasks(self, account_id: int) -> None:
        """Signal executors that a task of this account stopped or resumed. The new version orders the signals."""
        if account_id not in self.signalled:
            entries.bump_version(self.accounts[account_id])
            self.signalled.add(account_id)

    def record_audit(
        self,
        audit: AuditContext | None,
        account: AccountState,
        *,
        subject: str,
        before: AuditState | None,
        after: AuditState,
        reason: str | None = None,
    ) -> None:
        """Add a record to the audit log. Does nothing if `audit` is None (users who change their own account)."""
        records.append_record(
            self.write,
            audit,
            account_id=account.account_id,
            at=account.at,
            subject=subject,
            reason=reason,
            before=before,
            after=after,
        )

    async def load_grants(self, account: AccountState, numbers: Iterable[int]) -> None:
        """Load those of the grants that are not in `account.grants`, because they are closed."""
        missing = [number for number in numbers if number not in account.grants]
        if missing:
            _, found = await self.connection.execute_query(_GRANTS_BY_NUMBER, [account.account_id, missing])
            account.grants |= {grant.number: grant for grant in map(rows.GRANTS.read, found)}


Decide = Callable[[Posting], Awaitable[T]]


async def post(
    account_ids: Iterable[int],
    decide: Decide[T],
    *,
    reads: Sequence[ExtraRead] = (),
    holds: Sequence[HoldRead] = (),
    locks: LockWait | None = None,
) -> T:
    """Lock the accounts, apply their due changes, run `decide`, and write what it changed.

    If an account has very many due changes, some of them are committed first, in transactions of their own. An
    exception from `decide` rolls everything else back, including other due changes; the next posting applies them
    again.
    If another transaction has locked a single account, the posting waits as `locks` says. For several accounts it waits
    only briefly: the exception contains the locked ones, so that the caller can continue with the others.
    Raises: AccountsLocked: some accounts are locked; TimeoutError: the posting took too long, and may have committed.
    """
    ids = sorted(set(account_ids))
    locks = locks or LockWait(seconds=_configured().lock_seconds)

    async def attempt(lock_seconds: float | None = None) -> tuple[bool, T | None]:
        """Return whether the posting is complete, and its result. If more changes are due, it is not complete."""
        announcements = _Announcements()
        result: T | None = None
        async with pools.posting_transaction(is_batch=locks.is_batch, lock_seconds=lock_seconds) as connection:
            posting = await _open(connection, ids, reads, holds)
            has_more = _has_more_due_changes(posting)
            while not has_more and any(account.expired_holds for account in posting.accounts.values()):
                # The expiry of holds changes rows that `reads` has read. So it is written first, and then everything is
                # read again.
                _collect(posting, announcements)
                await posting.write.execute(connection)
                posting = await _open(connection, ids, reads, holds)
                has_more = _has_more_due_changes(posting)
            if not has_more:
                result = await decide(posting)
            _collect(posting, announcements)
            await posting.write.execute(connection)
        for kind, credits in announcements.entries:
            metrics.record_entry(kind, credits)
        NOTIFIER.announce_versions(announcements.versions)
        NOTIFIER.announce_signals(announcements.signals)
        return not has_more, result

    async def attempt_with_retries(lock_seconds: float | None = None) -> T:
        while True:
            is_complete, result = await failures.run_with_retries(lambda: attempt(lock_seconds))
            if is_complete:
                return cast(T, result)

    if len(ids) == 1 and not locks.is_batch:
        async with asyncio.timeout(POSTING_SECONDS):
            return await account_locks.run_when_unlocked(
                ids[0], attempt_with_retries, seconds=locks.seconds, is_locked=locks.is_locked
            )
    return await account_locks.run_if_unlocked(ids, attempt_with_retries, seconds=_configured().lock_seconds)


def _has_more_due_changes(posting: Posting) -> bool:
    return any(account.has_more_due_changes for account in posting.accounts.values())


async def apply_due_changes(account_ids: Iterable[int]) -> None:
    """Apply the changes that are due in these accounts, and write them."""

    async def nothing_else(posting: Posting) -> None:
        """Nothing to decide: `post` has applied the due changes."""

    await post(account_ids, nothing_else)


async def _open(
    connection: Connection, ids: list[int], reads: Sequence[ExtraRead], hold_reads: Sequence[HoldRead]
) -> Posting:
    started = time.perf_counter()
    try:
        _, locked = await connection.execute_query(_LOCK, [ids])
    finally:
        metrics.LOCK_WAIT.observe(time.perf_counter() - started)
    with_holds = [record["id"] for record in locked if record["open_holds"]]
    named = [read for read in hold_reads if with_holds or not read.only_open]
    values: list[Any] = [ids, *([with_holds] if with_holds else [])]
    for read_values in [*(read.values for read in named), *(read.values for read in reads)]:
        values.extend(read_values)
    sql = _read_statement(
        tuple([(read.sql, len(read.values)) for read in named]),
        tuple([(read.select.sql, len(read.values)) for read in reads]),
        bool(with_holds),
    )
    _, [found] = await connection.execute_query(sql, values)
    clock: datetime = found["clock"]
    key = ledger_keys().signing
    accounts = {record["id"]: rows.account_from_row(record, clock=clock, key=key) for record in locked}
    for grant in map(rows.GRANTS.read, _OPEN_GRANTS.read(found["grants"])):
        accounts[grant.account_id].grants[grant.number] = grant
    for row in _NEXT_HOLD_EXPIRIES.read(found["next_hold_expiries"]) if with_holds else ():
        accounts[row["account_id"]].next_hold_expiry_at = row["expires_at"]
    for name in _hold_names(len(named), bool(with_holds)):
        for hold in map(rows.HOLDS.read, _HOLDS.read(found[name])):
            accounts[hold.account_id].holds[hold.number] = hold
    for account in accounts.values():
        account.locked_used_up_budgets = frozenset(hold.number for hold in account.holds.values() if hold.is_used_up)
        due_changes.apply_due_changes(account, limit=DUE_CHANGES_PER_TRANSACTION)
    extra = [read.select.read(found[f"read_{place}"]) for place, read in enumerate(reads)]
    return Posting(connection=connection, at=clock, accounts=accounts, rows=extra)


def _hold_names(count: int, has_open_holds: bool) -> list[str]:
    return [*(["expired_holds"] if has_open_holds else []), *[f"holds_{place}" for place in range(count)]]


@lru_cache(maxsize=256)
def _read_statement(
    hold_reads: tuple[tuple[str, int], ...], reads: tuple[tuple[str, int], ...], has_open_holds: bool
) -> str:
    """Return the SQL of the read. $1 are the accounts, $2 the accounts with open holds (omitted if there are none)."""
    selects = ["(SELECT at FROM clock) AS clock", f"ARRAY({_OPEN_GRANTS.sql}) AS grants"]
    if has_open_holds:
        selects.append(f"ARRAY({_NEXT_HOLD_EXPIRIES.sql}) AS next_hold_expiries")
        selects.append(f"ARRAY({_with_budgets(_EXPIRED_HOLDS)}) AS expired_holds")
    offset = 2 if has_open_holds else 1
    for place, (sql, count) in enumerate(hold_reads):
        selects.append(f"ARRAY({_with_budgets(renumber_parameters(sql, offset))}) AS holds_{place}")
        offset += count
    for place, (sql, count) in enumerate(reads):
        selects.append(f"ARRAY({renumber_parameters(sql, offset)}) AS read_{place}")
        offset += count
    return f"WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at) SELECT {', '.join(selects)}"


def _with_budgets(seed: str) -> str:
    """Return a select of the holds that `seed` selects as (account_id, number), with the budgets that contain them."""
    return f"""
        WITH RECURSIVE named AS (
            SELECT h.* FROM ({seed}) AS s CROSS JOIN LATERAL (
                SELECT * FROM hold AS r WHERE r.account_id = s.account_id AND r.number = s.number OFFSET 0
            ) AS h
            UNION ALL
            SELECT h.* FROM named AS n CROSS JOIN LATERAL (
                SELECT * FROM hold AS r WHERE r.account_id = n.account_id AND r.number = n.parent_budget OFFSET 0
            ) AS h
        ) {_HOLDS.sql}
    """  # noqa: S608  our own constants


@dataclass(slots=True)
class _Announcements:
    """What is announced after the commit: new versions, signals (account id, version, kind), and metrics of the entries
    (kind, credits)."""

    versions: dict[int, int] = field(default_factory=dict)
    signals: list[tuple[int, int, str]] = field(default_factory=list)
    entries: list[tuple[str, int]] = field(default_factory=list)


def _has_budget_signal(account: AccountState) -> bool:
    """Return whether `is_used_up` of an open budget has changed in this posting."""
    return any(
        hold.is_open and hold.is_used_up != (hold.number in account.locked_used_up_budgets)
        for hold in account.holds.values()
    )


def _collect(posting: Posting, announcements: _Announcements) -> None:
    """Add the changed rows of the accounts to the write, and what is announced after the commit to `announcements`."""
    configuration = _configured()
    changed: set[int] = set(posting.published)
    for account_id, account in posting.accounts.items():
        if account.expired_holds:
            posting.signal_tasks(account_id)
            configuration.on_holds_expired(posting.write, account)
        if _has_budget_signal(account):
            posting.signalled.add(account_id)
            if account.version == account.locked_version:
                entries.bump_version(account)
        notifications.notify_balance_change(
            account, posting.write, low_balance_threshold=configuration.low_balance_threshold
        )
        if rows.add_account_writes(account, posting.write):
            changed.add(account_id)
        announcements.entries += [(entry.kind, entry.credits) for entry in account.new_entries]
        if account.events:
            account_events.add_event_writes(account, posting.write)
        if notifications.is_emptied(account) or notifications.is_replenished(account):
            announcements.signals.append((account_id, account.version, change_feed.ACCOUNT_SIGNAL))
        if account_id in posting.signalled:
            announcements.signals.append((account_id, account.version, change_feed.TASK_SIGNAL))
    announcements.versions |= {account_id: posting.accounts[account_id].version for account_id in changed}
