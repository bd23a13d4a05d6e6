"""WebSocket protocol of `serve`: back-pressure, and limits that uvicorn does not have.

- While the client does not read, the server does not read either. uvicorn alone would still answer pings, and buffer
  any number of answers.
- A client may send 100 pings in 10 seconds. uvicorn alone has no limit, and answers all pings that have arrived before
  it serves another connection.
- After the server has closed a connection, it reads at most 256 KiB more. uvicorn alone reads for ten more seconds.
- If a message is too big or malformed, the rest of what the client sends is read and dropped, up to 16 MiB in 5
  seconds, so that the client receives the close code. uvicorn alone closes immediately. The operating system of the
  client then reports a reset connection (close code 1006) instead of the close frame.
- If the client does not read the last messages of a closed connection, the connection is aborted. uvicorn alone waits
  for ever.

`app.engine.transports.websocket` limits the messages of the GraphQL protocol, on any server.
"""

from contextlib import suppress
from typing import Final

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

MAX_PINGS: Final = 100
PING_WINDOW_SECONDS: Final = 10.0
MAX_BYTES_AFTER_CLOSE: Final = 256 * 1024
"""Enough for messages that were in transit when the server closed, and for the client's close frame."""
MAX_DROPPED_BYTES: Final = 16 * 1024 * 1024
CLOSE_SECONDS: Final = 5.0
"""The time in which the client must read the close frame."""


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with back-pressure and limits."""

    _pings = 0
    _window_started_at_seconds = 0.0
    _bytes_after_close = 0
    _max_bytes_after_close = MAX_BYTES_AFTER_CLOSE

    def data_received(self, data: bytes) -> None:
        if self.close_sent:
            self._bytes_after_close += len(data)
            if self._bytes_after_close > self._max_bytes_after_close:
                self.transport.abort()
                return
        if self.conn.parser_exc is None:
            super().data_received(data)

    def handle_parser_exception(self) -> None:
        """Close with the code of the error. The connection ends when the client has read it and closes."""
        if (closed := self.conn.close_sent) is not None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": closed.code, "reason": closed.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._max_bytes_after_close = MAX_DROPPED_BYTES
        # While there is a timer, uvicorn does not close the transport when the application has returned.
        self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    async def receive(self) -> ASGIReceiveEvent:
        await self.writable.wait()  # also set when the connection is lost
        return await super().receive()

    def send_receive_event_to_app(self) -> None:
        # If a message with invalid UTF-8 and a close frame arrive together, uvicorn tries to close twice.
        with suppress(InvalidState):
            super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        if self.close_sent:
            return
        now = self.loop.time()
        if now - self._window_started_at_seconds > PING_WINDOW_SECONDS:
            self._pings, self._window_started_at_seconds = 0, now
        self._pings += 1
        if self._pings <= MAX_PINGS:
            super().handle_ping()
        else:
            self.conn.fail(1008, "too many pings")
            self.handle_parser_exception()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
