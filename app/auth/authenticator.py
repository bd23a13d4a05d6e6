"""The one way in: what a request brought becomes a viewer, over HTTP, WebSocket and SSE alike."""

from collections.abc import Callable
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from app.auth.caller import Caller, CallerKind
from app.auth.development_keys import installation_keys
from app.auth.jwks import KeySource, RemoteKeySet, SharedSecret, StaticKeys
from app.auth.service_key_cache import OnRevoked, ServiceKeyCache
from app.auth.service_keys import KEY_PREFIX
from app.auth.tokens import TokenRequirements, TokenVerifier, utc_now
from app.errors import Misconfigured, Unauthenticated
from app.settings import Settings

MIN_SECRET_BYTES: Final = 32
MIN_DISTINCT_BYTES: Final = 10


class Authenticator:
    """Made once per process, by `open_doorway`."""

    def __init__(
        self, tokens: TokenVerifier, service_keys: ServiceKeyCache, remote: RemoteKeySet | None = None
    ) -> None:
        self._tokens = tokens
        self._service_keys = service_keys
        self._remote = remote

    async def authenticate(self, authorization: str | None) -> Caller | None:
        """Who sent this Authorization header (or the same text in connection_init); None: nobody, there was none.

        Raises: Unauthenticated: it is malformed or not accepted. Unavailable: tokens cannot be checked at the moment.
        """
        if authorization is None:
            return None
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("Send 'Authorization: Bearer <token or service key>', or nothing at all.")
        return await self.authenticate_credential(credential.strip(" "))

    async def authenticate_credential(self, credential: str) -> Caller:
        """Who a bare token or service key belongs to. Raises as `identify` does."""
        if credential.startswith(KEY_PREFIX):
            return await self._service_keys.verify(credential)
        return await self._tokens.verify(credential)

    def watch_revocation(self, caller: Caller | None, on_revoked: OnRevoked) -> Callable[[], None]:
        """For a live connection: `ended` is called when the viewer's proof is withdrawn. Returns: what ends the watch.

        A token's end, and a key's expiry, are instants that the viewer knows (`expires_at`): only a key is withdrawn.
        """
        if caller is None or caller.kind is not CallerKind.SERVICE or caller.key_id is None:
            return _nothing
        return self._service_keys.watch_revocation(caller.key_id, on_revoked)

    async def close(self) -> None:
        """Before the database closes."""
        await self._service_keys.close()
        if self._remote is not None:
            await self._remote.close()


def has_service_key(authorization: str | None) -> bool:
    """Whether this is meant for a service key. Whether one counts is what `Doorway.identify` says."""
    return authorization is not None and authorization.partition(" ")[2].lstrip(" ").startswith(KEY_PREFIX)


def _nothing() -> None:
    """The end of a watch that never began."""


def build_authenticator(settings: Settings, *, now: Callable[[], datetime] = utc_now) -> Authenticator:
    """The doorway these settings ask for. Raises: Misconfigured: production without keys it can trust."""
    keys = key_source(settings)
    remote = keys if isinstance(keys, RemoteKeySet) else None
    return Authenticator(
        TokenVerifier(keys, TokenRequirements.from_settings(settings), now=now), ServiceKeyCache(now=now), remote
    )


def key_source(settings: Settings) -> KeySource:
    """One kind of key and no other: the identity provider's, a shared secret by choice, or development's own.

    Raises: Misconfigured.
    """
    secret = settings.jwt_hs256_secret
    if settings.jwks_url is not None:
        if secret is not None:
            raise Misconfigured(
                "JWKS_URL and JWT_HS256_SECRET are both set: tokens are signed in one way. Leave out the secret unless "
                "your identity provider has no key set."
            )
        return RemoteKeySet(_trusted(settings.jwks_url, settings))
    if secret is not None:
        return SharedSecret(_strong(secret.get_secret_value().encode()))
    if settings.environment == "production":
        raise Misconfigured("JWKS_URL is not set: production needs the address of your identity provider's key set.")
    return StaticKeys([installation_keys(settings).verification_key()])


def _strong(secret: bytes) -> bytes:
    """The secret, if nobody guesses it offline from one token: whoever has it can be anybody, operators too."""
    if len(secret) >= MIN_SECRET_BYTES and len(set(secret)) >= MIN_DISTINCT_BYTES:
        return secret
    raise Misconfigured("JWT_HS256_SECRET must be at least 32 random bytes: make one with `openssl rand -hex 32`.")


def _trusted(url: str, settings: Settings) -> str:
    """The address, if whoever sits on the network between cannot answer in its place."""
    address = urlsplit(url)
    local = address.hostname in {"localhost", "127.0.0.1", "::1"}
    if address.scheme == "https" or (address.scheme == "http" and (local or settings.environment == "development")):
        return url
    raise Misconfigured("JWKS_URL must be an https address: whoever can change the key set can be anybody.")
