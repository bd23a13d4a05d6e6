"""`python -m app check [--production] [--json]`"""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial

import click
from pydantic import ValidationError

from app.cli import error_messages
from app.cli.checklist.results import CheckResult, CheckStatus, Installation
from app.cli.checklist.runner import run_checks
from app.cli.connection import database_url, override_settings
from app.db.embedded_postgres import EmbeddedPostgresError
from app.errors import Misconfigured
from app.settings import Settings, get_settings


def run(*, production: bool, as_json: bool) -> int:
    """Run all checks and print their results. Returns the exit status: 1 if a check failed."""
    with ExitStack() as stack:
        results = asyncio.run(run_checks(_installation(production, stack)))
    passed = all(result.status is not CheckStatus.FAILED for result in results.values())
    if as_json:
        checks = [
            {"name": name, "status": result.status, "messages": result.messages} for name, result in results.items()
        ]
        click.echo(json.dumps({"production": production, "passed": passed, "checks": checks}, indent=2))
    else:
        click.echo("\n".join(_lines(results)))
    return 0 if passed else 1


def _installation(production: bool, stack: ExitStack) -> Installation:
    """Describe the installation. This may start the embedded PostgreSQL, which then runs until `stack` is closed."""
    environment, settings_errors = _load_settings(production)
    settings = get_settings()
    installation = partial(
        Installation,
        settings=settings,
        production=production,
        environment=environment,
        settings_errors=settings_errors,
    )
    if production and settings.database_url is None:
        return installation()
    try:
        return installation(database_url=stack.enter_context(database_url()))
    except (Misconfigured, EmbeddedPostgresError) as error:
        return installation(database_error=str(error))


def _load_settings(production: bool) -> tuple[str, tuple[str, ...]]:
    """Remove invalid settings from the environment, so that `get_settings()` works. If requested, set production.

    Returns the value of ENVIRONMENT, and a message for each invalid setting.
    """
    messages: tuple[str, ...] = ()
    try:
        Settings()
    except ValidationError as error:
        messages = tuple(error_messages.settings_errors(error))
        invalid = {str(problem["loc"][0]).upper() for problem in error.errors()}
        for name in [name for name in os.environ if name.upper() in invalid]:
            del os.environ[name]
    environment = Settings().environment
    override_settings(environment="production" if production else environment)
    return environment, messages


def _lines(results: Mapping[str, CheckResult]) -> Iterator[str]:
    """Yield a line for each check, and one more for each further problem."""
    width = max(map(len, results))
    for name, result in results.items():
        first, *others = result.messages
        yield f"{result.status:<7}  {name:<{width}}  {first}"
        yield from (f"{'':<7}  {'':<{width}}  {other}" for other in others)
    counts = {status: sum(result.status is status for result in results.values()) for status in CheckStatus}
    yield (
        f"\n{len(results)} checks: {counts[CheckStatus.OK]} passed, {counts[CheckStatus.FAILED]} failed, "
        f"{counts[CheckStatus.SKIPPED]} skipped"
    )
