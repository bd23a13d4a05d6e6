"""Checking service keys: what one process remembers of them, for how long, and who is told when one ends."""

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
from app.errors import Unauthenticated

CACHE_SECONDS: Final = 4
"""How long a row is believed without looking again: with the reading of it, and of the body of who asks to follow
something, a revocation acts within 5 seconds."""
WATCH_SECONDS: Final = 2.0
"""How often the keys behind live connections are looked at: with the reading, well within 5 seconds."""
CACHE_SIZE: Final = 10_000
LAST_USED_INTERVAL: Final = timedelta(minutes=1)

OnRevoked = Callable[[], None]
"""Called once, from the event loop, when a key no longer counts."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database said about a key id; no viewer: there is no such key, or it was revoked."""

    read_at: float
    secret_hash: bytes = bytes(32)
    caller: Caller | None = None
    last_used_at: datetime | None = None


class ServiceKeyCache:
    """Checks service keys for one process. A row is read at most once in 5 seconds, whoever and however many ask."""

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
        self._limit = cache_size
        # Two stores: a flood of invented ids must not push out the keys that are really in use.
        self._accepted: OrderedDict[str, _Known] = OrderedDict()
        self._unknown: OrderedDict[str, _Known] = OrderedDict()
        self._reading: dict[str, asyncio.Task[_Known]] = {}
        self._used_at: dict[str, datetime] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._watch_seconds = watch_seconds
        self._watched: dict[str, dict[object, OnRevoked]] = {}
        self._watching: dict[str, asyncio.Task[None]] = {}

    async def verify(self, key: str) -> Caller:
        """The service (or operator's key) behind this key. Raises: Unauthenticated."""
        shape = KEY_PATTERN.fullmatch(key)
        if shape is None:
            raise _not_accepted()
        key_id, secret = shape[1], bytes.fromhex(shape[2])
        known = self._remembered(key_id) or await self._read_shared(key_id)
        # Always compared, always in full: the time taken tells nothing about the secret.
        same = hmac.compare_digest(hash_secret(secret), known.secret_hash)
        if known.caller is None or not same:
            raise _not_accepted()
        if known.caller.expires_at is not None and self._now() >= known.caller.expires_at:
            raise _not_accepted()
        self._note_use(key_id, known)
        return known.caller

    def watch_revocation(self, key_id: str, on_revoked: OnRevoked) -> Callable[[], None]:
        """Have `ended` called when the key is revoked, within 5 seconds. Returns: what ends the watch.

        However many connections a key has, it is one read every two seconds. A key's expiry is not told of: its viewer
        says when it ends.
        """
        token = object()
        self._watched.setdefault(key_id, {})[token] = on_revoked
        if key_id not in self._watching:
            self._watching[key_id] = asyncio.create_task(self._look_after(key_id))

        def unwatch() -> None:
            watchers = self._watched.get(key_id, {})
            watchers.pop(token, None)
            if not watchers and (watching := self._watching.pop(key_id, None)) is not None:
                self._watched.pop(key_id, None)
                watching.cancel()

        return unwatch

    async def close(self) -> None:
        """Waits for what is still being read or written."""
        watching = [*self._watching.values()]
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, *self._reading.values(), *self._writing, return_exceptions=True)

    async def _look_after(self, key_id: str) -> None:
        while True:
            # A look comes first: what the watcher was let in by may have been remembered for a while.
            try:
                if (await self._read_shared(key_id)).caller is None:
                    break
            except Exception as fault:
                # Nobody is cut off because the database is: it is asked again.
                _log.warning("service key %s could not be looked at: %s", key_id, fault)
            await asyncio.sleep(self._watch_seconds)
        self._watching.pop(key_id, None)
        for ended in self._watched.pop(key_id, {}).values():
            ended()

    def _remembered(self, key_id: str) -> _Known | None:
        known = self._accepted.get(key_id) or self._unknown.get(key_id)
        return known if known is not None and self._clock() - known.read_at < CACHE_SECONDS else None

    async def _read_shared(self, key_id: str) -> _Known:
        reading = self._reading.get(key_id)
        if reading is None:
            reading = self._reading[key_id] = asyncio.create_task(self._read(key_id))
            reading.add_done_callback(lambda _: self._reading.pop(key_id, None))
        return await asyncio.shield(reading)  # shared: a caller who goes away must not cancel it for the others

    async def _read(self, key_id: str) -> _Known:
        read_at = self._clock()  # before the query: what it finds may be as old as that
        row = await ServiceKey.get_or_none(id=key_id, revoked_at=None)
        known = _Known(read_at) if row is None else _known(row, read_at)
        store, other = (self._unknown, self._accepted) if row is None else (self._accepted, self._unknown)
        other.pop(key_id, None)
        store[key_id] = known
        store.move_to_end(key_id)
        if len(store) > self._limit:
            forgotten, _ = store.popitem(last=False)
            self._used_at.pop(forgotten, None)
        return known

    def _note_use(self, key_id: str, known: _Known) -> None:
        """Beside the request, never in it: at most one write a minute for a key, over all processes."""
        now = self._now()
        before = self._used_at.get(key_id)
        if before is None or (known.last_used_at is not None and known.last_used_at > before):
            before = known.last_used_at
        if before is not None and now - before < LAST_USED_INTERVAL:
            return
        self._used_at[key_id] = now
        writing = asyncio.create_task(_write_use(key_id, now))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)


def _known(row: ServiceKey, read_at: float) -> _Known:
    viewer = Caller(
        kind=CallerKind.SERVICE,
        actor=f"{CallerKind.SERVICE}:{row.id}",
        scopes=frozenset(scope for scope in Scope if scope in row.scopes),
        expires_at=row.expires_at,
        key_id=row.id,
    )
    return _Known(read_at, row.secret_hash, viewer, row.last_used_at)


async def _write_use(key_id: str, used_at: datetime) -> None:
    try:
        due = Q(last_used_at=None) | Q(last_used_at__lte=used_at - LAST_USED_INTERVAL)
        await ServiceKey.filter(due, id=key_id).update(last_used_at=used_at)
    except Exception:
        _log.warning("The last use of service key %s could not be noted.", key_id, exc_info=True)


def _not_accepted() -> Unauthenticated:
    return Unauthenticated("The service key is not accepted: it is unknown, expired or revoked. Send a current one.")
