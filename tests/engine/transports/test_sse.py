"""The SSE transport: the graphql-sse protocol, how a stream ends, and back-pressure."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from starlette.types import Message

from app.auth import service_keys
from app.auth.authenticator import Authenticator
from app.auth.caller import Scope
from app.auth.jwks import StaticKeys
from app.auth.service_key_cache import ServiceKeyCache
from app.auth.tokens import TokenRequirements, TokenVerifier
from app.engine.execution import GraphQLEngine
from app.engine.limits.rate_limiter import RateLimiter
from app.engine.transports import sse
from app.engine.transports.http import GraphQLOverHTTP
from app.server.stopping import Stopping
from app.settings import Settings
from tests.engine import sample_schema
from tests.engine.sample_schema import authenticator, token
from tests.engine.transports.http_client import graphql_body, send_request
from tests.engine.transports.sse_client import EVENT_STREAM, EventStreamClient, event_stream

pytestmark = pytest.mark.anyio


async def test_a_subscription_is_streamed_to_its_end() -> None:
    async with event_stream("subscription ($n: Int!) { count(to: $n) }", bearer=token(), n=2) as client:
        await client.expect_start()
        assert await client.item() == (None, {"data": {"count": 1}})
        assert await client.item() == (None, {"data": {"count": 2}})
        await client.expect_complete()


async def test_a_subscription_may_be_sent_by_get_where_get_is_allowed() -> None:
    query = "subscription ($n: Int!) { count(to: $n) }"
    async with event_stream(query, bearer=token(), method="GET", n=1) as client:
        await client.expect_start()
        assert await client.item() == (None, {"data": {"count": 1}})
        await client.expect_complete()


@pytest.mark.parametrize(
    ("query", "payload"),
    [
        ("{ hello }", {"data": {"hello": "hello world"}}),
        ("{ me }", {"data": {"me": "user:ada"}}),
        ('query ($n: String = "x") { hello(name: $n) }', {"data": {"hello": "hello x"}}),
    ],
)
async def test_a_query_is_streamed_to_a_client_that_accepts_only_streams(query: str, payload: object) -> None:
    async with event_stream(query, bearer=token()) as client:
        await client.expect_start()
        assert await client.item() == (None, payload)
        await client.expect_complete()


async def test_a_mutation_runs_once_and_its_error_is_typed(db: None) -> None:
    spend = "mutation ($cost: Credits!) { spend(cost: $cost) { __typename } }"
    key = await service_keys.create_key("executor", [Scope.CHARGE])
    for cost, outcome in ((1, "SpendSuccess"), (101, "InsufficientCreditsError")):
        async with event_stream(spend, bearer=key, cost=cost) as client:
            await client.expect_start()
            assert await client.item() == (None, {"data": {"spend": {"__typename": outcome}}})
            await client.expect_complete()
        assert sample_schema.resolver_calls == ["spend"]


async def test_a_forbidden_mutation_is_an_error_item_and_does_not_run() -> None:
    async with event_stream("mutation { spend(cost: 1) { __typename } }", bearer=token()) as client:
        await client.expect_start()
        _, payload = await client.item()
        assert payload["errors"][0]["extensions"] == {"code": "FORBIDDEN"}
        await client.expect_complete()
    assert sample_schema.resolver_calls == []


async def test_a_client_that_accepts_both_gets_a_stream_for_a_subscription_and_json_for_a_query() -> None:
    either = "application/graphql-response+json, application/json, text/event-stream, multipart/mixed"
    reply = await send_request(graphql_body("{ hello }"), accept=either)
    assert reply.headers["content-type"] == "application/graphql-response+json; charset=utf-8"
    assert reply.json == {"data": {"hello": "hello world"}}
    async with event_stream("subscription { count(to: 1) }", bearer=token(), accept=either) as client:
        await client.expect_start()
        await client.item()
        await client.expect_complete()


REFUSED = [
    ("{", "GRAPHQL_PARSE_FAILED"),
    ("subscription { nothing }", "GRAPHQL_VALIDATION_FAILED"),
    ("subscription ($n: Int!) { count(to: $n) }", "BAD_USER_INPUT"),
    ("subscription { count(to: 1) }", "UNAUTHENTICATED"),
]


@pytest.mark.parametrize(("query", "code"), REFUSED)
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_client_that_accepts_only_streams_gets_a_refusal_as_an_item(query: str, code: str, method: str) -> None:
    async with event_stream(query, method=method) as client:
        await client.expect_start()
        id, payload = await client.item()
        assert (id, list(payload)) == (None, ["errors"])
        assert [error["extensions"]["code"] for error in payload["errors"]] == [code]
        await client.expect_complete()


@pytest.mark.parametrize(("query", "code"), REFUSED)
async def test_a_client_that_also_accepts_json_gets_a_refusal_as_json(query: str, code: str) -> None:
    reply = await send_request(graphql_body(query), accept=f"{EVENT_STREAM}, application/graphql-response+json;q=0.5")
    assert (reply.status, reply.code) == (400, code)
    assert reply.headers["content-type"] == "application/graphql-response+json; charset=utf-8"


async def test_a_rate_limit_is_not_a_stream_so_that_clients_retry() -> None:
    limiter = RateLimiter(Settings(rate_per_user=0.01))
    execution = GraphQLEngine(sample_schema.schema._schema, introspection=True, rate_limiter=limiter)
    limited = GraphQLOverHTTP(execution, authenticator, sample_schema.state, graphiql=False)
    query = "subscription { count(to: 1) }"
    async with event_stream(query, to=limited, bearer=token()) as client:
        await client.expect_start()
    reply = await send_request(graphql_body(query), to=limited, bearer=token(), accept=EVENT_STREAM)
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (429, "RATE_LIMITED", "100")


async def test_a_bad_token_or_body_has_its_own_status() -> None:
    assert (await send_request([], accept=EVENT_STREAM, authorization="Bearer nonsense")).status == 401
    assert (await send_request(b"[]", accept=EVENT_STREAM)).status == 400
    assert (await send_request(b" " * 70_000, accept=EVENT_STREAM)).status == 413
    assert (await send_request([], accept=EVENT_STREAM, content_type="text/plain")).status == 415
    assert (await send_request([], accept=EVENT_STREAM, method="PUT", x_graphql_event_stream_token="t")).status == 405


async def test_an_exception_after_the_first_item_is_masked_and_ends_the_stream() -> None:
    async with event_stream("subscription { breaking }") as client:
        await client.expect_start()
        assert await client.item() == (None, {"data": {"breaking": 1}})
        _, payload = await client.item()
        [error] = payload["errors"]
        assert error["extensions"]["code"] == "INTERNAL"
        assert "hunter2" not in str(payload)
        await client.expect_complete()


async def test_a_request_error_after_the_first_item_is_sent() -> None:
    async with event_stream("subscription { breaking(politely: true) }") as client:
        await client.expect_start()
        await client.item()
        _, payload = await client.item()
        assert payload["errors"][0]["message"] == "sinceVersion lies ahead"
        await client.expect_complete()


async def test_comments_are_sent_while_there_is_no_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_ITEM_SECONDS", 0.01)
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.02)
    async with event_stream("subscription { forever }") as client:
        await client.expect_start()
        assert [await client.body() for _ in range(3)] == [":\n\n"] * 3
        assert sample_schema.resolver_calls == ["begun"]
    assert sample_schema.resolver_calls == ["begun", "ended"]


def test_comments_are_sent_every_12_seconds() -> None:
    assert sse.KEEP_ALIVE_SECONDS == 12


async def test_a_client_that_disconnects_ends_its_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_ITEM_SECONDS", 0.01)
    async with event_stream("subscription { forever }") as client:
        await client.expect_start()
    assert sample_schema.resolver_calls == ["begun", "ended"]


async def test_a_broken_connection_ends_its_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_ITEM_SECONDS", 0.01)

    async def break_connection(_: Message) -> None:
        raise OSError("the client has disconnected")

    monkeypatch.setattr(EventStreamClient, "send", lambda self, message: break_connection(message))
    async with event_stream("subscription { forever }"):
        pass
    assert sample_schema.resolver_calls == ["begun", "ended"]


async def test_no_item_is_produced_for_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    produced: list[int] = []

    async def count_up() -> AsyncIterator[bytes]:
        for number in range(100):
            produced.append(number)
            yield orjson.dumps({"data": number})

    monkeypatch.setattr(sample_schema.engine, "stream", lambda *_: count_up())
    async with event_stream("subscription { count(to: 100) }", is_reading=False, bearer=token()) as client:
        await asyncio.sleep(0.05)
        assert produced == [0]
        client.is_reading.set()
        await client.expect_start()
        for number in range(100):
            assert await client.item() == (None, {"data": number})
        await client.expect_complete()


async def test_the_stream_ends_without_complete_when_the_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_ITEM_SECONDS", 0.01)
    started = datetime.now(UTC)
    async with event_stream("subscription { forever }", bearer=token(seconds=1.2)) as client:
        await client.expect_start()
        await client.expect_end()
    assert timedelta(seconds=0.1) < datetime.now(UTC) - started < timedelta(seconds=2)
    assert sample_schema.resolver_calls == ["begun", "ended"]


async def test_the_stream_ends_without_complete_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = Stopping()
    monkeypatch.setattr(sse, "STOPPING", stopping)
    async with event_stream("subscription { forever }") as client:
        await client.expect_start()
        stopping.begin()
        await client.expect_end()
    assert sample_schema.resolver_calls == ["begun", "ended"]
    async with event_stream("subscription { forever }") as late:
        await late.expect_start()
        await late.expect_end()


async def test_a_client_that_does_not_read_is_disconnected_at_expiry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "CLOSE_SECONDS", 0.01)
    async with event_stream("subscription { count(to: 9) }", bearer=token(seconds=1.2), is_reading=False) as client:
        await asyncio.sleep(1.3)
        assert client.incoming.empty()


async def test_the_stream_ends_when_the_service_key_is_revoked(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_ITEM_SECONDS", 0.01)
    authenticator = Authenticator(
        TokenVerifier(StaticKeys(()), TokenRequirements.from_settings(sample_schema.settings)),
        ServiceKeyCache(watch_seconds=0.02),
    )
    server = GraphQLOverHTTP(sample_schema.engine, authenticator, sample_schema.state, graphiql=False)
    key = await service_keys.create_key("follower", [Scope.READ])
    async with event_stream("subscription { forever }", to=server, bearer=key) as client:
        await client.expect_start()
        await asyncio.sleep(0.1)
        assert client.incoming.empty()
        assert await service_keys.revoke_key(key.split("_")[1])
        await client.expect_end()
    assert sample_schema.resolver_calls == ["begun", "ended"]
    await authenticator.close()


async def test_an_item_without_a_version_has_no_id() -> None:
    async with event_stream("subscription { count(to: 1) }", bearer=token(), last_event_id="7") as client:
        await client.expect_start()
        assert await client.item() == (None, {"data": {"count": 1}})
        await client.expect_complete()
