"""The background loop that queries the provider about top-ups that stay PENDING, because a webhook may have been lost.

A top-up is first queried when it is ten minutes old, then every five minutes. So a lost webhook delays credits by at
most 15 minutes. A top-up whose checkout was never opened cannot be queried or paid; it expires after a day. Automatic
top-ups without a checkout are reconciled by reference (`auto_topup.purchasing`).
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from app import metrics
from app.db import failures, pools
from app.errors import RequestError
from app.topups.provider import PaymentProvider
from app.topups.provider_events import payment_query_event
from app.topups.rows import TOP_UPS
from app.topups.rules import Payment, PaymentStatus, TopUpRow
from app.topups.settlement import settle

BATCH_SIZE: Final = 100
CONCURRENCY: Final = 8
POLL_SECONDS: Final = 30.0
GIVE_UP_AFTER: Final = timedelta(days=1)
"""If the provider does not know the payment of a top-up, the top-up expires after this time."""
QUERY_INTERVAL_SECONDS: Final = 270.0
"""The shortest time between two queries of a top-up. With POLL_SECONDS it makes five minutes at most."""

# Top-ups that were never queried come first, then those queried longest ago. `queried_at` is set before the query, so a
# top-up whose query always fails does not delay others. MATERIALIZED: the planner may run a plain subquery again for
# each row of the table, and each run would skip the locked rows and lock more.
_CLAIM: Final = f"""
    WITH due AS MATERIALIZED (
        SELECT account_id, id FROM top_up
        WHERE status = 'PENDING' AND provider = $1 AND live = $2
          AND created_at <= clock_timestamp() - interval '10 minutes'
          AND (queried_at IS NULL OR queried_at <= clock_timestamp() - $4 * interval '1 second')
          AND (provider_ref IS NOT NULL
               OR (NOT automatic AND created_at <= clock_timestamp() - interval '1 day'))
        ORDER BY queried_at NULLS FIRST, created_at LIMIT $3 FOR UPDATE SKIP LOCKED
    )
    UPDATE top_up AS t SET queried_at = clock_timestamp() FROM due
    WHERE t.account_id = due.account_id AND t.id = due.id
    RETURNING {TOP_UPS.columns("t")}
"""  # noqa: S608  our own constant

log = logging.getLogger(__name__)


async def run_sweep(provider: PaymentProvider) -> None:
    """Query top-ups as they become due, until cancelled.

    Several processes may run this: each top-up is claimed by one process.
    """
    while True:
        count = await sweep(provider)
        metrics.mark_sweep("pending top-ups")
        if count < BATCH_SIZE:
            await asyncio.sleep(POLL_SECONDS)


async def sweep(provider: PaymentProvider, *, limit: int = BATCH_SIZE) -> int:
    """Query top-ups that are due, and settle the answers. Returns: the number of top-ups, at most `limit`."""
    records = await pools.fetch(_CLAIM, provider.name, provider.live, limit, QUERY_INTERVAL_SECONDS)
    slots = asyncio.Semaphore(CONCURRENCY)

    async def query(record: Any) -> None:
        try:
            top_up = TOP_UPS.read(record)
        except Exception:
            log.exception("top-up %s of account %s cannot be read", record["id"], record["account_id"])
            return
        async with slots:
            await _query(provider, top_up)

    await asyncio.gather(*map(query, records))
    return len(records)


async def _query(provider: PaymentProvider, top_up: TopUpRow) -> None:
    try:
        if top_up.provider_ref is None:
            payment: Payment | None = _expired_payment(top_up)
        else:
            payment = await provider.retrieve_payment(top_up.provider_ref)
        if payment is None and datetime.now(UTC) - top_up.created_at > GIVE_UP_AFTER:
            log.error("the provider has no payment %s of top-up %s: expired", top_up.provider_ref, top_up.reference)
            payment = _expired_payment(top_up)
        if payment is None:
            log.error("the provider has no payment %s of top-up %s", top_up.provider_ref, top_up.reference)
        elif payment.status is not PaymentStatus.OPEN:
            await settle(payment_query_event(payment))
    except RequestError as error:
        log.warning("top-up %s is queried again later: %s", top_up.reference, error)
    except Exception as error:
        failures.log_failure(log, error, "top-up %s could not be settled by the provider's answer", top_up.reference)


def _expired_payment(top_up: TopUpRow) -> Payment:
    return Payment(
        provider=top_up.provider,
        live=top_up.live,
        provider_ref=top_up.reference,
        provider_ref_is_payment=True,
        reference=top_up.reference,
        status=PaymentStatus.EXPIRED,
        amount_minor=top_up.amount_minor,
        currency=top_up.currency,
    )
