"""The LISTEN connection of the change feed, on a real PostgreSQL."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from app.db import pools
from app.live import change_feed
from app.live.change_feed import ChangeFeed

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionResetError("the connection was reset"),
        TimeoutError(),
        asyncpg.TooManyConnectionsError("too many connections"),
        asyncpg.InterfaceError("the connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_the_feed_connects_again_after_a_failure_and_wakes_all_subscribers(
    db: str, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    connect, failures = asyncpg.connect, [failure]

    async def fail_once(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return await connect(*arguments, **options)

    monkeypatch.setattr(asyncpg, "connect", fail_once)
    monkeypatch.setattr(change_feed, "_RECONNECT_SECONDS", 0.01)
    feed = ChangeFeed(sweep_seconds=60, conflate_seconds=0.001)
    with feed.subscribe(1) as subscription:
        running = asyncio.create_task(feed.run(db))
        async with asyncio.timeout(10):
            await subscription.wait()

        assert (failures, running.done()) == ([], False)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_sweep_whose_read_hangs_is_repeated_and_wakes_those_that_need_no_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads = 0

    async def fetch(_: str, accounts: list[int]) -> list[dict[str, int]]:
        nonlocal reads
        reads += 1
        if reads == 1:
            await asyncio.Event().wait()
        return [{"id": account, "version": 5} for account in accounts]

    monkeypatch.setattr(pools, "fetch", fetch)
    monkeypatch.setattr(change_feed, "SHARED_READ_SECONDS", 0.02)
    monkeypatch.setattr(change_feed, "_SWEEP_RETRY_SECONDS", 0.01)
    feed = ChangeFeed(sweep_seconds=0.5, conflate_seconds=0)
    with (
        feed.subscribe(1) as balance,
        feed.subscribe(2, wake_on_sweep=True) as costs,
        feed.subscribe("bob") as created,
        feed.subscribe_to_signals() as signals,
    ):
        sweeping = asyncio.create_task(feed._sweep_forever())
        async with asyncio.timeout(5):
            await costs.wait()
            await created.wait()
            assert (await signals.wait(), reads) == (None, 1)
            await balance.wait()
    assert reads == 2
    sweeping.cancel()


async def test_a_feed_that_did_not_sweep_for_long_is_a_problem() -> None:
    feed = ChangeFeed(sweep_seconds=5, conflate_seconds=0)
    assert feed.find_problem() is None
    feed.swept_at -= 15
    assert feed.find_problem() == "versions of balances were not compared for 15 s"
    await feed.sweep()
    assert feed.find_problem() is None
