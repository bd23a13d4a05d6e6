"""Rules for the changes that time causes: grants start and expire, holds expire.

Due changes are applied before an account is read or changed, in the order of their times. Each entry is dated at the
time of its change. So the result does not depend on when the changes are applied.
"""

from datetime import datetime

from app.ledger.rules.account_state import AccountState, Cause, GrantState, Hold, LedgerEntry
from app.ledger.rules.balance_changes import grant_entry_kind
from app.ledger.rules.debt import pay_debt
from app.ledger.rules.entries import append_entry, expire_grant
from app.ledger.rules.holds import expire_hold

# The order of changes at the same time: first starts, then hold expiries from the innermost outwards, then grant
# expiries. So credits that a hold releases expire in the same entry as the other credits of their grant.
_START, _HOLD_EXPIRY, _GRANT_EXPIRY = range(3)


def apply_due_changes(account: AccountState) -> list[LedgerEntry]:
    """Apply all changes that are due at `account.at`. Then `account.expired_holds` contains the holds that expired."""
    if account.next_change_at is None or account.next_change_at > account.at:
        return []
    entries: list[LedgerEntry] = []
    while due := _due(account):
        when, rank, _, changed = min(due, key=lambda change: change[:3])
        if isinstance(changed, Hold):
            entries += expire_hold(account, changed)
        elif rank == _GRANT_EXPIRY:
            entries += expire_grant(account, changed, when)
        else:
            entries += _start(account, changed, when)
    return entries


def next_change_at(account: AccountState) -> datetime | None:
    """Return the earliest time at which the account can have a due change, or None if it will have none."""
    instants = [when for grant in account.grants.values() if (when := grant.next_change_at) is not None]
    instants += [hold.expires_at for hold in account.holds.values() if hold.is_open]
    if account.next_hold_expiry_at is not None:
        instants.append(account.next_hold_expiry_at)
    return min(instants, default=None)


def _due(account: AccountState) -> list[tuple[datetime, int, int, GrantState | Hold]]:
    """Return (time, order among changes at the same time, number, grant or hold) for each due change."""
    due: list[tuple[datetime, int, int, GrantState | Hold]] = [
        (when, _GRANT_EXPIRY if grant.is_started else _START, grant.number, grant)
        for grant in account.grants.values()
        if (when := grant.next_change_at) is not None and when <= account.at
    ]
    due += [
        (hold.expires_at, _HOLD_EXPIRY, -hold.number, hold)
        for hold in account.holds.values()
        if hold.is_open and hold.expires_at <= account.at
    ]
    return due


def _start(account: AccountState, grant: GrantState, when: datetime) -> list[LedgerEntry]:
    draws = ((grant.number, grant.credits),)
    cause = Cause(actor=grant.actor, reason=grant.reason, top_up_id=grant.top_up_id)
    kind = grant_entry_kind(grant.source, grant.top_up_id)
    entry = append_entry(account, kind, grant.credits, draws, cause, at=when)
    grant.is_started = True
    grant.remaining = grant.credits
    account.changed_grants.add(grant.number)
    account.burn_order = None
    return [entry, *pay_debt(account, when)]
