"""Limits on the open WebSocket connections of a caller and of a client address.

If a new connection exceeds a limit, the oldest connection is closed, so that forgotten browser tabs do not prevent new
connections.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from app.engine.context import RequestContext
from app.engine.limits.rate_limiter import is_user_or_anonymous, rate_limit_network

MAX_SERVICE_CONNECTIONS: Final = 2_000
"""The maximum number of connections of one service key or operator. Many executors share a key."""
TOO_MANY_CONNECTIONS_CODE: Final = 4429
"""Common clients do not retry after this code. If they did, two tabs would close each other's connections for ever."""
TOO_MANY_CONNECTIONS: Final = "Too many connections of this caller: the oldest was closed"
MAX_PENDING_CONNECTIONS: Final = 1_000
"""The maximum number of connections of one client address that have not been authenticated by connection_init.

It is high because many users may share an address, and all of them reconnect at the same time after a restart.
"""
TOO_MANY_PENDING: Final = "Too many connections of this address wait for connection_init: the oldest was closed"
"""Sent with code 1013, after which common clients retry."""

_Closers = dict[str, dict[object, Callable[[], None]]]
"""The functions that close the connections of each key, the oldest connection first."""


class ConnectionLimits:
    """Counts the connections of one process."""

    def __init__(self, max_per_user: int, max_pending: int = MAX_PENDING_CONNECTIONS) -> None:
        self._max_per_user = max_per_user
        self._max_pending = max_pending
        self._established: _Closers = {}
        self._pending: _Closers = {}

    @contextmanager
    def pending(self, context: RequestContext[Any], close: Callable[[], None]) -> Iterator[None]:
        """Count a connection that is not authenticated yet.

        `close` is called at most once, if there are too many connections.
        """
        if context.client_address is None:
            yield
            return
        with _counted(self._pending, rate_limit_network(context.client_address), self._max_pending, close):
            yield

    @contextmanager
    def established(self, context: RequestContext[Any], close: Callable[[], None]) -> Iterator[None]:
        """Count a connection of this caller. `close` is called as for `pending`."""
        limit = self._max_per_user if is_user_or_anonymous(context) else MAX_SERVICE_CONNECTIONS
        with _counted(self._established, context.limit_key, limit, close):
            yield


@contextmanager
def _counted(closers_by_key: _Closers, key: str, limit: int, close: Callable[[], None]) -> Iterator[None]:
    closers = closers_by_key.setdefault(key, {})
    token = object()
    closers[token] = close
    if len(closers) > limit:
        close_oldest = closers.pop(next(iter(closers)))
        close_oldest()
    try:
        yield
    finally:
        closers.pop(token, None)
        if not closers and closers_by_key.get(key) is closers:
            del closers_by_key[key]
