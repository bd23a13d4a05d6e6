"""Pure rules of the books: values in, values out. What a posting may do, and what time alone changes.

A `Book` is one account in memory, under its lock: figures, open grants, and the lines written so far. Every function
either changes the book completely or raises and leaves it as it was. Holds: `claims`. Debt and what is frozen: `debt`.
What all are made of: `lines`.
"""

from collections.abc import Sequence
from datetime import datetime

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached, InsufficientCredits
from app.ledger import claims, debt
from app.ledger.book import Book, Cause, Draws, Hold, Kind, Lot, Posted, Source
from app.ledger.lines import burn_down, burning, enter, expire, take


def charge(book: Book, credits: int, cause: Cause) -> Posted:
    """Take `credits` (> 0) by burn-down. Raises: InsufficientCredits, and nothing has moved."""
    if credits > book.available:
        raise InsufficientCredits(required_credits=credits, available_credits=book.available)
    draws = burn_down(burning(book), credits)
    entry = enter(book, Kind.CHARGE, -credits, draws, cause)
    take(book, draws)
    return entry


def grant(
    book: Book,
    credits: int,
    cause: Cause,
    *,
    source: Source,
    priority: int = 0,
    starts_at: datetime | None = None,
    expires_at: datetime | None = None,
    pays_debt: bool | None = None,
) -> tuple[Lot, Posted | None]:
    """A new lot of `credits`. One that starts later is posted when it starts, and has no entry yet. Debt is paid first.

    `pays_debt`: whether debt may be paid of it; None: unless it is promotional.

    Raises: BalanceLimitReached: the balance, or what it will be when it starts, would pass 2^53 - 1.
    """
    _check_room(book, credits)
    started = starts_at is None or starts_at <= book.at
    lot = Lot(
        number=book.grants + 1,
        source=source,
        credits=credits,
        remaining=credits if started else 0,
        claimed=0,
        priority=priority,
        starts_at=starts_at,
        expires_at=expires_at,
        started=started,
        open=True,
        actor=cause.actor,
        reason=cause.reason,
        top_up_id=cause.top_up_id,
        pays_debt=source is not Source.PROMOTIONAL if pays_debt is None else pays_debt,
        created_at=book.at,
    )
    entry = enter(book, _kind_of(lot), credits, ((lot.number, credits),), cause) if started else None
    book.grants += 1
    book.lots[lot.number] = lot
    book.made.add(lot.number)
    book.burning = None
    debt.pay(book)
    return lot, entry


def give_back(book: Book, draws: Draws, cause: Cause) -> list[Posted]:
    """Return what was drawn, into the grants it came from: one REVERSAL entry. Then debt is paid of it.

    What comes back to a grant that has expired since expires at once: both are visible (DESIGN 4). The lots of `draws`
    must be loaded. Raises: BalanceLimitReached.
    """
    credits = sum(drawn for _, drawn in draws)
    _check_room(book, credits)
    entries = [enter(book, Kind.REVERSAL, credits, draws, cause)]
    for number, drawn in draws:
        lot = book.lots[number]
        lot.remaining += drawn
        lot.open = True
        book.touched.add(number)
    book.burning = None
    for number, _ in draws:
        lot = book.lots[number]
        if lot.expires_at is not None and lot.expires_at <= book.at:
            entries += expire(book, lot, book.at)
    return entries + debt.pay(book)


def revoke(book: Book, lot: Lot, cause: Cause) -> tuple[int, Posted | None]:
    """Take back the unspent, unclaimed part of a grant: how much that was, and its entry (none when it was nothing)."""
    if not lot.started:
        lot.open = False
        book.touched.add(lot.number)
        return 0, None
    credits = min(lot.spendable, book.available)
    if not credits:
        return 0, None
    draws = ((lot.number, credits),)
    entry = enter(book, Kind.ADJUSTMENT, -credits, draws, cause)
    take(book, draws)
    return credits, entry


def settle(book: Book) -> list[Posted]:
    """What time alone has changed up to `book.at`, in the order in which it happened, each entry dated at its time.

    The holds that lapse are left in `book.lapsed`.
    """
    if book.next_change_at is None or book.next_change_at > book.at:
        return []
    entries: list[Posted] = []
    while changes := _due(book):
        # Of one instant: starts, then lapses (from the inside), then expiries, so that what is released leaves in one.
        _, _, _, changed = min(changes, key=lambda change: change[:3])
        if isinstance(changed, Hold):
            entries += claims.lapse(book, changed)
        elif changed.started:
            entries += expire(book, changed, _instant(changed))
        else:
            entries += _start(book, changed)
    return entries


def next_change_at(book: Book) -> datetime | None:
    """The next instant at which time alone changes the account, or earlier; None when nothing is due ever."""
    instants = [when for lot in book.lots.values() if (when := lot.next_change_at) is not None]
    instants += [hold.expires_at for hold in book.holds.values() if hold.open]
    if book.next_lapse_at is not None:
        instants.append(book.next_lapse_at)
    return min(instants, default=None)


def tail(draws: Sequence[tuple[int, int]], *, already: int, credits: int) -> Draws:
    """The draws that give back `credits` of a charge, `already` of which have been given back before.

    What was drawn last comes back first, so partial reversals in any sizes end at the same grants.
    """
    given: list[tuple[int, int]] = []
    for number, drawn in reversed(draws):
        skipped = min(already, drawn)
        already -= skipped
        if back := min(drawn - skipped, credits):
            given.append((number, back))
            credits -= back
    return tuple(given)


def _check_room(book: Book, credits: int) -> None:
    """Raises: BalanceLimitReached: the balance, or what it will be when all that is scheduled has started."""
    scheduled = sum(lot.credits for lot in book.lots.values() if lot.open and not lot.started)
    if book.posted + scheduled + credits > MAX_CREDITS:
        raise BalanceLimitReached(figure="The balance")


def _due(book: Book) -> list[tuple[datetime, int, int, Lot | Hold]]:
    """What is due: (instant, rank among those of one instant, number, the grant or hold)."""
    due: list[tuple[datetime, int, int, Lot | Hold]] = [
        (when, 2 if lot.started else 0, lot.number, lot)
        for lot in book.lots.values()
        if (when := lot.next_change_at) is not None and when <= book.at
    ]
    due += [(hold.expires_at, 1, -hold.number, hold) for hold in claims.due(book)]
    return due


def _instant(lot: Lot) -> datetime:
    instant = lot.next_change_at
    if instant is None:
        raise ValueError(f"time does not change grant {lot.number}")
    return instant


def _start(book: Book, lot: Lot) -> list[Posted]:
    draws = ((lot.number, lot.credits),)
    cause = Cause(actor=lot.actor, reason=lot.reason, top_up_id=lot.top_up_id)
    when = _instant(lot)
    entry = enter(book, _kind_of(lot), lot.credits, draws, cause, at=when)
    lot.started = True
    lot.remaining = lot.credits
    book.touched.add(lot.number)
    book.burning = None
    return [entry, *debt.pay(book, when)]


def _kind_of(lot: Lot) -> Kind:
    if lot.top_up_id is not None:
        return Kind.TOP_UP if lot.source is Source.PURCHASED else Kind.GRANT
    return Kind.ADJUSTMENT if lot.source is Source.ADJUSTMENT else Kind.GRANT
