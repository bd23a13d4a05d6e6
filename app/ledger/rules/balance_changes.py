"""Rules that charge an account, grant credits, reverse a charge and revoke a grant.

Rules for holds and budgets are in `holds`, for refunds and disputes in `debt`, for due changes in `due_changes`.
"""

from collections.abc import Sequence
from datetime import datetime

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached
from app.ledger.rules.account_state import AccountState, Cause, Draws, EntryKind, GrantSource, GrantState, LedgerEntry
from app.ledger.rules.burn_order import compute_draws, draw, grants_in_burn_order, return_to_grants
from app.ledger.rules.debt import insufficient_credits, pay_debt
from app.ledger.rules.entries import add_new_grant, append_entry, expire_grant, has_expired


def charge(account: AccountState, credits: int, cause: Cause) -> LedgerEntry:
    """Charge `credits` (> 0) to the account, in burn order. Raises: InsufficientCredits."""
    if credits > account.available:
        raise insufficient_credits(account, credits)
    draws = compute_draws(grants_in_burn_order(account), credits)
    entry = append_entry(account, EntryKind.CHARGE, -credits, draws, cause)
    draw(account, draws)
    return entry


def add_grant(
    account: AccountState,
    credits: int,
    cause: Cause,
    *,
    source: GrantSource,
    priority: int = 0,
    starts_at: datetime | None = None,
    expires_at: datetime | None = None,
    pays_debt: bool | None = None,
) -> tuple[GrantState, LedgerEntry | None]:
    """Add a grant, then pay debt. A grant that starts later gets its entry when it starts.

    `pays_debt` says whether debt may be paid from the grant. The default (None): not from a promotional grant.
    Raises: BalanceLimitReached: the balance would exceed 2^53 - 1, now or when all scheduled grants have started.
    """
    _check_limit(account, credits)
    grant, entry = add_new_grant(
        account,
        grant_entry_kind(source, cause.top_up_id),
        credits,
        cause,
        source=source,
        priority=priority,
        starts_at=starts_at,
        expires_at=expires_at,
        pays_debt=source is not GrantSource.PROMOTIONAL if pays_debt is None else pays_debt,
    )
    pay_debt(account)
    return grant, entry


def grant_entry_kind(source: GrantSource, top_up_id: str | None) -> EntryKind:
    """Return the kind of the entry that posts a grant. A promotional grant of a top-up is its bonus."""
    if source is GrantSource.ADJUSTMENT and top_up_id is None:
        return EntryKind.ADJUSTMENT
    return EntryKind.TOP_UP if source is GrantSource.PURCHASED and top_up_id is not None else EntryKind.GRANT


def reverse(account: AccountState, draws: Draws, cause: Cause) -> list[LedgerEntry]:
    """Put the draws of a charge back into their grants with one REVERSAL entry, then pay debt.

    The grants must be loaded. Credits that return to an expired grant expire at once, with an EXPIRY entry.
    Raises: BalanceLimitReached.
    """
    credits = sum(drawn for _, drawn in draws)
    _check_limit(account, credits)
    entries = [append_entry(account, EntryKind.REVERSAL, credits, draws, cause)]
    return_to_grants(account, draws)
    for number, _ in draws:
        if has_expired(grant := account.grants[number], account.at):
            entries += expire_grant(account, grant, account.at)
    return entries + pay_debt(account)


def reversal_draws(draws: Sequence[tuple[int, int]], *, already_reversed: int, credits: int) -> Draws:
    """Compute the draws that return `credits` of a charge, of which `already_reversed` credits were returned before.

    The last draw is returned first. So partial reversals of any sizes lead to the same state of the grants.
    """
    returned: list[tuple[int, int]] = []
    for number, drawn in reversed(draws):
        skipped = min(already_reversed, drawn)
        already_reversed -= skipped
        if back := min(drawn - skipped, credits):
            returned.append((number, back))
            credits -= back
    return tuple(returned)


def revoke_grant(account: AccountState, grant: GrantState, cause: Cause) -> tuple[int, LedgerEntry | None]:
    """Remove the credits of a grant that are neither spent, claimed nor frozen.

    If the grant has not started, it is closed and never starts.
    Returns: the credits and their entry; 0 and None if there are no such credits.
    """
    if not grant.is_started:
        grant.is_open = False
        account.changed_grants.add(grant.number)
        return 0, None
    credits = min(grant.spendable, account.available)
    if not credits:
        return 0, None
    draws = ((grant.number, credits),)
    entry = append_entry(account, EntryKind.ADJUSTMENT, -credits, draws, cause)
    draw(account, draws)
    return credits, entry


def _check_limit(account: AccountState, credits: int) -> None:
    scheduled = sum(grant.credits for grant in account.grants.values() if grant.is_open and not grant.is_started)
    if account.posted + scheduled + credits > MAX_CREDITS:
        raise BalanceLimitReached(figure="The balance")
