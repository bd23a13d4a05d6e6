"""Following the balances that may call for an automatic top-up: after each commit that is told of, and a slow sweep.

Only accounts that have it switched on cost anything: changes of all others are dropped by one look into a set.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from app.live.change_feed import ChangeFeed, Subscription
from app.topups.auto_topup import purchasing, rows
from app.topups.provider import PaymentProvider
from app.topups.rules import TopUpTerms

SWEEP_SECONDS: Final = 5.0
"""Also how long it takes at most until another process knows that it was switched on for an account."""
CHECK_INTERVAL_SECONDS: Final = 300.0
"""How often an account that is held back is looked at, though nothing has told of a change."""
_AT_ONCE: Final = 8
_MOST: Final = 256

log = logging.getLogger(__name__)


async def run_worker(feed: ChangeFeed, provider: PaymentProvider, terms: TopUpTerms) -> None:
    """Look at accounts as they change, and at all in turn, until cancelled."""
    enabled = await rows.find_enabled()
    with feed.subscribe_to_accounts(enabled) as watch:
        async with asyncio.TaskGroup() as group:
            group.create_task(_follow(watch, provider, terms), name="refilling.follow")
            group.create_task(_sweep(enabled, provider, terms), name="refilling.sweep")


async def sweep(provider: PaymentProvider, terms: TopUpTerms) -> int:
    """Look at what no change told of, and at intents whose outcome is unknown. Returns: how many accounts."""
    await purchasing.reconcile_purchases(provider, terms)
    due = await rows.find_due(look_seconds=CHECK_INTERVAL_SECONDS, limit=_MOST)
    await _look(due, provider, terms)
    return len(due)


async def _follow(watch: Subscription, provider: PaymentProvider, terms: TopUpTerms) -> None:
    while True:
        await _look(await rows.find_changed(await watch.wait() or ()), provider, terms)


async def _sweep(enabled: set[int], provider: PaymentProvider, terms: TopUpTerms) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        found = await rows.find_enabled()
        enabled.intersection_update(found)
        enabled.update(found)
        await sweep(provider, terms)


async def _look(account_ids: Sequence[int], provider: PaymentProvider, terms: TopUpTerms) -> None:
    """Consider some accounts at a time: a provider that is slow for one must not hold up all."""
    for start in range(0, len(account_ids), _AT_ONCE):
        some = account_ids[start : start + _AT_ONCE]
        answers = await asyncio.gather(
            *(purchasing.buy_if_needed(account_id, provider, terms) for account_id in some), return_exceptions=True
        )
        for account_id, answer in zip(some, answers, strict=True):
            if isinstance(answer, Exception):
                log.error("auto top-up of account %s could not be considered", account_id, exc_info=answer)
