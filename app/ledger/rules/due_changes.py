"""Rules for the changes that time causes: grants start and expire, holds expire.

A *due change* is such a change whose time has come. Due changes are applied before an account is read or changed, in
the order of their times. Each entry has the time of its change. So the result does not depend on when the changes are
applied.
"""

from datetime import datetime
from heapq import heapify, heappop, heappush

from app.ledger.rules.account_state import AccountState, Cause, GrantState, LedgerEntry
from app.ledger.rules.balance_changes import grant_entry_kind
from app.ledger.rules.debt import pay_debt
from app.ledger.rules.entries import append_entry, expire_grant
from app.ledger.rules.holds import expire_hold

# The order of changes at the same time: first starts, then hold expiries from the innermost outwards, then grant
# expiries. So credits that a hold releases expire in the same entry as the other credits of their grant.
_START, _HOLD_EXPIRY, _GRANT_EXPIRY = range(3)


_Change = tuple[datetime, int, int]
"""A change: its time, its kind, and the number of the grant or the negated number of the hold."""


def apply_due_changes(account: AccountState, *, limit: int | None = None) -> list[LedgerEntry]:
    """Apply the changes that are due at `account.at`, and add the expired holds to `account.expired_holds`.

    At most `limit` changes are applied. If more may be due, `account.has_more_due_changes` is set.
    """
    if account.next_change_at is None or account.next_change_at > account.at:
        return []
    entries: list[LedgerEntry] = []
    due = _due(account)
    heapify(due)
    applied = 0
    while due:
        if applied == limit:
            account.has_more_due_changes = True
            break
        when, rank, order = change = heappop(due)
        # A change applied before may have used up the grant or closed the hold.
        if rank == _HOLD_EXPIRY:
            hold = account.holds[-order]
            if not hold.is_open:
                continue
            touched = list(hold.claims)
            entries += expire_hold(account, hold)
        else:
            grant = account.grants[order]
            if _change_of(grant) != change:
                continue
            touched = [order]
            entries += expire_grant(account, grant, when) if rank == _GRANT_EXPIRY else _start(account, grant, when)
        applied += 1
        for number in touched:  # the grants may have an expiry that is due too
            following = _change_of(account.grants[number])
            if following is not None and following[0] <= account.at:
                heappush(due, following)
    return entries


def next_change_at(account: AccountState) -> datetime | None:
    """Return the earliest time at which the account can have a due change, or None if it will have none."""
    instants = [when for grant in account.grants.values() if (when := grant.next_change_at) is not None]
    instants += [hold.expires_at for hold in account.holds.values() if hold.is_open]
    if account.next_hold_expiry_at is not None:
        instants.append(account.next_hold_expiry_at)
    return min(instants, default=None)


def _due(account: AccountState) -> list[_Change]:
    changes = [change for grant in account.grants.values() if (change := _change_of(grant)) is not None]
    changes += [(hold.expires_at, _HOLD_EXPIRY, -hold.number) for hold in account.holds.values() if hold.is_open]
    return [change for change in changes if change[0] <= account.at]


def _change_of(grant: GrantState) -> _Change | None:
    """Return the next change of a grant, due or not."""
    when = grant.next_change_at
    return None if when is None else (when, _GRANT_EXPIRY if grant.is_started else _START, grant.number)


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
