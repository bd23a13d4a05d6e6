"""The cards that a process holds, and how long it may rely on them."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from app import database
from app.pricing.catalogue import LEASE, RateCardCache, StaleRateCards
from app.pricing.publishing import LEAD_TIME, publish_default_card, publish_rate_card
from app.pricing.rules import quote
from tests.pricing.test_publishing import a_document, database_now

pytestmark = pytest.mark.anyio


async def a_catalogue() -> RateCardCache:
    catalogue = RateCardCache()
    await catalogue.refresh()
    return catalogue


async def test_nothing_is_known_before_the_first_reading(db: str) -> None:
    await publish_default_card()
    catalogue = RateCardCache()

    with pytest.raises(StaleRateCards):
        catalogue.card_at(await database_now())
    assert catalogue.is_fresh(3_600) is False
    assert (await catalogue.load_card_at(await database_now())).version == 1


async def test_a_reading_is_good_for_less_than_the_notice_of_a_publication(db: str) -> None:
    await publish_default_card()
    before = await database_now()
    catalogue = await a_catalogue()
    after = await database_now()

    assert catalogue.card_at(before + LEASE).version == 1
    with pytest.raises(StaleRateCards):
        catalogue.card_at(after + LEASE)
    assert LEASE < LEAD_TIME


async def test_a_published_card_is_in_force_from_its_instant_in_a_process_that_did_not_publish_it(db: str) -> None:
    await publish_default_card()
    catalogue = await a_catalogue()
    published = (await publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1")).card
    instant = published.effective_at

    with pytest.raises(StaleRateCards):  # what it read before the publication does not reach that far
        catalogue.card_at(instant)
    await catalogue.refresh()
    just_before = instant - timedelta(seconds=3)

    assert catalogue.card_at(just_before).version == 1
    assert catalogue.card_by_version(2) == published
    await _move_effect(2, to=await database_now() - timedelta(seconds=1))
    await catalogue.refresh()
    assert catalogue.card_at(await database_now()).version == 2
    assert quote(await catalogue.current_card(), "Block", {}).credits == 5


async def test_no_instant_is_priced_before_the_first_card(db: str) -> None:
    await publish_default_card()
    catalogue = await a_catalogue()

    with pytest.raises(StaleRateCards):
        await catalogue.load_card_at(await database_now() - timedelta(days=1))


async def test_an_empty_catalogue_says_no_price(db: str) -> None:
    catalogue = await a_catalogue()

    with pytest.raises(StaleRateCards):
        await catalogue.current_card()
    await publish_default_card()
    assert (await catalogue.current_card()).version == 1


async def test_superseded_cards_are_held_for_a_day_and_shown_for_ever(db: str) -> None:
    await publish_default_card()
    for number in (2, 3, 4):
        await publish_rate_card(a_document(number), actor="operator:ann", idempotency_key=f"k{number}")
    now = await database_now()
    for version, hours in ((1, 100), (2, 50), (3, 23.5), (4, 1)):
        await _move_effect(version, to=now - timedelta(hours=hours))

    catalogue = await a_catalogue()

    assert catalogue.card_at(now).version == 4
    assert catalogue.card_at(now - timedelta(hours=24)).version == 2  # in force when the oldest open hold was placed
    assert [catalogue.card_by_version(version).version for version in (2, 3, 4)] == [2, 3, 4]
    with pytest.raises(StaleRateCards):
        catalogue.card_by_version(1)
    shown = [await catalogue.find_card(version) for version in (1, 2, 4, None)]
    assert [card and card.version for card in shown] == [1, 2, 4, 4]
    assert [await catalogue.find_card(version) for version in (0, 5, -1, 2**31, 2**70)] == [None] * 5


async def test_a_refresh_reads_only_what_is_not_held(db: str) -> None:
    await publish_default_card()
    catalogue = await a_catalogue()
    held = catalogue.card_by_version(1)
    await publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1")

    await catalogue.refresh()

    assert catalogue.card_by_version(1) is held
    assert catalogue.card_by_version(2).blocks.keys() == {"Block"}


async def test_a_database_that_tells_another_story_is_believed(db: str) -> None:
    await publish_default_card()
    await publish_rate_card(a_document(5), actor="operator:ann", idempotency_key="k1")
    catalogue = await a_catalogue()
    await database.fetch("DELETE FROM rate_card WHERE version = 2")
    await publish_rate_card(a_document(9), actor="operator:ann", idempotency_key="k2")

    await catalogue.refresh()

    assert quote(catalogue.card_by_version(2), "Block", {}).credits == 9


async def test_a_stored_card_that_cannot_be_read_stops_prices_and_not_the_loop(
    db: str, caplog: pytest.LogCaptureFixture
) -> None:
    await publish_default_card()
    catalogue = await a_catalogue()
    await publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1")
    await database.fetch("""UPDATE rate_card SET document = '{"new": 1}' WHERE version = 2""")
    await database.fetch("UPDATE rate_card SET effective_at = effective_at - interval '9 s' WHERE version = 2")
    known = await database_now()

    with caplog.at_level(logging.WARNING, logger="app.pricing.catalogue"):
        loop = asyncio.create_task(catalogue.refresh_periodically(every_seconds=0.02))
        await asyncio.sleep(0.3)
        with pytest.raises(StaleRateCards):
            catalogue.card_at(known + LEASE)
        await database.fetch("DELETE FROM rate_card WHERE version = 2")
        await _until(lambda: "read again" in caplog.text)
        loop.cancel()

    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert catalogue.card_at(known).version == 1
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_the_loop_brings_new_cards(db: str) -> None:
    await publish_default_card()
    catalogue = RateCardCache()
    loop = asyncio.create_task(catalogue.refresh_periodically(every_seconds=0.02))
    try:
        await _until(lambda: catalogue.is_fresh(1))
        await publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1")
        await _until(lambda: _holds(catalogue, 2))
    finally:
        loop.cancel()

    assert catalogue.card_by_version(2).version == 2


async def _move_effect(version: int, *, to: datetime) -> None:
    """Let a card have taken effect at another instant: tests do not wait for it."""
    await database.fetch("UPDATE rate_card SET effective_at = $1 WHERE version = $2 RETURNING 1", to, version)


def _holds(catalogue: RateCardCache, version: int) -> bool:
    try:
        catalogue.card_by_version(version)
    except StaleRateCards:
        return False
    return True


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to pass within 5 s")
