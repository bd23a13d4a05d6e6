"""Background loops of auto top-up: check accounts after a change of their balance, and periodically all accounts.

Changes of accounts without auto top-up cost one look-up in a set.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from app import metrics
from app.db.failures import is_connection_failure, log_failure
from app.db.isolated_sweeps import IsolatedSweep
from app.live.change_feed import ChangeFeed, Subscription
from app.topups.auto_topup import purchasing, rows
from app.topups.provider import PaymentProvider
from app.topups.rules import TopUpTerms

SWEEP_SECONDS: Final = 5.0
"""Each process finds newly enabled accounts within this time."""
CHECK_INTERVAL_SECONDS: Final = 300.0
"""The interval at which an account with a skip reason is checked even if it does not change."""
_CONCURRENCY: Final = 8
_BATCH_SIZE: Final = 256

log = logging.getLogger(__name__)


async def run_worker(feed: ChangeFeed, provider: PaymentProvider, terms: TopUpTerms) -> None:
    """Check accounts when they change, when auto top-up is enabled, and periodically, until cancelled."""
    enabled = await rows.find_enabled()
    with feed.subscribe_to_accounts(enabled) as subscription:
        async with asyncio.TaskGroup() as group:
            group.create_task(_check_changed(subscription, enabled, provider, terms), name="auto_topup.changes")
            group.create_task(_sweep_forever(enabled, provider, terms), name="auto_topup.sweep")


async def sweep(provider: PaymentProvider, terms: TopUpTerms, isolated: IsolatedSweep | None = None) -> int:
    """Reconcile purchases, then check the accounts that `rows.find_due` returns. Returns: the number of accounts."""
    await purchasing.reconcile_purchases(provider, terms, isolated)
    due = await rows.find_due(interval_seconds=CHECK_INTERVAL_SECONDS, limit=_BATCH_SIZE)
    await _check(due, provider, terms)
    return len(due)


async def _check_changed(
    subscription: Subscription, enabled: set[int], provider: PaymentProvider, terms: TopUpTerms
) -> None:
    while True:
        changed = await subscription.wait() or {}
        enabled.update(changed)  # auto top-up of some may have been enabled just now
        await _check(await rows.find_changed(changed), provider, terms)


async def _sweep_forever(enabled: set[int], provider: PaymentProvider, terms: TopUpTerms) -> None:
    isolated = IsolatedSweep(purchasing.SWEEP_NAME)
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        found = await rows.find_enabled()
        # The set is changed in place, because the subscription uses it.
        enabled.intersection_update(found)
        enabled.update(found)
        await sweep(provider, terms, isolated)
        metrics.mark_sweep("auto top-up")


async def _check(account_ids: Sequence[int], provider: PaymentProvider, terms: TopUpTerms) -> None:
    """Check several accounts at a time, so that a slow call to the provider does not delay all others."""
    for start in range(0, len(account_ids), _CONCURRENCY):
        batch = account_ids[start : start + _CONCURRENCY]
        results = await asyncio.gather(
            *(purchasing.buy_if_needed(account_id, provider, terms) for account_id in batch), return_exceptions=True
        )
        outage = next((one for one in results if isinstance(one, Exception) and is_connection_failure(one)), None)
        if outage is not None:
            log.warning("auto top-up of accounts could not be checked: %s", outage)
        for account_id, result in zip(batch, results, strict=True):
            if isinstance(result, Exception) and not is_connection_failure(result):
                log_failure(log, result, "auto top-up of account %s could not be checked", account_id)
