"""The rate limiter: limits how often a caller or client address may start operations, and how many may run at once.

The rate is a token bucket for each key. A bucket fills at a constant rate, and each operation takes one token.

Each process has its own buckets, and a connection belongs to one process. So the limit of a client with one connection
is its rate, and the limit of a client with many connections is at most WORKERS times its rate.
"""

import ipaddress
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from app.auth.caller import CallerKind
from app.engine.context import RequestContext
from app.errors import RateLimited
from app.settings import Settings

BURST_SECONDS: Final = 5
"""A full bucket contains the tokens of this many seconds."""
MAX_KEYS: Final = 20_000
"""The maximum number of buckets. The least recently used one is dropped; its key then starts with a full bucket."""
SERVICE_OPERATIONS: Final = 1_000
SERVICE_SUBSCRIPTIONS: Final = 2_000


class TokenBuckets:
    """A token bucket for each key."""

    def __init__(
        self,
        per_second: float,
        *,
        burst: float | None = None,
        max_keys: int = MAX_KEYS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """If `per_second` is 0, there is no limit. `burst` is the number of tokens of a full bucket, at least 1."""
        self._per_second = per_second
        self._burst = max(per_second * BURST_SECONDS if burst is None else burst, 1.0)
        self._max_keys = max_keys
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, key: str) -> float:
        """Take a token and return 0. If there is none, return the seconds until there is one."""
        if not self._per_second:
            return 0.0
        now = self._clock()
        level = self._level(key, now)
        seconds = self._seconds_until_token(level)
        self._levels[key] = (level if seconds else level - 1, now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._max_keys:
            self._levels.popitem(last=False)
        return seconds

    def seconds_until_token(self, key: str) -> float:
        """Return what `take` would return, without taking a token."""
        return self._seconds_until_token(self._level(key, self._clock())) if self._per_second else 0.0

    def _level(self, key: str, now: float) -> float:
        level, updated = self._levels.get(key, (self._burst, now))
        return min(level + (now - updated) * self._per_second, self._burst)

    def _seconds_until_token(self, level: float) -> float:
        return 0.0 if level >= 1 else (1 - level) / self._per_second


class RateLimiter:
    """Limits the operations of one process.

    Limits of services and operators differ from those of users and anonymous callers.
    """

    def __init__(self, settings: Settings) -> None:
        self._users = TokenBuckets(settings.rate_per_user)
        self._addresses = TokenBuckets(settings.rate_per_address)
        self._services = TokenBuckets(settings.rate_per_service)
        # Reads of service keys have their own buckets: other requests of an address must not prevent such a read.
        self._key_reads = TokenBuckets(settings.rate_per_address)
        self._max_operations = settings.operations_per_user
        self._max_subscriptions = settings.subscriptions_per_user
        self._operations: Counter[str] = Counter()
        self._subscriptions: Counter[str] = Counter()
        self.timeout_seconds = settings.operation_seconds

    def record_operation(self, context: RequestContext[Any]) -> None:
        """Count an operation for its caller and, if that is a user, for its client address. Raises: RateLimited."""
        if not is_user_or_anonymous(context):
            seconds = self._services.take(context.limit_key)
        else:
            seconds = self._users.take(context.limit_key)
            if not seconds and context.client_address is not None:
                seconds = self._addresses.take(rate_limit_network(context.client_address))
        _raise_if_positive(seconds)

    def check(self, context: RequestContext[Any]) -> None:
        """Check the rate before authentication, without counting.

        Raises: RateLimited: the client address has used up its rate.
        """
        if context.client_address is not None:
            _raise_if_positive(self._addresses.seconds_until_token(rate_limit_network(context.client_address)))

    def record_failure(self, context: RequestContext[Any]) -> None:
        """Count, for its client address, a request that was refused before its operation was known.

        Requests of an authenticated service or operator do not count.
        Raises: RateLimited: the client address has used up its rate.
        """
        if is_user_or_anonymous(context) and context.client_address is not None:
            _raise_if_positive(self._addresses.take(rate_limit_network(context.client_address)))

    def record_key_read(self, context: RequestContext[Any]) -> None:
        """Count one read of a service key that was not accepted recently. Must be called before the read.

        Raises: RateLimited: the client address has used up its rate of such reads.
        """
        if context.client_address is not None:
            _raise_if_positive(self._key_reads.take(rate_limit_network(context.client_address)))

    @contextmanager
    def running_operation(self, context: RequestContext[Any]) -> Iterator[None]:
        """Count a query or mutation while it runs.

        Raises: RateLimited: too many operations of the caller are running.
        """
        limit = self._max_operations if is_user_or_anonymous(context) else SERVICE_OPERATIONS
        with _count_at_most(limit, self._operations, context.limit_key):
            yield

    @contextmanager
    def open_subscription(self, context: RequestContext[Any]) -> Iterator[None]:
        """Count a subscription while it is open. Raises: RateLimited: too many subscriptions of the caller are open."""
        limit = self._max_subscriptions if is_user_or_anonymous(context) else SERVICE_SUBSCRIPTIONS
        with _count_at_most(limit, self._subscriptions, context.limit_key):
            yield


def is_user_or_anonymous(context: RequestContext[Any]) -> bool:
    return context.caller is None or context.caller.kind is CallerKind.USER


def rate_limit_network(address: str) -> str:
    """Return the key under which a client address is counted.

    For IPv6 it is the /64 network, because providers usually assign one to each customer.
    """
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


def _raise_if_positive(seconds: float) -> None:
    if seconds:
        raise RateLimited(math.ceil(seconds))


@contextmanager
def _count_at_most(limit: int, counts: Counter[str], key: str) -> Iterator[None]:
    if counts[key] >= limit:
        raise RateLimited(1)
    counts[key] += 1
    try:
        yield
    finally:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]
