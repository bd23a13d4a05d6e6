"""Rules for holds and budgets: claim credits of grants, draw from them, release them.

A hold claims credits of grants in burn order. Nothing else can spend them until the hold is captured, is voided or
expires. A *budget* is a hold for a whole task: the block runs of the task draw from it one by one. A hold inside a
budget takes its claims from the budget, and returns unused claims to it. A claim can last up to 24 hours longer than
its grant. Credits that are released after their grant has expired expire at once.

The holds that an operation changes, and the budgets that contain them, must be in `account.holds`.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from app.errors import BudgetReached
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
from app.ledger.rules.burn_order import burn_order_key, compute_draws, draw, grants_in_burn_order
from app.ledger.rules.debt import insufficient_credits, pay_debt
from app.ledger.rules.entries import append_entry, bump_version, expire_grant, has_expired

CLAIM_OUTLIVES_GRANT: Final = timedelta(hours=24)
MAX_TIMEOUT_SECONDS: Final = 24 * 3600


def place_hold(
    account: AccountState,
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
    """Claim `credits` of the account, or of the open budget `parent_budget`.

    Raises: InsufficientCredits; BudgetReached: the parent budget has too few credits.
    """
    claims = _claim(account, credits, parent_budget)
    hold = Hold(
        account_id=account.account_id,
        number=account.hold_count + 1,
        task_id=task_id,
        block_run_id=block_run_id,
        parent_budget=parent_budget.number if parent_budget is not None else None,
        credits=credits,
        closing_reserve=closing_reserve,
        claims=dict(claims),
        timeout_seconds=timeout_seconds,
        placed_at=account.at,
        expires_at=account.at,
        terms=terms,
        request_hash=request_hash,
        actor=actor,
        request_id=request_id,
    )
    hold.expires_at = _expiry(account, hold)
    account.hold_count += 1
    account.open_holds += 1
    account.holds[hold.number] = hold
    account.new_holds.add(hold.number)
    return hold


def add_to_budget(
    account: AccountState, budget: Hold, credits: int, *, closing_reserve: int = 0, outside_reserve: int = 0
) -> None:
    """Add `credits` to a budget and restart its timeout. A closed budget is reopened.

    The closing reserve is raised to `closing_reserve`, or less if otherwise fewer than `outside_reserve` credits of the
    budget would remain outside it.

    The credits come from the parent budget if it is open. Otherwise they come from the account, and the budget then has
    no parent.
    Raises: InsufficientCredits; BudgetReached: the parent budget has too few credits.
    """
    parent = account.holds[budget.parent_budget] if budget.parent_budget is not None else None
    if parent is not None and not parent.is_open:
        parent = None
    claims = _claim(account, credits, parent)
    budget.parent_budget = parent.number if parent is not None else None
    for number, claimed in claims:
        _add_claim(budget, number, claimed)
    budget.credits += credits
    budget.closing_reserve = max(budget.closing_reserve, min(closing_reserve, budget.remaining - outside_reserve))
    account.open_holds += not budget.is_open
    budget.status = HoldStatus.OPEN
    budget.closed_at = None
    renew_timeout(account, budget)


def charge_hold(
    account: AccountState, hold: Hold, credits: int, cause: Cause, *, is_closing: bool = False
) -> LedgerEntry:
    """Charge `credits` (> 0) to an open hold. Only closing work may use the closing reserve.

    Raises: BudgetReached.
    """
    free = hold.remaining - (0 if is_closing else hold.closing_reserve)
    _check_budget(hold, credits, free)
    draws = _draws_of_hold(account, hold, credits)
    entry = append_entry(account, EntryKind.CHARGE, -credits, draws, cause._replace(hold_number=hold.number))
    draw(account, draws)
    for number, drawn in draws:
        account.grants[number].claimed -= drawn
        _remove_claim(hold, number, drawn)
    account.held -= credits
    hold.captured += credits
    hold.closing_reserve = min(hold.closing_reserve, hold.remaining)
    _mark_changed(account, hold)
    return entry


def close_hold(
    account: AccountState, hold: Hold, status: HoldStatus, *, at: datetime | None = None
) -> list[LedgerEntry]:
    """Close an open hold. Its remaining claims return to its parent budget if that is open, otherwise to the account.

    Claimed credits of a grant that has expired meanwhile do not return: they expire now, with an EXPIRY entry. Claims
    that do not return to the parent are counted as released in all budgets that contain the hold. Credits that return
    to the account first pay its debt. `at` is the time of the closing, by default `account.at`.

    Returns: the entries of expiries and of the debt payment.
    """
    when = at or account.at
    budgets = _surrounding_budgets(account, hold)
    parent = budgets[0] if budgets and budgets[0].is_open else None
    remaining = hold.remaining
    freed = 0
    expired: list[GrantState] = []
    for number, claimed in hold.claims.items():
        grant = account.grants[number]
        is_expired = has_expired(grant, when)
        if parent is not None and not is_expired:
            _add_claim(parent, number, claimed)
            parent.allocated -= claimed
            continue
        for budget in budgets:
            budget.allocated -= claimed
            budget.released += claimed
        grant.claimed -= claimed
        account.changed_grants.add(number)
        freed += claimed
        if is_expired:
            expired.append(grant)
    hold.claims = {}
    hold.closing_reserve = 0
    hold.released += remaining
    hold.status = status
    hold.closed_at = max(when, hold.placed_at)
    account.open_holds -= 1
    for changed in (hold, *budgets):
        _mark_changed(account, changed)
    if freed:
        account.held -= freed
        bump_version(account)
    entries = [entry for grant in expired for entry in expire_grant(account, grant, when)]
    return entries + pay_debt(account, when)


def renew_timeout(account: AccountState, hold: Hold) -> None:
    """Restart the timeout of an open budget, and of the open budgets that contain it."""
    for budget in (hold, *_surrounding_budgets(account, hold)):
        if budget.is_open:
            budget.expires_at = _expiry(account, budget)
            _mark_changed(account, budget)


def expire_hold(account: AccountState, hold: Hold) -> list[LedgerEntry]:
    """Close a hold whose timeout has passed. The time of the closing is `hold.expires_at`."""
    account.expired_holds.append(hold)
    return close_hold(account, hold, HoldStatus.EXPIRED, at=hold.expires_at)


def _surrounding_budgets(account: AccountState, hold: Hold) -> list[Hold]:
    """Return the open and closed budgets that contain a hold, innermost first."""
    found: list[Hold] = []
    while hold.parent_budget is not None:
        hold = account.holds[hold.parent_budget]
        found.append(hold)
    return found


def _claim(account: AccountState, credits: int, parent: Hold | None) -> Draws:
    if parent is not None:
        _check_budget(parent, credits, parent.remaining - parent.closing_reserve)
        claims = _draws_of_hold(account, parent, credits)
        for number, claimed in claims:
            _remove_claim(parent, number, claimed)
        parent.allocated += credits
        _mark_changed(account, parent)
        return claims
    if credits > account.available:
        raise insufficient_credits(account, credits)
    if not credits:
        return ()
    claims = compute_draws(grants_in_burn_order(account), credits)
    for number, claimed in claims:
        account.grants[number].claimed += claimed
        account.changed_grants.add(number)
    account.held += credits
    bump_version(account)
    return claims


def _check_budget(hold: Hold, credits: int, free: int) -> None:
    if credits > free:
        raise BudgetReached(task_id=hold.task_id, required_credits=credits, remaining_credits=max(0, free))


def _draws_of_hold(account: AccountState, hold: Hold, credits: int) -> Draws:
    """Compute the draws that take `credits` from the claims of a hold, in burn order."""
    if len(hold.claims) == 1:
        return ((next(iter(hold.claims)), credits),) if credits else ()
    draws: list[tuple[int, int]] = []
    for grant in sorted((account.grants[number] for number in hold.claims), key=burn_order_key):
        if drawn := min(credits, hold.claims[grant.number]):
            draws.append((grant.number, drawn))
            credits -= drawn
    return tuple(draws)


def _add_claim(hold: Hold, number: int, credits: int) -> None:
    hold.claims[number] = hold.claims.get(number, 0) + credits


def _remove_claim(hold: Hold, number: int, credits: int) -> None:
    hold.claims[number] -= credits
    if not hold.claims[number]:
        del hold.claims[number]


def _expiry(account: AccountState, hold: Hold) -> datetime:
    """Return the expiry of a hold whose timeout starts now."""
    expires_at = account.at + timedelta(seconds=hold.timeout_seconds)
    for number in hold.claims:
        if (grant_expires_at := account.grants[number].expires_at) is not None:
            expires_at = min(expires_at, grant_expires_at + CLAIM_OUTLIVES_GRANT)
    return expires_at


def _mark_changed(account: AccountState, hold: Hold) -> None:
    if hold.number not in account.new_holds:
        account.changed_holds.add(hold.number)
