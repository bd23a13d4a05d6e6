"""Burn order: rules that decide which grants pay, and how much each of them pays."""

from collections.abc import Iterable
from datetime import datetime

from app.ledger.rules.account_state import AccountState, Draws, GrantSource, GrantState

_SOURCE_RANK = {GrantSource.PROMOTIONAL: 0, GrantSource.ADJUSTMENT: 1, GrantSource.PURCHASED: 2}
_NEVER = float("inf")


def burn_order_key(grant: GrantState) -> tuple[int, float, int, datetime, int]:
    """Return the sort key: priority, earliest expiry (no expiry last), promotional before purchased, oldest, number."""
    return (
        grant.priority,
        grant.expires_at.timestamp() if grant.expires_at else _NEVER,
        _SOURCE_RANK[grant.source],
        grant.created_at,
        grant.number,
    )


def grants_in_burn_order(account: AccountState) -> list[GrantState]:
    """Return the open, started grants of the account. The order is cached until the set of open grants changes."""
    if account.burn_order is None:
        account.burn_order = sorted(
            (grant for grant in account.grants.values() if grant.is_open and grant.is_started), key=burn_order_key
        )
    return account.burn_order


def compute_draws(grants: Iterable[GrantState], credits: int) -> Draws:
    """Split `credits` over `grants`, which are in burn order.

    Raises: ValueError: the grants together have fewer credits. The caller must check this first.
    """
    draws: list[tuple[int, int]] = []
    missing = credits
    for grant in grants:
        if drawn := min(missing, grant.spendable):
            draws.append((grant.number, drawn))
            missing -= drawn
            if not missing:
                return tuple(draws)
    if missing:
        raise ValueError(f"the grants have {credits - missing} spendable credits, not {credits}")
    return tuple(draws)


def draw(account: AccountState, draws: Draws) -> None:
    """Take the draws from their grants. A grant with no credits left is closed."""
    for number, drawn in draws:
        grant = account.grants[number]
        grant.remaining -= drawn
        grant.is_open = grant.remaining > 0
        account.changed_grants.add(number)


def return_to_grants(account: AccountState, draws: Draws) -> None:
    """Put drawn credits back into their grants, which must be loaded."""
    for number, drawn in draws:
        grant = account.grants[number]
        grant.remaining += drawn
        grant.is_open = True
        account.changed_grants.add(number)
    account.burn_order = None
