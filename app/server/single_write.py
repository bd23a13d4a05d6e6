"""Sends the head and the body of a response of known length in one write.

uvicorn writes them separately, which costs a second system call, a second packet and a second read of the client. The
head of a response of unknown length, such as an event stream, is sent immediately.
"""

import asyncio
from typing import Protocol


class ResponseCycle(Protocol):
    """The part of uvicorn's request-response cycle that is used here."""

    @property
    def response_started(self) -> bool: ...

    @property
    def expected_content_length(self) -> int:
        """The bytes of the body that were not sent yet. 0 if there are none or their number is unknown."""


class SingleWriteTransport:
    """A transport for a single response. If a response fails before its body, nothing is sent."""

    __slots__ = ("_cycle", "_has_started", "_head", "_transport")

    def __init__(self, cycle: ResponseCycle, transport: asyncio.Transport) -> None:
        self._cycle = cycle
        self._transport = transport
        self._has_started = False
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """uvicorn calls this with `100 Continue` (if the client requests it), then the head, then parts of the body."""
        if self._head is not None:
            data, self._head = self._head + data, None
        elif not self._has_started and self._cycle.response_started:
            self._has_started = True
            if self._cycle.expected_content_length:
                self._head = data
                return
        self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
