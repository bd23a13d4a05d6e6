"""The pure rules: which grant pays, what comes back where, what time does. No database."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached, InsufficientCredits
from app.ledger.rules import balance_changes, due_changes
from app.ledger.rules.account_state import AccountState, Cause, EntryKind, GrantSource, LedgerEntry
from app.ledger.rules.hash_chain import GENESIS_MAC, canonical_bytes, sign_entry

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = bytes(32)
SOMEBODY = Cause(actor="operator:test", reason="test")


def hours(count: float) -> datetime:
    return NOON + timedelta(hours=count)


def a_book(at: datetime = NOON) -> AccountState:
    return AccountState(
        account_id=1,
        owner_id="alice",
        seq=0,
        version=0,
        grant_count=0,
        posted=0,
        held=0,
        frozen=0,
        owed=0,
        last_mac=GENESIS_MAC,
        last_entry_at=None,
        next_change_at=None,
        at=at,
        signing_key=KEY,
    )


def given_lot(book: AccountState, credits: int, **more: object) -> int:
    options: dict[str, object] = {"source": GrantSource.PROMOTIONAL} | more
    lot, _ = balance_changes.add_grant(book, credits, SOMEBODY, **options)  # type: ignore[arg-type]  # options are named by the tests
    return lot.number


def moved_on(book: AccountState, at: datetime) -> None:
    book.at = at
    book.next_change_at = due_changes.next_change_at(book)
    due_changes.apply_due_changes(book)


def test_burn_down_goes_by_priority_then_expiry_then_source_then_age() -> None:
    book = a_book()
    bought_first = given_lot(book, 1, source=GrantSource.PURCHASED)
    given_without_end = given_lot(book, 1)
    ends_late = given_lot(book, 1, expires_at=hours(9))
    ends_soon = given_lot(book, 1, expires_at=hours(1), source=GrantSource.PURCHASED)
    preferred = given_lot(book, 1, priority=-1, source=GrantSource.PURCHASED)
    bought_later = given_lot(book, 1, source=GrantSource.PURCHASED)
    entry = balance_changes.charge(book, 6, SOMEBODY)
    assert [number for number, _ in entry.draws] == [
        preferred, ends_soon, ends_late, given_without_end, bought_first, bought_later,
    ]  # fmt: skip


def test_a_charge_that_the_grants_do_not_cover_moves_nothing() -> None:
    book = a_book()
    given_lot(book, 5)
    with pytest.raises(InsufficientCredits) as refused:
        balance_changes.charge(book, 6, SOMEBODY)
    assert (refused.value.required_credits, refused.value.available_credits, refused.value.shortfall_credits) == (
        6,
        5,
        1,
    )
    assert (book.posted, book.seq, len(book.new_entries)) == (5, 1, 1)


def test_a_grant_leaves_at_its_expiry_and_a_later_one_starts_in_its_time() -> None:
    book = a_book()
    given_lot(book, 10, expires_at=hours(2))
    given_lot(book, 7, starts_at=hours(1), expires_at=hours(3))
    assert book.posted == 10
    moved_on(book, hours(2.5))
    assert [(posted.kind, posted.credits, posted.at) for posted in book.new_entries[1:]] == [
        (EntryKind.GRANT, 7, hours(1)),
        (EntryKind.EXPIRY, -10, hours(2)),
    ]
    assert (book.posted, due_changes.next_change_at(book)) == (7, hours(3))


def test_what_comes_back_to_an_expired_grant_expires_at_once_and_both_are_visible() -> None:
    book = a_book()
    given_lot(book, 10, expires_at=hours(1))
    charge = balance_changes.charge(book, 4, SOMEBODY)
    moved_on(book, hours(2))
    entries = balance_changes.reverse(book, charge.draws, SOMEBODY)
    assert [(posted.kind, posted.credits) for posted in entries] == [("REVERSAL", 4), ("EXPIRY", -4)]
    assert book.posted == 0
    assert not book.grants[1].is_open


def test_partial_reversals_in_any_sizes_end_at_the_same_grants() -> None:
    draws = ((1, 5), (2, 3), (3, 2))
    assert balance_changes.reversal_draws(draws, already_reversed=0, credits=10) == ((3, 2), (2, 3), (1, 5))
    assert balance_changes.reversal_draws(draws, already_reversed=0, credits=4) == ((3, 2), (2, 2))
    assert balance_changes.reversal_draws(draws, already_reversed=4, credits=3) == ((2, 1), (1, 2))


def test_a_bound_is_refused_and_never_clamped() -> None:
    book = a_book()
    given_lot(book, MAX_CREDITS - 5)
    given_lot(book, 3, starts_at=hours(1))
    with pytest.raises(BalanceLimitReached):
        given_lot(book, 3)
    charge = balance_changes.charge(book, 100, SOMEBODY)
    given_lot(book, 100)
    with pytest.raises(BalanceLimitReached):  # what is scheduled keeps its room
        balance_changes.reverse(book, charge.draws, SOMEBODY)
    assert (book.posted, len(book.new_entries)) == (MAX_CREDITS - 5, 3)


def test_revoking_takes_what_is_unspent_and_a_scheduled_grant_never_starts() -> None:
    book = a_book()
    given_lot(book, 10)
    later = given_lot(book, 5, starts_at=hours(1))
    balance_changes.charge(book, 4, SOMEBODY)
    credits, entry = balance_changes.revoke_grant(book, book.grants[1], SOMEBODY)
    assert entry is not None
    assert (credits, entry.kind, entry.credits, book.posted) == (6, "ADJUSTMENT", -6, 0)
    assert balance_changes.revoke_grant(book, book.grants[1], SOMEBODY) == (0, None)
    assert balance_changes.revoke_grant(book, book.grants[later], SOMEBODY) == (0, None)
    moved_on(book, hours(2))
    assert book.posted == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.integers(1, 50), st.integers(-2, 2), st.sampled_from([None, 0.5, 1, 2.5, 4])),
        st.tuples(st.just("later"), st.integers(1, 50), st.sampled_from([0.5, 1.5, 3]), st.sampled_from([None, 4, 6])),
        st.tuples(st.just("charge"), st.integers(1, 60)),
        st.tuples(st.just("reverse"), st.integers(1, 60)),
        st.tuples(st.just("revoke"), st.integers(1, 8)),
        st.tuples(st.just("time"), st.sampled_from([0.3, 1, 2])),
    ),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_the_books_balance_after_any_history(steps: list[tuple[object, ...]]) -> None:
    book = a_book()
    charges: list[tuple[LedgerEntry, int]] = []
    for step in steps:
        match step:
            case ("grant", int(credits), int(priority), ends):
                expires_at = book.at + timedelta(hours=ends) if isinstance(ends, int | float) else None
                given_lot(book, credits, priority=priority, expires_at=expires_at)
            case ("later", int(credits), float() | int() as begins, ends):
                starts_at = book.at + timedelta(hours=begins)
                expires_at = book.at + timedelta(hours=ends) if isinstance(ends, int | float) else None
                given_lot(book, credits, starts_at=starts_at, expires_at=expires_at)
            case ("charge", int(credits)) if credits <= book.available:
                charges.append((balance_changes.charge(book, credits, SOMEBODY), 0))
            case ("reverse", int(credits)) if charges:
                line, already = charges.pop()
                back = min(credits, -line.credits - already)
                balance_changes.reverse(
                    book, balance_changes.reversal_draws(line.draws, already_reversed=already, credits=back), SOMEBODY
                )
                if already + back < -line.credits:
                    charges.append((line, already + back))
            case ("revoke", int(number)) if number in book.grants:
                balance_changes.revoke_grant(book, book.grants[number], SOMEBODY)
            case ("time", float() | int() as passed):
                moved_on(book, book.at + timedelta(hours=passed))
            case _:
                pass
        assert book.posted == sum(posted.credits for posted in book.new_entries)
        assert book.posted == sum(lot.remaining for lot in book.grants.values())
        assert all(0 <= lot.remaining <= lot.credits for lot in book.grants.values())
    mac, balance = GENESIS_MAC, 0
    for seq, posted in enumerate(book.new_entries, start=1):
        balance += posted.credits
        assert (posted.seq, posted.version, posted.balance_after) == (seq, seq, balance)
        assert sum(drawn for _, drawn in posted.draws) == abs(posted.credits)
        assert posted.mac == sign_entry(posted, previous_mac=mac, key=KEY)
        mac = posted.mac
    times = [posted.at for posted in book.new_entries]
    assert times == sorted(times)


TEXT = st.one_of(st.none(), st.text(max_size=6))


@given(TEXT, TEXT, TEXT, TEXT)
@settings(max_examples=200, deadline=None)
def test_no_two_lines_have_the_same_canonical_bytes(
    reason: str | None, task_id: str | None, other_reason: str | None, other_task_id: str | None
) -> None:
    def bytes_of(why: str | None, task: str | None) -> bytes:
        return canonical_bytes(
            LedgerEntry(
                account_id=1, seq=1, version=1, kind="GRANT", credits=1, owed=0, balance_after=1, at=NOON, actor="a",
                reason=why, task_id=task, block_run_id=None, top_up_id=None, request_id=None, draws=((1, 1),), hold_number=None, mac=b"",
            )
        )  # fmt: skip

    try:
        same = bytes_of(reason, task_id) == bytes_of(other_reason, other_task_id)
    except UnicodeEncodeError:
        return
    assert same == ((reason, task_id) == (other_reason, other_task_id))


def test_the_canonical_bytes_are_as_documented() -> None:
    line = LedgerEntry(
        account_id=7,
        seq=2,
        version=3,
        kind="CHARGE",
        credits=-10,
        owed=0,
        balance_after=90,
        at=NOON,
        actor="service:é",
        reason=None,
        task_id="t",
        block_run_id="b",
        top_up_id=None,
        request_id="r",
        draws=((1, 4), (2, 6)),
        hold_number=None,
        mac=b"",
    )
    assert canonical_bytes(line) == (
        b"1:7,1:2,1:3,6:CHARGE,3:-10,1:0,2:90,16:1767268800000000,10:service:\xc3\xa9,-,1:t,1:b,-,1:r,7:1:4;2:6,"
    )
    assert canonical_bytes(line._replace(hold_number=12)) == canonical_bytes(line) + b"hold=2:12,"
