"""Revoking a service key closes its live connections, with few reads of the database."""

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
from tests.engine.transports.websocket_client import open_accepted_connection

pytestmark = pytest.mark.anyio

WATCH_INTERVAL = 0.02
PROMISED_SECONDS = 5


def test_a_revocation_right_after_a_read_takes_effect_in_time() -> None:
    assert 2 * WATCH_SECONDS < PROMISED_SECONDS > CACHE_SECONDS


async def test_the_first_read_of_a_watch_is_immediate(
    db: str,
) -> None:
    key, seconds = await service_keys.create_key("executor", [Scope.CHARGE]), 0.0
    cache = ServiceKeyCache(clock=lambda: seconds, watch_seconds=3600)  # there is no second read
    revoked = asyncio.Event()
    await cache.verify(key)
    await service_keys.revoke_key(id_of(key))
    seconds = CACHE_SECONDS - 0.2
    await cache.verify(key)  # from the cache
    cache.watch_revocation(id_of(key), revoked.set)
    async with asyncio.timeout(2):
        await revoked.wait()
    await cache.close()


@pytest.fixture
def authenticator() -> Authenticator:
    """An authenticator that reads the keys of live connections often."""
    return Authenticator(
        TokenVerifier(CountingKeys(()), TokenRequirements.from_settings(sample_schema.settings)),
        ServiceKeyCache(watch_seconds=WATCH_INTERVAL),
    )


@pytest.fixture
def sockets(authenticator: Authenticator) -> GraphQLOverWebSocket:
    return GraphQLOverWebSocket(sample_schema.engine, authenticator, sample_schema.state)


async def test_revoking_a_key_closes_its_connections_with_4403_and_no_others(
    db: str, authenticator: Authenticator, sockets: GraphQLOverWebSocket
) -> None:
    key, other = (
        await service_keys.create_key("executor", [Scope.CHARGE]),
        await service_keys.create_key("scheduler", [Scope.CHARGE]),
    )
    async with (
        open_accepted_connection(sockets) as first,
        open_accepted_connection(sockets) as second,
        open_accepted_connection(sockets) as unaffected,
    ):
        for client, used in ((first, key), (second, key), (unaffected, other)):
            await client.init({"token": used})
        await first.subscribe("1", "subscription { forever }")
        await service_keys.revoke_key(id_of(key))
        assert await first.next_close() == await second.next_close() == (4403, "Forbidden: the key was revoked")
        await unaffected.send({"type": "ping"})
        assert await unaffected.next_message() == {"type": "pong"}
    assert sample_schema.resolver_calls == ["begun", "ended"]
    await authenticator.close()


async def test_the_connections_of_a_key_share_one_read(db: str, caplog: pytest.LogCaptureFixture) -> None:
    key = await service_keys.create_key("executor", [Scope.CHARGE])
    cache = ServiceKeyCache(watch_seconds=WATCH_INTERVAL)
    stops = [cache.watch_revocation(id_of(key), lambda: None) for _ in range(50)]
    with statements(caplog, "SELECT") as sent:
        await asyncio.sleep(10 * WATCH_INTERVAL)
    assert 1 <= len(sent) <= 11
    for stop in stops:
        stop()
    await asyncio.sleep(WATCH_INTERVAL / 2)  # a read in progress ends
    with statements(caplog, "SELECT") as sent:
        await asyncio.sleep(3 * WATCH_INTERVAL)
    assert sent == []
    await cache.close()


async def test_each_watcher_is_called_once_and_may_stop_afterwards(db: str) -> None:
    key = await service_keys.create_key("executor", [Scope.CHARGE])
    cache, revoked, second_revoked = ServiceKeyCache(watch_seconds=WATCH_INTERVAL), [], asyncio.Event()
    first = cache.watch_revocation(id_of(key), lambda: revoked.append("first"))
    cache.watch_revocation(id_of(key), second_revoked.set)
    await service_keys.revoke_key(id_of(key))
    async with asyncio.timeout(5):
        await second_revoked.wait()
    first()
    assert revoked == ["first"]
    await cache.close()


async def test_connections_stay_open_while_the_database_cannot_be_read(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await service_keys.create_key("executor", [Scope.CHARGE])
    cache, revoked = ServiceKeyCache(watch_seconds=WATCH_INTERVAL), asyncio.Event()
    read, failures = cache._read, 0

    async def fail_at_first(key_id: str) -> object:
        nonlocal failures
        failures += 1
        if failures <= 3:
            raise ConnectionRefusedError
        return await read(key_id)

    monkeypatch.setattr(cache, "_read", fail_at_first)
    cache.watch_revocation(id_of(key), revoked.set)
    while failures < 3:
        assert not revoked.is_set()
        await asyncio.sleep(WATCH_INTERVAL)
    await service_keys.revoke_key(id_of(key))
    async with asyncio.timeout(5):
        await revoked.wait()
    await cache.close()


async def test_tokens_are_not_watched(authenticator: Authenticator, sockets: GraphQLOverWebSocket) -> None:
    authenticator.watch_revocation(None, lambda: None)()
    async with open_accepted_connection(sockets) as client:
        await client.init()
        await client.send({"type": "ping"})
        assert await client.next_message() == {"type": "pong"}
    assert authenticator._service_keys._watches == {}
