"""HTTP connections that must deliver: one that sends nothing, or trickles its headers or its body, is ended.

uvicorn waits for ever for a request that has begun, and for one that never begins. A request that arrives whole, as
charges do, is not timed.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.settings import settings

_TOLD: Final = b"The request took too long to arrive."
LATE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_TOLD), _TOLD)
)


class PunctualHttp(HttpToolsProtocol):
    """uvicorn's protocol, with a time limit for each request from its first byte (the first: from the connection's)."""

    _arriving = False
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._arriving:
            self._arrived()
        elif self._due is None:
            self._expect()

    def on_message_begin(self) -> None:
        self._arriving = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._arriving = False
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._arriving = False
        self._arrived()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._due = self.loop.call_later(settings().request_seconds, self._is_late)

    def _arrived(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _is_late(self) -> None:
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(LATE)
        self.transport.close()
