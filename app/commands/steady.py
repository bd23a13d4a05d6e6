"""WebSocket connections from which no more is read than they take: who does not read its answers is not heard.

uvicorn answers the protocol's own pings whether or not the answers are read, and so keeps them, as many as are sent;
and it waits for ever to close a connection whose last messages are never read.
"""

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class SteadyWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol; reading waits for writing."""

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

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
