"""Waits with a time limit end in time, whatever they wait for does."""

import asyncio

import pytest

from app.bounded_waits import wait_at_most

pytestmark = pytest.mark.anyio


async def ignore_cancellation(ended: asyncio.Event) -> None:
    while not ended.is_set():
        try:
            await ended.wait()
        except asyncio.CancelledError:
            continue
    raise ValueError("too late")


async def test_the_result_or_exception_is_returned() -> None:
    async def fail() -> None:
        raise ValueError("soon")

    assert await wait_at_most(5, asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ValueError, match="soon"):
        await wait_at_most(5, fail())


async def test_a_task_that_ignores_its_cancellation_is_abandoned() -> None:
    ended = asyncio.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        await wait_at_most(0.01, ignore_cancellation(ended))
    ended.set()
    await asyncio.sleep(0)


async def test_a_cancelled_caller_does_not_wait_for_the_task() -> None:
    ended = asyncio.Event()
    caller = asyncio.create_task(wait_at_most(60, ignore_cancellation(ended)))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    ended.set()
    await asyncio.sleep(0)
