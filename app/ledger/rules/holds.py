"""Pure rules of holds: claiming credits of named grants, drawing them, letting them go.

A hold claims by burn-down; what it claims is nobody else's until it is captured, voided or lapses. An *envelope* is a
hold for a whole task: block runs draw on it one by one, and holds within it take their claims from it and give back
what they did not need. A claim outlives its grant's expiry, by 24 h at most: released later, it expires then.

Every function either changes the book completely or raises and leaves it as it was. The holds that it touches, and the
envelopes around them, must be in the book.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from app.errors import BudgetReached, InsufficientCredits
from app.ledger.rules import debt
from app.ledger.rules.account_state import (
    AccountState,
    Cause,
    Draws,
    EntryKind,
    GrantState,
    Hold,
    HoldStatus,
    LedgerEntry,
)
from app.ledger.rules.entries import (
    append_entry,
    bump_version,
    burn_order_key,
    compute_draws,
    expire_grant,
    grants_in_burn_order,
)

CLAIM_OUTLIVES_GRANT: Final = timedelta(hours=24)
MAX_TIMEOUT_SECONDS: Final = 24 * 3600


def place_hold(
    book: AccountState,
    credits: int,
    *,
    task_id: str,
    block_run_id: str | None,
    timeout_seconds: int,
    actor: str,
    parent_budget: Hold | None = None,
    closing_reserve: int = 0,
    terms: Any = None,
    request_hash: bytes | None = None,
    request_id: str | None = None,
) -> Hold:
    """Claim `credits`: of the account, or of the open envelope `within`.

    Raises: InsufficientCredits, BudgetReached (of the envelope around it).
    """
    claims = _claim(book, credits, parent_budget)
    hold = Hold(
        number=book.hold_count + 1,
        task_id=task_id,
        block_run_id=block_run_id,
        parent_budget=parent_budget.number if parent_budget is not None else None,
        credits=credits,
        closing_reserve=closing_reserve,
        claims=dict(claims),
        timeout_seconds=timeout_seconds,
        placed_at=book.at,
        expires_at=book.at,
        terms=terms,
        request_hash=request_hash,
        actor=actor,
        request_id=request_id,
    )
    hold.expires_at = _until(book, hold)
    book.hold_count += 1
    book.open_holds += 1
    book.holds[hold.number] = hold
    book.new_holds.add(hold.number)
    return hold


def add_to_budget(book: AccountState, envelope: Hold, credits: int) -> None:
    """Put `credits` more into an envelope, opening it again if it was closed.

    They come from the envelope around it; once that is closed, from the account, and it stands alone from then on.
    Raises: InsufficientCredits, BudgetReached (of the envelope around it).
    """
    around = book.holds[envelope.parent_budget] if envelope.parent_budget is not None else None
    if around is not None and not around.is_open:
        around = None
    claims = _claim(book, credits, around)
    envelope.parent_budget = around.number if around is not None else None
    for number, claimed in claims:
        envelope.claims[number] = envelope.claims.get(number, 0) + claimed
    envelope.credits += credits
    book.open_holds += not envelope.is_open
    envelope.status = HoldStatus.OPEN
    envelope.closed_at = None
    renew_timeout(book, envelope)


def charge_hold(book: AccountState, hold: Hold, credits: int, cause: Cause, *, is_closing: bool = False) -> LedgerEntry:
    """Charge `credits` (> 0) to an open hold. Work that is `closing` may use the reserve too.

    Raises: BudgetReached, and nothing has moved.
    """
    free = hold.remaining - (0 if is_closing else hold.closing_reserve)
    if credits > free:
        raise BudgetReached(task_id=hold.task_id, required_credits=credits, remaining_credits=max(0, free))
    draws = _split(book, hold, credits)
    entry = append_entry(book, EntryKind.CHARGE, -credits, draws, cause._replace(hold_number=hold.number))
    for number, drawn in draws:
        lot = book.grants[number]
        lot.remaining -= drawn
        lot.claimed -= drawn
        lot.is_open = lot.remaining > 0
        book.changed_grants.add(number)
        _unclaim(hold, number, drawn)
    book.held -= credits
    hold.captured += credits
    hold.closing_reserve = min(hold.closing_reserve, hold.remaining)
    _touch(book, hold)
    return entry


def close_hold(book: AccountState, hold: Hold, status: HoldStatus, *, at: datetime | None = None) -> list[LedgerEntry]:
    """Close an open hold: what it still claims goes back to the envelope around it, or else to the account.

    Of a grant that has expired meanwhile it goes to neither: it leaves now, with an entry of its own. What the account
    gets back pays its debt first. Returns: the entries of both.
    What does not go back to the envelope is released by it too, and by those around that one: none of it was spent.
    """
    when = at or book.at
    surrounding = _around(book, hold)
    around = surrounding[0] if surrounding else None
    rest = hold.remaining
    freed = 0
    expired: list[GrantState] = []
    for number, claimed in hold.claims.items():
        lot = book.grants[number]
        gone = lot.expires_at is not None and lot.expires_at <= when
        if around is not None and around.is_open and not gone:
            around.claims[number] = around.claims.get(number, 0) + claimed
            around.allocated -= claimed
            continue
        for envelope in surrounding:
            envelope.allocated -= claimed
            envelope.released += claimed
        lot.claimed -= claimed
        book.changed_grants.add(number)
        freed += claimed
        if gone:
            expired.append(lot)
    hold.claims = {}
    hold.closing_reserve = 0
    hold.released += rest
    book.open_holds -= 1
    hold.status = status
    hold.closed_at = when
    _touch(book, hold)
    for envelope in surrounding:
        _touch(book, envelope)
    if freed:
        book.held -= freed
        bump_version(book)
    entries = [entry for lot in expired for entry in expire_grant(book, lot, when)]
    return entries + debt.pay_debt(book, when)


def renew_timeout(book: AccountState, hold: Hold) -> None:
    """Start the timeout of an envelope anew, and of those around it: somebody works in there."""
    for one in (hold, *_around(book, hold)):
        if one.is_open:
            one.expires_at = _until(book, one)
            _touch(book, one)


def due_holds(book: AccountState) -> Iterable[Hold]:
    """The open holds whose time is over."""
    return [hold for hold in book.holds.values() if hold.is_open and hold.expires_at <= book.at]


def expire_hold(book: AccountState, hold: Hold) -> list[LedgerEntry]:
    """Close a hold whose time is over, dated at that instant."""
    book.expired_holds.append(hold)
    return close_hold(book, hold, HoldStatus.EXPIRED, at=hold.expires_at)


def _around(book: AccountState, hold: Hold) -> list[Hold]:
    """The envelopes around a hold, from the inside, open or not."""
    found: list[Hold] = []
    while hold.parent_budget is not None:
        hold = book.holds[hold.parent_budget]
        found.append(hold)
    return found


def _claim(book: AccountState, credits: int, within: Hold | None) -> Draws:
    if within is not None:
        free = within.remaining - within.closing_reserve
        if credits > free:
            raise BudgetReached(task_id=within.task_id, required_credits=credits, remaining_credits=max(0, free))
        claims = _split(book, within, credits)
        for number, claimed in claims:
            _unclaim(within, number, claimed)
        within.allocated += credits
        _touch(book, within)
        return claims
    if credits > book.available:
        raise InsufficientCredits(required_credits=credits, available_credits=book.available)
    claims = compute_draws(grants_in_burn_order(book), credits) if credits else ()
    for number, claimed in claims:
        book.grants[number].claimed += claimed
        book.changed_grants.add(number)
    if credits:
        book.held += credits
        bump_version(book)
    return claims


def _split(book: AccountState, hold: Hold, credits: int) -> Draws:
    """`credits` of a hold's claims, in burn order."""
    if len(hold.claims) == 1:
        return ((next(iter(hold.claims)), credits),) if credits else ()
    draws: list[tuple[int, int]] = []
    for lot in sorted((book.grants[number] for number in hold.claims), key=burn_order_key):
        if taken := min(credits, hold.claims[lot.number]):
            draws.append((lot.number, taken))
            credits -= taken
    return tuple(draws)


def _unclaim(hold: Hold, number: int, credits: int) -> None:
    hold.claims[number] -= credits
    if not hold.claims[number]:
        del hold.claims[number]


def _until(book: AccountState, hold: Hold) -> datetime:
    """When a hold lapses that is placed or renewed now: no claim outlives its grant's expiry by more than 24 h."""
    until = book.at + timedelta(seconds=hold.timeout_seconds)
    for number in hold.claims:
        if (expires_at := book.grants[number].expires_at) is not None:
            until = min(until, expires_at + CLAIM_OUTLIVES_GRANT)
    return until


def _touch(book: AccountState, hold: Hold) -> None:
    if hold.number not in book.new_holds:
        book.changed_holds.add(hold.number)
