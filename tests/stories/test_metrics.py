"""The metrics of a server with two workers: any worker reports the sums of both."""

from collections import Counter
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.factories import unique_id
from tests.stories.conftest import Platform, pushed, until

pytestmark = pytest.mark.anyio

BALANCE = "subscription($owner: ID) { balance(ownerId: $owner) { available version } }"


async def samples(platform: Platform) -> Counter[str]:
    """Every sample by its name and the values of its labels, sorted by label: `credits_moved_total in GRANT`."""
    reply = await platform.client.get("/metrics")
    assert reply.status_code == 200
    return Counter(
        {
            " ".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
            for family in text_string_to_metric_families(reply.text)
            for sample in family.samples
        }
    )


def changes(before: Counter[str], after: Counter[str], *names: str) -> dict[str, Any]:
    """The differences of the named metrics, without those that have not changed."""
    return {
        name: after[name] - before[name]
        for name in after
        if name.split(" ")[0] in names and after[name] != before[name]
    }


async def test_charges_and_the_credits_they_move_are_counted_over_both_workers(
    platform: Platform, workers: tuple[Platform, Platform]
) -> None:
    owner, runs = unique_id("story"), [unique_id("run") for _ in range(3)]
    before = await samples(platform)
    await platform.grant(owner, 25)
    task = await platform.start(owner)
    first, second = workers
    await first.charge(task, runs[0])
    await second.charge(task, runs[1])
    assert (await second.charge(task, runs[1]))["replayed"] is True
    assert (await first.charge(task, runs[2]))["__typename"] == "InsufficientCreditsError"
    after = await samples(platform)
    assert changes(before, after, "credits_charges_total") == {
        "credits_charges_total charged": 2,
        "credits_charges_total replayed": 1,
        "credits_charges_total InsufficientCredits": 1,
    }
    assert changes(before, after, "credits_moved_total") == {
        "credits_moved_total in GRANT": 25,
        "credits_moved_total out CHARGE": 20,
    }
    assert changes(before, after, "credits_request_seconds_count") == {
        "credits_request_seconds_count grantCredits ok http": 1,
        "credits_request_seconds_count startTask ok http": 1,
        "credits_request_seconds_count charge ok http": 4,
    }
    batches = changes(before, after, "credits_charge_batch_size_count", "credits_charge_batch_size_sum")
    assert batches == {"credits_charge_batch_size_count": 4, "credits_charge_batch_size_sum": 4}
    waits = changes(before, after, "credits_lock_wait_seconds_count", "credits_pool_wait_seconds_count")
    assert waits["credits_lock_wait_seconds_count"] >= 6
    assert waits["credits_pool_wait_seconds_count posting"] >= 6
    assert after["credits_charge_queue_length"] == 0
    assert after["credits_database_up"] == after["credits_change_feed_connected"] == 1


async def test_refused_requests_are_counted_by_their_code(platform: Platform) -> None:
    before = await samples(platform)
    await platform.client.post("/graphql", json={"query": "{ auditLog { pageInfo { hasNextPage } } }"})
    await platform.client.post("/graphql", json={"query": "{ nothing }"})
    await platform.client.post("/graphql", json={"query": "{ account { ownerId } }"}, headers={"authorization": "x"})
    after = await samples(platform)
    assert changes(before, after, "credits_request_seconds_count") == {
        "credits_request_seconds_count auditLog UNAUTHENTICATED http": 1,
        "credits_request_seconds_count - GRAPHQL_VALIDATION_FAILED http": 1,
        "credits_request_seconds_count - UNAUTHENTICATED http": 1,
    }


async def test_subscriptions_and_the_delay_of_pushes_are_measured(platform: Platform) -> None:
    owner = unique_id("story")
    await platform.grant(owner, 10)
    before = await samples(platform)
    async with platform.subscribed("service", BALANCE, owner=owner) as header:
        assert (await pushed(header, "balance"))["available"] == 10
        assert (await samples(platform))["credits_subscriptions"] == before["credits_subscriptions"] + 1
        await platform.grant(owner, 5)
        assert (await pushed(header, "balance"))["available"] == 15
    ended = "credits_subscriptions_ended_total balance ok websocket"

    async def has_ended() -> bool:
        return (await samples(platform))[ended] == before[ended] + 1

    await until(has_ended)
    after = await samples(platform)
    assert after["credits_subscriptions"] == before["credits_subscriptions"]
    assert after["credits_push_delay_seconds_count"] == before["credits_push_delay_seconds_count"] + 1


async def test_background_loops_report_when_they_succeeded(platform: Platform) -> None:
    async def all_have_run() -> bool:
        found = await samples(platform)
        return {
            "due changes", "expiry notifications", "outgoing webhooks", "rate card refresh", "version sweep",
            "provider event retries", "pending top-ups", "refund reconciliation",
        } <= {name.partition(" ")[2] for name in found if name.startswith("credits_sweep_last_success")}  # fmt: skip

    await until(all_have_run, seconds=15)
