"""Sends deliveries. Every server process runs one worker. Each delivery is claimed by one of the processes.

Each endpoint has its own asyncio task, so that a slow receiver does not delay the others.
"""

import asyncio
import logging
import time
from functools import partial
from typing import Final

from app import metrics
from app.db import failures
from app.outgoing_webhooks import deliveries
from app.outgoing_webhooks.deliveries import ClaimedDelivery, DueEndpoint
from app.outgoing_webhooks.secret_box import SecretBox, UnknownSecretKey
from app.outgoing_webhooks.sender import Attempt, Sender

POLL_SECONDS: Final = 1.0
CONCURRENCY: Final = 16
"""How many deliveries a process sends to one endpoint at the same time. To a failing endpoint it sends one."""
PRUNE_SECONDS: Final = 600.0

log = logging.getLogger(__name__)


class WebhookWorker:
    """The worker of one process."""

    def __init__(self, sender: Sender, box: SecretBox) -> None:
        self._sender = sender
        self._box = box
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._prune_at = 0.0

    async def run(self) -> None:
        """Send deliveries until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                for endpoint in await deliveries.find_due_endpoints():
                    if endpoint.id not in self._tasks:
                        task = self._tasks[endpoint.id] = group.create_task(self._deliver(endpoint))
                        task.add_done_callback(partial(self._forget, endpoint.id))
                await self._prune()
                metrics.mark_sweep("outgoing webhooks")
                await asyncio.sleep(POLL_SECONDS)

    def _forget(self, endpoint_id: str, _: asyncio.Task[None]) -> None:
        del self._tasks[endpoint_id]

    async def deliver_due(self) -> None:
        """Send everything that is due now, and wait for it."""
        for endpoint in await deliveries.find_due_endpoints():
            await self._deliver(endpoint)

    async def _deliver(self, endpoint: DueEndpoint) -> None:
        """Send what is due for one endpoint, until nothing is left or an attempt fails."""
        try:
            keys = [
                self._box.open(sealed, endpoint.id)
                for sealed in (endpoint.secret, endpoint.previous_secret)
                if sealed is not None
            ]
            limit = 1 if endpoint.is_failing else CONCURRENCY
            while claimed := await deliveries.claim(endpoint, limit=limit):
                attempts = await asyncio.gather(*(self._send(endpoint, one, keys) for one in claimed))
                if not await deliveries.record_attempts(endpoint.id, list(zip(claimed, attempts, strict=True))):
                    return
                limit = CONCURRENCY
        except UnknownSecretKey:
            log.error("webhook endpoint %s: its secret cannot be decrypted; rotate it", endpoint.id)
        except Exception as error:
            failures.log_failure(log, error, "deliveries to webhook endpoint %s failed", endpoint.id)

    async def _send(self, endpoint: DueEndpoint, delivery: ClaimedDelivery, keys: list[bytes]) -> Attempt:
        return await self._sender.send(endpoint.url, delivery.event_id, delivery.payload, keys)

    async def _prune(self) -> None:
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + PRUNE_SECONDS
            while await deliveries.prune() == deliveries.PRUNE_LIMIT:
                pass
