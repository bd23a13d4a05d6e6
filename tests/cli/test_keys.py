"""The command keys, and the limit of two active keys per name."""

import asyncio
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from app.audit_log import records
from app.audit_log.records import AuditContext
from app.auth import service_keys
from app.auth.caller import Scope
from app.auth.models import ServiceKey
from app.auth.service_key_cache import ServiceKeyCache
from app.db import pools
from app.errors import InvalidInput
from tests.auth.test_service_keys import id_of
from tests.cli.test_commands import run

pytestmark = pytest.mark.anyio


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


async def test_a_key_is_created_printed_once_listed_and_revoked(db: str) -> None:
    status, key, hint = outcome(await run(db, "keys", "create", "executor", "--scope", "charge", "--scope", "read"))
    assert (status, bool(re.fullmatch(r"ck_[0-9a-f]{16}_[0-9a-f]{64}\n", key))) == (0, True)
    assert hint.startswith("Store it now: it is not shown again.")
    cache = ServiceKeyCache()
    assert (await cache.verify(key.strip())).scopes == {Scope.CHARGE, Scope.READ}
    await cache.close()

    status, listed, _ = outcome(await run(db, "keys", "list"))
    heading, line = listed.splitlines()
    assert heading.split() == ["ID", "NAME", "SCOPES", "STATE", "CREATED", "EXPIRES", "LAST", "USED"]
    assert line.split()[:4] == [id_of(key), "executor", "charge,read", "active"]
    assert key.strip().split("_")[2] not in listed

    status, output, _ = outcome(await run(db, "keys", "revoke", id_of(key)))
    assert (status, output) == (0, f"{id_of(key)} is revoked: servers refuse it within 5 seconds\n")
    assert outcome(await run(db, "keys", "list"))[1].splitlines()[1].split()[3] == "revoked"
    again = outcome(await run(db, "keys", "revoke", id_of(key)))
    assert again == (
        1, "", f'Error: There is no active key "{id_of(key)}": `python -m app keys list` lists the ids.\n'
    )  # fmt: skip
    actions = [(record.action, record.actor, record.subject) for record in await records.list_records(limit=9)]
    assert actions == [
        ("revokeKey", "operator:command-line", f"key {id_of(key)}"),
        ("createKey", "operator:command-line", f"key {id_of(key)}"),
    ]


async def test_a_key_can_be_revoked_by_its_whole_text(db: str) -> None:
    key = await service_keys.create_key("executor", [Scope.CHARGE])
    assert outcome(await run(db, "keys", "revoke", key))[0] == 0
    assert (await ServiceKey.get(id=id_of(key))).revoked_at is not None


async def test_without_keys_the_list_says_how_to_create_one(db: str) -> None:
    assert "create one with `python -m app keys create" in outcome(await run(db, "keys", "list"))[1]


async def test_an_unknown_scope_is_refused_with_the_known_ones(db: str) -> None:
    status, _, error = outcome(await run(db, "keys", "create", "executor", "--scope", "root"))
    assert status == 2
    assert "'root' is not one of 'charge', 'read', 'admin'" in error


async def test_a_third_active_key_is_refused_with_the_two_to_revoke(db: str) -> None:
    first, second = (
        await service_keys.create_key("executor", [Scope.CHARGE]),
        await service_keys.create_key("executor", [Scope.CHARGE]),
    )
    status, output, error = outcome(await run(db, "keys", "create", "executor", "--scope", "charge"))
    assert (status, output) == (1, "")
    assert f'"executor" has 2 active keys ({id_of(first)} and {id_of(second)}): revoke one of them first' in error
    await service_keys.revoke_key(id_of(first))
    await service_keys.create_key("executor", [Scope.CHARGE])
    await service_keys.create_key("scheduler", [Scope.CHARGE])
    with pytest.raises(InvalidInput, match="has 2 active keys"):
        await service_keys.create_key("executor", [Scope.CHARGE])


async def test_expired_keys_do_not_count_as_active(db: str) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=100)
    for _ in range(2):
        await service_keys.create_key("executor", [Scope.CHARGE], expires_at=soon)
    await pools.fetch("SELECT pg_sleep_until($1)", soon)
    for _ in range(2):
        await service_keys.create_key("executor", [Scope.CHARGE])
    assert await ServiceKey.all().count() == 4


async def test_of_many_keys_created_at_once_two_are_active(db: str) -> None:
    created = await asyncio.gather(
        *(service_keys.create_key("executor", [Scope.CHARGE]) for _ in range(8)), return_exceptions=True
    )
    assert [type(one) for one in created].count(InvalidInput) == 6
    assert await ServiceKey.filter(name="executor").count() == 2


async def test_creating_a_key_is_recorded_without_its_secret(db: str) -> None:
    audit = AuditContext(action="createKey", actor="operator:olivia", key_id="k", scope="admin", request_id="r")
    key = await service_keys.create_key("executor", [Scope.CHARGE], audit=audit)
    [record] = await records.list_records(limit=9)
    assert record.after == {"name": "executor", "scopes": ["charge"], "expiresAt": None}
    assert record.before is None
    assert key.split("_")[2] not in repr(dict(record))
