"""The checklist: its points in their order, and the walk along them."""

import asyncio
from typing import Final

from app.cli.checklist import database_checks, environment_checks, schema_checks, settings_checks
from app.cli.checklist.results import Check, CheckResult, CheckStatus, Installation, failed_or_passed, skipped
from app.db import failures, pools

CHECK_TIMEOUT_SECONDS: Final = 20.0
"""For one point: what hangs is a fault of its own."""
DATABASE: Final = "database"
MIGRATIONS: Final = "migrations"
INSUFFICIENT_PRIVILEGE: Final = "42501"

CHECKS: Final = (
    Check(name="settings", run=settings_checks.settings),
    Check(name="secrets", run=settings_checks.secrets, in_development=False),
    Check(name="tokens", run=settings_checks.tokens),
    Check(name="key-set", run=environment_checks.jwks),
    Check(name="hosts", run=settings_checks.hosts, in_development=False),
    Check(name="origins", run=settings_checks.origins, in_development=False),
    Check(name="proxy", run=settings_checks.proxy, in_development=False),
    Check(name="public-address", run=settings_checks.public_url, in_development=False),
    Check(name="payments", run=settings_checks.payments),
    Check(name="known-documents", run=settings_checks.persisted_documents),
    Check(name="logs", run=settings_checks.logs, in_development=False),
    Check(name="limits", run=settings_checks.rate_limits, in_development=False),
    Check(name="versions", run=environment_checks.package_versions),
    Check(name=DATABASE, run=database_checks.reachable),
    Check(name="postgresql", run=database_checks.version, requires=DATABASE),
    Check(name="encryption", run=database_checks.encryption, requires=DATABASE, in_development=False),
    Check(name="durability", run=database_checks.durability, requires=DATABASE),
    Check(name="connections", run=database_checks.connections, requires=DATABASE),
    Check(name="clock", run=database_checks.clock, requires=DATABASE),
    Check(name=MIGRATIONS, run=schema_checks.migrations, requires=DATABASE),
    Check(name="database-role", run=schema_checks.role, requires=DATABASE, in_development=False),
    Check(name="rate-card", run=schema_checks.rate_card, requires=MIGRATIONS),
    Check(name="service-keys", run=schema_checks.service_keys, requires=MIGRATIONS, in_development=False),
)

Results = list[tuple[Check, CheckResult]]


async def run_checks(here: Installation) -> Results:
    """What each point says, all of them, in their order. The database's pools are open meanwhile, and only then."""
    found: Results = []
    holding: set[str] = set()
    try:
        for point in CHECKS:
            finding = await _look(point, here, holding)
            found.append((point, finding))
            if finding.status is CheckStatus.OK:
                holding.add(point.name)
    finally:
        if DATABASE in holding:
            await pools.disconnect()
    return found


async def _look(point: Check, here: Installation, holding: set[str]) -> CheckResult:
    if not here.production and not point.in_development:
        return skipped("only production asks for it")
    if point.requires is not None and point.requires not in holding:
        return skipped(f"it needs {point.requires}")
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            return await point.run(here)
    except Exception as fault:
        return failed_or_passed([_unforeseen(fault)], "")


def _unforeseen(fault: Exception) -> str:
    """A fault that no point foresees, without its own words: they may repeat a secret."""
    if failures.sqlstate(fault) == INSUFFICIENT_PRIVILEGE:
        return "DATABASE_URL's role may not read this: run `python -m app migrate` with MIGRATION_DATABASE_URL set."
    if isinstance(fault, TimeoutError):
        return f"There was no answer within {CHECK_TIMEOUT_SECONDS:g} s: see what keeps it, and run this again."
    return f"It cannot be looked at ({type(fault).__name__}): mend the points above, and run this again."
