"""The WebSocket transport: graphql-transport-ws, its close codes, and the independence of operations."""

import asyncio
from collections.abc import Sequence

import orjson
import pytest
from starlette.types import Message

from app.engine.transports.websocket import MAX_OPERATIONS, PING_BURST, PROTOCOL
from tests.engine import sample_schema
from tests.engine.sample_schema import token
from tests.engine.transports.protocol_violations import CLOSING
from tests.engine.transports.websocket_client import Client, open_accepted_connection, open_connection, sockets

pytestmark = pytest.mark.anyio


async def test_a_subscription_is_sent_to_its_end() -> None:
    async with open_accepted_connection() as client:
        await client.init({"authorization": f"Bearer {token()}"})
        await client.subscribe("1", "subscription ($n: Int!) { count(to: $n) }", n=2)
        assert [await client.next_message() for _ in range(3)] == [
            {"id": "1", "type": "next", "payload": {"data": {"count": 1}}},
            {"id": "1", "type": "next", "payload": {"data": {"count": 2}}},
            {"id": "1", "type": "complete"},
        ]


async def test_an_id_that_would_be_rounded_is_refused() -> None:
    async with open_accepted_connection() as client:
        await client.init({"token": token()})
        query = "query ($v: ID!) { node(id: $v) { id } }"
        await client.send(
            f'{{"id": "1", "type": "subscribe", "payload": {{"query": "{query}", "variables": {{"v": {10**22 + 1}}}}}}}'
        )
        [error] = (await client.next_message())["payload"]
        assert "An id must be a string" in error["message"]
        assert "it is 10000000000000000000001." in error["message"]


async def test_queries_and_mutations_are_supported() -> None:
    async with open_accepted_connection() as client:
        await client.init({"token": token()})
        await client.subscribe("q", "{ me }")
        assert await client.next_message() == {"id": "q", "type": "next", "payload": {"data": {"me": "user:ada"}}}
        assert await client.next_message() == {"id": "q", "type": "complete"}
        await client.subscribe("m", "mutation { spend(cost: 1) { __typename } }")
        refusal = await client.next_message()
        assert refusal["payload"]["errors"][0]["extensions"] == {"code": "FORBIDDEN"}
        assert sample_schema.resolver_calls == ["me"]


@pytest.mark.parametrize(
    "payload", [{"Authorization": "Bearer {}"}, {"token": "{}"}, {"token": "{}", "authorization": None}]
)
async def test_the_payload_may_have_an_authorization_or_a_token(payload: dict[str, str | None]) -> None:
    filled = {name: value and value.format(token("bob")) for name, value in payload.items()}
    async with open_accepted_connection() as client:
        await client.init(filled)
        await client.subscribe("1", "{ me }")
        assert (await client.next_message())["payload"] == {"data": {"me": "user:bob"}}


async def test_without_a_token_in_the_payload_the_header_of_the_handshake_is_used() -> None:
    async with open_accepted_connection(authorization=f"Bearer {token('carol')}") as client:
        await client.init()
        await client.subscribe("1", "{ me }")
        assert (await client.next_message())["payload"] == {"data": {"me": "user:carol"}}


@pytest.mark.parametrize("payload", [None, {}])
async def test_without_any_token_the_caller_is_anonymous(payload: object) -> None:
    async with open_accepted_connection() as client:
        await client.init(payload)
        await client.subscribe("1", "subscription { count(to: 1) }")
        ended = await client.next_message()
        assert (ended["id"], ended["type"]) == ("1", "error")
        assert ended["payload"][0]["extensions"] == {"code": "UNAUTHENTICATED"}


async def test_a_connection_closes_when_its_token_expires() -> None:
    async with open_accepted_connection() as client:
        await client.init({"token": token(seconds=1.2)})
        await client.subscribe("1", "subscription { forever }")
        assert await client.next_close() == (4403, "Forbidden: the token has expired")
        await asyncio.sleep(0)
        assert sample_schema.resolver_calls == ["begun", "ended"]


async def test_a_connection_without_connection_init_is_closed() -> None:
    async with open_accepted_connection() as client:
        assert await client.next_close() == (4408, "Connection initialisation timeout")


async def test_an_acknowledged_connection_stays_open() -> None:
    async with open_accepted_connection() as client:
        await client.init({"token": token()})
        await asyncio.sleep(0.3)
        await client.send({"type": "ping"})
        assert await client.next_message() == {"type": "pong"}


REASONS = {1009: "Message too big", 4401: "Unauthorized", 4403: "Forbidden"}


@pytest.mark.parametrize(("code", "messages"), CLOSING.values(), ids=CLOSING)
async def test_a_violation_of_the_protocol_closes_with_its_code(code: int, messages: Sequence[str]) -> None:
    async with open_accepted_connection() as client:
        await client.send(*messages)
        while (event := await client.next_event())["type"] != "websocket.close":
            assert orjson.loads(event["text"])["type"] in {"connection_ack", "pong"}
        assert event["code"] == code
        assert event["reason"] == REASONS.get(code, event["reason"])
        assert sample_schema.resolver_calls == []


async def test_an_expired_token_closes_with_4403() -> None:
    async with open_accepted_connection() as client:
        await client.send({"type": "connection_init", "payload": {"token": token(seconds=-3600)}})
        assert await client.next_close() == (4403, "Forbidden")


async def test_a_binary_message_closes_with_4400() -> None:
    async with open_accepted_connection() as client:
        await client.to_server.put({"type": "websocket.receive", "bytes": b'{"type":"ping"}', "text": None})
        assert await client.next_close() == (4400, "Messages must be text")


async def test_an_id_in_use_closes_with_4409() -> None:
    async with open_accepted_connection() as client:
        await client.init()
        await client.subscribe("1", "subscription { forever }")
        await client.subscribe("1", "subscription { forever }")
        assert await client.next_close() == (4409, "Subscriber for 1 already exists")


async def test_an_id_may_be_reused_after_its_operation_has_ended() -> None:
    async with open_accepted_connection() as client:
        await client.init()
        for _ in range(3):
            await client.subscribe("1", "{ hello }")
            assert (await client.next_message())["type"] == "next"
            assert await client.next_message() == {"id": "1", "type": "complete"}


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("subscription { nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("query A { hello } query B { hello }", "BAD_USER_INPUT"),
        ("subscription ($n: Int!) { count(to: $n) }", "BAD_USER_INPUT"),
        ("subscription { breaking count(to: 1) }", "GRAPHQL_VALIDATION_FAILED"),
    ],
)
async def test_an_operation_that_cannot_run_does_not_affect_others(query: str, code: str) -> None:
    async with open_accepted_connection() as client:
        await client.init()
        await client.subscribe("bad", query)
        ended = await client.next_message()
        assert (ended["id"], ended["type"]) == ("bad", "error")
        assert {error["extensions"]["code"] for error in ended["payload"]} == {code}
        await client.subscribe("good", "{ hello }")
        assert (await client.next_message())["payload"] == {"data": {"hello": "hello world"}}


async def test_an_exception_in_a_subscription_is_masked_and_does_not_affect_others() -> None:
    async with open_accepted_connection() as client:
        await client.init()
        await client.subscribe("1", "subscription { breaking }")
        assert await client.next_message() == {"id": "1", "type": "next", "payload": {"data": {"breaking": 1}}}
        ended = await client.next_message()
        assert (ended["type"], ended["payload"][0]["extensions"]["code"]) == ("error", "INTERNAL")
        assert "hunter2" not in str(ended)
        await client.subscribe("2", "{ hello }")
        assert (await client.next_message())["id"] == "2"


async def test_a_subscription_that_the_client_completes_sends_nothing_more() -> None:
    async with open_accepted_connection() as client:
        await client.init()
        await client.subscribe("1", "subscription { forever }")
        await asyncio.sleep(0.02)
        await client.send({"id": "1", "type": "complete"}, {"id": "unknown", "type": "complete"})
        assert await client.is_silent()
        assert sample_schema.resolver_calls == ["begun", "ended"]
        await client.subscribe("1", "{ hello }")
        assert (await client.next_message())["payload"] == {"data": {"hello": "hello world"}}


async def test_a_client_that_disconnects_ends_its_operations() -> None:
    async with open_accepted_connection() as client:
        await client.init()
        await client.subscribe("1", "subscription { forever }")
        await asyncio.sleep(0.02)
        assert sample_schema.resolver_calls == ["begun"]
    assert sample_schema.resolver_calls == ["begun", "ended"]


async def test_the_number_of_operations_of_a_connection_is_limited() -> None:
    async with open_accepted_connection() as client:
        await client.init()
        for number in range(MAX_OPERATIONS):
            await client.subscribe(str(number), "subscription { forever }")
        await client.subscribe("one more", "subscription { forever }")
        refusal = await client.next_message()
        assert (refusal["id"], refusal["type"]) == ("one more", "error")
        assert refusal["payload"][0]["extensions"] == {"code": "BAD_REQUEST"}
        assert len(sample_schema.resolver_calls) == MAX_OPERATIONS


async def test_pings_are_answered_before_connection_init_and_pongs_are_accepted() -> None:
    async with open_accepted_connection() as client:
        await client.send({"type": "ping", "payload": {"n": 1}}, {"type": "pong"}, {"type": "ping", "payload": None})
        assert [await client.next_message() for _ in range(2)] == [{"type": "pong"}] * 2


@pytest.mark.parametrize("subprotocols", [(), ("graphql-ws",), ("json",)])
async def test_other_subprotocols_close_with_4406(subprotocols: tuple[str, ...]) -> None:
    async with open_connection(subprotocols=subprotocols) as client:
        assert await client.next_event() == {"type": "websocket.accept", "subprotocol": None}
        assert await client.next_close() == (4406, "Subprotocol not acceptable")


async def test_a_page_of_another_origin_is_refused_at_the_handshake() -> None:
    async with open_connection(origin="https://evil.example") as client:
        assert (await client.next_event())["type"] == "websocket.close"


@pytest.mark.parametrize("origin", ["https://credits.example", "https://app.example", "HTTPS://APP.example"])
async def test_pages_of_the_same_host_and_of_allowed_origins_may_connect(origin: str) -> None:
    async with open_accepted_connection(origin=origin) as client:
        await client.init()


async def test_a_client_that_disconnects_during_a_response_is_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    for event in ({"type": "websocket.connect"}, {"type": "websocket.receive", "text": '{"type": "ping"}'}):
        await client.to_server.put(event)

    async def send(message: Message) -> None:
        if message["type"] == "websocket.send":
            raise OSError("gone")

    scope = {"type": "websocket", "path": "/graphql", "headers": [], "subprotocols": [PROTOCOL]}
    async with asyncio.timeout(2):
        await sockets(scope, client.to_server.get, send)
    assert caplog.records == []


async def test_a_hundred_pings_at_once_are_answered_and_more_close_with_1008() -> None:
    async with open_accepted_connection() as client:
        for _ in range(PING_BURST):
            await client.send({"type": "ping"})
            assert await client.next_message() == {"type": "pong"}
        await client.send(*[{"type": "pong"}] * 20)  # more than the rate allows meanwhile
        assert await client.next_close() == (1008, "Too many pings")
