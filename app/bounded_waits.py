"""Waiting with a time limit for something that may never end, such as a read on a dead connection."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

T = TypeVar("T")

SHARED_READ_SECONDS: Final = 4.0
"""The time limit of a read of the database for which many callers wait. A read that reaches it is repeated."""

_abandoned: Final[set[asyncio.Future[Any]]] = set()
"""References to abandoned tasks until they end, because the event loop has only weak references."""


async def wait_at_most(seconds: float, awaitable: Awaitable[T]) -> T:
    """Run `awaitable` as a task, and return its result.

    If the task takes longer than `seconds`, or if the caller is cancelled, the task is cancelled without waiting for
    its end. `asyncio.timeout` would wait, and cancelling a query on a dead connection can take minutes.

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
    """Cancel a task without waiting for its end. An exception that it raises later is dropped."""
    task.cancel()
    _abandoned.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Future[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # marks it as retrieved, so that asyncio does not log it
