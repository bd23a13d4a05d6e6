"""An answer whose length is known leaves in one write: its head waits for its body.

uvicorn writes each as it comes, and the second is a system call and a packet more, and wakes whoever reads once more.
ASGI asks servers to wait for the body. An event stream, whose length nobody knows, is begun at once.
"""

import asyncio
from typing import Protocol


class ResponseCycle(Protocol):
    """What is looked at of uvicorn's request and its response."""

    @property
    def response_started(self) -> bool: ...

    @property
    def expected_content_length(self) -> int:
        """Bytes of the body that are still to come; 0: none, or nobody knows."""


class SingleWriteTransport:
    """A connection as one response uses it. A response that faults before its body never began."""

    __slots__ = ("_begun", "_cycle", "_head", "_transport")

    def __init__(self, cycle: ResponseCycle, transport: asyncio.Transport) -> None:
        self._cycle = cycle
        self._transport = transport
        self._begun = False
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """The head first, then the body in one part or several. Before both there may be `100 Continue`."""
        if self._head is not None:
            data, self._head = self._head + data, None
        elif not self._begun and self._cycle.response_started:
            self._begun = True
            if self._cycle.expected_content_length:
                self._head = data
                return
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
