"""Users' and operators' tokens: a JWT in, a viewer out."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

import jwt

from app.auth.caller import Caller, CallerKind, Scope
from app.auth.jwks import KeySource
from app.credits import check_key
from app.errors import InvalidInput, Unauthenticated
from app.settings import Settings

REQUIRED_CLAIMS: Final = ("exp", "iat", "sub", "aud", "iss")
CLOCK_SKEW: Final = timedelta(seconds=5)
"""How far the clocks of issuer and server may differ."""
MAX_TOKEN_LENGTH: Final = 8192
TOKEN_CACHE_SIZE: Final = 10_000
TOKEN_CACHE_LIFETIME: Final = timedelta(minutes=5)
"""A remembered token is checked again after this, so that a key withdrawn by the issuer stops counting."""


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequirements:
    """What a token has to say, and where in it roles and organisations stand."""

    issuer: str
    audience: str
    admin_role: str
    roles_claim: str = "roles"
    organisations_claim: str = "organisations"

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            admin_role=settings.jwt_admin_role,
            roles_claim=settings.jwt_roles_claim,
            organisations_claim=settings.jwt_organisations_claim,
        )


@dataclass(frozen=True, slots=True)
class _Remembered:
    caller: Caller
    ends_at: datetime
    verified_at: datetime


class TokenVerifier:
    """Checks tokens, and remembers the ones that passed: an RSA signature costs some 50 µs, a look-up one."""

    def __init__(
        self,
        keys: KeySource,
        requirements: TokenRequirements,
        *,
        now: Callable[[], datetime] = utc_now,
        cache_size: int = TOKEN_CACHE_SIZE,
    ) -> None:
        self._keys = keys
        self._expected = requirements
        self._now = now
        self._limit = cache_size
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()

    async def verify(self, token: str) -> Caller:
        """The token's user or operator. Raises: Unauthenticated; Unavailable while no keys could be fetched."""
        if len(token) > MAX_TOKEN_LENGTH or not token.isascii():
            raise _not_accepted()
        digest = hashlib.sha256(token.encode()).digest()
        known = self._remembered.get(digest)
        if known is None or self._now() - known.verified_at >= TOKEN_CACHE_LIFETIME:
            verified_at = self._now()
            viewer, ends_at = await self._check(token)
            known = _Remembered(viewer, ends_at, verified_at)
        if self._now() >= known.ends_at:
            self._remembered.pop(digest, None)
            raise _expired()
        self._remembered[digest] = known
        self._remembered.move_to_end(digest)
        if len(self._remembered) > self._limit:
            self._remembered.popitem(last=False)
        return known.caller

    async def _check(self, token: str) -> tuple[Caller, datetime]:
        try:
            key = await self._keys.find(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                raise _not_accepted()
            claims = jwt.decode(
                token,
                key.public_key,
                algorithms=list(key.algorithms),
                issuer=self._expected.issuer,
                audience=self._expected.audience,
                leeway=CLOCK_SKEW,
                options={"require": list(REQUIRED_CLAIMS)},
            )
            expires_at = datetime.fromtimestamp(int(claims["exp"]), UTC)
            return _viewer(claims, self._expected, expires_at, key.key_id), expires_at + CLOCK_SKEW
        except jwt.ExpiredSignatureError:
            raise _expired() from None
        except jwt.MissingRequiredClaimError as error:  # raised only after the signature has been found good
            raise Unauthenticated(
                f"The token has no {error.claim!r} claim: it needs {', '.join(REQUIRED_CLAIMS)}."
            ) from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError, OSError):
            # Beside PyJWT's own errors: deep JSON, endless numbers and instants no calendar has, in header or claims.
            raise _not_accepted() from None


def _viewer(claims: Mapping[str, Any], expected: TokenRequirements, expires_at: datetime, key_id: str | None) -> Caller:
    try:
        owner_id = check_key(claims["sub"], path="sub")
    except InvalidInput as refusal:
        raise Unauthenticated(f"The token cannot be used: {refusal.message}.") from None
    operator = expected.admin_role in _names(claims, expected.roles_claim)
    kind = CallerKind.OPERATOR if operator else CallerKind.USER
    return Caller(
        kind=kind,
        actor=f"{kind}:{owner_id}",
        owner_id=owner_id,
        organisations=_names(claims, expected.organisations_claim),
        scopes=frozenset({Scope.ADMIN}) if operator else frozenset(),
        expires_at=expires_at,
        key_id=key_id,
    )


def _names(claims: Mapping[str, Any], claim: str) -> frozenset[str]:
    """A claim that lists names; one string is one name (compared whole, never searched for a part)."""
    match claims.get(claim):
        case None:
            return frozenset()
        case str() as name:
            return frozenset({name})
        case list() as names if all(isinstance(name, str) for name in names):
            return frozenset(names)
        case _:
            raise Unauthenticated(f"The token cannot be used: {claim!r} must be a list of strings.")


def _expired() -> Unauthenticated:
    return Unauthenticated("The token has expired: sign in again and send the new one.")


def _not_accepted() -> Unauthenticated:
    return Unauthenticated("The token is not accepted: sign in again and send it as 'Authorization: Bearer <token>'.")
