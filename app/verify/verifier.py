"""The checker: proves that the books are what DESIGN section 9 says, for one account or for all.

I1  posted = sum of the entries = sum of what the grants have left; each grant has left what its draws say
I2  seq without gap, balance after each entry, versions rising, time not falling, the keyed chain, the account's head
I3  one charge per block run, one operation per key, and each points at what it made
I4  held = open claims, the account's and each grant's; frozen = open disputes; what a hold was for = what became of it
I5  a task's cost and steps = its entries and block runs
I6  what is held is never more than is posted, so that available is never below 0
I7  per top-up: paid - refunded - clawed back = its entries in credits and debt, likewise its bonus; what is refunded
    and clawed back = its refunds that stand and its lost disputes; one that is not paid has no entries
I8  owed = sum of the entries' owed; where something is owed, nothing is available in grants that pay debt

It goes along the account ids in ranges that leave no id out, so that rows without an account are found too. Each range
is read in one snapshot, its entries in order and in chunks: memory does not grow with the books.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from app.db import pools
from app.db.pools import Connection
from app.ledger import accounts, posting
from app.ledger.rows import ENTRIES
from app.ledger.rules.account_state import LedgerEntry
from app.ledger.rules.hash_chain import GENESIS_MAC, sign_entry
from app.verify.sql_checks import SQL_CHECKS

MAX_LISTED: Final = 1_000
"""Breaks that are told one by one; beyond them they are only counted."""

_ACCOUNTS_AT_ONCE: Final = 200
_ENTRIES_AT_ONCE: Final = 2_000
_LAST_ID: Final = 2**63 - 1

_SNAPSHOT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

_COUNT: Final = "SELECT count(*) FROM account"

_ACCOUNTS: Final = """
    SELECT a.id, a.owner_id, a.seq, a.version, a.posted, a.held, a.frozen, a.owed, a.last_mac, a.last_entry_at,
           ARRAY(SELECT ROW(g.number, g.remaining, g.claimed) FROM credit_grant AS g
                 WHERE g.account_id = a.id) AS grants
    FROM account AS a WHERE a.id BETWEEN $1 AND $2 ORDER BY a.id LIMIT $3
"""

_ENTRIES: Final = f"""
    SELECT {ENTRIES.columns("e")} FROM entry AS e
    WHERE (e.account_id, e.seq) > ($1::bigint, $2::bigint) AND e.account_id <= $3
    ORDER BY e.account_id, e.seq LIMIT $4
"""  # noqa: S608  our own constant


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is not as it must be."""

    invariant: str
    account_id: int
    owner_id: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.invariant} account {self.account_id} ({self.owner_id or 'no owner'}): {self.message}"


@dataclass(frozen=True, slots=True)
class AccountHead:
    """The last entry of an account that was found whole: whoever keeps it elsewhere can prove that it still stands."""

    account_id: int
    seq: int
    mac: bytes


@dataclass(slots=True)
class VerificationReport:
    """What was checked and what is broken: the first breaks one by one, `unlisted` counts the rest."""

    accounts: int = 0
    entries: int = 0
    violations: list[Violation] = field(default_factory=list)
    unlisted: int = 0

    @property
    def is_intact(self) -> bool:
        return not self.violations

    def add(self, found: Violation) -> None:
        if len(self.violations) < MAX_LISTED:
            self.violations.append(found)
        else:
            self.unlisted += 1


ProgressCallback = Callable[[int, int], None]
"""Called now and then with the accounts checked so far, and how many there are."""


async def verify_ledger(
    owner_id: str | None = None,
    on_progress: ProgressCallback | None = None,
    *,
    on_head: Callable[[AccountHead], None] | None = None,
) -> VerificationReport:
    """Check one owner's account, or all. `head` is told the last entry of each account that has one, in id order.

    An owner without an account gives an empty report. Needs the ledger key (`tasks.lapses.open_books`).
    """
    report = VerificationReport()
    first, last, total = 0, _LAST_ID, 1
    if owner_id is None:
        total = (await pools.fetch(_COUNT))[0][0]
    else:
        found = await accounts.find_account_id(owner_id)
        if found is None:
            return report
        first = last = found
    while first <= last:
        async with pools.transaction() as connection:
            await connection.execute_query(_SNAPSHOT, [])
            first = await _audit_range(connection, first, last, report, on_head)
        if on_progress is not None:
            on_progress(report.accounts, max(total, report.accounts))
    return report


async def _audit_range(
    connection: Connection,
    first: int,
    last: int,
    report: VerificationReport,
    head: Callable[[AccountHead], None] | None,
) -> int:
    """Check the next accounts from `first` on, and the ids between them. Returns: where to go on."""
    _, records = await connection.execute_query(_ACCOUNTS, [first, last, _ACCOUNTS_AT_ONCE])
    end = records[-1]["id"] if len(records) == _ACCOUNTS_AT_ONCE else last
    checks = {record["id"]: _Check(record) for record in records}
    async for row in _entries(connection, first, end):
        account_id = row["account_id"]
        report.entries += 1
        check = checks.get(account_id)
        if check is None:
            report.add(Violation("I1", account_id, None, f"entry {row['seq']} belongs to no account"))
            continue
        for found in check.follow(row):
            report.add(found)
    for name, sql in SQL_CHECKS.items():
        _, broken = await connection.execute_query(sql, [first, end])
        for account_id, what in broken:
            owner_id = checks[account_id].owner_id if account_id in checks else None
            report.add(Violation(name.split()[0], account_id, owner_id, what))
    for check in checks.values():
        for found in check.close():
            report.add(found)
        if head is not None and check.account["seq"]:
            head(AccountHead(check.account["id"], check.account["seq"], bytes(check.account["last_mac"])))
    report.accounts += len(checks)
    return int(end) + 1


async def _entries(connection: Connection, first: int, last: int) -> AsyncIterator[Any]:
    place = (first - 1, _LAST_ID)
    while True:
        _, rows = await connection.execute_query(_ENTRIES, [*place, last, _ENTRIES_AT_ONCE])
        for row in rows:
            yield row
        if len(rows) < _ENTRIES_AT_ONCE:
            return
        place = (rows[-1]["account_id"], rows[-1]["seq"])


class _Check:
    """One account being followed along its entries."""

    def __init__(self, account: Any) -> None:
        self.account = account
        self.owner_id: str = account["owner_id"]
        self._seq = self._version = self._posted = self._owed = self._balance = 0
        self._mac = GENESIS_MAC
        self._at: Any = None
        self._left: dict[int, int] = {}

    def follow(self, row: Any) -> Iterator[Violation]:
        """Check the next entry against what came before it, and take it in."""
        try:
            posted = ENTRIES.read(row)
            mac = sign_entry(posted, previous_mac=self._mac, key=posting.signing_key())
        except (ValueError, TypeError) as fault:
            yield self._break("I2", f"entry {row['seq']} cannot be read: {fault}")
            self._mac, self._seq = bytes(row["mac"]), row["seq"]
            return
        line = posted
        if line.seq != self._seq + 1:
            yield self._break("I2", f"entry {line.seq} follows entry {self._seq}")
        if line.version <= self._version:
            yield self._break("I2", f"entry {line.seq} has version {line.version} after version {self._version}")
        if self._at is not None and line.at < self._at:
            yield self._break("I2", f"entry {line.seq} is dated before the entry it follows")
        if line.balance_after != self._balance + line.credits:
            yield self._break(
                "I2", f"entry {line.seq} says {line.balance_after} after {self._balance} and {line.credits:+}"
            )
        if line.balance_after < 0:
            yield self._break("I6", f"entry {line.seq} leaves {line.balance_after}")
        if posted.mac != mac:
            yield self._break("I2", f"entry {line.seq} does not carry the MAC of its content and its place")
        yield from self._draw(posted)
        self._seq, self._version, self._at, self._mac = line.seq, line.version, line.at, posted.mac
        self._balance = line.balance_after
        self._posted += line.credits
        self._owed += line.owed

    def _draw(self, entry: LedgerEntry) -> Iterator[Violation]:
        line = entry
        if not all(type(part) is int for draw in line.draws for part in draw):
            yield self._break("I1", f"the draws of entry {line.seq} are not numbers")
            return
        if sum(drawn for _, drawn in line.draws) != abs(line.credits):
            yield self._break("I1", f"entry {line.seq} moves {line.credits}, its draws do not")
        for number, drawn in line.draws:
            self._left[number] = self._left.get(number, 0) + (drawn if line.credits > 0 else -drawn)

    def close(self) -> Iterator[Violation]:
        """Compare the account and its grants with what its entries came to."""
        account = self.account
        grants = {number: (remaining, claimed) for number, remaining, claimed in account["grants"]}
        remaining = sum(left for left, _ in grants.values())
        claimed = sum(claims for _, claims in grants.values())
        if not account["posted"] == self._posted == remaining:
            yield self._break("I1", f"posted {account['posted']}, entries {self._posted}, grants {remaining}")
        for number in sorted(grants.keys() | self._left.keys()):
            if (left := grants.get(number, (None,))[0]) != self._left.get(number, 0):
                yield self._break("I1", f"grant {number} has {left} left, its draws {self._left.get(number, 0)}")
        for figure, stored, found in (
            ("seq", account["seq"], self._seq),
            ("MAC", bytes(account["last_mac"]).hex(), self._mac.hex()),
            ("time", account["last_entry_at"], self._at),
            ("balance", account["posted"], self._balance),
        ):
            if stored != found:
                yield self._break("I2", f"the account's last {figure} is {stored}, its last entry's {found}")
        if account["version"] < self._version:
            yield self._break("I2", f"the account has version {account['version']}, its last entry {self._version}")
        if account["held"] != claimed:
            yield self._break("I4", f"held {account['held']}, open claims {claimed}")
        if (free := account["posted"] - account["held"]) < 0:
            yield self._break("I6", f"posted - held is {free}")
        if account["owed"] != self._owed:
            yield self._break("I8", f"owed {account['owed']}, entries {self._owed}")

    def _break(self, invariant: str, what: str) -> Violation:
        return Violation(invariant, self.account["id"], self.owner_id, what)
