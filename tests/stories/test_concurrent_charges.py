"""Concurrent charges of one account over HTTP and two worker processes: each once, never above the balance."""

from asyncio import gather
from dataclasses import replace

import httpx
import pytest

from tests.factories import unique_id
from tests.stories.conftest import Platform, until

pytestmark = pytest.mark.anyio


async def test_twenty_charges_of_ten_on_seventy_credits_succeed_seven_times(platform: Platform) -> None:
    owner = unique_id("story")
    await platform.grant(owner, 70)
    tasks = [await platform.start(owner) for _ in range(20)]
    replies = await gather(*(platform.charge(task, unique_id("story-run")) for task in tasks))
    assert [reply["__typename"] for reply in replies].count("ChargeSuccess") == 7
    assert [reply["__typename"] for reply in replies].count("InsufficientCreditsError") == 13
    assert (await platform.balance(owner))["available"] == 0


async def test_the_same_charge_sent_twenty_times_is_one_entry_and_nineteen_replays(platform: Platform) -> None:
    owner = unique_id("story")
    await platform.grant(owner, 1000)
    task, run = await platform.start(owner), unique_id("story-run")
    replies = await gather(*(platform.charge(task, run) for _ in range(20)))
    assert sorted(reply["replayed"] for reply in replies) == [False] + [True] * 19
    assert {(reply["cost"], reply["entry"]["seq"], reply["entry"]["mac"]) for reply in replies} == {
        (10, 2, replies[0]["entry"]["mac"])
    }
    assert (await platform.balance(owner))["posted"] == 990


async def test_concurrent_charges_grants_and_reads_add_up(platform: Platform) -> None:
    owner = unique_id("story")
    await platform.grant(owner, 1000)
    task = await platform.start(owner)
    done = await gather(
        *(platform.charge(task, unique_id("story-run"), block="ClaudeCodeBlock") for _ in range(5)),
        *(platform.grant(owner, 200) for _ in range(3)),
        *(platform.balance(owner) for _ in range(10)),
    )
    assert {reply["__typename"] for reply in done[:5]} == {"ChargeSuccess"}
    possible = {1000 - 100 * charges + 200 * grants for charges in range(6) for grants in range(4)}
    assert {read["posted"] for read in done[8:]} <= possible
    by_version = {(read["version"], read["posted"]) for read in done[8:]}
    assert len(by_version) == len({version for version, _ in by_version})  # one version is one state
    assert await platform.balance(owner) == {"available": 1100, "posted": 1100, "version": 9}


async def test_a_charge_with_a_lost_reply_is_replayed_after_the_task_has_ended(platform: Platform) -> None:
    owner = unique_id("story")
    await platform.grant(owner, 100)
    task, run = await platform.start(owner), unique_id("story-run")
    with pytest.raises(httpx.TimeoutException):  # the client goes away before the reply
        async with httpx.AsyncClient(base_url=platform.url, timeout=httpx.Timeout(5, read=0.0001)) as hasty:
            await replace(platform, client=hasty).charge(task, run)

    async def charged() -> bool:
        return bool((await platform.balance(owner))["posted"] == 90)

    await until(charged)
    await platform.done("finishTask", taskId=task, status="COMPLETED")
    again = await platform.charge(task, run)
    assert (again["__typename"], again["replayed"], again["cost"]) == ("ChargeSuccess", True, 10)
    assert (await platform.charge(task, unique_id("story-run")))["__typename"] == "TaskEndedError"
    assert (await platform.balance(owner))["posted"] == 90


async def test_the_ledger_of_all_stories_is_intact(platform: Platform) -> None:
    await platform.audited()
