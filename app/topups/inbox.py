"""The inbox: what providers told, each event once, kept before anything is done about it.

A notice is recorded when it arrives and marked handled in the transaction of its effect, so that one whose handling
failed, or was cut off, is still there to be tried again: `retries` does that, after 30 s, 2 min, 10 min and 1 h. After
the fifth failure it is *parked* and waits for a person, as one does at once that disagrees with our rows.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from app.db import failures, pools
from app.db.set_writes import SetStatement
from app.errors import InvalidInput
from app.ledger.posting import ExtraRead, Posting
from app.topups.provider import ProviderEvent

MAX_ATTEMPTS: Final = 5
BACK_OFF_SECONDS: Final = [30.0, 120.0, 600.0, 3_600.0]
"""After the first failure, the second, and so on."""
HANDLING_TIMEOUT_SECONDS: Final = 60.0
"""A notice that nobody has finished by then was cut off, and is taken up by whoever looks next."""
PARKED_FAILED: Final = "PARKED_FAILED"

_RECEIVE: Final = """
    INSERT INTO provider_event (event_id, provider, body, received_at, attempts, next_attempt_at)
    VALUES ($1, $2, $3::jsonb, clock_timestamp(), 0, clock_timestamp() + $4 * interval '1 second')
    ON CONFLICT (event_id) DO NOTHING
"""

# One that is handled or parked is left as it is: a delivery that failed late says nothing new.
_FAILED: Final = """
    UPDATE provider_event SET attempts = attempts + 1, last_error = $2,
        parked_at = CASE WHEN attempts + 1 >= $3 THEN clock_timestamp() END,
        outcome = CASE WHEN attempts + 1 >= $3 THEN $4 END,
        next_attempt_at = clock_timestamp() + ($5::float8[])[attempts + 1] * interval '1 second'
    WHERE event_id = $1 AND handled_at IS NULL AND parked_at IS NULL
    RETURNING parked_at IS NOT NULL
"""

_POSTPONED: Final = """
    UPDATE provider_event SET last_error = $2, next_attempt_at = clock_timestamp() + $3 * interval '1 second'
    WHERE event_id = $1 AND handled_at IS NULL AND parked_at IS NULL
"""

_DECIDED: Final = SetStatement(
    "decided notices",
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

# One that is told of again while it waits is not tried by that: its outcome stands until it is claimed.
_WAITS: Final = SetStatement(
    "waiting notices",
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

# Materialized, that is read once (see sweep.py).
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

_UNHANDLED: Final = """
    SELECT event_id, provider, received_at, attempts, outcome, parked_at, last_error FROM provider_event
    WHERE handled_at IS NULL ORDER BY parked_at IS NULL, received_at LIMIT $1
"""

_RELEASE: Final = """
    UPDATE provider_event SET parked_at = NULL, outcome = NULL, attempts = 0,
        next_attempt_at = clock_timestamp() + $3 * interval '1 second'
    WHERE event_id = $1 AND provider = $2 AND handled_at IS NULL
    RETURNING event_id, body
"""

_LONGEST_ERROR: Final = 2_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnhandledEvent:
    """A notice of which nothing has come yet. `parked_at` None: it is tried again by itself."""

    event_id: str
    provider: str
    received_at: datetime
    attempts: int
    outcome: str | None
    parked_at: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A notice as it was verified when it came."""

    event_id: str
    body: dict[str, Any]


async def store_event(event: ProviderEvent) -> None:
    """Keep a notice; one that is there already stays as it is."""
    body = orjson.dumps(event.body).decode()
    await pools.fetch(_RECEIVE, event.event_id, event.object.provider, body, HANDLING_TIMEOUT_SECONDS)


async def record_failure(event_id: str, fault: Exception) -> None:
    """Count a failure, and say why: the notice waits to be tried again, or for a person after the fifth.

    That the database went away says nothing about the notice, and is not counted.
    """
    text = _text(f"{type(fault).__name__}: {fault}")
    if failures.is_connection_failure(fault):
        await pools.fetch(_POSTPONED, event_id, text, BACK_OFF_SECONDS[0])
        return
    found = await pools.fetch(_FAILED, event_id, text, MAX_ATTEMPTS, PARKED_FAILED, BACK_OFF_SECONDS)
    if found and found[0][0]:
        log.error("payment notice %s is parked after %s failures: %s", event_id, MAX_ATTEMPTS, text)


def select_unhandled(event: ProviderEvent) -> ExtraRead:
    """A read of a notice while it waits to be handled: its id, and what it was parked as (None: it is not parked)."""
    return ExtraRead(
        "SELECT ROW(n.event_id, CASE WHEN n.parked_at IS NOT NULL THEN n.outcome END)"
        " FROM provider_event AS n WHERE n.event_id = $1 AND n.handled_at IS NULL",
        (event.event_id,),
    )


def mark_handled(posting: Posting, event: ProviderEvent, outcome: str) -> None:
    """Mark a notice as handled, in the transaction of its effect."""
    posting.write.add(_DECIDED, (event.event_id, outcome, None, True))


def park(posting: Posting, event: ProviderEvent, outcome: str, reason: str) -> None:
    """Set a notice aside for a person: it stays unhandled, with the reason."""
    posting.write.add(_DECIDED, (event.event_id, outcome, _text(reason), False))


def postpone(posting: Posting, event: ProviderEvent, outcome: str, reason: str) -> None:
    """Leave a notice to be tried again: nothing has failed, but what it is about is not there yet.

    It waits as long as a failure would, and is parked where what it waits for has not come by then; that it is told of
    again meanwhile makes this no shorter.
    """
    seconds = "{" + ",".join(map(str, BACK_OFF_SECONDS)) + "}"
    posting.write.add(_WAITS, (event.event_id, outcome, _text(reason), PARKED_FAILED, MAX_ATTEMPTS, seconds))


async def claim_due(provider: str, *, limit: int) -> list[StoredEvent]:
    """Take up to `limit` notices of a provider that are due to be tried again; nobody else gets them for a minute."""
    return [_kept(record) for record in await pools.fetch(_CLAIM, provider, limit, HANDLING_TIMEOUT_SECONDS)]


async def find_unhandled(*, limit: int) -> Sequence[UnhandledEvent]:
    """Notices of which nothing has come yet: the parked ones first, the oldest first."""
    return [UnhandledEvent(**dict(record)) for record in await pools.fetch(_UNHANDLED, limit)]


async def release(event_id: str, provider: str) -> StoredEvent:
    """Have a notice tried as if it had just come. Raises: InvalidInput: nothing of this id waits."""
    found = await pools.fetch(_RELEASE, event_id, provider, HANDLING_TIMEOUT_SECONDS)
    if not found:
        raise InvalidInput.at(
            "id", f"{event_id} is no unhandled notice of {provider}: see `python -m app provider-events list`"
        )
    return _kept(found[0])


def _kept(record: Any) -> StoredEvent:
    return StoredEvent(record["event_id"], json.loads(record["body"]))


def _text(error: str) -> str:
    return error.replace("\x00", "")[:_LONGEST_ERROR]
