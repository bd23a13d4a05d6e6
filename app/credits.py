"""Credits: their bounds and rounding.

A credit is an integer. Amounts, balances, versions and sequence numbers are at most 2^53 - 1 in absolute value, so that
every client can read them as JSON numbers. An operation that would exceed the bound is refused.
"""

from decimal import ROUND_CEILING, Decimal
from typing import Final

from app.errors import InvalidInput
from app.wording import shorten

MAX_CREDITS: Final = 2**53 - 1
"""9,007,199,254,740,991."""

MAX_KEY_LENGTH: Final = 255
"""The maximum number of characters of ids and idempotency keys."""

_INVISIBLE: Final = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)
"""Characters that Python counts as printable although they are invisible: fillers, joiners, variation selectors."""


def check_amount(credits: int, *, path: str = "credits", minimum: int = 1) -> int:
    """Return `credits`, if it is between `minimum` and 2^53 - 1. Raises: InvalidInput at `path`."""
    if minimum <= credits <= MAX_CREDITS:
        return credits
    raise InvalidInput.at(path, f"must lie between {minimum:,} and {MAX_CREDITS:,}; it is {shorten(f'{credits:,}')}")


def check_key(key: str, *, path: str) -> str:
    """Return `key`, if it is a valid id or key: 1 to 255 visible characters, no spaces. Raises: InvalidInput."""
    if is_key(key):
        return key
    raise InvalidInput.at(path, f"must have 1 to {MAX_KEY_LENGTH} visible characters, without spaces")


def is_key(key: str) -> bool:
    """Return whether `key` is a valid id or idempotency key (see `check_key`)."""
    return 1 <= len(key) <= MAX_KEY_LENGTH and is_visible(key) and " " not in key


def is_visible(text: str) -> bool:
    """Return whether every character of `text` is visible or the space U+0020."""
    return text.isprintable() and (text.isascii() or _INVISIBLE.isdisjoint(text))


def is_storable(text: str) -> bool:
    """Return whether PostgreSQL can store `text`. It stores neither NUL nor half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def round_up(amount: Decimal) -> int:
    """Return `amount`, rounded up to whole credits."""
    return int(amount.to_integral_value(rounding=ROUND_CEILING))
