"""Sends the notifications of changes (NOTIFY), after the transactions that made the changes have committed.

A notification is an optimisation: subscribers that miss it read the change at the next version sweep. So a posting
neither waits for its notification nor fails because of it, for example when PostgreSQL's queue of notifications is
full. A failure is only logged. Changes that commit while a statement is being sent are sent together in the next one.

The separate statement also shortens postings: PostgreSQL commits transactions with notifications one after another.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final

from app.bounded_waits import wait_at_most
from app.db import failures, pools
from app.live.change_feed import ACCOUNTS_CHANNEL, FREE_QUEUE, OWNERS_CHANNEL, SIGNALS_CHANNEL

SEND_SECONDS: Final = 5.0
INTERVAL_SECONDS: Final = 0.01
"""The minimum time between two statements. The first change after a pause is sent at once."""
MAX_PAYLOAD_BYTES: Final = 7900  # PostgreSQL refuses payloads of 8,000 bytes
MAX_PAYLOADS: Final = 1_000
"""The maximum number of payloads of one statement."""

_NOTIFY: Final = "SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS sent(channel, payload)"
_QUEUE_FULL: Final = "54000"

log = logging.getLogger(__name__)


class ChangeNotifier:
    """The changes of one process that are not sent yet."""

    def __init__(self) -> None:
        self._versions: dict[int, int] = {}
        self._signals: dict[tuple[int, str], int] = {}
        self._owners: dict[str, None] = {}
        self._sending: asyncio.Task[None] | None = None
        self._is_failing = False

    def announce_versions(self, versions: Mapping[int, int]) -> None:
        """Announce the new version of each account."""
        for account_id, version in versions.items():
            self._versions[account_id] = max(version, self._versions.get(account_id, 0))
        self._start()

    def announce_signals(self, signals: Iterable[tuple[int, int, str]]) -> None:
        """Announce signals: (account id, version, kind)."""
        for account_id, version, kind in signals:
            self._signals[account_id, kind] = max(version, self._signals.get((account_id, kind), 0))
        self._start()

    def announce_owner(self, owner_id: str) -> None:
        """Announce that the account of an owner was created."""
        self._owners[owner_id] = None
        self._start()

    async def flush(self) -> None:
        """Wait until the pending changes are sent or have failed. Call it before the pools are closed."""
        if self._sending is not None and self._is_sending():
            await asyncio.wait([self._sending], timeout=SEND_SECONDS)

    def _start(self) -> None:
        if not self._is_sending() and (self._versions or self._signals or self._owners):
            self._sending = asyncio.create_task(self._send_all(), name="change notifications")

    def _is_sending(self) -> bool:
        """Return whether the task runs, which requires that its event loop still runs."""
        task = self._sending
        return task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop()

    async def _send_all(self) -> None:
        while payloads := self._take():
            for start in range(0, len(payloads), MAX_PAYLOADS):
                await self._send(payloads[start : start + MAX_PAYLOADS])
            await asyncio.sleep(INTERVAL_SECONDS)

    def _take(self) -> list[tuple[str, str]]:
        """Remove the pending changes, and return the channel and payload of each notification."""
        versions, self._versions = self._versions, {}
        signals, self._signals = self._signals, {}
        owners, self._owners = self._owners, {}
        accounts = _packed(f"{account_id}:{version}" for account_id, version in versions.items())
        kinds = _packed(f"{account_id}:{version}:{kind}" for (account_id, kind), version in signals.items())
        return [
            *((ACCOUNTS_CHANNEL, payload) for payload in accounts),
            *((SIGNALS_CHANNEL, payload) for payload in kinds),
            *((OWNERS_CHANNEL, owner_id) for owner_id in owners),
        ]

    async def _send(self, payloads: list[tuple[str, str]]) -> None:
        try:
            await wait_at_most(SEND_SECONDS, pools.fetch(_NOTIFY, *map(list, zip(*payloads, strict=True))))
        except Exception as failure:
            if not self._is_failing:
                log.warning("change notifications cannot be sent; subscribers wait for the version sweep: %r", failure)
            self._is_failing = True
            if failures.sqlstate(failure) == _QUEUE_FULL:
                with suppress(Exception):
                    await wait_at_most(SEND_SECONDS, pools.fetch(FREE_QUEUE))
        else:
            if self._is_failing:
                log.warning("change notifications can be sent again")
            self._is_failing = False


def _packed(parts: Iterable[str]) -> Iterator[str]:
    """Join the parts with commas, to payloads that are short enough for PostgreSQL."""
    line: list[str] = []
    size = 0
    for part in parts:
        if line and size + len(part) + 1 > MAX_PAYLOAD_BYTES:
            yield ",".join(line)
            line, size = [], 0
        line.append(part)
        size += len(part) + 1
    if line:
        yield ",".join(line)


NOTIFIER: Final = ChangeNotifier()
"""The notifier of this process. Every posting announces its changes here."""
