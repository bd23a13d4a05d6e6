"""Parses JSON from callers without rounding a number.

JSON parsers may round numbers to doubles: 12345678901234567890123 and 12345678901234567890124 become equal. Here a
number becomes a 64-bit integer, or a double if `is_exact` accepts its text. Any other number becomes an
`InexactNumber`. No scalar accepts it, so the error message names the argument that contains it.
"""

import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import orjson

INTEGERS_64_BIT: Final = range(-(2**63), 2**64)
MAX_INTEGER_LENGTH: Final = 20
"""The maximum length of a 64-bit integer with its sign. Python converts longer texts in quadratic time."""
MAX_NUMBER_LENGTH: Final = 100

# Finds numbers with 16 digits or more, or with an exponent of three digits or more. Other numbers are exact, so the
# result of orjson, which is several times faster, is used. A text in a string may match too, which only costs time.
_BYTES_MAY_BE_INEXACT: Final = re.compile(rb"[\s:,\[]-?(?:[0-9.]{16}|[0-9.]+[eE][-+]?[0-9]{3})")
_TEXT_MAY_BE_INEXACT: Final = re.compile(_BYTES_MAY_BE_INEXACT.pattern.decode(), re.ASCII)


@dataclass(frozen=True, slots=True)
class InexactNumber:
    """A JSON number that would have to be rounded."""

    text: str

    def __str__(self) -> str:
        return self.text if len(self.text) <= 40 else f"{self.text[:40]}…"

    def __inspect__(self) -> str:
        """Return the text of the value in messages of graphql-core."""
        return str(self)

    @property
    def is_integer(self) -> bool:
        return self.text.lstrip("-").isdecimal()


def loads(text: bytes | str) -> Any:
    """Parse JSON like `orjson.loads`, without rounding. Raises: ValueError: it is not JSON, or nested too deeply."""
    value = orjson.loads(text)
    if not _contains_float(value):
        return value
    if isinstance(text, str):
        if _TEXT_MAY_BE_INEXACT.search(text) is None:
            return value
    elif _BYTES_MAY_BE_INEXACT.search(text) is None:
        return value
    try:
        return json.loads(text, parse_int=parse_integer, parse_float=parse_fraction)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _contains_float(value: object) -> bool:
    """Return whether a parsed value contains a float. The integers that orjson returns are exact."""
    containers: list[Any] = [[value]]
    while containers:
        for part in containers.pop():
            kind = type(part)
            if kind is float:
                return True
            if kind is list:
                containers.append(part)
            elif kind is dict:
                containers.append(part.values())
    return False


def parse_integer(text: str) -> int | InexactNumber:
    """Parse a number without fraction and exponent. It is used as `parse_int` of `json.loads`."""
    if len(text) <= MAX_INTEGER_LENGTH and (number := int(text)) in INTEGERS_64_BIT:
        return number
    return InexactNumber(text)


def parse_fraction(text: str) -> float | InexactNumber:
    """Parse a number with a fraction or an exponent. It is used as `parse_float` of `json.loads`."""
    return float(text) if is_exact(text) else InexactNumber(text)


def is_exact(text: str) -> bool:
    """Return whether `text` is how a double is written: as short as possible, or with 17 significant digits.

    So 0.1 and 0.10000000000000001 are exact, 9007199254740993.0 and 1e400 are not.
    """
    if len(text) > MAX_NUMBER_LENGTH or not math.isfinite(number := float(text)):
        return False
    try:
        return Decimal(text) in {Decimal(repr(number)), Decimal(f"{number:.17g}")}
    except ArithmeticError:  # an exponent beyond what a decimal can have
        return False
