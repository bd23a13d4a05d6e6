"""The balance subscription over graphql-transport-ws, from the first grant through charges to a paid top-up."""

import asyncio

import pytest

from tests.factories import unique_id
from tests.stories.conftest import Platform, pushed

pytestmark = pytest.mark.anyio

BALANCE = "subscription($owner: ID) { balance(ownerId: $owner) { available version status } }"


async def test_the_subscription_ends_at_the_current_version_of_any_writer(platform: Platform) -> None:
    owner = unique_id("story")
    async with platform.subscribed("service", BALANCE, owner=owner) as header:
        assert await pushed(header, "balance") == {"available": 0, "version": 0, "status": "EMPTY"}
        await platform.grant(owner, 1000)
        task = await platform.start(owner)
        await asyncio.gather(*(platform.charge(task, unique_id("story-run")) for _ in range(30)))
        states = [await pushed(header, "balance")]
        while states[-1]["version"] < 31:
            states.append(await pushed(header, "balance"))
        versions = [state["version"] for state in states]
        assert versions == sorted(set(versions))
        assert states[-1] == {"available": 700, "version": 31, "status": "OK"}


async def test_a_paid_top_up_is_pushed_once(platform: Platform) -> None:
    before = (await platform.balance("alice"))["available"]
    async with platform.subscribed("user", BALANCE) as header:
        assert (await pushed(header, "balance"))["available"] == before
        top_up = await platform.begin_top_up(500)
        _, *confirmed = await asyncio.gather(
            platform.pay(top_up["paymentUrl"]),
            *(platform.done("confirmTopUp", topUpId=top_up["id"]) for _ in range(3)),
        )
        assert all(one["topUp"]["status"] in {"PENDING", "PAID"} for one in confirmed)
        assert (await pushed(header, "balance"))["available"] == before + 500
    last = await platform.done("confirmTopUp", topUpId=top_up["id"])
    assert (last["topUp"], last["balance"]["available"]) == ({"status": "PAID", "credits": 500}, before + 500)
