"""The live connections of each caller: one too many ends the oldest, so that a forgotten tab locks nobody out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from app.engine.context import RequestContext
from app.engine.limits.rate_limiter import is_user_or_anonymous, rate_limit_network

MAX_SERVICE_CONNECTIONS: Final = 2_000
"""Of one service key or operator: executors of one key are many, and each has a connection of its own."""
TOO_MANY_CONNECTIONS_CODE: Final = 4429
TOO_MANY_CONNECTIONS: Final = "Too many connections of this caller: the oldest was closed"
"""Said with 4429, which stock clients do not retry: two tabs would else close each other in turn for ever."""


MAX_PENDING_CONNECTIONS: Final = 1_000
"""Of one address, before connection_init: a whole office comes back at once when a server was started anew."""
TOO_MANY_PENDING: Final = "Too many connections of this address wait for connection_init: the oldest was closed"
"""Said with 1013, which stock clients retry."""


_Open = dict[str, dict[object, Callable[[], None]]]


class ConnectionLimits:
    """Those of one process."""

    def __init__(self, max_per_user: int, max_pending: int = MAX_PENDING_CONNECTIONS) -> None:
        self._most_of_user = max_per_user
        self._most_waiting = max_pending
        self._open: _Open = {}
        self._waiting: _Open = {}

    @contextmanager
    def pending(self, context: RequestContext[Any], end: Callable[[], None]) -> Iterator[None]:
        """A connection of this address that has not said whose it is. `end` is called, once at most, when it has to
        go."""
        if context.client_address is None:
            yield
            return
        with _one_of(self._waiting, rate_limit_network(context.client_address), self._most_waiting, end):
            yield

    @contextmanager
    def established(self, context: RequestContext[Any], end: Callable[[], None]) -> Iterator[None]:
        """A connection of this caller; `end` as above."""
        most = self._most_of_user if is_user_or_anonymous(context) else MAX_SERVICE_CONNECTIONS
        with _one_of(self._open, context.limit_key, most, end):
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
