"""Parts of messages for people: numbers with their noun, and values of callers, written as JSON and shortened."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

MAX_QUOTED_LENGTH: Final = 80
"""The maximum number of characters of a quoted value."""

_INVISIBLE: Final = re.compile(r"[^ -~]")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return the number with its noun. Without `plural`, the plural is the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def quote_value(value: object) -> str:
    """Return the value as JSON, without characters that cannot be seen. A long value is cut and ends with `…`."""
    if isinstance(value, str):
        is_long = len(value) > MAX_QUOTED_LENGTH
        return _escape_invisible(json.dumps(shorten(value), ensure_ascii=False)) if is_long else _leaf(value)
    text = ""
    for part in _parts(value):  # converts no more of a long value than is shown
        text += part
        if len(text) > MAX_QUOTED_LENGTH:
            break
    return shorten(text)


def reason_of(failure: Exception) -> str:
    """Return the message of a connection error without `[Errno 111]` and the address tuple, which Python adds."""
    return re.sub(r"\[Errno -?\d+\] | \('[^)]*\)", "", str(failure))


def shorten_words(text: str) -> str:
    """Return a text of other software, without characters that cannot be seen and with long words cut.

    Long words are usually names and values of the caller, whose length is not limited.
    """
    return _escape_invisible(re.sub(rf"\w{{{MAX_QUOTED_LENGTH + 1},}}", lambda word: shorten(word[0]), text))


def _parts(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield "{"
        for position, (name, inner) in enumerate(value.items()):
            yield f"{', ' if position else ''}{_leaf(str(name))}: "
            yield from _parts(inner)
        yield "}"
    elif isinstance(value, list | tuple):
        yield "["
        for position, inner in enumerate(value):
            yield ", " if position else ""
            yield from _parts(inner)
        yield "]"
    else:
        yield _leaf(value)


def _leaf(value: object) -> str:
    if value is None or isinstance(value, str | bool | int | float):
        try:
            return _escape_invisible(json.dumps(value, ensure_ascii=False))
        except ValueError:  # Python converts at most 4,300 digits
            return "a number with thousands of digits"
    return str(value)


def _escape_invisible(text: str) -> str:
    """Escape control characters, and characters that change the direction of text."""
    return _INVISIBLE.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], text)


def shorten(text: str) -> str:
    """Return the text, or its beginning with `…` if it is long."""
    return text if len(text) <= MAX_QUOTED_LENGTH else f"{text[: MAX_QUOTED_LENGTH - 1]}…"
