"""The ledger verifier: checks the invariants of the ledger, for one account or for all.

- I1: posted = sum of the entries = sum of the credits remaining in the grants. The remaining credits of each grant are
  the sum of its draws.
- I2: The numbers (seq) of the entries have no gap. The balance after each entry is correct. Versions rise, and times do
  not fall. The HMAC chain is intact up to the last entry of the account.
- I3: A block run has one charge, an idempotency key has one operation, and the rows to which both refer exist.
- I4: The held credits of an account and the claimed credits of each grant = the claims of open holds. Frozen credits =
  those of open disputes. The credits of a hold = captured + released + allocated + remaining.
- I5: The cost of a task = the sum of its entries = the sum of its block runs. Its steps = the number of its block runs.
- I6: held is never more than posted, so available is never below 0.
- I7: The entries of a top-up add the bought credits and the bonus. They take back, as credits or debt, the refunded and
  clawed-back credits, which are those of its refunds that did not fail and of its lost disputes. A top-up that was not
  paid has no entries.
- I8: owed = sum of the entries' owed. An account with debt has no available credits in grants that pay debt.

Accounts are checked in ranges that together contain all ids, so that rows without an account are found too. Each range
is read in one snapshot. Its entries are read in chunks, so that a large ledger does not need more memory.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from app.db import pools
from app.db.pools import Connection
from app.db.tables import RowSelect
from app.ledger import accounts, posting
from app.ledger.rows import ENTRIES
from app.ledger.rules import hash_chain
from app.ledger.rules.account_state import LedgerEntry
from app.verify.sql_checks import SQL_CHECKS

MAX_LISTED: Final = 1_000
"""The maximum number of violations that are listed. All are counted."""

_ACCOUNTS_AT_ONCE: Final = 200
_ENTRIES_AT_ONCE: Final = 2_000
_MAX_ID: Final = 2**63 - 1

_SNAPSHOT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

_COUNT_ACCOUNTS: Final = "SELECT count(*) AS count FROM account"

_GRANTS: Final = RowSelect(["g.number", "g.remaining", "g.claimed"], "FROM credit_grant AS g WHERE g.account_id = a.id")

_ACCOUNTS: Final = f"""
    SELECT a.id, a.owner_id, a.seq, a.version, a.posted, a.held, a.frozen, a.owed, a.last_mac, a.last_entry_at,
           ARRAY({_GRANTS.sql}) AS grants
    FROM account AS a WHERE a.id BETWEEN $1 AND $2 ORDER BY a.id LIMIT $3
"""  # noqa: S608  our own constant

_ENTRIES: Final = f"""
    SELECT {ENTRIES.columns("e")} FROM entry AS e
    WHERE (e.account_id, e.seq) > ($1::bigint, $2::bigint) AND e.account_id <= $3
    ORDER BY e.account_id, e.seq LIMIT $4
"""  # noqa: S608  our own constant


@dataclass(frozen=True, slots=True)
class Violation:
    """One violation of an invariant (I1 to I8). `owner_id` is None for rows that belong to no account."""

    invariant: str
    account_id: int
    owner_id: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.invariant} account {self.account_id} ({self.owner_id or 'no owner'}): {self.message}"


@dataclass(frozen=True, slots=True)
class AccountHead:
    """The last entry of an account. A copy outside the database shows later whether the entry still exists."""

    account_id: int
    seq: int
    mac: bytes


@dataclass(slots=True)
class VerificationReport:
    """The numbers of checked accounts and entries, and the violations.

    `unlisted` counts violations that are not listed. `missing_keys` counts the entries whose MAC could not be
    checked because their key is not configured, by the id of the key.
    """

    accounts: int = 0
    entries: int = 0
    violations: list[Violation] = field(default_factory=list)
    unlisted: int = 0
    missing_keys: Counter[str] = field(default_factory=Counter)

    @property
    def is_intact(self) -> bool:
        return not self.violations

    def add(self, violation: Violation) -> None:
        if len(self.violations) < MAX_LISTED:
            self.violations.append(violation)
        else:
            self.unlisted += 1


ProgressCallback = Callable[[int, int], None]
"""Called after each range with the number of accounts checked so far, and the total number."""


async def verify_ledger(
    owner_id: str | None = None,
    on_progress: ProgressCallback | None = None,
    *,
    on_head: Callable[[AccountHead], None] | None = None,
) -> VerificationReport:
    """Check the account of one owner, or all accounts. `on_head` receives the last entries in the order of account ids.

    The report of an owner without an account is empty. Call `app.state.configure_ledger` before this.
    """
    report = VerificationReport()
    first, last, total = 0, _MAX_ID, 1
    if owner_id is None:
        total = (await pools.fetch(_COUNT_ACCOUNTS))[0]["count"]
    else:
        found = await accounts.find_account_id(owner_id)
        if found is None:
            return report
        first = last = found
    while first <= last:
        async with pools.transaction() as connection:
            await connection.execute_query(_SNAPSHOT, [])
            first = await _verify_range(connection, first, last, report, on_head)
        if on_progress is not None:
            on_progress(report.accounts, max(total, report.accounts))
    return report


async def _verify_range(
    connection: Connection,
    first: int,
    last: int,
    report: VerificationReport,
    on_head: Callable[[AccountHead], None] | None,
) -> int:
    """Check the next accounts from id `first` on, and the ids between them. Returns: the id to continue with."""
    _, records = await connection.execute_query(_ACCOUNTS, [first, last, _ACCOUNTS_AT_ONCE])
    end = records[-1]["id"] if len(records) == _ACCOUNTS_AT_ONCE else last
    checks = {record["id"]: _AccountCheck(record, report.missing_keys) for record in records}
    async for row in _entries(connection, first, end):
        account_id = row["account_id"]
        report.entries += 1
        check = checks.get(account_id)
        if check is None:
            report.add(Violation("I1", account_id, None, f"entry {row['seq']} belongs to no account"))
            continue
        for violation in check.add_entry(row):
            report.add(violation)
    for name, sql in SQL_CHECKS.items():
        named = f"SELECT * FROM ({sql}) AS violation(account_id, message)"  # noqa: S608  our own constant
        _, found = await connection.execute_query(named, [first, end])
        for row in found:
            check = checks.get(row["account_id"])
            owner_id = check.owner_id if check is not None else None
            report.add(Violation(name.split()[0], row["account_id"], owner_id, row["message"]))
    for check in checks.values():
        for violation in check.compare_totals():
            report.add(violation)
        if on_head is not None and check.account["seq"]:
            on_head(AccountHead(check.account["id"], check.account["seq"], bytes(check.account["last_mac"])))
    report.accounts += len(checks)
    return int(end) + 1


async def _entries(connection: Connection, first: int, last: int) -> AsyncIterator[Any]:
    position = (first - 1, _MAX_ID)
    while True:
        _, rows = await connection.execute_query(_ENTRIES, [*position, last, _ENTRIES_AT_ONCE])
        for row in rows:
            yield row
        if len(rows) < _ENTRIES_AT_ONCE:
            return
        position = (rows[-1]["account_id"], rows[-1]["seq"])


class _AccountCheck:
    """Checks one account, entry by entry."""

    def __init__(self, account: Any, missing_keys: Counter[str]) -> None:
        self.account = account
        self.missing_keys = missing_keys
        self.owner_id: str = account["owner_id"]
        self._seq = self._version = self._posted = self._owed = self._balance = 0
        self._mac = hash_chain.GENESIS_MAC
        self._at: Any = None
        self._remaining: dict[int, int] = {}
        """The remaining credits of each grant after the entries so far, by grant number."""

    def add_entry(self, row: Any) -> Iterator[Violation]:
        """Compare the next entry with those before it."""
        try:
            entry = ENTRIES.read(row)
            is_signed = hash_chain.is_signed(entry, previous_mac=self._mac, keys=posting.ledger_keys())
        except (ValueError, TypeError) as error:
            yield self._violation("I2", f"entry {row['seq']} cannot be read: {error}")
            self._mac, self._seq = bytes(row["mac"]), row["seq"]
            return
        if entry.seq != self._seq + 1:
            yield self._violation("I2", f"entry {entry.seq} follows entry {self._seq}")
        if entry.version <= self._version:
            yield self._violation("I2", f"entry {entry.seq} has version {entry.version} after version {self._version}")
        if self._at is not None and entry.at < self._at:
            yield self._violation("I2", f"entry {entry.seq} is dated before the entry it follows")
        if entry.balance_after != self._balance + entry.credits:
            yield self._violation(
                "I2",
                f"entry {entry.seq} has balance {entry.balance_after} after balance {self._balance} and"
                f" {entry.credits:+}",
            )
        if entry.balance_after < 0:
            yield self._violation("I6", f"entry {entry.seq} has balance {entry.balance_after}")
        if is_signed is None:
            self.missing_keys[str(entry.key_id)] += 1
        elif not is_signed:
            yield self._violation("I2", f"entry {entry.seq} has a MAC that does not match its content and position")
        yield from self._apply_draws(entry)
        self._seq, self._version, self._at, self._mac = entry.seq, entry.version, entry.at, entry.mac
        self._balance = entry.balance_after
        self._posted += entry.credits
        self._owed += entry.owed

    def _apply_draws(self, entry: LedgerEntry) -> Iterator[Violation]:
        if not all(type(part) is int for draw in entry.draws for part in draw):
            yield self._violation("I1", f"the draws of entry {entry.seq} are not numbers")
            return
        if sum(drawn for _, drawn in entry.draws) != abs(entry.credits):
            yield self._violation("I1", f"entry {entry.seq} moves {entry.credits}, its draws do not")
        for number, drawn in entry.draws:
            self._remaining[number] = self._remaining.get(number, 0) + (drawn if entry.credits > 0 else -drawn)

    def compare_totals(self) -> Iterator[Violation]:
        """Compare the account and its grants with the sums of its entries, after the last entry."""
        account = self.account
        grants = _GRANTS.read(account["grants"])
        remaining = {grant["number"]: grant["remaining"] for grant in grants}
        claimed = sum(grant["claimed"] for grant in grants)
        total = sum(remaining.values())
        if not account["posted"] == self._posted == total:
            yield self._violation("I1", f"posted {account['posted']}, entries {self._posted}, grants {total}")
        for number in sorted(remaining.keys() | self._remaining.keys()):
            if (left := remaining.get(number)) != self._remaining.get(number, 0):
                yield self._violation(
                    "I1", f"grant {number} has {left} left, its draws {self._remaining.get(number, 0)}"
                )
        for figure, stored, found in (
            ("seq", account["seq"], self._seq),
            ("MAC", bytes(account["last_mac"]).hex(), self._mac.hex()),
            ("time", account["last_entry_at"], self._at),
            ("balance", account["posted"], self._balance),
        ):
            if stored != found:
                yield self._violation("I2", f"the account's last {figure} is {stored}, its last entry's {found}")
        if account["version"] < self._version:
            yield self._violation("I2", f"the account has version {account['version']}, its last entry {self._version}")
        if account["held"] != claimed:
            yield self._violation("I4", f"held {account['held']}, open claims {claimed}")
        if (free := account["posted"] - account["held"]) < 0:
            yield self._violation("I6", f"posted - held is {free}")
        if account["owed"] != self._owed:
            yield self._violation("I8", f"owed {account['owed']}, entries {self._owed}")

    def _violation(self, invariant: str, message: str) -> Violation:
        return Violation(invariant, self.account["id"], self.owner_id, message)
