"""Every limit over every transport: a request at the limit is served, one beyond it is refused."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from starlette.types import Message

from app.api.schema import build_schema
from app.auth import service_keys
from app.auth.authenticator import Authenticator, build_authenticator
from app.auth.caller import Caller, CallerKind, Scope
from app.auth.service_key_cache import ServiceKeyCache
from app.auth.tokens import TokenVerifier
from app.engine import scalars
from app.engine.context import RequestContext
from app.engine.documents import MAX_LENGTH, MAX_TOKENS, DocumentCache
from app.engine.execution import GraphQLEngine, GraphQLRequest, OperationFailed
from app.engine.limits.query_complexity import MAX_ALIASES, MAX_DEPTH, MAX_DIRECTIVES, MAX_FIELDS, MAX_ROOT_FIELDS
from app.engine.limits.rate_limiter import RateLimiter
from app.engine.transports import connection_limits, request_parsing, websocket
from app.engine.transports.http import GraphQLOverHTTP
from app.engine.transports.request_parsing import MAX_NESTING, MAX_VALUES, MAX_VARIABLES, MalformedRequest
from app.engine.transports.websocket import MAX_MESSAGE_BYTES, GraphQLOverWebSocket
from app.settings import Settings
from tests.engine import sample_schema
from tests.engine.sample_schema import token
from tests.engine.transports.all_transports import TRANSPORTS, Ask, connected, first_item, over_http
from tests.engine.transports.http_client import Reply
from tests.engine.transports.websocket_client import Client

pytestmark = pytest.mark.anyio

API_SCHEMA = build_schema()._schema
CHARGE = 'mutation { charge(input: {taskId: "", blockRunId: "r", block: "b"}) { __typename } }'
SERVICE = Caller(kind=CallerKind.SERVICE, actor="service:executor", scopes=frozenset({Scope.CHARGE}))
NO_LIMITS = {
    "rate_per_user": 0, "rate_per_address": 0, "rate_per_service": 0, "operations_per_user": 50, "subscriptions_per_user": 50,
}  # fmt: skip


@pytest.fixture(params=TRANSPORTS)
def ask(request: pytest.FixtureRequest) -> Ask:
    return TRANSPORTS[request.param]


def limited(*, schema: Any = sample_schema.schema._schema, **chosen: Any) -> GraphQLEngine:
    """An edge with these limits and no others."""
    return GraphQLEngine(
        schema, introspection=True, compile_operations=True, rate_limiter=RateLimiter(Settings(**(NO_LIMITS | chosen)))
    )


def names(count: int) -> str:
    return " ".join(f"a{number}: hello" for number in range(count))


def page_of(first: int, leaves: int) -> str:
    fields = " ".join(("id", "name", "__typename")[number % 3] for number in range(leaves))
    return f"toys(first: {first}) {{ edges {{ node {{ {fields} }} }} }}"


COST = " ".join([*(f"p{n}: {page_of(100, 25)}" for n in range(9)), page_of(23, 28)])
"""Of exactly the most that an operation may cost."""

DOCUMENTS = {
    "tokens": (f"{{ json(value: [{'1 ' * (MAX_TOKENS - 9)}]) }}", f"{{ json(value: [{'1 ' * (MAX_TOKENS - 8)}]) }}"),
    "characters": ("{ hello }".ljust(MAX_LENGTH), "{ hello }".ljust(MAX_LENGTH + 1)),
    "levels": ("{ a " * MAX_DEPTH + "}" * MAX_DEPTH, "{ a " * (MAX_DEPTH + 1) + "}" * (MAX_DEPTH + 1)),
    "fields at its root": ("{ " + names(MAX_ROOT_FIELDS) + " }", "{ " + names(MAX_ROOT_FIELDS + 1) + " }"),
    "aliases": (
        '{ toy(name: "a") { ' + " ".join(f"a{n}: name" for n in range(MAX_ALIASES)) + " } }",
        '{ toy(name: "a") { ' + " ".join(f"a{n}: name" for n in range(MAX_ALIASES + 1)) + " } }",
    ),
    "directives": (
        "{ hello " + "@skip(if: false) " * MAX_DIRECTIVES + "}",
        "{ hello " + "@skip(if: false) " * (MAX_DIRECTIVES + 1) + "}",
    ),
    "fields, fragments": (
        "{ " + " ".join(f"a{n}" for n in range(MAX_FIELDS)) + " }",
        "{ " + " ".join(f"a{n}" for n in range(MAX_FIELDS + 1)) + " }",
    ),
    "may cost at most": ("{ " + COST + " }", "{ hello " + COST + " }"),
    "over and over": ('{ toy(name: "a") { ' + "name " * 63 + "} }", '{ toy(name: "a") { ' + "name " * 64 + "} }"),
}
"""What the refusal says -> a document within, a document beyond."""


@pytest.mark.parametrize("what", DOCUMENTS)
async def test_a_document_may_go_to_the_bound(ask: Ask, what: str) -> None:
    within, beyond = DOCUMENTS[what]
    assert what not in (await ask(limited(), within)).says
    refused = await ask(limited(), beyond)
    assert what in refused.says
    assert refused.data is None
    assert refused.codes <= {"GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED"}


async def test_a_page_has_at_most_a_hundred_items(ask: Ask) -> None:
    query = "query ($n: Int!) { toys(first: $n) { edges { cursor } } }"
    assert len((await ask(limited(), query, n=100)).data["toys"]["edges"]) == 5
    assert (await ask(limited(), query, n=101)).codes == {"BAD_USER_INPUT"}
    assert (await ask(limited(), query, n=0)).codes == {"BAD_USER_INPUT"}


def settings_of(size: int) -> dict[str, str]:
    """An object that takes `size` bytes."""
    return {"a": "x" * (size - len(orjson.dumps({"a": ""})))}


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (settings_of(scalars.MAX_JSON_BYTES), settings_of(scalars.MAX_JSON_BYTES + 1)),
        (nested(scalars.MAX_JSON_DEPTH), nested(scalars.MAX_JSON_DEPTH + 1)),
    ],
    ids=["8 KiB", "8 deep"],
)
async def test_settings_have_a_size_and_a_depth(ask: Ask, within: Any, beyond: Any) -> None:
    query = "query ($value: JSON!) { json(value: $value) }"
    assert (scalars.MAX_JSON_BYTES, scalars.MAX_JSON_DEPTH) == (8 * 1024, 8)
    assert (await ask(limited(), query, value=within)).data == {"json": within}
    assert (await ask(limited(), query, value=beyond)).codes == {"BAD_USER_INPUT"}


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        ({f"v{n}": 1 for n in range(MAX_VARIABLES)}, {f"v{n}": 1 for n in range(MAX_VARIABLES + 1)}),
        ({"v": nested(MAX_NESTING - 1)}, {"v": nested(MAX_NESTING)}),
    ],
    ids=["100 of them", "16 deep"],
)
async def test_variables_have_a_number_and_a_depth(ask: Ask, within: Any, beyond: Any) -> None:
    assert (await ask(limited(), "{ hello }", **within)).data == {"hello": "hello world"}
    refused = await ask(limited(), "{ hello }", **beyond)
    assert refused.data is None
    assert refused.codes == {"BAD_REQUEST"} or refused.close_code == 4400


def test_all_variables_together_have_a_number_of_values() -> None:
    # One list, and what is in it, counts with the variable itself.
    request_parsing.parse_request({"query": "{ hello }", "variables": {"v": [1] * (MAX_VALUES - 1)}})
    with pytest.raises(MalformedRequest, match="at most 50,000 values"):
        request_parsing.parse_request({"query": "{ hello }", "variables": {"v": [1] * MAX_VALUES}})


def test_a_batch_of_a_thousand_charges_fits_a_services_body() -> None:
    settings = {"model": "gpt-4o", "temperature": 0.7, "prompt": "x" * 600}
    charge = {"taskId": "t" * 36, "blockRunId": "r" * 36, "block": "AITextGeneratorBlock", "settings": settings}
    whole = orjson.dumps({"query": "mutation {}", "variables": {"input": [charge] * 1000}})
    assert request_parsing.MAX_USER_BODY_BYTES < len(whole) <= request_parsing.MAX_SERVICE_BODY_BYTES == 1024 * 1024
    assert len((request_parsing.parse_body(whole).variables or {})["input"]) == 1000


@pytest.mark.parametrize(
    ("operator", "limit"),
    [(False, request_parsing.MAX_USER_BODY_BYTES), (True, request_parsing.MAX_SERVICE_BODY_BYTES)],
)
async def test_a_body_that_asks_for_a_stream_may_have_its_size_and_not_a_byte_more(operator: bool, limit: int) -> None:
    server = GraphQLOverHTTP(limited(), sample_schema.authenticator, sample_schema.state, graphiql=False)
    bare = len(orjson.dumps({"query": "{ hello }", "extensions": {"filling": ""}}))
    for size, status in ((limit, 200), (limit + 1, 413)):
        request = {"query": "{ hello }", "extensions": {"filling": "x" * (size - bare)}}
        told, _, item = await first_item(server, request, bearer=token("olga", operator=operator))
        assert told == status
        assert ("data" in item) is (status == 200)


async def test_a_batched_array_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="chargeBatch"):
        request_parsing.parse_body(b'[{"query": "{ hello }"}]')


@pytest.mark.parametrize("character", ["x", "é", "☃"])
async def test_a_message_may_have_64_kilobytes_and_not_one_more(character: str) -> None:
    assert MAX_MESSAGE_BYTES == 64 * 1024
    room = MAX_MESSAGE_BYTES - len('{"type":"ping","payload":{"a":""}}')
    filling = character * (room // len(character.encode())) + "x" * (room % len(character.encode()))
    within = f'{{"type":"ping","payload":{{"a":"{filling}"}}}}'
    assert len(within.encode()) == MAX_MESSAGE_BYTES
    async with connected(limited(), bearer=token("olga", operator=True)) as client:
        await client.init()
        await client.say(within)
        assert await client.said() == {"type": "pong"}
        await client.say(within + " ")
        assert await client.closed() == (1009, "Message too big")


async def test_a_user_has_a_rate_and_is_told_when_to_come_again(ask: Ask) -> None:
    execution = limited(rate_per_user=1)  # five at once
    ada = [await ask(execution, "{ me }", bearer=token("ada")) for _ in range(5)]
    assert [one.data for one in ada] == [{"me": "user:ada"}] * 5
    refused = await ask(execution, "{ me }", bearer=token("ada"))
    assert refused.codes == {"RATE_LIMITED"}
    assert refused.errors[0]["extensions"]["retryAfterSeconds"] == 1
    assert (refused.status, refused.retry_after) in {(429, "1"), (None, None)}
    assert (await ask(execution, "{ me }", bearer=token("bob"))).data == {"me": "user:bob"}


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were parsed and validated."""
    texts: list[str] = []
    prepared = DocumentCache._parse_and_validate

    def noted(documents: DocumentCache, text: str) -> Any:
        texts.append(text)
        return prepared(documents, text)

    monkeypatch.setattr(DocumentCache, "_parse_and_validate", noted)
    return texts


async def test_what_is_refused_for_its_document_counts_too_and_is_not_looked_at_beyond_the_rate(
    ask: Ask, looked_at: list[str]
) -> None:
    execution = limited(rate_per_user=1)
    for _ in range(5):
        assert (await ask(execution, "{", bearer=token("ada"))).codes == {"GRAPHQL_PARSE_FAILED"}
    for _ in range(2):
        assert (await ask(execution, "{", bearer=token("ada"))).codes == {"RATE_LIMITED"}
    assert looked_at == ["{"] * 5


@pytest.mark.parametrize("accept", ["", "text/event-stream", "application/json, text/event-stream"])
async def test_by_get_too_it_is_looked_at_once_for_each_token(accept: str, looked_at: list[str]) -> None:
    server = GraphQLOverHTTP(
        limited(rate_per_user=1), sample_schema.authenticator, sample_schema.state, graphiql=False, get_queries=True
    )
    replies = [await begun(server, "{", accept=accept) for _ in range(7)]
    assert replies[5:] == [429, 429]
    assert 429 not in replies[:5]
    assert looked_at == ["{"] * 5
    fresh = GraphQLOverHTTP(
        limited(rate_per_user=1), sample_schema.authenticator, sample_schema.state, graphiql=False, get_queries=True
    )
    mutation = "mutation { spend(cost: 1) { __typename } }"
    assert [await begun(fresh, mutation, accept=accept) for _ in range(6)] == [405] * 5 + [429]


async def begun(server: GraphQLOverHTTP, query: str, *, accept: str) -> int:
    """The status of a GET."""
    statuses: list[int] = []

    async def send(message: Message) -> None:
        statuses.append(message.get("status", 0))

    scope = {
        "type": "http", "method": "GET", "path": "/graphql", "query_string": urlencode({"query": query}).encode(),
        "headers": [(b"accept", accept.encode())] if accept else [],
    }  # fmt: skip
    await server(scope, gone, send)
    return statuses[0]


async def gone() -> Message:
    return {"type": "http.disconnect"}


async def test_an_address_has_a_rate_whoever_asks_from_it(ask: Ask) -> None:
    execution = limited(rate_per_address=0.4)  # two at once
    for name in ("ada", "bob"):
        assert (await ask(execution, "{ hello }", bearer=token(name), address="192.0.2.1")).data
    refused = await ask(execution, "{ hello }", address="192.0.2.1")
    assert refused.codes == {"RATE_LIMITED"}
    assert refused.errors[0]["extensions"]["retryAfterSeconds"] == 3
    assert (await ask(execution, "{ hello }", address="192.0.2.2")).data


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "a bad token": ({"bearer": "nonsense"}, 401),
    "a bad key": ({"bearer": "ck_nonsense"}, 401),
    "a bad body": ({"whole": b"{"}, 400),
    "a user's bad body": ({"whole": b"{", "bearer": token("ada")}, 400),
    "too large a body": ({"whole": b" " * (request_parsing.MAX_USER_BODY_BYTES + 1)}, 413),
    "another type": ({"content_type": "text/plain"}, 415),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_refused_before_it_is_an_operation_counts_for_its_address(what: str) -> None:
    request, status = REFUSED[what]
    server = GraphQLOverHTTP(
        limited(rate_per_address=0.4), sample_schema.authenticator, sample_schema.state, graphiql=False
    )  # two at once
    replies = [await sent_from(server, "192.0.2.1", **request) for _ in range(4)]
    assert [reply.status for reply in replies] == [status, status, 429, 429]
    assert replies[2].headers["retry-after"] == "3"
    assert replies[2].code == "RATE_LIMITED"
    assert replies[2].json["errors"][0]["extensions"]["retryAfterSeconds"] == 3
    assert (await sent_from(server, "192.0.2.1")).status == 429
    assert (await sent_from(server, "192.0.2.2")).status == 200


async def test_where_an_address_is_refused_neither_token_nor_body_is_looked_at() -> None:
    server = GraphQLOverHTTP(
        limited(rate_per_address=0.4),
        Authenticator(Untouched(), ServiceKeyCache()),
        sample_schema.state,
        graphiql=False,
    )
    for _ in range(2):
        assert (await sent_from(server, "192.0.2.1", content_type="text/plain")).status == 415
    assert (await sent_from(server, "192.0.2.1", bearer=token("ada"))).status == 429
    assert (await sent_from(server, "192.0.2.1", whole=None)).status == 429


class Untouched(TokenVerifier):
    """Fails the test that has a token looked at."""

    def __init__(self) -> None: ...

    async def verify(self, token: str) -> Caller:
        pytest.fail("the token was looked at")


async def test_an_accepted_service_key_is_heard_whatever_came_from_its_address(db: str) -> None:
    made, key = build_authenticator(sample_schema.settings), await service_keys.create_key("executor", [Scope.CHARGE])
    server = GraphQLOverHTTP(limited(rate_per_address=0.4), made, sample_schema.state, graphiql=False)
    stranger = [(await sent_from(server, "192.0.2.1", bearer="nonsense")).status for _ in range(3)]
    assert stranger == [401, 401, 429]
    for _ in range(5):
        assert (await sent_from(server, "192.0.2.1", bearer=key)).status == 200
        assert (await sent_from(server, "192.0.2.1", bearer=key, whole=b"{")).status == 400
        assert (await sent_from(server, "192.0.2.1", bearer=key, content_type="text/plain")).status == 415
    other = [(await sent_from(server, "192.0.2.2", bearer=key, whole=b"{")).status for _ in range(5)]
    assert other == [400] * 5
    assert (await sent_from(server, "192.0.2.2")).status == 200  # nothing of the service was counted there
    await made.close()


@pytest.mark.parametrize("credential", ["nonsense", "ck_nonsense"])
async def test_over_websocket_too_bad_credentials_count_for_their_address(credential: str) -> None:
    execution = limited(rate_per_address=0.4)
    sockets = GraphQLOverWebSocket(execution, sample_schema.authenticator, sample_schema.state)
    ends = []
    for _ in range(3):
        async with connected(execution, address="192.0.2.1", sockets=sockets) as client:
            await client.say({"type": "connection_init", "payload": {"token": credential}})
            ends.append(await client.closed())
    assert ends == [(4403, "Forbidden")] * 2 + [(1013, "Too many requests: try again in 3 s.")]
    assert (await over_http(execution, "{ hello }", address="192.0.2.1")).status == 429
    async with connected(execution, address="192.0.2.2", sockets=sockets, bearer=token()) as client:
        await client.init()


async def sent_from(
    server: GraphQLOverHTTP,
    address: str,
    *,
    bearer: str | None = None,
    whole: bytes | None = b'{"query": "{ hello }"}',
    content_type: str = "application/json",
) -> Reply:
    """The reply to a POST. `whole`: None, it must not be read."""
    replies: list[Message] = []

    async def receive() -> Message:
        if whole is None:
            pytest.fail("the body was read")
        return {"type": "http.request", "body": whole, "more_body": False}

    async def send(message: Message) -> None:
        replies.append(message)

    headers = [(b"content-type", content_type.encode())]
    if bearer is not None:
        headers.append((b"authorization", f"Bearer {bearer}".encode()))
    scope = {"type": "http", "method": "POST", "path": "/graphql", "headers": headers, "client": (address, 1)}
    await server(scope, receive, send)
    return Reply(replies)


async def test_strangers_at_one_address_are_one_caller(ask: Ask) -> None:
    execution = limited(rate_per_user=0.2)  # one at once
    assert (await ask(execution, "{ hello }", address="192.0.2.1")).data
    assert (await ask(execution, "{ hello }", address="192.0.2.1")).codes == {"RATE_LIMITED"}
    assert (await ask(execution, "{ hello }", address="192.0.2.2")).data


async def test_each_worker_gives_out_its_share() -> None:
    execution = limited(rate_per_user=2, workers=2)
    answers = [await over_http(execution, "{ hello }", bearer=token()) for _ in range(6)]
    assert [one.status for one in answers] == [200] * 5 + [429]


async def asked(execution: GraphQLEngine, query: str, viewer: Caller | None) -> str | None:
    """The code of the first error."""
    payload = (await execution.execute(GraphQLRequest(query), RequestContext(viewer, sample_schema.state))).payload
    return payload["errors"][0]["extensions"]["code"] if "errors" in payload else None


async def test_a_services_charges_are_never_counted_and_all_else_is() -> None:
    execution = limited(schema=API_SCHEMA, rate_per_service=1, rate_per_user=1)
    codes = [await asked(execution, CHARGE, SERVICE) for _ in range(20)]
    assert set(codes) == {"BAD_USER_INPUT"}  # the charge itself was looked at, each time
    aliased = "mutation { a: " + CHARGE[11:-2] + " b: " + CHARGE[11:]
    assert [await asked(execution, aliased, SERVICE) for _ in range(6)] == ["BAD_USER_INPUT"] * 6
    with_more = CHARGE[:-2] + ' cancelTask(input: {taskId: ""}) { __typename } }'
    codes = [await asked(execution, with_more, SERVICE) for _ in range(6)]
    assert "RATE_LIMITED" not in codes[:5]
    assert codes[5] == "RATE_LIMITED"
    assert await asked(execution, CHARGE, SERVICE) == "BAD_USER_INPUT"


async def test_who_may_not_charge_gains_nothing_by_asking_to() -> None:
    execution = limited(schema=API_SCHEMA, rate_per_user=1)
    codes = [await asked(execution, CHARGE, sample_schema.USER) for _ in range(6)]
    assert codes == ["FORBIDDEN"] * 5 + ["RATE_LIMITED"]


async def test_a_user_has_a_number_of_operations_at_once(ask: Ask) -> None:
    execution = limited(operations_per_user=2)
    running = [asyncio.create_task(execution_of_slow(execution)) for _ in range(2)]
    await asyncio.sleep(0.01)
    refused = await ask(execution, "{ me }", bearer=token("ada"))
    assert refused.codes == {"RATE_LIMITED"}
    assert (await ask(execution, "{ me }", bearer=token("bob"))).data == {"me": "user:bob"}
    running[0].cancel()
    await asyncio.sleep(0.01)
    assert (await ask(execution, "{ me }", bearer=token("ada"))).data == {"me": "user:ada"}
    running[1].cancel()


async def execution_of_slow(execution: GraphQLEngine) -> None:
    await execution.execute(GraphQLRequest("{ slow }"), RequestContext(sample_schema.USER, sample_schema.state))


async def test_a_user_has_a_number_of_subscriptions_at_once_over_each_transport(ask: Ask) -> None:
    if ask is over_http:
        return  # it carries none
    execution = limited(subscriptions_per_user=2)
    query = "subscription { toyTwice { name } }"
    streams = [
        execution.stream(GraphQLRequest(query), sample_schema.context(Caller(kind=CallerKind.USER, actor="user:ada")))
        for _ in "12"
    ]
    await anext(streams[0])
    assert (await ask(execution, query, bearer=token("ada"))).data == {"toyTwice": {"name": "bear"}}
    await anext(streams[1])
    refused = await ask(execution, query, bearer=token("ada"))
    assert (refused.codes, refused.data) == ({"RATE_LIMITED"}, None)
    for stream in streams:
        await stream.aclose()


async def test_a_user_has_a_number_of_subscriptions_at_once() -> None:
    execution = limited(subscriptions_per_user=2)
    streams = [
        execution.stream(
            GraphQLRequest("subscription { toyTwice { name } }"), sample_schema.context(sample_schema.USER)
        )
        for _ in range(3)
    ]
    first, second, third = streams
    await anext(first)
    await anext(second)
    with pytest.raises(OperationFailed) as refused:
        await anext(third)
    assert refused.value.errors[0]["extensions"] == {"code": "RATE_LIMITED", "retryAfterSeconds": 1}
    assert refused.value.retry_after_seconds == 1
    await first.aclose()
    again = sample_schema.decode_items(
        execution.stream(
            GraphQLRequest("subscription { toyTwice { name } }"), sample_schema.context(sample_schema.USER)
        )
    )
    assert await anext(again) == {"data": {"toyTwice": {"name": "bear"}}}
    for stream in (second, again):
        await stream.aclose()


async def test_an_operation_has_a_time(ask: Ask) -> None:
    execution = limited(operation_seconds=0.05)
    assert (await ask(execution, "{ hello }")).data == {"hello": "hello world"}
    late = await ask(execution, "{ slow }")
    assert late.codes == {"TIMED_OUT"}
    assert late.data is None


async def test_one_connection_too_many_closes_the_oldest_and_says_why() -> None:
    execution = limited()
    sockets = GraphQLOverWebSocket(
        execution, sample_schema.authenticator, sample_schema.state, connections_per_caller=2
    )
    async with (
        connected(execution, bearer=token("ada"), sockets=sockets) as first,
        connected(execution, bearer=token("ada"), sockets=sockets) as second,
        connected(execution, bearer=token("bob"), sockets=sockets) as other,
    ):
        for client in (first, second, other):
            await client.init()
        await first.subscribe("1", "subscription { forever }")
        assert await first.silent()
        async with connected(execution, bearer=token("ada"), sockets=sockets) as third:
            await third.init()
            assert await first.closed() == (
                connection_limits.TOO_MANY_CONNECTIONS_CODE,
                connection_limits.TOO_MANY_CONNECTIONS,
            )
            for client in (second, third, other):
                await client.say({"type": "ping"})
                assert await client.said() == {"type": "pong"}
    assert sockets.limits._established == {}


@pytest.mark.parametrize("kind", [CallerKind.SERVICE, CallerKind.OPERATOR])
async def test_a_service_or_operator_may_have_more_connections_than_a_user(
    db: str, monkeypatch: pytest.MonkeyPatch, kind: CallerKind
) -> None:
    assert connection_limits.MAX_SERVICE_CONNECTIONS == 2_000
    monkeypatch.setattr(connection_limits, "MAX_SERVICE_CONNECTIONS", 3)
    made = build_authenticator(sample_schema.settings) if kind is CallerKind.SERVICE else sample_schema.authenticator
    bearer = (
        await service_keys.create_key("executor", [Scope.CHARGE])
        if kind is CallerKind.SERVICE
        else token("olga", operator=True)
    )
    execution = limited()
    sockets = GraphQLOverWebSocket(execution, made, sample_schema.state, connections_per_caller=2)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connected(execution, bearer=bearer, sockets=sockets)) for _ in range(4)
        ]
        for client in clients[:3]:
            await client.init()
        for client in clients[:3]:
            await client.say({"type": "ping"})
            assert await client.said() == {"type": "pong"}
        await clients[3].init()
        assert await clients[0].closed() == (
            connection_limits.TOO_MANY_CONNECTIONS_CODE,
            connection_limits.TOO_MANY_CONNECTIONS,
        )
    await made.close()


async def test_an_address_has_a_number_of_connections_that_have_not_said_who_they_are() -> None:
    assert connection_limits.MAX_PENDING_CONNECTIONS == 1_000
    execution = limited()
    sockets = GraphQLOverWebSocket(execution, sample_schema.authenticator, sample_schema.state, pending_per_address=2)
    async with AsyncExitStack() as stack:

        async def connect(address: str | None) -> Client:
            return await stack.enter_async_context(connected(execution, address=address, sockets=sockets))

        known = [await connect("192.0.2.1") for _ in range(3)]
        assert await known[0].closed() == (1013, connection_limits.TOO_MANY_PENDING)
        for client in known[1:]:
            await client.init({"token": token()})
        first, *waiting = [await connect(f"2001:db8::{number}") for number in range(3)]  # those in use are not counted
        assert await first.closed() == (1013, connection_limits.TOO_MANY_PENDING)
        for client in (*known[1:], *waiting, *[await connect(None) for _ in range(3)]):
            await client.say({"type": "ping"})
            assert await client.said() == {"type": "pong"}
    assert sockets.limits._pending == sockets.limits._established == {}


def test_who_connects_has_ten_seconds_to_say_who_it_is() -> None:
    assert websocket.INIT_SECONDS == 10
