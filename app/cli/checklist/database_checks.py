"""Points about the PostgreSQL: that it answers, keeps what it acknowledges, and is spoken to in private."""

import asyncio
import time
from contextlib import suppress
from typing import Final

from app.cli.checklist.results import CheckResult, Installation, failed_or_passed, passed
from app.db import failures, pools

MINIMUM_POSTGRESQL: Final = 15
CONNECT_TIMEOUT_SECONDS: Final = 10.0
MAXIMUM_CLOCK_DIFFERENCE_SECONDS: Final = 2.0
"""How far the two clocks may differ. Tokens are checked by the server's, credits expire by the database's."""

_VERSION: Final = (
    "SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS name"
)

_IN_THE_CLEAR: Final = (
    "The connection to the database is not encrypted: switch ssl on in postgresql.conf, and add ?sslmode=require "
    "(better: verify-full) to DATABASE_URL."
)

# A null address: a unix socket.
_PRIVATE: Final = """
    SELECT coalesce(inet_client_addr() <<= inet '127.0.0.0/8' OR inet_client_addr() = inet '::1', true) AS local,
           coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted
"""

_DURABLE: Final = """
    SELECT name, current_setting(name) AS value
    FROM unnest(ARRAY['fsync', 'synchronous_commit', 'full_page_writes']) AS name
"""

# What this role may open, by whichever limit is the lowest. `reserved_connections` is of PostgreSQL 16.
_ROOM: Final = """
    SELECT least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0),
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
    ) AS room
"""

_CLOCK: Final = "SELECT extract(epoch FROM clock_timestamp())::float8 AS seconds"


async def reachable(here: Installation) -> CheckResult:
    """The database answers. Leaves the pools of `database` open for the points after it."""
    if here.database_url is None:
        return failed_or_passed([here.database_error], "")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            await pools.connect(here.database_url, read_connections=1, posting_connections=1)
    except Exception as fault:
        with suppress(Exception):  # whatever of it is open already
            await pools.disconnect()
        return failed_or_passed([_unreachable(fault)], "")
    return passed("it answers")


def _unreachable(fault: Exception) -> str:
    """Without the fault's own words, which may hold a part of the address."""
    state = failures.sqlstate(fault) or ""
    if state.startswith("28"):
        return "The database refuses the role of DATABASE_URL, or its password: check both, and pg_hba.conf."
    if state == "3D000":
        return "There is no database of DATABASE_URL's name: create it, or check the name."
    if state == "53300":
        return "The database has no connection left: raise max_connections, or end what holds them."
    if isinstance(fault, ValueError):
        return "DATABASE_URL is no address: write postgresql://USER:PASSWORD@HOST/NAME, with %-escapes in the password."
    return "The database cannot be reached: start it, and check host, port, firewall and certificate in DATABASE_URL."


async def version(_: Installation) -> CheckResult:
    """PostgreSQL is one of those that this code is tested on."""
    [found] = await pools.fetch(_VERSION)
    return check_version(found["number"], found["name"])


def check_version(number: int, name: str) -> CheckResult:
    """`number`: as PostgreSQL counts its versions, 150004 for 15.4."""
    faults = []
    if number // 10_000 < MINIMUM_POSTGRESQL:
        faults.append(f"PostgreSQL is {name}: upgrade to {MINIMUM_POSTGRESQL} or newer.")
    return failed_or_passed(faults, f"PostgreSQL {name}")


async def encryption(_: Installation) -> CheckResult:
    """What goes between server and database cannot be read on the way."""
    [found] = await pools.fetch(_PRIVATE)
    return check_encryption(local=found["local"], encrypted=found["encrypted"])


def check_encryption(*, local: bool, encrypted: bool) -> CheckResult:
    """`local`: by a unix socket or the loopback."""
    if local:
        return passed("not needed: it is reached on this machine")
    return failed_or_passed([] if encrypted else [_IN_THE_CLEAR], "the connection is encrypted")


async def durability(_: Installation) -> CheckResult:
    """What PostgreSQL has acknowledged outlives a crash."""
    faults = [
        f"{name} is off: what was acknowledged can be lost in a crash. Switch it on, for this role and database too."
        for name, value in await pools.fetch(_DURABLE)
        if value == "off"
    ]
    return failed_or_passed(faults, "fsync, synchronous_commit and full_page_writes are on")


async def connections(here: Installation) -> CheckResult:
    """There are enough for every worker's pools."""
    [[room]] = await pools.fetch(_ROOM)
    need = pools.max_connections(here.settings)
    faults = []
    if need > room:
        faults.append(
            f"WORKERS={here.settings.workers} take up to {need} connections, and PostgreSQL has {room} for this role: "
            "raise max_connections (or the limit of the role or database), or lower WORKERS, POSTING_CONNECTIONS or READ_CONNECTIONS."
        )
    return failed_or_passed(faults, f"{need} at most for WORKERS={here.settings.workers}, {room} there for this role")


async def clock(_: Installation) -> CheckResult:
    """Server and database agree on the time."""
    before = time.time()
    [[seconds]] = await pools.fetch(_CLOCK)
    return check_clock_difference(before, seconds, time.time())


def check_clock_difference(before: float, theirs: float, after: float) -> CheckResult:
    """`theirs` was read between `before` and `after`: of the difference, only what lies outside them counts."""
    apart = max(before - theirs, theirs - after, 0.0)
    faults = []
    if apart > MAXIMUM_CLOCK_DIFFERENCE_SECONDS:
        faults.append(
            f"The clocks of server and database differ by {apart:.1f} s: let both follow a time server (NTP)."
        )
    return failed_or_passed(faults, f"the clocks differ by less than {MAXIMUM_CLOCK_DIFFERENCE_SECONDS:g} s")
