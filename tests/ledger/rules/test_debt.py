"""Rules: debt and frozen credits."""

import pytest

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached
from app.ledger.rules import balance_changes, debt, holds
from app.ledger.rules.account_state import AccountState, EntryKind, GrantSource, GrantState, HoldStatus
from tests.ledger.rules.test_balance_changes import CAUSE, add_grant, advance_to, hours, new_account
from tests.ledger.rules.test_holds import DAY, place, place_budget


def add_purchased_grant(account: AccountState, credits: int, **more: object) -> GrantState:
    """A purchased grant, which pays debt."""
    return account.grants[add_grant(account, credits, **({"source": GrantSource.PURCHASED} | more))]


def add_debt(account: AccountState, credits: int) -> None:
    """Add a debt that nothing pays."""
    debt.withdraw(account, None, credits, CAUSE)
    assert account.owed == credits


def entry_changes(account: AccountState) -> list[tuple[str, int, int]]:
    """Kind, credits and owed of every entry."""
    return [(entry.kind, entry.credits, entry.owed) for entry in account.new_entries]


def figures(account: AccountState) -> tuple[int, int, int, int, int]:
    return account.posted, account.held, account.frozen, account.owed, account.available


def test_free_credits_are_withdrawn_and_the_rest_becomes_debt() -> None:
    account = new_account()
    grant = add_purchased_grant(account, 100)
    balance_changes.charge(account, 30, CAUSE)
    place(account, 20)
    debt.freeze(account, 10)
    assert debt.withdraw(account, grant, 100, CAUSE) == 60
    assert entry_changes(account)[2:] == [("REFUND", -40, 0), ("DEBT", 0, 60)]
    assert figures(account) == (30, 20, 10, 60, 0)


def test_other_grants_pay_a_new_debt_at_once() -> None:
    account = new_account()
    promotional, first = (
        add_purchased_grant(account, 50, source=GrantSource.PROMOTIONAL),
        add_purchased_grant(account, 100),
    )
    other = add_purchased_grant(account, 30)
    balance_changes.charge(account, 150, CAUSE)
    assert (promotional.remaining, first.remaining, other.remaining) == (0, 0, 30)
    debt.withdraw(account, first, 100, CAUSE)
    assert entry_changes(account)[4:] == [("DEBT", 0, 100), ("DEBT_PAID", -30, -30)]
    assert account.new_entries[-1].draws == ((other.number, 30),)
    assert (account.new_entries[-1].actor, figures(account)) == ("debt", (0, 0, 0, 70, 0))


@pytest.mark.parametrize(
    ("source", "pays_debt", "pays"),
    [
        (GrantSource.PURCHASED, None, True), (GrantSource.ADJUSTMENT, None, True),
        (GrantSource.PROMOTIONAL, None, False), (GrantSource.PROMOTIONAL, True, True),
        (GrantSource.PURCHASED, False, False),
    ],
)  # fmt: skip
def test_a_new_grant_pays_debt_unless_it_is_promotional_or_the_operator_decides_otherwise(
    source: GrantSource, pays_debt: bool | None, pays: bool
) -> None:
    account = new_account()
    add_debt(account, 30)
    grant = add_purchased_grant(account, 100, source=source, pays_debt=pays_debt)
    assert grant.pays_debt is pays
    assert entry_changes(account)[2:] == ([("DEBT_PAID", -30, -30)] if pays else [])
    assert figures(account) == ((70, 0, 0, 0, 70) if pays else (100, 0, 0, 30, 100))


def test_a_scheduled_grant_pays_debt_when_it_starts() -> None:
    account = new_account()
    add_debt(account, 30)
    add_purchased_grant(account, 100, starts_at=hours(1))
    assert figures(account) == (0, 0, 0, 30, 0)
    advance_to(account, hours(2))
    assert [(one.kind, one.at) for one in account.new_entries[1:]] == [
        ("GRANT", hours(1)),
        ("DEBT_PAID", hours(1)),
    ]
    assert figures(account) == (70, 0, 0, 0, 70)


def test_a_grant_that_expires_when_another_starts_pays_nothing() -> None:
    account = new_account()
    expires_in = add_purchased_grant(account, 40, expires_at=hours(1))
    debt.freeze(account, 40)
    add_debt(account, 30)
    starts = add_purchased_grant(account, 50, starts_at=hours(1))
    advance_to(account, hours(1))
    assert [(one.kind, one.draws) for one in account.new_entries[2:]] == [
        ("GRANT", ((starts.number, 50),)),
        ("DEBT_PAID", ((starts.number, 30),)),
        ("EXPIRY", ((expires_in.number, 40),)),
    ]
    assert figures(account) == (20, 0, 40, 0, 0)


def test_a_reversal_pays_debt() -> None:
    account = new_account()
    add_purchased_grant(account, 50)
    charge = balance_changes.charge(account, 50, CAUSE)
    add_debt(account, 30)
    entries = balance_changes.reverse(account, charge.draws, CAUSE)
    assert [entry.kind for entry in entries] == [EntryKind.REVERSAL, EntryKind.DEBT_PAID]
    assert figures(account) == (20, 0, 0, 0, 20)


def test_a_reversal_into_an_expired_grant_pays_nothing() -> None:
    account = new_account()
    add_purchased_grant(account, 50, expires_at=hours(1))
    charge = balance_changes.charge(account, 50, CAUSE)
    add_debt(account, 30)
    advance_to(account, hours(2))
    balance_changes.reverse(account, charge.draws, CAUSE)
    assert entry_changes(account)[3:] == [("REVERSAL", 50, 0), ("EXPIRY", -50, 0)]
    assert figures(account) == (0, 0, 0, 30, 0)


@pytest.mark.parametrize("status", [HoldStatus.VOIDED, HoldStatus.CAPTURED])
def test_credits_released_by_a_hold_pay_debt(status: HoldStatus) -> None:
    account = new_account()
    add_purchased_grant(account, 50)
    hold = place(account, 50)
    add_debt(account, 30)
    holds.charge_hold(account, hold, 5, CAUSE)
    entries = holds.close_hold(account, hold, status)
    assert [(entry.kind, entry.credits) for entry in entries] == [("DEBT_PAID", -30)]
    assert figures(account) == (15, 0, 0, 0, 15)


def test_an_expired_hold_pays_debt_at_the_instant_of_its_expiry() -> None:
    account = new_account()
    add_purchased_grant(account, 50)
    place(account, 50, timeout_seconds=3600)
    add_debt(account, 30)
    advance_to(account, hours(5))
    assert [(one.kind, one.at) for one in account.new_entries[2:]] == [("DEBT_PAID", hours(1))]
    assert figures(account) == (20, 0, 0, 0, 20)


def test_credits_returned_to_an_open_budget_pay_debt_when_the_budget_closes() -> None:
    account = new_account()
    add_purchased_grant(account, 50)
    budget = place_budget(account, 50)
    inner = place(account, 20, parent_budget=budget)
    add_debt(account, 30)
    assert holds.close_hold(account, inner, HoldStatus.VOIDED) == []
    assert (budget.remaining, figures(account)) == (50, (50, 50, 0, 30, 0))
    holds.charge_hold(account, budget, 25, CAUSE)
    holds.close_hold(account, budget, HoldStatus.CAPTURED)
    assert entry_changes(account)[-1] == ("DEBT_PAID", -25, -25)
    assert figures(account) == (0, 0, 0, 5, 0)


def test_unfrozen_credits_pay_debt() -> None:
    account = new_account()
    add_purchased_grant(account, 50)
    debt.freeze(account, 50)
    add_debt(account, 30)
    version = account.version
    debt.unfreeze(account, 20)
    assert (account.version, entry_changes(account)[2:]) == (version + 2, [("DEBT_PAID", -20, -20)])
    assert figures(account) == (30, 0, 30, 10, 0)


def test_more_can_be_frozen_than_is_left_and_new_credits_are_frozen_too() -> None:
    account = new_account()
    add_purchased_grant(account, 50)
    balance_changes.charge(account, 40, CAUSE)
    debt.freeze(account, 50)
    assert figures(account) == (10, 0, 50, 0, 0)
    add_purchased_grant(account, 45)
    assert figures(account) == (55, 0, 50, 0, 5)


def test_a_promotional_grant_can_be_spent_while_there_is_debt() -> None:
    account = new_account()
    add_debt(account, 30)
    add_grant(account, 20)
    balance_changes.charge(account, 5, CAUSE)
    assert figures(account) == (15, 0, 0, 30, 15)


def test_undoing_a_withdrawal_cancels_the_debt_and_returns_to_the_grant() -> None:
    account = new_account()
    grant = add_purchased_grant(account, 100)
    balance_changes.charge(account, 70, CAUSE)
    became_debt = debt.withdraw(account, grant, 100, CAUSE)
    debt.undo_withdraw(account, grant, 100, CAUSE, debt=became_debt)
    assert entry_changes(account)[2:] == [("REFUND", -30, 0), ("DEBT", 0, 70), ("DEBT", 0, -70), ("REFUND", 30, 0)]
    assert (grant.remaining, grant.is_open, figures(account)) == (30, True, (30, 0, 0, 0, 30))


def test_undoing_a_withdrawal_returns_paid_debt_as_a_new_grant() -> None:
    account = new_account()
    grant = add_purchased_grant(account, 100)
    balance_changes.charge(account, 100, CAUSE)
    became_debt = debt.withdraw(account, grant, 100, CAUSE)
    add_purchased_grant(account, 80)
    assert figures(account) == (0, 0, 0, 20, 0)
    debt.undo_withdraw(account, grant, 100, CAUSE, debt=became_debt)
    new_grant = account.grants[3]
    assert entry_changes(account)[-2:] == [("DEBT", 0, -20), ("REFUND", 80, 0)]
    assert (new_grant.source, new_grant.credits, new_grant.pays_debt, new_grant.expires_at) == (
        GrantSource.ADJUSTMENT,
        80,
        True,
        None,
    )
    assert (grant.remaining, figures(account)) == (0, (80, 0, 0, 0, 80))


def test_undoing_a_withdrawal_pays_other_debts() -> None:
    account = new_account()
    grant = add_purchased_grant(account, 100)
    debt.withdraw(account, grant, 60, CAUSE)
    place(account, 40)
    add_debt(account, 50)
    debt.undo_withdraw(account, grant, 60, CAUSE, debt=0)
    assert entry_changes(account)[-2:] == [("REFUND", 60, 0), ("DEBT_PAID", -50, -50)]
    assert figures(account) == (50, 40, 0, 0, 10)


def test_withdrawing_unspent_credits_makes_no_debt() -> None:
    account = new_account()
    grant = account.grants[add_grant(account, 50, expires_at=hours(1))]
    balance_changes.charge(account, 20, CAUSE)
    place(account, 5, timeout_seconds=DAY)
    assert debt.withdraw_unspent(account, grant, 40, CAUSE) == 25
    assert entry_changes(account)[2:] == [("ADJUSTMENT", -25, 0)]
    advance_to(account, hours(2))
    debt.undo_withdraw_unspent(account, grant, 25, CAUSE)
    assert entry_changes(account)[3:] == [("ADJUSTMENT", 25, 0), ("EXPIRY", -25, 0)]
    assert figures(account) == (5, 5, 0, 0, 0)


def test_a_debt_above_the_limit_changes_nothing() -> None:
    account = new_account()
    grant = add_purchased_grant(account, 10)
    place(account, 10)
    add_debt(account, MAX_CREDITS)
    before = (figures(account), account.seq)
    with pytest.raises(BalanceLimitReached) as error:
        debt.withdraw(account, grant, 1, CAUSE)
    assert (error.value.figure, (figures(account), account.seq)) == ("The debt", before)


def test_frozen_credits_above_the_limit_are_refused() -> None:
    account = new_account()
    debt.freeze(account, MAX_CREDITS)
    with pytest.raises(BalanceLimitReached):
        debt.freeze(account, 1)
    assert account.frozen == MAX_CREDITS
