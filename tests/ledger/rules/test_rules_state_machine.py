"""Every move of the rules over one book in memory, in any order: what is always so. No database."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.errors import BillingError
from app.ledger.rules import balance_changes, debt, due_changes
from app.ledger.rules import holds as claims
from app.ledger.rules.account_state import AccountState, Cause, EntryKind, GrantSource, Hold, HoldStatus, LedgerEntry
from tests.ledger.rules.test_balance_changes import SOMEBODY, a_book, given_lot, moved_on
from tests.ledger.rules.test_holds import DAY, HOUR, due_holds, figures, lines, placed
from tests.soak import sized

AMOUNTS = st.integers(1, 40)
PICKS = st.integers(0, 3)
HOURS = st.sampled_from([0.5, None, 1, 2.5, 24])
TIMEOUTS = st.sampled_from([DAY, HOUR, HOUR // 2, 1])
BACK = (EntryKind.REVERSAL, EntryKind.REFUND, EntryKind.ADJUSTMENT)


@dataclass
class Charged:
    """An entry that may be given back, and how much of it was."""

    entry: LedgerEntry
    back: int = field(default=0)


class Claims(RuleBasedStateMachine):
    """One book under every move of the rules, in any order; its invariants are checked after each."""

    def __init__(self) -> None:
        super().__init__()
        self.book = a_book()
        self.charges: list[Charged] = []
        self.credited = 0
        self.seen = (0, 0, (0, 0, 0, 0))
        self.claimed_of_expired: dict[tuple[int, int], int] = {}
        self.taken: list[tuple[int, int, int]] = []
        """What was taken back and may be put back: grant, credits, and how many of them became debt."""
        self.detached = False
        """Whether an envelope stands alone that was taken from another: it still counts there."""

    @initialize(
        credits=st.integers(30, 100), ends=HOURS, timeout=TIMEOUTS, inner=st.sampled_from([[False], [True, False], []])
    )
    def begin(self, credits: int, ends: float | None, timeout: int, inner: list[bool]) -> None:
        """A grant, an envelope, and what is nested in it."""
        self.grant(credits, 0, None, ends)
        self.place(credits // 2, None, timeout, True, 0)
        for envelope in inner:
            self.place(credits // 4, 0, timeout, envelope, 0)

    @rule(credits=AMOUNTS, priority=st.integers(-1, 1), begins=HOURS, ends=HOURS, source=st.sampled_from(GrantSource))
    def grant(
        self, credits: int, priority: int, begins: float | None, ends: float | None,
        source: GrantSource = GrantSource.PROMOTIONAL,
    ) -> None:  # fmt: skip
        given_lot(
            self.book, credits, priority=priority, source=source,
            starts_at=None if begins is None else self.book.at + timedelta(hours=begins),
            expires_at=None if ends is None else self.book.at + timedelta(hours=(begins or 0) + ends),
        )  # fmt: skip

    @rule(credits=AMOUNTS)
    def charge(self, credits: int) -> None:
        entry = self._tried(lambda: balance_changes.charge(self.book, credits, SOMEBODY))
        if entry is not None:
            self.charges.append(Charged(entry))

    @rule(
        credits=st.integers(0, 40), around=st.none() | PICKS, timeout=TIMEOUTS, envelope=st.booleans(),
        reserve=st.integers(0, 5),
    )  # fmt: skip
    def place(self, credits: int, around: int | None, timeout: int, envelope: bool, reserve: int) -> None:
        within = self._open(around, envelopes=True) if around is not None else None
        number = self.book.hold_count + 1
        self._tried(
            lambda: placed(
                self.book, credits, task_id=f"task-{number}", block_run_id=None if envelope else f"run-{number}",
                timeout_seconds=timeout, parent_budget=within, closing_reserve=min(reserve, credits) if envelope else 0,
            )
        )  # fmt: skip

    @precondition(lambda self: self._open(0))
    @rule(pick=PICKS, credits=AMOUNTS, closing=st.booleans())
    def draw(self, pick: int, credits: int, closing: bool) -> None:
        hold = self._open(pick)
        assert hold is not None
        entry = self._tried(lambda: claims.charge_hold(self.book, hold, credits, SOMEBODY, is_closing=closing))
        if entry is not None:
            self.charges.append(Charged(entry))

    @precondition(lambda self: self._open(0))
    @rule(pick=PICKS, status=st.sampled_from([HoldStatus.CAPTURED, HoldStatus.VOIDED]))
    def release(self, pick: int, status: HoldStatus) -> None:
        hold = self._open(pick)
        assert hold is not None
        claims.close_hold(self.book, hold, status)
        assert (hold.remaining, hold.closing_reserve, hold.status) == (0, 0, status)

    @precondition(lambda self: self._envelopes())
    @rule(pick=PICKS, credits=AMOUNTS)
    def add(self, pick: int, credits: int) -> None:
        envelopes = self._envelopes()
        envelope = envelopes[pick % len(envelopes)]
        within = envelope.parent_budget
        self._tried(lambda: claims.add_to_budget(self.book, envelope, credits))
        self.detached |= envelope.parent_budget != within
        # What the budget around it claims of an expired grant may be given to it: that is no release.
        for (number, lot), claimed in self.claimed_of_expired.items():
            if number == envelope.number:
                self.claimed_of_expired[number, lot] = max(claimed, envelope.claims.get(lot, 0))

    @precondition(lambda self: self._open(0, envelopes=True))
    @rule(pick=PICKS)
    def renew(self, pick: int) -> None:
        envelope = self._open(pick, envelopes=True)
        assert envelope is not None
        claims.renew_timeout(self.book, envelope)
        inner: Hold | None = envelope
        while inner is not None:
            if inner.is_open:
                ends = [self.book.grants[number].expires_at for number in inner.claims]
                last = [end + timedelta(hours=24) for end in ends if end is not None]
                assert inner.expires_at == min([self.book.at + timedelta(seconds=inner.timeout_seconds), *last])
            inner = self.book.holds.get(inner.parent_budget or 0)

    @precondition(lambda self: self.charges)
    @rule(pick=PICKS, credits=AMOUNTS)
    def give_back(self, pick: int, credits: int) -> None:
        charged = self.charges[-1 - pick % len(self.charges)]
        line = charged.entry
        back = min(credits, -line.credits - charged.back)
        if back:
            balance_changes.reverse(
                self.book,
                balance_changes.reversal_draws(line.draws, already_reversed=charged.back, credits=back),
                SOMEBODY,
            )
            charged.back += back

    @rule(pick=PICKS)
    def revoke(self, pick: int) -> None:
        lot = self.book.grants[1 + pick % len(self.book.grants)]
        claimed = lot.claimed
        credits, entry = balance_changes.revoke_grant(self.book, lot, Cause(actor="operator:test"))
        assert (credits, lot.claimed) == (-entry.credits if entry is not None else 0, claimed)

    @rule(pick=PICKS, credits=AMOUNTS)
    def take_back(self, pick: int, credits: int) -> None:
        lot = self.book.grants[1 + pick % len(self.book.grants)]
        claimed, free = lot.claimed, min(lot.spendable, self.book.available)
        became_debt = debt.withdraw(self.book, lot, credits, SOMEBODY)
        assert (became_debt, lot.claimed) == (credits - min(credits, free), claimed)
        self.taken.append((lot.number, credits, became_debt))

    @rule(pick=PICKS, credits=AMOUNTS)
    def take_unspent(self, pick: int, credits: int) -> None:
        lot = self.book.grants[1 + pick % len(self.book.grants)]
        owed, posted = self.book.owed, self.book.posted
        taken = debt.withdraw_unspent(self.book, lot, credits, SOMEBODY)
        assert (self.book.owed, self.book.posted) == (owed, posted - taken)

    @precondition(lambda self: self.taken)
    @rule(pick=PICKS)
    def put_back(self, pick: int) -> None:
        number, credits, became_debt = self.taken.pop(-1 - pick % len(self.taken))
        worth = self.book.posted - self.book.owed
        entries = debt.undo_withdraw(self.book, self.book.grants[number], credits, SOMEBODY, debt=became_debt)
        expired = -sum(entry.credits for entry in entries if entry.kind == EntryKind.EXPIRY)
        assert self.book.posted - self.book.owed == worth + credits - expired

    @rule(credits=AMOUNTS)
    def freeze(self, credits: int) -> None:
        debt.freeze(self.book, credits)

    @precondition(lambda self: self.book.frozen)
    @rule(credits=AMOUNTS)
    def thaw(self, credits: int) -> None:
        debt.unfreeze(self.book, min(credits, self.book.frozen))

    @rule(passed=st.sampled_from([0.3, 1, 2, 25]))
    def pass_time(self, passed: float) -> None:
        self._pass_to(self.book.at + timedelta(hours=passed))

    @precondition(lambda self: due_changes.next_change_at(self.book) is not None)
    @rule(moments=st.sampled_from([-1, 0, 1]))
    def pass_time_until_something_happens(self, moments: int) -> None:
        coming = due_changes.next_change_at(self.book)
        assert coming is not None
        self._pass_to(max(self.book.at, coming + moments * timedelta(microseconds=1)))

    def _pass_to(self, at: datetime) -> None:
        """Settled in one go, the book is as it would be had it been settled at every instant on the way."""
        step_by_step = copy.deepcopy(self.book)
        while (coming := due_changes.next_change_at(step_by_step)) is not None and coming <= at:
            moved_on(step_by_step, coming)
        moved_on(step_by_step, at)
        moved_on(self.book, at)
        assert without_macs(self.book) == without_macs(step_by_step)

        assert not due_holds(self.book)
        for lot in self.book.grants.values():
            if lot.is_started and lot.expires_at is not None and lot.expires_at <= at:
                assert lot.spendable == 0
            assert lot.is_started or not lot.is_open or lot.starts_at is None or lot.starts_at > at
        coming = due_changes.next_change_at(self.book)
        assert coming is None or coming > at

    def _tried(self, move: Callable[[], Any]) -> Any:
        """What the move gives, or None: then it was refused, and the book is exactly as it was."""
        before = copy.deepcopy(self.book)
        try:
            return move()
        except BillingError:
            before.burn_order = self.book.burn_order  # only the order of the same grants, remembered
            assert self.book == before
            return None

    @invariant()
    def the_figures_agree(self) -> None:
        book = self.book
        lots, holds = book.grants.values(), book.holds.values()
        assert book.posted == sum(lot.remaining for lot in lots)
        assert book.posted == sum(posted.credits for posted in book.new_entries)
        assert book.owed == sum(posted.owed for posted in book.new_entries) >= 0
        assert book.held == sum(hold.remaining for hold in holds if hold.is_open)
        assert book.posted - book.held >= 0
        assert book.open_holds == sum(hold.is_open for hold in holds)
        for lot in lots:
            assert sum(hold.claims.get(lot.number, 0) for hold in holds) == lot.claimed
            assert 0 <= lot.claimed <= lot.remaining <= lot.credits

    @invariant()
    def nothing_is_available_to_pay_debt_where_something_is_owed(self) -> None:
        payable = sum(lot.spendable for lot in self.book.grants.values() if lot.is_open and lot.pays_debt)
        assert not (self.book.owed and self.book.available and payable)

    @invariant()
    def every_hold_is_accounted_for(self) -> None:
        for hold in self.book.holds.values():
            assert hold.credits == hold.captured + hold.released + hold.remaining + hold.allocated
            assert min(hold.captured, hold.released, hold.remaining, hold.allocated) >= 0
            assert all(claimed > 0 for claimed in hold.claims.values())
            assert 0 <= hold.closing_reserve <= hold.remaining
            assert (hold.closed_at is None) == hold.is_open
            assert hold.is_open or hold.remaining == 0
            drawn = sum(-one.entry.credits for one in self.charges if one.entry.hold_number == hold.number)
            assert drawn == hold.captured
            within = [inner for inner in self.book.holds.values() if inner.parent_budget == hold.number]
            lent = sum(inner.remaining + inner.captured + inner.allocated for inner in within)
            assert hold.allocated == lent or (hold.allocated > lent and self.detached)

    @invariant()
    def no_claim_outlives_its_grant_by_more_than_a_day(self) -> None:
        for hold in self.book.holds.values():
            for lot in map(self.book.grants.__getitem__, hold.claims):
                assert lot.expires_at is None or hold.expires_at <= lot.expires_at + timedelta(hours=24)
                assert lot.expires_at is None or self.book.at <= lot.expires_at + timedelta(hours=24)

    @invariant()
    def nothing_of_an_expired_grant_goes_back_into_a_hold(self) -> None:
        for (number, lot), claimed in self.claimed_of_expired.items():
            assert self.book.holds[number].claims.get(lot, 0) <= claimed
        gone = [lot.number for lot in self.book.grants.values() if lot.expires_at and lot.expires_at <= self.book.at]
        self.claimed_of_expired = {
            (hold.number, lot): hold.claims.get(lot, 0) for hold in self.book.holds.values() for lot in gone
        }

    @invariant()
    def seq_has_no_gap_and_every_change_of_the_figures_has_its_version(self) -> None:
        book = self.book
        seq, version, state = self.seen
        assert [posted.seq for posted in book.new_entries] == list(range(1, book.seq + 1))
        assert version <= book.version
        assert version < book.version or state == (book.posted, book.held, book.frozen, book.owed)
        versions = [posted.version for posted in book.new_entries]
        assert all(one < after for one, after in itertools.pairwise(versions))
        assert seq <= book.seq
        times = [posted.at for posted in book.new_entries]
        assert times == sorted(times)
        self.seen = (book.seq, book.version, (book.posted, book.held, book.frozen, book.owed))

    @invariant()
    def what_leaves_is_dated_at_the_expiry_or_later_at_its_release(self) -> None:
        for posted in self.book.new_entries[self.credited :]:
            if posted.kind == EntryKind.EXPIRY:
                [(number, _)] = posted.draws
                expires_at = self.book.grants[number].expires_at
                closed = {hold.closed_at for hold in self.book.holds.values()}
                back = {other.at for other in self.book.new_entries if other.kind in BACK}
                assert expires_at is not None
                assert posted.at == expires_at or posted.at in closed | back
                assert posted.at >= expires_at
        self.credited = len(self.book.new_entries)

    def _open(self, pick: int, *, envelopes: bool = False) -> Hold | None:
        found = [hold for hold in self.book.holds.values() if hold.is_open and (hold.is_budget or not envelopes)]
        return found[-1 - pick % len(found)] if found else None

    def _envelopes(self) -> list[Hold]:
        return [hold for hold in self.book.holds.values() if hold.is_budget]


def without_macs(book: AccountState) -> tuple[Any, ...]:
    """Everything that a posting would write."""
    lots, holds = [*book.grants.values()], [*book.holds.values()]
    return lines(book), figures(book), book.version, lots, holds, due_changes.next_change_at(book)


TestClaims = Claims.TestCase
TestClaims.settings = settings(max_examples=sized(80, soak=250), stateful_step_count=30, deadline=None, print_blob=True)
