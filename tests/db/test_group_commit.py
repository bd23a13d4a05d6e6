"""Many callers, one call: lists gather under load, faults stay with whoever caused them."""

import asyncio
from collections.abc import Sequence

import pytest

from app.db.group_commit import BatchedReads, GroupCommit
from app.errors import Overloaded

pytestmark = pytest.mark.anyio


class SlowDoubler:
    """Doubles numbers, a list at a time; 13 is poison. `gate` holds the lists back."""

    def __init__(self) -> None:
        self.lists: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.lists.append(list(items))
        await self.gate.wait()
        if 13 in items:
            raise ValueError("poison")
        return [item * 2 for item in items]


async def test_an_idle_lane_waits_for_nobody_and_a_busy_one_gathers() -> None:
    call = SlowDoubler()
    lanes = GroupCommit(call, batch_limit=10, queue_limit=100)
    assert await lanes.submit(0, 1) == 2
    call.gate.clear()
    waiting = [asyncio.create_task(lanes.submit(0, number)) for number in (2, 3, 4, 5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    late = [asyncio.create_task(lanes.submit(0, number)) for number in (6, 7)]
    await asyncio.sleep(0)
    call.gate.set()
    assert await asyncio.gather(*waiting, *late) == [4, 6, 8, 10, 12, 14]
    assert call.lists[0] == [1]
    assert [number for numbers in call.lists[1:] for number in numbers] == [2, 3, 4, 5, 6, 7]
    assert len(call.lists) == 3


async def test_a_poisonous_item_fails_alone_and_order_stays() -> None:
    call = SlowDoubler()
    lanes = GroupCommit(call, batch_limit=10, queue_limit=100)
    found = await lanes.submit_all([(0, number) for number in (1, 2, 13, 4, 5)])
    assert [str(one) for one in found] == ["2", "4", "poison", "8", "10"]
    assert call.lists[-1] == [4, 5]


async def test_a_list_whose_fault_is_nobodys_fails_whole_at_once() -> None:
    call = SlowDoubler()
    lanes = GroupCommit(
        call, batch_limit=10, queue_limit=100, fails_whole_batch=lambda fault: isinstance(fault, ValueError)
    )
    found = await lanes.submit_all([(0, number) for number in (1, 13, 3)])
    assert [str(one) for one in found] == ["poison"] * 3
    assert call.lists == [[1, 13, 3]]


async def test_what_arrives_within_a_few_turns_of_the_loop_is_in_the_first_list() -> None:
    call = SlowDoubler()
    lanes = GroupCommit(call, batch_limit=10, queue_limit=10, loop_turns=3)

    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await lanes.submit(0, turns)

    await asyncio.gather(*(after(turns) for turns in range(6)))
    assert call.lists == [[0, 1, 2, 3], [4, 5]]


async def test_lists_are_bounded_and_keys_keep_their_lane() -> None:
    call = SlowDoubler()
    lanes = GroupCommit(call, lanes=2, batch_limit=2, queue_limit=100)
    await lanes.submit_all([(number, number) for number in range(6)])
    assert sorted(call.lists) == [[0, 2], [1, 3], [4], [5]]


async def test_a_full_queue_refuses_at_once_and_takes_none_of_a_batch() -> None:
    call = SlowDoubler()
    call.gate.clear()
    lanes = GroupCommit(call, batch_limit=1, queue_limit=2)
    first = asyncio.create_task(lanes.submit(0, 1))
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(lanes.submit(0, number)) for number in (2, 3)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await lanes.submit(0, 4)
    with pytest.raises(Overloaded):
        await lanes.submit_all([(0, 5)])
    call.gate.set()
    assert await asyncio.gather(first, *waiting) == [2, 4, 6]
    assert call.lists == [[1], [2], [3]]


async def test_a_caller_who_goes_away_cancels_nobody_else() -> None:
    call = SlowDoubler()
    call.gate.clear()
    lanes = GroupCommit(call, batch_limit=10, queue_limit=10)
    gone = asyncio.create_task(lanes.submit(0, 1))
    stays = asyncio.create_task(lanes.submit(0, 2))
    await asyncio.sleep(0.01)
    gone.cancel()
    call.gate.set()
    assert await stays == 4
    assert call.lists == [[1, 2]]
    assert await lanes.submit(0, 3) == 6


async def test_shared_reads_ask_for_each_key_once() -> None:
    asked: list[list[int]] = []

    async def read(keys: Sequence[int]) -> dict[int, str]:
        asked.append(list(keys))
        await asyncio.sleep(0)
        return {key: str(key) for key in keys if key != 3}

    shared = BatchedReads(read, batch_limit=10)
    found = await asyncio.gather(*(shared.get(key) for key in (1, 2, 2, 3, 1)))
    assert found == ["1", "2", "2", None, "1"]
    assert asked == [[1, 2, 3]]
