"""Content negotiation: the media type of a response."""

import pytest

from app.engine.transports.content_negotiation import GRAPHQL_JSON, JSON, Accepted, negotiate

MODERN = GRAPHQL_JSON.decode()
PLAIN = JSON.decode()


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (PLAIN, JSON),
        (MODERN, GRAPHQL_JSON),
        (MODERN.upper(), GRAPHQL_JSON),
        (f"{MODERN}; charset=utf-8", GRAPHQL_JSON),
        (f"{MODERN}, {PLAIN}", GRAPHQL_JSON),
        (f"{PLAIN}, {MODERN}", GRAPHQL_JSON),
        (f"{MODERN}, */*", GRAPHQL_JSON),
        (f"{PLAIN}, */*", JSON),
        (f"{MODERN};q=0.9, {PLAIN}", JSON),
        (f"{MODERN};q=0.9, {PLAIN};q=0.8", GRAPHQL_JSON),
        (f"{MODERN};q=0.1, */*;q=0.5", JSON),
        (f"{MODERN};q=0, */*", JSON),
        (f"{PLAIN};q=0, */*", GRAPHQL_JSON),
        (f"{PLAIN};q=0, application/*", GRAPHQL_JSON),
        ("text/html, */*;q=0.8", JSON),
        (f"{MODERN};q=many, {PLAIN};q=0.1", JSON),
        (f"{MODERN};q=-1, {PLAIN};q=0.1", JSON),
        (f"{MODERN};q=nan, {PLAIN};q=0.1", JSON),
        (f" , ;, {MODERN} ,", GRAPHQL_JSON),
        ("text/html", None),
        ("text/*", None),
        ("*/*;q=0", None),
        (f"{PLAIN};q=0.0", None),
        ("application/jsonp", None),
        (",".join(["a/b"] * 60 + [PLAIN]), None),
    ],
)
def test_the_media_type_with_the_highest_preference_is_chosen(accept: str | None, media_type: bytes | None) -> None:
    assert negotiate(accept.encode() if accept is not None else None) == Accepted(media_type)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("text/event-stream", Accepted(None, accepts_stream=True, prefers_stream=True)),
        ("text/event-stream, */*;q=0.1", Accepted(JSON, accepts_stream=True, prefers_stream=True)),
        (f"text/event-stream, {PLAIN}", Accepted(JSON, accepts_stream=True, prefers_stream=False)),
        (f"{MODERN}, {PLAIN}, text/event-stream, multipart/mixed", Accepted(GRAPHQL_JSON, accepts_stream=True)),
        (f"{PLAIN}, text/event-stream;q=0", Accepted(JSON)),
        ("text/event-stream;q=0", Accepted(None)),
        ("text/*", Accepted(None)),
    ],
)
def test_an_event_stream_must_be_named_and_is_preferred_only_with_a_higher_quality(
    accept: str, expected: Accepted
) -> None:
    assert negotiate(accept.encode()) == expected
