"""Rules for debt and frozen credits.

*Owed* credits had to leave the account for a refund or a lost dispute, but were already spent. Credits of a grant with
`pays_debt` that become available first pay the debt, with a separate entry. So after every operation of an account with
debt, such grants have no available credits.

*Frozen* credits are disputed: they are posted, but cannot be spent. They are counted for the account, not for its
grants. A dispute freezes only credits that are available.
"""

from datetime import datetime

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached, InsufficientCredits
from app.ledger.rules.account_state import (
    CAUSED_BY_DEBT,
    AccountState,
    Cause,
    EntryKind,
    GrantSource,
    GrantState,
    LedgerEntry,
)
from app.ledger.rules.burn_order import compute_draws, draw, grants_in_burn_order, return_to_grants
from app.ledger.rules.entries import add_new_grant, append_entry, bump_version, expire_grant, has_expired


def insufficient_credits(account: AccountState, required: int) -> InsufficientCredits:
    """Return the refusal of a request that needs `required` credits. `required` is 0 if only debt prevents it."""
    balance = account.balance()
    return InsufficientCredits(
        required_credits=required,
        available_credits=balance.available,
        shortfall_credits=balance.shortfall(required),
        balance=balance,
    )


def pay_debt(account: AccountState, at: datetime | None = None) -> list[LedgerEntry]:
    """Pay debt from the available credits of grants that pay debt: one DEBT_PAID entry, or none.

    `at` is the time at which the credits became available. A grant that had expired by then pays nothing.
    """
    if not (account.owed and account.available):
        return []
    when = at or account.at
    payers = [grant for grant in grants_in_burn_order(account) if grant.pays_debt and not has_expired(grant, when)]
    credits = min(account.owed, account.available, sum(grant.spendable for grant in payers))
    if not credits:
        return []
    draws = compute_draws(payers, credits)
    entry = append_entry(account, EntryKind.DEBT_PAID, -credits, draws, CAUSED_BY_DEBT, owed=-credits, at=when)
    draw(account, draws)
    return [entry]


def withdraw(
    account: AccountState,
    grant: GrantState | None,
    credits: int,
    cause: Cause,
    *,
    kind: EntryKind = EntryKind.REFUND,
) -> int:
    """Take `credits` (> 0) from a grant.

    An entry of `kind` (REFUND or DISPUTE_LOST) takes the credits that are neither claimed nor frozen. The rest becomes
    debt, with a DEBT entry.
    Other grants pay the debt at once if they can.
    Returns: the credits of the new debt, before any of it is paid.
    Raises: BalanceLimitReached: the debt would exceed 2^53 - 1.
    """
    free = free_credits(account, grant, credits)
    debt = credits - free
    if account.owed + debt > MAX_CREDITS:
        raise BalanceLimitReached(figure="The debt")
    if grant is not None and free:
        _remove(account, grant, free, kind, cause)
    if debt:
        append_entry(account, EntryKind.DEBT, 0, (), cause, owed=debt)
        pay_debt(account)
    return debt


def withdraw_unspent(account: AccountState, grant: GrantState | None, credits: int, cause: Cause) -> int:
    """Take up to `credits` from a grant, if they are neither claimed nor frozen, with an ADJUSTMENT entry.

    Returns: the credits taken. The rest does not become debt.
    """
    free = free_credits(account, grant, credits)
    if grant is not None and free:
        _remove(account, grant, free, EntryKind.ADJUSTMENT, cause)
    return free


def undo_withdraw(
    account: AccountState,
    grant: GrantState | None,
    credits: int,
    cause: Cause,
    *,
    debt: int,
    kind: EntryKind = EntryKind.REFUND,
) -> list[LedgerEntry]:
    """Undo a `withdraw` of `credits`, of which `debt` credits became debt.

    The part of the debt that is still owed is cancelled with a DEBT entry. The part that was paid meanwhile is returned
    as a new grant, and the other credits to `grant`, with entries of `kind`. Then other debts are paid.
    Raises: BalanceLimitReached.
    """
    cancelled = min(debt, account.owed)
    if account.posted + credits - cancelled > MAX_CREDITS:
        raise BalanceLimitReached(figure="The balance")
    entries: list[LedgerEntry] = []
    if cancelled:
        entries.append(append_entry(account, EntryKind.DEBT, 0, (), cause, owed=-cancelled))
    if returned := credits - debt:
        if grant is None:
            raise ValueError("credits were withdrawn from a grant that does not exist")
        entries += _return(account, grant, returned, kind, cause)
    if paid := debt - cancelled:
        source = GrantSource.ADJUSTMENT
        _, entry = add_new_grant(account, kind, paid, cause._replace(hold_number=None), source=source)
        entries += [entry] if entry is not None else []
    return entries + pay_debt(account)


def undo_withdraw_unspent(
    account: AccountState, grant: GrantState | None, credits: int, cause: Cause
) -> list[LedgerEntry]:
    """Undo `withdraw_unspent`. Credits that return to an expired grant expire at once, with an EXPIRY entry."""
    if not credits or grant is None:
        return []
    return _return(account, grant, credits, EntryKind.ADJUSTMENT, cause) + pay_debt(account)


def freeze(account: AccountState, credits: int) -> None:
    """Make `credits` unavailable, without an entry. Raises: BalanceLimitReached."""
    if account.frozen + credits > MAX_CREDITS:
        raise BalanceLimitReached(figure="The frozen amount")
    if credits:
        account.frozen += credits
        bump_version(account)


def unfreeze(account: AccountState, credits: int, *, pays_debt: bool = True) -> list[LedgerEntry]:
    """Undo `freeze`, then pay debt. Pass `pays_debt=False` if the caller withdraws the same credits at once."""
    if not credits:
        return []
    account.frozen -= credits
    bump_version(account)
    return pay_debt(account) if pays_debt else []


def free_credits(account: AccountState, grant: GrantState | None, credits: int) -> int:
    """Return how many of `credits` can be taken from a grant: those that are neither spent, claimed nor frozen."""
    return min(credits, grant.spendable, account.available) if grant is not None else 0


def _remove(account: AccountState, grant: GrantState, credits: int, kind: EntryKind, cause: Cause) -> None:
    draws = ((grant.number, credits),)
    append_entry(account, kind, -credits, draws, cause)
    draw(account, draws)


def _return(account: AccountState, grant: GrantState, credits: int, kind: EntryKind, cause: Cause) -> list[LedgerEntry]:
    draws = ((grant.number, credits),)
    entries = [append_entry(account, kind, credits, draws, cause)]
    return_to_grants(account, draws)
    if has_expired(grant, account.at):
        entries += expire_grant(account, grant, account.at)
    return entries
