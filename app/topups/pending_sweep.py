"""Asking the provider about top-ups that have been pending for long: what a lost notice would have told.

Rows are asked about from ten minutes of age on and every five minutes, so that a lost notice costs at most fifteen.
One whose page was never learnt has nothing to ask by, and cannot be paid: after a day it is over. Refills (automatic
top-ups) of that kind are not looked at here: their own reconciliation asks for them by reference.
"""

import asyncio
import logging
from typing import Final

from app.db import pools
from app.errors import RequestError
from app.topups import rows
from app.topups.provider import PaymentProvider
from app.topups.provider_events import payment_query_event
from app.topups.rules import Payment, PaymentStatus, TopUpRow
from app.topups.settlement import settle

BATCH_SIZE: Final = 100
CONCURRENCY: Final = 8
POLL_SECONDS: Final = 30.0
QUERY_INTERVAL_SECONDS: Final = 270.0
"""With LOOK_SECONDS: five minutes at most between two answers about a row."""

# Those never asked about first, then the longest not asked about. Asked is asked, whatever the answer: a row whose
# question fails each time does not keep the others waiting. Materialized, that is read once: as a plain subquery the
# planner may read it anew for each row of the table, and each time it skips what it has locked and takes more.
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
    RETURNING {rows.COLUMNS}
"""  # noqa: S608  our own constant

log = logging.getLogger(__name__)


async def run_sweep(provider: PaymentProvider) -> None:
    """Ask about whatever is due; other processes do the same, and each row is asked about by one."""
    while True:
        if await sweep(provider) < BATCH_SIZE:
            await asyncio.sleep(POLL_SECONDS)


async def sweep(provider: PaymentProvider, *, limit: int = BATCH_SIZE) -> int:
    """Ask about top-ups that are due, and settle the answers. Returns: how many were asked about, `limit` at most."""
    records = await pools.fetch(_CLAIM, provider.name, provider.live, limit, QUERY_INTERVAL_SECONDS)
    due = [rows.from_row(record) for record in records]
    places = asyncio.Semaphore(CONCURRENCY)

    async def in_turn(top_up: TopUpRow) -> None:
        async with places:
            await _ask(provider, top_up)

    await asyncio.gather(*map(in_turn, due))
    return len(due)


async def _ask(provider: PaymentProvider, top_up: TopUpRow) -> None:
    """Ask about one, and settle the answer; a fault is one row's own, and is logged."""
    try:
        payment = (
            await provider.retrieve_payment(top_up.provider_ref)
            if top_up.provider_ref is not None
            else _never_begun(top_up)
        )
        if payment is None:
            log.error("the provider knows nothing of top-up %s (%s)", top_up.reference, top_up.provider_ref)
        elif payment.status is not PaymentStatus.OPEN:
            await settle(payment_query_event(payment))
    except RequestError as refusal:
        log.warning("top-up %s is asked about again later: %s", top_up.reference, refusal)
    except Exception:
        log.exception("top-up %s could not be settled by what the provider says", top_up.reference)


def _never_begun(top_up: TopUpRow) -> Payment:
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
