"""The live connections of each caller: one too many ends the oldest, so that a forgotten tab locks nobody out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from app.graphql.context import Context
from app.graphql.limits.gate import is_user

SERVICE_CONNECTIONS: Final = 2_000
"""Of one service key or operator: executors of one key are many, and each has a connection of its own."""
CODE: Final = 4429
REASON: Final = "Too many connections of this caller: the oldest was closed"
"""Said with 4429, which stock clients do not retry: two tabs would else close each other in turn for ever."""


class Connections:
    """Those of one process."""

    def __init__(self, most_of_user: int) -> None:
        self._most_of_user = most_of_user
        self._open: dict[str, dict[object, Callable[[], None]]] = {}

    @contextmanager
    def counted(self, context: Context, end: Callable[[], None]) -> Iterator[None]:
        """A connection of this caller; `end` is called, once at most, when it has to go."""
        caller, most = context.caller_key, self._most_of_user if is_user(context) else SERVICE_CONNECTIONS
        mine = self._open.setdefault(caller, {})
        ticket = object()
        mine[ticket] = end
        if len(mine) > most:
            mine.pop(next(iter(mine)))()
        try:
            yield
        finally:
            mine.pop(ticket, None)
            if not mine and self._open.get(caller) is mine:
                del self._open[caller]
