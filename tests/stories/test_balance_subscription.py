"""The balance subscription over graphql-transport-ws, from the first grant through charges to a paid top-up."""

import asyncio
import json
import re

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.factories import unique_id
from tests.stories.conftest import Platform, pushed

pytestmark = pytest.mark.anyio

BALANCE = "subscription($owner: ID) { balance(ownerId: $owner) { available version status } }"


async def test_the_subscription_ends_at_the_current_version_of_any_writer(platform: Platform) -> None:
    owner = unique_id("story")
    async with platform.subscribed("service", BALANCE, owner=owner) as header:
        assert await pushed(header, "balance") == {"available": 0, "version": 0, "status": "EMPTY"}
        await platform.grant(owner, 1000)
        task = await platform.start(owner)
        await asyncio.gather(*(platform.charge(task, unique_id("story-run")) for _ in range(30)))
        states = [await pushed(header, "balance")]
        while states[-1]["version"] < 31:
            states.append(await pushed(header, "balance"))
        versions = [state["version"] for state in states]
        assert versions == sorted(set(versions))
        assert states[-1] == {"available": 700, "version": 31, "status": "OK"}


async def test_a_paid_top_up_is_pushed_once(platform: Platform) -> None:
    begin = """mutation($key: String!) { beginTopUp(input: {credits: 500, idempotencyKey: $key}) {
        ... on BeginTopUpSuccess { topUp { id status paymentUrl } } } }"""
    confirm = """mutation($id: ID!) { confirmTopUp(input: {topUpId: $id}) {
        ... on ConfirmTopUpSuccess { topUp { status credits } balance { available } } } }"""
    before = (await platform.balance("alice"))["available"]
    async with platform.subscribed("user", BALANCE) as header:
        assert (await pushed(header, "balance"))["available"] == before
        top_up = (await platform.ask("user", begin, key=unique_id("story-key")))["beginTopUp"]["topUp"]
        assert top_up["status"] == "PENDING"
        page = (await platform.client.get(top_up["paymentUrl"])).text
        found = re.search(r'name="token" value="(\w+)"', page)
        assert found is not None
        paid, *confirmed = await asyncio.gather(
            platform.client.post(top_up["paymentUrl"], data={"token": found[1], "decision": "pay"}),
            *(platform.ask("user", confirm, id=top_up["id"]) for _ in range(3)),
        )
        assert paid.status_code == 303
        assert all(one["confirmTopUp"]["topUp"]["status"] in {"PENDING", "PAID"} for one in confirmed)
        assert (await pushed(header, "balance"))["available"] == before + 500
    last = (await platform.ask("user", confirm, id=top_up["id"]))["confirmTopUp"]
    assert last == {"topUp": {"status": "PAID", "credits": 500}, "balance": {"available": before + 500}}


async def test_an_invalid_token_closes_the_socket_with_a_code_that_clients_retry(platform: Platform) -> None:
    url = platform.url.replace("http", "ws", 1) + "/graphql"
    async with connect(url, subprotocols=["graphql-transport-ws"]) as socket:  # type: ignore[list-item]  # a NewType
        await socket.send(json.dumps({"type": "connection_init", "payload": {"authorization": "Bearer nonsense"}}))
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4403


async def test_a_user_cannot_subscribe_to_another_balance(platform: Platform) -> None:
    async with platform.subscribed("user", BALANCE, owner="somebody-else") as socket:
        message = json.loads(await socket.recv())
    assert (message["type"], message["payload"][0]["extensions"]["code"]) == ("error", "FORBIDDEN")
