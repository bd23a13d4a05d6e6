"""Waiting with a time limit for something that may never end, such as a read on a dead connection."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

T = TypeVar("T")

SHARED_READ_SECONDS: Final = 4.0
"""The time limit of a read of the database for which many callers wait. It is then repeated on another connection."""

_abandoned: Final[set[asyncio.Future[Any]]] = set()
"""Keeps abandoned tasks until they have ended, because the event loop itself does not."""


async def wait_at_most(seconds: float, awaitable: Awaitable[T]) -> T:
    """Return the result of `awaitable`. It is run as a task.

    If it takes longer than `seconds`, or if the caller is cancelled, the task is cancelled and abandoned: nobody waits
    until it has ended. `asyncio.timeout` would wait for that, and to cancel a query on a dead connection can take
    minutes.

    Raises: TimeoutError.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        abandon(task)
        raise
    if not done:
        abandon(task)
        raise TimeoutError(f"there was no answer within {seconds:g} s")
    return task.result()


def abandon(task: asyncio.Future[Any]) -> None:
    """Cancel a task without waiting for its end. What it raises later is dropped."""
    task.cancel()
    _abandoned.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Future[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # marks it as retrieved, so that asyncio does not log it
