"""Authentication of requests over every transport: finds the caller of a credential."""

from collections.abc import Callable
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from app.auth.caller import Caller, CallerKind
from app.auth.development_keys import installation_keys
from app.auth.jwks import KeySource, RemoteKeySet, SharedSecret, StaticKeys
from app.auth.service_key_cache import BeforeRead, OnRevoked, ServiceKeyCache
from app.auth.service_keys import KEY_PREFIX
from app.auth.tokens import TokenRequirements, TokenVerifier, utc_now
from app.errors import Misconfigured, RejectedCredential
from app.settings import Settings

MIN_SECRET_BYTES: Final = 32
MIN_DISTINCT_BYTES: Final = 10


class Authenticator:
    """Authenticates requests. `build_authenticator` creates one per process."""

    def __init__(
        self,
        tokens: TokenVerifier,
        service_keys: ServiceKeyCache,
        remote_keys: RemoteKeySet | None = None,
        *,
        reveals_reasons: bool = False,
    ) -> None:
        """`reveals_reasons` says whether the message for a rejected credential contains the reason."""
        self._tokens = tokens
        self._service_keys = service_keys
        self._remote_keys = remote_keys
        self._reveals_reasons = reveals_reasons

    async def authenticate(self, authorization: str | None, before_read: BeforeRead = lambda: None) -> Caller | None:
        """Return the caller of an Authorization header, or None if there is no header.

        For a WebSocket, `authorization` may be a text of the same format in connection_init. `before_read` is called
        before a service key is looked up in the database. A key that is in the cache of accepted keys is not looked up.

        Raises: RejectedCredential; Unavailable: no token can be verified at the moment.
        """
        if authorization is None:
            return None
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() != "bearer":
            credential = ""
        return await self.authenticate_credential(credential.strip(" "), before_read)

    async def authenticate_credential(self, credential: str, before_read: BeforeRead = lambda: None) -> Caller:
        """Return the caller of a token or service key. Raises: the errors of `authenticate`."""
        try:
            if not credential:
                raise RejectedCredential("Authorization header without 'Bearer <token or service key>'")
            if credential.startswith(KEY_PREFIX):
                return await self._service_keys.verify(credential, before_read)
            return await self._tokens.verify(credential)
        except RejectedCredential as rejected:
            if self._reveals_reasons:
                rejected.reveal_reason()
            raise

    def watch_revocation(self, caller: Caller | None, on_revoked: OnRevoked) -> Callable[[], None]:
        """Call `on_revoked` when the caller's service key is revoked. Return a function that stops watching.

        Tokens cannot be revoked. `Caller.expires_at` says when a token or key expires.
        """
        if caller is None or caller.kind is not CallerKind.SERVICE or caller.key_id is None:
            return _nothing_to_stop
        return self._service_keys.watch_revocation(caller.key_id, on_revoked)

    async def close(self) -> None:
        """Stop reading keys. Must be called before the database pools are closed."""
        await self._service_keys.close()
        if self._remote_keys is not None:
            await self._remote_keys.close()


def has_service_key(authorization: str | None) -> bool:
    """Return whether an Authorization header has a service key, valid or not."""
    return authorization is not None and authorization.partition(" ")[2].lstrip(" ").startswith(KEY_PREFIX)


def _nothing_to_stop() -> None:
    pass


def build_authenticator(settings: Settings, *, now: Callable[[], datetime] = utc_now) -> Authenticator:
    """Build the authenticator for these settings. Raises: Misconfigured: see `key_source`."""
    keys = key_source(settings)
    remote_keys = keys if isinstance(keys, RemoteKeySet) else None
    tokens = TokenVerifier(keys, TokenRequirements.from_settings(settings), now=now)
    is_development = settings.environment == "development"
    return Authenticator(tokens, ServiceKeyCache(now=now), remote_keys, reveals_reasons=is_development)


def key_source(settings: Settings) -> KeySource:
    """Return the keys that verify tokens: a key set (JWKS), a shared secret, or the development key pair.

    Raises: Misconfigured: both a key set and a secret are configured; in production, neither is; the secret is weak; or
    the URL is not https.
    """
    secret = settings.jwt_hs256_secret
    if settings.jwks_url is not None:
        if secret is not None:
            raise Misconfigured(
                "JWKS_URL and JWT_HS256_SECRET are both set: use JWT_HS256_SECRET only if your identity provider has "
                "no key set."
            )
        return RemoteKeySet(_trusted_url(settings.jwks_url, settings))
    if secret is not None:
        return SharedSecret(_strong_secret(secret.get_secret_value().encode()))
    if settings.environment == "production":
        raise Misconfigured("JWKS_URL is not set: production requires the URL of your identity provider's key set.")
    return StaticKeys([installation_keys(settings).verification_key()])


def _strong_secret(secret: bytes) -> bytes:
    """Return the secret. Raises: Misconfigured: it is weak.

    A weak secret can be guessed offline from one token. Whoever has the secret can issue operator tokens.
    """
    if len(secret) >= MIN_SECRET_BYTES and len(set(secret)) >= MIN_DISTINCT_BYTES:
        return secret
    raise Misconfigured("JWT_HS256_SECRET must have at least 32 random bytes: generate it with `openssl rand -hex 32`.")


def _trusted_url(url: str, settings: Settings) -> str:
    """Return the URL. Raises: Misconfigured: without https, another machine on the network could forge the key set."""
    address = urlsplit(url)
    is_local = address.hostname in {"localhost", "127.0.0.1", "::1"}
    if address.scheme == "https" or (address.scheme == "http" and (is_local or settings.environment == "development")):
        return url
    raise Misconfigured("JWKS_URL must be an https URL: whoever can change the key set can issue any token.")
