"""Trying notices again that failed, were cut off or wait for something, one by one: a bad one stops no other."""

import asyncio
import logging
from typing import Final

from app import database
from app.topups import asking, inbox, settling
from app.topups.inbox import Kept
from app.topups.provider import NoticeRefused, PaymentProvider
from app.topups.settling import Outcome

PAGE: Final = 50
LOOK_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


async def keep_trying(provider: PaymentProvider) -> None:
    """Try again whatever is due; other processes do the same, and each notice is tried by one."""
    while True:
        if await retry_due(provider) < PAGE:
            await asyncio.sleep(LOOK_SECONDS)


async def retry_due(provider: PaymentProvider, *, limit: int = PAGE) -> int:
    """Try notices again that are due. Returns: how many were, `limit` at most."""
    due = await inbox.claim(provider.name, limit=limit)
    for notice in due:
        try:
            await handle(provider, notice)
        except Exception as fault:
            if database.is_lost(fault):
                raise
            log.warning("payment notice %s failed again: %s", notice.event_id, fault)
    return len(due)


async def replay(provider: PaymentProvider, event_id: str) -> Outcome:
    """Try a notice again now, a parked one too. Raises: InvalidInput: there is none; or what its handling raises."""
    return await handle(provider, await inbox.release(event_id, provider.name))


async def handle(provider: PaymentProvider, notice: Kept) -> Outcome:
    """Settle what a kept notice says. Raises: what settling raises, after the failure was counted."""
    try:
        event = asking.read(provider, notice.body)
        if event is None:
            raise NoticeRefused("The notice says nothing that would change anything.")
    except Exception as fault:
        await inbox.failed(notice.event_id, fault)
        raise
    return await settling.settle(event)
