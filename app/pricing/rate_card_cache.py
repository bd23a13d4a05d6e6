"""The cache of rate cards in one process.

All times are those of the database's clock. Cards that are read at time t are valid until t + 9 s (the lease). The
reason: a card that is not visible at t takes effect later than t + 9 s, because it is published at least 10 s before it
takes effect, and its commit becomes visible within one second. After the lease, the cards must be read again before a
price is given. So no two processes use different cards at the same time.
"""

import asyncio
import logging
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Final

from app import metrics
from app.bounded_waits import wait_at_most
from app.db import failures, pools
from app.db.group_commit import BatchedReads
from app.pricing.models import RateCard
from app.pricing.publishing import COMMIT_ALLOWANCE, LEAD_TIME, SELECT_NOW, card_from_row
from app.pricing.quotes import Card

LEASE: Final = LEAD_TIME - COMMIT_ALLOWANCE
RETENTION: Final = timedelta(hours=25)
"""How long replaced cards stay in memory.

The outcome of a block run is priced by the card of its charge, usually within this time. Older cards are read from the
database.
"""

# Selects the version that was in force at $1, and all later versions.
SELECT_CACHED_VERSIONS: Final = """
SELECT version, effective_at, request_hash FROM rate_card
WHERE version >= coalesce((SELECT max(version) FROM rate_card WHERE effective_at <= $1), 0)
ORDER BY version
"""

READ_SECONDS: Final = 2.5
"""The time limit of a read. Within the lease there is time for several reads."""
RETRY_SECONDS: Final = 0.5

_Identity = tuple[datetime, bytes]
"""When a card takes effect, and its hash."""

log = logging.getLogger(__name__)


class StaleRateCards(Exception):
    """The cached rate cards do not cover this time or version. Refresh them and try again."""


class RateCardCache:
    """The rate cards of one process. Call `refresh` before the first use."""

    def __init__(self) -> None:
        self._cards: tuple[Card, ...] = ()
        self._identities: dict[int, _Identity] = {}
        self._valid_until = datetime.min.replace(tzinfo=UTC)
        self._read_at = self._valid_until
        self._read_monotonic = -math.inf
        # Callers that ask during a read share the next one. If a read fails, all its callers fail.
        self._refreshes: BatchedReads[None, None] = BatchedReads(
            self._refresh_once, batch_limit=1_000_000, fails_whole_batch=lambda _: True
        )

    def card_at(self, instant: datetime, *, clock: datetime | None = None) -> Card:
        """Return the card in force at a time of the database's clock. Raises: StaleRateCards.

        `instant` is the time of an account. After the clock has stepped back, `instant` is later than the clock. Then
        `clock` must be the time of the clock, and the newest known card that is in force at `instant` is returned.
        """
        if (clock or instant) <= self._valid_until and self.is_fresh(LEASE.total_seconds()):
            return self._newest_card_at(instant)
        raise StaleRateCards(f"the rate card in force at {instant} is not known")

    async def load_card_at(self, instant: datetime, *, clock: datetime | None = None) -> Card:
        """Like `card_at`, but read the cards again if necessary. Raises: StaleRateCards: no card is published."""
        try:
            return self.card_at(instant, clock=clock)
        except StaleRateCards:
            await self.refresh()
            return self._newest_card_at(instant)  # the cards were read after `instant`, so no lease is needed

    def _newest_card_at(self, instant: datetime) -> Card:
        for card in reversed(self._cards):
            if card.effective_at <= instant:
                return card
        if self._cards and self._cards[0].version == 1:
            return self._cards[0]  # it took effect when it was published, so the clock has stepped back since
        raise StaleRateCards(f"no rate card is in force at {instant}")

    async def current_card(self) -> Card:
        """Return the card in force now, for display only: the time of the database's clock is estimated."""
        if not self.is_fresh(LEASE.total_seconds()):
            await self.refresh()
        return await self.load_card_at(self._read_at + timedelta(seconds=time.monotonic() - self._read_monotonic))

    def card_by_version(self, version: int) -> Card:
        """Return a card that was in force within the last 25 hours or takes effect later. Raises: StaleRateCards."""
        for card in reversed(self._cards):
            if card.version == version:
                return card
        raise StaleRateCards(f"rate card {version} is not cached")

    async def find_card(self, version: int | None = None) -> Card | None:
        """Return a past, current or future version, or None if it does not exist.

        `version=None` returns the current card.
        """
        if version is None:
            return await self.current_card()
        try:
            return self.card_by_version(version)
        except StaleRateCards:
            row = await RateCard.get_or_none(version=version) if 0 < version < 2**31 else None
            return await card_from_row(row) if row else None

    def is_fresh(self, seconds: float) -> bool:
        """Return whether the cards were read within the last `seconds`."""
        return time.monotonic() - self._read_monotonic <= seconds

    def find_problem(self) -> str | None:
        """Return the problem if no price can be given."""
        return None if self.is_fresh(LEASE.total_seconds()) else "the rate cards could not be read in time"

    async def refresh(self) -> None:
        """Read the cards that were published since the last call. The read begins after this call.

        Raises: NoConnection: the read took too long; other errors of the database. The cache is then unchanged.
        """
        await self._refreshes.get(None)

    async def _refresh_once(self, _: object) -> dict[None, None]:
        started = time.monotonic()
        try:
            now, identities, cards = await wait_at_most(READ_SECONDS, self._read())
        except TimeoutError:
            raise failures.NoConnection(f"the rate cards could not be read in {READ_SECONDS:g} s") from None
        self._cards, self._identities = cards, identities
        self._valid_until, self._read_at, self._read_monotonic = now + LEASE, now, started
        return {}

    async def _read(self) -> tuple[datetime, dict[int, _Identity], tuple[Card, ...]]:
        """Return the time before the read, and the cards. Only those that have changed are read in full."""
        # The clock is read first, in a separate statement. If it were read with the cards, it would be later than their
        # snapshot.
        now: datetime = (await pools.fetch(SELECT_NOW))[0]["now"]
        rows = await pools.fetch(SELECT_CACHED_VERSIONS, now - RETENTION)
        # Time and hash are compared, because a database restored from a backup may have other cards.
        identities = {row["version"]: (row["effective_at"], bytes(row["request_hash"])) for row in rows}
        cached = {card.version: card for card in self._cards}
        cards = []
        for version, identity in identities.items():
            is_cached = self._identities.get(version) == identity
            cards.append(cached[version] if is_cached else await card_from_row(await RateCard.get(version=version)))
        return now, identities, tuple(cards)

    async def refresh_periodically(self, *, every_seconds: float = 2.0) -> None:
        """Refresh until cancelled. A failure is logged once, until a refresh succeeds again."""
        failing = False
        while True:
            try:
                await self.refresh()
            except Exception:
                if not failing:
                    log.exception("Cannot read the rate cards; retrying every %g s.", RETRY_SECONDS)
                failing = True
            else:
                metrics.mark_sweep("rate card refresh")
                if failing:
                    log.warning("The rate cards can be read again.")
                failing = False
            await asyncio.sleep(min(every_seconds, RETRY_SECONDS) if failing else every_seconds)
