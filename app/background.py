"""Background loops of a server process.

Every process of an installation runs all of them. Work that must be done once is first reserved in the database by one
process.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from app import metrics
from app.api.context import AppState
from app.bounded_waits import abandon
from app.db import failures
from app.ledger.due_changes_sweep import DueChangesSweep
from app.ledger.expiry_notifications import ExpiryNotifications
from app.outgoing_webhooks.sender import Sender
from app.outgoing_webhooks.worker import WebhookWorker
from app.topups import inbox_retries, pending_sweep
from app.topups.auto_topup import worker
from app.topups.provider import PaymentProvider
from app.topups.refunds import requests
from app.topups.rules import TopUpTerms

RESTART_SECONDS: Final = 1.0
STOP_SECONDS: Final = 1.0
DUE_CHANGES_SECONDS: Final = 0.5
EXPIRY_NOTIFICATION_SECONDS: Final = 60.0
REFUND_RECONCILIATION_SECONDS: Final = 300.0

Loop = Callable[[], Awaitable[None]]

log = logging.getLogger(__name__)


def background_loops(state: AppState, *, database_url: str) -> Mapping[str, Loop]:
    """Return the loops of a server process by name.

    The loops for payments run only if a payment provider is configured.
    """
    settings, provider = state.settings, state.payment_provider
    loops: dict[str, Loop] = {
        "change feed": lambda: state.change_feed.run(database_url),
        "rate card refresh": state.rate_cards.refresh_periodically,
        "due changes": apply_due_changes,
        "outgoing webhooks": lambda: send_webhooks(state),
        "expiry notifications": lambda: notify_of_expiring_grants(settings.expiry_notification_days),
    }
    if provider is not None:
        loops |= {
            "auto top-up": lambda: worker.run_worker(state.change_feed, provider, TopUpTerms.from_settings(settings)),
            "refund reconciliation": lambda: reconcile_refunds(provider),
            "provider event retries": lambda: inbox_retries.run_retries(provider),
            "pending top-ups": lambda: pending_sweep.run_sweep(provider),
        }
    return loops


@asynccontextmanager
async def run_in_background(loops: Mapping[str, Loop]) -> AsyncIterator[None]:
    """Run the loops until the block ends. A loop that raises or returns is logged and restarted.

    At the end the loops are cancelled. One that takes more than a second to end is abandoned.
    """
    tasks = [asyncio.create_task(_run_forever(name, loop), name=name) for name, loop in loops.items()]
    try:
        yield
    finally:
        for task in tasks:
            abandon(task)
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)


async def _run_forever(name: str, loop: Loop) -> None:
    while True:
        try:
            await loop()
            log.error("background loop %s ended unexpectedly and is restarted", name)
        except Exception as failure:
            failures.log_failure(log, failure, "background loop %s failed and is restarted", name)
        await asyncio.sleep(RESTART_SECONDS)


async def apply_due_changes() -> None:
    """Write changes that become due with time (expiry, timeouts) in accounts that no request uses.

    So subscribers receive these changes. When a request uses or reads an account, that request applies its due changes.
    """
    sweep = DueChangesSweep()
    while True:
        count = await sweep.apply_all()
        metrics.mark_sweep("due changes")
        if count == 0:
            await asyncio.sleep(DUE_CHANGES_SECONDS)


async def notify_of_expiring_grants(days: Sequence[int]) -> None:
    """For each number N in `days`, notify the owners of grants that expire within N days."""
    notifications = ExpiryNotifications(days)
    while True:
        count = await notifications.notify()
        metrics.mark_sweep("expiry notifications")
        if count == 0:
            await asyncio.sleep(EXPIRY_NOTIFICATION_SECONDS)


async def send_webhooks(state: AppState) -> None:
    """Send the deliveries of outgoing webhooks that are due."""
    sender = Sender(allow_private=state.settings.environment == "development")
    try:
        await WebhookWorker(sender, state.webhook_secrets).run()
    finally:
        await sender.close()


async def reconcile_refunds(provider: PaymentProvider) -> None:
    """Query the provider for the outcome of refunds whose outcome is not known."""
    while True:
        count = await requests.reconcile_refunds(provider)
        metrics.mark_sweep("refund reconciliation")
        if count == 0:
            await asyncio.sleep(REFUND_RECONCILIATION_SECONDS)
