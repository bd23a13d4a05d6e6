"""Instants from callers: their bounds, parsing and checks.

The bounds are narrower than those of `datetime`. So converting an instant to a time zone and adding a period cannot
overflow. `datetime.max` is excluded, because asyncpg stores it as `infinity` and reads it back without an offset.
"""

from datetime import UTC, datetime
from typing import Final

from app.errors import InvalidInput

MIN_INSTANT: Final = datetime(2000, 1, 1, tzinfo=UTC)
MAX_INSTANT: Final = datetime(9999, 1, 1, tzinfo=UTC)
MAX_TEXT_LENGTH: Final = 40


class InvalidInstant(ValueError):
    """The value is not an instant within the bounds. The message says what it must be."""


def parse_instant(text: str) -> datetime:
    """Return the instant that an ISO 8601 text with an offset denotes, in UTC. Raises: InvalidInstant."""
    if len(text) > MAX_TEXT_LENGTH:
        raise InvalidInstant("must be an ISO 8601 instant such as 2026-01-31T12:00:00Z")
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInstant("must be an ISO 8601 instant such as 2026-01-31T12:00:00Z") from None
    return _in_utc(instant)


def instant_of_timestamp(seconds: int) -> datetime:
    """Return the instant of a Unix time. Raises: InvalidInstant."""
    try:
        instant = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError, TypeError):
        raise InvalidInstant("must be a Unix time") from None
    return _in_utc(instant)


def is_instant(value: datetime) -> bool:
    """Return whether `value` has an offset from UTC and lies within the bounds."""
    return value.tzinfo is not None and MIN_INSTANT <= value <= MAX_INSTANT


def check_instant(instant: datetime, *, path: str) -> datetime:
    """Return `instant` in UTC, if it lies within the bounds. Raises: InvalidInput at `path`."""
    try:
        return _in_utc(instant)
    except InvalidInstant as error:
        raise InvalidInput.at(path, str(error)) from None


def _in_utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise InvalidInstant("must have an offset from UTC, such as 2026-01-31T12:00:00Z")
    if not MIN_INSTANT <= instant <= MAX_INSTANT:  # compared first, because the conversion to UTC may overflow
        raise InvalidInstant("must lie between 2000-01-01 and 9999-01-01 UTC")
    return instant.astimezone(UTC)
