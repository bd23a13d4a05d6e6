"""The latest states of the accounts that have subscribers.

One read serves all subscribers of an account, and all accounts that changed at about the same time:

    with latest_states.subscribe(account_id) as subscription:
        while True:
            state = await subscription.wait_for_newer(version)
            version = state.version

A subscriber only receives states that were read after it subscribed, and does not wait for other subscribers. A state
that it has not received yet is replaced by a newer one, so ten changes during a slow send result in one item.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from app import metrics
from app.db import failures
from app.live.change_feed import ChangeFeed

SLOW_SECONDS = 0.5
"""The next read begins when the previous one has ended or has taken this long."""
RETRY_SECONDS = 1.0
MAX_SLOW_READS = 3
"""The maximum number of reads at a time. Each of them uses a connection."""
READ_BATCH_LIMIT = 1_000
"""The maximum number of states that one read returns."""


class Versioned(Protocol):
    """A state with a version. A newer state has a higher version."""

    @property
    def version(self) -> int: ...


State = TypeVar("State", bound=Versioned)
Read = Callable[[Sequence[int]], Awaitable[Mapping[int, State]]]


@dataclass(slots=True, eq=False)
class StateSubscription(Generic[State]):
    """A subscription to one account. `state` is the latest state read since the subscription began."""

    state: State | None = None
    failure: Exception | None = None
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_for_newer(self, version: int) -> State:
        """Return the latest state as soon as it is newer than `version`. Raises: the exception of a failed read."""
        while self.state is None or self.state.version <= version:
            await self._woken.wait()
            self._woken.clear()
            if self.failure is not None:
                raise self.failure
        return self.state

    def publish(self, state: State) -> None:
        """Store `state`, unless the stored one is newer: reads may end in another order than they began."""
        if self.state is None or state.version >= self.state.version:
            self.state = state
            self._woken.set()

    def fail(self, failure: Exception) -> None:
        self.failure = failure
        self._woken.set()


class LatestStates(Generic[State]):
    """The latest states of one process."""

    def __init__(self, feed: ChangeFeed, read: Read[State]) -> None:
        """`read` returns the states of those accounts that exist.

        An exception of `read` ends the subscriptions of the account that causes it.
        """
        self._feed = feed
        self._read = read
        self._subscriptions: dict[int, set[StateSubscription[State]]] = {}
        self._changed: dict[int, float | None] = {}
        """The accounts to read, and when the first notification of a change arrived, by time.monotonic."""
        self._reading: asyncio.Task[None] | None = None
        self._slow_reads: set[asyncio.Task[None]] = set()

    @contextmanager
    def subscribe(self, account_id: int) -> Iterator[StateSubscription[State]]:
        """Subscribe to an account until the block ends."""
        subscription = StateSubscription[State]()
        with self._feed.subscribe_callback(account_id, lambda: self._mark_changed(account_id, time.monotonic())):
            self._subscriptions.setdefault(account_id, set()).add(subscription)
            self._mark_changed(account_id)
            try:
                yield subscription
            finally:
                subscriptions = self._subscriptions[account_id]
                subscriptions.discard(subscription)
                if not subscriptions:
                    del self._subscriptions[account_id]

    def _mark_changed(self, account_id: int, notified_at: float | None = None) -> None:
        self._changed[account_id] = self._changed.get(account_id) or notified_at
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_changed(), name="latest states")

    def _read_again(self, account_id: int) -> None:
        if account_id in self._subscriptions:
            self._mark_changed(account_id)

    async def _read_changed(self) -> None:
        while self._changed:
            accounts = list(self._changed)[:READ_BATCH_LIMIT]
            # Subscribers that are added during this read receive the next one.
            subscriptions = {account_id: list(self._subscriptions.get(account_id, ())) for account_id in accounts}
            notified = [at for account_id in accounts if (at := self._changed.pop(account_id)) is not None]
            await self._read_batch(accounts, subscriptions, notified)

    async def _read_batch(
        self,
        accounts: list[int],
        subscriptions: Mapping[int, list[StateSubscription[State]]],
        notified: Sequence[float],
    ) -> None:
        """Read and publish states. A read that is slow or hangs does not delay the accounts that change meanwhile."""
        while len(self._slow_reads) >= MAX_SLOW_READS:
            await asyncio.wait(self._slow_reads, return_when=asyncio.FIRST_COMPLETED)
        read = asyncio.create_task(self._publish(accounts, subscriptions), name="latest states: batch")
        self._slow_reads.add(read)
        read.add_done_callback(self._slow_reads.discard)
        read.add_done_callback(lambda _: metrics.record_pushes(notified))
        await asyncio.wait([read], timeout=SLOW_SECONDS)

    async def _publish(self, accounts: list[int], subscriptions: Mapping[int, list[StateSubscription[State]]]) -> None:
        """Read and publish the states of `accounts`.

        If the read raises PartialFailure, which names the accounts that failed, the others are read again. For any
        other exception the accounts are read in halves, until the account that causes the failure is alone. If the
        database cannot be reached, no account is the cause, and all subscriptions fail.
        """
        try:
            states = await self._read(accounts)
        except failures.PartialFailure as failure:
            for account_id, reason in failure.by_account.items():
                if failures.is_database_failure(reason):  # somebody else has locked the account
                    asyncio.get_running_loop().call_later(RETRY_SECONDS, self._read_again, account_id)
                    continue
                for subscription in subscriptions[account_id]:
                    subscription.fail(reason)
            if others := [one for one in accounts if one not in failure.by_account]:
                await self._publish(others, subscriptions)
            return
        except Exception as failure:
            if len(accounts) == 1 or failures.is_database_failure(failure):
                for account_id in accounts:
                    for subscription in subscriptions[account_id]:
                        subscription.fail(failure)
                return
            middle = len(accounts) // 2
            await self._publish(accounts[:middle], subscriptions)
            await self._publish(accounts[middle:], subscriptions)
            return
        for account_id, state in states.items():
            for subscription in subscriptions[account_id]:
                subscription.publish(state)
