"""The background loop that retries provider events. A failure of one event does not affect the others."""

import asyncio
import logging
from typing import Final

from app import metrics
from app.db import failures
from app.topups import inbox, settlement
from app.topups.inbox import StoredEvent
from app.topups.provider import InvalidProviderEvent, PaymentProvider
from app.topups.provider_events import EventOutcome, parse_stored_event

BATCH_SIZE: Final = 50
POLL_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


async def run_retries(provider: PaymentProvider) -> None:
    """Retry events as they become due, until cancelled.

    Several processes may run this: each event is claimed by one process.
    """
    while True:
        count = await retry_due(provider)
        metrics.mark_sweep("provider event retries")
        if count < BATCH_SIZE:
            await asyncio.sleep(POLL_SECONDS)


async def retry_due(provider: PaymentProvider, *, limit: int = BATCH_SIZE) -> int:
    """Retry events that are due. Returns: the number of events, at most `limit`."""
    due = await inbox.claim_due(provider.name, limit=limit)
    for stored in due:
        try:
            await handle_stored_event(provider, stored)
        except Exception as error:
            if failures.is_connection_failure(error):
                raise
            log.warning("provider event %s failed again: %s", stored.event_id, error)
    return len(due)


async def replay(provider: PaymentProvider, event_id: str) -> EventOutcome:
    """Handle an event now, even if it is parked.

    Raises: InvalidInput: there is no unhandled event with this id. Exceptions of the handling are raised as well.
    """
    return await handle_stored_event(provider, await inbox.release(event_id, provider.name))


async def handle_stored_event(provider: PaymentProvider, stored: StoredEvent) -> EventOutcome:
    """Settle a stored event. An exception is raised again after the failure was counted."""
    try:
        event = parse_stored_event(provider, stored.body)
        if event is None:
            raise InvalidProviderEvent("Events of this type are ignored.")
    except Exception as error:
        await inbox.record_failure(stored.event_id, error)
        raise
    return await settlement.settle(event)
