"""Many concurrent callers, one call with a list: group commit for the charge path, shared reads for the live feed.

While one list is being carried out, what arrives meanwhile gathers and becomes the next: nothing waits when idle, and
under load one transaction pays for many. A `Lanes` has several such queues; a key always takes the same lane, so items
of one account keep their order and no account is in two lists at once.

A list that faults is bisected until the poisonous item stands alone: it fails with the fault, its neighbours succeed. A
caller who goes away cancels nobody else.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Generic, TypeVar

from app.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOP_TURNS: Final = 3
"""For what comes over sockets: in one turn they are read, in one what was read is parsed, in one it is submitted."""

Call = Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]
"""Carries out a list and gives one result for each item, in order."""


class GroupCommit(Generic[Item, Result]):
    """Bounded queues in front of `call`, one list in flight in each.

    `hopeless(fault)` says that no part of the list could fare better (the database is away), so it fails whole.
    `turns`: of the event loop, that pass before a list is taken, so that what has arrived at the sockets by then is in
    it: no time when idle, and under load the difference between two lists and one.
    """

    def __init__(
        self,
        call: Call[Item, Result],
        *,
        lanes: int = 1,
        batch_limit: int,
        queue_limit: int,
        fails_whole_batch: Callable[[BaseException], bool] = lambda _: False,
        loop_turns: int = 0,
    ) -> None:
        self._lanes = [_Lane(call, batch_limit, fails_whole_batch, loop_turns) for _ in range(lanes)]
        self._queue_limit = queue_limit

    async def submit(self, key: int, item: Item) -> Result:
        """The item's own result. Raises: Overloaded at once where its lane is full; the fault that it caused alone."""
        lane = self._lanes[key % len(self._lanes)]
        if len(lane.waiting) >= self._queue_limit:
            raise Overloaded
        return await lane.put(item)

    async def submit_all(self, keyed: Sequence[tuple[int, Item]]) -> list[Result | BaseException]:
        """A result or fault for each, in order. Raises: Overloaded, and none was taken, where a lane has no room."""
        fresh = [0] * len(self._lanes)
        for key, _ in keyed:
            fresh[key % len(self._lanes)] += 1
        if any(
            count and len(lane.waiting) + count > self._queue_limit
            for lane, count in zip(self._lanes, fresh, strict=True)
        ):
            raise Overloaded
        futures = [self._lanes[key % len(self._lanes)].put(item) for key, item in keyed]
        return await asyncio.gather(*futures, return_exceptions=True)

    async def close(self) -> None:
        """Let the lists in flight and what waits be carried out; take nothing new afterwards."""
        for lane in self._lanes:
            await lane.drained()


class _Lane(Generic[Item, Result]):
    def __init__(
        self, call: Call[Item, Result], list_limit: int, hopeless: Callable[[BaseException], bool], turns: int
    ) -> None:
        self._call = call
        self._list_limit = list_limit
        self._hopeless = hopeless
        self._turns = turns
        self.waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def put(self, item: Item) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.waiting.append((item, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return future

    async def drained(self) -> None:
        if self._worker is not None:
            with suppress(asyncio.CancelledError):
                await self._worker

    async def _work(self) -> None:
        while self.waiting:
            for _ in range(self._turns):
                await asyncio.sleep(0)
            size = min(len(self.waiting), self._list_limit)
            taken = [self.waiting.popleft() for _ in range(size)]
            # Whoever went away before the list was begun is left out; afterwards it is too late, and the result is
            # lost.
            await self._carry_out([pair for pair in taken if not pair[1].done()])

    async def _carry_out(self, pairs: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        if not pairs:
            return
        try:
            results = await self._call([item for item, _ in pairs])
        except Exception as fault:
            if len(pairs) == 1 or self._hopeless(fault):
                for _, future in pairs:
                    if not future.done():
                        future.set_exception(fault)
                return
            middle = len(pairs) // 2
            await self._carry_out(pairs[:middle])
            await self._carry_out(pairs[middle:])
            return
        for (_, future), result in zip(pairs, results, strict=True):
            if not future.done():
                future.set_result(result)


class BatchedReads(Generic[Item, Result]):
    """Reads of many callers as one: `read` gets each key once and gives what it found; a missing key is None.

    Callers that ask while a read is under way share the next one, so what a caller gets was read after it asked.
    """

    def __init__(
        self,
        read: Callable[[Sequence[Item]], Awaitable[dict[Item, Result]]],
        *,
        batch_limit: int,
        queue_limit: int = 1_000_000,
        fails_whole_batch: Callable[[BaseException], bool] = lambda _: False,
        loop_turns: int = 0,
    ) -> None:
        """As of `Lanes`."""
        self._read = read
        self._lanes: GroupCommit[Item, Result | None] = GroupCommit(
            self._once_each,
            batch_limit=batch_limit,
            queue_limit=queue_limit,
            fails_whole_batch=fails_whole_batch,
            loop_turns=loop_turns,
        )

    async def get(self, key: Item) -> Result | None:
        """Raises: Overloaded; the fault that reading this key causes."""
        return await self._lanes.submit(0, key)

    async def close(self) -> None:
        """As of `Lanes`."""
        await self._lanes.close()

    async def _once_each(self, keys: Sequence[Item]) -> list[Result | None]:
        found = await self._read(list(dict.fromkeys(keys)))
        return [found.get(key) for key in keys]
