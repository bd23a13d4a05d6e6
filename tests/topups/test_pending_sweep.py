"""The sweep: queries the provider about top-ups that are PENDING for more than ten minutes."""

from asyncio import gather

import pytest

from app.db import pools
from app.topups import pending_sweep
from app.topups.rules import PaymentStatus, TopUpRow, TopUpStatus
from app.topups.sandbox.provider import Sandbox
from app.topups.stripe.provider import Stripe
from tests.fake_stripe import FakeStripe
from tests.topups.stripe_fixtures import begin_checkout, session_id
from tests.topups.top_up_fixtures import (
    ADDRESS,
    SANDBOX,
    SECRET,
    create_top_up,
    decide_payment,
    list_entries,
    posted_credits,
    reload,
)

pytestmark = pytest.mark.anyio


async def move_back(minutes: float, *top_ups: TopUpRow) -> None:
    ids = [top_up.id for top_up in top_ups]
    await pools.fetch(
        "UPDATE top_up SET created_at = created_at - $2 * interval '1 minute',"
        " queried_at = queried_at - $2 * interval '1 minute' WHERE id = ANY($1::text[])", ids, minutes,
    )  # fmt: skip


async def test_a_payment_whose_webhook_was_lost_is_credited_after_ten_minutes(db: str) -> None:
    top_up = await create_top_up()
    await decide_payment(top_up)
    await move_back(9, top_up)
    assert (await pending_sweep.sweep(SANDBOX), (await reload(top_up)).status) == (0, TopUpStatus.PENDING)
    await move_back(1, top_up)
    assert await pending_sweep.sweep(SANDBOX) == 1
    assert ((await reload(top_up)).status, await posted_credits(top_up.account_id)) == (TopUpStatus.PAID, 500)
    assert await pending_sweep.sweep(SANDBOX) == 0


async def test_a_top_up_that_stays_pending_is_queried_every_five_minutes(db: str) -> None:
    top_up = await create_top_up()
    await move_back(11, top_up)
    assert [await pending_sweep.sweep(SANDBOX), await pending_sweep.sweep(SANDBOX)] == [1, 0]
    await decide_payment(top_up, PaymentStatus.DECLINED)
    await move_back(4.4, top_up)
    assert await pending_sweep.sweep(SANDBOX) == 0
    await move_back(0.2, top_up)
    assert (await pending_sweep.sweep(SANDBOX), (await reload(top_up)).status) == (1, TopUpStatus.FAILED)


async def test_a_lost_webhook_delays_credits_by_fifteen_minutes_at_most() -> None:
    assert 600 + pending_sweep.QUERY_INTERVAL_SECONDS + pending_sweep.POLL_SECONDS <= 900


async def test_those_queried_longest_ago_come_first_and_each_is_claimed_by_one_process(db: str) -> None:
    top_ups = [await create_top_up(f"owner-{number}") for number in range(6)]
    await move_back(20, *top_ups)
    assert await pending_sweep.sweep(SANDBOX, limit=2) == 2
    for top_up in top_ups:
        await decide_payment(top_up)
    counts = await gather(*(pending_sweep.sweep(SANDBOX, limit=2) for _ in range(4)))
    assert sum(counts) == 4
    assert [(await reload(top_up)).status for top_up in top_ups] == [TopUpStatus.PENDING] * 2 + [TopUpStatus.PAID] * 4
    await move_back(5, *top_ups)
    assert await pending_sweep.sweep(SANDBOX) == 2


async def test_the_limit_holds_with_stale_planner_statistics(db: str) -> None:
    """With statistics of one row the planner might run the subquery again for each row, and claim others each time."""
    top_ups = [await create_top_up("owner-0")]
    await pools.fetch("VACUUM ANALYZE top_up")
    top_ups += [await create_top_up(f"owner-{number}") for number in range(1, 7)]
    await move_back(20, *top_ups)
    assert await pending_sweep.sweep(SANDBOX, limit=2) == 2


class FailingSandbox(Sandbox):
    """A provider that fails for the first payment."""

    async def retrieve_payment(self, provider_ref: str):  # type: ignore[no-untyped-def]  # as the sandbox's own
        [record] = await pools.fetch("SELECT count(*) FROM top_up WHERE provider_ref < $1", provider_ref)
        if record[0] == 0:
            raise ValueError("no answer")
        return await super().retrieve_payment(provider_ref)


async def test_a_failing_query_delays_no_other_top_up(db: str) -> None:
    top_ups = [await create_top_up(f"owner-{number}") for number in range(5)]
    for top_up in top_ups:
        await decide_payment(top_up)
    await move_back(11, *top_ups)
    assert await pending_sweep.sweep(FailingSandbox(ADDRESS, SECRET)) == 5
    assert sorted([(await reload(top_up)).status for top_up in top_ups]) == [TopUpStatus.PAID] * 4 + [
        TopUpStatus.PENDING
    ]


async def test_a_top_up_that_cannot_be_read_delays_no_other(db: str, caplog: pytest.LogCaptureFixture) -> None:
    broken, other = await create_top_up("owner-1"), await create_top_up("owner-2")
    await decide_payment(other)
    await move_back(11, broken, other)
    await pools.fetch("""UPDATE top_up SET tax_lines = '[{"unknown": 1}]' WHERE id = $1""", broken.id)

    assert await pending_sweep.sweep(SANDBOX) == 2

    assert (await reload(other)).status is TopUpStatus.PAID
    assert [record.getMessage() for record in caplog.records] == [
        f"top-up {broken.id} of account {broken.account_id} cannot be read"
    ]


async def test_a_top_up_without_a_checkout_expires_after_a_day(db: str) -> None:
    top_up = await create_top_up()
    await pools.fetch("UPDATE top_up SET provider_ref = NULL, payment_url = NULL")
    await move_back(60, top_up)
    assert await pending_sweep.sweep(SANDBOX) == 0
    await move_back(24 * 60, top_up)
    assert await pending_sweep.sweep(SANDBOX) == 1
    over = await reload(top_up)
    assert (over.status, over.provider_ref, await list_entries(top_up.account_id)) == (TopUpStatus.EXPIRED, None, [])


async def test_the_sweep_settles_payments_and_expiries_at_stripe(
    stripe_provider: Stripe, fake_stripe: FakeStripe
) -> None:
    paid, expired, open_ = [await begin_checkout(stripe_provider, f"owner-{number}") for number in range(3)]
    fake_stripe.pay_checkout(session_id(paid))
    fake_stripe.expire_checkout(session_id(expired))
    await move_back(11, paid, expired, open_)
    assert await pending_sweep.sweep(stripe_provider) == 3
    assert [(await reload(one)).status for one in (paid, expired, open_)] == [
        TopUpStatus.PAID,
        TopUpStatus.EXPIRED,
        TopUpStatus.PENDING,
    ]
    assert await list_entries(paid.account_id) == [("TOP_UP", 500, paid.id, "user:owner-0")]


async def test_top_ups_of_another_provider_or_mode_are_not_queried(stripe_provider: Stripe) -> None:
    other, live = await create_top_up(), await begin_checkout(stripe_provider)
    await pools.fetch("UPDATE top_up SET live = true WHERE id = $1", live.id)
    await move_back(11, other, live)
    assert await pending_sweep.sweep(stripe_provider) == 0
