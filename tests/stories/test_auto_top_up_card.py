"""Auto top-up with a saved card: one purchase per crossing of the threshold, back-off after a decline, disabling."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from tests.factories import unique_id
from tests.stories.conftest import Platform, pushed
from tests.stories.operations import AUTO_TOP_UP

pytestmark = pytest.mark.anyio

HEADER = "subscription { balance { available version autoTopUp } }"
SEEN = f"""{{ account {{ balance {{ available }} autoTopUp {AUTO_TOP_UP}
    topUps(first: 100) {{ edges {{ node {{ id automatic status credits }} }} }}
    notifications(first: 100, unreadOnly: true) {{ edges {{ node {{ id kind }} }} }} }} }}"""


async def seen(platform: Platform, user: str) -> Any:
    return (await platform.ask(user, SEEN))["account"]


async def put(platform: Platform, user: str, **input: Any) -> Any:
    return (await platform.done("setAutoTopUp", user, **input))["autoTopUp"]


def bought(account: Any) -> list[Any]:
    """The automatic top-ups, newest first."""
    return [edge["node"] for edge in account["topUps"]["edges"] if edge["node"]["automatic"]]


def notifications(account: Any) -> set[tuple[str, str]]:
    return {(edge["node"]["id"], edge["node"]["kind"]) for edge in account["notifications"]["edges"]}


async def shown(header: ClientConnection, wanted: Callable[[Any], bool]) -> Any:
    """The first item that satisfies `wanted`. A worker may find changed settings only by its sweep every 5 s."""
    async with asyncio.timeout(15):
        while True:
            item = json.loads(await header.recv())["payload"]["data"]["balance"]
            if wanted(item):
                return item


@asynccontextmanager
async def switched_off_afterwards(platform: Platform, user: str) -> AsyncIterator[None]:
    """Disables auto top-up at the end, for the other stories of this account."""
    try:
        yield
    finally:
        off = await put(platform, user, enabled=False)
    assert (off["enabled"], off["state"], off["blockedReason"]) == (False, "OFF", "DISABLED")


async def test_a_saved_card_pays_once_when_a_charge_crosses_the_threshold(platform: Platform) -> None:
    await platform.save_card("saver", "pays")
    before = await seen(platform, "saver")
    available = before["balance"]["available"]
    async with switched_off_afterwards(platform, "saver"), platform.subscribed("saver", HEADER) as header:
        assert (await pushed(header, "balance"))["available"] == available
        on = await put(platform, "saver", enabled=True, threshold=available, amount=1_000, consentVersion="story-1")
        assert on == {
            "enabled": True, "state": "READY", "blockedReason": None, "nextEligibleAt": None,
            "consentVersion": "story-1",
        }  # fmt: skip
        task = await platform.start("saver")
        assert (await platform.charge(task, unique_id("story-run")))["cost"] == 10
        await shown(header, lambda item: item["available"] == available - 10 + 1_000)
        await platform.charge(task, unique_id("story-run"))
        last = await shown(header, lambda item: item["available"] == available - 20 + 1_000)
        after = await seen(platform, "saver")
    assert last["available"] == after["balance"]["available"]
    [one] = [top_up for top_up in bought(after) if top_up not in bought(before)]
    assert (one["status"], one["credits"]) == ("PAID", 1_000)
    await platform.audited("saver")


async def test_a_declined_card_backs_off_and_is_reported_until_auto_top_up_is_disabled(platform: Platform) -> None:
    await platform.save_card("unlucky", "declines")
    before = await seen(platform, "unlucky")
    available = before["balance"]["available"]
    async with switched_off_afterwards(platform, "unlucky"), platform.subscribed("unlucky", HEADER) as header:
        await put(platform, "unlucky", enabled=True, threshold=available, amount=1_000, consentVersion="story-1")
        task = await platform.start("unlucky")
        await platform.charge(task, unique_id("story-run"))
        last = await shown(header, lambda item: item["autoTopUp"] == "BACKING_OFF")
        assert last["available"] == available - 10
        after = await seen(platform, "unlucky")
        standing = after["autoTopUp"]
        assert (standing["state"], standing["blockedReason"]) == ("BACKING_OFF", "BACKING_OFF")
        assert standing["nextEligibleAt"] is not None
        [one] = [top_up for top_up in bought(after) if top_up not in bought(before)]
        assert (one["status"], one["credits"]) == ("FAILED", 1_000)
        assert "TOP_UP_FAILED" in {kind for _, kind in notifications(after) - notifications(before)}
        # Further charges are considered, and buy nothing.
        await asyncio.gather(*(platform.charge(task, unique_id("story-run")) for _ in range(5)))
        await shown(header, lambda item: item["available"] == available - 60)
        assert bought(await seen(platform, "unlucky")) == bought(after)
    await platform.audited("unlucky")
