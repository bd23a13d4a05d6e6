"""Service keys on a real database: made, accepted, revoked, noted."""

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from app.auth import service_keys
from app.auth.authenticator import build_authenticator
from app.auth.caller import Caller, CallerKind, Scope
from app.auth.models import ServiceKey
from app.auth.service_key_cache import ServiceKeyCache
from app.errors import InvalidInput, Misconfigured, Unauthenticated
from app.settings import Settings

pytestmark = pytest.mark.anyio

EXECUTOR = (Scope.CHARGE, Scope.READ)


class Clock:
    """Seconds for what is remembered, and the same time as an instant."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.start = datetime.now(UTC)

    def ring(self, remember: int = 100) -> ServiceKeyCache:
        return ServiceKeyCache(
            clock=lambda: self.seconds,
            now=lambda: self.start + timedelta(seconds=self.seconds),
            cache_size=remember,
        )


def id_of(key: str) -> str:
    return key.split("_")[1]


@contextmanager
def statements(caplog: pytest.LogCaptureFixture, verb: str) -> Iterator[list[str]]:
    """The statements with this verb that Tortoise sent meanwhile."""
    sent: list[str] = []
    before = len(caplog.records)
    with caplog.at_level(logging.DEBUG, logger="tortoise.db_client"):
        yield sent
    sent += [text for record in caplog.records[before:] if (text := record.getMessage()).startswith(verb)]


async def refused(ring: ServiceKeyCache, key: str) -> str:
    with pytest.raises(Unauthenticated) as refusal:
        await ring.verify(key)
    await ring.close()
    return str(refusal.value)


NOT_ACCEPTED = "The service key is not accepted: it is unknown, expired or revoked. Send a current one."


async def test_a_key_proves_a_service_with_its_scopes(db: None) -> None:
    key = await service_keys.create_key("executor", EXECUTOR)
    ring = ServiceKeyCache()
    viewer = await ring.verify(key)
    await ring.close()
    assert re.fullmatch(r"ck_[0-9a-f]{16}_[0-9a-f]{64}", key)
    assert viewer == Caller(
        kind=CallerKind.SERVICE, actor=f"service:{id_of(key)}", scopes=frozenset(EXECUTOR), key_id=id_of(key)
    )


async def test_the_secret_is_stored_as_its_hash_only(db: None) -> None:
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


async def test_two_keys_of_one_name_are_both_in_force_for_a_rotation(db: None) -> None:
    old, new = await service_keys.create_key("executor", EXECUTOR), await service_keys.create_key("executor", EXECUTOR)
    ring = ServiceKeyCache()
    assert {(await ring.verify(key)).key_id for key in (old, new)} == {id_of(old), id_of(new)}
    await service_keys.revoke_key(id_of(old))
    fresh = ServiceKeyCache()
    assert await refused(fresh, old) == NOT_ACCEPTED
    assert (await fresh.verify(new)).key_id == id_of(new)
    await asyncio.gather(ring.close(), fresh.close())


@pytest.mark.parametrize("change", ["first", "last", "id", "unknown"])
async def test_a_wrong_secret_or_id_is_refused_in_the_same_words(db: None, change: str) -> None:
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
async def test_neither_the_stored_hash_nor_zeros_open_the_door(db: None, change: str) -> None:
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
async def test_what_is_no_key_is_refused_without_asking_the_database(
    db: None, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with statements(caplog, "SELECT") as sent:
        assert await refused(ServiceKeyCache(), key) == NOT_ACCEPTED
    assert sent == []


async def test_a_key_is_read_once_in_4_seconds_however_many_ask(db: None, caplog: pytest.LogCaptureFixture) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    ring = clock.ring()
    with statements(caplog, "SELECT") as sent:
        await asyncio.gather(*(ring.verify(key) for _ in range(50)))
        clock.seconds = 3.9
        await ring.verify(key)
    assert len(sent) == 1
    clock.seconds = 4.0
    with statements(caplog, "SELECT") as sent:
        await asyncio.gather(*(ring.verify(key) for _ in range(50)))
    assert len(sent) == 1
    await ring.close()


async def test_a_revocation_acts_within_5_seconds_in_every_process(db: None) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    ring = clock.ring()
    await ring.verify(key)
    assert await service_keys.revoke_key(id_of(key))
    clock.seconds = 4.0
    assert await refused(ring, key) == NOT_ACCEPTED


async def test_revoking_says_whether_it_revoked(db: None) -> None:
    key_id = id_of(await service_keys.create_key("executor", EXECUTOR))
    assert [
        await service_keys.revoke_key(key_id),
        await service_keys.revoke_key(key_id),
        await service_keys.revoke_key("0" * 16),
    ] == [
        True,
        False,
        False,
    ]


async def test_a_key_ends_at_its_instant_even_while_it_is_remembered(db: None) -> None:
    clock = Clock()
    expires_at = clock.start + timedelta(seconds=3)
    key = await service_keys.create_key("executor", EXECUTOR, expires_at=expires_at)
    ring = clock.ring()
    clock.seconds = 2.9
    assert (await ring.verify(key)).expires_at == expires_at
    clock.seconds = 3.0
    assert await refused(ring, key) == NOT_ACCEPTED


async def test_a_refusal_is_remembered_briefly_and_cannot_push_out_a_real_key(
    db: None, caplog: pytest.LogCaptureFixture
) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    ring = clock.ring(remember=2)
    await ring.verify(key)
    invented = [f"ck_{number:016x}_{'0' * 64}" for number in range(5)]
    for guess in invented:
        await refused(ring, guess)
    with statements(caplog, "SELECT") as sent:
        await ring.verify(key)
        await refused(ring, invented[4])
    assert sent == []
    with statements(caplog, "SELECT") as sent:
        await refused(ring, invented[0])
    assert len(sent) == 1  # only two refusals are remembered


async def test_the_last_use_is_noted_at_most_once_a_minute(db: None) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    ring = clock.ring()
    noted = []
    for clock.seconds in (0.0, 1.0, 59.9, 60.0, 61.0):
        await ring.verify(key)
        await ring.close()
        noted.append((await ServiceKey.get(id=id_of(key))).last_used_at)
    first, later = clock.start, clock.start + timedelta(seconds=60)
    assert noted == [first, first, first, later, later]


async def test_many_processes_note_one_use(db: None, caplog: pytest.LogCaptureFixture) -> None:
    key, clock = await service_keys.create_key("executor", EXECUTOR), Clock()
    first, second = clock.ring(), clock.ring()
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
        ("executor", (), None, "scopes must name at least one of charge, read, admin"),
        ("executor", EXECUTOR, timedelta(0), "expiresAt must lie in the future"),
    ],
)
async def test_a_key_that_makes_no_sense_is_not_made(
    db: None, name: str, scopes: tuple[Scope, ...], lifetime: timedelta | None, problem: str
) -> None:
    expires_at = None if lifetime is None else datetime.now(UTC) + lifetime
    with pytest.raises(InvalidInput, match=problem):
        await service_keys.create_key(name, scopes, expires_at=expires_at)
    assert await ServiceKey.all().count() == 0


async def test_developments_key_is_the_same_each_time_and_one_row(db: None, tmp_path: Path) -> None:
    chosen = Settings(data_dir=tmp_path, environment="development", jwks_url=None)
    made = await asyncio.gather(*(service_keys.development_key("executor", settings=chosen) for _ in range(5)))
    other = await service_keys.development_key("scheduler", settings=chosen)
    assert len(set(made)) == 1
    assert other not in made
    assert await ServiceKey.all().count() == 2
    doorway = build_authenticator(chosen)
    assert (await doorway.authenticate_credential(made[0])).scopes == {Scope.CHARGE, Scope.READ}
    await doorway.close()


async def test_developments_key_works_again_after_it_was_revoked(db: None, tmp_path: Path) -> None:
    chosen = Settings(data_dir=tmp_path, environment="development", jwks_url=None)
    key = await service_keys.development_key("executor", settings=chosen)
    await service_keys.revoke_key(id_of(key))
    assert await refused(ServiceKeyCache(), key) == NOT_ACCEPTED
    assert await service_keys.development_key("executor", settings=chosen) == key
    ring = ServiceKeyCache()
    assert (await ring.verify(key)).key_id == id_of(key)
    await ring.close()


async def test_production_has_no_development_key(db: None, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        await service_keys.development_key("executor", settings=Settings(data_dir=tmp_path, environment="production"))
    assert await ServiceKey.all().count() == 0
