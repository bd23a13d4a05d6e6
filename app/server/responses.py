"""Error responses that are sent before a request reaches its route."""

from collections.abc import Iterable

import orjson
from starlette.types import Send

from app.server.security_headers import SECURITY_HEADERS


async def send_error(
    send: Send, status: int, message: str, *, more_headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send `message` as a GraphQL error with the code BAD_REQUEST."""
    body = orjson.dumps({"errors": [{"message": message, "extensions": {"code": "BAD_REQUEST"}}]})
    headers = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        *SECURITY_HEADERS,
        *more_headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
