"""Group commit: the items of many concurrent callers are executed in batches.

While one batch is executed, arriving items wait and form the next one. So if no batch is executed, an item starts at
once, and under load one transaction processes the items of many callers. A `GroupCommit` has several queues, each with
at most one batch in execution. A key always has the same queue, so the items of one account keep their order and are
never in two batches at the same time.

A batch that fails is split in halves until the item that causes the failure is alone. That item fails; the others
succeed. If a caller is cancelled, the other callers are not affected.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from app.db.failures import PartialFailure
from app.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOP_TURNS: Final = 3
"""The number of event loop turns to wait for items from sockets.

In the first turn sockets are read, in the second the data is parsed, in the third the item is submitted.
"""

Call = Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]
"""Executes a batch and returns one result for each item, in order."""


def _never(_: BaseException) -> bool:
    return False


class GroupCommit(Generic[Item, Result]):
    """Bounded queues in front of `call`, each with at most one batch in execution.

    A batch has at most `batch_limit` items, and a queue at most `queue_limit`. `fails_whole_batch(failure)` returns
    whether no part of the batch can succeed (the database cannot be reached); then the batch is not split. `loop_turns`
    is the number of event loop turns to wait before a batch starts, so that it includes items that have already arrived
    at the sockets. This takes hardly any time without load, and under load makes one batch instead of two.
    """

    def __init__(
        self,
        call: Call[Item, Result],
        *,
        queues: int = 1,
        batch_limit: int,
        queue_limit: int,
        fails_whole_batch: Callable[[BaseException], bool] = _never,
        loop_turns: int = 0,
    ) -> None:
        self._queues = [_Queue(call, batch_limit, fails_whole_batch, loop_turns) for _ in range(queues)]
        self._queue_limit = queue_limit

    async def submit(self, key: int, item: Item) -> Result:
        """Return the result of the item.

        Raises: Overloaded: its queue is full; this is raised at once. A failure that the item causes is raised as well.
        """
        queue = self._queues[key % len(self._queues)]
        if len(queue.waiting) >= self._queue_limit:
            raise Overloaded
        return await queue.put(item)

    async def submit_all(self, keyed: Sequence[tuple[int, Item]]) -> list[Result | BaseException]:
        """Return the result or failure of each item, in order.

        Raises: Overloaded: a queue has no room; then no item is accepted.
        """
        added = [0] * len(self._queues)
        for key, _ in keyed:
            added[key % len(self._queues)] += 1
        if any(
            count and len(queue.waiting) + count > self._queue_limit
            for queue, count in zip(self._queues, added, strict=True)
        ):
            raise Overloaded
        futures = [self._queues[key % len(self._queues)].put(item) for key, item in keyed]
        return await asyncio.gather(*futures, return_exceptions=True)

    async def close(self) -> None:
        """Wait until all batches are executed. No item may be submitted afterwards."""
        for queue in self._queues:
            await queue.wait_until_empty()


class _Queue(Generic[Item, Result]):
    def __init__(
        self,
        call: Call[Item, Result],
        batch_limit: int,
        fails_whole_batch: Callable[[BaseException], bool],
        loop_turns: int,
    ) -> None:
        self._call = call
        self._batch_limit = batch_limit
        self._fails_whole_batch = fails_whole_batch
        self._loop_turns = loop_turns
        self.waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def put(self, item: Item) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.waiting.append((item, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return future

    async def wait_until_empty(self) -> None:
        if self._worker is not None:
            with suppress(asyncio.CancelledError):
                await self._worker

    async def _work(self) -> None:
        while self.waiting:
            for _ in range(self._loop_turns):
                await asyncio.sleep(0)
            size = min(len(self.waiting), self._batch_limit)
            batch = [self.waiting.popleft() for _ in range(size)]
            # Items of callers that were cancelled before the batch starts are removed. If a caller is cancelled later,
            # its item is executed and its result is dropped.
            await self._execute([pair for pair in batch if not pair[1].done()])

    async def _execute(self, pairs: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        if not pairs:
            return
        try:
            results = await self._call([item for item, _ in pairs])
        except Exception as failure:
            if len(pairs) == 1 or self._fails_whole_batch(failure):
                for _, future in pairs:
                    if not future.done():
                        future.set_exception(failure)
                return
            middle = len(pairs) // 2
            await self._execute(pairs[:middle])
            await self._execute(pairs[middle:])
            return
        for (_, future), result in zip(pairs, results, strict=True):
            if not future.done():
                future.set_result(result)


class BatchedReads(Generic[Item, Result]):
    """Combines the reads of many callers. `read` receives each key once and returns what it found by key.

    The result of a missing key is None. Callers that ask during a read share the next one, so each receives values that
    were read after it asked. If `read` raises PartialFailure, the keys are account ids: only the callers of the
    accounts that failed receive an exception. The other arguments are those of `GroupCommit`.
    """

    def __init__(
        self,
        read: Callable[[Sequence[Item]], Awaitable[dict[Item, Result]]],
        *,
        batch_limit: int,
        queue_limit: int = 1_000_000,
        fails_whole_batch: Callable[[BaseException], bool] = _never,
        loop_turns: int = 0,
    ) -> None:
        self._read = read
        self._group: GroupCommit[Item, Result | Exception | None] = GroupCommit(
            self._read_each_once,
            batch_limit=batch_limit,
            queue_limit=queue_limit,
            fails_whole_batch=fails_whole_batch,
            loop_turns=loop_turns,
        )

    async def get(self, key: Item) -> Result | None:
        """Return the value of a key, or None. Raises: Overloaded; the failure that reading this key causes."""
        result = await self._group.submit(0, key)
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        """Wait until all reads are done."""
        await self._group.close()

    async def _read_each_once(self, keys: Sequence[Item]) -> list[Result | Exception | None]:
        wanted = list(dict.fromkeys(keys))
        failed: Mapping[Any, Exception] = {}
        try:
            found = await self._read(wanted)
        except PartialFailure as failure:
            failed = failure.by_account
            found = await self._read([key for key in wanted if key not in failed])
        return [failed.get(key) or found.get(key) for key in keys]
