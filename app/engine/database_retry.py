"""Reading for a subscription: a restart of the database must not end every header of the platform."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from app.db import pools

RETRY_SECONDS: Final = 1.0

T = TypeVar("T")

log = logging.getLogger(__name__)


async def retry_until_available(read: Callable[[], Awaitable[T]]) -> T:
    """What is read, once the database is there."""
    while True:
        try:
            return await read()
        except Exception as fault:
            if not pools.is_connection_failure(fault):
                raise
            log.warning("a subscription waits for the database: %s", fault)
        await asyncio.sleep(RETRY_SECONDS)
