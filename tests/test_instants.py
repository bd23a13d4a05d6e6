"""The bounds of instants from callers."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from app.errors import InvalidInput
from app.instants import (
    MAX_INSTANT,
    MIN_INSTANT,
    InvalidInstant,
    check_instant,
    instant_of_timestamp,
    is_instant,
    parse_instant,
)

BOUNDS = "must lie between 2000-01-01 and 9999-01-01 UTC"


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2000-01-01T00:00:00Z", MIN_INSTANT),
        ("9999-01-01T00:00:00Z", MAX_INSTANT),
        ("9999-01-01T14:00:00+14:00", MAX_INSTANT),
        ("1999-12-31T10:00:00-14:00", MIN_INSTANT),
        ("2026-01-31T00:00:00+0000", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00.1234567Z", datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
    ],
)
def test_an_instant_within_the_bounds_is_returned_in_utc(text: str, instant: datetime) -> None:
    parsed = parse_instant(text)

    assert (parsed, parsed.tzinfo) == (instant, UTC)


@pytest.mark.parametrize(
    "text",
    [
        "9999-12-31T23:59:59.9999999Z",
        "9999-12-31T23:59:59-12:00",
        "9999-01-01T00:00:00.000001Z",
        "9999-01-01T00:00:00-00:01",
        "1999-12-31T23:59:59.999999Z",
        "2000-01-01T00:00:00+00:01",
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_an_instant_outside_the_bounds_is_refused(text: str) -> None:
    with pytest.raises(InvalidInstant, match=BOUNDS):
        parse_instant(text)


@pytest.mark.parametrize("text", ["", "now", "2026-13-01T00:00:00Z", "10000-01-01T00:00:00Z", "infinity", "2" * 41])
def test_a_text_that_is_not_an_instant_is_refused(text: str) -> None:
    with pytest.raises(InvalidInstant, match="must be an ISO 8601 instant such as"):
        parse_instant(text)


@pytest.mark.parametrize(
    ("instant", "problem"),
    [
        (datetime.max.replace(tzinfo=UTC), BOUNDS),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), BOUNDS),
        (datetime(2026, 1, 31), "must have an offset from UTC, such as 2026-01-31T12:00:00Z"),  # noqa: DTZ001  refused because it has no zone
    ],
)
def test_a_checked_instant_is_refused_at_its_path(instant: datetime, problem: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_instant(instant, path="expiresAt")

    assert refused.value.message == f"expiresAt {problem}."


@pytest.mark.parametrize("instant", [MIN_INSTANT, MAX_INSTANT, datetime(2027, 1, 1, tzinfo=UTC)])
def test_a_unix_time_within_the_bounds_is_an_instant(instant: datetime) -> None:
    assert instant_of_timestamp(int(instant.timestamp())) == instant
    assert is_instant(instant)


@pytest.mark.parametrize("seconds", [0, -1, 946_684_799, 253_370_764_801, 10**18, 10**400, 1e300, None, "1"])
def test_a_unix_time_outside_the_bounds_is_refused(seconds: Any) -> None:
    with pytest.raises(InvalidInstant):
        instant_of_timestamp(seconds)


def test_a_time_without_an_offset_or_beyond_the_bounds_is_no_instant() -> None:
    assert not is_instant(datetime(2027, 1, 1))  # noqa: DTZ001  it is no instant because it has no zone
    assert not is_instant(datetime.max.replace(tzinfo=UTC))
    assert not is_instant(datetime.min.replace(tzinfo=UTC))
