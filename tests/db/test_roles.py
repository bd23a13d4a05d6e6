"""Database roles: the application's role owns nothing and cannot change history."""

import asyncio
import gc
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest

from app.cli.connection import migrate
from app.db import embedded_postgres, pools, roles
from app.db.database_url import connection_arguments
from app.db.set_writes import SetStatement
from app.errors import Misconfigured
from app.pricing import publishing
from app.pricing.rate_card_cache import RateCardCache
from tests.command_line import REPOSITORY, running_server, temporary_directory, url_for_role
from tests.factories import charge_block_run, grant_credits, start_task

pytestmark = pytest.mark.anyio


@pytest.fixture
async def role(db: str) -> AsyncIterator[str]:
    """A role of the application. The test's pools still connect as the owner."""
    name = f"application_{secrets.token_hex(4)}"
    assert await roles.grant_privileges(url_for_role(db, name, "secret"))
    yield name
    await pools.fetch(f"DROP OWNED BY {name}")
    await pools.fetch(f"DROP ROLE {name}")


@pytest.fixture
async def application(db: str, role: str) -> AsyncIterator[str]:
    """The pools of this test connect as the application's role."""
    await grant_credits("alice", 100)
    await pools.disconnect()
    await pools.connect(url_for_role(db, role))
    yield role
    await pools.disconnect()
    await pools.connect(db)


@pytest.mark.parametrize(
    "statement",
    [
        *("UPDATE entry SET credits = 1", "UPDATE entry SET reason = NULL", "DELETE FROM entry", "TRUNCATE entry"),
        *("UPDATE audit_record SET actor = 'nobody'", "DELETE FROM audit_record", "TRUNCATE audit_record"),
        *("UPDATE operation SET request_hash = ''", "UPDATE rate_card SET document = '{}'", "DELETE FROM account"),
        *("DELETE FROM block_run", "TRUNCATE account CASCADE", "UPDATE tortoise_migrations SET name = ''"),
        *("DROP TABLE entry", "ALTER TABLE entry DROP COLUMN mac"),
        "ALTER TABLE entry DISABLE TRIGGER entry_append_only",
        *("ALTER TABLE entry DISABLE TRIGGER ALL", "DROP TRIGGER entry_append_only ON entry"),
        *("SET session_replication_role = replica", "CREATE TABLE mine (id int)"),
        "ALTER TABLE entry OWNER TO CURRENT_USER",
        *("CREATE OR REPLACE FUNCTION reject_change() RETURNS trigger LANGUAGE sql AS ''", "CREATE ROLE another"),
        *("CREATE TRIGGER other BEFORE INSERT ON entry FOR EACH ROW EXECUTE FUNCTION reject_change()",),
        *("CREATE RULE none AS ON INSERT TO entry DO INSTEAD NOTHING", "GRANT DELETE ON entry TO CURRENT_USER"),
    ],
)  # fmt: skip
async def test_the_application_role_cannot_change_history(application: str, statement: str) -> None:
    if statement.startswith("GRANT"):
        # PostgreSQL warns that nothing was granted, and goes on.
        await pools.fetch(statement)
        statement = "DELETE FROM entry"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pools.fetch(statement)
    assert [tuple(record) for record in await pools.fetch("SELECT kind, credits FROM entry")] == [("GRANT", 100)]


async def test_triggers_stop_even_the_owner_from_changing_entries(db: str) -> None:
    await grant_credits("alice", 100)
    for statement in ("UPDATE entry SET credits = 1", "DELETE FROM entry", "TRUNCATE entry"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="rows of entry are never changed"):
            await pools.fetch(statement)


async def test_triggers_stop_even_the_owner_from_changing_audit_records(db: str) -> None:
    await pools.fetch(
        "INSERT INTO audit_record (at, action, subject, actor, scope)"
        " VALUES (now(), 'grantCredits', 'grant 1', 'operator:olivia', 'admin')"
    )
    for statement in ("UPDATE audit_record SET actor = 'x'", "DELETE FROM audit_record", "TRUNCATE audit_record"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="never changed or deleted"):
            await pools.fetch(statement)


async def test_the_application_role_can_charge_and_grant(application: str, own_rate_cards: RateCardCache) -> None:
    task = await start_task("alice")
    assert (await charge_block_run(task, own_rate_cards)).balance.available == 90
    assert (await grant_credits("bob", 5)).balance.available == 5


@pytest.fixture
async def own_rate_cards(application: str) -> RateCardCache:
    """The default rate card, published and read in the application's role."""
    rate_cards = RateCardCache()
    await publishing.publish_default_card()
    await rate_cards.refresh()
    return rate_cards


def test_no_statement_needs_a_privilege_that_the_application_role_lacks() -> None:
    sources = [path for path in sorted((REPOSITORY / "app").rglob("*.py")) if path.parent.name != "erasure"]
    text = "\n".join(path.read_text() for path in sources)  # the owner of the tables erases
    assert set(re.findall(r"\bDELETE FROM (\w+)\b", text)) == {*roles.DELETABLE_TABLES}
    assert re.findall(r"\bTRUNCATE \w+\b(?!')", text) == []
    derived = "\n".join(one.sql for one in gc.get_objects() if isinstance(one, SetStatement))  # by app.db.tables
    updated = set(re.findall(r"\bUPDATE (\w+)(?: AS \w+)? SET\b", text + derived))
    assert {"account", "task", "service_key"} <= updated
    assert updated & {*roles.INSERT_ONLY_TABLES, *roles.READ_ONLY_TABLES} == set()


async def test_migrating_as_the_owner_creates_the_application_role(database_url: str) -> None:
    """In a database of its own, which is empty before."""
    name, role = f"credits_scratch_{secrets.token_hex(4)}", f"application_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(**connection_arguments(database_url))
    await admin.execute(f'CREATE DATABASE "{name}"')
    owner = urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))
    try:
        done = await migrate(owner, url_for_role(owner, role, "secret"))
        assert (done[0], done[-1]) == ("applied 0001_initial", "published the default rate card")
        assert await migrate(owner, url_for_role(owner, role, "secret")) == []
        await pools.connect(url_for_role(owner, role))
        assert await roles.find_excess_privileges() == []
        assert [record["owner"] for record in await pools.fetch(OWNERS)] == [connection_arguments(owner)["user"]]
    finally:
        await pools.disconnect()
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await admin.execute(f"DROP ROLE {role}")
        await admin.close()


OWNERS = "SELECT DISTINCT tableowner AS owner FROM pg_tables WHERE schemaname = 'public'"


def test_a_server_with_the_embedded_database_uses_the_application_role() -> None:
    with temporary_directory() as place, running_server(DATA_DIR=str(place), PORT="0") as (url, _):
        assert httpx.get(f"{url}/readyz", timeout=30).status_code == 200
        owner = embedded_postgres.running_url(place / "postgres")
        assert owner is not None
        found = asyncio.run(
            asked(owner, "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name LIKE $1")
        )
        assert found == [embedded_postgres.APPLICATION_ROLE]
        problems = subprocess.run(
            [sys.executable, "-c", PRINT_EXCESS_PRIVILEGES, url_for_role(owner, embedded_postgres.APPLICATION_ROLE)],
            cwd=REPOSITORY, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert problems.stdout == "[]\n"


async def asked(url: str, sql: str) -> list[str]:
    connection = await asyncpg.connect(**connection_arguments(url))
    found = [record[0] for record in await connection.fetch(sql, "credits%")]
    await connection.close()
    return found


PRINT_EXCESS_PRIVILEGES = """
import asyncio, sys
from app.db import pools, roles
async def main():
    await pools.connect(sys.argv[1])
    print(await roles.find_excess_privileges())
    await pools.disconnect()
asyncio.run(main())
"""


async def test_nothing_is_granted_if_one_role_is_both_owner_and_application(db: str) -> None:
    assert not await roles.grant_privileges(db)
    problems = await roles.find_excess_privileges()
    assert "is a superuser: it can disable triggers and change entries" in problems[0]
    assert problems[-1] == roles.ADVICE


async def test_excess_privileges_are_reported(db: str, role: str) -> None:
    await pools.fetch(f"GRANT UPDATE, DELETE ON entry TO {role}")
    await pools.fetch(f"GRANT CREATE ON SCHEMA public TO {role}")
    await pools.disconnect()
    await pools.connect(url_for_role(db, role))
    problems = await roles.find_excess_privileges()
    await pools.disconnect()
    await pools.connect(db)
    assert problems == [
        f"The database role {role} has the privileges delete, update on entry.",
        f"The database role {role} can create tables in schema public.",
        roles.ADVICE,
    ]
    await roles.grant_privileges(url_for_role(db, role))
    [record] = await pools.fetch("SELECT has_table_privilege($1, 'entry', 'DELETE') AS kept", role)
    assert not record["kept"]
    await pools.fetch(f"REVOKE CREATE ON SCHEMA public FROM {role}")


async def test_an_owner_who_may_not_create_roles_gets_the_statement_to_run(db: str, role: str) -> None:
    await pools.disconnect()
    await pools.connect(url_for_role(db, role))
    with pytest.raises(Misconfigured, match='CREATE ROLE "nobody_yet" LOGIN PASSWORD'):
        await roles.grant_privileges(url_for_role(db, "nobody_yet"))
    await pools.disconnect()
    await pools.connect(db)
