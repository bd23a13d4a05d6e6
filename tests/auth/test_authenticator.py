"""Authentication by header, token and service key."""

from datetime import timedelta
from pathlib import Path

import pytest

from app.auth import service_keys
from app.auth.authenticator import Authenticator, build_authenticator, key_source
from app.auth.caller import CallerKind
from app.auth.development_keys import user_token
from app.auth.service_key_cache import ServiceKeyCache
from app.auth.tokens import TokenRequirements, TokenVerifier
from app.errors import RejectedCredential
from app.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, environment="development", jwks_url=None)


@pytest.fixture
def authenticator(settings: Settings) -> Authenticator:
    return build_authenticator(settings)


async def test_without_a_header_the_caller_is_anonymous(authenticator: Authenticator) -> None:
    assert await authenticator.authenticate(None) is None


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
async def test_a_bearer_token_authenticates_its_user(
    authenticator: Authenticator, settings: Settings, scheme: str
) -> None:
    caller = await authenticator.authenticate(scheme + user_token("alice", settings=settings))
    assert caller is not None
    assert (caller.kind, caller.actor) == (CallerKind.USER, "user:alice")


async def test_a_bearer_service_key_authenticates_its_service(
    db: None, authenticator: Authenticator, settings: Settings
) -> None:
    key = await service_keys.development_key("executor", settings=settings)
    caller = await authenticator.authenticate(f"Bearer {key}")
    await authenticator.close()
    assert caller is not None
    assert (caller.kind, caller.actor) == (CallerKind.SERVICE, f"service:{key.split('_')[1]}")


@pytest.mark.parametrize(
    "header",
    [
        *("", " ", "Bearer", "Bearer ", "Bearer  ", "Basic YWxpY2U6", "Token abc", "Bearer ck_", "Bearer a b"),
        *("Bearer null", "Bearer a, b", "Bearer é", "Bearer \ud800", "Bearer ck_é", "Bearer\ta.b.c", "\x00"),
    ],
)
async def test_a_malformed_header_is_refused_and_not_anonymous(authenticator: Authenticator, header: str) -> None:
    with pytest.raises(RejectedCredential):
        await authenticator.authenticate(header)


async def test_a_header_needs_the_bearer_scheme(authenticator: Authenticator, settings: Settings) -> None:
    token = user_token("alice", settings=settings)
    with pytest.raises(RejectedCredential, match="without 'Bearer <token or service key>'"):
        await authenticator.authenticate(token)
    assert (await authenticator.authenticate_credential(token)).owner_id == "alice"


@pytest.mark.parametrize(
    ("is_development", "message"),
    [
        (True, "The credential is not accepted: expired token."),
        (False, "The credential is not accepted: sign in again, or send a valid service key."),
    ],
)
async def test_the_reason_of_a_rejection_is_in_the_message_in_development_only(
    settings: Settings, is_development: bool, message: str
) -> None:
    expired = user_token("alice", timedelta(minutes=-1), settings=settings)
    tokens = TokenVerifier(key_source(settings), TokenRequirements.from_settings(settings))
    authenticator = Authenticator(tokens, ServiceKeyCache(), reveals_reasons=is_development)
    with pytest.raises(RejectedCredential) as rejected:
        await authenticator.authenticate(f"Bearer {expired}")
    assert (str(rejected.value), rejected.value.reason) == (message, "expired token")
