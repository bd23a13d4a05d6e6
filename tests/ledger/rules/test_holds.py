"""The pure rules of holds and envelopes: what is claimed, drawn, let go, and what time does to it. No database."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from app.errors import BudgetReached, InsufficientCredits
from app.ledger.rules import balance_changes, holds
from app.ledger.rules.account_state import AccountState, EntryKind, GrantSource, Hold, HoldStatus
from tests.ledger.rules.test_balance_changes import SOMEBODY, a_book, given_lot, hours, moved_on

HOUR = 3600
DAY = 24 * HOUR


def placed(book: AccountState, credits: int, **more: Any) -> Hold:
    """A hold for a block run, for an hour unless said otherwise."""
    asked: dict[str, Any] = {"task_id": "task", "block_run_id": "run", "timeout_seconds": HOUR, "actor": "service:test"}
    return holds.place_hold(book, credits, **(asked | more))


def an_envelope(book: AccountState, credits: int, **more: Any) -> Hold:
    return placed(book, credits, block_run_id=None, **more)


def due_holds(book: AccountState) -> list[Hold]:
    return [hold for hold in book.holds.values() if hold.is_open and hold.expires_at <= book.at]


def lines(book: AccountState) -> list[tuple[str, int, datetime]]:
    return [(posted.kind, posted.credits, posted.at) for posted in book.new_entries]


def figures(book: AccountState) -> tuple[int, int, int]:
    return book.posted, book.held, book.available


def test_what_is_held_is_not_available_and_only_its_capture_draws_it() -> None:
    book = a_book()
    given_lot(book, 10)
    hold = placed(book, 7)
    assert figures(book) == (10, 7, 3)
    with pytest.raises(InsufficientCredits) as refused:
        balance_changes.charge(book, 4, SOMEBODY)
    assert (refused.value.required_credits, refused.value.available_credits) == (4, 3)
    entry = holds.charge_hold(book, hold, 5, SOMEBODY)
    holds.close_hold(book, hold, HoldStatus.CAPTURED)
    assert (entry.kind, entry.credits, entry.draws, entry.hold_number) == (
        EntryKind.CHARGE,
        -5,
        ((1, 5),),
        1,
    )
    assert figures(book) == (5, 0, 5)
    assert (hold.status, hold.captured, hold.released, hold.remaining) == (HoldStatus.CAPTURED, 5, 2, 0)
    assert not due_holds(book)


def test_the_unclaimed_part_leaves_at_the_instant_and_a_claim_released_later_expires_then() -> None:
    book = a_book()
    given_lot(book, 10, expires_at=hours(1))
    hold = placed(book, 4, timeout_seconds=DAY)
    moved_on(book, hours(2))
    assert lines(book)[1:] == [(EntryKind.EXPIRY, -6, hours(1))]
    assert figures(book) == (4, 4, 0)
    moved_on(book, hours(3))
    holds.close_hold(book, hold, HoldStatus.VOIDED)
    assert lines(book)[2:] == [(EntryKind.EXPIRY, -4, hours(3))]
    assert figures(book) == (0, 0, 0)
    assert not book.grants[1].is_open


def test_a_claim_on_a_grant_that_has_expired_is_captured_all_the_same() -> None:
    book = a_book()
    given_lot(book, 10, expires_at=hours(1))
    hold = placed(book, 4, timeout_seconds=DAY)
    moved_on(book, hours(2))
    holds.charge_hold(book, hold, 3, SOMEBODY)
    holds.close_hold(book, hold, HoldStatus.CAPTURED)
    assert lines(book)[1:] == [
        (EntryKind.EXPIRY, -6, hours(1)), (EntryKind.CHARGE, -3, hours(2)), (EntryKind.EXPIRY, -1, hours(2)),
    ]  # fmt: skip


def test_a_hold_lapses_at_its_instant_whenever_it_is_noticed() -> None:
    book = a_book()
    given_lot(book, 10, expires_at=hours(4))
    hold = placed(book, 4)
    moved_on(book, hours(1) - timedelta(microseconds=1))
    assert (hold.status, book.available) == (HoldStatus.OPEN, 6)
    moved_on(book, hours(9))
    assert (hold.status, hold.closed_at, hold.released) == (HoldStatus.EXPIRED, hours(1), 4)
    assert lines(book)[1:] == [(EntryKind.EXPIRY, -10, hours(4))]
    assert book.expired_holds == [hold]


def test_a_grant_that_ends_with_the_hold_on_it_leaves_in_one_line() -> None:
    book = a_book()
    given_lot(book, 10, expires_at=hours(1))
    placed(book, 4)
    moved_on(book, hours(1))
    assert lines(book)[1:] == [(EntryKind.EXPIRY, -10, hours(1))]


def test_no_claim_outlives_its_grant_by_more_than_24_hours_however_often_it_is_renewed() -> None:
    book = a_book()
    given_lot(book, 10, expires_at=hours(1))
    envelope = an_envelope(book, 10, timeout_seconds=DAY)
    assert envelope.expires_at == hours(24)
    moved_on(book, hours(20))
    holds.renew_timeout(book, envelope)
    inner = placed(book, 3, parent_budget=envelope, timeout_seconds=DAY)
    assert (envelope.expires_at, inner.expires_at) == (hours(25), hours(25))
    moved_on(book, hours(25))
    assert lines(book)[1:] == [(EntryKind.EXPIRY, -3, hours(25)), (EntryKind.EXPIRY, -7, hours(25))]
    assert figures(book) == (0, 0, 0)


def test_claims_are_drawn_in_burn_order_whatever_the_order_in_which_they_came() -> None:
    book = a_book()
    bought = given_lot(book, 5, source=GrantSource.PURCHASED)
    envelope = an_envelope(book, 5)
    ends_soon = given_lot(book, 5, expires_at=hours(2))
    preferred = given_lot(book, 5, priority=-1)
    holds.add_to_budget(book, envelope, 8)
    assert holds.charge_hold(book, envelope, 7, SOMEBODY).draws == ((preferred, 5), (ends_soon, 2))
    assert holds.charge_hold(book, envelope, 4, SOMEBODY).draws == ((ends_soon, 1), (bought, 3))
    assert figures(book) == (4, 2, 2)


def test_a_hold_within_an_envelope_takes_from_it_and_gives_back_to_it() -> None:
    book = a_book()
    given_lot(book, 100)
    envelope = an_envelope(book, 30)
    inner = placed(book, 20, parent_budget=envelope)
    assert (figures(book), envelope.remaining, envelope.allocated, inner.remaining) == ((100, 30, 70), 10, 20, 20)
    with pytest.raises(BudgetReached) as refused:
        holds.charge_hold(book, envelope, 11, SOMEBODY)
    assert (refused.value.required_credits, refused.value.remaining_credits) == (11, 10)
    holds.charge_hold(book, inner, 5, SOMEBODY)
    holds.close_hold(book, inner, HoldStatus.CAPTURED)
    assert (figures(book), envelope.remaining, envelope.allocated) == ((95, 25, 70), 25, 5)


def test_a_hold_gives_back_to_the_account_once_the_envelope_around_it_is_closed() -> None:
    book = a_book()
    given_lot(book, 100)
    envelope = an_envelope(book, 30)
    inner = placed(book, 20, parent_budget=envelope)
    holds.close_hold(book, envelope, HoldStatus.CAPTURED)
    assert figures(book) == (100, 20, 80)
    holds.close_hold(book, inner, HoldStatus.VOIDED)
    assert figures(book) == (100, 0, 100)
    assert (envelope.remaining, envelope.status) == (0, HoldStatus.CAPTURED)
    assert (envelope.allocated, envelope.released) == (0, 30)


def test_what_a_hold_gives_back_of_an_expired_grant_goes_to_no_envelope() -> None:
    book = a_book()
    given_lot(book, 30, expires_at=hours(1))
    envelope = an_envelope(book, 30, timeout_seconds=DAY)
    inner = placed(book, 20, parent_budget=envelope, timeout_seconds=DAY)
    moved_on(book, hours(2))
    holds.close_hold(book, inner, HoldStatus.VOIDED)
    assert lines(book)[1:] == [(EntryKind.EXPIRY, -20, hours(2))]
    assert (figures(book), envelope.remaining) == ((10, 10, 0), 10)
    assert (envelope.allocated, envelope.released) == (0, 20)


def test_a_landing_reserve_is_drawn_by_closing_work_only() -> None:
    book = a_book()
    given_lot(book, 100)
    envelope = an_envelope(book, 30, closing_reserve=10)
    for beyond in (
        lambda: holds.charge_hold(book, envelope, 21, SOMEBODY),
        lambda: placed(book, 21, parent_budget=envelope),
    ):
        with pytest.raises(BudgetReached) as refused:
            beyond()
        assert (refused.value.required_credits, refused.value.remaining_credits) == (21, 20)
    holds.charge_hold(book, envelope, 24, SOMEBODY, is_closing=True)
    assert (envelope.remaining, envelope.closing_reserve) == (6, 6)
    with pytest.raises(BudgetReached):
        holds.charge_hold(book, envelope, 1, SOMEBODY)
    holds.charge_hold(book, envelope, 6, SOMEBODY, is_closing=True)
    assert (envelope.remaining, envelope.closing_reserve, figures(book)) == (0, 0, (70, 0, 70))


def test_an_envelope_that_lapsed_is_opened_again_by_what_is_put_into_it() -> None:
    book = a_book()
    given_lot(book, 100)
    envelope = an_envelope(book, 30)
    moved_on(book, hours(2))
    assert (envelope.status, figures(book)) == (HoldStatus.EXPIRED, (100, 0, 100))
    holds.add_to_budget(book, envelope, 12)
    assert (envelope.status, envelope.closed_at, envelope.expires_at) == (HoldStatus.OPEN, None, hours(3))
    assert (envelope.credits, envelope.released, envelope.remaining) == (42, 30, 12)
    assert (figures(book), book.open_holds) == ((100, 12, 88), 1)


def test_work_within_an_envelope_renews_those_around_it() -> None:
    book = a_book()
    given_lot(book, 100)
    outer = an_envelope(book, 50)
    inner = an_envelope(book, 20, task_id="child", parent_budget=outer, timeout_seconds=2 * HOUR)
    moved_on(book, hours(0.5))
    holds.renew_timeout(book, inner)
    assert (inner.expires_at, outer.expires_at) == (hours(2.5), hours(1.5))
