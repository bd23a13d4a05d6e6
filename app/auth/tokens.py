"""Verification of the tokens (JWTs) of users and operators."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import jwt
from jwt.exceptions import InvalidSubjectError

from app.auth.caller import Caller, CallerKind, Scope
from app.auth.jwks import KeySource
from app.credits import is_key
from app.errors import RejectedCredential
from app.settings import Settings

REQUIRED_CLAIMS: Final = ("exp", "iat", "sub", "iss")
"""The claim with the audience (JWT_AUDIENCE_CLAIM) is required too."""
CLOCK_SKEW: Final = timedelta(seconds=5)
"""The clocks of issuer and server may differ by this time."""
MAX_TOKEN_LENGTH: Final = 8192
TOKEN_CACHE_SIZE: Final = 10_000
TOKEN_CACHE_LIFETIME: Final = timedelta(minutes=5)
"""A cached token is verified again after this time, so that a token is refused if its key was withdrawn."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequirements:
    """The values that a token must have, and the paths of its claims with audience, roles and organisations."""

    issuer: str
    audience: str
    admin_role: str
    audience_claim: str = "aud"
    roles_claim: str = "roles"
    organisations_claim: str = "organisations"

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            admin_role=settings.jwt_admin_role,
            audience_claim=settings.jwt_audience_claim,
            roles_claim=settings.jwt_roles_claim,
            organisations_claim=settings.jwt_organisations_claim,
        )


@dataclass(frozen=True, slots=True)
class _CachedToken:
    caller: Caller
    expires_at: datetime
    """The expiry of the token plus the clock skew."""
    verified_at: datetime


class TokenVerifier:
    """Verifies tokens and caches valid ones. Verifying an RSA signature takes about 50 µs, reading the cache 1 µs."""

    def __init__(
        self,
        keys: KeySource,
        requirements: TokenRequirements,
        *,
        now: Callable[[], datetime] = utc_now,
        cache_size: int = TOKEN_CACHE_SIZE,
    ) -> None:
        self._keys = keys
        self._requirements = requirements
        self._now = now
        self._cache_size = cache_size
        self._cache: OrderedDict[bytes, _CachedToken] = OrderedDict()

    async def verify(self, token: str) -> Caller:
        """Return the user or operator of a token.

        Raises: RejectedCredential; Unavailable: no key set was fetched yet.
        """
        if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            raise RejectedCredential("malformed token")
        digest = hashlib.sha256(token.encode()).digest()
        cached = self._cache.get(digest)
        if cached is None or self._now() - cached.verified_at >= TOKEN_CACHE_LIFETIME:
            verified_at = self._now()
            caller, expires_at = await self._decode(token)
            cached = _CachedToken(caller, expires_at, verified_at)
        if self._now() >= cached.expires_at:
            self._cache.pop(digest, None)
            raise RejectedCredential("expired token")
        self._cache[digest] = cached
        self._cache.move_to_end(digest)
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return cached.caller

    async def _decode(self, token: str) -> tuple[Caller, datetime]:
        """Return the caller, and the expiry of the token plus the clock skew. Raises: the errors of `verify`."""
        try:
            key = await self._keys.find(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                raise RejectedCredential("unknown signing key")
            claims = jwt.decode(
                token,
                key.public_key,
                algorithms=list(key.algorithms),
                issuer=self._requirements.issuer,
                leeway=CLOCK_SKEW,
                options={"require": list(REQUIRED_CLAIMS), "verify_aud": False, "verify_jti": False},
            )
            expires_at = datetime.fromtimestamp(int(claims["exp"]), UTC)
            return _to_caller(claims, self._requirements, expires_at, key.key_id), expires_at + CLOCK_SKEW
        except jwt.MissingRequiredClaimError as error:
            raise RejectedCredential(f"token without the claim {error.claim}") from None
        except jwt.PyJWTError as error:
            reason = next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), "malformed token")
            raise RejectedCredential(reason) from None
        except (ValueError, TypeError, OverflowError, RecursionError, OSError):
            # The causes are deeply nested JSON, huge numbers and invalid times, in header or claims.
            raise RejectedCredential("malformed token") from None


_REASONS: Final[Mapping[type[jwt.PyJWTError], str]] = {
    jwt.InvalidSignatureError: "bad signature",
    jwt.InvalidAlgorithmError: "signature algorithm that does not fit the key",
    jwt.ExpiredSignatureError: "expired token",
    jwt.ImmatureSignatureError: "token that is not valid yet",
    jwt.InvalidIssuerError: "wrong issuer (JWT_ISSUER)",
    InvalidSubjectError: "invalid sub claim",
}


def _to_caller(
    claims: Mapping[str, Any], requirements: TokenRequirements, expires_at: datetime, key_id: str | None
) -> Caller:
    if requirements.audience not in _names(claims, requirements.audience_claim):
        raise RejectedCredential("wrong audience (JWT_AUDIENCE)")
    owner_id = str(claims["sub"])
    if not is_key(owner_id):
        raise RejectedCredential("sub claim that is not 1 to 255 visible characters")
    is_operator = requirements.admin_role in _names(claims, requirements.roles_claim)
    kind = CallerKind.OPERATOR if is_operator else CallerKind.USER
    return Caller(
        kind=kind,
        actor=f"{kind}:{owner_id}",
        owner_id=owner_id,
        # No account can belong to an invalid id, and PostgreSQL would refuse some of them.
        organisations=frozenset(filter(is_key, _names(claims, requirements.organisations_claim))),
        scopes=frozenset({Scope.ADMIN}) if is_operator else frozenset(),
        expires_at=expires_at,
        key_id=key_id,
    )


def _names(claims: Mapping[str, Any], path: str) -> frozenset[str]:
    """Return the names in a claim: a string, the strings of a list, or the keys of an object.

    Keys of an object whose value is false or null are left out. A claim of another type contains no names.
    """
    match _find_claim(claims, path):
        case str() as name:
            return frozenset({name})
        case list() as names:
            return frozenset(name for name in names if isinstance(name, str))
        case dict() as names:
            return frozenset(name for name, value in names.items() if value is not False and value is not None)
        case _:
            return frozenset()


def _find_claim(claims: Mapping[str, Any], path: str) -> object:
    """Return the claim at a dotted path, such as `realm_access.roles`, or None if it does not exist.

    Names may contain dots, such as `https://app.example/roles`. The longest name that exists is used.
    """
    if path in claims:
        return claims[path]
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        if isinstance(outer := claims.get(".".join(parts[:length])), dict):
            return _find_claim(outer, ".".join(parts[length:]))
    return None
