"""Measurements of a block run, for prices per second, item, byte or US dollar."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from app.credits import MAX_CREDITS
from app.errors import InvalidInput, Problem

MAX_SECONDS: Final = 366 * 86_400
MAX_USD: Final = 10_000_000
MAX_DIGITS: Final = 40
"""The maximum number of significant digits. It is small enough for exact arithmetic."""
MAX_EXPONENT: Final = 400
"""The largest exponent of a decimal, positive or negative. It is larger than the exponents of floats."""

_DECIMAL_TEXT: Final = re.compile(r"-?[0-9]{1,64}(\.[0-9]{1,64})?([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """The measurements of one block run. None means not measured. `usd` is the provider's cost in US dollars.

    Seconds and US dollars are exact decimals, never floats. Raises: InvalidInput: a measurement is out of bounds.
    """

    seconds: Decimal | None = None
    items: int | None = None
    bytes: int | None = None
    usd: Decimal | None = None

    def __post_init__(self) -> None:
        check_measurements(self)


def check_measurements(measurements: Measurements, *, path: str = "measurements") -> None:
    """Raises: InvalidInput: lists every measurement under `path` that is negative, not finite or above its maximum."""
    problems = [
        *_decimal_problems(measurements.seconds, MAX_SECONDS, f"{path}.seconds"),
        *_whole_problems(measurements.items, f"{path}.items"),
        *_whole_problems(measurements.bytes, f"{path}.bytes"),
        *_decimal_problems(measurements.usd, MAX_USD, f"{path}.usd"),
    ]
    if problems:
        raise InvalidInput(problems=problems)


def parse_measurements(
    *,
    seconds: Decimal | float | None = None,
    items: int | None = None,
    bytes: int | None = None,
    usd: Decimal | str | None = None,
    path: str = "measurements",
) -> Measurements:
    """Create measurements from input values. The float 0.1 becomes the decimal 0.1, as Python prints it.

    Raises: InvalidInput: lists the problems under `path`.
    """
    if isinstance(usd, str) and not _DECIMAL_TEXT.fullmatch(usd):
        raise InvalidInput.at(f"{path}.usd", 'must be a decimal number in text, like "0.25"')
    exact_usd = Decimal(usd) if usd is not None else None
    exact_seconds = Decimal(str(seconds)) if seconds is not None else None
    try:
        return Measurements(seconds=exact_seconds, items=items, bytes=bytes, usd=exact_usd)
    except InvalidInput as error:
        prefix = len("measurements")
        raise InvalidInput(problems=[Problem(path + at.path[prefix:], at.message) for at in error.problems]) from None


def _decimal_problems(value: Decimal | None, maximum: int, path: str) -> list[Problem]:
    if value is None:
        return []
    # NaN cannot be compared, so is_finite comes first.
    if value.is_finite() and _has_few_digits(value) and 0 <= value <= maximum:
        return []
    return [Problem(path, f"must be a number from 0 to {maximum:,} of at most {MAX_DIGITS} digits")]


def _has_few_digits(value: Decimal) -> bool:
    _, digits, exponent = value.as_tuple()
    return len(digits) <= MAX_DIGITS and isinstance(exponent, int) and abs(exponent) <= MAX_EXPONENT


def _whole_problems(value: int | None, path: str) -> list[Problem]:
    if value is None or (type(value) is int and 0 <= value <= MAX_CREDITS):
        return []
    return [Problem(path, f"must be a whole number from 0 to {MAX_CREDITS:,}")]
