"""Who may begin an operation now: rates per caller and address, operations at once, and the time that one may take.

Charges pass freely: they know OVERLOADED and no other limit (DESIGN section 4), and pay for no look-up here.
"""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from app.api.context import Context
from app.auth.caller import CallerKind
from app.engine.limits.token_buckets import TokenBuckets, rate_limit_network
from app.errors import RateLimited
from app.settings import Settings

SERVICE_OPERATIONS: Final = 1_000
SERVICE_SUBSCRIPTIONS: Final = 2_000


class RateLimiter:
    """Made once per process. Users and strangers share one set of limits, services and operators have their own."""

    def __init__(self, settings: Settings) -> None:
        share = 1 / settings.workers
        self._users = TokenBuckets(settings.rate_per_user * share)
        self._addresses = TokenBuckets(settings.rate_per_address * share)
        self._services = TokenBuckets(settings.rate_per_service * share)
        self._most_running = settings.operations_per_user
        self._most_streams = settings.subscriptions_per_user
        self._running: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self.timeout_seconds = settings.operation_seconds

    def record_operation(self, context: Context) -> None:
        """Count one operation more. Raises: RateLimited."""
        if not is_user_or_anonymous(context):
            wait = self._services.take(context.limit_key)
        else:
            wait = self._users.take(context.limit_key)
            if not wait and context.client_address is not None:
                wait = self._addresses.take(rate_limit_network(context.client_address))
        if wait:
            raise RateLimited(math.ceil(wait))

    def check(self, context: Context) -> None:
        """Before it is looked at who asks. Raises: RateLimited: its address has no token left. Takes none."""
        if context.client_address is not None and (
            wait := self._addresses.seconds_until_token(rate_limit_network(context.client_address))
        ):
            raise RateLimited(math.ceil(wait))

    def record_failure(self, context: Context) -> None:
        """Count what was refused before it was an operation, for its address: guesses are not free. Nothing that an
        accepted service or operator sends counts. Raises: RateLimited: there is no token left to take."""
        if not is_user_or_anonymous(context) or context.client_address is None:
            return
        if wait := self._addresses.take(rate_limit_network(context.client_address)):
            raise RateLimited(math.ceil(wait))

    @contextmanager
    def running_operation(self, context: Context) -> Iterator[None]:
        """A query or mutation of this caller. Raises: RateLimited: as many as it may have are running."""
        with _one_of(
            self._running, context, self._most_running if is_user_or_anonymous(context) else SERVICE_OPERATIONS
        ):
            yield

    @contextmanager
    def open_subscription(self, context: Context) -> Iterator[None]:
        """A subscription of this caller. Raises: RateLimited: as many as it may have are open."""
        with _one_of(
            self._streams, context, self._most_streams if is_user_or_anonymous(context) else SERVICE_SUBSCRIPTIONS
        ):
            yield


def is_user_or_anonymous(context: Context) -> bool:
    """Users and strangers."""
    return context.caller is None or context.caller.kind is CallerKind.USER


@contextmanager
def _one_of(counted: Counter[str], context: Context, most: int) -> Iterator[None]:
    key = context.limit_key
    if counted[key] >= most:
        raise RateLimited(1)
    counted[key] += 1
    try:
        yield
    finally:
        counted[key] -= 1
        if not counted[key]:
            del counted[key]
