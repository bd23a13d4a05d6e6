"""Cache of service keys.

A row is used for 4 seconds after it was read. When a row that was read more than a second ago is used, it is read again
in the background. So a read that hangs or fails delays no request if another read succeeds in time. The rows of keys
with open connections are read every 2 seconds, to close the connections when the keys are revoked.
"""

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tortoise.expressions import Q

from app.auth.caller import Caller, CallerKind, Scope
from app.auth.models import ServiceKey
from app.auth.service_keys import KEY_PATTERN, hash_secret
from app.auth.tokens import utc_now
from app.bounded_waits import abandon, wait_at_most
from app.db import failures
from app.errors import RejectedCredential

CACHE_SECONDS: Final = 4
"""How long a row is used without reading it again. Short enough that a revocation takes effect within 5 s."""
REFRESH_SECONDS: Final = 1
"""A row that is older than this is read again when it is used. Requests do not wait for this read: it may hang."""
READ_SECONDS: Final = 2.5
"""The time limit of a read. If a read reaches it, there is time for another one before the row is too old."""
CLOSE_SECONDS: Final = 1.0
WATCH_SECONDS: Final = 2.0
"""The interval at which the keys of open connections are read."""
CACHE_SIZE: Final = 10_000
LAST_USED_INTERVAL: Final = timedelta(minutes=1)

BeforeRead = Callable[[], None]
"""A function that counts a read of the database, or refuses it by an exception."""
OnRevoked = Callable[[], None]
"""A function that is called at most once, in the event loop."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _CachedKey:
    """The result of reading a key id. `caller` is None if the key does not exist or is revoked."""

    read_at_seconds: float
    secret_hash: bytes = bytes(32)
    caller: Caller | None = None
    last_used_at: datetime | None = None


class ServiceKeyCache:
    """Verifies service keys. There is one cache per process. `verify` uses a row for up to `CACHE_SECONDS`."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
        cache_size: int = CACHE_SIZE,
        watch_seconds: float = WATCH_SECONDS,
    ) -> None:
        self._clock = clock
        self._now = now
        self._cache_size = cache_size
        # There are two stores, so that many requests with invented ids do not push valid keys out of the cache.
        self._accepted: OrderedDict[str, _CachedKey] = OrderedDict()
        self._unknown: OrderedDict[str, _CachedKey] = OrderedDict()
        self._reads: dict[str, asyncio.Task[_CachedKey]] = {}
        self._used_at: dict[str, datetime] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self._watch_seconds = watch_seconds
        self._watchers: dict[str, dict[object, OnRevoked]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}

    async def verify(self, key: str, before_read: BeforeRead = lambda: None) -> Caller:
        """Return the service that has this key.

        If the key was not accepted recently, `before_read` is called before the row is read. If it raises an exception,
        the row is not read.
        Raises: RejectedCredential; NoConnection: the row could not be read in time.
        """
        match = KEY_PATTERN.fullmatch(key)
        if match is None:
            raise RejectedCredential("malformed service key")
        key_id, secret = match[1], bytes.fromhex(match[2])
        cached = self._find_cached(key_id)
        if cached is None:
            if key_id not in self._accepted:
                before_read()
            cached = await self._read_shared(key_id)
        elif cached.caller is not None and self._clock() - cached.read_at_seconds >= REFRESH_SECONDS:
            self._start_read(key_id)
        # The secrets are compared even if the key does not exist, and in constant time. So response times reveal
        # nothing about the secret.
        is_same = hmac.compare_digest(hash_secret(secret), cached.secret_hash)
        if cached.caller is None:
            raise RejectedCredential("unknown or revoked service key")
        if not is_same:
            raise RejectedCredential("service key with a wrong secret")
        if cached.caller.expires_at is not None and self._now() >= cached.caller.expires_at:
            raise RejectedCredential("expired service key")
        self._record_use(key_id, cached)
        return cached.caller

    def watch_revocation(self, key_id: str, on_revoked: OnRevoked) -> Callable[[], None]:
        """Call `on_revoked` at most 5 seconds after the key is revoked. Return a function that stops watching.

        The connections of one key share one read every two seconds. Expiry is not watched: see `Caller.expires_at`.
        """
        token = object()
        self._watchers.setdefault(key_id, {})[token] = on_revoked
        if key_id not in self._watches:
            self._watches[key_id] = asyncio.create_task(self._watch(key_id))

        def stop_watching() -> None:
            watchers = self._watchers.get(key_id, {})
            watchers.pop(token, None)
            if not watchers and (watch := self._watches.pop(key_id, None)) is not None:
                self._watchers.pop(key_id, None)
                watch.cancel()

        return stop_watching

    async def close(self) -> None:
        """Stop watching and reading keys, and wait a short time for writes in progress."""
        if self._writes:
            await asyncio.wait(self._writes, timeout=CLOSE_SECONDS)
        for task in [*self._watches.values(), *self._reads.values(), *self._writes]:
            abandon(task)

    async def _watch(self, key_id: str) -> None:
        while True:
            # Read once without waiting, because the key may have been accepted from the cache.
            try:
                if (await self._read_shared(key_id)).caller is None:
                    break
            except Exception as error:
                # Connections stay open while the database cannot be reached.
                _log.warning("service key %s could not be read: %s", key_id, error)
            await asyncio.sleep(self._watch_seconds)
        self._watches.pop(key_id, None)
        for on_revoked in self._watchers.pop(key_id, {}).values():
            on_revoked()

    def _find_cached(self, key_id: str) -> _CachedKey | None:
        cached = self._accepted.get(key_id) or self._unknown.get(key_id)
        return cached if cached is not None and self._clock() - cached.read_at_seconds < CACHE_SECONDS else None

    async def _read_shared(self, key_id: str) -> _CachedKey:
        """Read the row of a key. Concurrent requests share one read."""
        return await asyncio.shield(self._start_read(key_id))  # a request that is cancelled must not cancel it

    def _start_read(self, key_id: str) -> "asyncio.Task[_CachedKey]":
        """Return the read in progress, or a new one."""

        def end(read: "asyncio.Task[_CachedKey]") -> None:
            self._reads.pop(key_id, None)
            if not read.cancelled():
                read.exception()  # if nobody waits for the read, asyncio must not log it

        if (read := self._reads.get(key_id)) is None:
            read = self._reads[key_id] = asyncio.create_task(self._read(key_id))
            read.add_done_callback(end)
        return read

    async def _read(self, key_id: str) -> _CachedKey:
        read_at_seconds = self._clock()  # taken before the query: the result may show the row as it was at this moment
        try:
            row = await wait_at_most(READ_SECONDS, ServiceKey.get_or_none(id=key_id, revoked_at=None))
        except TimeoutError:
            raise failures.NoConnection(f"service key {key_id} could not be read in {READ_SECONDS:g} s") from None
        cached = _CachedKey(read_at_seconds) if row is None else _from_row(row, read_at_seconds)
        store, other = (self._unknown, self._accepted) if row is None else (self._accepted, self._unknown)
        other.pop(key_id, None)
        store[key_id] = cached
        store.move_to_end(key_id)
        if len(store) > self._cache_size:
            evicted, _ = store.popitem(last=False)
            self._used_at.pop(evicted, None)
        return cached

    def _record_use(self, key_id: str, cached: _CachedKey) -> None:
        """Update `last_used_at` of a key, at most once per minute over all processes.

        The request does not wait for it.
        """
        now = self._now()
        last_used_at = self._used_at.get(key_id)
        if last_used_at is None or (cached.last_used_at is not None and cached.last_used_at > last_used_at):
            last_used_at = cached.last_used_at
        if last_used_at is not None and now - last_used_at < LAST_USED_INTERVAL:
            return
        self._used_at[key_id] = now
        write = asyncio.create_task(_write_last_use(key_id, now))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)


def _from_row(row: ServiceKey, read_at_seconds: float) -> _CachedKey:
    caller = Caller(
        kind=CallerKind.SERVICE,
        actor=f"{CallerKind.SERVICE}:{row.id}",
        scopes=frozenset(scope for scope in Scope if scope in row.scopes),
        expires_at=row.expires_at,
        key_id=row.id,
    )
    return _CachedKey(read_at_seconds, row.secret_hash, caller, row.last_used_at)


async def _write_last_use(key_id: str, used_at: datetime) -> None:
    try:
        is_due = Q(last_used_at=None) | Q(last_used_at__lte=used_at - LAST_USED_INTERVAL)
        await ServiceKey.filter(is_due, id=key_id).update(last_used_at=used_at)
    except Exception:
        _log.warning("The last use of service key %s could not be recorded.", key_id, exc_info=True)
