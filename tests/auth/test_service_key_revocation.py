"""A key that is revoked ends the connections that it opened, and asks the database little for that."""

import asyncio

import pytest

from app.auth import service_keys
from app.auth.authenticator import Authenticator
from app.auth.caller import Scope
from app.auth.service_key_cache import CACHE_SECONDS, WATCH_SECONDS, ServiceKeyCache
from app.auth.tokens import TokenRequirements, TokenVerifier
from app.engine.transports.websocket import GraphQLOverWebSocket
from tests.auth.test_service_keys import id_of, statements
from tests.auth.token_issuer import CountingKeys
from tests.engine import sample_schema
from tests.engine.transports import websocket_client

pytestmark = pytest.mark.anyio

OFTEN = 0.02
PROMISED_SECONDS = 5


def test_a_revocation_is_seen_in_time_even_if_it_came_right_after_a_look() -> None:
    assert 2 * WATCH_SECONDS < PROMISED_SECONDS > CACHE_SECONDS


async def test_who_connects_just_before_a_revoked_key_is_forgotten_is_cut_off_by_the_first_look(
    db: str,
) -> None:
    key, seconds = await service_keys.create_key("executor", [Scope.CHARGE]), 0.0
    ring, told = (
        ServiceKeyCache(clock=lambda: seconds, watch_seconds=3600),
        asyncio.Event(),
    )  # no second look comes in time
    await ring.verify(key)
    await service_keys.revoke_key(id_of(key))
    seconds = CACHE_SECONDS - 0.2
    await ring.verify(key)  # still remembered
    ring.watch_revocation(id_of(key), told.set)
    async with asyncio.timeout(2):
        await told.wait()
    await ring.close()


@pytest.fixture
def doorway(monkeypatch: pytest.MonkeyPatch) -> Authenticator:
    """A doorway that looks at live keys often, behind the toy's socket."""
    made = Authenticator(
        TokenVerifier(CountingKeys(()), TokenRequirements.from_settings(sample_schema.settings)),
        ServiceKeyCache(watch_seconds=OFTEN),
    )
    monkeypatch.setattr(
        websocket_client, "sockets", GraphQLOverWebSocket(sample_schema.engine, made, sample_schema.state)
    )
    return made


async def test_a_revoked_key_closes_its_live_connections_with_4403_and_no_others(
    db: str, doorway: Authenticator
) -> None:
    key, other = (
        await service_keys.create_key("executor", [Scope.CHARGE]),
        await service_keys.create_key("scheduler", [Scope.CHARGE]),
    )
    async with (
        websocket_client.accepted() as first,
        websocket_client.accepted() as second,
        websocket_client.accepted() as spared,
    ):
        for client, used in ((first, key), (second, key), (spared, other)):
            await client.init({"token": used})
        await first.subscribe("1", "subscription { forever }")
        await service_keys.revoke_key(id_of(key))
        assert await first.closed() == await second.closed() == (4403, "Forbidden: the key was revoked")
        await spared.say({"type": "ping"})
        assert await spared.said() == {"type": "pong"}
    assert sample_schema.resolver_calls == ["begun", "ended"]
    await doorway.close()


async def test_many_connections_of_a_key_are_one_read_and_none_once_they_have_left(
    db: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = await service_keys.create_key("executor", [Scope.CHARGE])
    ring = ServiceKeyCache(watch_seconds=OFTEN)
    unwatch = [ring.watch_revocation(id_of(key), lambda: None) for _ in range(50)]
    with statements(caplog, "SELECT") as sent:
        await asyncio.sleep(10 * OFTEN)
    assert 1 <= len(sent) <= 11
    for leave in unwatch:
        leave()
    await asyncio.sleep(0)
    with statements(caplog, "SELECT") as sent:
        await asyncio.sleep(3 * OFTEN)
    assert sent == []
    await ring.close()


async def test_each_watch_is_told_once_and_leaving_afterwards_is_harmless(db: str) -> None:
    key = await service_keys.create_key("executor", [Scope.CHARGE])
    ring, told, heard = ServiceKeyCache(watch_seconds=OFTEN), [], asyncio.Event()
    first = ring.watch_revocation(id_of(key), lambda: told.append("first"))
    ring.watch_revocation(id_of(key), heard.set)
    await service_keys.revoke_key(id_of(key))
    async with asyncio.timeout(5):
        await heard.wait()
    first()
    assert told == ["first"]
    await ring.close()


async def test_a_database_that_is_away_cuts_nobody_off(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await service_keys.create_key("executor", [Scope.CHARGE])
    ring, told = ServiceKeyCache(watch_seconds=OFTEN), asyncio.Event()
    read, failures = ring._read, 0

    async def away(key_id: str) -> object:
        nonlocal failures
        failures += 1
        if failures <= 3:
            raise ConnectionRefusedError
        return await read(key_id)

    monkeypatch.setattr(ring, "_read", away)
    ring.watch_revocation(id_of(key), told.set)
    while failures < 3:
        assert not told.is_set()
        await asyncio.sleep(OFTEN)
    await service_keys.revoke_key(id_of(key))
    async with asyncio.timeout(5):
        await told.wait()
    await ring.close()


async def test_a_token_is_not_watched(doorway: Authenticator) -> None:
    doorway.watch_revocation(None, lambda: None)()
    async with websocket_client.accepted() as client:
        await client.init()
        await client.say({"type": "ping"})
        assert await client.said() == {"type": "pong"}
    assert doorway._service_keys._watching == {}
