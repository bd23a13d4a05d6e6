"""The queue of deliveries: claims due deliveries, records attempts, lists and repeats deliveries.

After each failed attempt a delivery waits: 5 s, 1 min, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 18 h and 24 h, three days
in all. After the next failure it is given up. A failing endpoint receives only one delivery at a time, with pauses of
up to five minutes. It is disabled after three days of failures, or when it answers 410.
"""

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from app.audit_log import records
from app.audit_log.records import AuditContext
from app.db import pools
from app.db.set_writes import SetWrite
from app.errors import InvalidInput
from app.ledger.account_events import PAYLOAD_VERSION
from app.outgoing_webhooks.models import WebhookDelivery
from app.outgoing_webhooks.sender import Attempt

BACK_OFF_SECONDS: Final = (5, 60, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 64_800, 86_400)
JITTER: Final = 0.1
"""Waits are longer by up to this share, so that deliveries that failed together are not repeated together."""
CLAIM_SECONDS: Final = 60.0
"""If a claimed delivery has no result after this time, its process has probably ended. It can be claimed again."""
MAX_ENDPOINT_WAIT_SECONDS: Final = 300
DISABLED_AFTER: Final = timedelta(days=3)
RETENTION: Final = timedelta(days=30)
PRUNE_LIMIT: Final = 1_000
ENDPOINT_DISABLED: Final = "webhook_endpoint.disabled"
"""The type of the event that the other endpoints receive when an endpoint is disabled."""

_DUE_ENDPOINTS: Final = """
    SELECT e.id, e.url, e.in_order, e.secret, e.failing_since IS NOT NULL AS is_failing,
        CASE WHEN e.previous_secret_until > clock_timestamp() THEN e.previous_secret END AS previous_secret
    FROM webhook_endpoint AS e
    WHERE e.disabled_at IS NULL AND (e.retry_at IS NULL OR e.retry_at <= clock_timestamp())
      AND EXISTS (
        SELECT FROM webhook_delivery AS d WHERE d.endpoint_id = e.id AND d.delivered_at IS NULL
          AND d.failed_at IS NULL AND d.next_attempt_at <= clock_timestamp())
"""

# MATERIALIZED, because the subquery must run only once. For an endpoint with in_order ($4) only the oldest pending
# delivery of an account is due.
_CLAIM: Final = """
    WITH due AS MATERIALIZED (
        SELECT d.id FROM webhook_delivery AS d
        WHERE d.endpoint_id = $1 AND d.delivered_at IS NULL AND d.failed_at IS NULL
          AND d.next_attempt_at <= clock_timestamp()
          AND (NOT $4::bool OR NOT EXISTS (
            SELECT FROM webhook_delivery AS earlier
            WHERE earlier.endpoint_id = d.endpoint_id AND earlier.account_id = d.account_id AND earlier.id < d.id
              AND earlier.delivered_at IS NULL AND earlier.failed_at IS NULL))
        ORDER BY d.next_attempt_at, d.id LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    UPDATE webhook_delivery AS d SET attempts = d.attempts + 1,
        next_attempt_at = clock_timestamp() + $3 * interval '1 second'
    FROM due WHERE d.id = due.id
    RETURNING d.id, d.event_id, d.payload, d.attempts
"""

_RECORD: Final = """
    UPDATE webhook_delivery AS d SET last_status = v.status, last_error = v.error,
        delivered_at = CASE WHEN v.error IS NULL THEN clock_timestamp() END,
        failed_at = CASE WHEN v.error IS NOT NULL AND v.wait IS NULL THEN clock_timestamp() END,
        next_attempt_at = clock_timestamp() + coalesce(v.wait, 0) * interval '1 second'
    FROM unnest($1::bigint[], $2::int[], $3::text[], $4::float8[]) AS v(id, status, error, wait)
    WHERE d.id = v.id AND d.delivered_at IS NULL
"""

_SUCCEEDED: Final = """
    UPDATE webhook_endpoint SET failing_since = NULL, failures = 0, retry_at = NULL
    WHERE id = $1 AND failing_since IS NOT NULL
"""

_FAILED: Final = """
    UPDATE webhook_endpoint SET failures = failures + 1, failing_since = coalesce(failing_since, clock_timestamp()),
        retry_at = clock_timestamp() + least(power(2, least(failures, 20)), $2) * interval '1 second'
    WHERE id = $1 AND disabled_at IS NULL
    RETURNING url, clock_timestamp() - failing_since >= $3 AS is_hopeless
"""

_DISABLE: Final = """
    UPDATE webhook_endpoint SET disabled_at = clock_timestamp(), disabled_reason = $2
    WHERE id = $1 AND disabled_at IS NULL RETURNING id
"""

_ANNOUNCE: Final = """
    INSERT INTO webhook_delivery (account_id, endpoint_id, event_id, event_type, payload, created_at, next_attempt_at)
    SELECT 0, id, $1, $2, $3, clock_timestamp(), clock_timestamp() FROM webhook_endpoint WHERE disabled_at IS NULL
"""

_REDELIVER: Final = """
    UPDATE webhook_delivery SET delivered_at = NULL, failed_at = NULL, attempts = 0,
        next_attempt_at = clock_timestamp()
    WHERE id = $1 AND (delivered_at IS NOT NULL OR failed_at IS NOT NULL OR next_attempt_at > clock_timestamp())
    RETURNING endpoint_id
"""

_PRUNE: Final = """
    DELETE FROM webhook_delivery WHERE id IN (
        SELECT id FROM webhook_delivery
        WHERE (delivered_at IS NOT NULL OR failed_at IS NOT NULL) AND created_at < clock_timestamp() - $1::interval
        ORDER BY id LIMIT $2)
    RETURNING id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueEndpoint:
    """An endpoint that has deliveries to send now."""

    id: str
    url: str
    in_order: bool
    secret: bytes
    previous_secret: bytes | None
    is_failing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDelivery:
    """A delivery to send. `attempts` includes this one."""

    id: int
    event_id: str
    payload: str
    attempts: int


async def find_due_endpoints() -> list[DueEndpoint]:
    """Return the enabled endpoints with deliveries that are due, except failing ones that must wait."""
    return [DueEndpoint(**dict(record)) for record in await pools.fetch(_DUE_ENDPOINTS)]


async def claim(endpoint: DueEndpoint, *, limit: int) -> list[ClaimedDelivery]:
    """Claim deliveries that are due, oldest first. No other process sends them for a minute."""
    records = await pools.fetch(_CLAIM, endpoint.id, limit, CLAIM_SECONDS, endpoint.in_order)
    return sorted((ClaimedDelivery(**dict(record)) for record in records), key=lambda one: one.id)


async def record_attempts(endpoint_id: str, attempts: Sequence[tuple[ClaimedDelivery, Attempt]]) -> bool:
    """Record the results of attempts, and disable their endpoint if it must be. Returns: whether all were delivered."""
    waits = [None if attempt.is_delivered else wait_seconds(delivery, attempt) for delivery, attempt in attempts]
    await pools.fetch(
        _RECORD,
        [delivery.id for delivery, _ in attempts],
        [attempt.status for _, attempt in attempts],
        [attempt.error for _, attempt in attempts],
        waits,
    )
    failed = [attempt for _, attempt in attempts if not attempt.is_delivered]
    if not failed:
        await pools.fetch(_SUCCEEDED, endpoint_id)
        return True
    found = await pools.fetch(_FAILED, endpoint_id, MAX_ENDPOINT_WAIT_SECONDS, DISABLED_AFTER)
    if any(attempt.is_gone for attempt in failed):
        await _disable(endpoint_id, found, "The receiver answered 410 Gone.")
    elif found and found[0]["is_hopeless"]:
        await _disable(endpoint_id, found, f"All attempts failed for {DISABLED_AFTER.days} days: {failed[-1].error}")
    return False


def wait_seconds(delivery: ClaimedDelivery, attempt: Attempt) -> float | None:
    """Return how long a failed delivery waits for its next attempt, or None if there is none."""
    if delivery.attempts > len(BACK_OFF_SECONDS):
        return None
    wait = max(BACK_OFF_SECONDS[delivery.attempts - 1], attempt.retry_after_seconds or 0)
    return wait * (1 + random.uniform(0, JITTER))  # noqa: S311  not used for security


async def _disable(endpoint_id: str, found: Sequence[Any], reason: str) -> None:
    """Disable an endpoint, and notify the other endpoints. If several processes call this, only one of them does so."""
    if not found or not await pools.fetch(_DISABLE, endpoint_id, reason):
        return
    data = {"endpointId": endpoint_id, "url": found[0]["url"], "reason": reason}
    payload = {
        "type": ENDPOINT_DISABLED,
        "version": PAYLOAD_VERSION,
        "timestamp": datetime.now(UTC),
        "data": data,
    }
    await pools.fetch(_ANNOUNCE, f"evt_{secrets.token_hex(16)}", ENDPOINT_DISABLED, orjson.dumps(payload).decode())


async def redeliver(delivery_id: int, *, audit: AuditContext | None = None) -> WebhookDelivery:
    """Make a delivery due now, whether it is pending, was delivered, or was given up.

    Raises: InvalidInput: there is no such delivery.
    """
    async with pools.transaction() as connection:
        _, released = await connection.execute_query(_REDELIVER, [delivery_id])
        if released:
            write = SetWrite()
            subject = f"webhook endpoint {released[0]['endpoint_id']}"
            records.append_record(write, audit, subject=subject, after={"redelivered": delivery_id})
            await write.execute(connection)
    found = await WebhookDelivery.get_or_none(id=delivery_id)
    if found is None:
        raise InvalidInput.at("deliveryId", "names no delivery: `webhookEndpoints { deliveries }` lists them")
    return found


async def list_deliveries(
    endpoint_id: str, *, before_id: int, limit: int, only_failed: bool = False
) -> list[WebhookDelivery]:
    """Return deliveries of an endpoint with an id below `before_id`, newest first."""
    query = WebhookDelivery.filter(endpoint_id=endpoint_id, id__lt=before_id)
    if only_failed:
        query = query.filter(failed_at__isnull=False)
    return await query.order_by("-id").limit(limit)


async def prune() -> int:
    """Delete deliveries that ended more than 30 days ago, at most 1,000. Returns: their number."""
    return len(await pools.fetch(_PRUNE, RETENTION, PRUNE_LIMIT))
