"""Reports of disputes and refunds of one payment in any order, repeated and with changed amounts; what owners learn."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.db import pools
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import Cause, GrantSource
from app.pricing.rate_card_cache import RateCardCache
from app.topups.provider import Dispute, DisputeStatus, Refund, RefundStatus
from app.topups.provider_events import EventNotApplied, EventOutcome
from app.topups.refunds import dispute_effects, refund_effects
from app.topups.refunds.amounts import derive_top_up
from app.topups.refunds.locked_top_up import LockedTopUp
from app.topups.rules import TopUpRow, TopUpStatus
from tests.ledger.rules.test_balance_changes import CAUSE, NOON, new_account
from tests.soak import sized
from tests.topups.refund_fixtures import (
    assert_ledger_intact,
    build_dispute,
    create_paid_top_up,
    deliver,
    external_refund,
    list_moves,
    read_figures,
    read_refund_figures,
    refund_top_up,
    spend_credits,
)
from tests.topups.top_up_fixtures import list_inbox

pytestmark = pytest.mark.anyio

OPEN, WON, LOST = DisputeStatus.OPEN, DisputeStatus.WON, DisputeStatus.LOST


async def test_credits_bought_while_spent_ones_are_disputed_can_be_used(db: str, rate_cards: RateCardCache) -> None:
    first = await create_paid_top_up(credits=500)
    await spend_credits("alice", rate_cards, 500)
    assert await deliver(build_dispute(first, OPEN)) is EventOutcome.DISPUTED
    assert await read_figures(first) == (0, 0, 0, 0, 0)
    await create_paid_top_up(credits=600)
    assert await read_figures(first) == (600, 0, 0, 0, 600)
    await deliver(build_dispute(first, LOST))
    assert await read_figures(first) == (100, 0, 0, 0, 100)
    assert (await list_moves(first))[-2:] == [("DEBT", 0, 500), ("DEBT_PAID", -500, -500)]
    await assert_ledger_intact()


async def test_a_dispute_freezes_only_what_its_top_up_still_has(db: str, rate_cards: RateCardCache) -> None:
    first = await create_paid_top_up(credits=500)
    await spend_credits("alice", rate_cards, 200)
    await create_paid_top_up(credits=600)
    await deliver(build_dispute(first, OPEN))
    assert await read_figures(first) == (900, 0, 300, 0, 600)
    [row] = await pools.fetch("SELECT credits, frozen_credits FROM dispute")
    assert tuple(row) == (500, 300)
    await deliver(build_dispute(first, WON))
    assert await read_figures(first) == (900, 0, 0, 0, 900)
    await assert_ledger_intact()


async def test_two_disputes_freeze_only_what_their_top_up_still_has(db: str, rate_cards: RateCardCache) -> None:
    first = await create_paid_top_up(credits=500)
    await spend_credits("alice", rate_cards, 200)
    await create_paid_top_up(credits=600)
    for ref in ("dp_1", "dp_2"):
        await deliver(build_dispute(first, OPEN, dispute_ref=ref, amount_minor=250))
    assert await read_figures(first) == (900, 0, 300, 0, 600)
    await assert_ledger_intact()


async def test_a_dispute_that_closes_with_another_amount_takes_this_amount(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    await deliver(build_dispute(top_up, OPEN, amount_minor=1_000))
    assert await deliver(build_dispute(top_up, LOST, amount_minor=400)) is EventOutcome.DISPUTE_LOST
    assert await read_figures(top_up) == (600, 0, 0, 0, 600)
    assert await read_refund_figures(top_up) == (TopUpStatus.PAID, 0, 0, 400)
    await assert_ledger_intact()


@pytest.mark.parametrize(("amount", "frozen"), [(300, 300), (900, 900), (5_000, 1_000)])
async def test_an_open_dispute_whose_amount_changes_freezes_the_new_amount(db: str, amount: int, frozen: int) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    await deliver(build_dispute(top_up, OPEN, amount_minor=500))
    assert await deliver(build_dispute(top_up, OPEN, amount_minor=amount)) is EventOutcome.DISPUTED
    assert await read_figures(top_up) == (1_000, 0, frozen, 0, 1_000 - frozen)
    await assert_ledger_intact()


async def test_a_decision_that_the_bank_changes_later_is_followed(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=1_000, bonus=100)
    await spend_credits("alice", rate_cards, 300)
    before = await read_figures(top_up)
    ends: list[Any] = []
    for seconds, status in enumerate([OPEN, LOST, WON, LOST, WON]):
        await deliver(build_dispute(top_up, status, reported_at=NOON + timedelta(seconds=seconds)))
        ends.append(await read_figures(top_up))
        await assert_ledger_intact()
    assert before == (800, 0, 0, 0, 800)
    assert ends[1] == ends[3] == (0, 0, 0, 200, 0)
    assert ends[2] == ends[4] == before


async def test_a_status_that_is_not_known_is_parked_and_names_the_command(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    await deliver(build_dispute(top_up, OPEN))
    odd = replace(build_dispute(top_up, OPEN), status=None, provider_status="arbitrated")
    assert await deliver(odd, event_id="sandbox:odd") is EventOutcome.PARKED_UNKNOWN
    stored = (await list_inbox())["sandbox:odd"]
    assert 'has the status "arbitrated", which is not known' in stored["last_error"]
    assert f"provider-events decide dp_{top_up.id} won" in stored["last_error"]
    assert (await read_figures(top_up)).frozen == 1_000


async def test_a_closed_inquiry_ends_a_dispute_and_is_no_dispute_itself(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    closed = build_dispute(top_up, WON, is_inquiry=True)
    assert await deliver(closed) is EventOutcome.UNCHANGED
    assert await pools.fetch("SELECT 1 FROM dispute") == []
    await deliver(build_dispute(top_up, OPEN))
    assert (await read_figures(top_up)).frozen == 1_000
    assert await deliver(closed) is EventOutcome.DISPUTE_WON
    assert await read_figures(top_up) == (1_000, 0, 0, 0, 1_000)


UNRESOLVED = "SELECT kind, message FROM notification WHERE resolved_at IS NULL AND kind = ANY($1) ORDER BY number"
KINDS = ["DISPUTED", "DISPUTE_LOST", "REFUNDED", "IN_DEBT"]


LOST_TEXT = (
    "The bank has returned money of a payment of 10.00 USD to the buyer: 1,000 credits are taken back; 300 of them had "
    "been spent or are held, and are owed."
)


async def unresolved() -> list[tuple[str, str]]:
    return [(kind, message) for kind, message in await pools.fetch(UNRESOLVED, KINDS)]


async def test_owners_are_notified_of_a_dispute_its_end_and_the_debt(db: str, rate_cards: RateCardCache) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    await spend_credits("alice", rate_cards, 300)
    for _ in range(2):
        await deliver(build_dispute(top_up, OPEN))
    frozen = "A payment of 10.00 USD is disputed: 700 credits are frozen until the bank has decided."
    assert await unresolved() == [("DISPUTED", frozen)]
    await deliver(build_dispute(top_up, LOST))
    assert await unresolved() == [
        ("DISPUTE_LOST", LOST_TEXT),
        ("IN_DEBT", "The account owes 300 credits: no agent can start until a top-up has paid the debt."),
    ]
    await create_paid_top_up(credits=500)
    assert [kind for kind, _ in await unresolved()] == ["DISPUTE_LOST"]


async def test_owners_are_notified_once_of_each_dispute(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    refs = ["dp_1", "x" * 200]
    for ref in refs:
        await deliver(build_dispute(top_up, OPEN, dispute_ref=ref, amount_minor=400))
    assert [kind for kind, _ in await unresolved()] == ["DISPUTED", "DISPUTED"]
    for left, ref in zip([1, 0], refs, strict=True):
        await deliver(build_dispute(top_up, WON, dispute_ref=ref, amount_minor=400))
        assert len(await unresolved()) == left


async def test_owners_are_notified_of_a_refund_until_it_fails(db: str) -> None:
    top_up = await create_paid_top_up(credits=1_000)
    result = await refund_top_up(top_up, 400)
    refunded = "4.00 USD of a payment of 10.00 USD were refunded: 400 credits are taken back."
    assert await unresolved() == [("REFUNDED", refunded)]
    reference = f"{top_up.account_id}-{result.refund.id}"
    ours = {"reference": reference, "refund_ref": result.refund.refund_ref}
    assert await deliver(external_refund(top_up, 400, RefundStatus.FAILED, **ours)) is EventOutcome.REFUND_FAILED
    assert await unresolved() == []


# Any order of the reports of one payment, applied in memory.

PAID = TopUpRow(
    account_id=1, id="0" * 32, credits=1_000, amount_minor=3_000, currency="USD", status=TopUpStatus.PAID,
    provider="sandbox", provider_ref="p", payment_url=None, return_url=None, actor="user:alice", created_at=NOON,
    paid_at=NOON, payment_ref="p", total_minor=3_600,
)  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> list[Dispute | Refund]:
    """The reports of one to three disputes and up to two refunds that were begun at the provider."""
    reports: list[Dispute | Refund] = []
    for number in range(draw(st.integers(1, 3))):
        statuses = [OPEN] * draw(st.integers(0, 3)) + draw(st.lists(st.sampled_from([WON, LOST]), max_size=2))
        for status in statuses or [OPEN]:
            reported_at = NOON + timedelta(seconds=draw(st.integers(0, 4)))
            amount = draw(st.sampled_from([360, 700, 1_801, 3_600, 4_000]))
            reports.append(
                build_dispute(PAID, status, dispute_ref=f"dp_{number}", amount_minor=amount, reported_at=reported_at)
            )
    for number in range(draw(st.integers(0, 2))):
        amount = draw(st.sampled_from([1, 500, 1_800]))
        statuses = draw(st.sampled_from([("PENDING", "DONE"), ("DONE", "FAILED"), ("DONE",)]))
        reports += [
            external_refund(PAID, amount, RefundStatus(status), refund_ref=f"re_{number}") for status in statuses
        ]
    return reports


def apply_all(reports: list[Dispute | Refund], spent: int) -> LockedTopUp:
    """A paid top-up of which `spent` credits are spent, after the reports. Those that wait are applied again."""
    account = new_account()
    grant, _ = balance_changes.add_grant(
        account, 1_000, Cause(actor="user:alice", top_up_id=PAID.id), source=GrantSource.PURCHASED
    )
    if spent:
        balance_changes.charge(account, spent, CAUSE)
    locked = LockedTopUp(
        account=account, top_up=PAID, refunds={}, disputes={}, purchased_grant=grant, bonus_grant=None,
        unspent_bonus_credits=0, status_before=TopUpStatus.PAID,
    )  # fmt: skip
    waiting = list(reports)
    for _ in range(6):
        waiting = [report for report in waiting if not is_applied(locked, report)]
    assert waiting == []
    return locked


def is_applied(locked: LockedTopUp, report: Dispute | Refund) -> bool:
    try:
        if isinstance(report, Dispute):
            dispute_effects.apply_dispute_event(locked, report)
        else:
            refund_effects.apply_refund_event(locked, report)
    except EventNotApplied as reason:
        if reason.outcome is not EventOutcome.WAITING:
            raise
        return False
    return True


def test_credits_of_a_lost_dispute_return_to_their_grant_if_the_refund_that_counted_them_fails() -> None:
    lost = build_dispute(PAID, LOST, dispute_ref="dp_0", amount_minor=360)
    refunds = [external_refund(PAID, 1_800, RefundStatus.DONE, refund_ref=ref) for ref in ("re_0", "re_1")]
    failed = external_refund(PAID, 1_800, RefundStatus.FAILED, refund_ref="re_1")
    opened = build_dispute(PAID, OPEN, dispute_ref="dp_1", amount_minor=1_801)
    locked = apply_all([lost, *refunds, failed, opened], spent=0)
    assert [grant.remaining for grant in locked.account.grants.values()] == [400]
    rows = {ref: (row.credits, row.frozen_credits, row.debt_credits) for ref, row in locked.disputes.items()}
    assert rows == {"dp_0": (100, 0, 0), "dp_1": (400, 400, 0)}


@pytest.mark.parametrize("first", [0, 1])
def test_an_external_refund_and_an_open_dispute_end_alike_in_both_orders(first: int) -> None:
    reports: list[Dispute | Refund] = [
        external_refund(PAID, 1_800, RefundStatus.DONE, refund_ref="re_0"),
        build_dispute(PAID, OPEN, dispute_ref="dp_0", amount_minor=1_801),
    ]
    locked = apply_all([reports[first], reports[1 - first]], spent=300)
    account = locked.account
    assert (account.posted, account.owed, account.frozen) == (200, 0, 200)
    assert locked.disputes["dp_0"].credits == 500


def valid_report(reports: list[Dispute]) -> Dispute:
    return max(
        reports, key=lambda one: (one.status is not OPEN, one.reported_at, one.status is LOST, one.amount_minor)
    )  # fmt: skip


@given(history=histories(), spent=st.sampled_from([0, 300, 1_000]), data=st.data())
@settings(max_examples=sized(150, soak=3_000), deadline=None, print_blob=True)
def test_any_order_of_the_reports_of_one_payment_has_the_exact_sums(
    history: list[Dispute | Refund], spent: int, data: st.DataObject
) -> None:
    repeated = history + data.draw(st.lists(st.sampled_from(history), max_size=4))
    locked = apply_all(data.draw(st.permutations(repeated)), spent)
    account = locked.account
    disputes = [one for one in history if isinstance(one, Dispute)]
    valid = {ref: valid_report([one for one in disputes if one.dispute_ref == ref]) for ref in locked.disputes}
    assert {one.dispute_ref for one in disputes} == set(valid)
    for ref, row in locked.disputes.items():
        assert (row.status, row.amount_minor) == (valid[ref].status, valid[ref].amount_minor)

    refunds = {one.refund_ref: one.amount_minor for one in history if isinstance(one, Refund)}
    failed = {one.refund_ref for one in history if isinstance(one, Refund) and one.status is RefundStatus.FAILED}
    refunded_minor = sum(amount for ref, amount in refunds.items() if ref not in failed)
    top_up = derive_top_up(PAID, locked.refunds.values(), locked.disputes.values())
    assert top_up.refunded_minor == refunded_minor
    # Refunds share one rounding, up to a whole credit. If one of them fails, its rounding may go with it.
    assert abs(top_up.refunded_credits + (-refunded_minor * 1_000 // 3_600)) <= (1 if failed else 0)
    lost = [one for one in valid.values() if one.status is LOST]
    left = 1_000 - top_up.refunded_credits
    wanted = sum(min(1_000, -(-one.amount_minor * 1_000 // 3_600)) for one in lost)
    assert top_up.clawed_back_credits == min(left, wanted)
    assert account.posted - account.owed == 1_000 - spent - top_up.refunded_credits - top_up.clawed_back_credits
    open_ones = [row for row in locked.disputes.values() if row.status is OPEN]
    disputed = sum(min(1_000, -(-row.amount_minor * 1_000 // 3_600)) for row in open_ones)
    assert sum(row.credits for row in open_ones) == min(left - top_up.clawed_back_credits, disputed)
    assert account.frozen == sum(row.frozen_credits for row in open_ones) <= account.posted
    if not spent:
        assert all(row.frozen_credits == row.credits for row in open_ones)
    # Then all open disputes are won.
    for row in open_ones:
        dispute_effects.apply_dispute_event(locked, replace(valid[row.dispute_ref], status=WON))
    assert account.frozen == 0
    assert not (account.owed and account.available)
