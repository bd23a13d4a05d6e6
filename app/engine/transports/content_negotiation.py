"""Which media type an answer takes, by the request's Accept header.

application/graphql-response+json where the client names it; application/json where it takes anything or says nothing,
as clients from before the specification expect. An event stream only where it is named.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

JSON: Final = b"application/json"
GRAPHQL_JSON: Final = b"application/graphql-response+json"
EVENT_STREAM: Final = b"text/event-stream"
HTML: Final = b"text/html"
MAX_RANGES: Final = 50

_ANYTHING: Final = b"*/*"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a client takes."""

    media_type: bytes | None
    """For a whole answer, JSON or GRAPHQL_JSON; None: it takes neither."""
    accepts_stream: bool = False
    """Whether it takes an event stream at all."""
    prefers_stream: bool = False
    """Whether it likes an event stream better than any whole answer."""


@lru_cache(maxsize=256)
def negotiate(accept: bytes | None) -> Accepted:
    """What this Accept header says; None: there is none."""
    ranges = _ranges(accept or _ANYTHING)
    plain, modern, stream = _liking(JSON, ranges), _liking(GRAPHQL_JSON, ranges), ranges.get(EVENT_STREAM, 0.0)
    if not (plain[0] or modern[0]):
        return Accepted(None, stream > 0, stream > 0)
    # Of two liked alike the one that is named counts, and of two that are named the modern one.
    modern_first = modern > plain or (modern == plain and GRAPHQL_JSON in ranges)
    return Accepted(GRAPHQL_JSON if modern_first else JSON, stream > 0, stream > max(plain[0], modern[0]))


def _liking(media_type: bytes, ranges: dict[bytes, float]) -> tuple[float, int]:
    """How much a type is liked, 0 to 1, and how exactly the range that says so names it."""
    family = media_type.partition(b"/")[0] + b"/*"
    for exactness, name in ((2, media_type), (1, family), (0, _ANYTHING)):
        if name in ranges:
            return ranges[name], exactness
    return 0.0, 0


def _ranges(accept: bytes) -> dict[bytes, float]:
    """The media ranges of a header with their qualities; one that cannot be read counts as not written."""
    found: dict[bytes, float] = {}
    for part in accept.lower().split(b",")[:MAX_RANGES]:
        name, *parameters = (piece.strip() for piece in part.split(b";"))
        quality = next((value[2:] for value in parameters if value.startswith(b"q=")), b"1")
        try:
            liked = float(quality)
        except ValueError:
            continue
        if name and 0 <= liked <= 1:
            found[name] = max(liked, found.get(name, 0.0))
    return found
