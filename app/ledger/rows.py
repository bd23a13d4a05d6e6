"""The tables of the ledger, each with its model and row type, and the rows that a change of an account writes."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, TypeVar

from app.db.set_writes import SetWrite
from app.db.tables import Table, to_json
from app.ledger import models
from app.ledger.rules.account_state import AccountState, Draws, GrantState, Hold, LedgerEntry
from app.ledger.rules.due_changes import next_change_at
from app.ledger.rules.ledger_keys import LedgerKey

Row = TypeVar("Row")


def _to_draws(pairs: Iterable[tuple[int, int]]) -> Draws:
    return tuple([(number, credits) for number, credits in pairs])


ACCOUNTS: Final = Table(models.Account, AccountState, key=("id",))
ENTRIES: Final = Table(models.Entry, LedgerEntry, key=("account_id", "seq"), decode={"draws": _to_draws})
GRANTS: Final = Table(models.Grant, GrantState, key=("account_id", "number"))
HOLDS: Final = Table(
    models.Hold,
    Hold,
    key=("account_id", "number"),
    decode={"claims": dict},
    encode={"claims": lambda claims: to_json(sorted(claims.items()))},
)

ACCOUNT_COLUMNS: Final = f"a.id, {ACCOUNTS.columns('a')}"

# The update requires the version that was read under the lock. If it differs, another transaction has written the row.
_UPDATE_ACCOUNT: Final = ACCOUNTS.update(
    *(name for name in ACCOUNTS.column_names if name != "owner_id"),
    where="t.version = v.locked_version",
    others={"locked_version": "bigint"},
)
_INSERT_ENTRY: Final = ENTRIES.insert()
_INSERT_GRANT: Final = GRANTS.insert()
_UPDATE_GRANT: Final = GRANTS.update("remaining", "claimed", "is_started", "is_open")
_INSERT_HOLD: Final = HOLDS.insert("remaining")
_UPDATE_HOLD: Final = HOLDS.update(
    "parent_budget", "credits", "captured", "released", "allocated", "closing_reserve", "claims", "remaining", "status",
    "expires_at", "closed_at", "priced_credits", "capture_request_hash",
)  # fmt: skip


def account_from_row(record: Any, *, clock: datetime, key: LedgerKey) -> AccountState:
    """Build the state of a locked account from ACCOUNT_COLUMNS.

    `clock` is the time of the database after the lock. The time of new entries (`at`) is never earlier than that of the
    last entry.
    """
    last = record["last_entry_at"]
    posted = record["posted"]
    return AccountState(
        account_id=record["id"],
        **{name: record[name] for name in ACCOUNTS.column_names},
        at=clock if last is None or clock >= last else last,
        signing_key=key,
        locked_version=record["version"],
        locked_owed=record["owed"],
        locked_available=max(0, posted - record["held"] - record["frozen"]),
        locked_posted=posted,
        locked_notification_count=record["notification_count"],
    )


def add_account_writes(account: AccountState, write: SetWrite) -> bool:
    """Add the changed rows of the account to `write`. Return whether there are any."""
    # `next_change_at` may be earlier than the next change. When it has passed, it is computed again, even if no change
    # was due.
    is_due = account.next_change_at is not None and account.next_change_at <= account.at
    if not (
        account.version != account.locked_version
        or account.notification_count != account.locked_notification_count
        or account.changed_grants
        or account.new_grants
        or account.changed_holds
        or account.new_holds
        or is_due
    ):
        return False
    account.next_change_at = next_change_at(account)
    for entry in account.new_entries:
        write.add_row(_INSERT_ENTRY, entry)
    for grant in _of(account.grants, account.new_grants):
        write.add_row(_INSERT_GRANT, grant)
    for grant in _of(account.grants, account.changed_grants - account.new_grants):
        write.add_row(_UPDATE_GRANT, grant)
    for hold in _of(account.holds, account.new_holds):
        write.add_row(_INSERT_HOLD, hold)
    for hold in _of(account.holds, account.changed_holds):
        write.add_row(_UPDATE_HOLD, hold)
    write.add_row(_UPDATE_ACCOUNT, account, id=account.account_id)
    return True


def _of(rows: dict[int, Row], numbers: Iterable[int]) -> list[Row]:
    return [rows[number] for number in numbers]
