"""`python -m app check [--production] [--json]`"""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import click
from pydantic import ValidationError

from app.cli import error_messages
from app.cli.checklist import runner
from app.cli.checklist.results import CheckStatus, Installation
from app.cli.checklist.runner import Results
from app.cli.connection import database_url, override_settings
from app.db.embedded_postgres import EmbeddedPostgresError
from app.errors import Misconfigured
from app.settings import Settings, get_settings


def run(*, production: bool, as_json: bool) -> int:
    """Look at every point and tell. The exit status: 0 where all hold, else 1."""
    with ExitStack() as open_meanwhile:
        here = _installation(production, open_meanwhile)
        found = asyncio.run(runner.run_checks(here))
    passed = all(finding.status is not CheckStatus.FAILED for _, finding in found)
    if as_json:
        click.echo(json.dumps(_data(found, production=production, passed=passed), indent=2))
    else:
        click.echo("\n".join(_lines(found)))
    return 0 if passed else 1


def _installation(production: bool, open_meanwhile: ExitStack) -> Installation:
    environment, problems = _settled(production)
    chosen = get_settings()
    common: dict[str, Any] = {
        "settings": chosen,
        "production": production,
        "environment": environment,
        "problems": problems,
    }
    if production and chosen.database_url is None:
        return Installation(**common)
    try:
        return Installation(**common, database_url=open_meanwhile.enter_context(database_url()))
    except (Misconfigured, EmbeddedPostgresError) as refusal:
        return Installation(**common, database_error=str(refusal))


def _settled(production: bool) -> tuple[str, tuple[str, ...]]:
    """Make `settings()` readable, and production's where that is asked for.

    Returns: what ENVIRONMENT says, and what is wrong with the settings that were left out.
    """
    problems: tuple[str, ...] = ()
    try:
        Settings()
    except ValidationError as fault:
        problems = tuple(error_messages.settings_errors(fault))
        unreadable = {str(problem["loc"][0]).upper() for problem in fault.errors()}
        for name in [name for name in os.environ if name.upper() in unreadable]:
            del os.environ[name]
    environment = Settings().environment
    override_settings(environment="production" if production else environment)
    return environment, problems


def _lines(found: Results) -> Iterator[str]:
    """One line a point; each fault after the first below it."""
    width = max(len(point.name) for point, _ in found)
    for point, finding in found:
        first, *others = finding.messages
        yield f"{finding.status:<5}  {point.name:<{width}}  {first}"
        yield from (f"{'':<5}  {'':<{width}}  {other}" for other in others)
    faults = sum(finding.status is CheckStatus.FAILED for _, finding in found)
    left_out = sum(finding.status is CheckStatus.SKIPPED for _, finding in found)
    yield f"\n{len(found)} points: {len(found) - faults - left_out} hold, {faults} faults, {left_out} not looked at"


def _data(found: Results, *, production: bool, passed: bool) -> dict[str, Any]:
    states = {CheckStatus.SKIPPED: "NOT_LOOKED_AT"}
    listed = [
        {"point": point.name, "state": states.get(finding.status, str(finding.status)), "told": list(finding.messages)}
        for point, finding in found
    ]
    return {"production": production, "passed": passed, "points": listed}
