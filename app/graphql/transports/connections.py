"""The live connections of each caller: one too many ends the oldest, so that a forgotten tab locks nobody out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

CODE: Final = 4429
REASON: Final = "Too many connections of this caller: the oldest was closed"
"""Said with 4429, which stock clients do not retry: two tabs would else close each other in turn for ever."""


class Connections:
    """Those of one process."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[str, dict[object, Callable[[], None]]] = {}

    @contextmanager
    def counted(self, caller: str, end: Callable[[], None]) -> Iterator[None]:
        """A connection of this caller; `end` is called, once at most, when it has to go."""
        mine = self._open.setdefault(caller, {})
        ticket = object()
        mine[ticket] = end
        if len(mine) > self._most:
            mine.pop(next(iter(mine)))()
        try:
            yield
        finally:
            mine.pop(ticket, None)
            if not mine and self._open.get(caller) is mine:
                del self._open[caller]
