"""Auto top-up on two workers: many concurrent charges lower the balance, and one purchase raises it again."""

import asyncio

import pytest

from tests.factories import unique_id
from tests.stories.conftest import Platform, successes, until

pytestmark = pytest.mark.anyio

BOUGHT = "topUps(first: 100) { edges { node { id automatic status credits receipt { url } } } }"


async def test_a_hundred_charges_on_both_workers_are_followed_by_one_purchase(
    platform: Platform, workers: tuple[Platform, Platform]
) -> None:
    await platform.grant("alice", 1_000)
    await platform.save_card("user", "pays")
    available = (await platform.balance("alice"))["available"]

    async def bought() -> list[dict[str, object]]:
        found = await platform.account("alice", BOUGHT)
        return [edge["node"] for edge in found["topUps"]["edges"] if edge["node"]["automatic"]]

    before = len(await bought())
    wishes = {"enabled": True, "threshold": available - 500, "amount": 2_000, "consentVersion": "story"}
    try:
        on = (await platform.done("setAutoTopUp", **wishes))["autoTopUp"]
        assert (on["state"], on["blockedReason"]) == ("READY", None)
        task = await platform.start("alice")
        charges = [workers[n % 2].charge(task, unique_id("story-run")) for n in range(100)]
        assert len(successes(await asyncio.gather(*charges))) == 100

        async def settled() -> bool:
            found = await bought()
            return len(found) > before and found[0]["status"] != "PENDING"

        await until(settled, seconds=15)
        one = (await bought())[0]
        assert (one["status"], one["credits"]) == ("PAID", 2_000)
        assert (await platform.balance("alice"))["available"] == available + 1_000
        receipt = one["receipt"]
        assert isinstance(receipt, dict)
        assert (await platform.client.get(receipt["url"].split("/", 3)[3])).status_code == 200
        await asyncio.sleep(0.2)  # further purchases would have arrived by now
        assert len(await bought()) == before + 1
    finally:
        off = (await platform.done("setAutoTopUp", enabled=False))["autoTopUp"]
    assert (off["state"], off["blockedReason"]) == ("OFF", "DISABLED")
    await platform.audited("alice")
