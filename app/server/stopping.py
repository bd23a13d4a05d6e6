"""Stopping a server process: event streams end at once, and the process exits after a time limit in any case.

When uvicorn stops, it closes WebSockets with 1012. It does not inform event streams, which never end by
themselves. A cancelled task may also hang, for example on a dead connection.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final


class Stopping:
    """Whether this process is stopping, and the functions to call when it begins to stop."""

    def __init__(self) -> None:
        self.has_begun = False
        self._callbacks: dict[object, Callable[[], None]] = {}

    def begin(self) -> None:
        """Call the registered functions. It must be called in the event loop."""
        self.has_begun = True
        for callback in list(self._callbacks.values()):
            callback()

    @contextmanager
    def calls(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` when the process begins to stop within this block, or now if it is already stopping."""
        key = object()
        self._callbacks[key] = callback
        if self.has_begun:
            callback()
        try:
            yield
        finally:
            del self._callbacks[key]


STOPPING: Final = Stopping()
"""The instance for this process."""


def stop_at_signals(numbers: Collection[signal.Signals], *, seconds: float) -> None:
    """Begin to stop at the first of these signals. Their existing handlers are called, too.

    If the process has not ended after `seconds`, it exits with status 1. It must be called in the event loop of the
    main thread, after the server has installed its handlers.
    """
    loop = asyncio.get_running_loop()
    timer = threading.Timer(seconds, _exit)
    timer.daemon = True
    for number in numbers:
        handle = signal.getsignal(number)

        def stop(received: int, frame: FrameType | None, handle: object = handle) -> None:
            with suppress(RuntimeError):  # it has been started by an earlier signal, or the loop is closed
                timer.start()
                loop.call_soon_threadsafe(STOPPING.begin)
            if callable(handle):
                handle(received, frame)

        signal.signal(number, stop)


def _exit() -> None:
    print("The server did not stop in time and is ended.", file=sys.stderr, flush=True)
    os._exit(1)
