"""Auto top-up on the database: one purchase at a time, unknown outcomes, back-off, caps, and reasons of skips."""

import asyncio
from asyncio import gather
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from app.db import pools
from app.db.isolated_sweeps import IsolatedSweep
from app.errors import IdempotencyConflict, InvalidInput
from app.ledger import accounts, posting
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import Cause
from app.live.change_feed import ChangeFeed
from app.topups import queries, settlement
from app.topups.auto_topup import configuration, rows, worker
from app.topups.auto_topup.configuration import ConfigureRequest
from app.topups.auto_topup.purchasing import SWEEP_NAME, buy_if_needed, reconcile_purchases
from app.topups.auto_topup.rules import AutoTopUpConfig, AutoTopUpState, Buy, Skip, SkipReason
from app.topups.rules import Payment, PaymentStatus, TopUpRow, TopUpStatus
from app.topups.sandbox.store import CardBehaviour
from tests.factories import get_balance, grant_credits
from tests.topups.auto_topup_fixtures import (
    CountingSandbox,
    counting_sandbox,
    disable_auto_topup,
    enable_auto_topup,
    find_due,
    find_view,
    list_attempts,
    list_notification_kinds,
    move_back_in_time,
    save_card,
)
from tests.topups.top_up_fixtures import (
    SANDBOX,
    TERMS,
    create_top_up,
    decide_payment,
    list_entries,
    payment_event,
    posted_credits,
)

pytestmark = pytest.mark.anyio


def configure_request(**more: Any) -> ConfigureRequest:
    values: dict[str, Any] = {
        "owner_id": "alice", "config": AutoTopUpConfig(enabled=True, threshold=100, amount=1_000),
        "consent_version": "v1",        "actor": "user:alice",
    }  # fmt: skip
    return ConfigureRequest(**(values | more))


async def test_a_balance_below_the_threshold_buys_once_with_the_saved_card(db: str) -> None:
    account_id, provider = await enable_auto_topup(), counting_sandbox()
    before = await get_balance(account_id)

    assert await buy_if_needed(account_id, provider, TERMS) == Buy(1_000)

    [top_up] = await list_attempts(account_id)
    assert (top_up.status, top_up.credits, top_up.amount_minor, top_up.automatic) == (
        TopUpStatus.PAID,
        1_000,
        1_000,
        True,
    )
    assert provider.charged == [top_up.reference]
    assert await list_entries(account_id) == [("TOP_UP", 1_000, top_up.id, "auto-top-up")]
    after = await get_balance(account_id)
    assert (after.available, after.version > before.version) == (1_000, True)
    assert await buy_if_needed(account_id, provider, TERMS) == Skip(
        SkipReason.COOLDOWN, top_up.created_at + timedelta(minutes=1)
    )
    await move_back_in_time(account_id, minutes=1)
    assert await buy_if_needed(account_id, provider, TERMS) == Skip(SkipReason.ABOVE_THRESHOLD)
    assert (await find_view(account_id)).spent_this_month == 1_000
    assert await list_notification_kinds(account_id, unresolved_only=False) == []


async def test_an_account_without_auto_top_up_buys_nothing(db: str) -> None:
    account_id, provider = await save_card("alice"), counting_sandbox()
    assert await buy_if_needed(account_id, provider, TERMS) == Skip(SkipReason.DISABLED)
    assert await buy_if_needed(account_id + 1_000, provider, TERMS) == Skip(SkipReason.DISABLED)
    assert (provider.charged, await list_attempts(account_id), await find_due()) == ([], [], [])


async def test_disabling_needs_no_card_and_stops_purchases(db: str) -> None:
    account_id, provider = await enable_auto_topup(), counting_sandbox()
    await pools.fetch("DELETE FROM payment_customer")
    await disable_auto_topup()
    assert await buy_if_needed(account_id, provider, TERMS) == Skip(SkipReason.DISABLED)
    assert ((await find_view(account_id)).state, provider.charged) == (AutoTopUpState.OFF, [])
    await disable_auto_topup("unknown-owner")
    assert await accounts.find_account_id("unknown-owner") is None


async def test_the_consent_is_recorded_with_version_time_and_actor(db: str) -> None:
    result = await configuration.configure(configure_request(), TERMS)
    [row] = await pools.fetch("SELECT consent_version, consent_at, consent_actor, enabled FROM auto_top_up")
    assert tuple(row) == ("v1", result.balance.as_of, "user:alice", True)
    with pytest.raises(InvalidInput, match="consentVersion"):
        await configuration.configure(configure_request(consent_version=None), TERMS)


async def test_a_repeated_request_is_replayed_and_a_different_one_with_its_key_refused(db: str) -> None:
    first = await configuration.configure(configure_request(key="once"), TERMS)
    again = await configuration.configure(configure_request(key="once"), TERMS)
    assert (first.replayed, again.replayed, again.balance.version) == (False, True, first.balance.version)
    with pytest.raises(IdempotencyConflict):
        await configuration.configure(configure_request(key="once", consent_version="v2"), TERMS)


async def test_five_hundred_concurrent_checks_make_one_payment(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "POSTING_SECONDS", 60)  # one after another, on a slow machine
    account_id, provider = await enable_auto_topup(amount=500), counting_sandbox()

    answers = await gather(*(buy_if_needed(account_id, provider, TERMS) for _ in range(500)))

    assert [answer for answer in answers if isinstance(answer, Buy)] == [Buy(500)]
    assert {answer.reason for answer in answers if isinstance(answer, Skip)} <= {
        SkipReason.OPEN_INTENT,
        SkipReason.COOLDOWN,
    }
    assert (len(provider.charged), await posted_credits(account_id)) == (1, 500)


async def test_a_unique_index_allows_one_pending_purchase(db: str) -> None:
    account_id, provider = await enable_auto_topup(), counting_sandbox(before=True)
    await buy_if_needed(account_id, provider, TERMS)
    with pytest.raises(asyncpg.UniqueViolationError, match="top_up_automatic_pending"):
        await pools.fetch(
            "INSERT INTO top_up (account_id, id, credits, amount_minor, currency, status, provider, actor, created_at,"
            " automatic) SELECT account_id, 'another', credits, amount_minor, currency, status, provider, actor,"
            " created_at, automatic FROM top_up"
        )


async def test_a_purchase_with_an_unknown_outcome_is_queried_and_never_repeated(db: str) -> None:
    account_id, provider = await enable_auto_topup(), counting_sandbox(after=True, queries=asyncio.Barrier(4))
    await buy_if_needed(account_id, provider, TERMS)
    for _ in range(3):
        await move_back_in_time(account_id, seconds=50)
        assert await buy_if_needed(account_id, provider, TERMS) == Skip(SkipReason.OPEN_INTENT)
    assert await reconcile_purchases(provider, TERMS) == 0  # not yet
    await move_back_in_time(account_id, seconds=40)

    assert await gather(*(reconcile_purchases(provider, TERMS) for _ in range(4))) == [1] * 4

    [top_up] = await list_attempts(account_id)
    assert (top_up.status, await posted_credits(account_id), len(provider.charged)) == (TopUpStatus.PAID, 1_000, 1)
    assert await reconcile_purchases(provider, TERMS) == 0


async def test_a_purchase_that_cannot_be_reconciled_stops_no_other(
    db: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    provider, isolated = counting_sandbox(after=True), IsolatedSweep(SWEEP_NAME)
    broken, other = await enable_auto_topup("alice"), await enable_auto_topup("bob")
    for account_id in (broken, other):
        await buy_if_needed(account_id, provider, TERMS)
        await move_back_in_time(account_id, minutes=4)
    [top_up] = await list_attempts(broken)
    find_payment = CountingSandbox.find_payment

    async def fail_for_one(self: CountingSandbox, reference: str, *, since: datetime) -> Payment | None:
        if reference == top_up.reference:
            raise ValueError("a bug")
        return await find_payment(self, reference, since=since)

    monkeypatch.setattr(CountingSandbox, "find_payment", fail_for_one)
    caplog.clear()

    assert [await reconcile_purchases(provider, TERMS, isolated) for _ in range(2)] == [2, 0]

    assert [await posted_credits(account_id) for account_id in (broken, other)] == [0, 1_000]
    assert isolated.items_set_aside() == [broken]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"automatic top-ups of account {broken} failed; they are tried again in 30 s"
    ]


async def test_a_call_that_never_arrived_fails_and_backs_off(db: str) -> None:
    account_id, provider = await enable_auto_topup(), counting_sandbox(before=True)
    await buy_if_needed(account_id, provider, TERMS)
    await move_back_in_time(account_id, minutes=4)
    assert await reconcile_purchases(provider, TERMS) == 1
    [top_up] = await list_attempts(account_id)
    assert (top_up.status, top_up.decline_reason) == (TopUpStatus.FAILED, "not_charged")
    view = await find_view(account_id)
    assert (view.state, view.reason) == (AutoTopUpState.BACKING_OFF, SkipReason.PROVIDER_UNAVAILABLE)
    assert (view.next_eligible_at, view.spent_this_month) == (top_up.created_at + timedelta(hours=1), 0)
    await move_back_in_time(account_id, hours=1)
    assert await buy_if_needed(account_id, SANDBOX, TERMS) == Buy(1_000)
    assert await posted_credits(account_id) == 1_000


async def test_a_card_that_always_declines_is_charged_three_times(db: str) -> None:
    account_id, provider = await enable_auto_topup(behaviour=CardBehaviour.DECLINES), counting_sandbox()
    for _ in range(400):
        await buy_if_needed(account_id, provider, TERMS)
        await move_back_in_time(account_id, minutes=30)
    assert [one.status for one in await list_attempts(account_id)] == [TopUpStatus.FAILED] * 3
    assert len(provider.charged) == 3
    view = await find_view(account_id)
    assert (view.state, view.reason, view.next_eligible_at) == (
        AutoTopUpState.BLOCKED,
        SkipReason.DECLINED_TOO_OFTEN,
        None,
    )
    assert sorted(await list_notification_kinds(account_id)) == ["AUTO_TOP_UP_BLOCKED"] + ["TOP_UP_FAILED"] * 3
    assert await list_entries(account_id) == []


@pytest.mark.parametrize("how", ["a new card", "a payment by hand"])
async def test_a_new_card_or_a_manual_payment_resets_the_declines(db: str, how: str) -> None:
    account_id, provider = (
        await enable_auto_topup(behaviour=CardBehaviour.DECLINES, threshold=9_000),
        counting_sandbox(),
    )
    for _ in range(3):
        await buy_if_needed(account_id, provider, TERMS)
        await move_back_in_time(account_id, hours=5)
    assert await buy_if_needed(account_id, provider, TERMS) == Skip(SkipReason.DECLINED_TOO_OFTEN)
    if how == "a new card":
        await save_card("alice")
        expected = TopUpStatus.PAID
    else:
        await settlement.settle(await payment_event(await create_top_up("alice")))
        expected = TopUpStatus.FAILED
    assert await buy_if_needed(account_id, provider, TERMS) == Buy(1_000)
    assert [one.status for one in await list_attempts(account_id)][-1] is expected
    assert "AUTO_TOP_UP_BLOCKED" not in await list_notification_kinds(account_id)


async def test_a_payment_that_needs_confirmation_waits_and_has_a_page(db: str) -> None:
    account_id, provider = await enable_auto_topup(behaviour=CardBehaviour.ASKS), counting_sandbox()
    await buy_if_needed(account_id, provider, TERMS)
    [top_up] = await list_attempts(account_id)
    view = await find_view(account_id)
    assert (view.state, view.reason) == (AutoTopUpState.ACTION_REQUIRED, SkipReason.ACTION_REQUIRED)
    assert view.action_url == top_up.payment_url == f"http://credits.example/sandbox/pay/{top_up.reference}"
    assert await list_notification_kinds(account_id) == ["AUTO_TOP_UP_BLOCKED"]
    await move_back_in_time(account_id, hours=2)
    assert await buy_if_needed(account_id, provider, TERMS) == Skip(SkipReason.ACTION_REQUIRED)

    await decide_payment(top_up)
    await settlement.settle(await payment_event(top_up))

    assert (await buy_if_needed(account_id, provider, TERMS), await posted_credits(account_id)) == (
        Skip(SkipReason.ABOVE_THRESHOLD), 1_000,
    )  # fmt: skip
    assert (await list_notification_kinds(account_id), (await find_view(account_id)).state) == (
        [],
        AutoTopUpState.READY,
    )


async def test_an_unconfirmed_payment_expires_after_a_day_and_is_credited_if_paid_later(db: str) -> None:
    account_id, provider = await enable_auto_topup(behaviour=CardBehaviour.ASKS), counting_sandbox()
    await buy_if_needed(account_id, provider, TERMS)
    [top_up] = await list_attempts(account_id)
    await move_back_in_time(account_id, hours=25)
    assert await reconcile_purchases(provider, TERMS) == 1
    assert [one.status for one in await list_attempts(account_id)] == [TopUpStatus.EXPIRED]
    assert (await settlement.settle(await payment_event(top_up)), await posted_credits(account_id)) == (
        "CREDITED",
        1_000,
    )


async def test_caps_are_computed_from_the_top_ups(db: str) -> None:
    account_id, provider = await enable_auto_topup(threshold=9_000, max_per_day=2_500), counting_sandbox()
    found: list[Buy | Skip] = []
    for _ in range(4):
        found.append(await buy_if_needed(account_id, provider, TERMS))
        await pools.fetch("UPDATE top_up SET created_at = greatest(created_at - interval '61 seconds',"
                             " date_trunc('day', clock_timestamp(), 'UTC'))")  # fmt: skip
    assert found[:2] == [Buy(1_000)] * 2
    assert [one.reason for one in found[2:] if isinstance(one, Skip)] == [SkipReason.DAY_CAP] * 2
    assert await list_notification_kinds(account_id) == ["AUTO_TOP_UP_BLOCKED"]
    view = await find_view(account_id)
    assert (view.state, view.reason, view.spent_this_month) == (AutoTopUpState.BLOCKED, SkipReason.DAY_CAP, 2_000)


async def test_a_missing_card_is_notified_once(db: str) -> None:
    account_id = (await configuration.configure(configure_request(), TERMS)).balance.account_id
    versions = set()
    for _ in range(3):
        assert await buy_if_needed(account_id, SANDBOX, TERMS) == Skip(SkipReason.NO_CARD)
        versions.add((await get_balance(account_id)).version)
    assert (len(versions), await list_notification_kinds(account_id, unresolved_only=False)) == (
        1,
        ["AUTO_TOP_UP_BLOCKED"],
    )
    await disable_auto_topup()
    assert await list_notification_kinds(account_id) == []


async def test_the_sweep_checks_accounts_that_were_missed_and_no_others(db: str) -> None:
    account_id = await enable_auto_topup()
    rich = await enable_auto_topup("rich")
    await grant_credits("rich", 500)
    assert await find_due() == [account_id]
    assert await worker.sweep(SANDBOX, TERMS) == 1
    assert (await posted_credits(account_id), await posted_credits(rich), await find_due()) == (1_000, 500, [])
    await move_back_in_time(account_id, minutes=2)
    assert await worker.sweep(SANDBOX, TERMS) == 1
    assert await find_due() == []


async def test_the_sweep_finds_a_low_balance_whose_notification_was_lost(db: str) -> None:
    account_id = await enable_auto_topup()
    await grant_credits("alice", 500)
    assert await buy_if_needed(account_id, SANDBOX, TERMS) == Skip(SkipReason.ABOVE_THRESHOLD)

    async def spend(posting: Posting) -> None:
        balance_changes.charge(posting.accounts[account_id], 450, Cause(actor="service:test"))

    await posting.post([account_id], spend)
    assert await find_due() == [account_id]


async def test_a_saved_card_ends_the_wait_of_a_skipped_account(db: str) -> None:
    account_id = await enable_auto_topup()
    await pools.fetch("UPDATE payment_customer SET card_ref = NULL, card_saved_at = NULL RETURNING 1")
    assert await buy_if_needed(account_id, SANDBOX, TERMS) == Skip(SkipReason.NO_CARD)
    assert await rows.find_changed([account_id]) == []

    await save_card("alice")

    assert await rows.find_changed([account_id]) == [account_id]
    assert await buy_if_needed(account_id, SANDBOX, TERMS) == Buy(1_000)


async def test_a_change_of_a_low_balance_is_followed_by_one_purchase(db: str) -> None:
    account_id, provider = await enable_auto_topup(), counting_sandbox()
    feed = ChangeFeed(sweep_seconds=5, conflate_seconds=0.005)
    running = [asyncio.create_task(feed.run(db)) for _ in range(1)]
    running += [asyncio.create_task(worker.run_worker(feed, provider, TERMS)) for _ in range(2)]
    async with asyncio.timeout(10):
        while not feed._accounts or await posted_credits(account_id) < 1_000:
            await grant_credits("alice", 10)  # stays below the threshold
            await asyncio.sleep(0.05)
    for task in running:
        task.cancel()
    await gather(*running, return_exceptions=True)
    assert len(provider.charged) == 1


async def test_an_error_in_one_account_does_not_affect_the_others(db: str, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(CountingSandbox):
        async def charge_saved_card(self, charge: Any) -> Any:
            if charge.reference.startswith(f"{first}-"):
                raise ValueError("what is this")
            return await SANDBOX.charge_saved_card(charge)

    first, second = await enable_auto_topup("one"), await enable_auto_topup("two")
    assert await worker.sweep(Broken("http://credits.example", b"s" * 40), TERMS) == 2
    assert (await posted_credits(first), await posted_credits(second)) == (0, 1_000)
    assert "could not be checked" in caplog.text


async def test_without_a_database_all_checks_together_log_one_line(
    db: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise ConnectionResetError("reset")

    monkeypatch.setattr("app.topups.auto_topup.purchasing.buy_if_needed", fail)

    await worker._check([1, 2, 3], SANDBOX, TERMS)

    assert [(record.getMessage(), record.exc_info) for record in caplog.records] == [
        ("auto top-up of accounts could not be checked: reset", None)
    ]


async def find_sandbox_status(top_up: TopUpRow) -> PaymentStatus:
    page = await SANDBOX.find_payment_page(top_up.reference)
    assert page is not None
    return PaymentStatus(page.status)


async def test_the_sandbox_charges_once_for_a_reference(db: str) -> None:
    account_id, provider = await enable_auto_topup(), counting_sandbox()
    await buy_if_needed(account_id, provider, TERMS)
    [top_up] = await list_attempts(account_id)
    found = await SANDBOX.find_payment(top_up.reference, since=top_up.created_at)
    assert found is not None
    assert (found.status, found.amount_minor, found.provider_ref) == (PaymentStatus.PAID, 1_000, top_up.provider_ref)
    assert await SANDBOX.find_payment(f"{account_id}-{'0' * 31}f", since=top_up.created_at) is None
    assert await find_sandbox_status(top_up) is PaymentStatus.PAID
    assert await queries.find_top_up(account_id, top_up.id) == top_up
