"""Service keys: made, checked, revoked. A key reads `ck_<id>_<secret>`, id and secret in hex."""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tortoise.expressions import Q

from app.callers.development import development_secret
from app.callers.models import ApiKey
from app.callers.rules import Kind, Scope, Viewer
from app.callers.tokens import utc_now
from app.errors import InvalidInput, Unauthenticated
from app.settings import Settings

PREFIX: Final = "ck_"
REMEMBERED_SECONDS: Final = 5
"""How long a row is believed without looking again: a revocation acts within this time."""
REMEMBERED_KEYS: Final = 10_000
LAST_USED_EVERY: Final = timedelta(minutes=1)
MAX_NAME_LENGTH: Final = 255

_SHAPE: Final = re.compile(r"ck_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)

_log = logging.getLogger(__name__)


async def create(name: str, scopes: Iterable[Scope], *, expires_at: datetime | None = None) -> str:
    """A new key, readable only now. Raises: InvalidInput: no name, no scope, or it would have expired already."""
    granted = _check(name, scopes)
    if expires_at is not None and expires_at <= utc_now():
        raise InvalidInput.at("expiresAt", "must lie in the future")
    key_id, secret = secrets.token_hex(8), secrets.token_bytes(32)
    await ApiKey.create(id=key_id, name=name, secret_hash=_hash(secret), scopes=granted, expires_at=expires_at)
    return _written(key_id, secret)


async def revoke(key_id: str) -> bool:
    """Every process refuses the key within 5 seconds. False: there is no such key, or it was revoked before."""
    return await ApiKey.filter(id=key_id, revoked_at=None).update(revoked_at=utc_now()) == 1


async def development_key(
    name: str, scopes: Iterable[Scope] = (Scope.CHARGE, Scope.READ), *, chosen: Settings | None = None
) -> str:
    """Development's key of this name: the same each time, and working each time, even if it was revoked.

    Raises: Misconfigured in production; InvalidInput.
    """
    granted = _check(name, scopes)
    key_id = development_secret(f"service key id: {name}", chosen=chosen)[:8].hex()
    secret = development_secret(f"service key: {name}", chosen=chosen)
    row = ApiKey(id=key_id, name=name, secret_hash=_hash(secret), scopes=granted)
    renewed = ("name", "secret_hash", "scopes", "expires_at", "revoked_at")
    await ApiKey.bulk_create([row], on_conflict=["id"], update_fields=renewed)
    return _written(key_id, secret)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database said about a key id; no viewer: there is no such key, or it was revoked."""

    read_at: float
    secret_hash: bytes = bytes(32)
    viewer: Viewer | None = None
    last_used_at: datetime | None = None


class KeyRing:
    """Checks service keys for one process. A row is read at most once in 5 seconds, whoever and however many ask."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
        remember: int = REMEMBERED_KEYS,
    ) -> None:
        self._clock = clock
        self._now = now
        self._limit = remember
        # Two stores: a flood of invented ids must not push out the keys that are really in use.
        self._accepted: OrderedDict[str, _Known] = OrderedDict()
        self._unknown: OrderedDict[str, _Known] = OrderedDict()
        self._reading: dict[str, asyncio.Task[_Known]] = {}
        self._used_at: dict[str, datetime] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def verify(self, key: str) -> Viewer:
        """The service (or operator's key) behind this key. Raises: Unauthenticated."""
        shape = _SHAPE.fullmatch(key)
        if shape is None:
            raise _not_accepted()
        key_id, secret = shape[1], bytes.fromhex(shape[2])
        known = self._remembered(key_id) or await self._read_shared(key_id)
        # Always compared, always in full: the time taken tells nothing about the secret.
        same = hmac.compare_digest(_hash(secret), known.secret_hash)
        if known.viewer is None or not same:
            raise _not_accepted()
        if known.viewer.expires_at is not None and self._now() >= known.viewer.expires_at:
            raise _not_accepted()
        self._note_use(key_id, known)
        return known.viewer

    async def close(self) -> None:
        """Waits for what is still being read or written."""
        await asyncio.gather(*self._reading.values(), *self._writing, return_exceptions=True)

    def _remembered(self, key_id: str) -> _Known | None:
        known = self._accepted.get(key_id) or self._unknown.get(key_id)
        return known if known is not None and self._clock() - known.read_at < REMEMBERED_SECONDS else None

    async def _read_shared(self, key_id: str) -> _Known:
        reading = self._reading.get(key_id)
        if reading is None:
            reading = self._reading[key_id] = asyncio.create_task(self._read(key_id))
            reading.add_done_callback(lambda _: self._reading.pop(key_id, None))
        return await asyncio.shield(reading)  # shared: a caller who goes away must not cancel it for the others

    async def _read(self, key_id: str) -> _Known:
        read_at = self._clock()  # before the query: what it finds may be as old as that
        row = await ApiKey.get_or_none(id=key_id, revoked_at=None)
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
        before = max(filter(None, (self._used_at.get(key_id), known.last_used_at)), default=None)
        if before is not None and now - before < LAST_USED_EVERY:
            return
        self._used_at[key_id] = now
        writing = asyncio.create_task(_write_use(key_id, now))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)


def _known(row: ApiKey, read_at: float) -> _Known:
    viewer = Viewer(
        kind=Kind.SERVICE,
        actor=f"{Kind.SERVICE}:{row.id}",
        scopes=frozenset(scope for scope in Scope if scope in row.scopes),
        expires_at=row.expires_at,
        key_id=row.id,
    )
    return _Known(read_at, row.secret_hash, viewer, row.last_used_at)


async def _write_use(key_id: str, used_at: datetime) -> None:
    try:
        due = Q(last_used_at=None) | Q(last_used_at__lte=used_at - LAST_USED_EVERY)
        await ApiKey.filter(due, id=key_id).update(last_used_at=used_at)
    except Exception:
        _log.warning("The last use of service key %s could not be noted.", key_id, exc_info=True)


def _check(name: str, scopes: Iterable[Scope]) -> list[str]:
    if not (1 <= len(name) <= MAX_NAME_LENGTH and name.isprintable() and name.strip()):
        raise InvalidInput.at("name", f"must have 1 to {MAX_NAME_LENGTH} visible characters")
    granted = sorted(set(scopes))
    if not granted:
        raise InvalidInput.at("scopes", f"must name at least one of {', '.join(Scope)}")
    return [str(scope) for scope in granted]


def _written(key_id: str, secret: bytes) -> str:
    return f"{PREFIX}{key_id}_{secret.hex()}"


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _not_accepted() -> Unauthenticated:
    return Unauthenticated("The service key is not accepted: it is unknown, expired or revoked. Send a current one.")
