"""One way in for header, token and key."""

from pathlib import Path

import pytest

from app.callers import keys
from app.callers.development import user_token
from app.callers.doorway import Doorway, open_doorway
from app.callers.rules import Kind
from app.errors import Unauthenticated
from app.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, environment="development", jwks_url=None)


@pytest.fixture
def doorway(chosen: Settings) -> Doorway:
    return open_doorway(chosen)


async def test_without_a_header_the_caller_is_nobody(doorway: Doorway) -> None:
    assert await doorway.identify(None) is None


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
async def test_a_bearer_token_is_its_user(doorway: Doorway, chosen: Settings, scheme: str) -> None:
    viewer = await doorway.identify(scheme + user_token("alice", chosen=chosen))
    assert viewer is not None
    assert (viewer.kind, viewer.actor) == (Kind.USER, "user:alice")


async def test_a_bearer_service_key_is_its_service(db: None, doorway: Doorway, chosen: Settings) -> None:
    key = await keys.development_key("executor", chosen=chosen)
    viewer = await doorway.identify(f"Bearer {key}")
    await doorway.close()
    assert viewer is not None
    assert (viewer.kind, viewer.actor) == (Kind.SERVICE, f"service:{key.split('_')[1]}")


@pytest.mark.parametrize(
    "header",
    [
        *("", " ", "Bearer", "Bearer ", "Bearer  ", "Basic YWxpY2U6", "Token abc", "Bearer ck_", "Bearer a b"),
        *("Bearer null", "Bearer a, b", "Bearer é", "Bearer \ud800", "Bearer ck_é", "Bearer\ta.b.c", "\x00"),
    ],
)
async def test_a_malformed_header_is_refused_and_never_nobody(doorway: Doorway, header: str) -> None:
    with pytest.raises(Unauthenticated):
        await doorway.identify(header)


async def test_a_bare_token_is_no_header(doorway: Doorway, chosen: Settings) -> None:
    token = user_token("alice", chosen=chosen)
    with pytest.raises(Unauthenticated, match="Send 'Authorization: Bearer"):
        await doorway.identify(token)
    assert (await doorway.admit(token)).owner_id == "alice"
