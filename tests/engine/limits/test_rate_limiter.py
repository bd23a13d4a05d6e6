"""Token buckets, and the limits on operations and subscriptions at once."""

from contextlib import ExitStack

import pytest

from app.engine.context import RequestContext
from app.engine.limits.rate_limiter import (
    SERVICE_OPERATIONS,
    SERVICE_SUBSCRIPTIONS,
    RateLimiter,
    TokenBuckets,
    rate_limit_network,
)
from app.errors import RateLimited
from app.settings import Settings
from tests.engine.sample_schema import READER, SERVICE


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_tokens_and_fills_at_its_rate() -> None:
    clock = Clock()
    buckets = TokenBuckets(2, burst=3, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now += 0.25
    assert buckets.take("a") == buckets.seconds_until_token("a") == 0.25  # the refused call has taken nothing
    clock.now += 0.25
    assert [buckets.take("a"), buckets.take("a")] == [0, 0.5]
    clock.now += 3600
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_seconds_until_token_takes_no_token() -> None:
    buckets = TokenBuckets(1, burst=1, clock=Clock())
    assert [buckets.seconds_until_token("a"), buckets.seconds_until_token("a"), len(buckets)] == [0, 0, 0]
    assert [buckets.take("a"), buckets.seconds_until_token("a"), buckets.seconds_until_token("b")] == [0, 1, 0]
    assert TokenBuckets(0, clock=Clock()).seconds_until_token("a") == 0


def test_each_key_has_a_bucket_of_five_seconds() -> None:
    buckets = TokenBuckets(1, clock=Clock())
    assert [buckets.take("a") for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    assert buckets.take("b") == 0


def test_a_rate_of_zero_is_no_limit() -> None:
    buckets = TokenBuckets(0, clock=Clock())
    assert {buckets.take("a") for _ in range(1_000)} == {0}
    assert len(buckets) == 0


def test_a_very_low_rate_still_gives_one_token() -> None:
    buckets = TokenBuckets(0.01, clock=Clock())
    assert [buckets.take("a"), buckets.take("a")] == [0, 100]


def test_the_least_recently_used_bucket_is_dropped() -> None:
    buckets = TokenBuckets(1, burst=1, max_keys=2, clock=Clock())
    for key in ("a", "b", "a", "c"):
        buckets.take(key)
    assert len(buckets) == 2
    assert buckets.take("a") > 0
    assert buckets.take("b") == 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no:address", "no:address"),
    ],
)
def test_a_client_address_is_counted_by_its_network(address: str, network: str) -> None:
    assert rate_limit_network(address) == network


@pytest.mark.parametrize(
    ("method", "limit"), [("running_operation", SERVICE_OPERATIONS), ("open_subscription", SERVICE_SUBSCRIPTIONS)]
)
def test_a_service_has_its_own_limit_of_operations_and_subscriptions_at_once(method: str, limit: int) -> None:
    no_rates = {"rate_per_user": 0, "rate_per_address": 0, "rate_per_service": 0}
    limiter = RateLimiter(Settings.model_validate(no_rates | {"operations_per_user": 1, "subscriptions_per_user": 1}))
    start = getattr(limiter, method)
    one, another = RequestContext(SERVICE, None), RequestContext(READER, None)
    with ExitStack() as started:
        for _ in range(limit):
            started.enter_context(start(one))
        with pytest.raises(RateLimited), start(one):
            pass
        with start(another):
            pass
    with start(one):
        pass
