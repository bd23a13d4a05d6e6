"""Refunds: credits leave when asked, what was spent becomes debt, the bonus goes too, and parts add up to the whole."""

import itertools
from asyncio import gather
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import database
from app.audit import audit
from app.errors import (
    IdempotencyConflict,
    InsufficientCredits,
    InvalidInput,
    RefundExceedsTopUp,
    TopUpNotFound,
    TopUpNotPaid,
    Unavailable,
)
from app.ledger import holds
from app.pricing.catalogue import Catalogue
from app.tasks import holding, lifecycle, reversing
from app.tasks.resuming import ResumeRequest, resume
from app.tasks.rules import Status as Ended
from app.topups.giving_back import refunds
from app.topups.giving_back.shares import Given, RefundRow
from app.topups.provider import DisputeState, Refund, RefundOrder, RefundState
from app.topups.rules import Status, Terms, TopUpState
from app.topups.sandbox import refunds as sandbox_refunds
from app.topups.sandbox.provider import Sandbox
from app.topups.settling import Outcome, settle
from tests.factories import a_catalogue_of, a_hold, a_task, charged, granted, in_seconds, past
from tests.ledger.test_burn_down import NOON
from tests.topups.buying import ADDRESS, SANDBOX, SECRET, a_top_up, an_event, inbox
from tests.topups.giving_back import (
    a_dispute,
    a_refund,
    figures,
    given_back,
    moves,
    paid,
    refunded,
    told,
)

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, slots=True)
class Silent(Sandbox):
    """A sandbox that does what it is told about refunds, and whose answer never comes back."""

    async def refund(self, order: RefundOrder) -> Refund:
        await Sandbox.refund(self, order)
        raise Unavailable("The connection was lost.")


@dataclass(frozen=True, slots=True)
class Unheard(Sandbox):
    """A sandbox that is never reached by a refund."""

    async def refund(self, order: RefundOrder) -> Refund:
        raise Unavailable("The connection was refused.")


SILENT, UNHEARD = Silent(ADDRESS, SECRET), Unheard(ADDRESS, SECRET)


async def spent(top_up: TopUpState, catalogue: Catalogue, credits: int) -> None:
    """So many of the owner's credits, a multiple of 10, are spent by a task of its own."""
    task = await a_task(top_up.actor.removeprefix("user:"))
    for _ in range(credits // 10):
        await charged(task, catalogue)
    await lifecycle.finish(task.task_id, Ended.COMPLETED)


async def whole() -> None:
    assert (await audit()).breaks == []


async def test_an_unspent_top_up_goes_back_whole(db: str) -> None:
    top_up = await paid(credits=1_000)
    done = await refunded(top_up)
    assert (done.refund.state, done.refund.credits, done.refund.debt_credits, done.refund.amount_minor) == (
        RefundState.DONE, 1_000, 0, 1_000,
    )  # fmt: skip
    assert (done.replayed, done.balance.posted, done.top_up.status) == (False, 0, Status.REFUNDED)
    assert await moves(top_up) == [("REFUND", -1_000, 0)]
    assert await given_back(top_up) == (Status.REFUNDED, 1_000, 1_000, 0)
    await whole()


async def test_the_entry_says_who_and_why_and_for_which_top_up(db: str) -> None:
    top_up = await paid()
    await refunded(top_up, 100, reason="wrong account", actor="operator:olivia")
    [entry] = await database.fetch("SELECT actor, reason, top_up_id, draws::text AS draws FROM entry WHERE seq = 2")
    assert tuple(entry) == ("operator:olivia", "wrong account", top_up.id, "[[1, 100]]")


async def test_what_was_spent_or_is_held_becomes_debt_and_the_voided_hold_pays_it(db: str) -> None:
    """A refund of a top-up that is partly drawn and partly held, the hold then voided."""
    catalogue = await a_catalogue_of()
    top_up = await paid(credits=1_000)
    await spent(top_up, catalogue, 300)
    held = await a_task("alice")
    hold = a_hold(held, 400)
    await holding.place(hold, catalogue)

    done = await refunded(top_up)

    assert (done.refund.credits, done.refund.debt_credits, done.refund.amount_minor) == (1_000, 700, 1_000)
    assert await figures(top_up) == (400, 400, 0, 700, 0)
    await whole()
    await holding.void(hold.task_id, hold.block_run_id)
    assert await figures(top_up) == (0, 0, 0, 300, 0)
    assert (await moves(top_up))[-3:] == [("REFUND", -300, 0), ("DEBT", 0, 700), ("DEBT_PAID", -400, -400)]
    assert await given_back(top_up) == (Status.REFUNDED, 1_000, 1_000, 0)
    await whole()


async def test_debt_blocks_new_tasks_and_resumes_and_a_top_up_pays_it_first(db: str, catalogue: Catalogue) -> None:
    """A top-up pays debt while tasks resume and spend."""
    first = await paid(credits=500)
    running = await a_task("alice")
    await spent(first, catalogue, 500)
    with pytest.raises(InsufficientCredits):
        await charged(running, catalogue)  # it stops here
    await refunded(first, 200)
    assert await figures(first) == (0, 0, 0, 200, 0)
    gift = await granted("alice", 50)
    assert (gift.lot.remaining, await figures(first)) == (50, (50, 0, 0, 200, 50))
    for refused in (lambda: a_task("alice"), lambda: resumed(running.task_id)):
        with pytest.raises(InsufficientCredits) as no:
            await refused()
        assert (no.value.required_credits, no.value.available_credits) == (201, 0)
    await whole()

    second = await paid(credits=500)

    assert (await moves(first))[-2:] == [("TOP_UP", 500, 0), ("DEBT_PAID", -200, -200)]
    assert await figures(second) == (350, 0, 0, 0, 350)
    await resumed(running.task_id)
    await gather(*(charged(running, catalogue) for _ in range(20)))
    assert await figures(second) == (150, 0, 0, 0, 150)
    await whole()


async def resumed(task_id: str) -> Any:
    return await resume(ResumeRequest(task_id=task_id, actor="user:alice"))


async def test_a_running_task_goes_on_with_what_is_available_while_something_is_owed(
    db: str, catalogue: Catalogue
) -> None:
    top_up = await paid(credits=500)
    task = await a_task("alice")
    await spent(top_up, catalogue, 500)
    await granted("alice", 30)
    await refunded(top_up, 100)
    assert await figures(top_up) == (30, 0, 0, 100, 30)
    assert (await charged(task, catalogue)).entry is not None
    assert await figures(top_up) == (20, 0, 0, 100, 20)


async def test_a_reversal_pays_debt(db: str, catalogue: Catalogue) -> None:
    top_up = await paid(credits=500)
    task = await a_task("alice")
    for _ in range(5):
        await charged(task, catalogue)
    await refunded(top_up)
    assert await figures(top_up) == (0, 0, 0, 50, 0)
    await reversing.reverse_task(task.task_id, reason="it failed", key="back", actor="operator:test")
    assert await figures(top_up) == (0, 0, 0, 0, 0)
    await whole()


async def test_a_grant_that_pays_debt_does_so_and_the_same_request_is_replayed(db: str, catalogue: Catalogue) -> None:
    top_up = await paid(credits=500)
    await spent(top_up, catalogue, 500)
    await refunded(top_up)
    asked = {"key": "gift", "pays_debt": True}
    first, again = await granted("alice", 300, **asked), await granted("alice", 300, **asked)
    assert (first.replayed, again.replayed, first.lot.number) == (False, True, again.lot.number)
    assert await figures(top_up) == (0, 0, 0, 200, 0)
    with pytest.raises(IdempotencyConflict):
        await granted("alice", 300, key="gift")
    await whole()


async def test_bought_spent_the_bonus_and_asked_the_money_back(db: str, catalogue: Catalogue) -> None:
    top_up = await paid(credits=1_000, bonus=200)
    await spent(top_up, catalogue, 150)  # promotional credits burn first
    assert await figures(top_up) == (1_050, 0, 0, 0, 1_050)

    done = await refunded(top_up)

    assert (done.refund.bonus_credits, done.refund.bonus_spent, done.refund.debt_credits) == (50, 150, 0)
    assert (done.refund.amount_minor, done.refund.reduced_minor) == (850, 150)
    assert await figures(top_up) == (0, 0, 0, 0, 0)
    assert (await moves(top_up))[-2:] == [("REFUND", -1_000, 0), ("ADJUSTMENT", -50, 0)]
    assert await given_back(top_up) == (Status.REFUNDED, 1_000, 850, 0)
    await whole()


async def test_the_same_share_of_the_bonus_goes_with_each_part(db: str, catalogue: Catalogue) -> None:
    top_up = await paid(credits=1_000, bonus=201)
    await spent(top_up, catalogue, 100)
    parts = [(await refunded(top_up, credits)).refund for credits in (500, 250, 250)]
    assert [(one.bonus_credits, one.bonus_spent, one.amount_minor, one.reduced_minor) for one in parts] == [
        (100, 0, 500, 0), (1, 49, 201, 49), (0, 51, 199, 51),
    ]  # fmt: skip
    assert await given_back(top_up) == (Status.REFUNDED, 1_000, 900, 0)
    assert await figures(top_up) == (0, 0, 0, 0, 0)
    await whole()


async def test_a_bonus_that_has_expired_unspent_does_not_reduce_the_money(db: str, catalogue: Catalogue) -> None:
    ends = await in_seconds(0.4)
    top_up = await paid(credits=1_000, bonus=200, expires_at=ends)
    await spent(top_up, catalogue, 50)
    await past(ends)
    half = (await refunded(top_up, 500)).refund
    rest = (await refunded(top_up)).refund
    assert (half.bonus_credits, half.bonus_expired, half.bonus_spent, half.amount_minor) == (0, 100, 0, 500)
    assert (rest.bonus_credits, rest.bonus_expired, rest.bonus_spent, rest.amount_minor) == (0, 50, 50, 450)
    await whole()


async def test_a_refund_of_no_money_is_done_without_the_provider(db: str, catalogue: Catalogue) -> None:
    top_up = await paid(credits=500, bonus=500)
    await spent(top_up, catalogue, 500)
    done = await refunded(top_up, provider=UNHEARD)
    assert (done.refund.state, done.refund.amount_minor, done.refund.reduced_minor) == (RefundState.DONE, 0, 500)
    assert await database.fetch("SELECT 1 FROM sandbox_refund") == []
    assert await given_back(top_up) == (Status.REFUNDED, 500, 0, 0)
    await whole()


async def test_parts_in_another_currency_add_up_to_the_whole(db: str) -> None:
    terms = Terms(
        minimum_credits=500, maximum_credits=10_000, multiple_credits=100, currency="JPY", minor_per_credit=3
    )  # fmt: skip
    top_up = await paid(credits=700, terms=terms)
    amounts = [(await refunded(top_up, part)).refund.amount_minor for part in (1, 233, 466)]
    assert (amounts, await given_back(top_up)) == ([3, 699, 1_398], (Status.REFUNDED, 700, 2_100, 0))
    await whole()


@pytest.mark.parametrize("credits", [1_001, 2**53 - 1])
async def test_more_than_the_top_up_is_refused_and_nothing_moves(db: str, credits: int) -> None:
    top_up = await paid(credits=1_000)
    with pytest.raises(RefundExceedsTopUp) as no:
        await refunded(top_up, credits)
    assert (no.value.requested_credits, no.value.refundable_credits) == (credits, 1_000)
    await refunded(top_up, 600)
    with pytest.raises(RefundExceedsTopUp) as no:
        await refunded(top_up, 401)
    assert no.value.refundable_credits == 400
    await refunded(top_up)
    with pytest.raises(RefundExceedsTopUp):
        await refunded(top_up)
    assert (await moves(top_up), (await given_back(top_up))[1]) == ([("REFUND", -600, 0), ("REFUND", -400, 0)], 1_000)


async def test_what_cannot_be_refunded(db: str) -> None:
    top_up, pending = await paid(), await a_top_up("bob")
    with pytest.raises(TopUpNotPaid):
        await refunded(pending)
    for other in (top_up._replace(id="0" * 32), top_up._replace(account_id=999_999), pending._replace(id=top_up.id)):
        with pytest.raises(TopUpNotFound):
            await refunded(other)
    for wrong in ({"credits": 0}, {"credits": -1}, {"reason": " "}, {"key": ""}):
        with pytest.raises(InvalidInput):
            await refunded(top_up, **wrong)
    assert await moves(top_up) == []


async def test_another_providers_top_up_is_refused_before_anything_moves(db: str) -> None:
    top_up = await paid()
    await database.fetch("UPDATE top_up SET provider = 'other'")
    with pytest.raises(Unavailable):
        await refunded(top_up)
    assert await moves(top_up) == []


async def test_the_same_request_again_is_the_first_refund(db: str) -> None:
    top_up = await paid()
    first, again = await refunded(top_up, 100, key="k"), await refunded(top_up, 100, key="k")
    assert (first.replayed, again.replayed, again.refund) == (False, True, first.refund)
    with pytest.raises(IdempotencyConflict):
        await refunded(top_up, 101, key="k")
    assert await given_back(top_up) == (Status.PAID, 100, 100, 0)


async def test_twenty_refunds_at_once_never_pass_the_top_up(db: str) -> None:
    top_up = await paid(credits=1_000)
    results = await gather(*(refunded(top_up, 70) for _ in range(20)), return_exceptions=True)
    assert [type(one) for one in results].count(RefundExceedsTopUp) == 6
    assert await given_back(top_up) == (Status.PAID, 980, 980, 0)
    [paid_back] = await database.fetch("SELECT refunded_minor FROM sandbox_payment")
    assert (paid_back[0], await figures(top_up)) == (980, (20, 0, 0, 0, 20))
    await whole()


async def test_credits_return_when_the_provider_refuses(db: str, catalogue: Catalogue) -> None:
    top_up = await paid(credits=1_000, bonus=100)
    await spent(top_up, catalogue, 400)
    await sandbox_refunds.give_back_unasked(str(top_up.payment_ref), 900, "USD", provider="sandbox")  # we never heard

    done = await refunded(top_up)

    assert (done.refund.state, done.refund.debt_credits, done.top_up.status) == (RefundState.FAILED, 300, Status.PAID)
    assert (await moves(top_up))[-4:] == [
        ("REFUND", -700, 0), ("DEBT", 0, 300), ("DEBT", 0, -300), ("REFUND", 700, 0),
    ]  # fmt: skip
    assert await figures(top_up) == (700, 0, 0, 0, 700)
    assert await given_back(top_up) == (Status.PAID, 0, 0, 0)
    await whole()


async def test_debt_that_was_paid_before_the_refusal_comes_back_too(db: str, catalogue: Catalogue) -> None:
    top_up = await paid(credits=500)
    await spent(top_up, catalogue, 500)
    done = await refunded(top_up, provider=UNHEARD)
    await paid(credits=800)
    assert await figures(top_up) == (300, 0, 0, 0, 300)
    refused = a_refund(top_up, 500, RefundState.FAILED, reference=f"{top_up.account_id}-{done.refund.id}")
    assert await told(refused) is Outcome.REFUND_FAILED
    assert await figures(top_up) == (800, 0, 0, 0, 800)
    assert await told(refused) is Outcome.UNCHANGED
    await whole()


async def test_an_unknown_outcome_is_asked_for_and_settled_once(db: str) -> None:
    top_up = await paid()
    done = await refunded(top_up, 400, provider=SILENT)
    assert (done.refund.state, await figures(top_up)) == (RefundState.PENDING, (600, 0, 0, 0, 600))
    assert await refunds.reconcile(SANDBOX) == 0  # too early
    await database.fetch("UPDATE top_up_refund SET asked_at = asked_at - interval '11 minutes'")
    asked: list[int] = await gather(*(refunds.reconcile(SANDBOX) for _ in range(5)))
    assert sorted(asked) == [0, 0, 0, 0, 1]
    assert await refunds.reconcile(SANDBOX) == 0
    [row] = await database.fetch("SELECT status, refund_ref FROM top_up_refund")
    [[there]] = await database.fetch("SELECT refund_ref FROM sandbox_refund")
    assert tuple(row) == ("DONE", there)
    assert (await moves(top_up), await given_back(top_up)) == ([("REFUND", -400, 0)], (Status.PAID, 400, 400, 0))
    await whole()


async def test_a_refund_that_never_arrived_is_ordered_again_and_the_money_goes_back_once(db: str) -> None:
    top_up = await paid()
    await refunded(top_up, 400, provider=UNHEARD)
    assert (await refunded(top_up, 300, provider=UNHEARD, key="k")).refund.state is RefundState.PENDING
    assert (await refunded(top_up, 300, key="k")).refund.state is RefundState.PENDING  # never retried blind
    assert await database.fetch("SELECT 1 FROM sandbox_refund") == []
    assert await refunds.reconcile(SANDBOX, after_seconds=0) == 2
    found = await database.fetch("SELECT status FROM top_up_refund")
    assert [status for (status,) in found] == ["DONE", "DONE"]
    [[back]] = await database.fetch("SELECT refunded_minor FROM sandbox_payment")
    assert back == 700


async def test_the_limit_holds_though_the_planner_thinks_that_there_is_one_refund(db: str) -> None:
    """As in the sweep: then it would read what is due anew for each row that there is."""
    top_up = await paid()
    await refunded(top_up, 100, provider=SILENT)
    await database.fetch("VACUUM ANALYZE top_up_refund")
    for number in range(6):
        await refunded(top_up, 100, provider=SILENT, key=f"k-{number}")
    assert await refunds.reconcile(SANDBOX, after_seconds=0, limit=2) == 2


async def test_one_refund_that_cannot_be_asked_about_does_not_hold_up_the_others(db: str) -> None:
    first, second = await paid("alice"), await paid("bob")
    for top_up in (first, second):
        await refunded(top_up, provider=SILENT)
    await database.fetch("UPDATE top_up SET provider = 'gone' WHERE id = $1", first.id)
    assert await refunds.reconcile(SANDBOX, after_seconds=0) == 2
    assert [(await given_back(one))[0] for one in (first, second)] == [Status.REFUNDED] * 2
    found = await database.fetch("SELECT top_up_id, status FROM top_up_refund")
    assert {tuple(record) for record in found} == {(first.id, "PENDING"), (second.id, "DONE")}


async def test_the_sandbox_gives_back_once_for_a_reference_and_no_more_than_was_paid(db: str) -> None:
    top_up = await paid(credits=1_000)
    payment_ref = str(top_up.payment_ref)

    def order(reference: str, amount_minor: int) -> RefundOrder:
        return RefundOrder(reference=reference, payment_ref=payment_ref, amount_minor=amount_minor, currency="USD")

    same = await gather(*(SANDBOX.refund(order("one", 400)) for _ in range(10)))
    assert {one.refund_ref for one in same} == {same[0].refund_ref}
    assert same[0].state is RefundState.DONE
    assert await SANDBOX.find_refund("one", payment_ref) == same[0]
    assert await SANDBOX.find_refund("another", payment_ref) is None
    assert (await SANDBOX.refund(order("two", 601))).state is RefundState.FAILED
    assert (await SANDBOX.refund(order("three", 600))).state is RefundState.DONE
    strange = RefundOrder(reference="four", payment_ref="pay_unknown", amount_minor=1, currency="USD")
    assert (await SANDBOX.refund(strange)).state is RefundState.FAILED


async def test_the_sandboxs_notices_of_refunds_and_disputes_are_verified_and_read(db: str) -> None:
    top_up = await paid()
    for said in (a_refund(top_up, 5), a_refund(top_up, 5, RefundState.FAILED, reference="1-x"),
                 a_dispute(top_up, DisputeState.OPEN), a_dispute(top_up, DisputeState.LOST)):  # fmt: skip
        event = await SANDBOX.verify(*SANDBOX.notice_of(said))
        assert event is not None
        assert event.told == said


async def test_a_notice_about_our_refund_changes_nothing_that_is_done(db: str) -> None:
    top_up = await paid()
    done = await refunded(top_up, 400)
    ours = {"reference": f"{top_up.account_id}-{done.refund.id}", "refund_ref": done.refund.refund_ref}
    for state in (RefundState.PENDING, RefundState.DONE):
        assert await told(a_refund(top_up, 400, state, **ours)) is Outcome.UNCHANGED
    assert await given_back(top_up) == (Status.PAID, 400, 400, 0)
    assert await told(a_refund(top_up, 400, RefundState.FAILED, **ours)) is Outcome.REFUND_FAILED  # a bank sent it back
    assert await told(a_refund(top_up, 400, RefundState.DONE, **ours)) is Outcome.UNCHANGED
    assert (await given_back(top_up), await figures(top_up)) == ((Status.PAID, 0, 0, 0), (1_000, 0, 0, 0, 1_000))
    await whole()


async def test_a_refund_begun_at_the_provider_has_the_same_effect(db: str, catalogue: Catalogue) -> None:
    top_up = await paid(credits=1_000, bonus=100)
    await spent(top_up, catalogue, 100)
    said = a_refund(top_up, 250, RefundState.PENDING)
    assert await told(said) is Outcome.REFUNDED
    assert await told(said) is Outcome.UNCHANGED
    assert await given_back(top_up) == (Status.PAID, 250, 250, 0)
    [entry] = await database.fetch("SELECT actor, credits FROM entry WHERE kind = 'REFUND'")
    assert tuple(entry) == ("provider:sandbox", -250)
    assert await told(a_refund(top_up, 750)) is Outcome.REFUNDED
    assert (await given_back(top_up), await figures(top_up)) == ((Status.REFUNDED, 1_000, 1_000, 0), (0, 0, 0, 0, 0))
    assert await told(a_refund(top_up, 1)) is Outcome.WAITING
    await whole()


async def test_a_refund_that_follows_a_failed_one_waits_until_that_is_known(db: str) -> None:
    top_up = await paid(credits=1_000)
    first: dict[str, Any] = {"refund_ref": "re_first"}
    second: dict[str, Any] = {"refund_ref": "re_second"}
    assert await told(a_refund(top_up, 1_000, **first)) is Outcome.REFUNDED
    assert await told(a_refund(top_up, 300, **second), event_id="sandbox:early") is Outcome.WAITING
    assert (await inbox())["sandbox:early"]["last_error"] == "amount in minor units is 300, 0 could go back"
    assert await told(a_refund(top_up, 1_000, RefundState.FAILED, **first)) is Outcome.REFUND_FAILED
    assert await told(a_refund(top_up, 300, **second), event_id="sandbox:early") is Outcome.REFUNDED
    assert await given_back(top_up) == (Status.PAID, 300, 300, 0)
    await whole()


async def test_a_failed_refund_that_was_not_heard_of_before_takes_nothing_and_is_over(db: str) -> None:
    top_up = await paid(credits=1_000)
    assert await told(a_refund(top_up, 300, refund_ref="re_second")) is Outcome.REFUNDED
    assert await told(a_refund(top_up, 1_000, RefundState.FAILED, refund_ref="re_first")) is Outcome.REFUND_FAILED
    assert await told(a_refund(top_up, 1_000, RefundState.DONE, refund_ref="re_first")) is Outcome.UNCHANGED
    assert (await given_back(top_up), (await figures(top_up)).posted) == ((Status.PAID, 300, 300, 0), 700)
    await whole()


async def test_a_refusal_that_comes_first_leaves_a_later_notice_of_the_same_refund_without_effect(db: str) -> None:
    top_up = await paid()
    for state in (RefundState.FAILED, RefundState.PENDING, RefundState.DONE):
        await told(a_refund(top_up, 400, state, refund_ref="re_1"))
    assert (await given_back(top_up), await moves(top_up)) == ((Status.PAID, 0, 0, 0), [])
    await whole()


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"currency": "JPY"}, "currency is JPY, ours is USD"),
        ({"live": True}, "mode is live, ours is test"),
        ({"amount_minor": 1_001}, "amount in minor units is 1001, 1000 could go back"),
        ({"reference": "1-" + "0" * 32}, "There is no refund"),
        ({"reference": "nonsense"}, "There is no refund"),
    ],
)
async def test_a_notice_that_disagrees_is_parked(db: str, claims: dict[str, Any], reason: str) -> None:
    top_up = await paid()
    said = a_refund(top_up, 400, **claims) if "amount_minor" not in claims else a_refund(top_up, **claims)
    assert (await told(said, event_id="sandbox:odd")).startswith("PARKED")
    notice = (await inbox())["sandbox:odd"]
    assert (notice["handled_at"], reason in notice["last_error"]) == (None, True)
    assert (await moves(top_up), await given_back(top_up)) == ([], (Status.PAID, 0, 0, 0))


async def test_an_amount_that_differs_from_our_refund_is_parked(db: str) -> None:
    top_up = await paid()
    done = await refunded(top_up, 400, provider=UNHEARD)
    said = a_refund(top_up, 399, reference=f"{top_up.account_id}-{done.refund.id}")
    assert await told(said) is Outcome.PARKED_MISMATCH
    assert (await given_back(top_up), (await figures(top_up)).posted) == ((Status.PAID, 400, 400, 0), 600)


async def test_a_refund_before_its_payment_waits_for_it(db: str) -> None:
    top_up = await a_top_up("alice", 1_000)
    payment = await an_event(top_up, payment_ref=top_up.provider_ref)
    said = a_refund(top_up, 400, payment_ref=top_up.provider_ref)
    assert [await told(said, event_id="sandbox:early") for _ in range(2)] == [Outcome.WAITING] * 2
    notice = (await inbox())["sandbox:early"]
    assert (notice["handled_at"], notice["attempts"], notice["parked_at"]) == (None, 1, None)
    assert notice["next_attempt_at"] is not None
    assert await settle(payment) is Outcome.CREDITED
    assert await told(said, event_id="sandbox:early") is Outcome.REFUNDED
    assert await told(said, event_id="sandbox:early") is Outcome.DUPLICATE
    assert (await inbox())["sandbox:early"]["handled_at"] is not None
    assert await given_back(top_up) == (Status.PAID, 400, 400, 0)
    await whole()


async def test_a_hold_that_is_captured_draws_its_claim_whatever_was_refunded(db: str) -> None:
    catalogue = await a_catalogue_of()
    top_up = await paid(credits=500)
    hold = a_hold(await a_task("alice"), 400)
    await holding.place(hold, catalogue)
    await refunded(top_up)
    [open_hold] = await holds.page(top_up.account_id, before_number=9, limit=9, open_only=True)
    assert (open_hold.remaining, await figures(top_up)) == (400, (400, 400, 0, 400, 0))
    await whole()


@settings(max_examples=300, deadline=None)
@given(
    credits=st.integers(1, 60), amount=st.integers(1, 10_000), bonus=st.integers(0, 50),
    parts=st.lists(st.tuples(st.integers(1, 20), st.booleans()), max_size=12),
)  # fmt: skip
def test_parts_in_any_sizes_some_refused_add_up_exactly(
    credits: int, amount: int, bonus: int, parts: list[tuple[int, bool]]
) -> None:
    top_up = bare(credits, amount, bonus)
    refunds: list[RefundRow] = []
    numbers = itertools.count()
    for wanted, refused in [*parts, (credits, False)]:
        given = Given.of(top_up, refunds, [])
        if not (part := min(wanted, given.refundable)):
            break
        row = a_row(next(numbers), part, given.bonus_of(part), given.money_of(part))
        refunds.append(row._replace(state=RefundState.FAILED) if refused else row)
        left = Given.of(top_up, refunds, [])
        assert min(left.credits, left.bonus, left.money_minor) >= 0
    standing = [row for row in refunds if row.stands]
    assert sum(row.credits for row in standing) == credits
    assert sum(row.bonus for row in standing) == bonus
    assert sum(row.amount_minor for row in standing) == amount


def bare(credits: int, amount_minor: int, bonus: int) -> TopUpState:
    """A paid top-up of those figures."""
    return TopUpState(
        account_id=1, id="t", credits=credits, amount_minor=amount_minor, currency="USD", status=Status.PAID,
        provider="sandbox", provider_ref="p", payment_url=None, return_url=None, actor="user:alice", created_at=NOON,
        paid_at=NOON, bonus_credits=bonus,
    )  # fmt: skip


def a_row(number: int, credits: int, bonus: int, amount_minor: int) -> RefundRow:
    """A refund that is done, of unspent bonus."""
    return RefundRow(
        account_id=1, id=str(number), top_up_id="t", credits=credits, debt_credits=0, bonus_credits=bonus,
        bonus_expired=0, bonus_spent=0, amount_minor=amount_minor, reduced_minor=0, state=RefundState.DONE,
        refund_ref=None, reason="", actor="", created_at=NOON, decided_at=NOON,
    )  # fmt: skip
