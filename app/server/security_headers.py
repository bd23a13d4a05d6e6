"""Headers of every response: it is not cached (`no-store`), and browsers do not guess its type (`nosniff`)."""

from typing import Final

from starlette.types import Message, Send

SECURITY_HEADERS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


def with_security_headers(send: Send) -> Send:
    """`send`, with each security header added to a response that lacks it, such as one that Starlette generates."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers += [header for header in SECURITY_HEADERS if header[0] not in present]
            message = {**message, "headers": headers}
        await send(message)

    return send_with_headers
