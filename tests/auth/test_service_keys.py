"""Service keys in a database: creation, verification, revocation, last use."""

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from app.auth import service_key_cache, service_keys
from app.auth.authenticator import build_authenticator
from app.auth.caller import Caller, CallerKind, Scope
from app.auth.models import ServiceKey
from app.auth.service_key_cache import ServiceKeyCache
from app.db import failures
from app.errors import InvalidInput, Misconfigured, Unauthenticated
from app.settings import Settings

pytestmark = pytest.mark.anyio

EXECUTOR = (Scope.CHARGE, Scope.READ)


class Clock:
    """A clock for the cache, in seconds and as the time of day."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.start = datetime.now(UTC)

    def cache(self, size: int = 100) -> ServiceKeyCache:
        return ServiceKeyCache(
            clock=lambda: self.seconds,
            now=lambda: self.start + timedelta(seconds=self.seconds),
            cache_size=size,
        )


def id_of(key: str) -> str:
    return key.split("_")[1]


@contextmanager
def statements(caplog: pytest.LogCaptureFixture, verb: str) -> Iterator[list[str]]:
    """The statements that Tortoise sends within the block and that start with `verb`."""
    sent: list[str] = []
    before = len(caplog.records)
    with caplog.at_level(logging.DEBUG, logger="tortoise.db_client"):
        yield sent
    sent += [text for record in caplog.records[before:] if (text := record.getMessage()).startswith(verb)]


async def refused(cache: ServiceKeyCache, key: str) -> str:
    with pytest.raises(Unauthenticated) as error:
        await cache.verify(key)
    await cache.close()
    return str(error.value)


NOT_ACCEPTED = "The credential is not accepted: sign in again, or send a valid service key."


async def test_a_key_authenticates_a_service_with_its_scopes(db: None) -> None:
    key = await service_keys.create_key("executor", EXECUTOR)
    cache = ServiceKeyCache()
    caller = await cache.verify(key)
    await cache.close()
    assert re.fullmatch(r"ck_[0-9a-f]{16}_[0-9a-f]{64}", key)
    assert caller == Caller(
        kind=CallerKind.SERVICE, actor=f"service:{id_of(key)}", scopes=frozenset(EXECUTOR), key_id=id_of(key)
    )


async def test_only_the_hash_of_the_secret_is_stored(db: None) -> None:
    key = await service_keys.create_key("executor", EXECUTOR)
    row = await ServiceKey.get(id=id_of(key))
    assert bytes(row.secret_hash) == sha256(bytes.fromhex(key.split("_")[2])).digest()
    assert (row.name, row.scopes, row.expires_at, row.revoked_at, row.last_used_at) == (
        "executor",
        ["charge", "read"],
        None,
        None,
        None,
    )


async def test_two_keys_of_one_name_are_valid_for_a_rotation(db: None) -> None:
    old, new = await service_keys.create_key("executor", EXECUTOR), await service_keys.create_key("executor", EXECUTOR)
    cache = ServiceKeyCache()
    assert {(await cache.verify(key)).key_id for key in (old, new)} == {id_of(old), id_of(new)}
    await service_keys.revoke_key(id_of(old))
    fresh = ServiceKeyCache()
    assert await refused(fresh, old) == NOT_ACCEPTED
    assert (await fresh.verify(new)).key_id == id_of(new)
    await asyncio.gather(cache.close(), fresh.close())


@pytest.mark.parametrize("change", ["first", "last", "id", "unknown"])
async def test_a_wrong_secret_and_a_wrong_id_have_the_same_message(db: None, change: str) -> None:
    key, other = (
        await service_keys.create_key("executor", EXECUTOR),
        await service_keys.create_key("scheduler", EXECUTOR),
    )
    prefix, key_id, secret = key.split("_")
    flipped = {"0": "1"}
    wrong = {
        "first": f"{prefix}_{key_id}_{flipped.get(secret[0], '0')}{secret[1:]}",
        "last": f"{prefix}_{key_id}_{secret[:-1]}{flipped.get(secret[-1], '0')}",
        "id": f"{prefix}_{id_of(other)}_{secret}",
        "unknown": f"{prefix}_{'0' * 16}_{secret}",
    }[change]
    assert await refused(ServiceKeyCache(), wrong) == NOT_ACCEPTED
    assert (await ServiceKey.get(id=key_id)).last_used_at is None


@pytest.mark.parametrize("change", ["hash", "zeros"])
async def test_the_stored_hash_is_not_accepted_as_a_secret(db: None, change: str) -> None:
    key_id = id_of(await service_keys.create_key("executor", EXECUTOR))
    stored = bytes((await ServiceKey.get(id=key_id)).secret_hash)
    assert (
        await refused(ServiceKeyCache(), f"ck_{key_id}_{stored.hex() if change == 'hash' else '0' * 64}")
        == NOT_ACCEPTED
    )


@pytest.mark.parametrize(
    "key",
    [
        *("", "ck_", "ck__", "ck_a_b", "x" * 9000),
        *(f"ck_{'0' * 16}_{'0' * 63}", f"ck_{'0' * 16}_{'0' * 65}", f"ck_{'0' * 15}_{'0' * 64}"),
        *(f"CK_{'0' * 16}_{'0' * 64}", f"ck_{'0' * 16}_{'A' * 64}", f"ck_{'0' * 16}_{'0' * 64}\n"),
        "ck_" + "\N{ARABIC-INDIC DIGIT ZERO}" * 16 + "_" + "0" * 64,
    ],
    ids=lambda key: f"{key[:20]!a}-{len(key)}",
)
async def test_a_malformed_key_is_refused_without_a_read(db: None, key: str, caplog: pytest.LogCaptureFixture) -> None:
    with statements(caplog, "SELECT") as sent:
        assert await refused(ServiceKeyCache(), key) == NOT_ACCEPTED
    assert sent == []


async def test_a_key_is_read_once_in_a_second_for_any_number_of_requests(
    db: None, caplog: pytest.LogCaptureFixture
) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    cache = clock.cache()
    with statements(caplog, "SELECT") as sent:
        await asyncio.gather(*(cache.verify(key) for _ in range(50)))
        clock.seconds = 0.9
        await cache.verify(key)
    assert len(sent) == 1
    for clock.seconds in (1.0, 5.0):  # in the background, and before the answer
        with statements(caplog, "SELECT") as sent:
            await asyncio.gather(*(cache.verify(key) for _ in range(50)))
            await until_read(cache)
        assert len(sent) == 1
    await cache.close()


async def until_read(cache: ServiceKeyCache) -> None:
    await asyncio.gather(*cache._reads.values(), return_exceptions=True)


class HangingReads:
    """Reads of keys of which the next `hanging` never answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hanging = 0
        self.read = ServiceKey.get_or_none
        monkeypatch.setattr(ServiceKey, "get_or_none", self.get_or_none)
        monkeypatch.setattr(service_key_cache, "READ_SECONDS", 0.05)

    async def get_or_none(self, **filters: Any) -> ServiceKey | None:
        if self.hanging:
            self.hanging -= 1
            await asyncio.Event().wait()
        return await self.read(**filters)


async def test_a_read_that_hangs_delays_no_request_and_is_repeated(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    reads, cache = HangingReads(monkeypatch), clock.cache()
    await cache.verify(key)
    reads.hanging = 1
    clock.seconds = 1.0
    await asyncio.gather(*(cache.verify(key) for _ in range(50)))
    assert list(cache._reads) == [id_of(key)]  # nobody waits for it
    await until_read(cache)
    clock.seconds = 3.9
    await cache.verify(key)
    await until_read(cache)
    clock.seconds = 7.8  # the second read has answered
    await cache.verify(key)
    await cache.close()


async def test_a_row_that_is_too_old_is_not_used_while_reads_hang(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    reads, cache = HangingReads(monkeypatch), clock.cache()
    await cache.verify(key)
    reads.hanging = 1
    clock.seconds = 4.0
    with pytest.raises(failures.NoConnection, match=r"could not be read in 0\.05 s") as raised:
        await cache.verify(key)
    assert failures.answer_to(raised.value) is failures.Answer.UNAVAILABLE
    await cache.verify(key)
    await cache.close()


async def test_a_revocation_takes_effect_within_5_seconds_in_every_process(db: None) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    cache = clock.cache()
    await cache.verify(key)
    assert await service_keys.revoke_key(id_of(key))
    clock.seconds = 4.0
    assert await refused(cache, key) == NOT_ACCEPTED


async def test_revoking_returns_whether_it_revoked(db: None) -> None:
    key_id = id_of(await service_keys.create_key("executor", EXECUTOR))
    results = [await service_keys.revoke_key(id) for id in (key_id, key_id, "0" * 16)]
    assert results == [True, False, False]


async def test_a_cached_key_expires_in_time(db: None) -> None:
    clock = Clock()
    expires_at = clock.start + timedelta(seconds=3)
    key = await service_keys.create_key("executor", EXECUTOR, expires_at=expires_at)
    cache = clock.cache()
    clock.seconds = 2.9
    assert (await cache.verify(key)).expires_at == expires_at
    clock.seconds = 3.0
    assert await refused(cache, key) == NOT_ACCEPTED


async def test_unknown_keys_are_cached_and_do_not_evict_keys_in_use(db: None, caplog: pytest.LogCaptureFixture) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    cache = clock.cache(size=2)
    await cache.verify(key)
    guesses = [f"ck_{number:016x}_{'0' * 64}" for number in range(5)]
    for guess in guesses:
        await refused(cache, guess)
    with statements(caplog, "SELECT") as sent:
        await cache.verify(key)
        await refused(cache, guesses[4])
    assert sent == []
    with statements(caplog, "SELECT") as sent:
        await refused(cache, guesses[0])
    assert len(sent) == 1  # only two refusals are cached


async def test_the_last_use_is_recorded_at_most_once_per_minute(db: None) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    cache = clock.cache()
    recorded = []
    for clock.seconds in (0.0, 1.0, 59.9, 60.0, 61.0):
        await cache.verify(key)
        await cache.close()
        recorded.append((await ServiceKey.get(id=id_of(key))).last_used_at)
    first, later = clock.start, clock.start + timedelta(seconds=60)
    assert recorded == [first, first, first, later, later]


async def test_processes_together_record_one_use_per_minute(db: None, caplog: pytest.LogCaptureFixture) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    first, second = clock.cache(), clock.cache()
    await first.verify(key)
    await first.close()
    clock.seconds = 30.0
    with statements(caplog, "UPDATE") as sent:
        await second.verify(key)
        await second.close()
    assert sent == []
    assert (await ServiceKey.get(id=id_of(key))).last_used_at == clock.start


@pytest.mark.parametrize(
    ("name", "scopes", "lifetime", "problem"),
    [
        ("", EXECUTOR, None, "name must have"),
        (" ", EXECUTOR, None, "name must have"),
        ("a" * 256, EXECUTOR, None, "name must have"),
        ("a\nb", EXECUTOR, None, "name must have"),
        ("executor", (), None, "scopes must contain at least one of charge, read, admin"),
        ("executor", EXECUTOR, timedelta(0), "expiresAt must be in the future"),
    ],
)
async def test_an_invalid_key_is_not_created(
    db: None, name: str, scopes: tuple[Scope, ...], lifetime: timedelta | None, problem: str
) -> None:
    expires_at = None if lifetime is None else datetime.now(UTC) + lifetime
    with pytest.raises(InvalidInput, match=problem):
        await service_keys.create_key(name, scopes, expires_at=expires_at)
    assert await ServiceKey.all().count() == 0


async def test_the_development_key_is_always_the_same(db: None, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, environment="development", jwks_url=None)
    created = await asyncio.gather(*(service_keys.development_key("executor", settings=settings) for _ in range(5)))
    other = await service_keys.development_key("scheduler", settings=settings)
    assert len(set(created)) == 1
    assert other not in created
    assert await ServiceKey.all().count() == 2
    authenticator = build_authenticator(settings)
    assert (await authenticator.authenticate_credential(created[0])).scopes == {Scope.CHARGE, Scope.READ}
    await authenticator.close()


async def test_the_development_key_is_valid_again_after_a_revocation(db: None, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, environment="development", jwks_url=None)
    key = await service_keys.development_key("executor", settings=settings)
    await service_keys.revoke_key(id_of(key))
    assert await refused(ServiceKeyCache(), key) == NOT_ACCEPTED
    assert await service_keys.development_key("executor", settings=settings) == key
    cache = ServiceKeyCache()
    assert (await cache.verify(key)).key_id == id_of(key)
    await cache.close()


async def test_production_has_no_development_keys(db: None, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        await service_keys.development_key("executor", settings=Settings(data_dir=tmp_path, environment="production"))
    assert await ServiceKey.all().count() == 0
