"""Group commit: batches form under load, and a failure stays with the item that causes it."""

import asyncio
from collections.abc import Sequence

import pytest

from app.db.group_commit import BatchedReads, GroupCommit
from app.errors import Overloaded

pytestmark = pytest.mark.anyio


class SlowDoubler:
    """Doubles the numbers of a batch; 13 fails. A batch waits for `gate`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.gate.wait()
        if 13 in items:
            raise ValueError("unlucky")
        return [item * 2 for item in items]


async def test_an_idle_queue_starts_at_once_and_a_busy_one_collects_a_batch() -> None:
    call = SlowDoubler()
    group = GroupCommit(call, batch_limit=10, queue_limit=100)
    assert await group.submit(0, 1) == 2
    call.gate.clear()
    waiting = [asyncio.create_task(group.submit(0, number)) for number in (2, 3, 4, 5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    late = [asyncio.create_task(group.submit(0, number)) for number in (6, 7)]
    await asyncio.sleep(0)
    call.gate.set()
    assert await asyncio.gather(*waiting, *late) == [4, 6, 8, 10, 12, 14]
    assert call.batches[0] == [1]
    assert [number for numbers in call.batches[1:] for number in numbers] == [2, 3, 4, 5, 6, 7]
    assert len(call.batches) == 3


async def test_an_item_that_fails_fails_alone_and_the_order_is_kept() -> None:
    call = SlowDoubler()
    group = GroupCommit(call, batch_limit=10, queue_limit=100)
    found = await group.submit_all([(0, number) for number in (1, 2, 13, 4, 5)])
    assert [str(one) for one in found] == ["2", "4", "unlucky", "8", "10"]
    assert call.batches[-1] == [4, 5]


async def test_a_failure_of_the_whole_batch_is_not_split() -> None:
    call = SlowDoubler()
    group = GroupCommit(
        call, batch_limit=10, queue_limit=100, fails_whole_batch=lambda failure: isinstance(failure, ValueError)
    )
    found = await group.submit_all([(0, number) for number in (1, 13, 3)])
    assert [str(one) for one in found] == ["unlucky"] * 3
    assert call.batches == [[1, 13, 3]]


async def test_items_that_arrive_within_the_loop_turns_are_in_the_first_batch() -> None:
    call = SlowDoubler()
    group = GroupCommit(call, batch_limit=10, queue_limit=10, loop_turns=3)

    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await group.submit(0, turns)

    await asyncio.gather(*(after(turns) for turns in range(6)))
    assert call.batches == [[0, 1, 2, 3], [4, 5]]


async def test_batches_are_bounded_and_a_key_keeps_its_queue() -> None:
    call = SlowDoubler()
    group = GroupCommit(call, queues=2, batch_limit=2, queue_limit=100)
    await group.submit_all([(number, number) for number in range(6)])
    assert sorted(call.batches) == [[0, 2], [1, 3], [4], [5]]


async def test_a_full_queue_refuses_at_once_and_takes_no_item() -> None:
    call = SlowDoubler()
    call.gate.clear()
    group = GroupCommit(call, batch_limit=1, queue_limit=2)
    first = asyncio.create_task(group.submit(0, 1))
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(group.submit(0, number)) for number in (2, 3)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await group.submit(0, 4)
    with pytest.raises(Overloaded):
        await group.submit_all([(0, 5)])
    call.gate.set()
    assert await asyncio.gather(first, *waiting) == [2, 4, 6]
    assert call.batches == [[1], [2], [3]]


async def test_a_cancelled_caller_does_not_affect_the_others() -> None:
    call = SlowDoubler()
    call.gate.clear()
    group = GroupCommit(call, batch_limit=10, queue_limit=10)
    gone = asyncio.create_task(group.submit(0, 1))
    stays = asyncio.create_task(group.submit(0, 2))
    await asyncio.sleep(0.01)
    gone.cancel()
    call.gate.set()
    assert await stays == 4
    assert call.batches == [[1, 2]]
    assert await group.submit(0, 3) == 6


async def test_batched_reads_read_each_key_once() -> None:
    batches: list[list[int]] = []

    async def read(keys: Sequence[int]) -> dict[int, str]:
        batches.append(list(keys))
        await asyncio.sleep(0)
        return {key: str(key) for key in keys if key != 3}

    reads = BatchedReads(read, batch_limit=10)
    found = await asyncio.gather(*(reads.get(key) for key in (1, 2, 2, 3, 1)))
    assert found == ["1", "2", "2", None, "1"]
    assert batches == [[1, 2, 3]]
