"""Settlement: a payment is credited once, whichever event reports it, however often and in any order."""

import random
from asyncio import gather
from typing import Any

import pytest

from app.credits import MAX_CREDITS
from app.db import pools
from app.errors import BalanceLimitReached
from app.ledger import queries
from app.ledger.rules.account_state import GrantSource
from app.topups import purchases
from app.topups.errors import TopUpNotFound
from app.topups.provider_events import EventOutcome
from app.topups.purchases import confirm_top_up
from app.topups.rules import PaymentStatus, TopUpStatus
from app.topups.settlement import settle
from tests.factories import grant_credits
from tests.topups.top_up_fixtures import (
    SANDBOX,
    create_top_up,
    decide_payment,
    list_entries,
    list_inbox,
    payment_event,
    posted_credits,
    reload,
)

pytestmark = pytest.mark.anyio


async def test_a_payment_makes_an_entry_and_a_grant_that_never_expires(db: str) -> None:
    top_up = await create_top_up("alice", 1_200)
    event = await payment_event(top_up)

    assert await settle(event) is EventOutcome.CREDITED

    paid = await reload(top_up)
    assert (paid.status, paid.provider_ref) == (TopUpStatus.PAID, top_up.provider_ref)
    assert await list_entries(top_up.account_id) == [("TOP_UP", 1_200, top_up.id, "user:alice")]
    [grant] = await queries.list_grants(top_up.account_id, before_number=99, limit=9)
    assert (grant.source, grant.credits, grant.remaining, grant.expires_at) == (
        GrantSource.PURCHASED,
        1_200,
        1_200,
        None,
    )
    assert (grant.top_up_id, grant.created_at) == (top_up.id, paid.paid_at)
    stored = (await list_inbox())[event.event_id]
    assert (stored["outcome"], stored["attempts"], stored["last_error"]) == ("CREDITED", 0, None)
    assert stored["handled_at"] is not None


async def test_a_declined_payment_credits_nothing(db: str) -> None:
    top_up = await create_top_up()
    event = await payment_event(top_up, PaymentStatus.DECLINED)
    assert await settle(event) is EventOutcome.DECLINED
    failed = await reload(top_up)
    assert (failed.status, failed.paid_at, await list_entries(top_up.account_id)) == (TopUpStatus.FAILED, None, [])
    assert await settle(event) is EventOutcome.DUPLICATE


async def test_a_payment_after_a_decline_counts_once(db: str) -> None:
    top_up = await create_top_up()
    await settle(await payment_event(top_up, PaymentStatus.DECLINED))
    paid = await payment_event(top_up)
    assert [await settle(paid), await settle(paid)] == [EventOutcome.CREDITED, EventOutcome.DUPLICATE]
    assert (await reload(top_up)).status is TopUpStatus.PAID
    assert await posted_credits(top_up.account_id) == 500


async def test_a_decline_that_arrives_after_the_payment_changes_nothing(db: str) -> None:
    top_up = await create_top_up()
    late = await payment_event(top_up, PaymentStatus.DECLINED)
    await settle(await payment_event(top_up))
    assert await settle(late) is EventOutcome.UNCHANGED
    assert (await reload(top_up)).status is TopUpStatus.PAID
    assert await posted_credits(top_up.account_id) == 500


async def test_concurrent_events_of_one_payment_credit_it_once(db: str) -> None:
    top_up = await create_top_up()
    events = [await payment_event(top_up, event_id=f"sandbox:evt_{number}") for number in range(5)]
    outcomes = await gather(*map(settle, events))
    assert sorted(outcomes) == [EventOutcome.CREDITED] + [EventOutcome.UNCHANGED] * 4
    assert await posted_credits(top_up.account_id) == 500


async def test_repeated_and_shuffled_events_credit_each_payment_once(db: str) -> None:
    chance = random.Random(7)  # noqa: S311  the same shuffle in every run
    top_ups = [await create_top_up(f"owner-{number % 5}", 500 + 100 * number) for number in range(20)]
    events = []
    for number, top_up in enumerate(top_ups):
        declined = [await payment_event(top_up, PaymentStatus.DECLINED)] if number % 3 == 0 else []
        paid = [await payment_event(top_up)] if number % 4 else []
        events += [event for event in declined + paid for _ in range(chance.randint(1, 4))]
    chance.shuffle(events)

    outcomes: list[EventOutcome] = []
    for start in range(0, len(events), 8):
        outcomes += await gather(*map(settle, events[start : start + 8]))

    paid_ones = [top_up for number, top_up in enumerate(top_ups) if number % 4]
    assert outcomes.count(EventOutcome.CREDITED) == len(paid_ones) == 15
    found = [
        entry for account_id in {top_up.account_id for top_up in top_ups} for entry in await list_entries(account_id)
    ]
    assert sorted(found) == sorted(("TOP_UP", one.credits, one.id, one.actor) for one in paid_ones)
    assert {(await reload(top_up)).status for top_up in paid_ones} == {TopUpStatus.PAID}
    assert [(await reload(top_ups[number])).status for number in (0, 4, 8, 12, 16)] == [
        TopUpStatus.FAILED, TopUpStatus.PENDING, TopUpStatus.PENDING, TopUpStatus.FAILED, TopUpStatus.PENDING,
    ]  # fmt: skip


async def test_fifty_concurrent_pairs_of_webhook_and_return_page_credit_once_each(db: str) -> None:
    top_ups = [await create_top_up(f"owner-{number % 10}") for number in range(50)]
    events = [await payment_event(top_up) for top_up in top_ups]
    calls: list[Any] = []
    for top_up, event in zip(top_ups, events, strict=True):
        calls += [settle(event), confirm_top_up(top_up.account_id, top_up.id, SANDBOX)]
    random.Random(3).shuffle(calls)  # noqa: S311  the same shuffle in every run

    answers = await gather(*calls)

    confirmed = [answer for answer in answers if isinstance(answer, purchases.ConfirmedTopUp)]
    assert len(confirmed) == 50
    assert {one.top_up.status for one in confirmed} == {TopUpStatus.PAID}
    assert all(one.balance.posted >= 500 for one in confirmed)
    accounts = {top_up.account_id for top_up in top_ups}
    assert {account_id: await posted_credits(account_id) for account_id in accounts} == dict.fromkeys(accounts, 2_500)
    named = [entry[2] for account_id in accounts for entry in await list_entries(account_id)]
    assert sorted(filter(None, named)) == sorted(top_up.id for top_up in top_ups)


async def test_the_return_page_settles_a_payment_before_the_webhook(db: str) -> None:
    top_up = await create_top_up()
    before = await confirm_top_up(top_up.account_id, top_up.id, SANDBOX)
    assert (before.top_up.status, before.balance.posted, await list_inbox()) == (TopUpStatus.PENDING, 0, {})
    await decide_payment(top_up)
    after = await confirm_top_up(top_up.account_id, top_up.id, SANDBOX)
    assert (after.top_up.status, after.balance.posted, after.balance.version) == (TopUpStatus.PAID, 500, 1)
    assert await settle(await payment_event(top_up)) is EventOutcome.UNCHANGED
    again = await confirm_top_up(top_up.account_id, top_up.id, SANDBOX)
    assert (again.top_up, again.balance) == (after.top_up, after.balance)


async def test_the_return_page_settles_a_payment_after_a_decline(db: str) -> None:
    top_up = await create_top_up()
    statuses = []
    for state in (PaymentStatus.DECLINED, PaymentStatus.PAID):
        await decide_payment(top_up, state)
        statuses.append((await confirm_top_up(top_up.account_id, top_up.id, SANDBOX)).top_up.status)
    assert statuses == [TopUpStatus.FAILED, TopUpStatus.PAID]
    assert await posted_credits(top_up.account_id) == 500


async def test_another_accounts_top_up_is_not_found(db: str) -> None:
    top_up, other = await create_top_up("alice"), await create_top_up("bob")
    await decide_payment(top_up)
    for account_id, top_up_id in ((other.account_id, top_up.id), (999_999, top_up.id), (top_up.account_id, "0" * 32)):
        with pytest.raises(TopUpNotFound):
            await confirm_top_up(account_id, top_up_id, SANDBOX)
    assert ((await reload(top_up)).status, await list_inbox()) == (TopUpStatus.PENDING, {})


@pytest.mark.parametrize(
    ("changes", "outcome", "reason"),
    [
        ({"amount_minor": 501}, EventOutcome.PARKED_MISMATCH, "amount in minor units is 501, ours is 500"),
        ({"currency": "JPY"}, EventOutcome.PARKED_MISMATCH, "currency is JPY, ours is USD"),
        ({"provider_ref": "pay_other"}, EventOutcome.PARKED_MISMATCH, "payment is pay_other"),
        ({"reference": f"999999-{'0' * 32}"}, EventOutcome.PARKED_UNKNOWN, "no top-up of this reference"),
        ({"reference": "an invoice of somebody else"}, EventOutcome.PARKED_UNKNOWN, "no top-up of this reference"),
    ],
)
async def test_an_event_that_differs_from_our_row_is_parked_and_credits_nothing(
    db: str, changes: dict[str, Any], outcome: EventOutcome, reason: str
) -> None:
    top_up = await create_top_up()
    event = await payment_event(top_up, event_id="sandbox:evt_odd", **changes)
    assert [await settle(event), await settle(event)] == [outcome, outcome]
    stored = (await list_inbox())["sandbox:evt_odd"]
    assert (stored["outcome"], stored["handled_at"]) == (outcome, None)
    assert reason in stored["last_error"]
    assert ((await reload(top_up)).status, await list_entries(top_up.account_id)) == (TopUpStatus.PENDING, [])
    assert await settle(await payment_event(top_up)) is EventOutcome.CREDITED


async def test_an_event_of_one_account_never_credits_another(db: str) -> None:
    alices, bobs = await create_top_up("alice"), await create_top_up("bob")
    crossed = f"{bobs.account_id}-{alices.id}"
    assert await settle(await payment_event(alices, reference=crossed)) is EventOutcome.PARKED_UNKNOWN
    assert (await posted_credits(alices.account_id), await posted_credits(bobs.account_id)) == (0, 0)


async def test_a_failure_leaves_the_event_to_be_retried(db: str) -> None:
    top_up = await create_top_up("alice", 500)
    await grant_credits("alice", MAX_CREDITS - 499)
    event = await payment_event(top_up)
    for attempt in (1, 2):
        with pytest.raises(BalanceLimitReached):
            await settle(event)
        stored = (await list_inbox())[event.event_id]
        assert (stored["attempts"], stored["handled_at"], stored["outcome"]) == (attempt, None, None)
        assert stored["last_error"].startswith("The balance would exceed")
    assert (await reload(top_up)).status is TopUpStatus.PENDING
    assert (await posted_credits(top_up.account_id)) == MAX_CREDITS - 499


async def test_the_effect_and_the_handled_mark_commit_together(db: str) -> None:
    """The database refuses the last write of the transaction; afterwards the same event is settled."""
    top_up = await create_top_up()
    event = await payment_event(top_up)
    await pools.fetch("ALTER TABLE provider_event ADD CONSTRAINT broken CHECK (handled_at IS NULL) NOT VALID")
    try:
        with pytest.raises(Exception, match="broken"):
            await settle(event)
        assert ((await reload(top_up)).status, await list_entries(top_up.account_id)) == (TopUpStatus.PENDING, [])
        assert (await list_inbox())[event.event_id]["attempts"] == 1
    finally:
        await pools.fetch("ALTER TABLE provider_event DROP CONSTRAINT broken")
    assert await settle(event) is EventOutcome.CREDITED
    stored = (await list_inbox())[event.event_id]
    assert (stored["outcome"], stored["attempts"], stored["last_error"]) == ("CREDITED", 1, None)
    assert await posted_credits(top_up.account_id) == 500


async def test_an_event_before_the_checkout_is_recorded_is_credited(db: str) -> None:
    """Our row has no id of the payment, because the call that opened the checkout was interrupted."""
    top_up = await create_top_up()
    event = await payment_event(top_up)
    await pools.fetch("UPDATE top_up SET provider_ref = NULL, payment_url = NULL")
    assert await settle(event) is EventOutcome.CREDITED
    assert ((await reload(top_up)).status, (await reload(top_up)).provider_ref) == (
        TopUpStatus.PAID,
        top_up.provider_ref,
    )
