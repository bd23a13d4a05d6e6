"""The inbox: what providers told, each event once, kept before anything is done about it.

A notice is recorded when it arrives and marked handled in the transaction of its effect, so that one whose handling
failed, or was cut off, is still there to be tried again.
"""

from typing import Final

import orjson

from app import database
from app.ledger.posting import Posting, Read
from app.sets import Part
from app.topups.provider import ProviderEvent

_RECEIVE: Final = """
    INSERT INTO provider_notice (event_id, provider, body, received_at, attempts)
    VALUES ($1, $2, $3::jsonb, clock_timestamp(), 0) ON CONFLICT (event_id) DO NOTHING
"""

_FAILED: Final = """
    UPDATE provider_notice SET attempts = attempts + 1, last_error = $2 WHERE event_id = $1 AND handled_at IS NULL
"""

_DECIDED: Final = Part(
    "decided notices",
    """
    UPDATE provider_notice AS n SET outcome = v.outcome, last_error = v.last_error,
        handled_at = CASE WHEN v.handled THEN clock_timestamp() END
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[]) AS v(event_id, outcome, last_error, handled)
    WHERE n.event_id = v.event_id AND n.handled_at IS NULL
    RETURNING 1
    """,
    4,
)

_WAITS: Final = Part(
    "waiting notices",
    """
    UPDATE provider_notice AS n SET outcome = v.outcome, last_error = v.last_error,
        next_attempt_at = clock_timestamp() + interval '1 minute'
    FROM unnest($1::text[], $2::text[], $3::text[]) AS v(event_id, outcome, last_error)
    WHERE n.event_id = v.event_id AND n.handled_at IS NULL
    RETURNING 1
    """,
    3,
)

_LONGEST_ERROR: Final = 2_000


async def receive(event: ProviderEvent) -> None:
    """Keep a notice; one that is there already stays as it is."""
    body = orjson.dumps(event.body).decode()
    await database.fetch(_RECEIVE, event.event_id, event.told.provider, body)


async def failed(event: ProviderEvent, fault: Exception) -> None:
    """Count a failure, and say why: the notice waits to be tried again."""
    text = f"{type(fault).__name__}: {fault}".replace("\x00", "")[:_LONGEST_ERROR]
    await database.fetch(_FAILED, event.event_id, text)


def read(event: ProviderEvent) -> Read:
    """A read of a notice that gives a row while it waits to be handled."""
    return Read(
        "SELECT ROW(n.event_id) FROM provider_notice AS n WHERE n.event_id = $1 AND n.handled_at IS NULL",
        (event.event_id,),
    )


def handled(posting: Posting, event: ProviderEvent, outcome: str) -> None:
    """Mark a notice as handled, in the transaction of its effect."""
    posting.write.add(_DECIDED, (event.event_id, outcome, None, True))


def parked(posting: Posting, event: ProviderEvent, outcome: str, reason: str) -> None:
    """Set a notice aside for a person: it stays unhandled, with the reason."""
    posting.write.add(_DECIDED, (event.event_id, outcome, reason[:_LONGEST_ERROR], False))


def waits(posting: Posting, event: ProviderEvent, outcome: str, reason: str) -> None:
    """Leave a notice to be tried again in a minute: nothing has failed, what it is about is not there yet."""
    posting.write.add(_WAITS, (event.event_id, outcome, reason[:_LONGEST_ERROR]))
