"""Points about what the database holds, and what the application's role may do to it."""

from typing import Final

from app.cli.checklist.results import CheckResult, Installation, failed_or_passed
from app.db import migrations as migrating
from app.db import pools, roles

_CARD: Final = """
    SELECT version FROM rate_card WHERE effective_at <= clock_timestamp() ORDER BY version DESC LIMIT 1
"""
_KEYS: Final = """
    SELECT count(*) AS active FROM service_key
    WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
"""


async def migrations(_: Installation) -> CheckResult:
    """The tables are those that this version of the code expects."""
    missing = await migrating.pending()
    faults = [f"The database lacks {', '.join(missing)}: run `python -m app migrate` as the owner."] if missing else []
    return failed_or_passed(faults, "all are applied")


async def role(_: Installation) -> CheckResult:
    """The application's role owns nothing, and cannot change or delete an entry."""
    return failed_or_passed(await roles.find_excess_privileges(), "it owns nothing and cannot change history")


async def rate_card(_: Installation) -> CheckResult:
    """There are prices."""
    found = await pools.fetch(_CARD)
    faults = [] if found else ["No rate card is in force: publish one by `python -m app prices publish FILE`."]
    return failed_or_passed(faults, f"version {found[0]['version']} is in force" if found else "")


async def service_keys(_: Installation) -> CheckResult:
    """Somebody may charge, or give credits: nobody else starts anything."""
    [[active]] = await pools.fetch(_KEYS)
    faults = []
    if not active:
        faults.append("No service key is active: make one by `python -m app keys create executor --scope charge`.")
    return failed_or_passed(faults, f"{active} active")
