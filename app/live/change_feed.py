"""The change feed receives the notifications of postings (LISTEN/NOTIFY) and wakes the subscribers in this process.

- A notification contains the id and the version of an account, but no state. It is sent after the transaction that
  makes the change has committed (`change_notifier`).
- To *wake* a subscriber means that its `wait` returns. The subscriber then reads the current state. Ten changes that
  arrive while it sends an item cause one read.
- Notifications can be lost. So a sweep compares versions every `sweep_seconds` and wakes subscribers that missed a
  change. After a reconnect every subscriber is woken.

A topic is an account id. For an owner without an account, it is the `owner_id` until the account is created.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Container, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import asyncpg

from app import metrics
from app.bounded_waits import SHARED_READ_SECONDS, wait_at_most
from app.db import failures, pools

log = logging.getLogger(__name__)

ACCOUNTS_CHANNEL: Final = "credits"
OWNERS_CHANNEL: Final = "credits_owners"
SIGNALS_CHANNEL: Final = "credits_signals"
_PROBE_CHANNEL: Final = "credits_probe"
ACCOUNT_SIGNAL: Final = "a"
"""A signal about an account: its available credits became 0, or became positive again."""
TASK_SIGNAL: Final = "t"
"""A signal about tasks of an account: one was stopped or resumed."""
FREE_QUEUE: Final = "SELECT pg_notification_queue_usage()"
"""PostgreSQL removes notifications that all listeners have read only when it sends further ones. If its queue is full,
it cannot send any, so the queue stays full. This function also removes them."""
_RECONNECT_SECONDS: Final = 1.0
_SWEEP_RETRY_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 1.0
_PROBE_SECONDS: Final = 5
_LISTEN_FAILURES: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # asyncpg's error if the connection is lost while a query is being sent
)

_VERSIONS: Final = "SELECT id, version FROM account WHERE id = ANY($1::bigint[])"

Topic = int | str


class Subscription:
    """The pending wake-up of one subscriber. Changes that arrive before it calls `wait` are merged."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._kinds: dict[int, set[str]] = {}
        self._is_incomplete = False

    def wake(self) -> None:
        self._woken.set()

    def add(self, account_id: int, *kinds: str) -> None:
        """Add a changed account, or kinds of signals of an account, and wake the subscriber."""
        self._kinds.setdefault(account_id, set()).update(kinds)
        self._woken.set()

    def add_unknown(self) -> None:
        """Wake the subscriber because signals may have been lost."""
        self._is_incomplete = True
        self._woken.set()

    async def wait(self) -> dict[int, set[str]] | None:
        """Wait until the subscriber is woken. Read the state after this call, so that no change is missed.

        Returns: the added accounts with their kinds of signals, or None if some may be missing and everything must be
        read.
        """
        await self._woken.wait()
        self._woken.clear()
        kinds, self._kinds = self._kinds, {}
        is_incomplete, self._is_incomplete = self._is_incomplete, False
        return None if is_incomplete else kinds


class ChangeFeed:
    """Receives notifications and wakes subscribers. Each process has one. `run()` listens and sweeps until cancelled.

    Changes of a topic within `conflate_seconds` cause one wake-up.
    """

    def __init__(self, *, sweep_seconds: float, conflate_seconds: float) -> None:
        self._sweep_seconds = sweep_seconds
        self._conflate_seconds = conflate_seconds
        self._callbacks: dict[Topic, dict[object, Callable[[], None]]] = {}
        self._swept: dict[object, Topic] = {}
        self._signals: set[Subscription] = set()
        self._accounts: dict[Subscription, Container[int]] = {}
        self._versions: dict[int, int] = {}
        self._changed: set[Topic] = set()
        self._flush: asyncio.TimerHandle | None = None
        self.swept_at = time.monotonic()
        """The time of the last version sweep, or of the start, by the monotonic clock."""

    @contextmanager
    def subscribe(self, topic: Topic, *, wake_on_sweep: bool = False) -> Iterator[Subscription]:
        """Subscribe to a topic until the block ends. Subscribe first and read afterwards, so that no change is missed.

        With `wake_on_sweep`, every sweep wakes the subscriber too, for results that can change without a new version.
        Subscribers of owners are always woken by a sweep.
        """
        subscription = Subscription()
        with self.subscribe_callback(topic, subscription.wake):
            if wake_on_sweep or isinstance(topic, str):
                self._swept[subscription] = topic
            try:
                yield subscription
            finally:
                self._swept.pop(subscription, None)

    @contextmanager
    def subscribe_callback(self, topic: Topic, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` after changes of a topic, until the block ends."""
        key = object()
        self._callbacks.setdefault(topic, {})[key] = wake
        try:
            yield
        finally:
            callbacks = self._callbacks[topic]
            del callbacks[key]
            if not callbacks:
                del self._callbacks[topic]
                if isinstance(topic, int):
                    self._versions.pop(topic, None)

    @contextmanager
    def subscribe_to_signals(self) -> Iterator[Subscription]:
        """Subscribe to the signals of all accounts until the block ends."""
        subscription = Subscription()
        self._signals.add(subscription)
        try:
            yield subscription
        finally:
            self._signals.discard(subscription)

    @contextmanager
    def subscribe_to_accounts(self, accounts: Container[int]) -> Iterator[Subscription]:
        """Subscribe to the changes of accounts until the block ends. `accounts` may change meanwhile.

        The subscriber is not woken after a lost connection, so it must check its accounts periodically.
        """
        subscription = Subscription()
        self._accounts[subscription] = accounts
        try:
            yield subscription
        finally:
            del self._accounts[subscription]

    def report_account(self, account_id: int) -> None:
        """Wake the subscribers of `subscribe_to_accounts` in this process, even if the account is new to them."""
        for subscription in self._accounts:
            subscription.add(account_id)

    def find_problem(self) -> str | None:
        """Return the problem if the version sweep does not succeed, so that subscribers may miss changes."""
        seconds = time.monotonic() - self.swept_at
        if seconds <= 2 * self._sweep_seconds + SHARED_READ_SECONDS:
            return None
        return f"versions of balances were not compared for {seconds:.0f} s"

    async def run(self, url: str) -> None:
        """Listen and sweep until cancelled. Failures of the database are logged, and the loop continues."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(url), name="change feed: listen")
            group.create_task(self._sweep_forever(), name="change feed: sweep")

    def wake_all(self) -> None:
        """Wake every subscriber of topics and signals, because notifications may have been lost."""
        for topic in self._callbacks:
            self._mark_changed(topic)
        for subscription in self._signals:
            subscription.add_unknown()

    def receive(self, payload: str) -> None:
        """Handle a payload of ACCOUNTS_CHANNEL."""
        for part in payload.split(","):
            number, _, version = part.partition(":")
            if not (number.isdigit() and version.isdigit()):
                log.warning("an invalid change notification was ignored: %.100r", payload)
                return
            account_id = int(number)
            for subscription, accounts in self._accounts.items():
                if account_id in accounts:
                    subscription.add(account_id)
            if account_id in self._callbacks:
                self._versions[account_id] = max(int(version), self._versions.get(account_id, 0))
                self._mark_changed(account_id)

    def receive_signals(self, payload: str) -> None:
        """Handle a payload of SIGNALS_CHANNEL."""
        signals: list[tuple[int, str]] = []
        for part in payload.split(","):
            number, _, rest = part.partition(":")
            _, _, kind = rest.partition(":")
            if not number.isdigit() or kind not in (ACCOUNT_SIGNAL, TASK_SIGNAL):
                log.warning("an invalid signal was ignored: %.100r", payload)
                return
            signals.append((int(number), kind))
        for subscription in self._signals:
            for account_id, kind in signals:
                subscription.add(account_id, kind)

    async def sweep(self) -> None:
        """Read the versions of all subscribed accounts. Wake the subscribers whose account has an unknown version."""
        for topic in self._swept.values():
            self._mark_changed(topic)
        for subscription in self._signals:
            subscription.add_unknown()
        accounts = [topic for topic in self._callbacks if isinstance(topic, int)]
        if accounts:
            for record in await wait_at_most(SHARED_READ_SECONDS, pools.fetch(_VERSIONS, accounts)):
                account_id, version = record["id"], record["version"]
                if self._versions.get(account_id) != version and account_id in self._callbacks:
                    self._versions[account_id] = version
                    self._mark_changed(account_id)
        self.swept_at = time.monotonic()
        metrics.mark_sweep("version sweep")

    def _mark_changed(self, topic: Topic) -> None:
        self._changed.add(topic)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(self._conflate_seconds, self._wake_changed)

    def _wake_changed(self) -> None:
        self._flush = None
        changed, self._changed = self._changed, set()
        for topic in changed:
            for wake in self._callbacks.get(topic, {}).values():
                wake()

    async def _listen(self, url: str) -> None:
        while True:
            try:
                async with self._listening(url) as connection:
                    self.wake_all()
                    metrics.FEED_CONNECTED.set(1)
                    await _wait_until_lost(connection)
            except _LISTEN_FAILURES as failure:
                log.warning("the LISTEN connection was lost; the sweep continues: %s", failure)
            metrics.FEED_CONNECTED.set(0)
            await asyncio.sleep(_RECONNECT_SECONDS)

    @asynccontextmanager
    async def _listening(self, url: str) -> AsyncIterator[asyncpg.Connection]:
        """Open a connection that listens.

        The connection notifies itself to check that notifications arrive. A pooler in transaction mode accepts LISTEN,
        but delivers no notifications.
        """
        connection = await pools.open_connection(url, name="listen")
        try:
            arrived = asyncio.Event()
            handlers: dict[str, Callable[[str], None]] = {
                ACCOUNTS_CHANNEL: self.receive,
                SIGNALS_CHANNEL: self.receive_signals,
                OWNERS_CHANNEL: self._mark_changed,
                _PROBE_CHANNEL: lambda _: arrived.set(),
            }
            for channel, handle in handlers.items():
                await connection.add_listener(channel, lambda *arguments, handle=handle: handle(arguments[-1]))
            await connection.execute(FREE_QUEUE)
            await connection.execute(f"NOTIFY {_PROBE_CHANNEL}")
            # asyncio.timeout is used because wait_for can swallow a cancellation before Python 3.12.
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_SECONDS):
                    await arrived.wait()
            if not arrived.is_set():
                log.error("LISTEN delivers nothing: DATABASE_URL must not go through a pooler in transaction mode")
            yield connection
        finally:
            with suppress(Exception):  # closing has failed, so asyncpg aborts the connection
                await connection.close(timeout=_CLOSE_SECONDS)

    async def _sweep_forever(self) -> None:
        seconds = self._sweep_seconds
        while True:
            await asyncio.sleep(seconds)
            seconds = self._sweep_seconds
            try:
                await self.sweep()
            except Exception as failure:
                if not failures.is_database_failure(failure):
                    raise
                log.warning("the version sweep could not read: %s", failure)
                seconds = min(seconds, _SWEEP_RETRY_SECONDS)


async def _wait_until_lost(connection: asyncpg.Connection) -> None:
    """Return when the connection is lost. A query every few seconds detects that the server does not respond."""
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PROBE_SECONDS):
                await lost.wait()
                return
        await connection.execute("SELECT 1", timeout=5)
