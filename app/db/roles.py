"""Two roles of the database: the owner, who migrates, and the application's, which owns nothing.

The application's role reads, adds, and updates what has to be updated. It cannot change what is only ever added
(entries, records of the trail, rate cards, idempotency keys), delete a row, alter a table, or switch a trigger off. Who
takes over a server process takes over that role, and history stays as it was written.

`allow` is run by `python -m app migrate` after every migration, by the owner: it says anew what the application's role
may, all of it, so that nothing granted before by hand stays. Where one role is both, nothing is granted;
`database_role_faults` says so.
"""

from typing import Final
from urllib.parse import unquote, urlsplit

from app.db import pools
from app.errors import Misconfigured

INSERT_ONLY_TABLES: Final = (
    "audit_record", "entry", "operation", "owner", "provider_payment", "rate_card", "task_account",
)  # fmt: skip
"""Tables whose rows are never changed."""
READ_ONLY_TABLES: Final = ("tortoise_migrations",)

_IS_THERE: Final = "SELECT 1 FROM pg_roles WHERE rolname = $1"
_MAY_MAKE: Final = "SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user"

# The server quotes the names; they come from its own rate_cards, and the role's from the owner's settings.
_MAKE: Final = "SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', $1::text, $2::text)"

_ALLOW: Final = """
    SELECT format('GRANT USAGE ON SCHEMA public TO %I', $1::text)
    UNION ALL
    SELECT format('REVOKE ALL ON TABLE public.%I FROM %I', tablename, $1::text)
    FROM pg_tables WHERE schemaname = 'public'
    UNION ALL
    SELECT format('GRANT %s ON TABLE public.%I TO %I',
                  CASE WHEN tablename = ANY($3::text[]) THEN 'SELECT' WHEN tablename = ANY($2::text[])
                       THEN 'SELECT, INSERT' ELSE 'SELECT, INSERT, UPDATE' END, tablename, $1::text)
    FROM pg_tables WHERE schemaname = 'public'
    UNION ALL
    SELECT format('GRANT USAGE ON SEQUENCE public.%I TO %I', sequencename, $1::text)
    FROM pg_sequences WHERE schemaname = 'public'
"""

# What the role that is connected could do and should not. Each row is one sentence.
_FAULTS: Final = """
    SELECT format('The database role %I is a superuser: it can switch triggers off and change entries.', current_user)
    FROM pg_roles WHERE rolname = current_user AND rolsuper
    UNION ALL
    SELECT format('The database role %I can make roles.', current_user)
    FROM pg_roles WHERE rolname = current_user AND rolcreaterole AND NOT rolsuper
    UNION ALL
    SELECT format('The database role %I owns tables (%s): it can alter and drop them.', current_user,
                  string_agg(tablename, ', ' ORDER BY tablename))
    FROM pg_tables WHERE schemaname = 'public' AND pg_has_role(current_user, tableowner, 'MEMBER')
    HAVING count(*) > 0
    UNION ALL
    SELECT format('The database role %I may %s in %s.', current_user,
                  string_agg(lower(privilege), ', ' ORDER BY privilege), tablename)
    FROM pg_tables, unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER', 'REFERENCES']) AS privilege
    WHERE schemaname = 'public' AND tablename = ANY($1::text[])
      AND has_table_privilege(current_user, format('public.%I', tablename), privilege)
    GROUP BY tablename
    UNION ALL
    SELECT format('The database role %I can make tables in schema public.', current_user)
    WHERE has_schema_privilege(current_user, 'public', 'CREATE')
"""

ADVICE: Final = (
    "Give the application a role of its own: set DATABASE_URL to it, MIGRATION_DATABASE_URL to the owner of the "
    "tables, and run `python -m app migrate`."
)


def role_name(url: str) -> str:
    """The role that an address names. Raises: Misconfigured: it names none."""
    if (user := pools.connection_arguments(url)["user"]) is None:
        raise Misconfigured("DATABASE_URL names no user: postgresql://USER:PASSWORD@HOST/NAME.")
    return str(user)


async def grant_privileges(application_url: str) -> bool:
    """Let the role of `application_url` do what the application has to, and no more, making it if it is missing.

    Needs `database.connect` as the owner. Returns: whether there was such a role; False: the owner itself is meant.
    Raises: Misconfigured: the role is missing, and the owner may not make roles.
    """
    role = role_name(application_url)
    if role == (await pools.fetch("SELECT current_user"))[0][0]:
        return False
    async with pools.transaction() as connection:
        _, found = await connection.execute_query(_IS_THERE, [role])
        if not found:
            _, [[allowed]] = await connection.execute_query(_MAY_MAKE)
            if not allowed:
                raise Misconfigured(
                    f"The role {role!r} of DATABASE_URL does not exist, and MIGRATION_DATABASE_URL's may not make it: "
                    f"have the server's administrator run CREATE ROLE \"{role}\" LOGIN PASSWORD '…'."
                )
            _, [[statement]] = await connection.execute_query(_MAKE, [role, _password(application_url)])
            await connection.execute_query(statement)
        _, statements = await connection.execute_query(_ALLOW, [role, list(INSERT_ONLY_TABLES), list(READ_ONLY_TABLES)])
        for [statement] in statements:
            await connection.execute_query(statement)
    return True


async def find_excess_privileges() -> list[str]:
    """What the role that is connected can do to history and should not, a sentence each, with the advice last.

    Empty: it owns nothing, and cannot change or delete an entry. Needs `database.connect`.
    """
    faults = [str(record[0]) for record in await pools.fetch(_FAULTS, [*INSERT_ONLY_TABLES, *READ_ONLY_TABLES])]
    return [*faults, ADVICE] if faults else []


def _password(url: str) -> str | None:
    found = urlsplit(url).password
    return unquote(found) if found is not None else None
