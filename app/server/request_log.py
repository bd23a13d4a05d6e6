"""A line for each request: what was asked, by what kind of caller, how it ended and how long it took. Nothing else.

What may stand in a line is named here, field by field, and each value is of a closed shape (a name of GraphQL's, a
code, a number): documents, variables, tokens and owners have no way in. Lines are gathered and written ten times a
second: on the way of a charge a line costs a formatted string.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

FLUSH_SECONDS: Final = 0.1
MAX_BUFFERED_LINES: Final = 10_000
"""Lines gathered where no event loop runs to write them; then they are written at once."""

LogFormat = Literal["json", "text"]
RequestLogMode = Literal["all", "without-charges", "none"]


class LoggedRequest(NamedTuple):  # a dataclass takes thrice as long to make
    """One request."""

    transport: str
    caller: str
    """user, service, operator or nobody."""
    request_id: str
    outcome: str
    """ok, or the code of the first error; CLOSED_4403 and the like of a WebSocket connection that was refused."""
    seconds: float
    kind: str = "request"
    """query, mutation or subscription; request: it was refused before it was one."""
    name: str = "-"
    reference: str | None = None
    """Of a fault."""


class RequestLog:
    """Made once per process."""

    def __init__(
        self,
        format: LogFormat,
        mode: RequestLogMode = "all",
        *,
        write: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._written = _json if format == "json" else _text
        self._keeps = mode != "none"
        self._keeps_charges = mode == "all"
        self._write = write if write is not None else _to_stderr
        self._clock = clock
        self._waiting: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0
        self._stamp = ""

    def is_logged(self, *, charges: bool) -> bool:
        """Whether there is to be a line."""
        return self._keeps_charges if charges else self._keeps

    def add(self, line: LoggedRequest) -> None:
        self._waiting.append(self._written(self._now(), line))
        if self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            except RuntimeError:
                self.flush()
        elif len(self._waiting) >= MAX_BUFFERED_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered. To be called before the process ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            text = "".join(self._waiting)
            self._waiting.clear()
            self._write(text)

    def _now(self) -> str:
        """The time to the second, in UTC; written out once a second."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        return self._stamp


def _json(stamp: str, line: LoggedRequest) -> str:
    transport, caller, request_id, outcome, seconds, kind, name, reference = line
    fault = f',"reference":"{reference}"' if reference is not None else ""
    return (
        f'{{"at":"{stamp}","level":"info","event":"operation","transport":"{transport}","kind":"{kind}",'
        f'"operation":"{name}","caller":"{caller}","outcome":"{outcome}",'
        f'"ms":{round(seconds * 1000, 2)},"request":"{request_id}"{fault}}}\n'
    )


def _text(stamp: str, line: LoggedRequest) -> str:
    transport, caller, request_id, outcome, seconds, kind, name, reference = line
    fault = f", reference {reference}" if reference is not None else ""
    return (
        f"{stamp} {transport} {kind} {name} by {caller}: {outcome} in {seconds * 1000:.2f} ms "
        f"(request {request_id}{fault})\n"
    )


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
