"""The development key pair and secret, so that a fresh clone works without an identity provider.

They are stored in the file `development-keys.json` in the data directory. Only the user of the server can read the
file. All processes of the installation share it. Unless LEDGER_KEY is set, the ledger key is derived from the secret:
without the file, existing entries can no longer be verified.
"""

import hmac
import json
import logging
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Final, Self

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from app.auth.jwks import VerificationKey, allowed_algorithms
from app.auth.tokens import utc_now
from app.credits import check_key
from app.errors import Misconfigured
from app.settings import Settings, data_directory, get_settings

FILE_NAME: Final = "development-keys.json"
TOKEN_LIFETIME: Final = timedelta(hours=12)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DevelopmentKeys:
    key_id: str
    private_key: Ed25519PrivateKey = field(repr=False)
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        return cls(f"development-{secrets.token_hex(4)}", Ed25519PrivateKey.generate(), secrets.token_bytes(32))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the text that `to_json` has written. Raises: ValueError: the text is invalid."""
        match json.loads(text):
            case {"key_id": str(key_id), "private_key": str(pem), "secret": str(secret)}:
                private_key = load_pem_private_key(pem.encode(), password=None)
                if isinstance(private_key, Ed25519PrivateKey) and len(bytes.fromhex(secret)) >= 32:
                    return cls(key_id, private_key, bytes.fromhex(secret))
        raise ValueError("not a development keys file")

    def to_json(self) -> str:
        pem = self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return json.dumps({"key_id": self.key_id, "private_key": pem, "secret": self.secret.hex()}, indent=2)

    def verification_key(self) -> VerificationKey:
        public_key = self.private_key.public_key()
        return VerificationKey(self.key_id, public_key, allowed_algorithms(public_key))

    def secret_for(self, purpose: str) -> bytes:
        """Derive 32 bytes, the same in every process of this installation and different for each purpose."""
        return hmac.digest(self.secret, purpose.encode(), "sha256")

    def token(
        self,
        name: str,
        settings: Settings,
        lifetime: timedelta = TOKEN_LIFETIME,
        *,
        roles: Iterable[str] = (),
        organisations: Iterable[str] = (),
    ) -> str:
        """Issue a token in place of an identity provider. Raises: InvalidInput: the name is not a valid owner id."""
        issued_at = utc_now()
        claims = {
            "sub": check_key(name, path="name"),
            "iss": settings.jwt_issuer,
            "aud": settings.jwt_audience,
            "iat": issued_at,
            "exp": issued_at + lifetime,
            settings.jwt_roles_claim: sorted(roles),
            settings.jwt_organisations_claim: sorted(organisations),
        }
        return jwt.encode(claims, self.private_key, algorithm="EdDSA", headers={"kid": self.key_id})


@cache
def load_or_create_keys(directory: Path) -> DevelopmentKeys:
    """Return the keys in this directory. The first call creates them. Raises: Misconfigured: the file is damaged."""
    path = directory / FILE_NAME
    if not path.exists():
        write_if_missing(path, DevelopmentKeys.generate().to_json())
    if path.stat().st_mode & 0o077:
        _log.warning("%s was readable by other users: its permissions were restricted to this user.", FILE_NAME)
        path.chmod(0o600)
    try:
        return DevelopmentKeys.from_json(path.read_text())
    except ValueError as error:
        raise Misconfigured(
            f"{path} is damaged. Restore a copy; without one, delete it together with the development database, whose "
            "entries can be verified only with a key derived from this file."
        ) from error


def installation_keys(settings: Settings | None = None) -> DevelopmentKeys:
    """Return the keys of this installation. Raises: Misconfigured: in production, or the file is damaged."""
    settings = settings or get_settings()
    if settings.environment == "production":
        raise Misconfigured("ENVIRONMENT is production: development keys and secrets are not used; set your own.")
    return load_or_create_keys(data_directory(settings))


def user_token(
    name: str,
    lifetime: timedelta = TOKEN_LIFETIME,
    *,
    organisations: Iterable[str] = (),
    settings: Settings | None = None,
) -> str:
    """Issue a token for a user of this development server, who may read the accounts of `organisations`."""
    settings = settings or get_settings()
    return _issuer(settings).token(name, settings, lifetime, organisations=organisations)


def operator_token(name: str, lifetime: timedelta = TOKEN_LIFETIME, *, settings: Settings | None = None) -> str:
    """Issue a token for an operator of this development server."""
    settings = settings or get_settings()
    return _issuer(settings).token(name, settings, lifetime, roles=[settings.jwt_admin_role])


def development_secret(purpose: str, *, settings: Settings | None = None) -> bytes:
    """Derive 32 bytes for this purpose, to replace a secret that is not set. Raises: Misconfigured: in production."""
    return installation_keys(settings).secret_for(purpose)


def issues_development_tokens(settings: Settings) -> bool:
    """Return whether this server issues tokens, because no identity provider is configured."""
    return settings.jwks_url is None and settings.jwt_hs256_secret is None


def _issuer(settings: Settings) -> DevelopmentKeys:
    if not issues_development_tokens(settings):
        name = "JWKS_URL" if settings.jwks_url is not None else "JWT_HS256_SECRET"
        raise Misconfigured(f"{name} is set: tokens are issued by your identity provider, not by this server.")
    return installation_keys(settings)


def write_if_missing(path: Path, text: str) -> None:
    """Write a file atomically, unless it exists. If several processes call this, the file of the first one is kept."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)  # unlike a rename, it fails if the file exists
    except FileExistsError:
        pass
    finally:
        draft.unlink()
