"""Opaque texts for clients, ids and cursors: a short list of numbers and strings as JSON in base64url.

They are no secret and no proof: whoever takes one checks what the viewer may read.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import orjson

Part = int | str
MAX_LENGTH: Final = 2048
"""Room for two ids of 255 characters that take four bytes each."""
_ALPHABET: Final = re.compile(r"[A-Za-z0-9_-]+")
_INTEGERS: Final = range(-(2**63), 2**63)


def encode_parts(*parts: Part) -> str:
    return urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def decode_parts(text: str) -> tuple[Part, ...] | None:
    """The parts, or None where `packed` did not write this. Numbers fit 64 bits, strings hold nothing unprintable."""
    if len(text) > MAX_LENGTH or not _ALPHABET.fullmatch(text):
        return None
    try:
        parts = orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:
        return None
    if isinstance(parts, list) and parts and all(map(_is_part, parts)) and encode_parts(*parts) == text:
        return tuple(parts)
    return None


def _is_part(part: object) -> bool:
    if isinstance(part, str):
        return part.isprintable()
    return type(part) is int and part in _INTEGERS
