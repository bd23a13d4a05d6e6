"""HTTP connections that must deliver: one that sends nothing, or trickles its headers or its body, is ended.

uvicorn waits for ever for a request that has begun, and for one that never begins; it keeps headers of any length, and
as many requests as came at once. A request that arrives whole, as charges do, is neither timed nor measured.
"""

import asyncio
from typing import Any, Final, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.server.single_write import SingleWriteTransport
from app.settings import get_settings

MAX_HEADER_BYTES: Final = 64 * 1024
"""Of a request, besides its body and what came with its first bytes."""
MAX_PIPELINED_REQUESTS: Final = 64
"""Requests sent ahead on one connection."""


def _last(status: bytes, told: bytes) -> bytes:
    return (
        b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (status, len(told), told)
    )


TIMEOUT_RESPONSE: Final = _last(b"408 Request Timeout", b"The request took too long to arrive.")
HEADERS_TOO_LARGE_RESPONSE: Final = _last(
    b"431 Request Header Fields Too Large", b"The request's headers are too large."
)


class DeadlineHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a time limit for each request from its first byte (the first: from the connection's)."""

    _arriving = False
    _has_begun = False
    _head_bytes = 0
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._arriving:
            self._arrived()
            return
        if self._due is None:
            self._expect()
        if self._has_begun:
            self._has_begun, self._head_bytes = False, 0
        else:
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEADER_BYTES:
            self._end(HEADERS_TOO_LARGE_RESPONSE)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED_REQUESTS:
            raise ValueError("too many requests were sent ahead")  # uvicorn answers 400 and closes
        self._arriving = self._has_begun = True
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._head_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._arriving = False
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if cycle.scope["method"] != "HEAD":  # whose length is that of a body which is not sent
            cycle.transport = cast(asyncio.Transport, SingleWriteTransport(cycle, self.transport))
        super()._start_asgi_task(cycle, app)

    def handle_websocket_upgrade(self) -> None:
        self._arriving = False
        self._arrived()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._due = self.loop.call_later(get_settings().request_seconds, self._is_late)

    def _arrived(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _is_late(self) -> None:
        self._end(TIMEOUT_RESPONSE)

    def _end(self, told: bytes) -> None:
        """Close the connection, saying why unless an answer is on its way."""
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(told)
        self.transport.close()
