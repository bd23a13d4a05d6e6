"""One way in for header, token and key."""

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
def chosen(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, environment="development", jwks_url=None)


@pytest.fixture
def doorway(chosen: Settings) -> Authenticator:
    return build_authenticator(chosen)


async def test_without_a_header_the_caller_is_nobody(doorway: Authenticator) -> None:
    assert await doorway.authenticate(None) is None


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
async def test_a_bearer_token_is_its_user(doorway: Authenticator, chosen: Settings, scheme: str) -> None:
    viewer = await doorway.authenticate(scheme + user_token("alice", settings=chosen))
    assert viewer is not None
    assert (viewer.kind, viewer.actor) == (CallerKind.USER, "user:alice")


async def test_a_bearer_service_key_is_its_service(db: None, doorway: Authenticator, chosen: Settings) -> None:
    key = await service_keys.development_key("executor", settings=chosen)
    viewer = await doorway.authenticate(f"Bearer {key}")
    await doorway.close()
    assert viewer is not None
    assert (viewer.kind, viewer.actor) == (CallerKind.SERVICE, f"service:{key.split('_')[1]}")


@pytest.mark.parametrize(
    "header",
    [
        *("", " ", "Bearer", "Bearer ", "Bearer  ", "Basic YWxpY2U6", "Token abc", "Bearer ck_", "Bearer a b"),
        *("Bearer null", "Bearer a, b", "Bearer é", "Bearer \ud800", "Bearer ck_é", "Bearer\ta.b.c", "\x00"),
    ],
)
async def test_a_malformed_header_is_refused_and_never_nobody(doorway: Authenticator, header: str) -> None:
    with pytest.raises(Unauthenticated):
        await doorway.authenticate(header)


async def test_a_bare_token_is_no_header(doorway: Authenticator, chosen: Settings) -> None:
    token = user_token("alice", settings=chosen)
    with pytest.raises(Unauthenticated, match="Send 'Authorization: Bearer"):
        await doorway.authenticate(token)
    assert (await doorway.authenticate_credential(token)).owner_id == "alice"
