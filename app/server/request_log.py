"""The request log: one line per request, with its operation, kind of caller, outcome and duration.

Only the fields of `LoggedRequest` are written, and each value is a name, a code or a number. Documents, variables,
tokens and owner ids cannot get into the log. Lines are buffered and written ten times per second, so that a charge
costs one formatted string and no system call.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

FLUSH_SECONDS: Final = 0.1
MAX_BUFFERED_LINES: Final = 10_000
"""The maximum number of buffered lines. A full buffer is written at once."""

LogFormat = Literal["json", "text"]
RequestLogMode = Literal["all", "without-charges", "none"]


class LoggedRequest(NamedTuple):
    """One request. It is a named tuple, because creating a dataclass takes three times as long."""

    transport: str
    """http, sse or websocket."""
    caller: str
    """user, service, operator or anonymous."""
    request_id: str
    outcome: str
    """`ok`, or the code of the first error. `CLIENT_DISCONNECTED` if the client disconnected before its request was
    complete; `CLOSED_<close code>` for a WebSocket connection that the server has refused or closed."""
    seconds: float
    kind: str = "request"
    """query, mutation or subscription; `request` if the operation is not known."""
    name: str = "-"
    """The name of the operation, or of its first field."""
    reference: str | None = None
    """The reference id of an internal error."""
    reason: str | None = None
    """Why the credential was rejected."""


class RequestLog:
    """Formats and buffers lines. There is one per process."""

    def __init__(
        self,
        format: LogFormat,
        mode: RequestLogMode = "all",
        *,
        write: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._format = _format_json if format == "json" else _format_text
        self._logs_anything = mode != "none"
        self._logs_charges = mode == "all"
        self._write = write if write is not None else _write_to_stderr
        self._clock = clock
        self._buffer: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0
        self._timestamp = ""

    def is_logged(self, *, charges: bool) -> bool:
        """Return whether a successful request is logged. `charges` says whether it consists of charges."""
        return self._logs_charges if charges else self._logs_anything

    def add(self, request: LoggedRequest) -> None:
        """Buffer a line. Without a running event loop, write it immediately."""
        self._buffer.append(self._format(self._current_timestamp(), request))
        if self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            except RuntimeError:
                self.flush()
        elif len(self._buffer) >= MAX_BUFFERED_LINES:
            self.flush()

    def flush(self) -> None:
        """Write the buffered lines. Must be called before the process ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._buffer:
            text = "".join(self._buffer)
            self._buffer.clear()
            self._write(text)

    def _current_timestamp(self) -> str:
        """Return the time in UTC, to the second. It is formatted once per second."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._timestamp = second, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        return self._timestamp


def _format_json(timestamp: str, request: LoggedRequest) -> str:
    reference = f',"reference":"{request.reference}"' if request.reference is not None else ""
    reason = f',"reason":"{request.reason}"' if request.reason is not None else ""
    return (
        f'{{"at":"{timestamp}","level":"info","event":"operation","transport":"{request.transport}",'
        f'"kind":"{request.kind}","operation":"{request.name}","caller":"{request.caller}",'
        f'"outcome":"{request.outcome}","ms":{round(request.seconds * 1000, 2)},'
        f'"request":"{request.request_id}"{reference}{reason}}}\n'
    )


def _format_text(timestamp: str, request: LoggedRequest) -> str:
    reference = f", reference {request.reference}" if request.reference is not None else ""
    reason = f" ({request.reason})" if request.reason is not None else ""
    return (
        f"{timestamp} {request.transport} {request.kind} {request.name} by {request.caller}: {request.outcome}{reason} "
        f"in {request.seconds * 1000:.2f} ms (request {request.request_id}{reference})\n"
    )


def _write_to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
