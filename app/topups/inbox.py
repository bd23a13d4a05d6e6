"""The inbox: each provider event is stored once, before anything else is done with it.

An event is stored when it arrives, and marked as handled in the transaction of its effect. If handling fails or is
interrupted, the event is retried (`inbox_retries`) after 30 s, 2 min, 10 min and 1 h. After the fifth failure it is
*parked*: it waits for an operator (`python -m app provider-events`). An event that contradicts our rows is parked at
once.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from asyncpg import Record

from app.audit_log import records
from app.audit_log.records import AuditContext
from app.credits import check_key
from app.db import failures, pools
from app.db.set_writes import SetStatement, SetWrite
from app.db.tables import RowSelect
from app.errors import BillingError, InvalidInput, RequestError
from app.ledger.posting import ExtraRead, Posting
from app.topups.models import InboxEvent
from app.topups.provider import ProviderEvent
from app.topups.provider_events import EventOutcome

MAX_ATTEMPTS: Final = 5
BACK_OFF_SECONDS: Final = [30.0, 120.0, 600.0, 3_600.0]
"""The wait after the first failure, after the second, and so on."""
HANDLING_TIMEOUT_SECONDS: Final = 60.0
"""An event that is not handled within this time counts as interrupted. Any process may then retry it."""
_MAX_ERROR_LENGTH: Final = 2_000

_STORE: Final = """
    INSERT INTO provider_event (event_id, provider, body, received_at, attempts, next_attempt_at)
    VALUES ($1, $2, $3::jsonb, clock_timestamp(), 0, clock_timestamp() + $4 * interval '1 second')
    ON CONFLICT (event_id) DO NOTHING
"""

_SELECT_UNHANDLED: Final = RowSelect(
    ["CASE WHEN n.parked_at IS NOT NULL THEN n.outcome END AS parked_as"],
    "FROM provider_event AS n WHERE n.event_id = $1 AND n.handled_at IS NULL",
)

# A handled or parked event is not changed: if it arrives again and fails then, this failure has no meaning.
_RECORD_FAILURE: Final = """
    UPDATE provider_event SET attempts = attempts + 1, last_error = $2,
        parked_at = CASE WHEN attempts + 1 >= $3 THEN clock_timestamp() END,
        outcome = CASE WHEN attempts + 1 >= $3 THEN $4 END,
        next_attempt_at = clock_timestamp() + ($5::float8[])[attempts + 1] * interval '1 second'
    WHERE event_id = $1 AND handled_at IS NULL AND parked_at IS NULL
    RETURNING parked_at IS NOT NULL AS is_parked
"""

_RETRY_LATER: Final = """
    UPDATE provider_event SET last_error = $2, next_attempt_at = clock_timestamp() + $3 * interval '1 second'
    WHERE event_id = $1 AND handled_at IS NULL AND parked_at IS NULL
"""

_DECIDE: Final = SetStatement(
    "decided provider events",
    """
    UPDATE provider_event AS n SET outcome = v.outcome, last_error = v.last_error, next_attempt_at = NULL,
        handled_at = CASE WHEN v.handled THEN clock_timestamp() END,
        parked_at = CASE WHEN NOT v.handled THEN clock_timestamp() END
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[]) AS v(event_id, outcome, last_error, handled)
    WHERE n.event_id = v.event_id AND n.handled_at IS NULL
    RETURNING 1
    """,
    4,
)

# Only retries count as attempts: they set `outcome` to NULL when they claim the event. If a waiting event arrives
# again, its outcome is still WAITING, and nothing is counted.
_POSTPONE: Final = SetStatement(
    "waiting provider events",
    """
    UPDATE provider_event AS n SET last_error = v.last_error,
        attempts = n.attempts + (n.outcome IS DISTINCT FROM v.outcome)::int,
        outcome = CASE WHEN n.attempts + 1 >= v.most AND n.outcome IS DISTINCT FROM v.outcome THEN v.parked
                       ELSE v.outcome END,
        parked_at = CASE WHEN n.attempts + 1 >= v.most AND n.outcome IS DISTINCT FROM v.outcome
                         THEN clock_timestamp() END,
        next_attempt_at = CASE WHEN n.outcome IS NOT DISTINCT FROM v.outcome THEN n.next_attempt_at
            ELSE clock_timestamp() + (v.seconds::float8[])[n.attempts + 1] * interval '1 second' END
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[])
        AS v(event_id, outcome, last_error, parked, most, seconds)
    WHERE n.event_id = v.event_id AND n.handled_at IS NULL
    RETURNING 1
    """,
    6,
)

# MATERIALIZED, because the subquery must run only once (see `pending_sweep`).
_CLAIM: Final = """
    WITH due AS MATERIALIZED (
        SELECT event_id FROM provider_event
        WHERE handled_at IS NULL AND parked_at IS NULL AND next_attempt_at <= clock_timestamp() AND provider = $1
        ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    UPDATE provider_event SET outcome = NULL, next_attempt_at = clock_timestamp() + $3 * interval '1 second'
    WHERE event_id IN (SELECT event_id FROM due)
    RETURNING event_id, body
"""

_PARKED: Final = """
    SELECT event_id, body FROM provider_event
    WHERE parked_at IS NOT NULL AND handled_at IS NULL AND provider = $1 ORDER BY received_at DESC LIMIT $2
"""

_DISMISS: Final = """
    UPDATE provider_event SET outcome = $2, handled_at = clock_timestamp(), next_attempt_at = NULL
    WHERE event_id = $1 AND handled_at IS NULL RETURNING outcome, last_error
"""

_RELEASE: Final = """
    UPDATE provider_event SET parked_at = NULL, outcome = NULL, attempts = 0,
        next_attempt_at = clock_timestamp() + $3 * interval '1 second'
    WHERE event_id = $1 AND provider = $2 AND handled_at IS NULL
    RETURNING event_id, body
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnhandledEvent:
    """An event that has had no effect yet. If `parked_at` is None, it is retried automatically."""

    event_id: str
    provider: str
    received_at: datetime
    attempts: int
    outcome: str | None
    parked_at: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A verified event as it is stored."""

    event_id: str
    body: dict[str, Any]


async def store_event(event: ProviderEvent) -> None:
    """Store an event. If it is stored already, nothing is changed."""
    body = orjson.dumps(event.body).decode()
    await pools.fetch(_STORE, event.event_id, event.object.provider, body, HANDLING_TIMEOUT_SECONDS)


async def record_failure(event_id: str, error: Exception) -> None:
    """Count a failure and store its reason. The event is retried later; after the fifth failure it is parked.

    A lost database connection is not counted, because the event is not its cause.
    """
    text = _error_text(
        str(error) if isinstance(error, BillingError | RequestError) else f"{type(error).__name__}: {error}"
    )
    if failures.is_database_failure(error):
        await pools.fetch(_RETRY_LATER, event_id, text, BACK_OFF_SECONDS[0])
        return
    outcome = EventOutcome.PARKED_FAILED
    found = await pools.fetch(_RECORD_FAILURE, event_id, text, MAX_ATTEMPTS, outcome, BACK_OFF_SECONDS)
    if found and found[0]["is_parked"]:
        log.error("provider event %s is parked after %s failures: %s", event_id, MAX_ATTEMPTS, text)


def select_unhandled(event: ProviderEvent) -> ExtraRead:
    """Return a read of an event that is not handled. `parked_as` is the outcome with which it is parked, or None."""
    return ExtraRead(_SELECT_UNHANDLED, (event.event_id,))


def mark_handled(posting: Posting, event: ProviderEvent, outcome: EventOutcome) -> None:
    """Mark an event as handled in the transaction of its effect."""
    posting.write.add(_DECIDE, (event.event_id, outcome, None, True))


def park(posting: Posting, event: ProviderEvent, outcome: EventOutcome, reason: str) -> None:
    """Park an event for an operator, with the reason."""
    posting.write.add(_DECIDE, (event.event_id, outcome, _error_text(reason), False))


def postpone(posting: Posting, event: ProviderEvent, reason: str) -> None:
    """Leave an event WAITING for another event that has not arrived.

    The event is retried at the same intervals as after failures, and parked after the last retry. If the provider sends
    the event again meanwhile, nothing changes.
    """
    seconds = "{" + ",".join(map(str, BACK_OFF_SECONDS)) + "}"
    posting.write.add(
        _POSTPONE,
        (
            event.event_id, EventOutcome.WAITING, _error_text(reason), EventOutcome.PARKED_FAILED, MAX_ATTEMPTS,
            seconds,
        ),
    )  # fmt: skip


async def claim_due(provider: str, *, limit: int) -> list[StoredEvent]:
    """Claim up to `limit` events that are due for a retry. No other process can claim them for a minute."""
    return [_stored(record) for record in await pools.fetch(_CLAIM, provider, limit, HANDLING_TIMEOUT_SECONDS)]


async def find_unhandled(*, limit: int) -> Sequence[UnhandledEvent]:
    """Return events that have had no effect yet: first parked events in the order of parking, then others by age."""
    unhandled = InboxEvent.filter(handled_at=None).order_by("parked_at", "received_at").limit(limit)
    return [UnhandledEvent(**values) for values in await unhandled.values(*UnhandledEvent.__slots__)]


async def release(event_id: str, provider: str) -> StoredEvent:
    """Reset an unhandled event, even if it is parked, and claim it to handle it again.

    Raises: InvalidInput: there is no unhandled event with this id.
    """
    check_key(event_id, path="id")
    found = await pools.fetch(_RELEASE, event_id, provider, HANDLING_TIMEOUT_SECONDS)
    if not found:
        raise _not_unhandled(event_id)
    return _stored(found[0])


async def dismiss(event_id: str, *, reason: str, audit: AuditContext) -> None:
    """Mark an unhandled event as handled without an effect, with an audit record.

    Raises: InvalidInput: there is no unhandled event with this id.
    """
    check_key(event_id, path="id")
    write = SetWrite()
    async with pools.transaction() as connection:
        _, dismissed = await connection.execute_query(_DISMISS, [event_id, EventOutcome.DISMISSED])
        if not dismissed:
            raise _not_unhandled(event_id)
        after = {"outcome": EventOutcome.DISMISSED}
        records.append_record(write, audit, subject=f"provider event {event_id}", reason=reason, after=after)
        await write.execute(connection)


async def find_parked_bodies(provider: str, *, limit: int) -> list[StoredEvent]:
    """Return the parked events of a provider, the latest first."""
    return [_stored(record) for record in await pools.fetch(_PARKED, provider, limit)]


def _not_unhandled(event_id: str) -> InvalidInput:
    return InvalidInput.at("id", f"{event_id} is no unhandled event: see `python -m app provider-events list`")


def _stored(record: Record) -> StoredEvent:
    return StoredEvent(record["event_id"], json.loads(record["body"]))


def _error_text(error: str) -> str:
    return error.replace("\x00", "")[:_MAX_ERROR_LENGTH]
