"""A state of a balance is encoded once for all subscribers with the same operation."""

import asyncio
from contextlib import AsyncExitStack, aclosing

import orjson
import pytest

from app.engine.context import RequestContext
from app.engine.execution import GraphQLEngine, GraphQLRequest
from tests.api.conftest import ALICE, ENGINE, Api
from tests.factories import grant_credits

pytestmark = pytest.mark.anyio

COPY = "subscription { balance { __typename id accountId available posted held frozen owed version status asOf } }"


async def first_items(api: Api, *queries: str) -> list[bytes]:
    """The first item of each of these subscriptions to alice's balance, started at once."""
    engine = GraphQLEngine(ENGINE.schema, introspection=True, compile_operations=True)
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(
                aclosing(engine.stream(GraphQLRequest(query), RequestContext(ALICE, api.state)))
            )
            for query in queries
        ]
        async with asyncio.timeout(2):
            items = list(await asyncio.gather(*(anext(stream) for stream in streams)))
    assert engine.execution_counts.compiled == len(queries)
    assert not engine.execution_counts.interpreted
    return items


async def interpreted_item(api: Api, query: str) -> bytes:
    engine = GraphQLEngine(ENGINE.schema, introspection=True)
    async with aclosing(engine.stream(GraphQLRequest(query), RequestContext(ALICE, api.state))) as stream:
        return await anext(stream)


async def test_subscribers_with_the_same_operation_receive_the_same_bytes(api: Api) -> None:
    await grant_credits("alice", 60)
    one, other = await first_items(api, COPY, COPY)
    assert one is other
    assert orjson.loads(one)["data"]["balance"] | {"asOf": ""} == orjson.loads(await interpreted_item(api, COPY))[
        "data"
    ]["balance"] | {"asOf": ""}


async def test_subscribers_with_other_operations_receive_other_items(api: Api) -> None:
    await grant_credits("alice", 60)
    items = await first_items(
        api,
        "subscription { balance { available } }",
        "subscription { mine: balance { credits: available } }",
        "subscription ($on: Long) { balance(sinceVersion: $on) { available owed } }",
    )
    assert items == [
        b'{"data":{"balance":{"available":60}}}',
        b'{"data":{"mine":{"credits":60}}}',
        b'{"data":{"balance":{"available":60,"owed":0}}}',
    ]


@pytest.mark.parametrize("more", ["nextExpiry { credits }", "autoTopUp"])
async def test_an_item_with_resolved_fields_is_not_shared(api: Api, more: str) -> None:
    await grant_credits("alice", 60)
    query = f"subscription {{ balance {{ available {more} }} }}"
    one, other = await first_items(api, query, query)
    assert one == other == await interpreted_item(api, query)
    assert one is not other


async def test_the_next_state_is_encoded_again(api: Api) -> None:
    await grant_credits("alice", 60)
    engine = GraphQLEngine(ENGINE.schema, introspection=True, compile_operations=True)
    query = "subscription { balance { available version } }"
    async with aclosing(engine.stream(GraphQLRequest(query), RequestContext(ALICE, api.state))) as stream:
        assert await anext(stream) == b'{"data":{"balance":{"available":60,"version":1}}}'
        await grant_credits("alice", 5)
        async with asyncio.timeout(2):
            assert await anext(stream) == b'{"data":{"balance":{"available":65,"version":2}}}'
