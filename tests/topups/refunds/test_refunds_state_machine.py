"""State machine: refunds and disputes of one top-up among everything else that changes its account. No database."""

from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.errors import BillingError
from app.ledger.rules import balance_changes, debt, holds
from app.ledger.rules.account_state import Cause, EntryKind, GrantSource, Hold, HoldStatus
from app.topups.provider import DisputeStatus, RefundStatus
from app.topups.provider_events import EventNotApplied
from app.topups.refunds import dispute_effects, refund_effects
from app.topups.refunds.amounts import credits_for_amount, derive_top_up
from app.topups.refunds.locked_top_up import LockedTopUp
from app.topups.rules import TopUpRow, TopUpStatus
from tests.ledger.rules.test_balance_changes import CAUSE, NOON, add_grant, new_account
from tests.ledger.rules.test_holds import place
from tests.soak import sized
from tests.topups.refund_fixtures import build_dispute, external_refund

PICKS = st.integers(0, 3)
AMOUNTS = st.integers(1, 60)
BY_TOP_UP = (EntryKind.TOP_UP, EntryKind.REFUND, EntryKind.DISPUTE_LOST, EntryKind.DEBT)


class RefundsAndDisputes(RuleBasedStateMachine):
    """One account with one top-up; I4, I7 and I8 (see docs) are checked after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.account = new_account()
        self.holds: list[Hold] = []
        self.external_refunds = 0
        self.frozen_elsewhere = 0

    @initialize(
        credits=st.integers(1, 60), price=st.integers(1, 3), tax=st.integers(0, 40), bonus=st.integers(0, 30),
        pays=st.booleans(),
    )  # fmt: skip
    def buy(self, credits: int, price: int, tax: int, bonus: int, pays: bool) -> None:
        top_up = TopUpRow(
            account_id=1, id="0" * 32, credits=credits, amount_minor=credits * price + price // 3, currency="USD",
            status=TopUpStatus.PAID, provider="sandbox", provider_ref="p", payment_url=None, return_url=None,
            actor="user:alice", created_at=NOON, paid_at=NOON, bonus_credits=bonus, payment_ref="p",
            total_minor=credits * price + price // 3 + tax,
        )  # fmt: skip
        cause = Cause(actor="user:alice", top_up_id=top_up.id)
        own, _ = balance_changes.add_grant(self.account, credits, cause, source=GrantSource.PURCHASED)
        gift = (
            balance_changes.add_grant(self.account, bonus, cause, source=GrantSource.PROMOTIONAL, pays_debt=pays)[0]
            if bonus
            else None
        )
        self.locked = LockedTopUp(
            account=self.account,
            top_up=top_up,
            refunds={},
            disputes={},
            purchased_grant=own,
            bonus_grant=gift,
            unspent_bonus_credits=0,
            status_before=TopUpStatus.PAID,
        )

    @rule(credits=AMOUNTS)
    def charge(self, credits: int) -> None:
        self._try(lambda: balance_changes.charge(self.account, credits, CAUSE))

    @rule(credits=AMOUNTS)
    def hold(self, credits: int) -> None:
        hold = self._try(lambda: place(self.account, credits))
        if hold is not None:
            self.holds.append(hold)

    @precondition(lambda self: self.holds)
    @rule(pick=PICKS, drawn=st.integers(0, 60))
    def close(self, pick: int, drawn: int) -> None:
        hold = self.holds.pop(-1 - pick % len(self.holds))
        if credits := min(drawn, hold.remaining):
            holds.charge_hold(self.account, hold, credits, CAUSE)
        holds.close_hold(self.account, hold, HoldStatus.CAPTURED)

    @rule(credits=AMOUNTS, source=st.sampled_from(GrantSource))
    def grant(self, credits: int, source: GrantSource) -> None:
        add_grant(self.account, credits, source=source)

    @rule(credits=AMOUNTS | st.none())
    def refund(self, credits: int | None) -> None:
        self._try(lambda: refund_effects.begin_refund(self.locked, credits, reason="asked", actor="operator:test"))

    @precondition(lambda self: self.locked.refunds)
    @rule(pick=PICKS, status=st.sampled_from(RefundStatus))
    def provider_reports_our_refund(self, pick: int, status: RefundStatus) -> None:
        row = list(self.locked.refunds.values())[-1 - pick % len(self.locked.refunds)]
        ours = {"reference": f"1-{row.id}", "refund_ref": row.refund_ref or f"re_{row.id}"}
        self._apply(
            lambda: refund_effects.apply_refund_event(
                self.locked, external_refund(self.locked.top_up, row.amount_minor, status, **ours)
            )
        )

    @rule(amount=st.integers(1, 120), status=st.sampled_from(RefundStatus))
    def provider_refunds(self, amount: int, status: RefundStatus) -> None:
        self.external_refunds += 1
        reported = external_refund(self.locked.top_up, amount, status, refund_ref=f"re_{self.external_refunds}")
        self._apply(lambda: refund_effects.apply_refund_event(self.locked, reported))

    @rule(
        which=st.integers(1, 2), status=st.sampled_from(DisputeStatus), amount=st.sampled_from([20, 35, 1_000]),
        seconds=st.none() | st.integers(0, 5),
    )  # fmt: skip
    def provider_reports_a_dispute(self, which: int, status: DisputeStatus, amount: int, seconds: int | None) -> None:
        reported = build_dispute(
            self.locked.top_up,
            status,
            dispute_ref=f"dp_{which}",
            amount_minor=amount,
            reported_at=None if seconds is None else NOON + timedelta(seconds=seconds),
        )
        self._apply(lambda: dispute_effects.apply_dispute_event(self.locked, reported))

    @rule(credits=AMOUNTS)
    def freeze_for_another_top_up(self, credits: int) -> None:
        debt.freeze(self.account, credits)
        self.frozen_elsewhere += credits

    @rule()
    def unfreeze_for_another_top_up(self) -> None:
        debt.unfreeze(self.account, self.frozen_elsewhere)
        self.frozen_elsewhere = 0

    def _try(self, move: Any) -> Any:
        before = (self.account.seq, self.account.version, self.locked.remaining)
        try:
            return move()
        except BillingError:
            assert (self.account.seq, self.account.version, self.locked.remaining) == before

    def _apply(self, move: Any) -> None:
        before = (self.account.seq, self.account.version, self.locked.remaining)
        try:
            move()
        except EventNotApplied:
            assert (self.account.seq, self.account.version, self.locked.remaining) == before

    @invariant()
    def refunded_credits_equal_the_entries(self) -> None:
        top_up = derive_top_up(self.locked.top_up, self.locked.refunds.values(), self.locked.disputes.values())
        lines = [posted for posted in self.account.new_entries if posted.top_up_id == top_up.id]
        left = sum(line.credits - line.owed for line in lines if line.kind in BY_TOP_UP)
        assert left == top_up.credits - top_up.refunded_credits - top_up.clawed_back_credits >= 0
        taken = sum(row.bonus_credits for row in self.locked.refunds.values() if row.is_effective)
        taken += sum(row.bonus_credits for row in self.locked.disputes.values())
        assert sum(line.credits for line in lines if line.kind not in BY_TOP_UP) == top_up.bonus_credits - taken
        assert 0 <= top_up.refunded_minor <= top_up.paid_minor
        assert (top_up.status is TopUpStatus.REFUNDED) == (left == 0)

    @invariant()
    def parts_never_exceed_the_whole(self) -> None:
        given = self.locked.remaining
        assert 0 <= given.disputed_credits <= given.credits
        assert min(given.bonus_credits, given.money_minor) >= 0
        for row in self.locked.refunds.values():
            assert row.debt_credits <= row.credits
            assert row.credits > 0 or row.amount_minor > 0

    @invariant()
    def frozen_credits_equal_open_disputes(self) -> None:
        open_ones = [row for row in self.locked.disputes.values() if row.status is DisputeStatus.OPEN]
        assert self.account.frozen == sum(row.frozen_credits for row in open_ones) + self.frozen_elsewhere

    @invariant()
    def only_open_disputes_freeze_and_no_more_than_they_concern(self) -> None:
        for row in self.locked.disputes.values():
            assert 0 <= row.frozen_credits <= (row.credits if row.status is DisputeStatus.OPEN else 0)
            assert 0 <= row.debt_credits <= (row.credits if row.status is DisputeStatus.LOST else 0)

    @invariant()
    def disputes_cover_all_that_refunds_leave(self) -> None:
        for row in self.locked.disputes.values():
            if row.status is not DisputeStatus.WON and row.credits < credits_for_amount(
                self.locked.top_up, row.amount_minor
            ):
                assert self.locked.remaining.refundable_credits == 0

    @invariant()
    def the_figures_of_the_account_agree(self) -> None:
        grants = self.account.grants.values()
        assert self.account.posted == sum(grant.remaining for grant in grants)
        assert self.account.owed == sum(posted.owed for posted in self.account.new_entries) >= 0
        assert all(0 <= grant.claimed <= grant.remaining <= grant.credits for grant in grants)
        payable = sum(grant.spendable for grant in grants if grant.is_open and grant.pays_debt)
        assert not (self.account.owed and self.account.available and payable)


TestRefundsAndDisputes = RefundsAndDisputes.TestCase
TestRefundsAndDisputes.settings = settings(
    max_examples=sized(100, soak=300), stateful_step_count=40, deadline=None, print_blob=True
)
