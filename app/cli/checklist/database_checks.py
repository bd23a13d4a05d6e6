"""Checks of the database: it responds, is durable and private, and has what the application requires."""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from tortoise.expressions import Q

from app.auth.models import ServiceKey
from app.cli.checklist.results import CheckFailed, Installation, fail_if
from app.db import migrations as schema_migrations
from app.db import pools, roles
from app.db.failures import sqlstate
from app.errors import Misconfigured
from app.ledger import posting, registered_keys
from app.pricing.rate_card_cache import RateCardCache, StaleRateCards
from app.state import configure_ledger

MINIMUM_POSTGRESQL: Final = 15
CONNECT_TIMEOUT_SECONDS: Final = 10.0
MAXIMUM_CLOCK_DIFFERENCE_SECONDS: Final = 2.0
"""The clock of the server decides when tokens expire, that of the database when credits expire."""

_VERSION: Final = (
    "SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS name"
)

# The address of a client on a Unix socket is null.
_CONNECTION: Final = """
    SELECT coalesce(inet_client_addr() <<= inet '127.0.0.0/8' OR inet_client_addr() = inet '::1', true) AS is_local,
           coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS is_encrypted
"""

_DURABILITY: Final = """
    SELECT name, current_setting(name) AS value
    FROM unnest(ARRAY['fsync', 'synchronous_commit', 'full_page_writes']) AS name
"""

# The lowest limit that applies to this role. The setting `reserved_connections` exists since PostgreSQL 16.
_AVAILABLE_CONNECTIONS: Final = """
    SELECT least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0),
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
    ) AS available
"""

_CLOCK: Final = "SELECT extract(epoch FROM clock_timestamp())::float8 AS seconds"


async def reachable(installation: Installation) -> str:
    """The database responds. This check leaves the pools open for those after it."""
    if installation.database_url is None:
        raise CheckFailed(installation.database_error)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            await pools.connect(installation.database_url, read_connections=1, posting_connections=1)
    except Exception as error:
        with suppress(Exception):  # a part of the pools may be open
            await pools.disconnect()
        raise CheckFailed(_describe_connection_error(error)) from None
    return "it responds"


def _describe_connection_error(error: Exception) -> str:
    """Describe an error without the text of the exception, which may contain a part of the URL."""
    if isinstance(error, Misconfigured):
        return str(error)
    if sqlstate(error) == "53300":
        return "The database has no free connection: raise max_connections, or close other connections."
    return "The database cannot be reached: start it, and check host, port, firewall and certificate in DATABASE_URL."


async def version(_: Installation) -> str:
    """PostgreSQL is a supported version."""
    [row] = await pools.fetch(_VERSION)
    return check_version(row["number"], row["name"])


def check_version(number: int, name: str) -> str:
    """Check a version number as PostgreSQL encodes it: 150004 for 15.4. Raises: CheckFailed."""
    if number // 10_000 < MINIMUM_POSTGRESQL:
        raise CheckFailed(f"PostgreSQL is {name}: upgrade to {MINIMUM_POSTGRESQL} or newer.")
    return f"PostgreSQL {name}"


async def encryption(_: Installation) -> str:
    """The connection cannot be read on the network."""
    [row] = await pools.fetch(_CONNECTION)
    return check_encryption(is_local=row["is_local"], is_encrypted=row["is_encrypted"])


def check_encryption(*, is_local: bool, is_encrypted: bool) -> str:
    """`is_local`: the connection uses a Unix socket or the loopback interface. Raises: CheckFailed."""
    if is_local:
        return "not needed: the database is on this machine"
    if not is_encrypted:
        raise CheckFailed(
            "The connection to the database is not encrypted: set ssl = on in postgresql.conf, and add "
            "?sslmode=verify-full (or at least require) to DATABASE_URL."
        )
    return "the connection is encrypted"


async def durability(_: Installation) -> str:
    """A commit that PostgreSQL has acknowledged survives a crash."""
    fail_if(
        [
            f"{row['name']} is off, so acknowledged commits can be lost in a crash: set it to on, for this role and "
            "database too."
            for row in await pools.fetch(_DURABILITY)
            if row["value"] == "off"
        ]
    )
    return "fsync, synchronous_commit and full_page_writes are on"


async def connections(installation: Installation) -> str:
    """There are enough connections for the pools of all workers."""
    [row] = await pools.fetch(_AVAILABLE_CONNECTIONS)
    needed, available = pools.max_connections(installation.settings), row["available"]
    workers = installation.settings.workers
    if needed > available:
        raise CheckFailed(
            f"WORKERS={workers} needs up to {needed} connections, and this role has {available}: raise max_connections "
            "(or the limit of the role or database), or lower WORKERS, POSTING_CONNECTIONS or READ_CONNECTIONS."
        )
    return f"at most {needed} for WORKERS={workers}, {available} available to this role"


async def clock(_: Installation) -> str:
    """The clocks of server and database differ by at most `MAXIMUM_CLOCK_DIFFERENCE_SECONDS`."""
    before = time.time()
    [row] = await pools.fetch(_CLOCK)
    return check_clock_difference(before, row["seconds"], time.time())


def check_clock_difference(before: float, database: float, after: float) -> str:
    """Check the difference of two clocks. Raises: CheckFailed: it is too large.

    The clock of the database showed `database` at a time between `before` and `after` by the clock of the server. So
    the difference is 0 if `database` lies between the two.
    """
    difference = max(before - database, database - after, 0.0)
    if difference > MAXIMUM_CLOCK_DIFFERENCE_SECONDS:
        raise CheckFailed(f"The clocks of server and database differ by {difference:.1f} s: synchronise both with NTP.")
    return f"the clocks differ by less than {MAXIMUM_CLOCK_DIFFERENCE_SECONDS:g} s"


async def migrations(_: Installation) -> str:
    """All migrations of this version are applied."""
    if pending := await schema_migrations.pending():
        raise CheckFailed(f"Migrations are pending ({', '.join(pending)}): run `python -m app migrate` as the owner.")
    return "all are applied"


async def role(_: Installation) -> str:
    """The application's role owns nothing and cannot change or delete entries."""
    fail_if(await roles.find_excess_privileges())
    return "it owns nothing and cannot change history"


async def ledger_keys(installation: Installation) -> str:
    """Every key that has signed entries is configured."""
    configure_ledger(installation.settings)
    if problem := await registered_keys.missing_keys_problem():
        raise CheckFailed(problem)
    return f"{posting.ledger_keys().signing.id} signs; every key that has signed is configured"


async def rate_card(_: Installation) -> str:
    """A rate card is in force."""
    try:
        card = await RateCardCache().current_card()
    except StaleRateCards:
        raise CheckFailed("No rate card is in force: publish one with `python -m app prices publish FILE`.") from None
    return f"version {card.version} is in force"


async def service_keys(_: Installation) -> str:
    """A service key is active, with any scope. Executors need one with the scope charge to start tasks."""
    now = datetime.now(UTC)
    active = await ServiceKey.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None).count()
    if not active:
        raise CheckFailed(
            "No service key is active: create one with `python -m app keys create executor --scope charge`."
        )
    return f"{active} active"
