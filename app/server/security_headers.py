"""Headers of every response, so that it is not cached (`no-store`) and browsers do not guess its type (`nosniff`)."""

from typing import Final

from starlette.types import Message, Send

SECURITY_HEADERS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


def with_security_headers(send: Send) -> Send:
    """Wrap `send`, to add missing security headers to responses such as those that Starlette generates."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            present = {name.lower() for name, _ in headers}
            headers += [header for header in SECURITY_HEADERS if header[0] not in present]
            message = {**message, "headers": headers}
        await send(message)

    return send_with_headers
