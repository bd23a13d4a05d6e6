"""Who may begin an operation now: rates per caller and address, operations at once, and the time that one may take.

Charges pass freely: they know OVERLOADED and no other limit (DESIGN section 4), and pay for no look-up here.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from app.callers.rules import Kind
from app.errors import RateLimited
from app.graphql.context import Context
from app.graphql.limits.rates import Buckets, network_of
from app.settings import Settings

SERVICE_OPERATIONS: Final = 1_000
SERVICE_STREAMS: Final = 2_000


class Gate:
    """Made once per process. Users and strangers share one set of limits, services and operators have their own."""

    def __init__(self, chosen: Settings) -> None:
        share = 1 / chosen.workers
        self._users = Buckets(chosen.rate_per_user * share)
        self._addresses = Buckets(chosen.rate_per_address * share)
        self._services = Buckets(chosen.rate_per_service * share)
        self._most_running = chosen.operations_per_user
        self._most_streams = chosen.streams_per_user
        self._running: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self.seconds = chosen.operation_seconds

    def admit(self, context: Context) -> None:
        """Count one operation more. Raises: RateLimited."""
        if not is_user(context):
            wait = self._services.take(context.caller_key)
        else:
            wait = self._users.take(context.caller_key)
            if not wait and context.address is not None:
                wait = self._addresses.take(network_of(context.address))
        if wait:
            raise RateLimited(math.ceil(wait))

    def hear(self, context: Context) -> None:
        """Before it is looked at who asks. Raises: RateLimited: its address has no token left. Takes none."""
        if context.address is not None and (wait := self._addresses.wait(network_of(context.address))):
            raise RateLimited(math.ceil(wait))

    def strike(self, context: Context) -> None:
        """Count what was refused before it was an operation, for its address: guesses are not free. Nothing that an
        accepted service or operator sends counts. Raises: RateLimited: there is no token left to take."""
        if not is_user(context) or context.address is None:
            return
        if wait := self._addresses.take(network_of(context.address)):
            raise RateLimited(math.ceil(wait))

    @contextmanager
    def running(self, context: Context) -> Iterator[None]:
        """A query or mutation of this caller. Raises: RateLimited: as many as it may have are running."""
        with _one_of(self._running, context, self._most_running if is_user(context) else SERVICE_OPERATIONS):
            yield

    @contextmanager
    def streaming(self, context: Context) -> Iterator[None]:
        """A subscription of this caller. Raises: RateLimited: as many as it may have are open."""
        with _one_of(self._streams, context, self._most_streams if is_user(context) else SERVICE_STREAMS):
            yield


def is_user(context: Context) -> bool:
    """Users and strangers."""
    return context.viewer is None or context.viewer.kind is Kind.USER


@contextmanager
def _one_of(counted: Counter[str], context: Context, most: int) -> Iterator[None]:
    key = context.caller_key
    if counted[key] >= most:
        raise RateLimited(1)
    counted[key] += 1
    try:
        yield
    finally:
        counted[key] -= 1
        if not counted[key]:
            del counted[key]
