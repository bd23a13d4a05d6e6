"""`GET /metrics`: the metrics of all workers, and figures from the database."""

import hmac
import logging
from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from app import metrics
from app.bounded_waits import wait_at_most
from app.db import pools

DATABASE_SECONDS: Final = 2.0
"""If the database does not answer within this time, its figures are left out, and `credits_database_up` is 0."""

# Each count reads a partial index of unfinished rows.
_FIGURES: Final = """
    SELECT
        (SELECT count(*) FROM provider_event
            WHERE handled_at IS NULL AND parked_at IS NULL AND next_attempt_at IS NOT NULL) AS events_waiting,
        (SELECT count(*) FROM provider_event WHERE parked_at IS NOT NULL AND handled_at IS NULL) AS events_parked,
        (SELECT count(*) FROM webhook_delivery WHERE delivered_at IS NULL AND failed_at IS NULL) AS deliveries_pending,
        (SELECT count(*) FROM webhook_endpoint
            WHERE disabled_at IS NULL AND failing_since IS NOT NULL) AS endpoints_failing,
        (SELECT count(*) FROM webhook_endpoint WHERE disabled_at IS NOT NULL) AS endpoints_disabled,
        v.finished_at AS verified_at, v.is_intact
    FROM (SELECT 1) AS one
    LEFT JOIN LATERAL (SELECT finished_at, is_intact FROM verification ORDER BY finished_at DESC LIMIT 1) AS v ON true
"""

log = logging.getLogger(__name__)


class MetricsEndpoint:
    """Responds with the metrics to callers that send the token."""

    def __init__(self, token: str | None) -> None:
        """`token` is the bearer token that callers must send. None: everybody may read the metrics."""
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def respond(self, request: Request) -> Response:
        sent = request.headers.get("authorization", "").encode("latin-1")
        if self._expected is not None and not hmac.compare_digest(sent, self._expected):
            return PlainTextResponse(
                "Send the header `Authorization: Bearer <METRICS_TOKEN>`.\n",
                status_code=401,
                headers={"www-authenticate": "Bearer"},
            )
        text = generate_latest(metrics.collected()) + generate_latest(await _database_figures())
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST, "cache-control": "no-store"})


async def _database_figures() -> CollectorRegistry:
    registry = CollectorRegistry()
    up = Gauge("credits_database_up", "1 if the database answers.", registry=registry)
    try:
        [found] = await wait_at_most(DATABASE_SECONDS, pools.fetch(_FIGURES))
    except Exception as error:
        log.warning("the metrics of the database could not be read: %r", error)
        return registry
    up.set(1)
    _add_figures(registry, found)
    return registry


def _add_figures(registry: CollectorRegistry, found: Any) -> None:
    def gauge(name: str, text: str, **values: float) -> None:
        """Add a gauge: one value, or one for each state."""
        metric = Gauge(name, text, ["state"] if "value" not in values else [], registry=registry)
        for state, value in values.items():
            (metric if state == "value" else metric.labels(state)).set(value)

    gauge(
        "credits_provider_events",
        "Provider events that are not handled, by state.",
        waiting=found["events_waiting"],
        parked=found["events_parked"],
    )
    gauge(
        "credits_webhook_endpoints",
        "Webhook endpoints with a problem, by state.",
        failing=found["endpoints_failing"],
        disabled=found["endpoints_disabled"],
    )
    gauge(
        "credits_webhook_deliveries_pending",
        "Deliveries of webhooks that are neither delivered nor given up.",
        value=found["deliveries_pending"],
    )
    if found["verified_at"] is not None:
        gauge(
            "credits_verification_timestamp_seconds",
            "When the whole ledger was last verified.",
            value=found["verified_at"].timestamp(),
        )
        gauge(
            "credits_verification_intact",
            "1 if the last verification found the ledger intact, else 0.",
            value=found["is_intact"],
        )
