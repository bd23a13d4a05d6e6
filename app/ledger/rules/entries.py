"""The elementary moves: one line written, one grant starting or leaving, one change of state without a line. Pure.

`rules` (what posts) and `claims` (what holds) are made of these; nobody else calls them.
"""

from collections.abc import Iterable
from datetime import datetime

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached, InsufficientCredits
from app.ledger.rules.account_state import (
    CAUSED_BY_TIME,
    AccountState,
    Cause,
    Draws,
    EntryKind,
    GrantSource,
    GrantState,
    LedgerEntry,
)
from app.ledger.rules.hash_chain import EntryContent, sign_entry

_SOURCE_RANK = {GrantSource.PROMOTIONAL: 0, GrantSource.ADJUSTMENT: 1, GrantSource.PURCHASED: 2}
_NEVER = float("inf")


def burn_order_key(lot: GrantState) -> tuple[int, float, int, datetime, int]:
    """Sort key: priority, earliest expiry (none last), promotional before purchased, oldest, id (DESIGN 2)."""
    return (
        lot.priority,
        lot.expires_at.timestamp() if lot.expires_at else _NEVER,
        _SOURCE_RANK[lot.source],
        lot.created_at,
        lot.number,
    )


def compute_draws(lots: Iterable[GrantState], credits: int) -> Draws:
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


def grants_in_burn_order(book: AccountState) -> list[GrantState]:
    """The book's open grants in burn order; sorted once while nothing but draws changes them."""
    if book.burn_order is None:
        book.burn_order = sorted(
            (lot for lot in book.grants.values() if lot.is_open and lot.is_started), key=burn_order_key
        )
    return book.burn_order


def draw(book: AccountState, draws: Draws) -> None:
    """Draw from the grants; one with nothing left closes."""
    for number, drawn in draws:
        lot = book.grants[number]
        lot.remaining -= drawn
        lot.is_open = lot.remaining > 0
        book.changed_grants.add(number)


def expire_grant(book: AccountState, lot: GrantState, at: datetime) -> list[LedgerEntry]:
    """The unclaimed part of `lot` leaves. What is claimed stays, and the grant open, until its claim is released."""
    entries: list[LedgerEntry] = []
    if credits := lot.remaining - lot.claimed:
        entries.append(append_entry(book, EntryKind.EXPIRY, -credits, ((lot.number, credits),), CAUSED_BY_TIME, at=at))
        lot.remaining -= credits
    lot.is_open = lot.remaining > 0
    book.changed_grants.add(lot.number)
    book.burn_order = None
    return entries


def bump_version(book: AccountState) -> None:
    """A new version without a line: what is held has changed, or what the account's tasks may do."""
    book.version += 1


def append_entry(
    book: AccountState,
    kind: EntryKind,
    credits: int,
    draws: Draws,
    cause: Cause,
    *,
    owed: int = 0,
    at: datetime | None = None,
) -> LedgerEntry:
    """Write one line: the only place where posted, owed, seq and the chain move. Raises: BalanceLimitReached."""
    balance_after = book.posted + credits
    if balance_after > MAX_CREDITS:
        raise BalanceLimitReached(figure="The balance")
    if book.owed + owed > MAX_CREDITS:
        raise BalanceLimitReached(figure="The debt")
    when = at or book.at
    line = EntryContent(
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
        hold_number=cause.hold_number,
    )
    entry = LedgerEntry(line, sign_entry(line, previous_mac=book.last_mac, key=book.signing_key))
    book.seq = line.seq
    book.version = line.version
    book.posted = balance_after
    book.owed += owed
    book.last_mac = entry.mac
    book.last_entry_at = line.at
    book.new_entries.append(entry)
    return entry
