"""`python -m app keys`, run as somebody runs it, and the rule of two active keys."""

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


def text(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


async def test_a_key_is_made_shown_once_listed_and_revoked(db: str) -> None:
    status, key, told = text(await run(db, "keys", "create", "executor", "--scope", "charge", "--scope", "read"))
    assert (status, bool(re.fullmatch(r"ck_[0-9a-f]{16}_[0-9a-f]{64}\n", key))) == (0, True)
    assert told.startswith("Store it now: it is not shown again.")
    ring = ServiceKeyCache()
    assert (await ring.verify(key.strip())).scopes == {Scope.CHARGE, Scope.READ}
    await ring.close()

    status, listed, _ = text(await run(db, "keys", "list"))
    heading, line = listed.splitlines()
    assert heading.split() == ["ID", "NAME", "SCOPES", "STATE", "CREATED", "EXPIRES", "LAST", "USED"]
    assert line.split()[:4] == [id_of(key), "executor", "charge,read", "active"]
    assert key.strip().split("_")[2] not in listed

    status, said, _ = text(await run(db, "keys", "revoke", id_of(key)))
    assert (status, said) == (0, f"{id_of(key)} is revoked: every server refuses it within 5 seconds\n")
    assert text(await run(db, "keys", "list"))[1].splitlines()[1].split()[3] == "revoked"
    again = text(await run(db, "keys", "revoke", id_of(key)))
    assert again == (
        1, "", f"Error: There is no active key '{id_of(key)}': `python -m app keys list` shows the ids.\n"
    )  # fmt: skip
    acts = [(record.audit.action, record.audit.actor, record.subject) for record in await records.list_records(limit=9)]
    assert acts == [
        ("revokeKey", "operator:command-line", f"key {id_of(key)}"),
        ("createKey", "operator:command-line", f"key {id_of(key)}"),
    ]


async def test_the_whole_key_will_do_to_revoke_it(db: str) -> None:
    key = await service_keys.create_key("executor", [Scope.CHARGE])
    assert text(await run(db, "keys", "revoke", key))[0] == 0
    assert (await ServiceKey.get(id=id_of(key))).revoked_at is not None


async def test_no_keys_say_how_to_make_one(db: str) -> None:
    assert "make one with `python -m app keys create" in text(await run(db, "keys", "list"))[1]


async def test_a_scope_that_does_not_exist_is_named_with_those_that_do(db: str) -> None:
    status, _, told = text(await run(db, "keys", "create", "executor", "--scope", "root"))
    assert status == 2
    assert "'root' is not one of 'charge', 'read', 'admin'" in told


async def test_a_third_active_key_is_refused_and_says_which_to_revoke(db: str) -> None:
    first, second = (
        await service_keys.create_key("executor", [Scope.CHARGE]),
        await service_keys.create_key("executor", [Scope.CHARGE]),
    )
    status, said, told = text(await run(db, "keys", "create", "executor", "--scope", "charge"))
    assert (status, said) == (1, "")
    assert f"'executor' has 2 active keys ({id_of(first)} and {id_of(second)}): revoke one of them first" in told
    await service_keys.revoke_key(id_of(first))
    await service_keys.create_key("executor", [Scope.CHARGE])
    await service_keys.create_key("scheduler", [Scope.CHARGE])
    with pytest.raises(InvalidInput, match="has 2 active keys"):
        await service_keys.create_key("executor", [Scope.CHARGE])


async def test_an_expired_key_is_in_nobodys_way(db: str) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=100)
    for _ in range(2):
        await service_keys.create_key("executor", [Scope.CHARGE], expires_at=soon)
    await pools.fetch("SELECT pg_sleep_until($1)", soon)
    for _ in range(2):
        await service_keys.create_key("executor", [Scope.CHARGE])
    assert await ServiceKey.all().count() == 4


async def test_of_many_made_at_once_two_are_active(db: str) -> None:
    made = await asyncio.gather(
        *(service_keys.create_key("executor", [Scope.CHARGE]) for _ in range(8)), return_exceptions=True
    )
    assert [type(one) for one in made].count(InvalidInput) == 6
    assert await ServiceKey.filter(name="executor").count() == 2


async def test_making_and_revoking_leave_records_and_no_secret(db: str) -> None:
    act = AuditContext(action="createKey", actor="operator:olivia", key_id="k", scope="admin", request_id="r")
    key = await service_keys.create_key("executor", [Scope.CHARGE], audit=act)
    [record] = await records.list_records(limit=9)
    assert record.after == {"name": "executor", "scopes": ["charge"], "expiresAt": None}
    assert record.before is None
    assert key.split("_")[2] not in repr(record)
