"""Buckets of tokens, without a server."""

import pytest

from app.engine.limits.rate_limiter import TokenBuckets, rate_limit_network


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_what_it_holds_and_fills_again_at_its_rate() -> None:
    clock = Clock()
    buckets = TokenBuckets(2, burst=3, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now += 0.25
    assert buckets.take("a") == buckets.seconds_until_token("a") == 0.25  # what was refused has taken nothing
    clock.now += 0.25
    assert [buckets.take("a"), buckets.take("a")] == [0, 0.5]
    clock.now += 3600
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_to_ask_how_long_it_takes_takes_nothing() -> None:
    buckets = TokenBuckets(1, burst=1, clock=Clock())
    assert [buckets.seconds_until_token("a"), buckets.seconds_until_token("a"), len(buckets)] == [0, 0, 0]
    assert [buckets.take("a"), buckets.seconds_until_token("a"), buckets.seconds_until_token("b")] == [0, 1, 0]
    assert TokenBuckets(0, clock=Clock()).seconds_until_token("a") == 0


def test_keys_have_buckets_of_their_own_and_a_burst_of_five_seconds() -> None:
    buckets = TokenBuckets(1, clock=Clock())
    assert [buckets.take("a") for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    assert buckets.take("b") == 0


def test_a_rate_of_nothing_is_no_limit() -> None:
    buckets = TokenBuckets(0, clock=Clock())
    assert {buckets.take("a") for _ in range(1_000)} == {0}
    assert len(buckets) == 0


def test_a_rate_below_one_in_five_seconds_still_gives_one() -> None:
    buckets = TokenBuckets(0.01, clock=Clock())
    assert [buckets.take("a"), buckets.take("a")] == [0, 100]


def test_the_bucket_used_longest_ago_is_forgotten_first() -> None:
    buckets = TokenBuckets(1, burst=1, max_keys=2, clock=Clock())
    for key in ("a", "b", "a", "c"):
        buckets.take(key)
    assert len(buckets) == 2
    assert buckets.take("a") > 0
    assert buckets.take("b") == 0


@pytest.mark.parametrize(
    ("address", "counted_by"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no:address", "no:address"),
    ],
)
def test_an_address_is_counted_by_its_network(address: str, counted_by: str) -> None:
    assert rate_limit_network(address) == counted_by
