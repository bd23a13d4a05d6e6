"""The newest state of what is followed: nothing from before a follower came, one read for many, and no queue."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from app.live.change_feed import ChangeFeed
from app.live.latest_state import LatestStates

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class State:
    account_id: int
    version: int


class Books:
    """What is read, and which lists it was read in; a read waits for `open`."""

    def __init__(self) -> None:
        self.versions: dict[int, int] = {}
        self.lists: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.fault: Exception | None = None
        self.poison: int | None = None

    async def read(self, accounts: Sequence[int]) -> Mapping[int, State]:
        self.lists.append(list(accounts))
        found = {number: State(number, self.versions[number]) for number in accounts if number in self.versions}
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        if self.poison in accounts:
            raise ValueError("poison")
        return found


class Followed:
    def __init__(self) -> None:
        self.books = Books()
        self.feed = ChangeFeed(sweep_seconds=60, conflate_seconds=0)
        self.newest: LatestStates[State] = LatestStates(self.feed, self.books.read)

    def change(self, *accounts: int) -> None:
        for account in accounts:
            self.books.versions[account] = self.books.versions.get(account, 0) + 1
        self.feed.receive(",".join(f"{account}:{self.books.versions[account]}" for account in accounts))


async def soon(waiting: Awaitable[State]) -> State:
    async with asyncio.timeout(2):
        return await waiting


async def test_who_comes_gets_a_snapshot_and_then_each_newer_state() -> None:
    followed = Followed()
    followed.books.versions[7] = 3
    with followed.newest.subscribe(7) as follower:
        assert await soon(follower.wait_for_newer(-1)) == State(7, 3)
        waiting = asyncio.create_task(follower.wait_for_newer(3))
        followed.change(7)
        assert await soon(waiting) == State(7, 4)


async def test_all_followers_of_an_account_are_given_the_very_same_state() -> None:
    followed = Followed()
    followed.books.versions[7] = 1
    with followed.newest.subscribe(7) as one, followed.newest.subscribe(7) as other:
        assert await soon(one.wait_for_newer(0)) is await soon(other.wait_for_newer(0))
        assert followed.books.lists == [[7]]


async def test_what_changes_in_one_tick_is_read_in_one_list() -> None:
    followed = Followed()
    followed.books.versions = {1: 1, 2: 1, 3: 1}
    with (
        followed.newest.subscribe(1) as one,
        followed.newest.subscribe(2) as two,
        followed.newest.subscribe(3) as three,
    ):
        for follower in (one, two, three):
            await soon(follower.wait_for_newer(0))
        followed.books.lists.clear()
        followed.change(1, 2)
        followed.change(2, 1)
        assert (await soon(one.wait_for_newer(1)), await soon(two.wait_for_newer(1))) == (State(1, 3), State(2, 3))
        assert [sorted(accounts) for accounts in followed.books.lists] == [[1, 2]]


async def test_who_comes_during_a_read_is_told_by_the_next_one_only() -> None:
    followed = Followed()
    followed.books.versions[7] = 1
    followed.books.open.clear()
    with followed.newest.subscribe(7) as early:
        first = asyncio.create_task(early.wait_for_newer(0))
        await asyncio.sleep(0.01)
        followed.books.versions[7] = 2  # committed before the second comes, after the first was read
        with followed.newest.subscribe(7) as late:
            second = asyncio.create_task(late.wait_for_newer(0))
            await asyncio.sleep(0.01)
            followed.books.open.set()
            assert await soon(second) == State(7, 2)
        assert (await soon(first)).version in (1, 2)
    assert followed.books.lists == [[7], [7]]


async def test_who_does_not_take_its_state_finds_the_newest_and_nothing_queued() -> None:
    followed = Followed()
    followed.books.versions[7] = 1
    with followed.newest.subscribe(7) as follower:
        assert (await soon(follower.wait_for_newer(0))).version == 1
        for _ in range(5):
            followed.change(7)
            await asyncio.sleep(0.01)
        assert (await soon(follower.wait_for_newer(1))).version == 6
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await follower.wait_for_newer(6)


async def test_a_read_that_faults_ends_who_waits_for_it_and_nobody_who_comes_later() -> None:
    followed = Followed()
    followed.books.versions[7] = 1
    followed.books.fault = ValueError("broken")
    with followed.newest.subscribe(7) as follower:
        with pytest.raises(ValueError, match="broken"):
            await soon(follower.wait_for_newer(0))
        followed.books.fault = None
        with followed.newest.subscribe(7) as later:
            assert await soon(later.wait_for_newer(0)) == State(7, 1)


async def test_one_account_that_cannot_be_read_ends_its_own_followers_only() -> None:
    followed = Followed()
    followed.books.versions = {1: 1, 2: 1, 3: 1}
    followed.books.poison = 2
    with (
        followed.newest.subscribe(1) as one,
        followed.newest.subscribe(2) as two,
        followed.newest.subscribe(3) as three,
    ):
        assert await soon(one.wait_for_newer(0)) == State(1, 1)
        assert await soon(three.wait_for_newer(0)) == State(3, 1)
        with pytest.raises(ValueError, match="poison"):
            await soon(two.wait_for_newer(0))


async def test_nothing_is_kept_or_read_of_what_nobody_follows_any_more() -> None:
    followed = Followed()
    followed.books.versions[7] = 1
    with followed.newest.subscribe(7) as follower:
        await soon(follower.wait_for_newer(0))
    followed.books.lists.clear()
    followed.change(7)
    await asyncio.sleep(0.01)
    assert (followed.books.lists, followed.newest._subscriptions, followed.feed._callbacks) == ([], {}, {})
