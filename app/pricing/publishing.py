"""Publishes rate cards. After a new version has taken effect, no process prices a charge by an older one.

All times are those of the database's clock. `effective_at` is at least 10 s after the last statement of the
publication. A process that reads the rate cards and finds no newer version relies on this (see `rate_card_cache`). Only
the default card, which is published if there is none, takes effect at once.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from app.audit_log import records
from app.audit_log.records import AuditContext
from app.credits import check_key
from app.db import failures, pools
from app.db.set_writes import SetWrite
from app.errors import IdempotencyConflict, InvalidInput
from app.instants import check_instant
from app.pricing.models import RateCard
from app.pricing.quotes import Card
from app.pricing.rate_card_document import parse_rate_card
from app.pricing.rate_card_json import canonical_json, default_rate_card, document_hash

LEAD_TIME: Final = timedelta(seconds=10)
COMMIT_ALLOWANCE: Final = timedelta(seconds=1)
"""The time that a commit may take to become visible. It is added to the lead time."""
MAX_AHEAD: Final = timedelta(days=366)
MAX_REASON_LENGTH: Final = 1_000
MAX_ATTEMPTS: Final = 50

SELECT_LATEST: Final = """
SELECT version, effective_at, clock_timestamp() AS now FROM rate_card ORDER BY version DESC LIMIT 1
"""
# If a card with the same version or key is not yet committed, the insert waits for it and then writes nothing. The next
# attempt finds that card.
INSERT_RATE_CARD: Final = """
INSERT INTO rate_card
    (version, effective_at, document, request_hash, published_at, published_by, reason, idempotency_key)
VALUES ($1, coalesce($2::timestamptz, clock_timestamp()), $3::jsonb, $4, clock_timestamp(), $5, $6, $7)
ON CONFLICT DO NOTHING
RETURNING version
"""
SELECT_NOW: Final = "SELECT clock_timestamp() AS now"


@dataclass(frozen=True, slots=True)
class Publication:
    """A published card. `replayed` is True if an earlier call with the same request published it."""

    card: Card
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    document: object
    effective_at: datetime | None
    actor: str
    reason: str | None
    idempotency_key: str | None

    def request_hash(self) -> bytes:
        """Return the hash of the requested content. It does not include the caller and the time of the request."""
        effective_at = self.effective_at and self.effective_at.astimezone(UTC).isoformat(timespec="microseconds")
        return document_hash({"document": self.document, "effective_at": effective_at, "reason": self.reason})

    def row(self, version: int, effective_at: datetime | None) -> list[object]:
        """Return the parameters of INSERT_RATE_CARD."""
        text = canonical_json(self.document).decode()
        return [version, effective_at, text, self.request_hash(), self.actor, self.reason, self.idempotency_key]


class _LeadTimeTooShort(Exception):
    """The card would take effect too early. Raising it rolls the attempt back."""


async def publish_default_card() -> bool:
    """Publish the default card as version 1, in force at once, if no card is published yet.

    Returns: whether it was published.
    """
    document = default_rate_card()
    parse_rate_card(document, version=1, effective_at=datetime.now(UTC))
    request = _Request(document=document, effective_at=None, actor="default card", reason=None, idempotency_key=None)
    return bool(await pools.fetch(INSERT_RATE_CARD, *request.row(1, None)))


async def publish_rate_card(
    document: object,
    *,
    effective_at: datetime | None = None,
    actor: str,
    reason: str | None = None,
    idempotency_key: str,
    audit: AuditContext | None = None,
) -> Publication:
    """Publish `document` as the next version, in force from `effective_at`.

    If `effective_at` is None, the card takes effect in 11 s, or immediately after the last published card if that is
    later. A repeated request with the same key returns the first result.

    Raises: InvalidRateCard: lists the problems of the document; InvalidInput: the time, reason or key is invalid;
    IdempotencyConflict.
    """
    check_key(idempotency_key, path="idempotencyKey")
    if reason is not None and not (1 <= len(reason) <= MAX_REASON_LENGTH and reason.isprintable()):
        raise InvalidInput.at("reason", f"must have 1 to {MAX_REASON_LENGTH:,} printable characters")
    if effective_at is not None:
        effective_at = check_instant(effective_at, path="effectiveAt")
    draft = await asyncio.to_thread(parse_rate_card, document, version=0, effective_at=datetime.now(UTC))
    request = _Request(
        document=document, effective_at=effective_at, actor=actor, reason=reason, idempotency_key=idempotency_key
    )
    for _ in range(MAX_ATTEMPTS):
        published = await failures.run_with_retries(lambda: _try_to_publish(request, draft, audit))
        if published is not None:
            return published
    raise RuntimeError(f"another rate card was published before this one {MAX_ATTEMPTS} times")


async def _try_to_publish(request: _Request, draft: Card, audit: AuditContext | None) -> Publication | None:
    """Try once to publish. Returns None if another card was published first, or if waiting for it took too long.

    If there was no card, the default card is published, and None is returned.
    """
    # This is read before the transaction, because a read inside it would need a second connection.
    earlier = await RateCard.get_or_none(idempotency_key=request.idempotency_key)
    if earlier is not None:
        if bytes(earlier.request_hash) != request.request_hash():
            raise IdempotencyConflict(key=str(request.idempotency_key))
        return Publication(await card_from_row(earlier), replayed=True)
    try:
        async with pools.transaction() as connection:
            _, latest = await connection.execute_query(SELECT_LATEST)
            if latest:
                version = latest[0]["version"] + 1
                effective_at = _check_effective_at(
                    request.effective_at, now=latest[0]["now"], after=latest[0]["effective_at"]
                )
                _, written = await connection.execute_query(INSERT_RATE_CARD, request.row(version, effective_at))
                if not written:
                    return None
                write = SetWrite()
                records.append_record(
                    write,
                    audit,
                    subject=f"rate card {version}",
                    reason=request.reason,
                    before={"version": latest[0]["version"]},
                    after={"version": version, "effectiveAt": effective_at.isoformat()},
                )
                await write.execute(connection)
                # The insert may have waited for another publication, so the lead time is checked again.
                _, clock = await connection.execute_query(SELECT_NOW)
                if effective_at < clock[0]["now"] + LEAD_TIME:
                    raise _LeadTimeTooShort
                return Publication(replace(draft, version=version, effective_at=effective_at), replayed=False)
    except _LeadTimeTooShort:
        return None
    await publish_default_card()
    return None


async def card_from_row(row: RateCard) -> Card:
    """Return a stored card. It is validated like a new one, so that an invalid card gives no prices."""
    return await asyncio.to_thread(
        parse_rate_card, row.document, version=row.version, effective_at=row.effective_at.astimezone(UTC)
    )


def _check_effective_at(effective_at: datetime | None, *, now: datetime, after: datetime) -> datetime:
    """Return when the next card takes effect. Raises: InvalidInput."""
    if effective_at is None:
        return max(now + LEAD_TIME + COMMIT_ALLOWANCE, after + timedelta(microseconds=1))
    if effective_at < now + LEAD_TIME:
        raise InvalidInput.at(
            "effectiveAt", f"must be at least {LEAD_TIME.seconds} s ahead; it is now {now.isoformat()}"
        )
    if effective_at <= after:
        raise InvalidInput.at("effectiveAt", f"must be after that of the card published last, {after.isoformat()}")
    if effective_at > now + MAX_AHEAD:
        raise InvalidInput.at("effectiveAt", f"must be at most {MAX_AHEAD.days} days ahead")
    return effective_at.astimezone(UTC)
