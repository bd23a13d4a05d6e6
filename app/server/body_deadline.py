"""Deadline for request bodies, on any ASGI server: protects against clients that send a body slowly.

If the body of a request does not arrive within the deadline, the response is 408 and the connection is closed. The
application receives `http.disconnect`. `serve` does not use this: its HTTP protocol has a deadline for the whole
request (`request_deadline`), which costs nothing for a request that arrives in a single read.
"""

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.server.responses import send_error

TIMED_OUT: Final = "The body of the request did not arrive in time."


async def call_with_body_deadline(app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, seconds: float) -> None:
    """Call an application. The body of an HTTP request must arrive within `seconds`."""
    if scope["type"] != "http":
        await app(scope, receive, send)
        return
    request = _Request(receive, send, asyncio.get_running_loop().time() + seconds)
    await app(scope, request.receive, request.send)
    if request.has_timed_out and not request.has_response:
        await send_error(send, 408, TIMED_OUT, more_headers=[(b"connection", b"close")])


class _Request:
    def __init__(self, receive: Receive, send: Send, deadline: float) -> None:
        self._receive = receive
        self._send = send
        self._deadline = deadline
        self._has_body = False
        self.has_timed_out = False
        self.has_response = False

    async def receive(self) -> Message:
        if self._has_body:
            return await self._receive()
        if self.has_timed_out:
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self.has_timed_out = True
            return {"type": "http.disconnect"}
        self._has_body = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if self.has_timed_out and not self.has_response:
            return  # the application responds to a client that has disconnected; the response is 408 instead
        self.has_response = True
        await self._send(message)
