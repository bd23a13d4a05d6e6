"""Pure rules of the books: values in, values out. What a posting may do, burn-down order, what time alone changes.

A `Book` is one account in memory, under its lock: figures, open grants, and the lines written so far. Every function
either changes the book completely or raises and leaves it as it was.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached, InsufficientCredits
from app.ledger.book import BY_TIME, Book, Cause, Draws, Kind, Lot, Posted, Source
from app.ledger.chain import Line, sign

_SOURCE_RANK = {Source.PROMOTIONAL: 0, Source.ADJUSTMENT: 1, Source.PURCHASED: 2}
_NEVER = float("inf")


def burn_order(lot: Lot) -> tuple[int, float, int, datetime, int]:
    """Sort key: priority, earliest expiry (none last), promotional before purchased, oldest, id (DESIGN 2)."""
    return (
        lot.priority,
        lot.expires_at.timestamp() if lot.expires_at else _NEVER,
        _SOURCE_RANK[lot.source],
        lot.created_at,
        lot.number,
    )


def burn_down(lots: Iterable[Lot], credits: int) -> Draws:
    """Split `credits` over `lots`, which stand in burn order.

    Raises: InsufficientCredits: the grants together hold less.
    """
    draws: list[tuple[int, int]] = []
    wanted = credits
    for lot in lots:
        if taken := min(wanted, lot.spendable):
            draws.append((lot.number, taken))
            wanted -= taken
            if not wanted:
                return tuple(draws)
    if wanted:
        raise InsufficientCredits(required_credits=credits, available_credits=credits - wanted)
    return tuple(draws)


def charge(book: Book, credits: int, cause: Cause) -> Posted:
    """Take `credits` (> 0) by burn-down. Raises: InsufficientCredits, and nothing has moved."""
    if credits > book.available:
        raise InsufficientCredits(required_credits=credits, available_credits=book.available)
    draws = burn_down(_burning(book), credits)
    entry = _enter(book, Kind.CHARGE, -credits, draws, cause)
    _take(book, draws)
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
) -> tuple[Lot, Posted | None]:
    """A new lot of `credits`. One that starts later is posted when it starts, and has no entry yet.

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
        created_at=book.at,
    )
    entry = _enter(book, _kind_of(lot), credits, ((lot.number, credits),), cause) if started else None
    book.grants += 1
    book.lots[lot.number] = lot
    book.made.add(lot.number)
    book._burning = None
    return lot, entry


def give_back(book: Book, draws: Draws, cause: Cause) -> list[Posted]:
    """Return what was drawn, into the grants it came from: one REVERSAL entry.

    What comes back to a grant that has expired since expires at once: both are visible (DESIGN 4). The lots of `draws`
    must be loaded. Raises: BalanceLimitReached.
    """
    credits = sum(drawn for _, drawn in draws)
    _check_room(book, credits)
    entries = [_enter(book, Kind.REVERSAL, credits, draws, cause)]
    for number, drawn in draws:
        lot = book.lots[number]
        lot.remaining += drawn
        lot.open = True
        book.touched.add(number)
    book._burning = None
    for number, _ in draws:
        lot = book.lots[number]
        if lot.expires_at is not None and lot.expires_at <= book.at:
            entries += _expire(book, lot, book.at)
    return entries


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
    entry = _enter(book, Kind.ADJUSTMENT, -credits, draws, cause)
    _take(book, draws)
    return credits, entry


def settle(book: Book) -> list[Posted]:
    """What time alone has changed up to `book.at`, in the order in which it happened, each entry dated at its time."""
    if book.next_change_at is None or book.next_change_at > book.at:
        return []
    entries: list[Posted] = []
    while due := [lot for lot in book.lots.values() if (when := lot.next_change_at) is not None and when <= book.at]:
        # Starts come before expiries of the same instant, so that a grant is there before it leaves.
        lot = min(due, key=lambda lot: (lot.next_change_at, lot.started, lot.number))
        entries += _expire(book, lot, _instant(lot)) if lot.started else _start(book, lot)
    return entries


def next_change_at(book: Book) -> datetime | None:
    """The next instant at which time alone changes the account; None when nothing is due ever."""
    return min((when for lot in book.lots.values() if (when := lot.next_change_at) is not None), default=None)


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


def _instant(lot: Lot) -> datetime:
    instant = lot.next_change_at
    if instant is None:
        raise ValueError(f"time does not change grant {lot.number}")
    return instant


def _start(book: Book, lot: Lot) -> list[Posted]:
    draws = ((lot.number, lot.credits),)
    cause = Cause(actor=lot.actor, reason=lot.reason, top_up_id=lot.top_up_id)
    entry = _enter(book, _kind_of(lot), lot.credits, draws, cause, at=_instant(lot))
    lot.started = True
    lot.remaining = lot.credits
    book.touched.add(lot.number)
    book._burning = None
    return [entry]


def _expire(book: Book, lot: Lot, at: datetime) -> list[Posted]:
    """The unclaimed part of `lot` leaves. What is claimed stays until its claim is released."""
    entries: list[Posted] = []
    if credits := lot.remaining - lot.claimed:
        entries.append(_enter(book, Kind.EXPIRY, -credits, ((lot.number, credits),), BY_TIME, at=at))
        lot.remaining -= credits
    lot.open = False
    book.touched.add(lot.number)
    book._burning = None
    return entries


def _take(book: Book, draws: Draws) -> None:
    for number, drawn in draws:
        lot = book.lots[number]
        lot.remaining -= drawn
        lot.open = lot.remaining > 0
        book.touched.add(number)


def _burning(book: Book) -> list[Lot]:
    """The book's open grants in burn order; sorted once while nothing but draws changes them."""
    if book._burning is None:
        book._burning = sorted((lot for lot in book.lots.values() if lot.open and lot.started), key=burn_order)
    return book._burning


def _kind_of(lot: Lot) -> Kind:
    if lot.top_up_id is not None:
        return Kind.TOP_UP if lot.source is Source.PURCHASED else Kind.GRANT
    return Kind.ADJUSTMENT if lot.source is Source.ADJUSTMENT else Kind.GRANT


def _enter(
    book: Book, kind: Kind, credits: int, draws: Draws, cause: Cause, *, owed: int = 0, at: datetime | None = None
) -> Posted:
    """Write one line: the only place where posted, owed, seq, version and the chain move."""
    balance_after = book.posted + credits
    if balance_after > MAX_CREDITS:
        raise BalanceLimitReached(figure="The balance")
    if book.owed + owed > MAX_CREDITS:
        raise BalanceLimitReached(figure="The debt")
    when = at or book.at
    line = Line(
        account_id=book.account_id,
        seq=book.seq + 1,
        version=book.version + 1,
        kind=kind.value,
        credits=credits,
        owed=owed,
        balance_after=balance_after,
        at=when if book.last_entry_at is None or when >= book.last_entry_at else book.last_entry_at,
        actor=cause.actor,
        reason=cause.reason,
        task_id=cause.task_id,
        block_run_id=cause.block_run_id,
        top_up_id=cause.top_up_id,
        request_id=cause.request_id,
        draws=draws,
    )
    entry = Posted(line, sign(line, after=book.last_mac, key=book.key))
    book.seq = line.seq
    book.version = line.version
    book.posted = balance_after
    book.owed += owed
    book.last_mac = entry.mac
    book.last_entry_at = line.at
    book.entries.append(entry)
    return entry
