"""The live connections of each caller: one too many ends the oldest, so that a forgotten tab locks nobody out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from app.graphql.context import Context
from app.graphql.limits.gate import is_user
from app.graphql.limits.rates import network_of

SERVICE_CONNECTIONS: Final = 2_000
"""Of one service key or operator: executors of one key are many, and each has a connection of its own."""
CODE: Final = 4429
REASON: Final = "Too many connections of this caller: the oldest was closed"
"""Said with 4429, which stock clients do not retry: two tabs would else close each other in turn for ever."""


WAITING_CONNECTIONS: Final = 1_000
"""Of one address, before connection_init: a whole office comes back at once when a server was started anew."""
MANY_WAIT: Final = "Too many connections of this address wait for connection_init: the oldest was closed"
"""Said with 1013, which stock clients retry."""


_Open = dict[str, dict[object, Callable[[], None]]]


class Connections:
    """Those of one process."""

    def __init__(self, most_of_user: int, most_waiting: int = WAITING_CONNECTIONS) -> None:
        self._most_of_user = most_of_user
        self._most_waiting = most_waiting
        self._open: _Open = {}
        self._waiting: _Open = {}

    @contextmanager
    def waiting(self, context: Context, end: Callable[[], None]) -> Iterator[None]:
        """A connection of this address that has not said whose it is. `end` is called, once at most, when it has to
        go."""
        if context.address is None:
            yield
            return
        with _one_of(self._waiting, network_of(context.address), self._most_waiting, end):
            yield

    @contextmanager
    def counted(self, context: Context, end: Callable[[], None]) -> Iterator[None]:
        """A connection of this caller; `end` as above."""
        most = self._most_of_user if is_user(context) else SERVICE_CONNECTIONS
        with _one_of(self._open, context.caller_key, most, end):
            yield


@contextmanager
def _one_of(book: _Open, key: str, most: int, end: Callable[[], None]) -> Iterator[None]:
    mine = book.setdefault(key, {})
    ticket = object()
    mine[ticket] = end
    if len(mine) > most:
        mine.pop(next(iter(mine)))()
    try:
        yield
    finally:
        mine.pop(ticket, None)
        if not mine and book.get(key) is mine:
            del book[key]
