"""HTTP protocol of `serve`: a deadline for each request, and limits of header size and pipelining.

Protects against slow-request attacks (slowloris), which uvicorn does not limit. A connection is closed with 408 if a
request does not arrive completely within `REQUEST_SECONDS`, with 431 if its headers exceed 64 KiB, and with 400 if more
than 64 requests are pipelined. Requests that arrive in a single read, such as charges, cost nothing extra.
`body_deadline` limits the body alone, on any server.

HTTP/1.0 clients, such as nginx with its default settings, do not support chunked responses, which uvicorn would send. A
response of unknown length to such a client ends when the connection is closed.
"""

import asyncio
from typing import Any, Final, cast

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.server.single_write import SingleWriteTransport
from app.settings import get_settings

MAX_HEADER_BYTES: Final = 64 * 1024
"""The first read of a request and its body are not counted."""
MAX_PIPELINED_REQUESTS: Final = 64


def _final_response(status: bytes, text: bytes) -> bytes:
    return (
        b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (status, len(text), text)
    )


TIMEOUT_RESPONSE: Final = _final_response(b"408 Request Timeout", b"The request did not arrive in time.")
HEADERS_TOO_LARGE_RESPONSE: Final = _final_response(
    b"431 Request Header Fields Too Large", b"The headers of the request are too large."
)


class DeadlineHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a deadline per request.

    The deadline counts from the first byte of a request; for the first request, from the start of the connection.
    """

    _is_arriving = False
    _is_first_read = False
    _header_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._is_arriving:
            self._cancel_deadline()
            return
        if self._deadline is None:
            self._start_deadline()
        if self._is_first_read:
            self._is_first_read, self._header_bytes = False, 0
        else:
            self._header_bytes += len(data)  # `on_body` has subtracted the bytes of the body
        if self._header_bytes > MAX_HEADER_BYTES:
            self._reject(HEADERS_TOO_LARGE_RESPONSE)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED_REQUESTS:
            raise ValueError("too many pipelined requests")  # uvicorn answers 400 and closes the connection
        self._is_arriving = self._is_first_read = True
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._header_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_arriving = False
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if cycle.scope["method"] != "HEAD":  # the Content-Length of a HEAD response announces a body that is not sent
            cycle.transport = cast(asyncio.Transport, SingleWriteTransport(cycle, self.transport))
        super()._start_asgi_task(cycle, _without_chunks(cycle, app) if cycle.scope["http_version"] == "1.0" else app)

    def handle_websocket_upgrade(self) -> None:
        self._is_arriving = False
        self._cancel_deadline()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(get_settings().request_seconds, self._reject, TIMEOUT_RESPONSE)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _reject(self, response: bytes) -> None:
        """Close the connection. Before that, send `response`, unless another response has started."""
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(response)
        self.transport.close()


def _without_chunks(cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
    """Wrap `app` for an HTTP/1.0 request, so that the response is not sent in chunks."""

    async def respond(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        async def send_unchunked(event: ASGISendEvent) -> None:
            if event["type"] == "http.response.start":
                if not any(name.lower() == b"content-length" for name, _ in event.get("headers", ())):
                    cycle.chunked_encoding = False
            elif event["type"] == "http.response.body" and not cycle.expected_content_length:
                cycle.expected_content_length = len(event.get("body", b""))
            await send(event)

        await app(scope, receive, send_unchunked)

    return respond
