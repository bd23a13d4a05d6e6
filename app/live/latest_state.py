"""The newest state of what is followed, kept while somebody follows it: one read for all who follow the same, and for
everything that changed in the same tick of the feed.

    with newest.follow(account_id) as follower:
        while True:
            state = await follower.newer_than(version)
            version = state.version

A follower is never told what was read before it came, and never waits for another: what it has not taken yet is
replaced by what is newer, so ten changes during a slow send are one item.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from app.live.change_feed import ChangeFeed

READ_BATCH_LIMIT = 1_000
"""How many states one read gives at most."""


class Versioned(Protocol):
    """A state of something; a newer one has a higher version."""

    @property
    def version(self) -> int: ...


State = TypeVar("State", bound=Versioned)
Read = Callable[[Sequence[int]], Awaitable[Mapping[int, State]]]


@dataclass(slots=True, eq=False)
class StateSubscription(Generic[State]):
    """Somebody who follows one account; `state` is what was read last since it came."""

    state: State | None = None
    fault: Exception | None = None
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_for_newer(self, version: int) -> State:
        """The newest state, as soon as there is one newer than `version`. Raises: what the read raised."""
        while self.state is None or self.state.version <= version:
            await self._woken.wait()
            self._woken.clear()
            if self.fault is not None:
                raise self.fault
        return self.state

    def publish(self, state: State) -> None:
        self.state = state
        self._woken.set()

    def fail(self, fault: Exception) -> None:
        self.fault = fault
        self._woken.set()


class LatestStates(Generic[State]):
    """All that is followed in one process."""

    def __init__(self, feed: ChangeFeed, read: Read[State]) -> None:
        """`read` gives the states of those accounts that there are; what it raises ends who follows the account that it
        was raised for."""
        self._feed = feed
        self._read = read
        self._followers: dict[int, set[StateSubscription[State]]] = {}
        self._changed: dict[int, None] = {}
        self._reading: asyncio.Task[None] | None = None

    @contextmanager
    def subscribe(self, account_id: int) -> Iterator[StateSubscription[State]]:
        """Follow this account until the block ends."""
        follower = StateSubscription[State]()
        with self._feed.subscribe_callback(account_id, lambda: self._mark(account_id)):
            self._followers.setdefault(account_id, set()).add(follower)
            self._mark(account_id)
            try:
                yield follower
            finally:
                others = self._followers[account_id]
                others.discard(follower)
                if not others:
                    del self._followers[account_id]

    def _mark(self, account_id: int) -> None:
        """Have it read: what is marked until the read begins is read together."""
        self._changed[account_id] = None
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_changed(), name="newest")

    async def _read_changed(self) -> None:
        while self._changed:
            accounts = list(self._changed)[:READ_BATCH_LIMIT]
            # Who comes while this is being read is told by the next read.
            asking = {account_id: list(self._followers.get(account_id, ())) for account_id in accounts}
            for account_id in accounts:
                del self._changed[account_id]
            await self._tell(accounts, asking)

    async def _tell(self, accounts: list[int], asking: Mapping[int, list[StateSubscription[State]]]) -> None:
        """A list that faults is bisected until the poisonous account stands alone: the others' followers are told."""
        try:
            found = await self._read(accounts)
        except Exception as fault:
            if len(accounts) == 1:
                for follower in asking[accounts[0]]:
                    follower.fail(fault)
                return
            middle = len(accounts) // 2
            await self._tell(accounts[:middle], asking)
            await self._tell(accounts[middle:], asking)
            return
        for account_id, state in found.items():
            for follower in asking[account_id]:
                follower.publish(state)
