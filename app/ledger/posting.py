"""The one way to write books.

`post` opens a transaction, locks the accounts in id order, reads in a new statement (a fresh snapshot: what committed
before the lock was gained is seen), settles what time alone has changed, lets the caller decide in memory, writes
everything as sets in one statement, announces once, and commits. Five round trips however long the list. After a
deadlock or a serialisation failure the whole of it runs again.

    async def decide(posting: Posting) -> Posted:
        return rules.charge(posting.books[account_id], 10, cause)

    entry = await post([account_id], decide)

A caller's own rows ride along: `reads` adds selects to the one read, `posting.write` adds parts to the one write.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

from app.audit_log import records
from app.audit_log.records import AuditContext, AuditState
from app.db import pools
from app.db.pools import Connection
from app.db.set_writes import SetWrite, renumber_parameters
from app.ledger import notifications, rows
from app.ledger.rows import ACCOUNT_COLUMNS, GRANT_COLUMNS, HOLD_COLUMNS
from app.ledger.rules import balance_changes, entries
from app.ledger.rules.account_state import AccountState
from app.live import change_feed

T = TypeVar("T")

_LOCK: Final = f"SELECT {ACCOUNT_COLUMNS} FROM account WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE"  # noqa: S608  our own constant

_OPEN_LOTS: Final = f"SELECT ROW({GRANT_COLUMNS}) FROM credit_grant WHERE account_id = ANY($1::bigint[]) AND is_open"  # noqa: S608  our own constant

_SOME_LOTS: Final = f"SELECT {GRANT_COLUMNS} FROM credit_grant WHERE account_id = $1 AND number = ANY($2::int[])"  # noqa: S608  our own constant

# Of the accounts that have open holds ($2): the holds that are due. OFFSET 0 keeps the look-up by key, see tasks.rows.
_DUE_HOLDS: Final = """
    SELECT d.account_id, d.number FROM unnest($2::bigint[]) AS a(id)
    CROSS JOIN LATERAL (
        SELECT account_id, number FROM hold
        WHERE account_id = a.id AND status = 'OPEN' AND expires_at <= (SELECT at FROM clock) OFFSET 0
    ) AS d
"""

# And when the next of them lapses.
_NEXT_LAPSES: Final = """
    SELECT ROW(a.id, n.expires_at) FROM unnest($2::bigint[]) AS a(id)
    CROSS JOIN LATERAL (
        SELECT expires_at FROM hold
        WHERE account_id = a.id AND status = 'OPEN' AND expires_at > (SELECT at FROM clock)
        ORDER BY expires_at LIMIT 1
    ) AS n
"""

# Around a statement that names holds (account_id, number): those holds, and the envelopes around them.
_SEEDED: Final = "WITH RECURSIVE named AS (SELECT h.* FROM"
_AND_AROUND: Final = f"""
    AS s CROSS JOIN LATERAL (
        SELECT * FROM hold AS r WHERE r.account_id = s.account_id AND r.number = s.number OFFSET 0
    ) AS h
    UNION ALL
    SELECT h.* FROM named AS n CROSS JOIN LATERAL (
        SELECT * FROM hold AS r WHERE r.account_id = n.account_id AND r.number = n.parent_budget OFFSET 0
    ) AS h
    ) SELECT ROW({HOLD_COLUMNS}) FROM named
"""  # noqa: S608  our own constant

_AT_ONE_INSTANT: Final = "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at) SELECT"

_DUE: Final = """
    SELECT id FROM account WHERE next_change_at <= clock_timestamp() ORDER BY next_change_at LIMIT $1
"""

OnHoldsExpired = Callable[[SetWrite, AccountState], None]
"""Adds to the write what has to be done where holds have lapsed by time: `book.lapsed` says which."""


@dataclass(frozen=True, slots=True)
class _Wiring:
    key: bytes
    low_balance_at: int
    lapsed: OnHoldsExpired


_wiring: _Wiring | None = None


def configure(key: bytes, *, low_balance_threshold: int, on_holds_expired: OnHoldsExpired) -> None:
    """Say, once at start, what signs entries, below what a balance is low, and who follows up on lapsed holds.

    Raises: ValueError: a key under 32 bytes.
    """
    global _wiring  # noqa: PLW0603  one wiring place, before the first posting
    if len(key) < 32:
        raise ValueError("the ledger key must have at least 32 bytes")
    _wiring = _Wiring(key, low_balance_threshold, on_holds_expired)


def signing_key() -> bytes:
    """The key that signs entries. Raises: RuntimeError where the start-up has not set one."""
    return _wired().key


def _wired() -> _Wiring:
    if _wiring is None:
        raise RuntimeError("the ledger is not wired: call tasks.lapses.open_books at start")
    return _wiring


@dataclass(frozen=True, slots=True)
class ExtraRead:
    """A select of the caller's own that rides in the one read after the lock; its parameters are $1, $2 and so on.

    As one of `reads` it gives one ROW(...) a row. As one of `holds` it gives columns account_id and number: those
    holds, and the envelopes around them, are brought into the books. `only_open`: left out where nothing is held.
    """

    sql: str
    values: Sequence[Any] = ()
    only_open: bool = False


@dataclass(frozen=True, slots=True)
class Posting:
    """What a decision works on: the books under lock, the caller's rows, the instant, and what is to be written."""

    connection: Connection
    at: datetime
    accounts: dict[int, AccountState]
    rows: Sequence[Sequence[Any]]
    write: SetWrite = field(default_factory=SetWrite)
    also_announced: set[int] = field(default_factory=set)
    signalled: set[int] = field(default_factory=set)

    def publish_change(self, account_id: int) -> None:
        """Wake whoever follows this account, though none of its figures may have changed (a task's cost of 0)."""
        self.also_announced.add(account_id)

    def signal_tasks(self, account_id: int) -> None:
        """Tell executors that a task of this account has stopped or goes on; by a new version, which orders signals."""
        if account_id not in self.signalled:
            entries.bump_version(self.accounts[account_id])
            self.signalled.add(account_id)

    def record_audit(
        self,
        audit: AuditContext | None,
        book: AccountState,
        *,
        subject: str,
        before: AuditState | None,
        after: AuditState,
        reason: str | None = None,
    ) -> None:
        """Have what is written leave a record of `act` too; there is none to leave where somebody sees to its own."""
        records.append_record(
            self.write,
            audit,
            account_id=book.account_id,
            at=book.at,
            subject=subject,
            reason=reason,
            before=before,
            after=after,
        )

    async def load_grants(self, book: AccountState, numbers: Iterable[int]) -> None:
        """Bring grants into the book that may be closed: a reversal gives back into what was drawn once."""
        missing = [number for number in numbers if number not in book.grants]
        if missing:
            _, found = await self.connection.execute_query(_SOME_LOTS, [book.account_id, missing])
            for record in found:
                book.grants[record["number"]] = rows.grant_from_row(record)


Decide = Callable[[Posting], Awaitable[T]]


async def post(
    account_ids: Iterable[int], decide: Decide[T], *, reads: Sequence[ExtraRead] = (), holds: Sequence[ExtraRead] = ()
) -> T:
    """Run `decide` with those accounts locked and settled, and write what it leaves in the books.

    An exception from `decide` rolls everything back, the settling included; the next who comes settles again.
    """
    ids = sorted(set(account_ids))

    async def once() -> T:
        async with pools.posting_transaction() as connection:
            posting = await _open(connection, ids, reads, holds)
            while any(book.expired_holds for book in posting.accounts.values()):
                # Whose hold has lapsed may read otherwise now, so what time has done is written first, and all is read
                # again.
                _gather(posting)
                await posting.write.execute(connection)
                posting = await _open(connection, ids, reads, holds)
            result = await decide(posting)
            _gather(posting)
            await posting.write.execute(connection)
            return result

    return await pools.run_with_retries(once)


async def apply_due_changes(account_ids: Iterable[int]) -> None:
    """Write what time alone has changed, for accounts whose next change is due."""

    async def nothing_more(posting: Posting) -> None:
        """Opening the books has settled them."""

    await post(account_ids, nothing_more)


async def apply_all_due_changes(*, limit: int = 256) -> int:
    """Settle accounts that nobody touches, the longest due first. Returns: how many were due, `limit` at most."""
    due = [record["id"] for record in await pools.fetch(_DUE, limit)]
    if due:
        await apply_due_changes(due)
    return len(due)


async def _open(
    connection: Connection, ids: list[int], reads: Sequence[ExtraRead], holds: Sequence[ExtraRead]
) -> Posting:
    _, locked = await connection.execute_query(_LOCK, [ids])
    holding = [record["id"] for record in locked if record["open_holds"]]
    named = tuple(read for read in holds if holding or not read.only_open)
    values: list[Any] = [ids, *([holding] if holding else [])]
    for read in (*named, *reads):
        values.extend(read.values)
    sql = _statement(
        tuple([(read.sql, len(read.values)) for read in named]),
        tuple([(read.sql, len(read.values)) for read in reads]),
        bool(holding),
    )
    _, [found] = await connection.execute_query(sql, values)
    clock: datetime = found[0]
    key = signing_key()
    books = {record["id"]: rows.account_from_row(record, clock, key) for record in locked}
    for row in found[1]:
        books[row[0]].grants[row[1]] = rows.grant_from_row(row)
    place = 2
    if holding:
        for account_id, expires_at in found[2]:
            books[account_id].next_hold_expiry_at = expires_at
        place = 3
    for brought in found[place : place + len(named) + bool(holding)]:
        for row in brought:
            books[row[0]].holds[row[1]] = rows.hold_from_row(row)
    for book in books.values():
        balance_changes.apply_due_changes(book)
    return Posting(connection, clock, books, found[place + len(named) + bool(holding) :])


@lru_cache(maxsize=256)
def _statement(named: tuple[tuple[str, int], ...], reads: tuple[tuple[str, int], ...], holding: bool) -> str:
    """The one read: clock, open grants, then where something is held the next lapses and the due holds, the named
    holds, and the caller's own rows.
    """
    selects = ["(SELECT at FROM clock)", f"ARRAY({_OPEN_LOTS})"]
    if holding:
        selects += [f"ARRAY({_NEXT_LAPSES})", f"ARRAY({_and_around(_DUE_HOLDS)})"]
    offset = 2 if holding else 1
    for sql, count in named:
        selects.append(f"ARRAY({_and_around(renumber_parameters(sql, offset))})")
        offset += count
    for sql, count in reads:
        selects.append(f"ARRAY({renumber_parameters(sql, offset)})")
        offset += count
    return f"{_AT_ONE_INSTANT} {', '.join(selects)}"


def _and_around(seed: str) -> str:
    """The holds of a seed, and the envelopes around them."""
    return f"{_SEEDED} ({seed}) {_AND_AROUND}"


def _gather(posting: Posting) -> None:
    """Turn what the books hold now into rows to write, and one announcement for all of them."""
    wiring = _wired()
    changed: dict[int, int] = dict.fromkeys(posting.also_announced, 0)
    signals: list[tuple[int, int, str]] = []
    for book in posting.accounts.values():
        if book.expired_holds:
            wiring.lapsed(posting.write, book)
            posting.signal_tasks(book.account_id)
        notifications.notify_balance_change(book, posting.write, low_balance_threshold=wiring.low_balance_at)
        if rows.add_account_writes(book, posting.write):
            changed[book.account_id] = book.version
        if notifications.is_emptied(book) or notifications.is_replenished(book):
            signals.append((book.account_id, book.version, change_feed.ACCOUNT_SIGNAL))
        if book.account_id in posting.signalled:
            signals.append((book.account_id, book.version, change_feed.TASK_SIGNAL))
    for account_id in posting.also_announced:
        changed[account_id] = posting.accounts[account_id].version
    for payload in change_feed.change_payloads(changed):
        posting.write.notify(change_feed.ACCOUNTS_CHANNEL, payload)
    for payload in change_feed.signal_payloads(signals):
        posting.write.notify(change_feed.SIGNALS_CHANNEL, payload)
