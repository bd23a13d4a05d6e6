"""Credits: whole numbers, their bounds, and the one place that rounds.

A credit is an integer. Every figure fits a JSON number exactly (|x| <= 2^53 - 1), so no client has to parse strings.
An operation that would pass the bound is refused, never clamped: the recorded amount is always the amount that moved.
"""

from decimal import ROUND_CEILING, Decimal
from typing import Final

from app.errors import InvalidInput

MAX_CREDITS: Final = 2**53 - 1
"""The largest amount, balance, version or sequence number: 9,007,199,254,740,991."""

MAX_KEY_LENGTH: Final = 255
"""Ids and idempotency keys have 1 to 255 visible characters."""


def check_amount(credits: int, *, path: str = "credits", minimum: int = 1) -> int:
    """`credits`, if it lies within `minimum` and 2^53 - 1. Raises: InvalidInput, naming `path`."""
    if minimum <= credits <= MAX_CREDITS:
        return credits
    raise InvalidInput.at(path, f"must lie between {minimum:,} and {MAX_CREDITS:,}; it is {credits:,}")


def check_key(key: str, *, path: str) -> str:
    """`key`, if it has 1 to 255 visible characters (no spaces or control characters). Raises: InvalidInput."""
    if 1 <= len(key) <= MAX_KEY_LENGTH and key.isprintable() and not any(map(str.isspace, key)):
        return key
    raise InvalidInput.at(path, f"must have 1 to {MAX_KEY_LENGTH} visible characters, without spaces")


def round_up(amount: Decimal) -> int:
    """The whole credits that cover `amount`: the product's only rounding of credits (a price rounds up, once)."""
    return int(amount.to_integral_value(rounding=ROUND_CEILING))
