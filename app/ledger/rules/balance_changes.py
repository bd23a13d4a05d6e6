"""Pure rules of the books: values in, values out. What a posting may do, and what time alone changes.

A `Book` is one account in memory, under its lock: figures, open grants, and the lines written so far. Every function
either changes the book completely or raises and leaves it as it was. Holds: `claims`. Debt and what is frozen: `debt`.
What all are made of: `lines`.
"""

from collections.abc import Sequence
from datetime import datetime

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached, InsufficientCredits
from app.ledger.rules import debt, holds
from app.ledger.rules.account_state import (
    AccountState,
    Cause,
    Draws,
    EntryKind,
    GrantSource,
    GrantState,
    Hold,
    LedgerEntry,
)
from app.ledger.rules.entries import append_entry, compute_draws, draw, expire_grant, grants_in_burn_order


def charge(book: AccountState, credits: int, cause: Cause) -> LedgerEntry:
    """Take `credits` (> 0) by burn-down. Raises: InsufficientCredits, and nothing has moved."""
    if credits > book.available:
        raise InsufficientCredits(required_credits=credits, available_credits=book.available)
    draws = compute_draws(grants_in_burn_order(book), credits)
    entry = append_entry(book, EntryKind.CHARGE, -credits, draws, cause)
    draw(book, draws)
    return entry


def add_grant(
    book: AccountState,
    credits: int,
    cause: Cause,
    *,
    source: GrantSource,
    priority: int = 0,
    starts_at: datetime | None = None,
    expires_at: datetime | None = None,
    pays_debt: bool | None = None,
) -> tuple[GrantState, LedgerEntry | None]:
    """A new lot of `credits`. One that starts later is posted when it starts, and has no entry yet. Debt is paid first.

    `pays_debt`: whether debt may be paid of it; None: unless it is promotional.

    Raises: BalanceLimitReached: the balance, or what it will be when it starts, would pass 2^53 - 1.
    """
    _check_room(book, credits)
    started = starts_at is None or starts_at <= book.at
    lot = GrantState(
        number=book.grant_count + 1,
        source=source,
        credits=credits,
        remaining=credits if started else 0,
        claimed=0,
        priority=priority,
        starts_at=starts_at,
        expires_at=expires_at,
        is_started=started,
        is_open=True,
        actor=cause.actor,
        reason=cause.reason,
        top_up_id=cause.top_up_id,
        pays_debt=source is not GrantSource.PROMOTIONAL if pays_debt is None else pays_debt,
        created_at=book.at,
    )
    entry = append_entry(book, _kind_of(lot), credits, ((lot.number, credits),), cause) if started else None
    book.grant_count += 1
    book.grants[lot.number] = lot
    book.new_grants.add(lot.number)
    book.burn_order = None
    debt.pay_debt(book)
    return lot, entry


def reverse(book: AccountState, draws: Draws, cause: Cause) -> list[LedgerEntry]:
    """Return what was drawn, into the grants it came from: one REVERSAL entry. Then debt is paid of it.

    What comes back to a grant that has expired since expires at once: both are visible (DESIGN 4). The lots of `draws`
    must be loaded. Raises: BalanceLimitReached.
    """
    credits = sum(drawn for _, drawn in draws)
    _check_room(book, credits)
    entries = [append_entry(book, EntryKind.REVERSAL, credits, draws, cause)]
    for number, drawn in draws:
        lot = book.grants[number]
        lot.remaining += drawn
        lot.is_open = True
        book.changed_grants.add(number)
    book.burn_order = None
    for number, _ in draws:
        lot = book.grants[number]
        if lot.expires_at is not None and lot.expires_at <= book.at:
            entries += expire_grant(book, lot, book.at)
    return entries + debt.pay_debt(book)


def revoke_grant(book: AccountState, lot: GrantState, cause: Cause) -> tuple[int, LedgerEntry | None]:
    """Take back the unspent, unclaimed part of a grant: how much that was, and its entry (none when it was nothing)."""
    if not lot.is_started:
        lot.is_open = False
        book.changed_grants.add(lot.number)
        return 0, None
    credits = min(lot.spendable, book.available)
    if not credits:
        return 0, None
    draws = ((lot.number, credits),)
    entry = append_entry(book, EntryKind.ADJUSTMENT, -credits, draws, cause)
    draw(book, draws)
    return credits, entry


def apply_due_changes(book: AccountState) -> list[LedgerEntry]:
    """What time alone has changed up to `book.at`, in the order in which it happened, each entry dated at its time.

    The holds that lapse are left in `book.lapsed`.
    """
    if book.next_change_at is None or book.next_change_at > book.at:
        return []
    entries: list[LedgerEntry] = []
    while changes := _due(book):
        # Of one instant: starts, then lapses (from the inside), then expiries, so that what is released leaves in one.
        _, _, _, changed = min(changes, key=lambda change: change[:3])
        if isinstance(changed, Hold):
            entries += holds.expire_hold(book, changed)
        elif changed.is_started:
            entries += expire_grant(book, changed, _instant(changed))
        else:
            entries += _start(book, changed)
    return entries


def next_change_at(book: AccountState) -> datetime | None:
    """The next instant at which time alone changes the account, or earlier; None when nothing is due ever."""
    instants = [when for lot in book.grants.values() if (when := lot.next_change_at) is not None]
    instants += [hold.expires_at for hold in book.holds.values() if hold.is_open]
    if book.next_hold_expiry_at is not None:
        instants.append(book.next_hold_expiry_at)
    return min(instants, default=None)


def reversal_draws(draws: Sequence[tuple[int, int]], *, already_reversed: int, credits: int) -> Draws:
    """The draws that give back `credits` of a charge, `already` of which have been given back before.

    What was drawn last comes back first, so partial reversals in any sizes end at the same grants.
    """
    given: list[tuple[int, int]] = []
    for number, drawn in reversed(draws):
        skipped = min(already_reversed, drawn)
        already_reversed -= skipped
        if back := min(drawn - skipped, credits):
            given.append((number, back))
            credits -= back
    return tuple(given)


def _check_room(book: AccountState, credits: int) -> None:
    """Raises: BalanceLimitReached: the balance, or what it will be when all that is scheduled has started."""
    scheduled = sum(lot.credits for lot in book.grants.values() if lot.is_open and not lot.is_started)
    if book.posted + scheduled + credits > MAX_CREDITS:
        raise BalanceLimitReached(figure="The balance")


def _due(book: AccountState) -> list[tuple[datetime, int, int, GrantState | Hold]]:
    """What is due: (instant, rank among those of one instant, number, the grant or hold)."""
    due: list[tuple[datetime, int, int, GrantState | Hold]] = [
        (when, 2 if lot.is_started else 0, lot.number, lot)
        for lot in book.grants.values()
        if (when := lot.next_change_at) is not None and when <= book.at
    ]
    due += [(hold.expires_at, 1, -hold.number, hold) for hold in holds.due_holds(book)]
    return due


def _instant(lot: GrantState) -> datetime:
    instant = lot.next_change_at
    if instant is None:
        raise ValueError(f"time does not change grant {lot.number}")
    return instant


def _start(book: AccountState, lot: GrantState) -> list[LedgerEntry]:
    draws = ((lot.number, lot.credits),)
    cause = Cause(actor=lot.actor, reason=lot.reason, top_up_id=lot.top_up_id)
    when = _instant(lot)
    entry = append_entry(book, _kind_of(lot), lot.credits, draws, cause, at=when)
    lot.is_started = True
    lot.remaining = lot.credits
    book.changed_grants.add(lot.number)
    book.burn_order = None
    return [entry, *debt.pay_debt(book, when)]


def _kind_of(lot: GrantState) -> EntryKind:
    if lot.top_up_id is not None:
        return EntryKind.TOP_UP if lot.source is GrantSource.PURCHASED else EntryKind.GRANT
    return EntryKind.ADJUSTMENT if lot.source is GrantSource.ADJUSTMENT else EntryKind.GRANT
