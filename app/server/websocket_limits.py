"""WebSocket connections that take in no more than they give out, and whose pings have a measure.

uvicorn answers the protocol's own pings whether or not the answers are read, and so keeps them, as many as are sent; it
answers all that came at once before it looks at another connection; it goes on reading, for ten seconds, what somebody
sends who was told to go; and it waits for ever to close a connection whose last messages are never read.
"""

from contextlib import suppress
from typing import Final

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

MAX_PINGS: Final = 100
PING_WINDOW_SECONDS: Final = 10.0
"""So many pings of a client's in so much time; clients send one in several seconds."""
MAX_BYTES_AFTER_CLOSE: Final = 256 * 1024
"""Bytes that are read of somebody who was told to go: what was on its way then, and the answer to that."""
CLOSE_SECONDS: Final = 5.0
"""How long somebody who is sent away may take to read why."""


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol; reading waits for writing."""

    _pings = 0
    _counted_from = 0.0
    _read_afterwards = 0

    def data_received(self, data: bytes) -> None:
        if self.close_sent:
            self._read_afterwards += len(data)
            if self._read_afterwards > MAX_BYTES_AFTER_CLOSE:
                self.transport.abort()
                return
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    async def receive(self) -> ASGIReceiveEvent:
        await self.writable.wait()  # set too when the connection is lost
        return await super().receive()

    def send_receive_event_to_app(self) -> None:
        # A message that is no UTF-8, of who leaves in the same breath, is let go: uvicorn would close twice.
        with suppress(InvalidState):
            super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        if self.close_sent:
            return
        now = self.loop.time()
        if now - self._counted_from > PING_WINDOW_SECONDS:
            self._pings, self._counted_from = 0, now
        self._pings += 1
        if self._pings <= MAX_PINGS:
            super().handle_ping()
        else:
            self.conn.fail(1008, "too many pings")
            self.handle_parser_exception()
            self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
