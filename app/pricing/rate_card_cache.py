"""The rate cards in the memory of one process.

Only the database's clock counts. Reading the cards at an instant t of it makes them good until t + 9 s: a card that is
not visible then takes effect later, because a publication states an instant at least 10 s ahead of its own last
statement, and a second is left for its commit to be seen. Past that lease a process refuses to say a price until it
has read again, so no two processes price by different cards at the same instant.
"""

import asyncio
import logging
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Final

from app.db import pools
from app.pricing.models import RateCard
from app.pricing.publishing import COMMIT_ALLOWANCE, LEAD_TIME, SELECT_NOW, card_from_row
from app.pricing.quotes import Card

LEASE: Final = LEAD_TIME - COMMIT_ALLOWANCE
RETENTION: Final = timedelta(hours=25)
"""Superseded cards stay in memory this long: a hold, of at most 24 h, is captured by the card it was placed under."""

# Every version in force in the last hours or later: the one that was in force at $1, and all after it.
SELECT_CACHED_VERSIONS: Final = """
SELECT version, effective_at, request_hash FROM rate_card
WHERE version >= coalesce((SELECT max(version) FROM rate_card WHERE effective_at <= $1), 0)
ORDER BY version
"""

log = logging.getLogger(__name__)


class StaleRateCards(Exception):
    """What this process holds does not tell: refresh and try again."""


class RateCardCache:
    """The cards that this process holds. Make one for each process; refresh it before the first question."""

    def __init__(self) -> None:
        self._cards: tuple[Card, ...] = ()
        self._stamps: dict[int, tuple[datetime, bytes]] = {}
        self._known_until = datetime.min.replace(tzinfo=UTC)
        self._read_at = self._known_until
        self._read_monotonic = -math.inf
        self._refreshing = asyncio.Lock()

    def card_at(self, instant: datetime) -> Card:
        """The card in force at an instant of the database's clock. Raises: Stale."""
        if instant <= self._known_until:
            for card in reversed(self._cards):
                if card.effective_at <= instant:
                    return card
        raise StaleRateCards(f"the rate card in force at {instant} is not known")

    async def load_card_at(self, instant: datetime) -> Card:
        """As `at`, reading the cards anew where that is needed. Raises: Stale, where even then none is in force."""
        try:
            return self.card_at(instant)
        except StaleRateCards:
            await self.refresh()
            return self.card_at(instant)

    async def current_card(self) -> Card:
        """The card in force now, by the database's clock as this process reckons it: for looking, not for charging."""
        if not self.is_fresh(LEASE.total_seconds()):
            await self.refresh()
        return await self.load_card_at(self._read_at + timedelta(seconds=time.monotonic() - self._read_monotonic))

    def card_by_version(self, version: int) -> Card:
        """A card that was in force in the last 25 hours or is to come. Raises: Stale."""
        for card in reversed(self._cards):
            if card.version == version:
                return card
        raise StaleRateCards(f"rate card {version} is not held")

    async def find_card(self, version: int | None = None) -> Card | None:
        """Any version ever published, superseded and coming ones too; the current one where none is named."""
        if version is None:
            return await self.current_card()
        try:
            return self.card_by_version(version)
        except StaleRateCards:
            row = await RateCard.get_or_none(version=version) if 0 < version < 2**31 else None
            return await card_from_row(row) if row else None

    def is_fresh(self, seconds: float) -> bool:
        """Whether the cards were read within the last `seconds`."""
        return time.monotonic() - self._read_monotonic <= seconds

    async def refresh(self) -> None:
        """Read what is published and not held yet. Raises: what the database raises; what was held stays then."""
        async with self._refreshing:
            started = time.monotonic()
            # The clock first, and in a statement of its own: read with the cards it would be later than their snapshot.
            now: datetime = (await pools.fetch(SELECT_NOW))[0]["now"]
            rows = await pools.fetch(SELECT_CACHED_VERSIONS, now - RETENTION)
            # Compared with what is held, because a database brought back from a backup may tell another story.
            stamps = {row["version"]: (row["effective_at"], bytes(row["request_hash"])) for row in rows}
            held = {card.version: card for card in self._cards}
            cards = []
            for version, stamp in stamps.items():
                known = self._stamps.get(version) == stamp
                cards.append(held[version] if known else await card_from_row(await RateCard.get(version=version)))
            self._cards, self._stamps = tuple(cards), stamps
            self._known_until, self._read_at, self._read_monotonic = now + LEASE, now, started

    async def refresh_periodically(self, *, every_seconds: float = 2.0) -> None:
        """Refresh for ever. A database out of reach is logged once, and asked again."""
        failing = False
        while True:
            try:
                async with asyncio.timeout(LEASE.total_seconds()):
                    await self.refresh()
            except Exception:
                if not failing:
                    log.exception("The rate cards could not be read; trying again every %g s.", every_seconds)
                failing = True
            else:
                if failing:
                    log.warning("The rate cards are read again.")
                failing = False
            await asyncio.sleep(every_seconds)
