"""Rules: charges, grants, reversals, revocations, due changes and the hash chain."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.credits import MAX_CREDITS
from app.errors import BalanceLimitReached, InsufficientCredits
from app.ledger.rules import balance_changes, due_changes
from app.ledger.rules.account_state import AccountState, Cause, EntryKind, GrantSource, LedgerEntry
from app.ledger.rules.hash_chain import GENESIS_MAC, canonical_bytes, sign_entry
from app.ledger.rules.ledger_keys import LedgerKey

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = LedgerKey.derive(bytes(32))
CAUSE = Cause(actor="operator:test", reason="test")


def hours(count: float) -> datetime:
    return NOON + timedelta(hours=count)


def new_account(at: datetime = NOON) -> AccountState:
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


def add_grant(account: AccountState, credits: int, **more: Any) -> int:
    options: dict[str, Any] = {"source": GrantSource.PROMOTIONAL} | more
    grant, _ = balance_changes.add_grant(account, credits, CAUSE, **options)
    return grant.number


def advance_to(account: AccountState, at: datetime) -> None:
    account.at = at
    account.next_change_at = due_changes.next_change_at(account)
    due_changes.apply_due_changes(account)


def test_grants_burn_by_priority_then_expiry_then_source_then_age() -> None:
    account = new_account()
    bought_first = add_grant(account, 1, source=GrantSource.PURCHASED)
    given_without_end = add_grant(account, 1)
    ends_late = add_grant(account, 1, expires_at=hours(9))
    ends_soon = add_grant(account, 1, expires_at=hours(1), source=GrantSource.PURCHASED)
    preferred = add_grant(account, 1, priority=-1, source=GrantSource.PURCHASED)
    bought_later = add_grant(account, 1, source=GrantSource.PURCHASED)
    entry = balance_changes.charge(account, 6, CAUSE)
    assert [number for number, _ in entry.draws] == [
        preferred, ends_soon, ends_late, given_without_end, bought_first, bought_later,
    ]  # fmt: skip


def test_a_charge_above_the_available_credits_changes_nothing() -> None:
    account = new_account()
    add_grant(account, 5)
    with pytest.raises(InsufficientCredits) as error:
        balance_changes.charge(account, 6, CAUSE)
    assert (error.value.required_credits, error.value.available_credits, error.value.shortfall_credits) == (
        6,
        5,
        1,
    )
    assert (account.posted, account.seq, len(account.new_entries)) == (5, 1, 1)


def test_grants_start_and_expire_at_their_own_instants() -> None:
    account = new_account()
    add_grant(account, 10, expires_at=hours(2))
    add_grant(account, 7, starts_at=hours(1), expires_at=hours(3))
    assert account.posted == 10
    advance_to(account, hours(2.5))
    assert [(entry.kind, entry.credits, entry.at) for entry in account.new_entries[1:]] == [
        (EntryKind.GRANT, 7, hours(1)),
        (EntryKind.EXPIRY, -10, hours(2)),
    ]
    assert (account.posted, due_changes.next_change_at(account)) == (7, hours(3))


def test_a_reversal_into_an_expired_grant_expires_at_once() -> None:
    account = new_account()
    add_grant(account, 10, expires_at=hours(1))
    charge = balance_changes.charge(account, 4, CAUSE)
    advance_to(account, hours(2))
    entries = balance_changes.reverse(account, charge.draws, CAUSE)
    assert [(entry.kind, entry.credits) for entry in entries] == [("REVERSAL", 4), ("EXPIRY", -4)]
    assert account.posted == 0
    assert not account.grants[1].is_open


def test_partial_reversals_of_any_sizes_return_to_the_same_grants() -> None:
    draws = ((1, 5), (2, 3), (3, 2))
    assert balance_changes.reversal_draws(draws, already_reversed=0, credits=10) == ((3, 2), (2, 3), (1, 5))
    assert balance_changes.reversal_draws(draws, already_reversed=0, credits=4) == ((3, 2), (2, 2))
    assert balance_changes.reversal_draws(draws, already_reversed=4, credits=3) == ((2, 1), (1, 2))


def test_a_balance_above_the_limit_is_refused() -> None:
    account = new_account()
    add_grant(account, MAX_CREDITS - 5)
    add_grant(account, 3, starts_at=hours(1))
    with pytest.raises(BalanceLimitReached):
        add_grant(account, 3)
    charge = balance_changes.charge(account, 100, CAUSE)
    add_grant(account, 100)
    with pytest.raises(BalanceLimitReached):  # the scheduled grant counts too
        balance_changes.reverse(account, charge.draws, CAUSE)
    assert (account.posted, len(account.new_entries)) == (MAX_CREDITS - 5, 3)


def test_revoking_takes_the_unspent_credits_and_a_scheduled_grant_never_starts() -> None:
    account = new_account()
    add_grant(account, 10)
    later = add_grant(account, 5, starts_at=hours(1))
    balance_changes.charge(account, 4, CAUSE)
    credits, entry = balance_changes.revoke_grant(account, account.grants[1], CAUSE)
    assert entry is not None
    assert (credits, entry.kind, entry.credits, account.posted) == (6, "ADJUSTMENT", -6, 0)
    assert balance_changes.revoke_grant(account, account.grants[1], CAUSE) == (0, None)
    assert balance_changes.revoke_grant(account, account.grants[later], CAUSE) == (0, None)
    advance_to(account, hours(2))
    assert account.posted == 0


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
def test_entries_and_grants_add_up_after_any_operations(steps: list[tuple[object, ...]]) -> None:
    account = new_account()
    charges: list[tuple[LedgerEntry, int]] = []
    for step in steps:
        match step:
            case ("grant", int(credits), int(priority), expires_in):
                expires_at = account.at + timedelta(hours=expires_in) if isinstance(expires_in, int | float) else None
                add_grant(account, credits, priority=priority, expires_at=expires_at)
            case ("later", int(credits), float() | int() as starts_in, expires_in):
                starts_at = account.at + timedelta(hours=starts_in)
                expires_at = account.at + timedelta(hours=expires_in) if isinstance(expires_in, int | float) else None
                add_grant(account, credits, starts_at=starts_at, expires_at=expires_at)
            case ("charge", int(credits)) if credits <= account.available:
                charges.append((balance_changes.charge(account, credits, CAUSE), 0))
            case ("reverse", int(credits)) if charges:
                entry, already = charges.pop()
                reversed_credits = min(credits, -entry.credits - already)
                balance_changes.reverse(
                    account,
                    balance_changes.reversal_draws(entry.draws, already_reversed=already, credits=reversed_credits),
                    CAUSE,
                )
                if already + reversed_credits < -entry.credits:
                    charges.append((entry, already + reversed_credits))
            case ("revoke", int(number)) if number in account.grants:
                balance_changes.revoke_grant(account, account.grants[number], CAUSE)
            case ("time", float() | int() as passed):
                advance_to(account, account.at + timedelta(hours=passed))
            case _:
                pass
        assert account.posted == sum(entry.credits for entry in account.new_entries)
        assert account.posted == sum(grant.remaining for grant in account.grants.values())
        assert all(0 <= grant.remaining <= grant.credits for grant in account.grants.values())
    mac, balance = GENESIS_MAC, 0
    for seq, entry in enumerate(account.new_entries, start=1):
        balance += entry.credits
        assert (entry.seq, entry.version, entry.balance_after) == (seq, seq, balance)
        assert sum(drawn for _, drawn in entry.draws) == abs(entry.credits)
        assert entry.mac == sign_entry(entry, previous_mac=mac, key=KEY.entries)
        mac = entry.mac
    times = [entry.at for entry in account.new_entries]
    assert times == sorted(times)


TEXT = st.one_of(st.none(), st.text(max_size=6))


@given(TEXT, TEXT, TEXT, TEXT)
@settings(max_examples=200, deadline=None)
def test_different_entries_have_different_canonical_bytes(
    reason: str | None, task_id: str | None, other_reason: str | None, other_task_id: str | None
) -> None:
    def bytes_of(why: str | None, task: str | None) -> bytes:
        return canonical_bytes(
            LedgerEntry(
                account_id=1, seq=1, version=1, kind="GRANT", credits=1, owed=0, balance_after=1, at=NOON, actor="a",
                reason=why, task_id=task, block_run_id=None, top_up_id=None, request_id=None, draws=((1, 1),),
                hold_number=None, mac=b"",
            )
        )  # fmt: skip

    try:
        same = bytes_of(reason, task_id) == bytes_of(other_reason, other_task_id)
    except UnicodeEncodeError:
        return
    assert same == ((reason, task_id) == (other_reason, other_task_id))


def test_canonical_bytes_have_the_documented_format() -> None:
    entry = LedgerEntry(
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
    assert canonical_bytes(entry) == (
        b"1:7,1:2,1:3,6:CHARGE,3:-10,1:0,2:90,16:1767268800000000,10:service:\xc3\xa9,-,1:t,1:b,-,1:r,7:1:4;2:6,"
    )
    assert canonical_bytes(entry._replace(hold_number=12)) == canonical_bytes(entry) + b"hold=2:12,"
