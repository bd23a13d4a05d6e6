"""All rules on one account, in any order: invariants that hold after each operation."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.errors import BillingError, InsufficientCredits
from app.ledger.rules import balance_changes, debt, due_changes, holds
from app.ledger.rules.account_state import AccountState, Cause, EntryKind, GrantSource, Hold, HoldStatus, LedgerEntry
from app.tasks.rules import check_can_start
from tests.ledger.rules.test_balance_changes import CAUSE, add_grant, advance_to, new_account
from tests.ledger.rules.test_holds import DAY, HOUR, due_holds, entry_list, figures, place
from tests.soak import sized

AMOUNTS = st.integers(1, 40)
PICKS = st.integers(0, 3)
HOURS = st.sampled_from([0.5, None, 1, 2.5, 24])
TIMEOUTS = st.sampled_from([DAY, HOUR, HOUR // 2, 1])
BACK = (EntryKind.REVERSAL, EntryKind.REFUND, EntryKind.ADJUSTMENT)


@dataclass
class ReversibleCharge:
    """A charge and how much of it has been reversed."""

    entry: LedgerEntry
    reversed_credits: int = field(default=0)


class LedgerRules(RuleBasedStateMachine):
    """One account and every operation of the rules. The invariants are checked after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.account = new_account()
        self.charges: list[ReversibleCharge] = []
        self.checked_entries = 0
        self.seen = (0, 0, (0, 0, 0, 0))
        self.claims_on_expired_grants: dict[tuple[int, int], int] = {}
        self.withdrawn: list[tuple[int, int, int]] = []
        """Withdrawals that can be undone: grant, credits, and how many of them became debt."""
        self.has_reparented_budget = False
        """Whether a budget has lost its parent: it still counts as allocated there."""

    @initialize(
        credits=st.integers(30, 100),
        expires_in=HOURS,
        timeout=TIMEOUTS,
        inner=st.sampled_from([[False], [True, False], []]),
    )
    def begin(self, credits: int, expires_in: float | None, timeout: int, inner: list[bool]) -> None:
        """A grant, a budget, and holds in it."""
        self.grant(credits, 0, None, expires_in)
        self.place(credits // 2, None, timeout, True, 0)
        for budget in inner:
            self.place(credits // 4, 0, timeout, budget, 0)

    @rule(
        credits=AMOUNTS,
        priority=st.integers(-1, 1),
        starts_in=HOURS,
        expires_in=HOURS,
        source=st.sampled_from(GrantSource),
    )
    def grant(
        self, credits: int, priority: int, starts_in: float | None, expires_in: float | None,
        source: GrantSource = GrantSource.PROMOTIONAL,
    ) -> None:  # fmt: skip
        add_grant(
            self.account, credits, priority=priority, source=source,
            starts_at=None if starts_in is None else self.account.at + timedelta(hours=starts_in),
            expires_at=None if expires_in is None else self.account.at + timedelta(hours=(starts_in or 0) + expires_in),
        )  # fmt: skip

    @rule(credits=AMOUNTS)
    def charge(self, credits: int) -> None:
        entry = self._attempt(lambda: balance_changes.charge(self.account, credits, CAUSE))
        if entry is not None:
            self.charges.append(ReversibleCharge(entry))
        elif self.account.available < credits:
            self._shortfall_suffices(credits, lambda account: balance_changes.charge(account, credits, CAUSE))

    @rule(credits=st.integers(0, 40))
    def start(self, credits: int) -> None:
        if self.account.owed or self.account.available < credits:
            self._shortfall_suffices(credits, lambda account: check_can_start(account, credits))

    def _shortfall_suffices(self, credits: int, move: Callable[[AccountState], object]) -> None:
        """A refusal names the credits to buy: with so many the same request succeeds, with one less it does not."""
        for missing in (0, 1):
            account = copy.deepcopy(self.account)
            if bought := account.balance().shortfall(credits) - missing:
                add_grant(account, bought, source=GrantSource.PURCHASED)
            if not missing:
                move(account)
                continue
            with pytest.raises(InsufficientCredits) as refused:
                move(account)
            assert refused.value.shortfall_credits == 1

    @rule(
        credits=st.integers(0, 40), parent_pick=st.none() | PICKS, timeout=TIMEOUTS, budget=st.booleans(),
        closing_reserve=st.integers(0, 5),
    )  # fmt: skip
    def place(self, credits: int, parent_pick: int | None, timeout: int, budget: bool, closing_reserve: int) -> None:
        parent = self._open(parent_pick, budgets=True) if parent_pick is not None else None
        number = self.account.hold_count + 1
        self._attempt(
            lambda: place(
                self.account, credits, task_id=f"task-{number}", block_run_id=None if budget else f"run-{number}",
                timeout_seconds=timeout, parent_budget=parent,
                closing_reserve=min(closing_reserve, credits) if budget else 0,
            )
        )  # fmt: skip

    @precondition(lambda self: self._open(0))
    @rule(pick=PICKS, credits=AMOUNTS, closing=st.booleans())
    def draw(self, pick: int, credits: int, closing: bool) -> None:
        hold = self._open(pick)
        assert hold is not None
        entry = self._attempt(lambda: holds.charge_hold(self.account, hold, credits, CAUSE, is_closing=closing))
        if entry is not None:
            self.charges.append(ReversibleCharge(entry))

    @precondition(lambda self: self._open(0))
    @rule(pick=PICKS, status=st.sampled_from([HoldStatus.CAPTURED, HoldStatus.VOIDED]))
    def close(self, pick: int, status: HoldStatus) -> None:
        hold = self._open(pick)
        assert hold is not None
        holds.close_hold(self.account, hold, status)
        assert (hold.remaining, hold.closing_reserve, hold.status) == (0, 0, status)

    @precondition(lambda self: self._budgets())
    @rule(pick=PICKS, credits=AMOUNTS)
    def add(self, pick: int, credits: int) -> None:
        budgets = self._budgets()
        budget = budgets[pick % len(budgets)]
        parent = budget.parent_budget
        self._attempt(lambda: holds.add_to_budget(self.account, budget, credits))
        self.has_reparented_budget |= budget.parent_budget != parent
        # The parent may give it claims on an expired grant: that is no release.
        for (number, grant), claimed in self.claims_on_expired_grants.items():
            if number == budget.number:
                self.claims_on_expired_grants[number, grant] = max(claimed, budget.claims.get(grant, 0))

    @precondition(lambda self: self._open(0, budgets=True))
    @rule(pick=PICKS)
    def renew(self, pick: int) -> None:
        budget = self._open(pick, budgets=True)
        assert budget is not None
        holds.renew_timeout(self.account, budget)
        inner: Hold | None = budget
        while inner is not None:
            if inner.is_open:
                expires_in = [self.account.grants[number].expires_at for number in inner.claims]
                last = [end + timedelta(hours=24) for end in expires_in if end is not None]
                assert inner.expires_at == min([self.account.at + timedelta(seconds=inner.timeout_seconds), *last])
            inner = self.account.holds.get(inner.parent_budget or 0)

    @precondition(lambda self: self.charges)
    @rule(pick=PICKS, credits=AMOUNTS)
    def reverse(self, pick: int, credits: int) -> None:
        charged = self.charges[-1 - pick % len(self.charges)]
        entry = charged.entry
        reversed_credits = min(credits, -entry.credits - charged.reversed_credits)
        if reversed_credits:
            balance_changes.reverse(
                self.account,
                balance_changes.reversal_draws(
                    entry.draws, already_reversed=charged.reversed_credits, credits=reversed_credits
                ),
                CAUSE,
            )
            charged.reversed_credits += reversed_credits

    @rule(pick=PICKS)
    def revoke(self, pick: int) -> None:
        grant = self.account.grants[1 + pick % len(self.account.grants)]
        claimed = grant.claimed
        credits, entry = balance_changes.revoke_grant(self.account, grant, Cause(actor="operator:test"))
        assert (credits, grant.claimed) == (-entry.credits if entry is not None else 0, claimed)

    @rule(pick=PICKS, credits=AMOUNTS)
    def withdraw(self, pick: int, credits: int) -> None:
        grant = self.account.grants[1 + pick % len(self.account.grants)]
        claimed, free = grant.claimed, min(grant.spendable, self.account.available)
        became_debt = debt.withdraw(self.account, grant, credits, CAUSE)
        assert (became_debt, grant.claimed) == (credits - min(credits, free), claimed)
        self.withdrawn.append((grant.number, credits, became_debt))

    @rule(pick=PICKS, credits=AMOUNTS)
    def withdraw_unspent(self, pick: int, credits: int) -> None:
        grant = self.account.grants[1 + pick % len(self.account.grants)]
        owed, posted = self.account.owed, self.account.posted
        withdrawn = debt.withdraw_unspent(self.account, grant, credits, CAUSE)
        assert (self.account.owed, self.account.posted) == (owed, posted - withdrawn)

    @precondition(lambda self: self.withdrawn)
    @rule(pick=PICKS)
    def undo_withdraw(self, pick: int) -> None:
        number, credits, became_debt = self.withdrawn.pop(-1 - pick % len(self.withdrawn))
        worth = self.account.posted - self.account.owed
        entries = debt.undo_withdraw(self.account, self.account.grants[number], credits, CAUSE, debt=became_debt)
        expired = -sum(entry.credits for entry in entries if entry.kind == EntryKind.EXPIRY)
        assert self.account.posted - self.account.owed == worth + credits - expired

    @rule(credits=AMOUNTS)
    def freeze(self, credits: int) -> None:
        debt.freeze(self.account, credits)

    @precondition(lambda self: self.account.frozen)
    @rule(credits=AMOUNTS)
    def unfreeze(self, credits: int) -> None:
        debt.unfreeze(self.account, min(credits, self.account.frozen))

    @rule(passed=st.sampled_from([0.3, 1, 2, 25]))
    def pass_time(self, passed: float) -> None:
        self._pass_to(self.account.at + timedelta(hours=passed))

    @precondition(lambda self: due_changes.next_change_at(self.account) is not None)
    @rule(microseconds=st.sampled_from([-1, 0, 1]))
    def pass_time_until_next_change(self, microseconds: int) -> None:
        next_change = due_changes.next_change_at(self.account)
        assert next_change is not None
        self._pass_to(max(self.account.at, next_change + microseconds * timedelta(microseconds=1)))

    def _pass_to(self, at: datetime) -> None:
        """Applying due changes once gives the same state as applying them at every instant on the way."""
        step_by_step = copy.deepcopy(self.account)
        while (next_change := due_changes.next_change_at(step_by_step)) is not None and next_change <= at:
            advance_to(step_by_step, next_change)
        advance_to(step_by_step, at)
        advance_to(self.account, at)
        assert all_values(self.account) == all_values(step_by_step)

        assert not due_holds(self.account)
        for grant in self.account.grants.values():
            if grant.is_started and grant.expires_at is not None and grant.expires_at <= at:
                assert grant.spendable == 0
            assert grant.is_started or not grant.is_open or grant.starts_at is None or grant.starts_at > at
        next_change = due_changes.next_change_at(self.account)
        assert next_change is None or next_change > at

    def _attempt(self, move: Callable[[], Any]) -> Any:
        """The result of an operation; None: it was refused, and the account has not changed."""
        before = copy.deepcopy(self.account)
        try:
            return move()
        except BillingError:
            before.burn_order = self.account.burn_order  # a cache
            assert self.account == before
            return None

    @invariant()
    def figures_add_up(self) -> None:
        account = self.account
        grants, holds = account.grants.values(), account.holds.values()
        assert account.posted == sum(grant.remaining for grant in grants)
        assert account.posted == sum(entry.credits for entry in account.new_entries)
        assert account.owed == sum(entry.owed for entry in account.new_entries) >= 0
        assert account.held == sum(hold.remaining for hold in holds if hold.is_open)
        assert account.posted - account.held >= 0
        assert account.open_holds == sum(hold.is_open for hold in holds)
        for grant in grants:
            assert sum(hold.claims.get(grant.number, 0) for hold in holds) == grant.claimed
            assert 0 <= grant.claimed <= grant.remaining <= grant.credits

    @invariant()
    def no_available_credits_could_pay_debt(self) -> None:
        payable = sum(grant.spendable for grant in self.account.grants.values() if grant.is_open and grant.pays_debt)
        assert not (self.account.owed and self.account.available and payable)

    @invariant()
    def every_hold_adds_up(self) -> None:
        for hold in self.account.holds.values():
            assert hold.credits == hold.captured + hold.released + hold.remaining + hold.allocated
            assert min(hold.captured, hold.released, hold.remaining, hold.allocated) >= 0
            assert all(claimed > 0 for claimed in hold.claims.values())
            assert 0 <= hold.closing_reserve <= hold.remaining
            assert (hold.closed_at is None) == hold.is_open
            assert hold.is_open or hold.remaining == 0
            drawn = sum(-one.entry.credits for one in self.charges if one.entry.hold_number == hold.number)
            assert drawn == hold.captured
            children = [inner for inner in self.account.holds.values() if inner.parent_budget == hold.number]
            allocated = sum(inner.remaining + inner.captured + inner.allocated for inner in children)
            assert hold.allocated == allocated or (hold.allocated > allocated and self.has_reparented_budget)

    @invariant()
    def no_claim_outlives_its_grant_by_more_than_24_hours(self) -> None:
        for hold in self.account.holds.values():
            for grant in map(self.account.grants.__getitem__, hold.claims):
                assert grant.expires_at is None or hold.expires_at <= grant.expires_at + timedelta(hours=24)
                assert grant.expires_at is None or self.account.at <= grant.expires_at + timedelta(hours=24)

    @invariant()
    def credits_of_expired_grants_do_not_return_to_holds(self) -> None:
        for (number, grant), claimed in self.claims_on_expired_grants.items():
            assert self.account.holds[number].claims.get(grant, 0) <= claimed
        expired_grants = [
            grant.number
            for grant in self.account.grants.values()
            if grant.expires_at and grant.expires_at <= self.account.at
        ]
        self.claims_on_expired_grants = {
            (hold.number, grant): hold.claims.get(grant, 0)
            for hold in self.account.holds.values()
            for grant in expired_grants
        }

    @invariant()
    def seq_has_no_gap_and_every_change_has_a_version(self) -> None:
        account = self.account
        seq, version, state = self.seen
        assert [entry.seq for entry in account.new_entries] == list(range(1, account.seq + 1))
        assert version <= account.version
        assert version < account.version or state == (account.posted, account.held, account.frozen, account.owed)
        versions = [entry.version for entry in account.new_entries]
        assert all(one < after for one, after in itertools.pairwise(versions))
        assert seq <= account.seq
        times = [entry.at for entry in account.new_entries]
        assert times == sorted(times)
        self.seen = (account.seq, account.version, (account.posted, account.held, account.frozen, account.owed))

    @invariant()
    def expiries_are_dated_at_the_expiry_or_at_the_release(self) -> None:
        for entry in self.account.new_entries[self.checked_entries :]:
            if entry.kind == EntryKind.EXPIRY:
                [(number, _)] = entry.draws
                expires_at = self.account.grants[number].expires_at
                closed = {hold.closed_at for hold in self.account.holds.values()}
                reversed_credits = {other.at for other in self.account.new_entries if other.kind in BACK}
                assert expires_at is not None
                assert entry.at == expires_at or entry.at in closed | reversed_credits
                assert entry.at >= expires_at
        self.checked_entries = len(self.account.new_entries)

    def _open(self, pick: int, *, budgets: bool = False) -> Hold | None:
        found = [hold for hold in self.account.holds.values() if hold.is_open and (hold.is_budget or not budgets)]
        return found[-1 - pick % len(found)] if found else None

    def _budgets(self) -> list[Hold]:
        return [hold for hold in self.account.holds.values() if hold.is_budget]


def all_values(account: AccountState) -> tuple[Any, ...]:
    """Everything that a posting would write."""
    grants, holds = [*account.grants.values()], [*account.holds.values()]
    return entry_list(account), figures(account), account.version, grants, holds, due_changes.next_change_at(account)


TestLedgerRules = LedgerRules.TestCase
TestLedgerRules.settings = settings(
    max_examples=sized(80, soak=250), stateful_step_count=30, deadline=None, print_blob=True
)
