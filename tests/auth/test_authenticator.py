"""Authentication by header, token and service key."""

from pathlib import Path

import pytest

from app.auth import service_keys
from app.auth.authenticator import Authenticator, build_authenticator
from app.auth.caller import CallerKind
from app.auth.development_keys import user_token
from app.errors import Unauthenticated
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
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(header)


async def test_a_header_needs_the_bearer_scheme(authenticator: Authenticator, settings: Settings) -> None:
    token = user_token("alice", settings=settings)
    with pytest.raises(Unauthenticated, match="Send 'Authorization: Bearer"):
        await authenticator.authenticate(token)
    assert (await authenticator.authenticate_credential(token)).owner_id == "alice"
