"""Publishing rate cards: versions, times of effect, replays and concurrent publications."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from app.db import pools
from app.errors import IdempotencyConflict, InvalidInput, InvalidRateCard
from app.pricing import publishing
from app.pricing.models import RateCard
from app.pricing.publishing import Publication, publish_default_card, publish_rate_card
from app.pricing.quotes import quote
from app.pricing.rate_card_json import default_rate_card

pytestmark = pytest.mark.anyio


def a_document(credits: int = 5) -> dict[str, Any]:
    return {"blocks": [{"block": "Block", "credits": credits}]}


async def database_now() -> datetime:
    now: datetime = (await pools.fetch("SELECT clock_timestamp() AS now"))[0]["now"]
    return now


async def versions() -> list[int]:
    return [row.version for row in await RateCard.all().order_by("version")]


async def test_the_default_card_is_published_once_by_concurrent_starts(db: str) -> None:
    before = await database_now()

    loaded = await asyncio.gather(*(publish_default_card() for _ in range(5)))

    assert sorted(loaded) == [False, False, False, False, True]
    row = await RateCard.get()
    assert (row.version, row.published_by) == (1, "default card")
    assert row.reason is None
    assert row.idempotency_key is None
    assert row.document == default_rate_card()
    assert before <= row.effective_at <= await database_now()


async def test_the_default_card_never_replaces_another(db: str) -> None:
    await publish_default_card()
    await publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1")

    assert await publish_default_card() is False
    assert await versions() == [1, 2]


async def test_a_card_takes_effect_at_the_earliest_allowed_time(db: str) -> None:
    await publish_default_card()
    before = await database_now()

    published = await publish_rate_card(a_document(), actor="operator:ann", reason="dearer now", idempotency_key="k1")

    after = await database_now()
    assert (published.card.version, published.replayed) == (2, False)
    assert before + timedelta(seconds=11) <= published.card.effective_at <= after + timedelta(seconds=11)
    assert quote(published.card, "Block", {}).credits == 5
    assert quote(published.card, "Block", {}).rate_card_version == 2
    row = await RateCard.get(version=2)
    assert (row.document, row.published_by, row.reason, row.idempotency_key) == (
        a_document(),
        "operator:ann",
        "dearer now",
        "k1",
    )
    assert row.effective_at == published.card.effective_at


async def test_a_card_takes_effect_after_a_published_future_card(db: str) -> None:
    await publish_default_card()
    later = (await database_now() + timedelta(hours=1)).replace(microsecond=0)
    await publish_rate_card(a_document(), effective_at=later, actor="operator:ann", idempotency_key="k1")

    published = await publish_rate_card(a_document(6), actor="operator:ann", idempotency_key="k2")

    assert published.card.effective_at == later + timedelta(microseconds=1)


async def test_the_first_publication_publishes_the_default_card_before(db: str) -> None:
    published = await publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1")

    assert published.card.version == 2
    assert await versions() == [1, 2]


async def test_a_repeated_request_is_a_replay(db: str) -> None:
    await publish_default_card()
    at = await database_now() + timedelta(seconds=60)
    first = await publish_rate_card(
        a_document(), effective_at=at, actor="operator:ann", reason="why", idempotency_key="k1"
    )
    same_instant = at.astimezone(timezone(timedelta(hours=2)))

    again = await publish_rate_card(
        {"blocks": [{"credits": 5.0, "block": "Block"}]},
        effective_at=same_instant,
        actor="operator:bob",
        reason="why",
        idempotency_key="k1",
    )

    assert (again.card, again.replayed) == (first.card, True)
    assert await versions() == [1, 2]


async def test_a_replay_is_answered_after_the_card_has_taken_effect(db: str) -> None:
    await publish_default_card()
    at = await database_now() + timedelta(seconds=60)
    first = await publish_rate_card(a_document(), effective_at=at, actor="operator:ann", idempotency_key="k1")
    long_ago = at - timedelta(days=2)
    await pools.fetch("UPDATE rate_card SET effective_at = effective_at - interval '2 days' WHERE version = 2")

    again = await publish_rate_card(a_document(), effective_at=at, actor="operator:ann", idempotency_key="k1")

    assert (again.card.version, again.replayed) == (first.card.version, True)
    assert again.card.effective_at == long_ago


@pytest.mark.parametrize(
    "change",
    [
        {"document": a_document(6)},
        {"effective_at": datetime(2999, 1, 1, tzinfo=UTC)},
        {"reason": "another"},
    ],
)
async def test_the_same_key_with_another_request_is_a_conflict(db: str, change: dict[str, Any]) -> None:
    await publish_default_card()
    request: dict[str, Any] = {
        "document": a_document(),
        "actor": "operator:ann",
        "reason": "why",
        "idempotency_key": "k1",
    }
    await publish_rate_card(**request)

    with pytest.raises(IdempotencyConflict):
        await publish_rate_card(**(request | change))

    assert await versions() == [1, 2]


async def test_the_same_request_sent_concurrently_is_published_once(db: str) -> None:
    await publish_default_card()

    published = await asyncio.gather(
        *(publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1") for _ in range(8))
    )

    assert sorted(one.replayed for one in published) == [False] + [True] * 7
    assert {(one.card.version, one.card.effective_at) for one in published} == {(2, published[0].card.effective_at)}
    assert await versions() == [1, 2]


async def test_concurrent_publications_get_consecutive_versions_in_order_of_effect(db: str) -> None:
    await publish_default_card()

    published = await asyncio.gather(
        *(
            publish_rate_card(a_document(credits), actor="operator:ann", idempotency_key=f"k{credits}")
            for credits in range(6)
        )
    )

    assert sorted(one.card.version for one in published) == [2, 3, 4, 5, 6, 7]
    rows = await RateCard.all().order_by("version")
    instants = {row.version: row.effective_at for row in rows}
    assert list(instants.values()) == sorted(set(instants.values()))
    assert {one.card.version: one.card.effective_at for one in published}.items() <= instants.items()


async def test_a_card_that_waited_for_another_keeps_the_lead_time(db: str) -> None:
    await publish_default_card()
    other_has_written = asyncio.Event()

    async def publish_after_the_other() -> Publication:
        await other_has_written.wait()
        return await publish_rate_card(a_document(), actor="operator:ann", idempotency_key="k1")

    waiting = asyncio.create_task(
        publish_after_the_other()
    )  # created outside, because inside it would join the transaction
    async with pools.transaction() as other:
        await other.execute_query(
            "INSERT INTO rate_card"
            " (version, effective_at, document, request_hash, published_at, published_by, idempotency_key)"
            " SELECT 2, clock_timestamp(), document, request_hash, published_at, published_by, 'other' FROM rate_card"
        )
        other_has_written.set()
        await asyncio.sleep(1.3)  # longer than the time by which its first attempt exceeds the lead time
        assert not waiting.done()
        await other.execute_query("DELETE FROM rate_card WHERE version = 2")
        before = await database_now()
    published = await waiting

    assert published.card.version == 2
    assert published.card.effective_at >= before + publishing.LEAD_TIME


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (timedelta(seconds=-1), "at least 10 s ahead"),
        (timedelta(seconds=9.9), "at least 10 s ahead"),
        (timedelta(minutes=30), "after that of the card published last"),
        (timedelta(days=400), "at most 366 days ahead"),
    ],
)
async def test_an_effective_time_that_is_too_early_or_too_late_is_refused(
    db: str, ahead: timedelta, words: str
) -> None:
    await publish_default_card()
    now = await database_now()
    await publish_rate_card(
        a_document(), effective_at=now + timedelta(hours=1), actor="operator:ann", idempotency_key="k1"
    )

    with pytest.raises(InvalidInput, match=words) as refusal:
        await publish_rate_card(a_document(), effective_at=now + ahead, actor="operator:ann", idempotency_key="k2")

    assert [problem.path for problem in refusal.value.problems] == ["effectiveAt"]
    assert await versions() == [1, 2]


@pytest.mark.parametrize(
    ("change", "refused_with"),
    [
        (lambda: {"document": {"blocks": [{"block": "A", "credits": -1}]}}, InvalidRateCard),
        (lambda: {"document": [1]}, InvalidRateCard),
        (lambda: {"idempotency_key": ""}, InvalidInput),
        (lambda: {"idempotency_key": "k" * 256}, InvalidInput),
        (lambda: {"reason": ""}, InvalidInput),
        (lambda: {"reason": "r" * 1_001}, InvalidInput),
        (lambda: {"reason": "\0"}, InvalidInput),
        (lambda: {"effective_at": datetime(2999, 1, 1)}, InvalidInput),  # noqa: DTZ001  naive is what is refused
    ],
)
async def test_an_invalid_request_writes_nothing(
    db: str, change: Callable[[], dict[str, Any]], refused_with: type[Exception]
) -> None:
    await publish_default_card()
    request: dict[str, Any] = {"document": a_document(), "actor": "operator:ann", "idempotency_key": "k1"}

    with pytest.raises(refused_with):
        await publish_rate_card(**(request | change()))

    assert await versions() == [1]
