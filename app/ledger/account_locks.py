"""Waiting for accounts that other transactions have locked.

A posting of a single account waits for the lock of the account, up to a time limit. In each process only one posting of
an account uses a connection; the other postings of this account wait in memory. The pool limits how many connections
may wait for locked accounts, so that connections remain for the other accounts.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import asyncpg

from app.db import failures, pools
from app.db.failures import AccountsLocked

T = TypeVar("T")

WAIT_SECONDS: Final = 1.0
"""How long one attempt waits for a locked account. Afterwards the connection is free for another account."""

Attempt = Callable[[float | None], Awaitable[T]]
"""Runs a transaction once. The argument is how long it waits for locks; None: the short default of the connection."""

_FIND_FREE: Final = "SELECT id FROM account WHERE id = ANY($1::bigint[]) FOR NO KEY UPDATE SKIP LOCKED"


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


_turns: dict[int, _Turn] = {}
_suspects: set[int] = set()
"""Accounts on whose lock a posting has just timed out. The next posting expects the lock and waits for it longer."""


async def run_when_unlocked(account_id: int, attempt: Attempt[T], *, seconds: float, is_locked: bool) -> T:
    """Run `attempt`, and repeat it while the account is locked, for at most `seconds`.

    `is_locked`: the account was found locked just now. Raises: AccountsLocked.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    async with _turn(account_id, seconds if is_locked else None):
        is_locked = is_locked or account_id in _suspects
        _suspects.discard(account_id)
        while True:
            left = max(deadline - clock(), 0.01)
            try:
                return await attempt(min(left, WAIT_SECONDS) if is_locked else None)
            except Exception as failure:
                if failures.sqlstate(failure) != failures.LOCK_NOT_AVAILABLE:
                    raise
                if clock() >= deadline:
                    _suspects.add(account_id)
                    raise AccountsLocked([account_id]) from failure
            is_locked = True


async def run_if_unlocked(account_ids: Sequence[int], attempt: Attempt[T], *, seconds: float) -> T:
    """Run `attempt`. If it waits too long for a lock that is not one of the accounts', repeat it for at most `seconds`.

    Raises: AccountsLocked: contains those of the accounts that are locked.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while True:
        try:
            return await attempt(None)
        except Exception as failure:
            if failures.sqlstate(failure) != failures.LOCK_NOT_AVAILABLE:
                raise
            if locked := await _find_locked(account_ids):
                raise AccountsLocked(locked) from failure
            if clock() >= deadline:
                raise


async def _find_locked(account_ids: Sequence[int]) -> list[int]:
    """Return those of the accounts that are locked, or an empty list if something else is locked."""
    if len(account_ids) == 1:
        return list(account_ids)
    try:
        async with pools.posting_transaction(is_batch=True) as connection:
            _, records = await connection.execute_query(_FIND_FREE, [account_ids])
    except asyncpg.LockNotAvailableError:  # the table is locked
        return []
    free = {record["id"] for record in records}
    return [account_id for account_id in account_ids if account_id not in free]


@asynccontextmanager
async def _turn(account_id: int, seconds: float | None) -> AsyncIterator[None]:
    """Wait until no other posting of the account uses a connection.

    `seconds` limits the wait of a posting that found the account locked before. A new posting passes None: the postings
    before it began to wait earlier, so they reach their time limits earlier.
    Raises: AccountsLocked.
    """
    turn = _turns.setdefault(account_id, _Turn())
    turn.users += 1
    try:
        try:
            async with asyncio.timeout(seconds):
                await turn.lock.acquire()
        except TimeoutError:
            raise AccountsLocked([account_id]) from None
        try:
            yield
        finally:
            turn.lock.release()
    finally:
        turn.users -= 1
        if not turn.users:
            del _turns[account_id]
