"""Delivery: signed, at least once, in order where asked for, with back-off, and without any effect on postings."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from app.db import pools
from app.errors import InsufficientCredits, InvalidInput, WebhookEndpointNotFound
from app.outgoing_webhooks import deliveries, endpoints
from app.outgoing_webhooks.deliveries import BACK_OFF_SECONDS, ClaimedDelivery
from app.outgoing_webhooks.models import WebhookDelivery, WebhookEndpoint
from app.outgoing_webhooks.secret_box import SecretBox
from app.outgoing_webhooks.sender import Attempt, Sender
from app.outgoing_webhooks.worker import WebhookWorker
from tests.factories import charge_block_run, grant_credits, publish_rate_cards, start_task, try_charge
from tests.outgoing_webhooks.receiver import Receiver, receiving

pytestmark = pytest.mark.anyio


async def create(url: str, box: SecretBox, **more: Any) -> tuple[WebhookEndpoint, str]:
    return await endpoints.create_endpoint(url, box=box, allow_private=True, **more)


async def all_due() -> None:
    """Let the waiting time of every delivery and endpoint pass."""
    await pools.fetch("UPDATE webhook_delivery SET next_attempt_at = clock_timestamp()")
    await pools.fetch("UPDATE webhook_endpoint SET retry_at = NULL")


async def test_an_event_is_delivered_signed_and_once(worker: WebhookWorker, box: SecretBox, receiver: Receiver) -> None:
    _, secret = await create(receiver.url, box)
    balance = (await grant_credits("alice", 1000)).balance
    await worker.deliver_due()
    await worker.deliver_due()

    [event] = receiver.verified(secret)
    assert event["type"] == "balance.replenished"
    assert event["version"] == 1
    assert event["data"] == {"ownerId": "alice", "available": 1000, "accountVersion": balance.version}
    [(headers, _)] = receiver.requests
    [row] = await WebhookDelivery.all()
    assert headers["webhook-id"] == row.event_id
    assert headers["content-type"] == "application/json"
    assert (row.attempts, row.last_status) == (1, 204)
    assert row.last_error is None
    assert row.delivered_at is not None


async def test_another_secret_does_not_verify(worker: WebhookWorker, box: SecretBox, receiver: Receiver) -> None:
    await create(receiver.url, box)
    await grant_credits("alice", 1000)
    await worker.deliver_due()
    with pytest.raises(WebhookVerificationError):
        receiver.verified("whsec_" + "A" * 43 + "=")


async def test_both_secrets_sign_for_a_day_after_a_rotation(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    endpoint, old = await create(receiver.url, box)
    _, new = await endpoints.rotate_secret(endpoint.id, box=box)
    await grant_credits("alice", 1000)
    await worker.deliver_due()
    assert old != new
    assert receiver.verified(old) == receiver.verified(new)
    await pools.fetch("UPDATE webhook_endpoint SET previous_secret_until = clock_timestamp()")
    receiver.requests.clear()
    await grant_credits("bob", 1000)
    await worker.deliver_due()
    assert len(receiver.verified(new)) == 1
    with pytest.raises(WebhookVerificationError):
        receiver.verified(old)


async def test_the_secret_is_stored_encrypted(db: str, box: SecretBox) -> None:
    endpoint, secret = await create("http://127.0.0.1:1/", box)
    stored = bytes(endpoint.secret)
    assert box.open(stored, endpoint.id) not in stored
    assert secret.startswith("whsec_")


async def test_an_endpoint_receives_the_types_that_it_names(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    await create(receiver.url, box, event_types=["balance.out_of_credits", "task.stopped"])
    await grant_credits("alice", 10)
    await charge_block_run(await start_task("alice"), await publish_rate_cards())
    await worker.deliver_due()
    assert receiver.types == ["balance.out_of_credits"]


async def test_a_stopped_task_is_an_event_of_the_refused_charge(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    await create(receiver.url, box, event_types=["task.stopped"])
    await grant_credits("alice", 15)
    task = await start_task("alice")
    rate_cards = await publish_rate_cards()
    await charge_block_run(task, rate_cards)
    assert isinstance(await try_charge(task, rate_cards), InsufficientCredits)
    await worker.deliver_due()
    [event] = receiver.events
    assert event["data"] | {"accountVersion": 0} == {
        "ownerId": "alice", "available": 5, "accountVersion": 0, "taskId": task.task_id, "agentId": "agent",
        "reason": "OUT_OF_CREDITS", "required": 10, "shortfall": 5,
    }  # fmt: skip


async def test_a_task_whose_budget_expires_is_an_event(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    await create(receiver.url, box, event_types=["task.stopped"])
    await grant_credits("alice", 100)
    task = await start_task("alice", budget=50)
    await pools.fetch("UPDATE hold SET expires_at = clock_timestamp() - interval '1 millisecond'")
    await pools.fetch("UPDATE account SET next_change_at = clock_timestamp() - interval '1 millisecond'")
    await grant_credits("alice", 1)
    await worker.deliver_due()
    [event] = receiver.events
    assert event["data"] | {"accountVersion": 0} == {
        "ownerId": "alice", "available": 100, "accountVersion": 0, "taskId": task.task_id, "agentId": "agent",
        "reason": "BUDGET_EXPIRED", "required": None, "shortfall": None,
    }  # fmt: skip


async def test_a_rolled_back_posting_has_no_event(worker: WebhookWorker, box: SecretBox, receiver: Receiver) -> None:
    await create(receiver.url, box)
    with pytest.raises(InvalidInput):
        await grant_credits("alice", 0)
    assert await WebhookDelivery.all().count() == 0


async def test_without_an_endpoint_nothing_is_stored(db: str) -> None:
    await grant_credits("alice", 10)
    assert await WebhookDelivery.all().count() == 0


async def test_a_failed_delivery_is_repeated_with_the_same_id(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    endpoint, _ = await create(receiver.url, box)
    receiver.statuses = [500, 302]
    await grant_credits("alice", 1000)
    await worker.deliver_due()
    await worker.deliver_due()
    assert len(receiver.requests) == 1  # it waits
    assert (await endpoints.get_endpoint(endpoint.id)).failing_since is not None
    for _ in range(2):
        await all_due()
        await worker.deliver_due()
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1
    assert len(receiver.requests) == 3
    [row] = await WebhookDelivery.all()
    assert (row.attempts, row.last_status) == (3, 204)
    assert (await endpoints.get_endpoint(endpoint.id)).failing_since is None


async def test_a_redirect_is_not_followed(worker: WebhookWorker, box: SecretBox, receiver: Receiver) -> None:
    with receiving() as other:
        await create(receiver.url, box)
        receiver.status, receiver.headers = 307, {"location": other.url}
        await grant_credits("alice", 1000)
        await worker.deliver_due()
        assert (len(receiver.requests), len(other.requests)) == (1, 0)
    assert (await WebhookDelivery.all())[0].last_error == "The response had status 307."


def test_the_waits_last_three_days_and_then_the_delivery_is_given_up() -> None:
    def wait(attempts: int, retry_after: float | None = None) -> float | None:
        delivery = ClaimedDelivery(id=1, event_id="e", payload="{}", attempts=attempts)
        return deliveries.wait_seconds(delivery, Attempt(status=500, error="x", retry_after_seconds=retry_after))

    waits = [wait(attempts) for attempts in range(1, len(BACK_OFF_SECONDS) + 1)]
    assert all(least <= (waited or 0) <= least * 1.1 for least, waited in zip(BACK_OFF_SECONDS, waits, strict=True))
    assert timedelta(days=3) <= timedelta(seconds=sum(BACK_OFF_SECONDS)) < timedelta(days=3, hours=4)
    assert wait(len(BACK_OFF_SECONDS) + 1) is None
    assert (wait(1, retry_after=100) or 0) >= 100


async def test_a_delivery_that_is_given_up_can_be_redelivered(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    endpoint, _ = await create(receiver.url, box)
    receiver.status = 500
    await grant_credits("alice", 1000)
    for _ in range(len(BACK_OFF_SECONDS) + 1):
        await all_due()
        await worker.deliver_due()
    [row] = await deliveries.list_deliveries(endpoint.id, before_id=2**63 - 1, limit=10, only_failed=True)
    assert (row.attempts, row.last_error) == (11, "The response had status 500.")
    receiver.status = 200
    await deliveries.redeliver(row.id)
    await all_due()
    await worker.deliver_due()
    assert (await WebhookDelivery.get(id=row.id)).delivered_at is not None


async def test_an_unknown_delivery_cannot_be_redelivered(db: str) -> None:
    with pytest.raises(InvalidInput):
        await deliveries.redeliver(2**63 - 1)


async def test_events_of_an_account_are_in_order_where_the_endpoint_wants_it(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    await create(receiver.url, box, in_order=True, event_types=["balance.replenished"])
    for credits in (1, 2, 3):
        await grant_credits("alice", credits)
    await grant_credits("bob", 7)
    receiver.status = 500
    await worker.deliver_due()
    receiver.status = 200
    await all_due()
    for _ in range(4):
        await worker.deliver_due()
    seen = [(event["data"]["ownerId"], event["data"]["available"]) for event in receiver.events]
    assert [available for owner, available in seen if owner == "alice"] == [1, 1, 3, 6]
    assert [available for owner, available in seen if owner == "bob"] == [7, 7]


async def test_a_failing_endpoint_gets_one_attempt_at_a_time(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    await create(receiver.url, box)
    receiver.status = 503
    for owner in range(40):
        await grant_credits(f"owner-{owner}", 1000)
    await worker.deliver_due()
    first = len(receiver.requests)
    await pools.fetch("UPDATE webhook_endpoint SET retry_at = NULL")
    await worker.deliver_due()
    assert (first, len(receiver.requests)) == (16, 17)
    receiver.status = 200
    await all_due()
    await worker.deliver_due()
    assert await WebhookDelivery.filter(delivered_at=None).count() == 0


async def test_a_slow_endpoint_delays_no_other(db: str, box: SecretBox, receiver: Receiver) -> None:
    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    await create(f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/", box)
    await create(receiver.url, box)
    await grant_credits("alice", 1000)
    sender = Sender(allow_private=True)
    running = asyncio.create_task(WebhookWorker(sender, box).run())
    async with asyncio.timeout(10):
        while not receiver.requests:  # noqa: ASYNC110  another thread receives them
            await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await sender.close()
    silent.close()
    assert receiver.types == ["balance.replenished"]


async def test_an_endpoint_that_fails_for_three_days_is_disabled_and_the_others_are_notified(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    with receiving() as other:
        dead, _ = await create(receiver.url, box)
        await create(other.url, box, event_types=["top_up.paid"])
        receiver.status = 500
        await grant_credits("alice", 1000)
        await worker.deliver_due()
        await pools.fetch("UPDATE webhook_endpoint SET failing_since = failing_since - interval '3 days'")
        await all_due()
        await worker.deliver_due()
        await worker.deliver_due()
        disabled = await endpoints.get_endpoint(dead.id)
        assert disabled.disabled_reason == "All attempts failed for 3 days: The response had status 500."
        [event] = other.events
        assert (event["type"], event["data"]["endpointId"]) == ("webhook_endpoint.disabled", dead.id)
    await grant_credits("bob", 1000)
    assert await WebhookDelivery.filter(endpoint_id=dead.id).count() == 1


async def test_a_receiver_that_answers_410_is_disabled_at_once(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    endpoint, _ = await create(receiver.url, box)
    receiver.status = 410
    await grant_credits("alice", 1000)
    await worker.deliver_due()
    assert (await endpoints.get_endpoint(endpoint.id)).disabled_reason == "The receiver answered 410 Gone."


async def test_pending_deliveries_wait_while_the_endpoint_is_disabled(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    endpoint, _ = await create(receiver.url, box)
    await grant_credits("alice", 1000)
    await endpoints.disable_endpoint(endpoint.id, "maintenance")
    await grant_credits("bob", 1000)
    await worker.deliver_due()
    assert receiver.requests == []
    await endpoints.enable_endpoint(endpoint.id)
    await worker.deliver_due()
    assert [event["data"]["ownerId"] for event in receiver.events] == ["alice"]


async def test_two_workers_send_each_event_once(db: str, box: SecretBox, receiver: Receiver) -> None:
    await create(receiver.url, box)
    for owner in range(30):
        await grant_credits(f"owner-{owner}", 1000)
    sender = Sender(allow_private=True)
    await asyncio.gather(*(WebhookWorker(sender, box).deliver_due() for _ in range(2)))
    await sender.close()
    assert len(receiver.requests) == len({headers["webhook-id"] for headers, _ in receiver.requests}) == 30


async def test_a_claim_of_a_process_that_ended_is_claimed_again(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    await create(receiver.url, box)
    await grant_credits("alice", 1000)
    [endpoint] = await deliveries.find_due_endpoints()
    [claimed] = await deliveries.claim(endpoint, limit=10)
    assert await deliveries.claim(endpoint, limit=10) == []
    await all_due()
    assert [one.id for one in await deliveries.claim(endpoint, limit=10)] == [claimed.id]


async def test_deliveries_are_deleted_thirty_days_after_their_event(
    worker: WebhookWorker, box: SecretBox, receiver: Receiver
) -> None:
    await create(receiver.url, box)
    await grant_credits("alice", 1000)
    await grant_credits("bob", 1000)
    await worker.deliver_due()
    await grant_credits("carol", 1000)
    await pools.fetch(
        "UPDATE webhook_delivery SET created_at = created_at - interval '31 days' WHERE payload NOT LIKE '%bob%'"
    )
    assert await deliveries.prune() == 1
    assert {row.delivered_at is None for row in await WebhookDelivery.all()} == {True, False}  # carol's is pending


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "https://10.0.0.1/"}, "url must be an address of the public internet, not 10.0.0.1"),
        ({"url": "http://hooks.example.com/"}, "url must begin with https://"),
        ({"event_types": ["balance.high"]}, "eventTypes.0 must be one of balance.low"),
        ({"description": "x" * 256}, "description must have at most 255 visible characters"),
        ({"description": "a\x00b"}, "description must have at most 255 visible characters"),
    ],
)
async def test_an_invalid_endpoint_is_refused(db: str, box: SecretBox, values: dict[str, Any], message: str) -> None:
    url = values.pop("url", "https://hooks.example.com/")
    with pytest.raises(InvalidInput) as refused:
        await endpoints.create_endpoint(url, box=box, allow_private=False, **values)
    assert str(refused.value).startswith(message)
    assert await endpoints.list_endpoints() == []


async def test_a_url_has_one_enabled_endpoint(db: str, box: SecretBox) -> None:
    async def attempt() -> str:
        try:
            return (await create("https://hooks.example.com/", box))[0].id
        except InvalidInput as error:
            return str(error)

    created, refused = sorted(await asyncio.gather(attempt(), attempt()), key=len)
    assert refused == f"url already belongs to the endpoint {created}."
    await endpoints.disable_endpoint(created, "replaced")
    await create("https://hooks.example.com/", box)
    with pytest.raises(InvalidInput, match="belongs to another one now"):
        await endpoints.enable_endpoint(created)


@pytest.mark.parametrize("endpoint_id", ["we_0", "x" * 255])
async def test_an_unknown_endpoint_is_not_found(db: str, box: SecretBox, endpoint_id: str) -> None:
    for call in (
        endpoints.rotate_secret(endpoint_id, box=box),
        endpoints.disable_endpoint(endpoint_id, "r"),
        endpoints.enable_endpoint(endpoint_id),
    ):
        with pytest.raises(WebhookEndpointNotFound):
            await call


async def test_a_receiver_that_cannot_be_reached_is_a_failed_attempt(worker: WebhookWorker, box: SecretBox) -> None:
    await create("http://127.0.0.1:1/", box)
    await grant_credits("alice", 1000)
    await worker.deliver_due()
    [row] = await WebhookDelivery.all()
    failure = "The request failed: All connection attempts failed"
    assert (row.attempts, row.last_status, row.last_error) == (1, None, failure)
