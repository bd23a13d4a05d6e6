"""What is looked at, and what a point says of it."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from app.settings import Settings

LOCK_FILE: Final = Path(__file__).resolve().parents[3] / "requirements.lock"


class CheckStatus(StrEnum):
    OK = "OK"
    FAILED = "FAULT"
    SKIPPED = "-"
    """Not looked at: what it needs is not there, or only production asks for it."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`told`: what was found; of faults a sentence each, which says what is wrong and then what to do."""

    status: CheckStatus
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One installation, as it is looked at. `settings` are production's where production is asked for."""

    settings: Settings
    production: bool
    environment: str = "production"
    """What ENVIRONMENT says, whatever is asked for."""
    settings_errors: tuple[str, ...] = ()
    """Settings that cannot be read; `settings` holds the default in the place of each."""
    database_url: str | None = None
    database_error: str = "DATABASE_URL is not set: production needs a PostgreSQL 15 or newer."
    """Why there is no `database_url`."""
    lock_file: Path = LOCK_FILE


CheckFunction = Callable[[Installation], Awaitable[CheckResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`needs`: the point that has to hold before this one can be looked at."""

    name: str
    run: CheckFunction
    requires: str | None = None
    in_development: bool = True


def passed(told: str) -> CheckResult:
    return CheckResult(CheckStatus.OK, (told,))


def skipped(why: str) -> CheckResult:
    return CheckResult(CheckStatus.SKIPPED, (f"not looked at: {why}",))


def failed_or_passed(faults: Iterable[str], otherwise: str) -> CheckResult:
    """The faults, or, where there are none, what holds."""
    found = tuple(faults)
    return CheckResult(CheckStatus.FAILED, found) if found else passed(otherwise)
