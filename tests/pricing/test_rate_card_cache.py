"""The cache of rate cards in a process, and how long it is valid."""

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.db import failures, pools
from app.pricing import rate_card_cache
from app.pricing.publishing import LEAD_TIME, SELECT_NOW, publish_default_card, publish_rate_card
from app.pricing.quotes import quote
from app.pricing.rate_card_cache import LEASE, RateCardCache, StaleRateCards
from tests.pricing.test_publishing import a_document, database_now

pytestmark = pytest.mark.anyio


async def refreshed_cache() -> RateCardCache:
    rate_cards = RateCardCache()
    await rate_cards.refresh()
    return rate_cards


async def test_no_card_is_known_before_the_first_refresh(db: str) -> None:
    await publish_default_card()
    rate_cards = RateCardCache()

    with pytest.raises(StaleRateCards):
        rate_cards.card_at(await database_now())
    assert rate_cards.is_fresh(3_600) is False
    assert (await rate_cards.load_card_at(await database_now())).version == 1


async def test_the_lease_is_shorter_than_the_lead_time_of_a_publication(db: str) -> None:
    await publish_default_card()
    before = await database_now()
    rate_cards = await refreshed_cache()
    after = await database_now()

    assert rate_cards.card_at(before + LEASE).version == 1
    with pytest.raises(StaleRateCards):
        rate_cards.card_at(after + LEASE)
    assert LEASE < LEAD_TIME


async def test_a_published_card_takes_effect_in_other_processes_on_time(db: str) -> None:
    await publish_default_card()
    rate_cards = await refreshed_cache()
    published = (await publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1")).card
    instant = published.effective_at

    with pytest.raises(StaleRateCards):  # its lease ends before that instant
        rate_cards.card_at(instant)
    await rate_cards.refresh()
    just_before = instant - timedelta(seconds=3)

    assert rate_cards.card_at(just_before).version == 1
    assert rate_cards.card_by_version(2) == published
    await _move_effect(2, to=await database_now() - timedelta(seconds=1))
    await rate_cards.refresh()
    assert rate_cards.card_at(await database_now()).version == 2
    assert quote(await rate_cards.current_card(), "Block", {}).credits == 5


async def test_the_first_card_is_used_even_if_the_clock_is_before_its_publication(db: str) -> None:
    await publish_default_card()
    rate_cards = await refreshed_cache()

    assert (await rate_cards.load_card_at(await database_now() - timedelta(days=1))).version == 1


async def test_an_empty_cache_has_no_price(db: str) -> None:
    rate_cards = await refreshed_cache()

    with pytest.raises(StaleRateCards):
        await rate_cards.current_card()
    await publish_default_card()
    assert (await rate_cards.current_card()).version == 1


async def test_superseded_cards_stay_in_memory_for_a_day_and_can_always_be_found(db: str) -> None:
    await publish_default_card()
    for number in (2, 3, 4):
        await publish_rate_card(a_document(number), actor="operator:ann", idempotency_key=f"k{number}")
    now = await database_now()
    for version, hours in ((1, 100), (2, 50), (3, 23.5), (4, 1)):
        await _move_effect(version, to=now - timedelta(hours=hours))

    rate_cards = await refreshed_cache()

    assert rate_cards.card_at(now).version == 4
    assert rate_cards.card_at(now - timedelta(hours=24)).version == 2  # in force when the oldest open hold was placed
    assert [rate_cards.card_by_version(version).version for version in (2, 3, 4)] == [2, 3, 4]
    with pytest.raises(StaleRateCards):
        rate_cards.card_by_version(1)
    shown = [await rate_cards.find_card(version) for version in (1, 2, 4, None)]
    assert [card and card.version for card in shown] == [1, 2, 4, 4]
    assert [await rate_cards.find_card(version) for version in (0, 5, -1, 2**31, 2**70)] == [None] * 5


async def test_a_refresh_reads_only_new_cards(db: str) -> None:
    await publish_default_card()
    rate_cards = await refreshed_cache()
    held = rate_cards.card_by_version(1)
    await publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1")

    await rate_cards.refresh()

    assert rate_cards.card_by_version(1) is held
    assert rate_cards.card_by_version(2).blocks.keys() == {"Block"}


async def test_a_refresh_replaces_cards_that_differ_in_the_database(db: str) -> None:
    await publish_default_card()
    await publish_rate_card(a_document(5), actor="operator:ann", idempotency_key="k1")
    rate_cards = await refreshed_cache()
    await pools.fetch("DELETE FROM rate_card WHERE version = 2")
    await publish_rate_card(a_document(9), actor="operator:ann", idempotency_key="k2")

    await rate_cards.refresh()

    assert quote(rate_cards.card_by_version(2), "Block", {}).credits == 9


async def test_an_invalid_stored_card_stops_prices_but_not_the_refresh_loop(
    db: str, caplog: pytest.LogCaptureFixture
) -> None:
    await publish_default_card()
    rate_cards = await refreshed_cache()
    await publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1")
    await pools.fetch("""UPDATE rate_card SET document = '{"new": 1}' WHERE version = 2""")
    await pools.fetch("UPDATE rate_card SET effective_at = effective_at - interval '9 s' WHERE version = 2")
    known = await database_now()

    with caplog.at_level(logging.WARNING, logger="app.pricing.rate_card_cache"):
        loop = asyncio.create_task(rate_cards.refresh_periodically(every_seconds=0.02))
        await asyncio.sleep(0.3)
        with pytest.raises(StaleRateCards):
            rate_cards.card_at(known + LEASE)
        await pools.fetch("DELETE FROM rate_card WHERE version = 2")
        await _until(lambda: "can be read again" in caplog.text)
        loop.cancel()

    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert rate_cards.card_at(known).version == 1
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_the_refresh_loop_reads_new_cards(db: str) -> None:
    await publish_default_card()
    rate_cards = RateCardCache()
    loop = asyncio.create_task(rate_cards.refresh_periodically(every_seconds=0.02))
    try:
        await _until(lambda: rate_cards.is_fresh(1))
        await publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1")
        await _until(lambda: _holds(rate_cards, 2))
    finally:
        loop.cancel()

    assert rate_cards.card_by_version(2).version == 2


class HangingReads:
    """Reads of the clock, with which each refresh begins. The next `hanging` never answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hanging = 0.0
        self.begun = 0
        self.fetch = pools.fetch
        monkeypatch.setattr(pools, "fetch", self.fetch_or_hang)
        monkeypatch.setattr(rate_card_cache, "READ_SECONDS", 0.05)
        monkeypatch.setattr(rate_card_cache, "RETRY_SECONDS", 0.01)

    async def fetch_or_hang(self, sql: str, *values: Any) -> Any:
        self.begun += sql == SELECT_NOW
        if sql == SELECT_NOW and self.hanging:
            self.hanging -= 1
            await asyncio.Event().wait()
        return await self.fetch(sql, *values)


async def test_a_refresh_that_hangs_is_abandoned_and_repeated_while_the_known_cards_are_used(
    rate_cards: RateCardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = HangingReads(monkeypatch)
    reads.hanging = 2
    begun_at = rate_cards._read_monotonic
    loop = asyncio.create_task(rate_cards.refresh_periodically(every_seconds=0.02))
    await _until(lambda: reads.begun == 2)
    assert rate_cards.card_at(await database_now()).version == 1
    await _until(lambda: rate_cards._read_monotonic > begun_at)
    loop.cancel()


async def test_when_the_cards_are_too_old_and_no_read_answers_all_callers_learn_it_in_time(
    rate_cards: RateCardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = HangingReads(monkeypatch)
    reads.hanging = math.inf
    assert rate_cards.find_problem() is None
    rate_cards._read_monotonic -= LEASE.total_seconds()
    assert rate_cards.find_problem() == "the rate cards could not be read in time"
    async with asyncio.timeout(2):
        found = await asyncio.gather(*(rate_cards.current_card() for _ in range(100)), return_exceptions=True)
    assert {(type(one), str(one)) for one in found} == {
        (failures.NoConnection, "the rate cards could not be read in 0.05 s")
    }
    assert reads.begun <= 2  # callers share a read
    assert failures.answer_to(failures.NoConnection()) is failures.Answer.UNAVAILABLE
    reads.hanging = 0
    assert (await rate_cards.current_card()).version == 1


async def _move_effect(version: int, *, to: datetime) -> None:
    """Change when a card takes effect, so that tests need not wait for it."""
    await pools.fetch("UPDATE rate_card SET effective_at = $1 WHERE version = $2 RETURNING 1", to, version)


def _holds(rate_cards: RateCardCache, version: int) -> bool:
    try:
        rate_cards.card_by_version(version)
    except StaleRateCards:
        return False
    return True


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to pass within 5 s")
