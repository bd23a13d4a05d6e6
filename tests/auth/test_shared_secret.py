"""Tokens signed with a shared secret (HS256): only if it is configured, and then no other key is accepted."""

from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.auth.authenticator import build_authenticator
from app.auth.caller import CallerKind
from app.auth.development_keys import installation_keys, user_token
from app.errors import Misconfigured, RejectedCredential
from app.settings import Settings
from tests.auth.token_issuer import claims, sign

pytestmark = pytest.mark.anyio

SECRET = "0123456789abcdefghijklmnopqrstuv"
NOT_ACCEPTED = "The credential is not accepted"


def settings(directory: Path, **more: object) -> Settings:
    values = {"data_dir": directory, "jwt_issuer": "https://id.example", "jwt_hs256_secret": SECRET, "jwks_url": None}
    return Settings.model_validate(values | more)


def signed(
    secret: str = SECRET,
    *,
    algorithm: str = "HS256",
    headers: dict[str, Any] | None = None,
    without: str | None = None,
) -> str:
    return jwt.encode(claims(without=without), secret, algorithm=algorithm, headers=headers)


@pytest.mark.parametrize("environment", ["development", "production"])
@pytest.mark.parametrize("headers", [None, {"kid": "any"}], ids=["no key id", "a key id"])
async def test_a_token_signed_with_the_secret_is_accepted(
    tmp_path: Path, environment: str, headers: dict[str, Any] | None
) -> None:
    caller = await build_authenticator(settings(tmp_path, environment=environment)).authenticate_credential(
        signed(headers=headers)
    )
    assert (caller.kind, caller.actor) == (CallerKind.USER, "user:alice")


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_other_hmac_algorithms_are_refused(tmp_path: Path, algorithm: str) -> None:
    with pytest.raises(RejectedCredential, match=NOT_ACCEPTED):
        await build_authenticator(settings(tmp_path)).authenticate_credential(signed(SECRET * 2, algorithm=algorithm))


async def test_another_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RejectedCredential, match=NOT_ACCEPTED):
        await build_authenticator(settings(tmp_path)).authenticate_credential(signed(SECRET[::-1]))


@pytest.mark.parametrize("without", ["exp", "iat", "sub", "iss"])
async def test_every_required_claim_is_required(tmp_path: Path, without: str) -> None:
    with pytest.raises(RejectedCredential, match=f"not accepted: token without the claim {without}"):
        await build_authenticator(settings(tmp_path)).authenticate_credential(signed(without=without))


async def test_with_a_secret_no_other_key_is_accepted(tmp_path: Path) -> None:
    authenticator = build_authenticator(settings(tmp_path))
    development = installation_keys(settings(tmp_path)).token("alice", settings(tmp_path))
    for token in (development, sign(Ed25519PrivateKey.generate(), claims(), algorithm="EdDSA")):
        with pytest.raises(RejectedCredential, match=NOT_ACCEPTED):
            await authenticator.authenticate_credential(token)


async def test_without_the_setting_hs256_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RejectedCredential, match=NOT_ACCEPTED):
        await build_authenticator(settings(tmp_path, jwt_hs256_secret=None)).authenticate_credential(signed())


def test_a_key_set_and_a_secret_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="JWKS_URL and JWT_HS256_SECRET are both set"):
        build_authenticator(settings(tmp_path, jwks_url="https://id.example/keys"))


@pytest.mark.parametrize("secret", ["a" * 64, "ab" * 32, "äöü" * 11])
def test_a_secret_that_is_easy_to_guess_is_refused(tmp_path: Path, secret: str) -> None:
    with pytest.raises(Misconfigured, match="must have at least 32 random bytes"):
        build_authenticator(settings(tmp_path, jwt_hs256_secret=secret))


def test_a_short_secret_is_an_invalid_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 32"):
        settings(tmp_path, jwt_hs256_secret=SECRET[:31])


def test_the_repr_of_the_settings_contains_no_secret(tmp_path: Path) -> None:
    assert SECRET not in repr(settings(tmp_path))


def test_with_a_secret_the_server_issues_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="JWT_HS256_SECRET is set"):
        user_token("alice", settings=settings(tmp_path))
