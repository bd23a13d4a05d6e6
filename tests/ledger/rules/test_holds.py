"""Rules: holds and budgets."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from app.errors import BudgetReached, InsufficientCredits
from app.ledger.rules import balance_changes, holds
from app.ledger.rules.account_state import AccountState, EntryKind, GrantSource, Hold, HoldStatus
from tests.ledger.rules.test_balance_changes import CAUSE, add_grant, advance_to, hours, new_account

HOUR = 3600
DAY = 24 * HOUR


def place(account: AccountState, credits: int, **more: Any) -> Hold:
    """A hold for a block run, with a timeout of one hour by default."""
    asked: dict[str, Any] = {"task_id": "task", "block_run_id": "run", "timeout_seconds": HOUR, "actor": "service:test"}
    return holds.place_hold(account, credits, **(asked | more))


def place_budget(account: AccountState, credits: int, **more: Any) -> Hold:
    return place(account, credits, block_run_id=None, **more)


def due_holds(account: AccountState) -> list[Hold]:
    return [hold for hold in account.holds.values() if hold.is_open and hold.expires_at <= account.at]


def entry_list(account: AccountState) -> list[tuple[str, int, datetime]]:
    return [(entry.kind, entry.credits, entry.at) for entry in account.new_entries]


def figures(account: AccountState) -> tuple[int, int, int]:
    return account.posted, account.held, account.available


def test_held_credits_are_not_available_and_are_drawn_by_the_capture() -> None:
    account = new_account()
    add_grant(account, 10)
    hold = place(account, 7)
    assert figures(account) == (10, 7, 3)
    with pytest.raises(InsufficientCredits) as error:
        balance_changes.charge(account, 4, CAUSE)
    assert (error.value.required_credits, error.value.available_credits) == (4, 3)
    entry = holds.charge_hold(account, hold, 5, CAUSE)
    holds.close_hold(account, hold, HoldStatus.CAPTURED)
    assert (entry.kind, entry.credits, entry.draws, entry.hold_number) == (
        EntryKind.CHARGE,
        -5,
        ((1, 5),),
        1,
    )
    assert figures(account) == (5, 0, 5)
    assert (hold.status, hold.captured, hold.released, hold.remaining) == (HoldStatus.CAPTURED, 5, 2, 0)
    assert not due_holds(account)


def test_unclaimed_credits_expire_on_time_and_claimed_ones_when_they_are_released() -> None:
    account = new_account()
    add_grant(account, 10, expires_at=hours(1))
    hold = place(account, 4, timeout_seconds=DAY)
    advance_to(account, hours(2))
    assert entry_list(account)[1:] == [(EntryKind.EXPIRY, -6, hours(1))]
    assert figures(account) == (4, 4, 0)
    advance_to(account, hours(3))
    holds.close_hold(account, hold, HoldStatus.VOIDED)
    assert entry_list(account)[2:] == [(EntryKind.EXPIRY, -4, hours(3))]
    assert figures(account) == (0, 0, 0)
    assert not account.grants[1].is_open


def test_a_claim_on_an_expired_grant_can_be_captured() -> None:
    account = new_account()
    add_grant(account, 10, expires_at=hours(1))
    hold = place(account, 4, timeout_seconds=DAY)
    advance_to(account, hours(2))
    holds.charge_hold(account, hold, 3, CAUSE)
    holds.close_hold(account, hold, HoldStatus.CAPTURED)
    assert entry_list(account)[1:] == [
        (EntryKind.EXPIRY, -6, hours(1)), (EntryKind.CHARGE, -3, hours(2)), (EntryKind.EXPIRY, -1, hours(2)),
    ]  # fmt: skip


def test_a_hold_expires_at_its_own_instant_whenever_that_is_applied() -> None:
    account = new_account()
    add_grant(account, 10, expires_at=hours(4))
    hold = place(account, 4)
    advance_to(account, hours(1) - timedelta(microseconds=1))
    assert (hold.status, account.available) == (HoldStatus.OPEN, 6)
    advance_to(account, hours(9))
    assert (hold.status, hold.closed_at, hold.released) == (HoldStatus.EXPIRED, hours(1), 4)
    assert entry_list(account)[1:] == [(EntryKind.EXPIRY, -10, hours(4))]
    assert account.expired_holds == [hold]


def test_a_grant_that_expires_together_with_its_hold_has_one_expiry_entry() -> None:
    account = new_account()
    add_grant(account, 10, expires_at=hours(1))
    place(account, 4)
    advance_to(account, hours(1))
    assert entry_list(account)[1:] == [(EntryKind.EXPIRY, -10, hours(1))]


def test_a_renewed_claim_outlives_its_grant_by_24_hours_at_most() -> None:
    account = new_account()
    add_grant(account, 10, expires_at=hours(1))
    budget = place_budget(account, 10, timeout_seconds=DAY)
    assert budget.expires_at == hours(24)
    advance_to(account, hours(20))
    holds.renew_timeout(account, budget)
    inner = place(account, 3, parent_budget=budget, timeout_seconds=DAY)
    assert (budget.expires_at, inner.expires_at) == (hours(25), hours(25))
    advance_to(account, hours(25))
    assert entry_list(account)[1:] == [(EntryKind.EXPIRY, -3, hours(25)), (EntryKind.EXPIRY, -7, hours(25))]
    assert figures(account) == (0, 0, 0)


def test_claims_are_drawn_in_burn_order() -> None:
    account = new_account()
    add_purchased_grant = add_grant(account, 5, source=GrantSource.PURCHASED)
    budget = place_budget(account, 5)
    ends_soon = add_grant(account, 5, expires_at=hours(2))
    preferred = add_grant(account, 5, priority=-1)
    holds.add_to_budget(account, budget, 8)
    assert holds.charge_hold(account, budget, 7, CAUSE).draws == ((preferred, 5), (ends_soon, 2))
    assert holds.charge_hold(account, budget, 4, CAUSE).draws == ((ends_soon, 1), (add_purchased_grant, 3))
    assert figures(account) == (4, 2, 2)


def test_a_hold_in_a_budget_takes_from_it_and_returns_to_it() -> None:
    account = new_account()
    add_grant(account, 100)
    budget = place_budget(account, 30)
    inner = place(account, 20, parent_budget=budget)
    assert (figures(account), budget.remaining, budget.allocated, inner.remaining) == ((100, 30, 70), 10, 20, 20)
    with pytest.raises(BudgetReached) as error:
        holds.charge_hold(account, budget, 11, CAUSE)
    assert (error.value.required_credits, error.value.remaining_credits) == (11, 10)
    holds.charge_hold(account, inner, 5, CAUSE)
    holds.close_hold(account, inner, HoldStatus.CAPTURED)
    assert (figures(account), budget.remaining, budget.allocated) == ((95, 25, 70), 25, 5)


def test_a_hold_returns_to_the_account_if_its_budget_is_closed() -> None:
    account = new_account()
    add_grant(account, 100)
    budget = place_budget(account, 30)
    inner = place(account, 20, parent_budget=budget)
    holds.close_hold(account, budget, HoldStatus.CAPTURED)
    assert figures(account) == (100, 20, 80)
    holds.close_hold(account, inner, HoldStatus.VOIDED)
    assert figures(account) == (100, 0, 100)
    assert (budget.remaining, budget.status) == (0, HoldStatus.CAPTURED)
    assert (budget.allocated, budget.released) == (0, 30)


def test_credits_of_an_expired_grant_do_not_return_to_the_budget() -> None:
    account = new_account()
    add_grant(account, 30, expires_at=hours(1))
    budget = place_budget(account, 30, timeout_seconds=DAY)
    inner = place(account, 20, parent_budget=budget, timeout_seconds=DAY)
    advance_to(account, hours(2))
    holds.close_hold(account, inner, HoldStatus.VOIDED)
    assert entry_list(account)[1:] == [(EntryKind.EXPIRY, -20, hours(2))]
    assert (figures(account), budget.remaining) == ((10, 10, 0), 10)
    assert (budget.allocated, budget.released) == (0, 20)


def test_only_closing_work_draws_from_the_closing_reserve() -> None:
    account = new_account()
    add_grant(account, 100)
    budget = place_budget(account, 30, closing_reserve=10)
    for beyond in (
        lambda: holds.charge_hold(account, budget, 21, CAUSE),
        lambda: place(account, 21, parent_budget=budget),
    ):
        with pytest.raises(BudgetReached) as error:
            beyond()
        assert (error.value.required_credits, error.value.remaining_credits) == (21, 20)
    holds.charge_hold(account, budget, 24, CAUSE, is_closing=True)
    assert (budget.remaining, budget.closing_reserve) == (6, 6)
    with pytest.raises(BudgetReached):
        holds.charge_hold(account, budget, 1, CAUSE)
    holds.charge_hold(account, budget, 6, CAUSE, is_closing=True)
    assert (budget.remaining, budget.closing_reserve, figures(account)) == (0, 0, (70, 0, 70))


def test_adding_credits_reopens_an_expired_budget() -> None:
    account = new_account()
    add_grant(account, 100)
    budget = place_budget(account, 30)
    advance_to(account, hours(2))
    assert (budget.status, figures(account)) == (HoldStatus.EXPIRED, (100, 0, 100))
    holds.add_to_budget(account, budget, 12)
    assert (budget.status, budget.closed_at, budget.expires_at) == (HoldStatus.OPEN, None, hours(3))
    assert (budget.credits, budget.released, budget.remaining) == (42, 30, 12)
    assert (figures(account), account.open_holds) == ((100, 12, 88), 1)


def test_renewing_a_budget_renews_the_budgets_around_it() -> None:
    account = new_account()
    add_grant(account, 100)
    outer = place_budget(account, 50)
    inner = place_budget(account, 20, task_id="child", parent_budget=outer, timeout_seconds=2 * HOUR)
    advance_to(account, hours(0.5))
    holds.renew_timeout(account, inner)
    assert (inner.expires_at, outer.expires_at) == (hours(2.5), hours(1.5))
