"""Trying notices again that failed, were cut off or wait for something, one by one: a bad one stops no other."""

import asyncio
import logging
from typing import Final

from app.db import failures
from app.topups import inbox, provider_events, settlement
from app.topups.inbox import StoredEvent
from app.topups.provider import InvalidProviderEvent, PaymentProvider
from app.topups.settlement import EventOutcome

BATCH_SIZE: Final = 50
POLL_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


async def run_retries(provider: PaymentProvider) -> None:
    """Try again whatever is due; other processes do the same, and each notice is tried by one."""
    while True:
        if await retry_due(provider) < BATCH_SIZE:
            await asyncio.sleep(POLL_SECONDS)


async def retry_due(provider: PaymentProvider, *, limit: int = BATCH_SIZE) -> int:
    """Try notices again that are due. Returns: how many were, `limit` at most."""
    due = await inbox.claim_due(provider.name, limit=limit)
    for notice in due:
        try:
            await handle_stored_event(provider, notice)
        except Exception as fault:
            if failures.is_connection_failure(fault):
                raise
            log.warning("payment notice %s failed again: %s", notice.event_id, fault)
    return len(due)


async def replay(provider: PaymentProvider, event_id: str) -> EventOutcome:
    """Try a notice again now, a parked one too. Raises: InvalidInput: there is none; or what its handling raises."""
    return await handle_stored_event(provider, await inbox.release(event_id, provider.name))


async def handle_stored_event(provider: PaymentProvider, notice: StoredEvent) -> EventOutcome:
    """Settle what a kept notice says. Raises: what settling raises, after the failure was counted."""
    try:
        event = provider_events.parse_stored_event(provider, notice.body)
        if event is None:
            raise InvalidProviderEvent("The notice says nothing that would change anything.")
    except Exception as fault:
        await inbox.record_failure(notice.event_id, fault)
        raise
    return await settlement.settle(event)
