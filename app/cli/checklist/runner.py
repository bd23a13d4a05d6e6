"""The list of checks, and the functions that run them."""

import asyncio
from typing import Final

from app.cli.checklist import database_checks, environment_checks, settings_checks
from app.cli.checklist.results import Check, CheckFailed, CheckResult, CheckSkipped, CheckStatus, Installation
from app.cli.error_messages import INSUFFICIENT_PRIVILEGE
from app.db import pools
from app.db.failures import sqlstate
from app.errors import Misconfigured

CHECK_TIMEOUT_SECONDS: Final = 20.0
DATABASE: Final = "database"
MIGRATIONS: Final = "migrations"

CHECKS: Final = (
    Check(name="settings", run=settings_checks.valid_settings),
    Check(name="secrets", run=settings_checks.secrets, in_development=False),
    Check(name="tokens", run=settings_checks.tokens),
    Check(name="jwks", run=environment_checks.jwks),
    Check(name="hosts", run=settings_checks.hosts, in_development=False),
    Check(name="origins", run=settings_checks.origins, in_development=False),
    Check(name="proxy", run=settings_checks.proxy, in_development=False),
    Check(name="public-url", run=settings_checks.public_url, in_development=False),
    Check(name="payments", run=settings_checks.payments),
    Check(name="persisted-documents", run=settings_checks.persisted_documents),
    Check(name="logs", run=settings_checks.logs, in_development=False),
    Check(name="rate-limits", run=settings_checks.rate_limits, in_development=False),
    Check(name="versions", run=environment_checks.package_versions),
    Check(name=DATABASE, run=database_checks.reachable),
    Check(name="postgresql", run=database_checks.version, requires=DATABASE),
    Check(name="encryption", run=database_checks.encryption, requires=DATABASE, in_development=False),
    Check(name="durability", run=database_checks.durability, requires=DATABASE),
    Check(name="connections", run=database_checks.connections, requires=DATABASE),
    Check(name="clock", run=database_checks.clock, requires=DATABASE),
    Check(name=MIGRATIONS, run=database_checks.migrations, requires=DATABASE),
    Check(name="database-role", run=database_checks.role, requires=DATABASE, in_development=False),
    Check(name="ledger-keys", run=database_checks.ledger_keys, requires=MIGRATIONS),
    Check(name="rate-card", run=database_checks.rate_card, requires=MIGRATIONS),
    Check(name="service-keys", run=database_checks.service_keys, requires=MIGRATIONS, in_development=False),
)


async def run_checks(installation: Installation) -> dict[str, CheckResult]:
    """Run the checks in order and return their results by name. The database pools are open until the last check."""
    results: dict[str, CheckResult] = {}
    passed: set[str] = set()
    try:
        for check in CHECKS:
            result = results[check.name] = await _run_if_applicable(check, installation, passed)
            if result.status is CheckStatus.OK:
                passed.add(check.name)
    finally:
        if DATABASE in passed:
            await pools.disconnect()
    return results


async def _run_if_applicable(check: Check, installation: Installation, passed: set[str]) -> CheckResult:
    if not installation.production and not check.in_development:
        return CheckResult(CheckStatus.SKIPPED, ("applies to production only",))
    if check.requires is not None and check.requires not in passed:
        return CheckResult(CheckStatus.SKIPPED, (f"requires {check.requires}",))
    return await run_check(check, installation)


async def run_check(check: Check, installation: Installation) -> CheckResult:
    """Run one check. Any exception becomes a result."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            return CheckResult(CheckStatus.OK, (await check.run(installation),))
    except CheckSkipped as skipped:
        return CheckResult(CheckStatus.SKIPPED, (str(skipped),))
    except CheckFailed as failed:
        return CheckResult(CheckStatus.FAILED, failed.args)
    except Misconfigured as error:
        return CheckResult(CheckStatus.FAILED, (str(error),))
    except Exception as error:
        return CheckResult(CheckStatus.FAILED, (_describe_unexpected(error),))


def _describe_unexpected(error: Exception) -> str:
    """Describe an exception without its text, which may contain a secret."""
    if sqlstate(error) == INSUFFICIENT_PRIVILEGE:
        return "DATABASE_URL's role may not read this: run `python -m app migrate` with MIGRATION_DATABASE_URL set."
    if isinstance(error, TimeoutError):
        return f"There was no response within {CHECK_TIMEOUT_SECONDS:g} s: find out what blocks it, and run this again."
    return f"The check failed with {type(error).__name__}: fix the problems above, and run this again."
