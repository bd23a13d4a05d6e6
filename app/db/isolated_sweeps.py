"""Sweeps over many items, usually accounts, in which an item that fails does not stop the others.

A batch that fails is split in halves until the item that causes the failure is alone. That item is logged and set aside
for `RETRY_SECONDS`, so that it is not read and logged again at once, and does not fill the limit of the next batch.
Accounts that are locked are set aside at once, for a shorter time. If the database cannot be reached, no item is the
cause: the sweep ends with this exception.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from app.db import failures

RETRY_SECONDS: Final = 30.0
LOCKED_RETRY_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


class IsolatedSweep:
    """Runs one sweep, and keeps the items that are set aside. `name` precedes the item in messages of the log."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._retry_at: dict[int, float] = {}

    def items_set_aside(self) -> list[int]:
        """Return the items that the sweep must leave out for now."""
        now = time.monotonic()
        self._retry_at = {item: at for item, at in self._retry_at.items() if at > now}
        return list(self._retry_at)

    async def run(self, items: Sequence[int], sweep: Callable[[Sequence[int]], Awaitable[int]]) -> int:
        """Run `sweep` on the items, in batches that are as large as possible. Returns: the sum of its results.

        Raises: the exception of `sweep`, if it is a connection failure.
        """
        if not items:
            return 0
        try:
            return await sweep(items)
        except failures.AccountsLocked as failure:
            locked = [item for item in items if item in failure.account_ids] or list(items)
            for item in locked:
                self._set_aside(item, failure, LOCKED_RETRY_SECONDS)
            return await self.run([item for item in items if item not in locked], sweep)
        except Exception as failure:
            if failures.is_connection_failure(failure):
                raise
            if len(items) == 1:
                self._set_aside(items[0], failure, RETRY_SECONDS)
                return 0
        middle = len(items) // 2
        return await self.run(items[:middle], sweep) + await self.run(items[middle:], sweep)

    def _set_aside(self, item: int, failure: Exception, seconds: float) -> None:
        failures.log_failure(log, failure, "%s %s failed; they are tried again in %g s", self._name, item, seconds)
        self._retry_at[item] = time.monotonic() + seconds
