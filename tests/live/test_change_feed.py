"""The LISTEN connection of the change feed, on a real PostgreSQL."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

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
