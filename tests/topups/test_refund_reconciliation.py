"""The loop that asks about refunds without an outcome, as the server runs it."""

import asyncio

import pytest

from app.background import reconcile_refunds, run_in_background
from app.db import pools
from tests.factories import seconds_from_now, wait_until
from tests.topups.refund_fixtures import create_paid_top_up, refunded
from tests.topups.test_refunds import SILENT
from tests.topups.top_up_fixtures import SANDBOX

pytestmark = pytest.mark.anyio


async def test_the_servers_loop_settles_refunds_whose_outcome_was_lost(db: str) -> None:
    top_up = await create_paid_top_up()
    await refunded(top_up, 400, provider=SILENT)
    await pools.fetch("UPDATE top_up_refund SET queried_at = queried_at - interval '11 minutes'")
    async with asyncio.timeout(10), run_in_background({"refunds": lambda: reconcile_refunds(SANDBOX)}):
        while not await pools.fetch("SELECT 1 FROM top_up_refund WHERE status = 'DONE'"):
            await wait_until(await seconds_from_now(0.01))
    [row] = await pools.fetch("SELECT refunded_credits, refunded_minor FROM top_up")
    assert tuple(row) == (400, 400)
