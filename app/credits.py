"""Credits: their bounds, and the only place that rounds them.

A credit is an integer. Amounts, balances, versions and sequence numbers are at most 2^53 - 1 in absolute value, so that
every client can read them as JSON numbers. An operation that would exceed the bound is refused.
"""

from decimal import ROUND_CEILING, Decimal
from typing import Final

from app.errors import InvalidInput

MAX_CREDITS: Final = 2**53 - 1
"""9,007,199,254,740,991."""

MAX_KEY_LENGTH: Final = 255
"""Of ids and idempotency keys, in characters."""


def check_amount(credits: int, *, path: str = "credits", minimum: int = 1) -> int:
    """`credits`, if it is between `minimum` and 2^53 - 1. Raises: InvalidInput at `path`."""
    if minimum <= credits <= MAX_CREDITS:
        return credits
    raise InvalidInput.at(path, f"must lie between {minimum:,} and {MAX_CREDITS:,}; it is {credits:,}")


def check_key(key: str, *, path: str) -> str:
    """`key`, if it is a valid id or idempotency key: 1 to 255 visible characters, no spaces. Raises: InvalidInput."""
    if 1 <= len(key) <= MAX_KEY_LENGTH and key.isprintable() and not any(map(str.isspace, key)):
        return key
    raise InvalidInput.at(path, f"must have 1 to {MAX_KEY_LENGTH} visible characters, without spaces")


def round_up(amount: Decimal) -> int:
    """`amount` rounded up to whole credits."""
    return int(amount.to_integral_value(rounding=ROUND_CEILING))
