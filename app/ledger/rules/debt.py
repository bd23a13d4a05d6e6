"""Pure rules of debt: credits that leave though they are spent, what pays for them, and what disputes freeze.

*Owed* credits are those that had to leave and were no longer there: of a refund, or of a dispute that was lost.
Whatever frees credits pays them first, by an entry of its own, out of the grants that pay debt. After every operation:
where something is owed, nothing is available in such grants.

*Frozen* credits are posted and nobody's to spend. They are a figure of the account, not of its grants, and may be more
than is left: then nothing is available until they are thawed.
"""

from datetime import datetime

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached
from app.ledger.rules.account_state import (
    CAUSED_BY_DEBT,
    AccountState,
    Cause,
    EntryKind,
    GrantSource,
    GrantState,
    LedgerEntry,
)
from app.ledger.rules.entries import append_entry, bump_version, compute_draws, draw, expire_grant, grants_in_burn_order


def pay_debt(book: AccountState, at: datetime | None = None) -> list[LedgerEntry]:
    """Pay what is owed of what is available, by burn-down over the grants that pay debt: one DEBT_PAID entry, or none.

    `at`: the instant of what freed the credits; what expires by then pays nothing.
    """
    if not (book.owed and book.available):
        return []
    when = at or book.at
    payers = [
        lot for lot in grants_in_burn_order(book) if lot.pays_debt and (lot.expires_at is None or lot.expires_at > when)
    ]
    credits = min(book.owed, book.available, sum(lot.spendable for lot in payers))
    if not credits:
        return []
    draws = compute_draws(payers, credits)
    entry = append_entry(book, EntryKind.DEBT_PAID, -credits, draws, CAUSED_BY_DEBT, owed=-credits, at=when)
    draw(book, draws)
    return [entry]


def withdraw(book: AccountState, lot: GrantState | None, credits: int, cause: Cause) -> int:
    """Credits (> 0) of a grant leave: a REFUND entry for what is there, unclaimed and not frozen, a DEBT entry for the
    rest, which other grants pay at once if they can. Returns: how much is a new debt, before it is paid.

    Raises: BalanceLimitReached: the debt would pass 2^53 - 1.
    """
    free = min(credits, lot.spendable, book.available) if lot is not None else 0
    rest = credits - free
    if book.owed + rest > MAX_CREDITS:
        raise BalanceLimitReached(figure="The debt")
    if lot is not None and free:
        _leave(book, lot, free, EntryKind.REFUND, cause)
    if rest:
        append_entry(book, EntryKind.DEBT, 0, (), cause, owed=rest)
        pay_debt(book)
    return rest


def withdraw_unspent(book: AccountState, lot: GrantState | None, credits: int, cause: Cause) -> int:
    """Take at most `credits` of a grant, as far as they are there, unclaimed and not frozen: an ADJUSTMENT entry.

    Returns: how much that was; nothing of the rest becomes debt.
    """
    free = min(credits, lot.spendable, book.available) if lot is not None else 0
    if lot is not None and free:
        _leave(book, lot, free, EntryKind.ADJUSTMENT, cause)
    return free


def undo_withdraw(
    book: AccountState, lot: GrantState | None, credits: int, cause: Cause, *, debt: int
) -> list[LedgerEntry]:
    """Undo `take_back` of `credits`, `debt` of which were a new debt: that is forgiven as far as it is still owed.

    What was paid of it meanwhile comes as a grant of its own (ADJUSTMENT, the top-up's), the rest into `lot`. Entries
    DEBT and REFUND; then other debts are paid. Raises: BalanceLimitReached.
    """
    forgiven = min(debt, book.owed)
    if book.posted + credits - forgiven > MAX_CREDITS:
        raise BalanceLimitReached(figure="The balance")
    entries: list[LedgerEntry] = []
    if forgiven:
        entries.append(append_entry(book, EntryKind.DEBT, 0, (), cause, owed=-forgiven))
    if own := credits - debt:
        if lot is None:
            raise ValueError("credits were taken of a grant that is not there")
        entries += _return(book, lot, own, EntryKind.REFUND, cause)
    if paid := debt - forgiven:
        entries.append(_new_lot(book, paid, cause))
    return entries + pay_debt(book)


def undo_withdraw_unspent(book: AccountState, lot: GrantState | None, credits: int, cause: Cause) -> list[LedgerEntry]:
    """Undo `take_unspent`. What comes back to a grant that has expired expires at once: both are visible."""
    if not credits or lot is None:
        return []
    return _return(book, lot, credits, EntryKind.ADJUSTMENT, cause) + pay_debt(book)


def freeze(book: AccountState, credits: int) -> None:
    """Take `credits` out of what is available, without an entry. Raises: BalanceLimitReached."""
    if book.frozen + credits > MAX_CREDITS:
        raise BalanceLimitReached(figure="What is frozen")
    if credits:
        book.frozen += credits
        bump_version(book)


def unfreeze(book: AccountState, credits: int, *, pays_debt: bool = True) -> list[LedgerEntry]:
    """Undo `freeze`; what is free again pays debt. Not `paying`: the caller takes back as much at once."""
    if not credits:
        return []
    book.frozen -= credits
    bump_version(book)
    return pay_debt(book) if pays_debt else []


def _leave(book: AccountState, lot: GrantState, credits: int, kind: EntryKind, cause: Cause) -> None:
    draws = ((lot.number, credits),)
    append_entry(book, kind, -credits, draws, cause)
    draw(book, draws)


def _return(book: AccountState, lot: GrantState, credits: int, kind: EntryKind, cause: Cause) -> list[LedgerEntry]:
    entries = [append_entry(book, kind, credits, ((lot.number, credits),), cause)]
    lot.remaining += credits
    lot.is_open = True
    book.changed_grants.add(lot.number)
    book.burn_order = None
    if lot.expires_at is not None and lot.expires_at <= book.at:
        entries += expire_grant(book, lot, book.at)
    return entries


def _new_lot(book: AccountState, credits: int, cause: Cause) -> LedgerEntry:
    """A grant for credits that had paid a debt which is forgiven now."""
    number = book.grant_count + 1
    entry = append_entry(book, EntryKind.REFUND, credits, ((number, credits),), cause._replace(hold_number=None))
    book.grants[number] = GrantState(
        number=number,
        source=GrantSource.ADJUSTMENT,
        credits=credits,
        remaining=credits,
        claimed=0,
        priority=0,
        starts_at=None,
        expires_at=None,
        is_started=True,
        is_open=True,
        actor=cause.actor,
        reason=cause.reason,
        top_up_id=cause.top_up_id,
        pays_debt=True,
        created_at=book.at,
    )
    book.grant_count = number
    book.new_grants.add(number)
    book.burn_order = None
    return entry
