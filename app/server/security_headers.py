"""The two headers of every answer: nobody keeps it, and nobody takes it for another type than it says."""

from typing import Final

from starlette.types import Message, Send

_HEADERS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


def with_security_headers(send: Send) -> Send:
    """`send`, with either header added to an answer that lacks it: to what Starlette answers by itself, say."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            message = {**message, "headers": [*given, *(pair for pair in _HEADERS if pair[0] not in names)]}
        await send(message)

    return sent
