"""How often somebody may ask: a bucket of tokens for each key, filled at a steady rate; each operation takes one.

A process keeps its own buckets and gives out its share of the rate: nothing is asked of anybody on the way.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

BURST_SECONDS: Final = 5
"""A full bucket holds what flows in within this time."""
MAX_KEYS: Final = 20_000
"""Buckets kept; who has not asked for longest is forgotten first, and begins with a full one."""


class TokenBuckets:
    """The buckets of one kind of key."""

    def __init__(
        self,
        per_second: float,
        *,
        burst: float | None = None,
        max_keys: int = MAX_KEYS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`per_second`: 0 is no limit. `burst`: what a full one holds, at least 1."""
        self._per_second = per_second
        self._burst = max(per_second * BURST_SECONDS if burst is None else burst, 1.0)
        self._remembered = max_keys
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, key: str) -> float:
        """Take a token: 0 if there was one, else the seconds until there is. What is refused takes nothing."""
        if not self._per_second:
            return 0.0
        now = self._clock()
        level = self._level(key, now)
        wait = self._wait(level)
        self._levels[key] = (level if wait else level - 1, now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._remembered:
            self._levels.popitem(last=False)
        return wait

    def seconds_until_token(self, key: str) -> float:
        """What `take` would answer; nothing is taken."""
        return self._wait(self._level(key, self._clock())) if self._per_second else 0.0

    def _level(self, key: str, now: float) -> float:
        level, at = self._levels.get(key, (self._burst, now))
        return min(level + (now - at) * self._per_second, self._burst)

    def _wait(self, level: float) -> float:
        return 0.0 if level >= 1 else (1 - level) / self._per_second


def rate_limit_network(address: str) -> str:
    """What an address is counted by: an IPv6 customer has a whole /64 of them."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
