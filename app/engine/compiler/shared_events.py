"""Events that many subscribers are given: an answer that only copies what stands in such an event is encoded once.

An answer is *plain* if each of its places is an attribute or the name of a type: then it depends on the event alone,
and whoever asks the same of the same event gets the same bytes.
"""

from typing import Any

EncodedResponses = dict[object, bytes]
"""The encoded answers to one event, by what was asked of it: they go when the event goes."""


class SharedEvent:
    """An event that keeps what was encoded of it, where `encoded` is set."""

    encoded_responses: EncodedResponses | None = None


def encoded_responses_of(event: Any) -> EncodedResponses | None:
    """The encoded answers to this event, if it keeps them."""
    return event.encoded_responses if isinstance(event, SharedEvent) else None
