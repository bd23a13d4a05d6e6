"""The sweep that writes due changes (expiry, timeouts) in accounts that no request uses."""

from collections.abc import Sequence
from typing import Final

from app.db import pools
from app.db.isolated_sweeps import IsolatedSweep
from app.ledger import posting

# SKIP LOCKED leaves out locked accounts: the posting that has locked an account also writes its due changes. The locks
# of this statement are released when the statement ends.
_ALL_DUE: Final = """
    SELECT id FROM account WHERE next_change_at <= clock_timestamp() AND id <> ALL($2::bigint[])
    ORDER BY next_change_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
"""


class DueChangesSweep:
    """Sweeps of one process. An account whose changes cannot be written is logged and set aside for a while."""

    def __init__(self) -> None:
        self._isolated = IsolatedSweep("due changes of account")

    async def apply_all(self, *, limit: int = 256) -> int:
        """Write due changes, the longest due first. Returns: the number of accounts changed, at most `limit`."""
        records = await pools.fetch(_ALL_DUE, limit, self._isolated.items_set_aside())
        return await self._isolated.run([record["id"] for record in records], _apply)


async def _apply(account_ids: Sequence[int]) -> int:
    await posting.apply_due_changes(account_ids)
    return len(account_ids)
