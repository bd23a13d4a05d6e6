"""Group commit: the items of many concurrent callers are executed in batches.

While a batch is being executed, arriving items wait and form the next batch. So an item is executed immediately if no
batch is being executed, and under load one transaction processes the items of many callers. A `GroupCommit` has several
queues, each with at most one batch in execution. Items with the same key, such as their account id, always use the same
queue. So they keep their order and are never in two batches at the same time.

A batch that fails is split in halves until the item that causes the failure is alone. That item fails; the others
succeed. If a caller is cancelled, the other callers are not affected.

If another transaction has locked the accounts of some items (AccountsLocked), these items are set aside, and the other
items are executed at once. The items of each locked account wait in a line of their own. Further items of the account
join this line.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, TypeVar

from app.db.failures import AccountsLocked, PartialFailure
from app.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOP_TURNS: Final = 3
"""The number of event loop turns to wait for items from sockets.

In the first turn sockets are read, in the second the data is parsed, in the third the item is submitted.
"""

CLOSE_SECONDS: Final = 3.0
"""How long closing waits for the batches that are being executed."""

Call = Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]
"""Executes a batch and returns one result for each item, in order."""

CallLocked = Callable[[float, Sequence[Item]], Awaitable[Sequence[Result]]]
"""Waits at most this many seconds for a locked account, and executes a batch of its items. Raises: AccountsLocked."""


def _never(_: BaseException) -> bool:
    return False


class GroupCommit(Generic[Item, Result]):
    """Bounded queues in front of `call`, each with at most one batch in execution.

    A batch has at most `batch_limit` items, and a queue at most `queue_limit`. `fails_whole_batch(failure)` returns
    whether no part of the batch can succeed (the database cannot be reached); then the batch is not split. `loop_turns`
    is the number of event loop turns to wait before a batch starts, so that it includes items that have already arrived
    at the sockets. This takes hardly any time without load, and under load makes one batch instead of two.

    If `call` can raise AccountsLocked, keys must be account ids. The items of locked accounts are executed by
    `call_locked`. They fail if the accounts are still locked `lock_seconds` after the items were submitted.
    """

    def __init__(
        self,
        call: Call[Item, Result],
        *,
        call_locked: CallLocked[Item, Result] | None = None,
        lock_seconds: float = 0.0,
        queues: int = 1,
        batch_limit: int,
        queue_limit: int,
        fails_whole_batch: Callable[[BaseException], bool] = _never,
        loop_turns: int = 0,
    ) -> None:
        self._queues = [
            _Queue(
                call,
                call_locked=call_locked,
                lock_seconds=lock_seconds,
                batch_limit=batch_limit,
                fails_whole_batch=fails_whole_batch,
                loop_turns=loop_turns,
            )
            for _ in range(queues)
        ]
        self._queue_limit = queue_limit

    def waiting(self) -> int:
        """Return how many items wait in all queues for their next batch."""
        return sum(len(queue.line(-1)) for queue in self._queues)

    async def submit(self, key: int, item: Item) -> Result:
        """Return the result of the item.

        Raises: Overloaded: the queue of the item is full; any failure that the item causes.
        """
        queue = self._queues[key % len(self._queues)]
        if len(queue.line(key)) >= self._queue_limit:
            raise Overloaded
        return await queue.put(key, item)

    async def submit_all(self, keyed: Sequence[tuple[int, Item]]) -> list[Result | BaseException]:
        """Return the result or failure of each item, in order.

        Raises: Overloaded: a queue has no room; then no item is accepted.
        """
        lines = [self._queues[key % len(self._queues)].line(key) for key, _ in keyed]
        added = Counter(map(id, lines))
        if any(len(line) + added[id(line)] > self._queue_limit for line in lines):
            raise Overloaded
        futures = [self._queues[key % len(self._queues)].put(key, item) for key, item in keyed]
        return await asyncio.gather(*futures, return_exceptions=True)

    async def close(self) -> None:
        """Wait until all batches are executed, for at most CLOSE_SECONDS. Then the others are cancelled.

        No item may be submitted afterwards.
        """
        workers = [worker for queue in self._queues for worker in queue.workers()]
        if workers:
            _, running = await asyncio.wait(workers, timeout=CLOSE_SECONDS)
            for worker in running:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


@dataclass(slots=True, eq=False)
class _Pending(Generic[Item, Result]):
    """An item that a caller waits for."""

    key: int
    item: Item
    future: asyncio.Future[Result]
    submitted_at: float


class _Queue(Generic[Item, Result]):
    def __init__(
        self,
        call: Call[Item, Result],
        *,
        call_locked: CallLocked[Item, Result] | None,
        lock_seconds: float,
        batch_limit: int,
        fails_whole_batch: Callable[[BaseException], bool],
        loop_turns: int,
    ) -> None:
        self._call = call
        self._call_locked = call_locked
        self._lock_seconds = lock_seconds
        self._batch_limit = batch_limit
        self._fails_whole_batch = fails_whole_batch
        self._loop_turns = loop_turns
        self._waiting: deque[_Pending[Item, Result]] = deque()
        self._locked: dict[int, deque[_Pending[Item, Result]]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._lock_waiters: set[asyncio.Task[None]] = set()
        self._suspects: set[int] = set()
        """Keys whose accounts were locked for so long that items failed. Their next items are set aside at once."""

    def line(self, key: int) -> deque[_Pending[Item, Result]]:
        """Return the items behind which an item of this key waits."""
        return self._locked.get(key, self._waiting) if self._locked else self._waiting

    def workers(self) -> list[asyncio.Task[None]]:
        return [*([self._worker] if self._worker is not None else []), *self._lock_waiters]

    def put(self, key: int, item: Item) -> asyncio.Future[Result]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        pending = _Pending(key, item, future, loop.time())
        if key in self._suspects and key not in self._locked:
            self._wait_in_line([pending])
        else:
            self.line(key).append(pending)
        if self._waiting and (self._worker is None or self._worker.done()):
            self._worker = asyncio.create_task(self._work())
        return future

    async def _work(self) -> None:
        while self._waiting:
            for _ in range(self._loop_turns):
                await asyncio.sleep(0)
            await self._execute(self._next_batch(self._waiting), self._call)

    def _next_batch(self, line: deque[_Pending[Item, Result]]) -> list[_Pending[Item, Result]]:
        """Remove the next items. Those of callers that were cancelled are dropped.

        If a caller is cancelled later, its item is executed and its result is dropped.
        """
        taken = [line.popleft() for _ in range(min(len(line), self._batch_limit))]
        return [one for one in taken if not one.future.done()]

    async def _execute(self, batch: list[_Pending[Item, Result]], call: Call[Item, Result]) -> None:
        if not batch:
            return
        try:
            results = await call([one.item for one in batch])
        except Exception as failure:
            locked = failure.account_ids if isinstance(failure, AccountsLocked) else frozenset()
            if self._call_locked is not None and any(one.key in locked for one in batch):
                self._set_aside([one for one in batch if one.key in locked], failure)
                await self._execute([one for one in batch if one.key not in locked], call)
            elif len(batch) == 1 or self._fails_whole_batch(failure):
                _fail(batch, failure)
            else:
                middle = len(batch) // 2
                await self._execute(batch[:middle], call)
                await self._execute(batch[middle:], call)
            return
        for one, result in zip(batch, results, strict=True):
            if not one.future.done():
                one.future.set_result(result)

    def _set_aside(self, batch: list[_Pending[Item, Result]], failure: Exception) -> None:
        """Let the items wait for their locked accounts. Those that have waited long enough fail."""
        oldest = asyncio.get_running_loop().time() - self._lock_seconds
        if late := [one for one in batch if one.submitted_at <= oldest]:
            self._suspects.update(one.key for one in late)
            _fail(late, failure)
        self._wait_in_line([one for one in batch if one.submitted_at > oldest])

    def _wait_in_line(self, batch: list[_Pending[Item, Result]]) -> None:
        for one in reversed(batch):
            if one.key not in self._locked:
                self._locked[one.key] = deque()
                waiter = asyncio.create_task(self._wait_for_lock(one.key))
                self._lock_waiters.add(waiter)
                waiter.add_done_callback(self._lock_waiters.discard)
            self._locked[one.key].appendleft(one)

    async def _wait_for_lock(self, key: int) -> None:
        """Execute the items of a locked account until none is left."""
        line, loop = self._locked[key], asyncio.get_running_loop()
        self._suspects.discard(key)  # it is added again if an item fails
        try:
            while line:
                if batch := self._next_batch(line):
                    left = max(0.0, batch[0].submitted_at + self._lock_seconds - loop.time())
                    await self._execute(batch, partial(self._execute_locked, left))
        finally:
            del self._locked[key]

    async def _execute_locked(self, seconds: float, items: Sequence[Item]) -> Sequence[Result]:
        if self._call_locked is None:
            raise RuntimeError("only items whose account can be locked are set aside")
        return await self._call_locked(seconds, items)


def _fail(batch: list[_Pending[Item, Result]], failure: Exception) -> None:
    for one in batch:
        if not one.future.done():
            one.future.set_exception(failure)


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
