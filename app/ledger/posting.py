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
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from app import database, live
from app.database import Connection
from app.ledger import rules
from app.ledger.book import Book, Lot, Source
from app.sets import Part, Write

T = TypeVar("T")

_LOCK: Final = """
    SELECT id, owner_id, seq, version, grants, posted, held, frozen, owed, last_mac, last_entry_at, next_change_at,
           low_balance_at
    FROM account WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE
"""

LOT_COLUMNS: Final = (
    "account_id, number, source, credits, remaining, claimed, priority, starts_at, expires_at, started, open, actor,"
    " reason, top_up_id, created_at"
)

_OPEN_LOTS: Final = f"SELECT ROW({LOT_COLUMNS}) FROM credit_grant WHERE account_id = ANY($1::bigint[]) AND open"  # noqa: S608  our own constant

_SOME_LOTS: Final = f"SELECT {LOT_COLUMNS} FROM credit_grant WHERE account_id = $1 AND number = ANY($2::int[])"  # noqa: S608  our own constant

_DUE: Final = """
    SELECT id FROM account WHERE next_change_at <= clock_timestamp() ORDER BY next_change_at LIMIT $1
"""

_ENTRIES: Final = Part(
    "entries",
    """
    INSERT INTO entry (account_id, seq, version, kind, credits, owed, balance_after, at, actor, reason, task_id,
                       block_run_id, top_up_id, request_id, draws, mac)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[],
                         $7::bigint[], $8::timestamptz[], $9::text[], $10::text[], $11::text[],
                         $12::text[], $13::text[], $14::text[], $15::jsonb[], $16::bytea[])
    RETURNING 1
    """,
    16,
)

# The version that was locked guards the absolute figures: nobody can have written the row in between.
_ACCOUNTS: Final = Part(
    "accounts",
    """
    UPDATE account AS a SET seq = v.seq, version = v.version, grants = v.grants, posted = v.posted, held = v.held,
        frozen = v.frozen, owed = v.owed, last_mac = v.last_mac, last_entry_at = v.last_entry_at,
        next_change_at = v.next_change_at
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[], $6::bigint[], $7::bigint[],
                $8::bigint[], $9::bigint[], $10::bytea[], $11::timestamptz[], $12::timestamptz[])
        AS v(id, locked_version, seq, version, grants, posted, held, frozen, owed, last_mac, last_entry_at,
             next_change_at)
    WHERE a.id = v.id AND a.version = v.locked_version
    RETURNING 1
    """,
    12,
)

_NEW_LOTS: Final = Part(
    "new grants",
    """
    INSERT INTO credit_grant (account_id, number, source, credits, remaining, claimed, priority, starts_at, expires_at,
                              started, open, actor, reason, top_up_id, created_at)
    SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::int[],
                         $8::timestamptz[], $9::timestamptz[], $10::bool[], $11::bool[], $12::text[], $13::text[],
                         $14::text[], $15::timestamptz[])
    RETURNING 1
    """,
    15,
)

_LOTS: Final = Part(
    "grants",
    """
    UPDATE credit_grant AS g SET remaining = v.remaining, claimed = v.claimed, started = v.started, open = v.open
    FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::bool[], $6::bool[])
        AS v(account_id, number, remaining, claimed, started, open)
    WHERE g.account_id = v.account_id AND g.number = v.number
    RETURNING 1
    """,
    6,
)

_key: bytes | None = None


def use_key(key: bytes) -> None:
    """Set the key that signs entries, once at start. Raises: ValueError under 32 bytes."""
    global _key  # noqa: PLW0603  one wiring place, before the first posting
    if len(key) < 32:
        raise ValueError("the ledger key must have at least 32 bytes")
    _key = key


def signing_key() -> bytes:
    """The key that signs entries. Raises: RuntimeError where the start-up has not set one."""
    if _key is None:
        raise RuntimeError("no ledger key: call posting.use_key at start")
    return _key


@dataclass(frozen=True, slots=True)
class Read:
    """A select of the caller's own that rides in the one read after the lock.

    `sql` gives one ROW(...) a row and numbers its parameters from $2 ($1 is the accounts' ids).
    """

    sql: str
    values: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Posting:
    """What a decision works on: the books under lock, the caller's rows, the instant, and what is to be written."""

    connection: Connection
    at: datetime
    books: dict[int, Book]
    rows: Sequence[Sequence[Any]]
    write: Write
    also_announced: set[int]

    def announce(self, account_id: int) -> None:
        """Wake whoever follows this account, though none of its figures may have changed (a task's cost of 0)."""
        self.also_announced.add(account_id)

    async def load_lots(self, book: Book, numbers: Iterable[int]) -> None:
        """Bring grants into the book that may be closed: a reversal gives back into what was drawn once."""
        missing = [number for number in numbers if number not in book.lots]
        if missing:
            _, records = await self.connection.execute_query(_SOME_LOTS, [book.account_id, missing])
            for record in records:
                book.lots[record["number"]] = lot_of(record)


Decide = Callable[[Posting], Awaitable[T]]


async def post(account_ids: Iterable[int], decide: Decide[T], *, reads: Sequence[Read] = ()) -> T:
    """Run `decide` with those accounts locked and settled, and write what it leaves in the books.

    An exception from `decide` rolls everything back, the settling included; the next who comes settles again.
    """
    ids = sorted(set(account_ids))

    async def once() -> T:
        async with database.posting_transaction() as connection:
            posting = await _open(connection, ids, reads)
            result = await decide(posting)
            _gather(posting)
            await posting.write.send(connection)
            return result

    return await database.retried(once)


async def settle(account_ids: Iterable[int]) -> None:
    """Write what time alone has changed, for accounts whose next change is due."""

    async def nothing_more(posting: Posting) -> None:
        """Opening the books has settled them."""

    await post(account_ids, nothing_more)


async def settle_due(*, limit: int = 256) -> int:
    """Settle accounts that nobody touches, the longest due first. Returns: how many were due, `limit` at most."""
    due = [record["id"] for record in await database.fetch(_DUE, limit)]
    if due:
        await settle(due)
    return len(due)


async def _open(connection: Connection, ids: list[int], reads: Sequence[Read]) -> Posting:
    _, locked = await connection.execute_query(_LOCK, [ids])
    sql, values = _read_statement(ids, reads)
    _, [found] = await connection.execute_query(sql, values)
    clock: datetime = found[0]
    key = signing_key()
    books = {record["id"]: _book(record, clock, key) for record in locked}
    for row in found[1]:
        books[row[0]].lots[row[1]] = lot_of(row)
    for book in books.values():
        rules.settle(book)
    return Posting(connection, clock, books, found[2:], Write(), set())


def _read_statement(ids: list[int], reads: Sequence[Read]) -> tuple[str, list[Any]]:
    values: list[Any] = [ids]
    selects = ["clock_timestamp()", f"ARRAY({_OPEN_LOTS})"]
    for read in reads:
        selects.append(f"ARRAY({read.sql})")
        values.extend(read.values)
    return "SELECT " + ", ".join(selects), values


def _book(record: Any, clock: datetime, key: bytes) -> Book:
    last = record["last_entry_at"]
    return Book(
        account_id=record["id"],
        owner_id=record["owner_id"],
        seq=record["seq"],
        version=record["version"],
        locked_version=record["version"],
        grants=record["grants"],
        posted=record["posted"],
        held=record["held"],
        frozen=record["frozen"],
        owed=record["owed"],
        last_mac=bytes(record["last_mac"]),
        last_entry_at=last,
        next_change_at=record["next_change_at"],
        low_balance_at=record["low_balance_at"],
        # The database's clock, read after the lock, and never before the account's last entry.
        at=clock if last is None or clock >= last else last,
        key=key,
    )


def lot_of(row: Any) -> Lot:
    """A grant from its columns: account_id, number, source and so on, in the order of LOT_COLUMNS."""
    (_, number, source, credits, remaining, claimed, priority, starts_at, expires_at, started, open_, actor, reason,
     top_up_id, created_at) = row  # fmt: skip
    return Lot(
        number=number,
        source=Source(source),
        credits=credits,
        remaining=remaining,
        claimed=claimed,
        priority=priority,
        starts_at=starts_at,
        expires_at=expires_at,
        started=started,
        open=open_,
        actor=actor,
        reason=reason,
        top_up_id=top_up_id,
        created_at=created_at,
    )


def _gather(posting: Posting) -> None:
    """Turn what the books hold now into rows to write, and one announcement for all of them."""
    changed: dict[int, int] = dict.fromkeys(posting.also_announced, 0)
    for book in posting.books.values():
        if book.version != book.locked_version or book.touched or book.made:
            _gather_book(book, posting.write)
            changed[book.account_id] = book.version
    for account_id in posting.also_announced:
        changed[account_id] = posting.books[account_id].version
    for payload in live.payloads(changed):
        posting.write.notify(live.CHANNEL, payload)


def _gather_book(book: Book, write: Write) -> None:
    for posted in book.entries:
        line = posted.line
        write.add(
            _ENTRIES,
            (line.account_id, line.seq, line.version, line.kind, line.credits, line.owed, line.balance_after, line.at,
             line.actor, line.reason, line.task_id, line.block_run_id, line.top_up_id, line.request_id,
             _draws_json(line.draws), posted.mac),
        )  # fmt: skip
    for number in book.made:
        lot = book.lots[number]
        write.add(
            _NEW_LOTS,
            (book.account_id, number, lot.source.value, lot.credits, lot.remaining, lot.claimed, lot.priority,
             lot.starts_at, lot.expires_at, lot.started, lot.open, lot.actor, lot.reason, lot.top_up_id,
             lot.created_at),
        )  # fmt: skip
    for number in book.touched - book.made:
        lot = book.lots[number]
        write.add(_LOTS, (book.account_id, number, lot.remaining, lot.claimed, lot.started, lot.open))
    write.add(
        _ACCOUNTS,
        (book.account_id, book.locked_version, book.seq, book.version, book.grants, book.posted, book.held,
         book.frozen, book.owed, book.last_mac, book.last_entry_at, rules.next_change_at(book)),
    )  # fmt: skip


def _draws_json(draws: Sequence[tuple[int, int]]) -> str:
    return "[" + ",".join([f"[{number},{credits}]" for number, credits in draws]) + "]"
