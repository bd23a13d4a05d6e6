"""What is looked at, and what a point says of it."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from app.settings import Settings

LOCK: Final = Path(__file__).resolve().parents[3] / "requirements.lock"


class State(StrEnum):
    OK = "OK"
    FAULT = "FAULT"
    LEFT_OUT = "-"
    """Not looked at: what it needs is not there, or only production asks for it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`told`: what was found; of faults a sentence each, which says what is wrong and then what to do."""

    state: State
    told: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One installation, as it is looked at. `settings` are production's where production is asked for."""

    settings: Settings
    production: bool
    environment: str = "production"
    """What ENVIRONMENT says, whatever is asked for."""
    problems: tuple[str, ...] = ()
    """Settings that cannot be read; `settings` holds the default in the place of each."""
    database_url: str | None = None
    out_of_reach: str = "DATABASE_URL is not set: production needs a PostgreSQL 15 or newer."
    """Why there is no `database_url`."""
    lock: Path = LOCK


Look = Callable[[Installation], Awaitable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """`needs`: the point that has to hold before this one can be looked at."""

    name: str
    look: Look
    needs: str | None = None
    in_development: bool = True


def holds(told: str) -> Finding:
    return Finding(State.OK, (told,))


def left_out(why: str) -> Finding:
    return Finding(State.LEFT_OUT, (f"not looked at: {why}",))


def verdict(faults: Iterable[str], otherwise: str) -> Finding:
    """The faults, or, where there are none, what holds."""
    found = tuple(faults)
    return Finding(State.FAULT, found) if found else holds(otherwise)
