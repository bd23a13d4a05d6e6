"""Content negotiation: the Accept header of a request decides the media type of the response.

The type is application/graphql-response+json if the header names it and does not prefer application/json. It is
application/json if the header names only that or accepts any type, or if there is no header, as older clients expect.
The type is an event stream only if the header names that.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

JSON: Final = b"application/json"
GRAPHQL_JSON: Final = b"application/graphql-response+json"
EVENT_STREAM: Final = b"text/event-stream"
HTML: Final = b"text/html"
MAX_RANGES: Final = 50
"""The maximum number of media ranges of an Accept header that are read. Further ones are ignored."""

_ANY: Final = b"*/*"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The media types that a client accepts."""

    media_type: bytes | None
    """The type of a complete response: JSON or GRAPHQL_JSON. None if the client accepts neither."""
    accepts_stream: bool = False
    prefers_stream: bool = False
    """Whether the client prefers an event stream to a complete response."""


@lru_cache(maxsize=256)
def negotiate(accept: bytes | None) -> Accepted:
    """Read an Accept header. None means that there is none."""
    ranges = _ranges(accept or _ANY)
    json, graphql_json = _preference(JSON, ranges), _preference(GRAPHQL_JSON, ranges)
    stream_quality = ranges.get(EVENT_STREAM, 0.0)
    if not (json[0] or graphql_json[0]):
        return Accepted(None, stream_quality > 0, stream_quality > 0)
    # If the qualities are equal, the more specific range wins. If both types are named, GRAPHQL_JSON wins.
    prefers_graphql_json = graphql_json > json or (graphql_json == json and GRAPHQL_JSON in ranges)
    media_type = GRAPHQL_JSON if prefers_graphql_json else JSON
    return Accepted(media_type, stream_quality > 0, stream_quality > max(json[0], graphql_json[0]))


def _preference(media_type: bytes, ranges: dict[bytes, float]) -> tuple[float, int]:
    """Return the quality of a type, 0 to 1, and the specificity of the range that contains it."""
    family = media_type.partition(b"/")[0] + b"/*"
    for specificity, name in ((2, media_type), (1, family), (0, _ANY)):
        if name in ranges:
            return ranges[name], specificity
    return 0.0, 0


def _ranges(accept: bytes) -> dict[bytes, float]:
    """Return the media ranges of a header with their qualities. Malformed ranges are ignored."""
    found: dict[bytes, float] = {}
    for part in accept.lower().split(b",")[:MAX_RANGES]:
        name, *parameters = (piece.strip() for piece in part.split(b";"))
        text = next((value[2:] for value in parameters if value.startswith(b"q=")), b"1")
        try:
            quality = float(text)
        except ValueError:
            continue
        if name and 0 <= quality <= 1:
            found[name] = max(quality, found.get(name, 0.0))
    return found
