"""Latest states: one read for many subscribers, no stale items, no queue."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from app.db import failures
from app.live import latest_state
from app.live.change_feed import ChangeFeed
from app.live.latest_state import LatestStates

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class State:
    account_id: int
    version: int


class Store:
    """The states that are read, and the lists in which they were read. A read waits for `open`."""

    def __init__(self) -> None:
        self.versions: dict[int, int] = {}
        self.lists: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.poison: int | None = None

    async def read(self, accounts: Sequence[int]) -> Mapping[int, State]:
        self.lists.append(list(accounts))
        found = {number: State(number, self.versions[number]) for number in accounts if number in self.versions}
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        if self.poison in accounts:
            raise ValueError("poison")
        return found


class Live:
    """A change feed and latest states over a store."""

    def __init__(self) -> None:
        self.store = Store()
        self.feed = ChangeFeed(sweep_seconds=60, conflate_seconds=0)
        self.states: LatestStates[State] = LatestStates(self.feed, self.store.read)

    def change(self, *accounts: int) -> None:
        for account in accounts:
            self.store.versions[account] = self.store.versions.get(account, 0) + 1
        self.feed.receive(",".join(f"{account}:{self.store.versions[account]}" for account in accounts))


async def within_2_seconds(waiting: Awaitable[State]) -> State:
    async with asyncio.timeout(2):
        return await waiting


async def test_a_subscriber_gets_a_snapshot_and_then_each_newer_state() -> None:
    live = Live()
    live.store.versions[7] = 3
    with live.states.subscribe(7) as subscription:
        assert await within_2_seconds(subscription.wait_for_newer(-1)) == State(7, 3)
        waiting = asyncio.create_task(subscription.wait_for_newer(3))
        live.change(7)
        assert await within_2_seconds(waiting) == State(7, 4)


async def test_all_subscribers_of_an_account_are_given_the_very_same_state() -> None:
    live = Live()
    live.store.versions[7] = 1
    with live.states.subscribe(7) as one, live.states.subscribe(7) as other:
        assert await within_2_seconds(one.wait_for_newer(0)) is await within_2_seconds(other.wait_for_newer(0))
        assert live.store.lists == [[7]]


async def test_changes_within_the_conflation_time_are_read_together() -> None:
    live = Live()
    live.store.versions = {1: 1, 2: 1, 3: 1}
    with (
        live.states.subscribe(1) as one,
        live.states.subscribe(2) as two,
        live.states.subscribe(3) as three,
    ):
        for subscription in (one, two, three):
            await within_2_seconds(subscription.wait_for_newer(0))
        live.store.lists.clear()
        live.change(1, 2)
        live.change(2, 1)
        assert (await within_2_seconds(one.wait_for_newer(1)), await within_2_seconds(two.wait_for_newer(1))) == (
            State(1, 3),
            State(2, 3),
        )
        assert [sorted(accounts) for accounts in live.store.lists] == [[1, 2]]


async def test_a_subscriber_that_comes_during_a_read_gets_the_next_one() -> None:
    live = Live()
    live.store.versions[7] = 1
    live.store.open.clear()
    with live.states.subscribe(7) as early:
        first = asyncio.create_task(early.wait_for_newer(0))
        await asyncio.sleep(0.01)
        live.store.versions[7] = 2  # committed after the first read, before the second subscription
        with live.states.subscribe(7) as late:
            second = asyncio.create_task(late.wait_for_newer(0))
            await asyncio.sleep(0.01)
            live.store.open.set()
            assert await within_2_seconds(second) == State(7, 2)
        assert (await within_2_seconds(first)).version in (1, 2)
    assert live.store.lists == [[7], [7]]


async def test_a_slow_subscriber_gets_only_the_latest_state() -> None:
    live = Live()
    live.store.versions[7] = 1
    with live.states.subscribe(7) as subscription:
        assert (await within_2_seconds(subscription.wait_for_newer(0))).version == 1
        for _ in range(5):
            live.change(7)
            await asyncio.sleep(0.01)
        assert (await within_2_seconds(subscription.wait_for_newer(1))).version == 6
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await subscription.wait_for_newer(6)


async def test_a_failed_read_ends_the_current_subscriptions_only() -> None:
    live = Live()
    live.store.versions[7] = 1
    live.store.failure = ValueError("broken")
    with live.states.subscribe(7) as subscription:
        with pytest.raises(ValueError, match="broken"):
            await within_2_seconds(subscription.wait_for_newer(0))
        live.store.failure = None
        with live.states.subscribe(7) as later:
            assert await within_2_seconds(later.wait_for_newer(0)) == State(7, 1)


async def test_one_account_that_cannot_be_read_ends_its_own_subscriptions_only() -> None:
    live = Live()
    live.store.versions = {1: 1, 2: 1, 3: 1}
    live.store.poison = 2
    with (
        live.states.subscribe(1) as one,
        live.states.subscribe(2) as two,
        live.states.subscribe(3) as three,
    ):
        assert await within_2_seconds(one.wait_for_newer(0)) == State(1, 1)
        assert await within_2_seconds(three.wait_for_newer(0)) == State(3, 1)
        with pytest.raises(ValueError, match="poison"):
            await within_2_seconds(two.wait_for_newer(0))


async def test_an_account_without_subscribers_is_not_read_or_kept() -> None:
    live = Live()
    live.store.versions[7] = 1
    with live.states.subscribe(7) as subscription:
        await within_2_seconds(subscription.wait_for_newer(0))
    live.store.lists.clear()
    live.change(7)
    await asyncio.sleep(0.01)
    assert (live.store.lists, live.states._subscriptions, live.feed._callbacks) == ([], {}, {})


async def test_without_a_database_all_subscriptions_fail_after_one_read() -> None:
    live = Live()
    live.store.failure = ConnectionResetError("reset")
    with live.states.subscribe(1) as one, live.states.subscribe(2) as two, live.states.subscribe(3) as three:
        for subscription in (one, two, three):
            with pytest.raises(ConnectionResetError):
                await within_2_seconds(subscription.wait_for_newer(0))
    assert live.store.lists == [[1, 2, 3]]


async def test_a_read_that_hangs_delays_no_other_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest_state, "SLOW_SECONDS", 0.01)
    live = Live()
    live.store.versions |= {7: 1, 8: 1}
    live.store.open.clear()
    with live.states.subscribe(7) as hung, live.states.subscribe(8) as other:
        await asyncio.sleep(0.02)
        assert live.store.lists == [[7, 8]]
        first_open, live.store.open = live.store.open, asyncio.Event()
        live.store.open.set()
        live.change(8)
        assert await within_2_seconds(other.wait_for_newer(1)) == State(8, 2)
        first_open.set()
        assert await within_2_seconds(hung.wait_for_newer(0)) == State(7, 1)
        assert other.state == State(8, 2)  # the older state, which was read late, does not replace it


async def test_reads_that_hang_use_few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest_state, "SLOW_SECONDS", 0.001)
    live = Live()
    live.store.open.clear()
    with ExitStack() as stack:
        for account in range(10):
            stack.enter_context(live.states.subscribe(account))
            await asyncio.sleep(0.005)
        assert [len(accounts) for accounts in live.store.lists] == [1, 1, 1]
        live.store.open.set()
        await asyncio.sleep(0.02)
        assert sum(len(accounts) for accounts in live.store.lists) == 10


async def test_an_account_that_somebody_has_locked_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest_state, "RETRY_SECONDS", 0.01)
    live = Live()
    live.store.versions |= {7: 1, 8: 1}
    locked = [failures.PartialFailure({7: failures.NoConnection()})]
    read = live.store.read

    async def read_unlocked(accounts: Sequence[int]) -> Mapping[int, State]:
        if 7 in accounts and locked:
            raise locked.pop()
        return await read(accounts)

    monkeypatch.setattr(live.states, "_read", read_unlocked)
    with live.states.subscribe(7) as subscription, live.states.subscribe(8) as other:
        assert await within_2_seconds(other.wait_for_newer(0)) == State(8, 1)
        assert await within_2_seconds(subscription.wait_for_newer(0)) == State(7, 1)
