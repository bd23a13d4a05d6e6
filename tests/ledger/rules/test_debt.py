"""The pure rules of debt: what leaves though it is spent, what pays for it, what is frozen. No database."""

import pytest

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached
from app.ledger.rules import balance_changes, debt, holds
from app.ledger.rules.account_state import AccountState, EntryKind, GrantSource, GrantState, HoldStatus
from tests.ledger.rules.test_balance_changes import SOMEBODY, a_book, given_lot, hours, moved_on
from tests.ledger.rules.test_holds import DAY, an_envelope, placed


def bought(book: AccountState, credits: int, **more: object) -> GrantState:
    """A grant of bought credits, which pays debt."""
    return book.grants[given_lot(book, credits, **({"source": GrantSource.PURCHASED} | more))]


def owing(book: AccountState, credits: int) -> None:
    """A debt of so many credits that nothing pays."""
    debt.withdraw(book, None, credits, SOMEBODY)
    assert book.owed == credits


def moves(book: AccountState) -> list[tuple[str, int, int]]:
    """Kind, credits and owed of every entry."""
    return [(posted.kind, posted.credits, posted.owed) for posted in book.new_entries]


def figures(book: AccountState) -> tuple[int, int, int, int, int]:
    return book.posted, book.held, book.frozen, book.owed, book.available


def test_what_is_neither_drawn_claimed_nor_frozen_goes_back_and_the_rest_is_debt() -> None:
    book = a_book()
    lot = bought(book, 100)
    balance_changes.charge(book, 30, SOMEBODY)
    placed(book, 20)
    debt.freeze(book, 10)
    assert debt.withdraw(book, lot, 100, SOMEBODY) == 60
    assert moves(book)[2:] == [("REFUND", -40, 0), ("DEBT", 0, 60)]
    assert figures(book) == (30, 20, 10, 60, 0)


def test_a_new_debt_is_paid_at_once_of_other_grants_that_pay_debt() -> None:
    book = a_book()
    gift, first = bought(book, 50, source=GrantSource.PROMOTIONAL), bought(book, 100)
    other = bought(book, 30)
    balance_changes.charge(book, 150, SOMEBODY)
    assert (gift.remaining, first.remaining, other.remaining) == (0, 0, 30)
    debt.withdraw(book, first, 100, SOMEBODY)
    assert moves(book)[4:] == [("DEBT", 0, 100), ("DEBT_PAID", -30, -30)]
    assert book.new_entries[-1].draws == ((other.number, 30),)
    assert (book.new_entries[-1].actor, figures(book)) == ("debt", (0, 0, 0, 70, 0))


@pytest.mark.parametrize(
    ("source", "says", "pays"),
    [
        (GrantSource.PURCHASED, None, True), (GrantSource.ADJUSTMENT, None, True), (GrantSource.PROMOTIONAL, None, False),
        (GrantSource.PROMOTIONAL, True, True), (GrantSource.PURCHASED, False, False),
    ],
)  # fmt: skip
def test_a_grant_pays_debt_first_unless_it_is_promotional_or_the_operator_says_otherwise(
    source: GrantSource, says: bool | None, pays: bool
) -> None:
    book = a_book()
    owing(book, 30)
    lot = bought(book, 100, source=source, pays_debt=says)
    assert lot.pays_debt is pays
    assert moves(book)[2:] == ([("DEBT_PAID", -30, -30)] if pays else [])
    assert figures(book) == ((70, 0, 0, 0, 70) if pays else (100, 0, 0, 30, 100))


def test_a_grant_that_starts_by_time_pays_when_it_starts() -> None:
    book = a_book()
    owing(book, 30)
    bought(book, 100, starts_at=hours(1))
    assert figures(book) == (0, 0, 0, 30, 0)
    moved_on(book, hours(2))
    assert [(one.kind, one.at) for one in book.new_entries[1:]] == [
        ("GRANT", hours(1)),
        ("DEBT_PAID", hours(1)),
    ]
    assert figures(book) == (70, 0, 0, 0, 70)


def test_a_grant_that_ends_at_the_instant_another_starts_pays_nothing() -> None:
    book = a_book()
    ends = bought(book, 40, expires_at=hours(1))
    debt.freeze(book, 40)
    owing(book, 30)
    starts = bought(book, 50, starts_at=hours(1))
    moved_on(book, hours(1))
    assert [(one.kind, one.draws) for one in book.new_entries[2:]] == [
        ("GRANT", ((starts.number, 50),)),
        ("DEBT_PAID", ((starts.number, 30),)),
        ("EXPIRY", ((ends.number, 40),)),
    ]
    assert figures(book) == (20, 0, 40, 0, 0)


def test_a_reversal_pays_debt() -> None:
    book = a_book()
    bought(book, 50)
    charge = balance_changes.charge(book, 50, SOMEBODY)
    owing(book, 30)
    entries = balance_changes.reverse(book, charge.draws, SOMEBODY)
    assert [entry.kind for entry in entries] == [EntryKind.REVERSAL, EntryKind.DEBT_PAID]
    assert figures(book) == (20, 0, 0, 0, 20)


def test_a_reversal_into_an_expired_grant_pays_nothing() -> None:
    book = a_book()
    bought(book, 50, expires_at=hours(1))
    charge = balance_changes.charge(book, 50, SOMEBODY)
    owing(book, 30)
    moved_on(book, hours(2))
    balance_changes.reverse(book, charge.draws, SOMEBODY)
    assert moves(book)[3:] == [("REVERSAL", 50, 0), ("EXPIRY", -50, 0)]
    assert figures(book) == (0, 0, 0, 30, 0)


@pytest.mark.parametrize("status", [HoldStatus.VOIDED, HoldStatus.CAPTURED])
def test_what_a_hold_releases_pays_debt(status: HoldStatus) -> None:
    book = a_book()
    bought(book, 50)
    hold = placed(book, 50)
    owing(book, 30)
    holds.charge_hold(book, hold, 5, SOMEBODY)
    entries = holds.close_hold(book, hold, status)
    assert [(entry.kind, entry.credits) for entry in entries] == [("DEBT_PAID", -30)]
    assert figures(book) == (15, 0, 0, 0, 15)


def test_a_hold_that_lapses_pays_debt_at_the_instant_at_which_it_lapsed() -> None:
    book = a_book()
    bought(book, 50)
    placed(book, 50, timeout_seconds=3600)
    owing(book, 30)
    moved_on(book, hours(5))
    assert [(one.kind, one.at) for one in book.new_entries[2:]] == [("DEBT_PAID", hours(1))]
    assert figures(book) == (20, 0, 0, 0, 20)


def test_what_goes_back_to_an_open_envelope_pays_nothing_until_the_envelope_closes() -> None:
    book = a_book()
    bought(book, 50)
    envelope = an_envelope(book, 50)
    inner = placed(book, 20, parent_budget=envelope)
    owing(book, 30)
    assert holds.close_hold(book, inner, HoldStatus.VOIDED) == []
    assert (envelope.remaining, figures(book)) == (50, (50, 50, 0, 30, 0))
    holds.charge_hold(book, envelope, 25, SOMEBODY)
    holds.close_hold(book, envelope, HoldStatus.CAPTURED)
    assert moves(book)[-1] == ("DEBT_PAID", -25, -25)
    assert figures(book) == (0, 0, 0, 5, 0)


def test_what_is_thawed_pays_debt() -> None:
    book = a_book()
    bought(book, 50)
    debt.freeze(book, 50)
    owing(book, 30)
    version = book.version
    debt.unfreeze(book, 20)
    assert (book.version, moves(book)[2:]) == (version + 2, [("DEBT_PAID", -20, -20)])
    assert figures(book) == (30, 0, 30, 10, 0)


def test_more_may_be_frozen_than_is_left_and_credits_that_come_stay_frozen() -> None:
    book = a_book()
    bought(book, 50)
    balance_changes.charge(book, 40, SOMEBODY)
    debt.freeze(book, 50)
    assert figures(book) == (10, 0, 50, 0, 0)
    bought(book, 45)
    assert figures(book) == (55, 0, 50, 0, 5)


def test_a_promotional_grant_is_spent_while_something_is_owed() -> None:
    book = a_book()
    owing(book, 30)
    given_lot(book, 20)
    balance_changes.charge(book, 5, SOMEBODY)
    assert figures(book) == (15, 0, 0, 30, 15)


def test_what_is_put_back_forgives_the_debt_and_returns_the_rest_to_its_grant() -> None:
    book = a_book()
    lot = bought(book, 100)
    balance_changes.charge(book, 70, SOMEBODY)
    became_debt = debt.withdraw(book, lot, 100, SOMEBODY)
    debt.undo_withdraw(book, lot, 100, SOMEBODY, debt=became_debt)
    assert moves(book)[2:] == [("REFUND", -30, 0), ("DEBT", 0, 70), ("DEBT", 0, -70), ("REFUND", 30, 0)]
    assert (lot.remaining, lot.is_open, figures(book)) == (30, True, (30, 0, 0, 0, 30))


def test_debt_that_was_paid_meanwhile_comes_back_as_a_grant_of_its_own() -> None:
    book = a_book()
    lot = bought(book, 100)
    balance_changes.charge(book, 100, SOMEBODY)
    became_debt = debt.withdraw(book, lot, 100, SOMEBODY)
    bought(book, 80)
    assert figures(book) == (0, 0, 0, 20, 0)
    debt.undo_withdraw(book, lot, 100, SOMEBODY, debt=became_debt)
    made = book.grants[3]
    assert moves(book)[-2:] == [("DEBT", 0, -20), ("REFUND", 80, 0)]
    assert (made.source, made.credits, made.pays_debt, made.expires_at) == (GrantSource.ADJUSTMENT, 80, True, None)
    assert (lot.remaining, figures(book)) == (0, (80, 0, 0, 0, 80))


def test_what_is_put_back_pays_other_debts() -> None:
    book = a_book()
    lot = bought(book, 100)
    debt.withdraw(book, lot, 60, SOMEBODY)
    placed(book, 40)
    owing(book, 50)
    debt.undo_withdraw(book, lot, 60, SOMEBODY, debt=0)
    assert moves(book)[-2:] == [("REFUND", 60, 0), ("DEBT_PAID", -50, -50)]
    assert figures(book) == (50, 40, 0, 0, 10)


def test_unspent_credits_are_taken_as_far_as_they_are_free_and_nothing_becomes_debt() -> None:
    book = a_book()
    lot = book.grants[given_lot(book, 50, expires_at=hours(1))]
    balance_changes.charge(book, 20, SOMEBODY)
    placed(book, 5, timeout_seconds=DAY)
    assert debt.withdraw_unspent(book, lot, 40, SOMEBODY) == 25
    assert moves(book)[2:] == [("ADJUSTMENT", -25, 0)]
    moved_on(book, hours(2))
    debt.undo_withdraw_unspent(book, lot, 25, SOMEBODY)
    assert moves(book)[3:] == [("ADJUSTMENT", 25, 0), ("EXPIRY", -25, 0)]
    assert figures(book) == (5, 5, 0, 0, 0)


def test_a_debt_past_the_bound_is_refused_before_anything_moves() -> None:
    book = a_book()
    lot = bought(book, 10)
    placed(book, 10)
    owing(book, MAX_CREDITS)
    before = (figures(book), book.seq)
    with pytest.raises(BalanceLimitReached) as refused:
        debt.withdraw(book, lot, 1, SOMEBODY)
    assert (refused.value.figure, (figures(book), book.seq)) == ("The debt", before)


def test_frozen_credits_past_the_bound_are_refused() -> None:
    book = a_book()
    debt.freeze(book, MAX_CREDITS)
    with pytest.raises(BalanceLimitReached):
        debt.freeze(book, 1)
    assert book.frozen == MAX_CREDITS
