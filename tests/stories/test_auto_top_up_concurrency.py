"""Auto top-up on two workers: many concurrent charges lower the balance, and one purchase raises it again."""

import asyncio

import asyncpg
import pytest

from app.db.database_url import connection_arguments
from tests.factories import unique_id
from tests.stories.conftest import Platform

pytestmark = pytest.mark.anyio

SET = """mutation($input: SetAutoTopUpInput!) { setAutoTopUp(input: $input) { __typename
    ... on SetAutoTopUpSuccess { autoTopUp { state blockedReason } } } }"""
BOUGHT = "topUps(first: 100) { edges { node { id automatic status credits receipt { url } } } }"

# A saved card of the sandbox, as after a payment that saves it.
SAVED = """
    WITH card AS (INSERT INTO sandbox_card VALUES ('card_story', 'cus_story', 'pays') RETURNING card_ref, customer_ref)
    INSERT INTO payment_customer (account_id, provider, customer_ref, card_ref, card_label, card_saved_at)
    SELECT o.account_id, 'sandbox', c.customer_ref, c.card_ref, 'test card', clock_timestamp()
    FROM owner AS o, card AS c WHERE o.owner_id = 'alice'
"""


async def save_card(platform: Platform) -> None:
    connection = await asyncpg.connect(**connection_arguments(platform.database_url))
    try:
        await connection.execute("DELETE FROM sandbox_card WHERE card_ref = 'card_story'")
        await connection.execute("DELETE FROM payment_customer WHERE customer_ref = 'cus_story'")
        await connection.execute(SAVED)
    finally:
        await connection.close()


async def test_a_hundred_charges_on_both_workers_are_followed_by_one_purchase(
    platform: Platform, workers: tuple[Platform, Platform]
) -> None:
    await platform.grant("alice", 1_000)
    await save_card(platform)
    available = (await platform.balance("alice"))["available"]

    async def bought() -> list[dict[str, object]]:
        found = await platform.account("alice", BOUGHT)
        return [edge["node"] for edge in found["topUps"]["edges"] if edge["node"]["automatic"]]

    before = len(await bought())
    wishes = {"enabled": True, "threshold": available - 500, "amount": 2_000, "consentVersion": "story"}
    try:
        answer = (await platform.ask("user", SET, input=wishes))["setAutoTopUp"]
        assert answer["autoTopUp"] == {"state": "READY", "blockedReason": None}
        task = await platform.start("alice")
        charges = [workers[n % 2].charge(task, unique_id("story-run")) for n in range(100)]
        await asyncio.gather(*charges)

        async def arrived() -> bool:
            return len(await bought()) > before and (await platform.balance("alice"))["available"] == available + 1_000

        async with asyncio.timeout(15):
            while not await arrived():  # noqa: ASYNC110  it happens in another process
                await asyncio.sleep(0.1)
        one = (await bought())[0]
        assert (one["status"], one["credits"]) == ("PAID", 2_000)
        receipt = one["receipt"]
        assert isinstance(receipt, dict)
        assert (await platform.client.get(receipt["url"].split("/", 3)[3])).status_code == 200
        await asyncio.sleep(0.2)  # further purchases would have arrived by now
        assert len(await bought()) == before + 1
    finally:
        off = (await platform.ask("user", SET, input={"enabled": False}))["setAutoTopUp"]
    assert off["autoTopUp"] == {"state": "OFF", "blockedReason": "DISABLED"}
    await platform.audited("alice")
