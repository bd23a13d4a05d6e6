"""The types of the checklist: the argument of a check, and its result."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from app.settings import Settings

LOCK_FILE: Final = Path(__file__).resolve().parents[3] / "requirements.lock"


class CheckStatus(StrEnum):
    OK = "OK"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    """Not completed: a check that it requires did not pass, it is for production only, or it raised CheckSkipped."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check.

    `messages` says what a passed check found, or why a check was skipped. For a failed check it has one message for
    each problem, which says what is wrong and what to do.
    """

    status: CheckStatus
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The installation that is checked. If `production` is True, `settings` were read with ENVIRONMENT=production."""

    settings: Settings
    production: bool
    environment: str = "production"
    """The value of ENVIRONMENT that the operator configured. `production` does not change it."""
    settings_errors: tuple[str, ...] = ()
    """A message for each setting that cannot be parsed. `settings` contains the default of such a setting."""
    database_url: str | None = None
    database_error: str = "DATABASE_URL is not set: production needs a PostgreSQL 15 or newer."
    """Why `database_url` is None."""
    lock_file: Path = LOCK_FILE


class CheckFailed(Exception):
    """The check has found problems. Each argument is a message."""

    args: tuple[str, ...]


class CheckSkipped(Exception):
    """The check does not apply. The argument says why."""


CheckFunction = Callable[[Installation], Awaitable[str]]
"""A function that returns what it has found. Its docstring states the condition that it checks.

Raises: CheckFailed, CheckSkipped, Misconfigured.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check.

    `requires` is the name of the check that must pass before this one can run. If `in_development` is False, the check
    is skipped without `--production`.
    """

    name: str
    run: CheckFunction
    requires: str | None = None
    in_development: bool = True


def fail_if(problems: Sequence[str]) -> None:
    """Raises: CheckFailed: there are problems."""
    if problems:
        raise CheckFailed(*problems)
