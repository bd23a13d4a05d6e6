"""The keys that verify tokens: a remote key set (JWKS), a shared secret, or static keys."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from app.bounded_waits import abandon, wait_at_most
from app.errors import Unavailable

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

REFETCH_SECONDS: Final = 30
"""The minimum interval between fetches. It is long, because anybody can cause a fetch with an unknown key id."""
FIRST_FETCH_RETRY_SECONDS: Final = 1
"""The minimum interval between fetches as long as none has succeeded. Until then, no token can be verified."""
FRESH_SECONDS: Final = 300
"""If the key set is older than this when it is used, it is fetched in the background, to remove withdrawn keys."""
FETCH_TIMEOUT_SECONDS: Final = 5.0
MAX_SET_BYTES: Final = 1 << 20
MIN_RSA_BITS: Final = 2048
FETCH_ERRORS: Final = (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError, TimeoutError)
"""Exceptions of a fetch: there is no response, or the response is not a key set."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, or a shared secret (bytes), with its algorithms. A token with another algorithm is refused."""

    key_id: str | None
    public_key: PublicKey | bytes
    algorithms: tuple[str, ...]


class KeySource(Protocol):
    async def find(self, key_id: str | None) -> VerificationKey | None:
        """Return the key with this id, or the only key if `key_id` is None.

        Raises: Unavailable: no key set has been fetched yet.
        """


class StaticKeys:
    """A list of keys that does not change, such as the development key pair."""

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        self._keys = tuple(keys)

    async def find(self, key_id: str | None) -> VerificationKey | None:
        return _pick(self._keys, key_id)


class SharedSecret:
    """The secret of an issuer that signs with HS256. It is used for tokens with any key id."""

    def __init__(self, secret: bytes) -> None:
        self._key = VerificationKey(None, secret, ("HS256",))

    async def find(self, _key_id: str | None) -> VerificationKey | None:
        return self._key


class RemoteKeySet:
    """The key set (JWKS) of the identity provider, cached.

    Concurrent requests share a fetch. If a fetch fails, the last key set stays in use.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: tuple[VerificationKey, ...] = ()
        self._fetched_at = 0.0
        self._last_attempt_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> VerificationKey | None:
        if not self._keys:
            await self._refetch()
            if not self._keys:
                raise Unavailable("Tokens cannot be verified at the moment: try again shortly.")
        elif self._clock() - self._fetched_at >= FRESH_SECONDS:
            self._start_fetch()
        key = _pick(self._keys, key_id)
        if key is None and key_id is not None:
            await self._refetch()
            key = _pick(self._keys, key_id)
        return key

    async def close(self) -> None:
        if self._fetching is not None:
            abandon(self._fetching)

    async def _refetch(self) -> None:
        """Wait for the fetch in progress, or for a new fetch if the minimum interval has passed."""
        fetching = self._start_fetch()
        if fetching is not None:
            await asyncio.shield(fetching)  # a request that is cancelled must not cancel the fetch of others

    def _start_fetch(self) -> asyncio.Task[None] | None:
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        interval = REFETCH_SECONDS if self._keys else FIRST_FETCH_RETRY_SECONDS
        if self._last_attempt_at is not None and self._clock() - self._last_attempt_at < interval:
            return None
        self._last_attempt_at = self._clock()
        self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            self._keys = await fetch_keys(self._url)
            self._fetched_at = self._clock()
        except FETCH_ERRORS as error:
            effect = "the last good set stays in use" if self._keys else "no token can be verified"
            _log.warning("The key set could not be fetched (%s): %s.", type(error).__name__, effect)


async def fetch_keys(url: str) -> tuple[VerificationKey, ...]:
    """Fetch a key set and return its usable keys. Raises: one of FETCH_ERRORS."""
    # httpx's own timeout restarts with every chunk.
    return parse_key_set(await wait_at_most(FETCH_TIMEOUT_SECONDS, _download(url)))


async def _download(url: str) -> object:
    body = bytearray()
    async with (
        httpx.AsyncClient(timeout=FETCH_TIMEOUT_SECONDS) as client,
        client.stream("GET", url, headers={"accept": "application/json"}) as response,
    ):
        response.raise_for_status()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_SET_BYTES:
                raise ValueError("the key set is too large")
    return json.loads(body)


def parse_key_set(document: object) -> tuple[VerificationKey, ...]:
    """Return the usable keys of a JWKS. Keys for encryption, keys of other families and weak keys are left out.

    Raises: ValueError: it is not a key set, or no key is usable.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a key set: it has no list 'keys'")
    keys = tuple(key for entry in entries if isinstance(entry, dict) and (key := _read_key(entry)) is not None)
    if not keys:
        raise ValueError("the key set has no usable key")
    return keys


_PUBLIC_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "RSA": ("kty", "n", "e"),
    "EC": ("kty", "crv", "x", "y"),
    "OKP": ("kty", "crv", "x"),
}


def _read_key(entry: Mapping[str, object]) -> VerificationKey | None:
    members = _PUBLIC_MEMBERS.get(str(entry.get("kty")))
    if members is None or entry.get("use", "sig") != "sig":
        return None
    try:
        public_key = jwt.PyJWK({name: entry[name] for name in members}).key
    except (KeyError, jwt.PyJWTError, ValueError, TypeError):
        return None
    algorithms = allowed_algorithms(public_key)
    if "alg" in entry:
        algorithms = tuple(algorithm for algorithm in algorithms if algorithm == entry["alg"])
    key_id = entry.get("kid")
    if not algorithms or not isinstance(key_id, str | None):
        return None
    return VerificationKey(key_id, public_key, algorithms)


def allowed_algorithms(public_key: object) -> tuple[str, ...]:
    """Return the algorithms of a key's family. There are none if the key is not accepted."""
    match public_key:
        case RSAPublicKey(key_size=bits) if bits >= MIN_RSA_BITS:
            return ("RS256", "PS256")
        case EllipticCurvePublicKey(curve=curve) if curve.name == "secp256r1":
            return ("ES256",)
        case Ed25519PublicKey():
            return ("EdDSA",)
        case _:
            return ()


def _pick(keys: tuple[VerificationKey, ...], key_id: str | None) -> VerificationKey | None:
    if key_id is None:
        return keys[0] if len(keys) == 1 else None
    return next((key for key in keys if key.key_id == key_id), None)
