"""The inbox: failed, interrupted and waiting events are retried, and a bad one stops no other."""

import logging
from typing import Any

import pytest

from app.db import pools
from app.errors import InvalidInput
from app.topups import inbox, inbox_retries
from app.topups.provider import DisputeStatus, ProviderEvent, Refund, RefundStatus
from app.topups.provider_events import EventOutcome, parse_stored_event, payment_query_event
from app.topups.rules import Payment, PaymentStatus, SavedCard, TaxLine, TopUpRow, TopUpStatus
from app.topups.sandbox.provider import Sandbox
from app.topups.settlement import settle
from tests.command_line import run_beside
from tests.conftest import LEDGER_KEY
from tests.topups.refund_fixtures import build_dispute, create_paid_top_up, deliver, read_figures
from tests.topups.top_up_fixtures import (
    ADDRESS,
    SANDBOX,
    SECRET,
    create_top_up,
    list_entries,
    list_inbox,
    payment_event,
    posted_credits,
    reload,
    sign_payment_event,
)

pytestmark = pytest.mark.anyio


async def sandbox_event(top_up: TopUpRow) -> ProviderEvent:
    """The sandbox's event of a payment, with its stored body."""
    raw_body, headers = await sign_payment_event(top_up)
    event = await SANDBOX.verify_event(raw_body, headers)
    assert event is not None
    return event


async def make_due() -> None:
    """Make every waiting event due."""
    await pools.fetch("UPDATE provider_event SET next_attempt_at = clock_timestamp() WHERE next_attempt_at IS NOT NULL")


class FailingParser(Sandbox):
    """A provider one of whose events can no longer be parsed."""

    def parse_event(self, body: Any) -> ProviderEvent | None:
        if body.get("poison"):
            raise ValueError("poison")
        return super().parse_event(body)


async def test_an_event_whose_handling_was_interrupted_is_retried(db: str) -> None:
    top_up = await create_top_up()
    event = await sandbox_event(top_up)
    await inbox.store_event(event)
    assert await inbox_retries.retry_due(SANDBOX) == 0
    await make_due()
    assert [await inbox_retries.retry_due(SANDBOX), await inbox_retries.retry_due(SANDBOX)] == [1, 0]
    assert ((await reload(top_up)).status, await posted_credits(top_up.account_id)) == (TopUpStatus.PAID, 500)


async def test_failures_are_retried_with_growing_waits_and_the_fifth_parks(
    db: str, caplog: pytest.LogCaptureFixture
) -> None:
    top_up = await create_top_up()
    event = await sandbox_event(top_up)
    await pools.fetch("ALTER TABLE top_up ADD CONSTRAINT broken CHECK (status = 'PENDING') NOT VALID")
    try:
        waits = []
        with pytest.raises(Exception, match="broken"):
            await settle(event)
        for _ in range(4):
            row = (
                await pools.fetch(
                    "SELECT extract(epoch FROM next_attempt_at - clock_timestamp()) AS wait, parked_at"
                    " FROM provider_event"
                )
            )[0]
            waits.append((round(float(row["wait"]), -1), row["parked_at"]))
            await make_due()
            assert await inbox_retries.retry_due(SANDBOX) == 1
        assert waits == [(30, None), (120, None), (600, None), (3600, None)]
        stored = (await list_inbox())[event.event_id]
        assert (stored["attempts"], stored["outcome"], stored["next_attempt_at"]) == (5, "PARKED_FAILED", None)
        assert stored["parked_at"] is not None
        alerts = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert [message for message in alerts if "is parked after 5 failures" in message] == alerts[-1:]
        assert (await inbox_retries.retry_due(SANDBOX), await settle(event)) == (0, EventOutcome.PARKED_FAILED)
    finally:
        await pools.fetch("ALTER TABLE top_up DROP CONSTRAINT broken")
    assert await inbox_retries.replay(SANDBOX, event.event_id) is EventOutcome.CREDITED
    assert await list_entries(top_up.account_id) == [("TOP_UP", 500, top_up.id, "user:alice")]
    with pytest.raises(InvalidInput):
        await inbox_retries.replay(SANDBOX, event.event_id)


async def test_a_bad_event_among_a_hundred_stops_no_other(db: str) -> None:
    top_ups = [await create_top_up(f"owner-{number % 10}") for number in range(100)]
    for top_up in top_ups:
        await inbox.store_event(await sandbox_event(top_up))
    poison = (await sandbox_event(top_ups[0])).event_id
    await pools.fetch(
        "UPDATE provider_event SET body = '{\"poison\": true}' WHERE event_id = $1",
        poison,
    )
    provider = FailingParser(ADDRESS, SECRET)
    await make_due()
    assert [await inbox_retries.retry_due(provider), await inbox_retries.retry_due(provider)] == [50, 50]
    found = await list_inbox()
    assert sum(row["outcome"] == "CREDITED" for row in found.values()) == 99
    assert (found[poison]["handled_at"], found[poison]["attempts"], found[poison]["parked_at"]) == (None, 1, None)
    assert found[poison]["last_error"] == "ValueError: poison"
    assert sum([await posted_credits(account_id) for account_id in {one.account_id for one in top_ups}]) == 99 * 500


async def test_two_processes_claim_different_events(db: str) -> None:
    for number in range(20):
        await inbox.store_event(await sandbox_event(await create_top_up(f"owner-{number}")))
    await make_due()
    first = await inbox.claim_due("sandbox", limit=10)
    second = await inbox.claim_due("sandbox", limit=20)
    assert (len(first), len(second)) == (10, 10)
    assert not {one.event_id for one in first} & {one.event_id for one in second}
    assert await inbox.claim_due("another", limit=10) == []


async def test_the_limit_holds_with_stale_planner_statistics(db: str) -> None:
    """With statistics of one row the planner might run the subquery again for each row: see pending_sweep."""
    await inbox.store_event(await sandbox_event(await create_top_up("owner-0")))
    await pools.fetch("VACUUM ANALYZE provider_event")
    for number in range(1, 7):
        await inbox.store_event(await sandbox_event(await create_top_up(f"owner-{number}")))
    await make_due()
    assert len(await inbox.claim_due("sandbox", limit=2)) == 2


async def test_a_refund_event_without_its_payment_waits_and_is_parked_in_the_end(db: str) -> None:
    refund = Refund(
        provider="sandbox", live=False, refund_ref="re_1", payment_ref="pay_unknown", reference=None,
        status=RefundStatus.DONE, amount_minor=100, currency="USD",
    )  # fmt: skip
    raw_body, headers = SANDBOX.sign_event(refund)
    event = await SANDBOX.verify_event(raw_body, headers)
    assert event is not None
    for attempts in range(1, 5):
        # Further deliveries are no attempts.
        assert [await settle(event) for _ in range(6)] == [EventOutcome.WAITING] * 6
        assert (await list_inbox())[event.event_id]["attempts"] == attempts
        await make_due()
        await inbox_retries.retry_due(SANDBOX)
    assert await settle(event) is EventOutcome.PARKED_FAILED
    stored = (await list_inbox())[event.event_id]
    assert (stored["attempts"], stored["last_error"]) == (5, "Payment pay_unknown is not settled yet.")
    assert stored["parked_at"] is not None


async def test_a_lost_database_connection_is_not_counted_as_a_failure(db: str) -> None:
    event = await sandbox_event(await create_top_up())
    await inbox.store_event(event)
    for _ in range(6):
        await inbox.record_failure(event.event_id, ConnectionRefusedError("gone"))
    assert (await list_inbox())[event.event_id]["attempts"] == 0


def test_the_event_of_an_answer_is_parsed_again_from_its_stored_body() -> None:
    payment = Payment(
        provider="sandbox", provider_ref="cs_1", payment_ref="pi_1", reference=f"1-{'0' * 32}",
        status=PaymentStatus.PAID, amount_minor=500, currency="USD",
        card=SavedCard(customer_ref="cus_1", card_ref="pm_1", label="visa 4242"),
        tax_lines=(TaxLine(label="VAT", amount_minor=1, inclusive=True),),
    )  # fmt: skip
    event = payment_query_event(payment)
    assert parse_stored_event(SANDBOX, event.body) == event


async def command(db: str, *arguments: str) -> tuple[int, str, str]:
    done = await run_beside("provider-events", *arguments, DATABASE_URL=db, LEDGER_KEY=LEDGER_KEY.hex())
    return done.returncode, done.stdout, done.stderr


async def test_an_operator_lists_and_replays_parked_events(db: str) -> None:
    assert await command(db, "list") == (0, "There are no unhandled provider events.\n", "")
    top_up = await create_top_up()
    event = await sandbox_event(top_up)
    await pools.fetch("UPDATE top_up SET amount_minor = 400")
    assert await settle(event) is EventOutcome.PARKED_MISMATCH
    _, listed, _ = await command(db, "list")
    assert listed.startswith(f"{event.event_id}  ")
    assert listed.endswith("  0 failures  PARKED_MISMATCH  amount in minor units is 500, ours is 400\n")

    await pools.fetch("UPDATE top_up SET amount_minor = 500")
    assert await command(db, "replay", event.event_id) == (0, f"{event.event_id}: CREDITED\n", "")
    assert await posted_credits(top_up.account_id) == 500
    code, _, errors = await command(db, "replay", event.event_id)
    assert (code, "is no unhandled event" in errors) == (1, True)


async def test_an_operator_lists_and_decides_disputes_and_dismisses_events(db: str) -> None:
    assert await command(db, "disputes") == (0, "There are no open disputes.\n", "")
    top_up = await create_paid_top_up()
    await deliver(build_dispute(top_up, DisputeStatus.OPEN))
    _, listed, _ = await command(db, "disputes")
    assert listed.startswith(f"dp_{top_up.id}  ")
    assert listed.endswith("  owner alice  1,000 of 1,000 credits frozen\n")
    parked = build_dispute(top_up, DisputeStatus.OPEN, currency="JPY")
    assert await deliver(parked, event_id="sandbox:odd") is EventOutcome.PARKED_MISMATCH
    assert await command(db, "dismiss", "sandbox:odd", "--reason", "a test") == (0, "sandbox:odd: dismissed\n", "")
    _, _, errors = await command(db, "dismiss", "sandbox:odd", "--reason", "")
    assert "reason" in errors
    decided = await command(db, "decide", f"dp_{top_up.id}", "won", "--reason", "the bank wrote")
    assert decided == (0, f"dp_{top_up.id}: DISPUTE_WON\n", "")
    assert await read_figures(top_up) == (1_000, 0, 0, 0, 1_000)


async def test_an_event_of_a_query_is_retried_after_a_failure(db: str) -> None:
    top_up = await create_top_up()
    await payment_event(top_up)
    answer = await SANDBOX.retrieve_payment(top_up.provider_ref or "")
    assert answer is not None
    await inbox.store_event(payment_query_event(answer))
    await make_due()
    assert await inbox_retries.retry_due(SANDBOX) == 1
    assert (await reload(top_up)).status is TopUpStatus.PAID
