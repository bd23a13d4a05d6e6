"""The event stream: graphql-sse's protocol, its ends, and that nothing is made for a client that does not read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

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
from app.settings import Settings
from tests.api.conftest import EXECUTION, Api
from tests.engine import sample_schema
from tests.engine.sample_schema import authenticator, token
from tests.engine.transports.http_client import body, sent, view
from tests.factories import grant_credits

pytestmark = pytest.mark.anyio

STREAM = "text/event-stream"
BALANCE = "subscription ($since: Long) { balance(sinceVersion: $since) { available } }"


@dataclass
class Follower:
    """The client's end of a stream: what it reads, and whether it reads at all."""

    incoming: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    outgoing: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    reading: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, message: Message) -> None:
        await self.reading.wait()
        await self.incoming.put(message)

    async def message(self) -> Message:
        async with asyncio.timeout(2):
            return await self.incoming.get()

    async def frame(self) -> str:
        message = await self.message()
        assert message["type"] == "http.response.body", message
        return str(message["body"].decode())

    async def item(self) -> tuple[str | None, Any]:
        """Id and payload of the next item."""
        name, *fields, data, end, nothing = (await self.frame()).split("\n")
        assert (name, end, nothing) == ("event: next", "", "")
        id = fields[0].removeprefix("id: ") if fields else None
        assert len(fields) <= 1
        return id, orjson.loads(data.removeprefix("data: "))

    async def begun(self) -> None:
        start = await self.message()
        headers = dict(start["headers"])
        assert start["status"] == 200
        assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
        assert (headers[b"cache-control"], headers[b"x-content-type-options"]) == (b"no-store", b"nosniff")

    async def completed(self) -> None:
        assert await self.frame() == "event: complete\ndata:\n\n"
        await self.cut()

    async def cut(self) -> None:
        assert await self.message() == {"type": "http.response.body", "body": b"", "more_body": False}

    async def leave(self) -> None:
        await self.outgoing.put({"type": "http.disconnect"})


@asynccontextmanager
async def following(
    query: str,
    *,
    to: GraphQLOverHTTP = view,
    bearer: str | None = None,
    accept: str = STREAM,
    method: str = "POST",
    reads: bool = True,
    last_event_id: str | None = None,
    **variables: Any,
) -> AsyncIterator[Follower]:
    """A stream that was asked for; at the end the client leaves and the server must end by itself."""
    follower = Follower()
    sample_schema.resolver_calls.clear()
    if reads:
        follower.reading.set()
    named = {"content-type": "application/json", "accept": accept}
    if bearer:
        named["authorization"] = f"Bearer {bearer}"
    if last_event_id is not None:
        named["last-event-id"] = last_event_id
    by_address = method == "GET"
    sent_body = b"" if by_address else orjson.dumps({"query": query, "variables": variables})
    await follower.outgoing.put({"type": "http.request", "body": sent_body, "more_body": False})
    scope = {
        "type": "http",
        "method": method,
        "path": "/graphql",
        "query_string": urlencode({"query": query, "variables": orjson.dumps(variables)}).encode()
        if by_address
        else b"",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }
    server = asyncio.create_task(to(scope, follower.outgoing.get, follower.send))
    try:
        yield follower
        await follower.leave()
        async with asyncio.timeout(3):
            await server
    finally:
        server.cancel()
        with suppress(asyncio.CancelledError):
            await server


@pytest.fixture
def balances(api: Api) -> GraphQLOverHTTP:
    """The real schema over HTTP."""
    return GraphQLOverHTTP(EXECUTION, authenticator, api.house, graphiql=False)


async def test_a_subscription_is_followed_to_its_end() -> None:
    async with following("subscription ($n: Int!) { count(to: $n) }", bearer=token(), n=2) as follower:
        await follower.begun()
        assert await follower.item() == (None, {"data": {"count": 1}})
        assert await follower.item() == (None, {"data": {"count": 2}})
        await follower.completed()


async def test_a_subscription_is_followed_by_get_where_get_is_served() -> None:
    query = "subscription ($n: Int!) { count(to: $n) }"
    async with following(query, bearer=token(), method="GET", n=1) as follower:
        await follower.begun()
        assert await follower.item() == (None, {"data": {"count": 1}})
        await follower.completed()


@pytest.mark.parametrize(
    ("query", "payload"),
    [
        ("{ hello }", {"data": {"hello": "hello world"}}),
        ("{ me }", {"data": {"me": "user:ada"}}),
        ('query ($n: String = "x") { hello(name: $n) }', {"data": {"hello": "hello x"}}),
    ],
)
async def test_queries_are_streamed_to_who_asks_for_a_stream(query: str, payload: object) -> None:
    async with following(query, bearer=token()) as follower:
        await follower.begun()
        assert await follower.item() == (None, payload)
        await follower.completed()


async def test_a_mutation_is_carried_out_once_and_its_refusal_is_typed() -> None:
    spend = "mutation ($cost: Credits!) { spend(cost: $cost) { __typename } }"
    operator = token("olga", operator=True)
    for cost, outcome in ((1, "SpendSuccess"), (101, "InsufficientCreditsError")):
        async with following(spend, bearer=operator, cost=cost) as follower:
            await follower.begun()
            assert await follower.item() == (None, {"data": {"spend": {"__typename": outcome}}})
            await follower.completed()
        assert sample_schema.resolver_calls == ["spend"]


async def test_a_mutation_of_who_may_not_is_told_in_the_stream_and_does_nothing() -> None:
    async with following("mutation { spend(cost: 1) { __typename } }", bearer=token()) as follower:
        await follower.begun()
        _, payload = await follower.item()
        assert payload["errors"][0]["extensions"] == {"code": "FORBIDDEN"}
        await follower.completed()
    assert sample_schema.resolver_calls == []


async def test_who_would_take_a_stream_as_well_gets_one_for_a_subscription_and_json_for_a_query() -> None:
    either = "application/graphql-response+json, application/json, text/event-stream, multipart/mixed"
    reply = await sent(body("{ hello }"), accept=either)
    assert reply.headers["content-type"] == "application/graphql-response+json; charset=utf-8"
    assert reply.json == {"data": {"hello": "hello world"}}
    async with following("subscription { count(to: 1) }", bearer=token(), accept=either) as follower:
        await follower.begun()
        await follower.item()
        await follower.completed()


REFUSED = [
    ("{", "GRAPHQL_PARSE_FAILED"),
    ("subscription { nothing }", "GRAPHQL_VALIDATION_FAILED"),
    ("subscription ($n: Int!) { count(to: $n) }", "BAD_USER_INPUT"),
    ("subscription { count(to: 1) }", "UNAUTHENTICATED"),
]


@pytest.mark.parametrize(("query", "code"), REFUSED)
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_who_takes_a_stream_alone_is_told_of_a_refusal_by_an_item(query: str, code: str, method: str) -> None:
    async with following(query, method=method) as follower:
        await follower.begun()
        id, payload = await follower.item()
        assert (id, list(payload)) == (None, ["errors"])
        assert [told["extensions"]["code"] for told in payload["errors"]] == [code]
        await follower.completed()


@pytest.mark.parametrize(("query", "code"), REFUSED)
async def test_who_takes_an_answer_as_well_is_told_of_a_refusal_by_one(query: str, code: str) -> None:
    reply = await sent(body(query), accept=f"{STREAM}, application/graphql-response+json;q=0.5")
    assert (reply.status, reply.code) == (400, code)
    assert reply.headers["content-type"] == "application/graphql-response+json; charset=utf-8"


async def test_a_refusal_for_now_is_no_stream_so_that_its_client_comes_back() -> None:
    once = RateLimiter(Settings(rate_per_user=0.01))
    execution = GraphQLEngine(sample_schema.schema._schema, introspection=True, rate_limiter=once)
    narrow = GraphQLOverHTTP(execution, authenticator, sample_schema.state, graphiql=False)
    query = "subscription { count(to: 1) }"
    async with following(query, to=narrow, bearer=token()) as follower:
        await follower.begun()
    reply = await sent(body(query), to=narrow, bearer=token(), accept=STREAM)
    assert (reply.status, reply.code, reply.headers["retry-after"]) == (429, "RATE_LIMITED", "100")


async def test_a_bad_token_or_body_is_refused_with_its_own_status() -> None:
    assert (await sent([], accept=STREAM, authorization="Bearer nonsense")).status == 401
    assert (await sent(b"[]", accept=STREAM)).status == 400
    assert (await sent(b" " * 70_000, accept=STREAM)).status == 413
    assert (await sent([], accept=STREAM, content_type="text/plain")).status == 415
    assert (await sent([], accept=STREAM, method="PUT", x_graphql_event_stream_token="t")).status == 405


async def test_a_fault_in_the_middle_is_masked_and_ends_the_stream() -> None:
    async with following("subscription { breaking }") as follower:
        await follower.begun()
        assert await follower.item() == (None, {"data": {"breaking": 1}})
        _, payload = await follower.item()
        [told] = payload["errors"]
        assert told["extensions"]["code"] == "INTERNAL"
        assert "hunter2" not in str(payload)
        await follower.completed()


async def test_a_refusal_in_the_middle_says_why() -> None:
    async with following("subscription { breaking(politely: true) }") as follower:
        await follower.begun()
        await follower.item()
        _, payload = await follower.item()
        assert payload["errors"][0]["message"] == "sinceVersion lies ahead"
        await follower.completed()


async def test_silence_is_broken_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_ITEM_SECONDS", 0.01)
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.02)
    async with following("subscription { forever }") as follower:
        await follower.begun()
        assert [await follower.frame() for _ in range(3)] == [":\n\n"] * 3
        assert sample_schema.resolver_calls == ["begun"]
    assert sample_schema.resolver_calls == ["begun", "ended"]


def test_comments_come_often_enough_for_whoever_is_on_the_way() -> None:
    assert sse.KEEP_ALIVE_SECONDS == 12


async def test_a_client_that_leaves_ends_what_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_ITEM_SECONDS", 0.01)
    async with following("subscription { forever }") as follower:
        await follower.begun()
    assert sample_schema.resolver_calls == ["begun", "ended"]


async def test_a_connection_that_breaks_ends_what_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_ITEM_SECONDS", 0.01)

    async def broken(_: Message) -> None:
        raise OSError("the client is gone")

    monkeypatch.setattr(Follower, "send", lambda self, message: broken(message))
    async with following("subscription { forever }"):
        pass
    assert sample_schema.resolver_calls == ["begun", "ended"]


async def test_nothing_is_made_for_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    async def counting() -> AsyncIterator[bytes]:
        for number in range(100):
            made.append(number)
            yield orjson.dumps({"data": number})

    monkeypatch.setattr(sample_schema.engine, "stream", lambda *_: counting())
    async with following("subscription { count(to: 100) }", reads=False, bearer=token()) as follower:
        await asyncio.sleep(0.05)
        assert made == [0]
        follower.reading.set()
        await follower.begun()
        for number in range(100):
            assert await follower.item() == (None, {"data": number})
        await follower.completed()


async def test_the_end_of_the_token_ends_the_stream_without_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_ITEM_SECONDS", 0.01)
    started = datetime.now(UTC)
    async with following("subscription { forever }", bearer=token(seconds=1.2)) as follower:
        await follower.begun()
        await follower.cut()
    assert timedelta(seconds=0.1) < datetime.now(UTC) - started < timedelta(seconds=2)
    assert sample_schema.resolver_calls == ["begun", "ended"]


async def test_a_client_that_does_not_read_is_let_go_when_its_token_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "CLOSE_SECONDS", 0.01)
    async with following("subscription { count(to: 9) }", bearer=token(seconds=1.2), reads=False) as follower:
        await asyncio.sleep(1.3)
        assert follower.incoming.empty()


async def test_a_revoked_key_is_cut_off(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "FIRST_ITEM_SECONDS", 0.01)
    often = Authenticator(
        TokenVerifier(StaticKeys(()), TokenRequirements.from_settings(sample_schema.settings)),
        ServiceKeyCache(watch_seconds=0.02),
    )
    watching = GraphQLOverHTTP(sample_schema.engine, often, sample_schema.state, graphiql=False)
    key = await service_keys.create_key("follower", [Scope.READ])
    async with following("subscription { forever }", to=watching, bearer=key) as follower:
        await follower.begun()
        await asyncio.sleep(0.1)
        assert follower.incoming.empty()
        assert await service_keys.revoke_key(key.split("_")[1])
        await follower.cut()
    assert sample_schema.resolver_calls == ["begun", "ended"]
    await often.close()


async def test_each_balance_carries_its_version_as_id_even_if_the_document_does_not_ask_for_it(
    balances: GraphQLOverHTTP,
) -> None:
    async with following(BALANCE, to=balances, bearer=token("alice")) as follower:
        await follower.begun()
        assert await follower.item() == ("0", {"data": {"balance": {"available": 0}}})
        await grant_credits("alice", 60)
        assert await follower.item() == ("1", {"data": {"balance": {"available": 60}}})
        await grant_credits("alice", 5)
        assert await follower.item() == ("2", {"data": {"balance": {"available": 65}}})


@pytest.mark.parametrize(
    ("last_event_id", "since", "first"),
    [
        ("3", None, None),
        ("2", None, "3"),
        (None, 3, None),
        ("3", 1, None),
        ("1", 3, None),
        ("1", 2, "3"),
        ("", None, "3"),
        ("-1", None, "3"),
        ("1e9", None, "3"),
        ("9" * 17, None, "3"),
        ("nonsense", 3, None),
        ("4", None, "3"),
        (None, 500, "3"),
    ],
)
async def test_who_comes_back_is_told_only_what_is_newer_than_all_it_has_seen_of_these_books(
    balances: GraphQLOverHTTP, last_event_id: str | None, since: int | None, first: str | None
) -> None:
    for _ in range(3):
        await grant_credits("alice", 10)
    more: dict[str, Any] = {} if since is None else {"since": since}
    async with following(BALANCE, to=balances, bearer=token("alice"), last_event_id=last_event_id, **more) as follower:
        await follower.begun()
        if first is not None:
            assert await follower.item() == (first, {"data": {"balance": {"available": 30}}})
        await grant_credits("alice", 10)
        assert await follower.item() == ("4", {"data": {"balance": {"available": 40}}})


async def test_who_has_seen_versions_of_other_books_is_told_these_even_before_there_is_an_account(
    balances: GraphQLOverHTTP,
) -> None:
    async with following(BALANCE, to=balances, bearer=token("alice"), last_event_id="7") as follower:
        await follower.begun()
        assert await follower.item() == ("0", {"data": {"balance": {"available": 0}}})
        await grant_credits("alice", 10)
        assert await follower.item() == ("1", {"data": {"balance": {"available": 10}}})


async def test_another_owners_balance_is_refused_and_nothing_follows(balances: GraphQLOverHTTP) -> None:
    query = 'subscription { balance(ownerId: "bob") { available } }'
    async with following(query, to=balances, bearer=token("alice")) as follower:
        await follower.begun()
        _, payload = await follower.item()
        assert [told["extensions"]["code"] for told in payload["errors"]] == ["FORBIDDEN"]
        await follower.completed()


async def test_an_item_without_a_version_has_no_id_though_the_client_came_with_one() -> None:
    async with following("subscription { count(to: 1) }", bearer=token(), last_event_id="7") as follower:
        await follower.begun()
        assert await follower.item() == (None, {"data": {"count": 1}})
        await follower.completed()
