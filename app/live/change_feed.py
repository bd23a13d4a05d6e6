"""The balance wire, both ends: what a posting announces, and how whoever follows an account is woken.

A notice says "this account is at this version" and nothing else; it is sent by the transaction that made the change, so
it arrives after the commit or never. A wake-up has no value: the follower reads the state, so ten changes during a slow
send cost one read, and versions a client sees rise strictly (*conflation*). What a lost notice hides, the version sweep
finds within SWEEP_SECONDS; after a lost connection everybody is woken.

Topics are account ids; an owner who has no account yet is followed by `ownerId`, until the first write makes one.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from app.db import pools

log = logging.getLogger(__name__)

ACCOUNTS_CHANNEL: Final = "credits"
OWNERS_CHANNEL: Final = "credits_owners"
SIGNALS_CHANNEL: Final = "credits_signals"
ACCOUNT_SIGNAL: Final = "a"
"""A signal of an account: what is available became 0, or came back."""
TASK_SIGNAL: Final = "t"
"""A signal of its tasks: one has stopped, or goes on."""
_PAYLOAD_LIMIT: Final = 7900  # PostgreSQL refuses a payload of 8,000 bytes
_RECONNECT_SECONDS: Final = 1.0

_VERSIONS: Final = "SELECT id, version FROM account WHERE id = ANY($1::bigint[])"

Topic = int | str


def change_payloads(versions: Mapping[int, int]) -> Iterator[str]:
    """The notices for those accounts: "id:version,id:version...", each short enough for PostgreSQL."""
    yield from _packed(f"{account_id}:{version}" for account_id, version in versions.items())


def signal_payloads(signals: Iterable[tuple[int, int, str]]) -> Iterator[str]:
    """The notices for those signals: "id:version:a,id:version:t..."."""
    yield from _packed(f"{account_id}:{version}:{kind}" for account_id, version, kind in signals)


def _packed(parts: Iterable[str]) -> Iterator[str]:
    line: list[str] = []
    size = 0
    for part in parts:
        if line and size + len(part) + 1 > _PAYLOAD_LIMIT:
            yield ",".join(line)
            line, size = [], 0
        line.append(part)
        size += len(part) + 1
    if line:
        yield ",".join(line)


@dataclass(slots=True, eq=False)
class Subscription:
    """One follower of one topic. `swept`: woken by every sweep, because what it reads may change without a version."""

    swept: bool
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self._woken.set()

    async def wait(self) -> None:
        """Wait until something may have changed since the last call. Call it, then read: not the other way round."""
        await self._woken.wait()
        self._woken.clear()


@dataclass(slots=True, eq=False)
class SignalSubscription:
    """One follower of the signals: of all accounts, since whom they concern is known by reading only."""

    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _signalled: dict[int, set[str]] = field(default_factory=dict)
    _everything: bool = False

    def wake(self, signals: Iterable[tuple[int, str]] | None = None) -> None:
        """Take signals of (account id, kind) in; None: some may have been lost."""
        if signals is None:
            self._everything = True
        else:
            for account_id, kind in signals:
                self._signalled.setdefault(account_id, set()).add(kind)
        self._woken.set()

    async def wait(self) -> dict[int, set[str]] | None:
        """Wait for signals. Returns: their kinds by account id; None: look at everything, some may have been lost."""
        await self._woken.wait()
        self._woken.clear()
        signalled, self._signalled = self._signalled, {}
        everything, self._everything = self._everything, False
        return None if everything else signalled


@dataclass(slots=True, eq=False)
class AccountsSubscription:
    """One follower of the changes of many accounts, those that are in `among` when they change."""

    among: Container[int]
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: set[int] = field(default_factory=set)

    def wake(self, account_id: int) -> None:
        if account_id in self.among:
            self._changed.add(account_id)
            self._woken.set()

    async def wait(self) -> set[int]:
        """Wait for changes. Returns: the accounts; what was lost with the connection is for a sweep to find."""
        await self._woken.wait()
        self._woken.clear()
        changed, self._changed = self._changed, set()
        return changed


@dataclass(slots=True, eq=False)
class _Call:
    """A follower that is called instead of waiting."""

    wake: Callable[[], None]
    swept: bool = False


class ChangeFeed:
    """The follower's end of the wire, one for a process: `run()` listens, `watch()` registers."""

    def __init__(self, *, sweep_seconds: float, conflate_seconds: float) -> None:
        self._sweep_seconds = sweep_seconds
        self._conflate_seconds = conflate_seconds
        self._watches: dict[Topic, set[Subscription | _Call]] = {}
        self._signal_watches: set[SignalSubscription] = set()
        self._change_watches: set[AccountsSubscription] = set()
        self._versions: dict[int, int] = {}
        self._dirty: set[Topic] = set()
        self._flush: asyncio.TimerHandle | None = None

    @contextmanager
    def subscribe(self, topic: Topic, *, wake_on_sweep: bool = False) -> Iterator[Subscription]:
        """Follow `topic` until the block ends. Register first, read afterwards, so that nothing falls in between."""
        watch = Subscription(wake_on_sweep or isinstance(topic, str))
        with self._registered(topic, watch):
            yield watch

    @contextmanager
    def subscribe_callback(self, topic: Topic, wake: Callable[[], None]) -> Iterator[None]:
        """Follow `topic` until the block ends, by a call for each tick in which it may have changed."""
        with self._registered(topic, _Call(wake)):
            yield

    @contextmanager
    def _registered(self, topic: Topic, watch: "Subscription | _Call") -> Iterator[None]:
        self._watches.setdefault(topic, set()).add(watch)
        try:
            yield
        finally:
            followers = self._watches[topic]
            followers.discard(watch)
            if not followers:
                del self._watches[topic]
                self._versions.pop(topic, None) if isinstance(topic, int) else None

    @contextmanager
    def subscribe_to_signals(self) -> Iterator[SignalSubscription]:
        """Follow the signals until the block ends. Register first, read afterwards."""
        watch = SignalSubscription()
        self._signal_watches.add(watch)
        try:
            yield watch
        finally:
            self._signal_watches.discard(watch)

    @contextmanager
    def subscribe_to_accounts(self, among: Container[int]) -> Iterator[AccountsSubscription]:
        """Follow the changes of the accounts in `among`, which may change meanwhile, until the block ends."""
        watch = AccountsSubscription(among)
        self._change_watches.add(watch)
        try:
            yield watch
        finally:
            self._change_watches.discard(watch)

    async def run(self, url: str) -> None:
        """Listen and sweep until cancelled. Faults of the database are logged and lived through."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(url), name="live.listen")
            group.create_task(self._sweep(), name="live.sweep")

    def wake_all(self) -> None:
        """Have every follower read anew: after a connection was lost, nobody knows what was missed."""
        for topic in self._watches:
            self._mark(topic)
        for watch in self._signal_watches:
            watch.wake()

    def receive(self, payload: str) -> None:
        """Take one notice of changed accounts."""
        for part in payload.split(","):
            number, _, version = part.partition(":")
            if not (number.isdigit() and version.isdigit()):
                log.warning("a notice that is not ours was ignored: %.100r", payload)
                return
            account_id = int(number)
            for change_watch in self._change_watches:
                change_watch.wake(account_id)
            if account_id in self._watches:
                self._versions[account_id] = max(int(version), self._versions.get(account_id, 0))
                self._mark(account_id)

    def receive_signals(self, payload: str) -> None:
        """Take one notice of signals."""
        signals: list[tuple[int, str]] = []
        for part in payload.split(","):
            number, _, rest = part.partition(":")
            _, _, kind = rest.partition(":")
            if not number.isdigit() or kind not in (ACCOUNT_SIGNAL, TASK_SIGNAL):
                log.warning("a signal that is not ours was ignored: %.100r", payload)
                return
            signals.append((int(number), kind))
        for watch in self._signal_watches:
            watch.wake(signals)

    def _mark(self, topic: Topic) -> None:
        """Wake the topic's followers within one tick: changes closer together than a tick cost one read."""
        self._dirty.add(topic)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(self._conflate_seconds, self._wake_dirty)

    def _wake_dirty(self) -> None:
        self._flush = None
        dirty, self._dirty = self._dirty, set()
        for topic in dirty:
            for watch in self._watches.get(topic, ()):
                watch.wake()

    async def _listen(self, url: str) -> None:
        while True:
            try:
                async with _listening(url, self) as connection:
                    self.wake_all()
                    await _until_lost(connection)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as fault:
                log.warning("the notice connection was lost, the sweep goes on: %s", fault)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds)
            try:
                await self.sweep()
            except Exception as fault:
                if not pools.is_connection_failure(fault):
                    raise
                log.warning("the version sweep could not read: %s", fault)

    async def sweep(self) -> None:
        """Compare versions of every followed account with those last heard of, and wake where they differ."""
        accounts = [topic for topic in self._watches if isinstance(topic, int)]
        if accounts:
            for record in await pools.fetch(_VERSIONS, accounts):
                account_id, version = record["id"], record["version"]
                if self._versions.get(account_id) != version and account_id in self._watches:
                    self._versions[account_id] = version
                    self._mark(account_id)
        for topic, watches in self._watches.items():
            if any(watch.swept for watch in watches):
                self._mark(topic)
        for signal_watch in self._signal_watches:
            signal_watch.wake()


@asynccontextmanager
async def _listening(url: str, feed: ChangeFeed) -> AsyncIterator[asyncpg.Connection]:
    """A connection that listens, not through a pooler: in transaction mode LISTEN is accepted and never delivers."""
    connection = await asyncpg.connect(**pools.connection_arguments(url), timeout=10, statement_cache_size=0)
    try:
        arrived = asyncio.Event()
        await connection.add_listener(ACCOUNTS_CHANNEL, lambda _c, _p, _ch, payload: feed.receive(payload))
        await connection.add_listener(SIGNALS_CHANNEL, lambda _c, _p, _ch, payload: feed.receive_signals(payload))
        await connection.add_listener(OWNERS_CHANNEL, lambda _c, _p, _ch, owner: feed._mark(owner))
        await connection.add_listener("credits_probe", lambda *_: arrived.set())
        await connection.execute("NOTIFY credits_probe")
        # asyncio.timeout throughout, never wait_for: before Python 3.12 that one can swallow a cancellation.
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await arrived.wait()
        if not arrived.is_set():
            log.error("LISTEN delivers nothing: DATABASE_URL must not go through a pooler in transaction mode")
        yield connection
    finally:
        await connection.close(timeout=5)


async def _until_lost(connection: asyncpg.Connection) -> None:
    """Return when the connection is gone; a dead peer is noticed by asking every few seconds."""
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await lost.wait()
                return
        await connection.execute("SELECT 1", timeout=5)
