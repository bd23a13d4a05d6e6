"""Auto top-up on two workers: many concurrent charges lower the balance, and one purchase raises it again."""

import asyncio

import pytest

from tests.databases import execute
from tests.factories import unique_id
from tests.stories.conftest import Platform, until

pytestmark = pytest.mark.anyio

BOUGHT = "topUps(first: 100) { edges { node { id automatic status credits receipt { url } } } }"

# A saved card of the sandbox, as after a payment that saves it.
SAVED = """
    WITH card AS (INSERT INTO sandbox_card VALUES ('card_story', 'cus_story', 'pays') RETURNING card_ref, customer_ref)
    INSERT INTO payment_customer (account_id, provider, customer_ref, card_ref, card_label, card_saved_at)
    SELECT o.account_id, 'sandbox', c.customer_ref, c.card_ref, 'test card', clock_timestamp()
    FROM owner AS o, card AS c WHERE o.owner_id = 'alice'
"""


async def test_a_hundred_charges_on_both_workers_are_followed_by_one_purchase(
    platform: Platform, workers: tuple[Platform, Platform]
) -> None:
    await platform.grant("alice", 1_000)
    await execute(
        platform.database_url,
        "DELETE FROM sandbox_card WHERE card_ref = 'card_story'",
        "DELETE FROM payment_customer WHERE customer_ref = 'cus_story'",
        SAVED,
    )
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
        await asyncio.gather(*charges)

        async def arrived() -> bool:
            return len(await bought()) > before and (await platform.balance("alice"))["available"] == available + 1_000

        await until(arrived, seconds=15)
        one = (await bought())[0]
        assert (one["status"], one["credits"]) == ("PAID", 2_000)
        receipt = one["receipt"]
        assert isinstance(receipt, dict)
        assert (await platform.client.get(receipt["url"].split("/", 3)[3])).status_code == 200
        await asyncio.sleep(0.2)  # further purchases would have arrived by now
        assert len(await bought()) == before + 1
    finally:
        off = (await platform.done("setAutoTopUp", enabled=False))["autoTopUp"]
    assert (off["state"], off["blockedReason"]) == ("OFF", "DISABLED")
    await platform.audited("alice")
