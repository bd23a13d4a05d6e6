"""The two database roles: the owner of the tables, which migrates, and the application's role, which owns nothing.

The application's role may read all tables, insert rows, and update rows that are not append-only. It cannot change
append-only rows (entries, audit records, rate cards, idempotency keys), alter tables or disable triggers. It can delete
rows only of DELETABLE_TABLES. So an attacker who controls a server process cannot change the history.

`python -m app migrate` runs `grant_privileges` as the owner after every migration. It revokes all privileges of the
application's role and grants the needed ones, so that privileges granted by hand do not remain. If one role is both,
nothing is granted, and `find_excess_privileges` reports it.
"""

from typing import Final

from app.db import database_url, pools
from app.errors import Misconfigured
from app.wording import quote_value

INSERT_ONLY_TABLES: Final = (
    "audit_record", "entry", "ledger_key", "operation", "owner", "provider_payment", "rate_card", "task_account",
    "verification",
)  # fmt: skip
"""Tables whose rows are never changed."""
READ_ONLY_TABLES: Final = ("tortoise_migrations",)
DELETABLE_TABLES: Final = ("webhook_delivery",)
"""Tables whose old rows are deleted."""

_ROLE_EXISTS: Final = "SELECT 1 FROM pg_roles WHERE rolname = $1"
_MAY_CREATE_ROLES: Final = "SELECT rolcreaterole OR rolsuper AS allowed FROM pg_roles WHERE rolname = current_user"

# The server quotes the names. They come from its own catalogue; the role's name comes from the settings.
_CREATE_ROLE: Final = "SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', $1::text, $2::text) AS statement"

_GRANT: Final = """
    SELECT format('GRANT USAGE ON SCHEMA public TO %I', $1::text) AS statement
    UNION ALL
    SELECT format('REVOKE ALL ON TABLE public.%I FROM %I', tablename, $1::text)
    FROM pg_tables WHERE schemaname = 'public'
    UNION ALL
    SELECT format('GRANT %s ON TABLE public.%I TO %I',
                  CASE WHEN tablename = ANY($3::text[]) THEN 'SELECT' WHEN tablename = ANY($2::text[])
                       THEN 'SELECT, INSERT' ELSE 'SELECT, INSERT, UPDATE' END, tablename, $1::text)
    FROM pg_tables WHERE schemaname = 'public'
    UNION ALL
    SELECT format('GRANT DELETE ON TABLE public.%I TO %I', tablename, $1::text)
    FROM pg_tables WHERE schemaname = 'public' AND tablename = ANY($4::text[])
    UNION ALL
    SELECT format('GRANT USAGE ON SEQUENCE public.%I TO %I', sequencename, $1::text)
    FROM pg_sequences WHERE schemaname = 'public'
"""

_EXCESS_PRIVILEGES: Final = """
    SELECT format('The database role %I is a superuser: it can disable triggers and change entries.', current_user)
        AS problem
    FROM pg_roles WHERE rolname = current_user AND rolsuper
    UNION ALL
    SELECT format('The database role %I can create roles.', current_user)
    FROM pg_roles WHERE rolname = current_user AND rolcreaterole AND NOT rolsuper
    UNION ALL
    SELECT format('The database role %I owns tables (%s): it can alter and drop them.', current_user,
                  string_agg(tablename, ', ' ORDER BY tablename))
    FROM pg_tables WHERE schemaname = 'public' AND pg_has_role(current_user, tableowner, 'MEMBER')
    HAVING count(*) > 0
    UNION ALL
    SELECT format('The database role %I has the privileges %s on %s.', current_user,
                  string_agg(lower(privilege), ', ' ORDER BY privilege), tablename)
    FROM pg_tables, unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER', 'REFERENCES']) AS privilege
    WHERE schemaname = 'public' AND tablename = ANY($1::text[])
      AND has_table_privilege(current_user, format('public.%I', tablename), privilege)
    GROUP BY tablename
    UNION ALL
    SELECT format('The database role %I can create tables in schema public.', current_user)
    WHERE has_schema_privilege(current_user, 'public', 'CREATE')
"""

ADVICE: Final = (
    "Use a separate role for the application: set DATABASE_URL to it, set MIGRATION_DATABASE_URL to the owner of the "
    "tables, and run `python -m app migrate`."
)


def role_name(url: str) -> str:
    """Return the role in a database URL. Raises: Misconfigured: the URL contains no role."""
    if (user := database_url.parse(url).user) is None:
        raise Misconfigured("DATABASE_URL names no user: postgresql://USER:PASSWORD@HOST/NAME.")
    return user


async def grant_privileges(application_url: str) -> bool:
    """Give the role of `application_url` exactly the privileges that the application needs.

    Creates the role if it does not exist. `pools.connect` must be called first, as the owner.
    Returns: False if the role is the owner itself, and nothing was granted.
    Raises: Misconfigured: the role does not exist, and the owner may not create roles.
    """
    role = role_name(application_url)
    if role == (await pools.fetch("SELECT current_user AS name"))[0]["name"]:
        return False
    async with pools.transaction() as connection:
        _, existing = await connection.execute_query(_ROLE_EXISTS, [role])
        if not existing:
            _, [owner] = await connection.execute_query(_MAY_CREATE_ROLES)
            if not owner["allowed"]:
                raise Misconfigured(
                    f"The role {quote_value(role)} of DATABASE_URL does not exist, and the role of "
                    f"MIGRATION_DATABASE_URL may not create it: let an administrator run "
                    f"CREATE ROLE \"{role}\" LOGIN PASSWORD '…'."
                )
            _, created = await connection.execute_query(
                _CREATE_ROLE, [role, database_url.parse(application_url).password]
            )
            await connection.execute_query(created[0]["statement"])
        tables = [list(INSERT_ONLY_TABLES), list(READ_ONLY_TABLES), list(DELETABLE_TABLES)]
        _, grants = await connection.execute_query(_GRANT, [role, *tables])
        for record in grants:
            await connection.execute_query(record["statement"])
    return True


async def find_excess_privileges() -> list[str]:
    """Return what the connected role can do to the history but should not: one sentence each, and the advice last.

    The list is empty if the role owns nothing and cannot change append-only rows. `pools.connect` must be called first.
    """
    records = await pools.fetch(_EXCESS_PRIVILEGES, [*INSERT_ONLY_TABLES, *READ_ONLY_TABLES])
    problems = [str(record["problem"]) for record in records]
    return [*problems, ADVICE] if problems else []
