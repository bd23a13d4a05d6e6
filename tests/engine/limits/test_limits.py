"""Every limit over every transport: a request at the limit is served, one beyond it is refused."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest

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
from tests.engine.sample_schema import SERVICE, token
from tests.engine.transports.all_transports import TRANSPORTS, Execute, first_item, over_http
from tests.engine.transports.http_client import Reply, graphql_body, send_request
from tests.engine.transports.websocket_client import Client, open_accepted_connection, websocket_server

pytestmark = pytest.mark.anyio

HELLO = graphql_body("{ hello }")
NO_LIMITS = {
    "rate_per_user": 0,
    "rate_per_address": 0,
    "rate_per_service": 0,
    "operations_per_user": 50,
    "subscriptions_per_user": 50,
}


@pytest.fixture(params=TRANSPORTS)
def ask(request: pytest.FixtureRequest) -> Execute:
    return TRANSPORTS[request.param]


def limited(**limits: Any) -> GraphQLEngine:
    """An engine with these limits and no others."""
    return GraphQLEngine(
        sample_schema.schema._schema,
        introspection=True,
        compile_operations=True,
        unlimited_mutations=frozenset({"spend", "spendAll"}),
        rate_limiter=RateLimiter(Settings(**(NO_LIMITS | limits))),
    )


def hellos(count: int) -> str:
    return " ".join(f"a{number}: hello" for number in range(count))


def page_of(first: int, leaves: int) -> str:
    fields = " ".join(("id", "name", "__typename")[number % 3] for number in range(leaves))
    return f"toys(first: {first}) {{ edges {{ node {{ {fields} }} }} }}"


COST = " ".join([*(f"p{n}: {page_of(100, 25)}" for n in range(9)), page_of(23, 28)])
"""It costs exactly the limit."""

DOCUMENTS = {
    "tokens": (f"{{ json(value: [{'1 ' * (MAX_TOKENS - 9)}]) }}", f"{{ json(value: [{'1 ' * (MAX_TOKENS - 8)}]) }}"),
    "characters": ("{ hello }".ljust(MAX_LENGTH), "{ hello }".ljust(MAX_LENGTH + 1)),
    "levels": ("{ a " * MAX_DEPTH + "}" * MAX_DEPTH, "{ a " * (MAX_DEPTH + 1) + "}" * (MAX_DEPTH + 1)),
    "fields at its root": ("{ " + hellos(MAX_ROOT_FIELDS) + " }", "{ " + hellos(MAX_ROOT_FIELDS + 1) + " }"),
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
"""By a part of the error message: a document at the limit, and one beyond it."""


@pytest.mark.parametrize("what", DOCUMENTS)
async def test_a_document_may_reach_each_limit_but_not_exceed_it(ask: Execute, what: str) -> None:
    within, beyond = DOCUMENTS[what]
    assert what not in (await ask(limited(), within)).text
    refused = await ask(limited(), beyond)
    assert what in refused.text
    assert refused.data is None
    assert refused.codes <= {"GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED"}


async def test_a_page_has_at_most_100_items(ask: Execute) -> None:
    query = "query ($n: Int!) { toys(first: $n) { edges { cursor } } }"
    assert len((await ask(limited(), query, n=100)).data["toys"]["edges"]) == 5
    assert (await ask(limited(), query, n=101)).codes == {"BAD_USER_INPUT"}
    assert (await ask(limited(), query, n=0)).codes == {"BAD_USER_INPUT"}


def json_of(size: int) -> dict[str, str]:
    """An object of `size` bytes."""
    return {"a": "x" * (size - len(orjson.dumps({"a": ""})))}


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        (json_of(scalars.MAX_JSON_BYTES), json_of(scalars.MAX_JSON_BYTES + 1)),
        (nested(scalars.MAX_JSON_DEPTH), nested(scalars.MAX_JSON_DEPTH + 1)),
    ],
    ids=["8 KiB", "8 deep"],
)
async def test_the_size_and_depth_of_json_are_limited(ask: Execute, within: Any, beyond: Any) -> None:
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
async def test_the_number_and_depth_of_variables_are_limited(ask: Execute, within: Any, beyond: Any) -> None:
    assert (await ask(limited(), "{ hello }", **within)).data == {"hello": "hello world"}
    refused = await ask(limited(), "{ hello }", **beyond)
    assert refused.data is None
    assert refused.codes == {"BAD_REQUEST"} or refused.close_code == 4400


def test_the_number_of_values_in_all_variables_is_limited() -> None:
    # The list counts, too.
    request_parsing.parse_request({"query": "{ hello }", "variables": {"v": [1] * (MAX_VALUES - 1)}})
    with pytest.raises(MalformedRequest, match="at most 50,000 values"):
        request_parsing.parse_request({"query": "{ hello }", "variables": {"v": [1] * MAX_VALUES}})


def test_a_batch_of_1000_charges_fits_the_body_limit_of_services() -> None:
    settings = {"model": "gpt-4o", "temperature": 0.7, "prompt": "x" * 600}
    charge = {"taskId": "t" * 36, "blockRunId": "r" * 36, "block": "AITextGeneratorBlock", "settings": settings}
    body = orjson.dumps({"query": "mutation {}", "variables": {"input": [charge] * 1000}})
    assert request_parsing.MAX_USER_BODY_BYTES < len(body) <= request_parsing.MAX_SERVICE_BODY_BYTES == 1024 * 1024
    assert len((request_parsing.parse_body(body).variables or {})["input"]) == 1000


@pytest.mark.parametrize(
    ("operator", "limit"),
    [(False, request_parsing.MAX_USER_BODY_BYTES), (True, request_parsing.MAX_SERVICE_BODY_BYTES)],
)
async def test_the_body_limit_holds_for_event_streams(operator: bool, limit: int) -> None:
    server = GraphQLOverHTTP(limited(), sample_schema.authenticator, sample_schema.state, graphiql=False)
    bare = len(orjson.dumps({"query": "{ hello }", "extensions": {"filling": ""}}))
    for size, status in ((limit, 200), (limit + 1, 413)):
        request = {"query": "{ hello }", "extensions": {"filling": "x" * (size - bare)}}
        response_status, _, item = await first_item(server, request, bearer=token("olga", operator=operator))
        assert response_status == status
        assert ("data" in item) is (status == 200)


def test_a_batched_array_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="chargeBatch"):
        request_parsing.parse_body(b'[{"query": "{ hello }"}]')


@pytest.mark.parametrize("character", ["x", "é", "☃"])
async def test_a_websocket_message_may_have_64_kib_but_no_more(character: str) -> None:
    assert MAX_MESSAGE_BYTES == 64 * 1024
    room = MAX_MESSAGE_BYTES - len('{"type":"ping","payload":{"a":""}}')
    filling = character * (room // len(character.encode())) + "x" * (room % len(character.encode()))
    within = f'{{"type":"ping","payload":{{"a":"{filling}"}}}}'
    assert len(within.encode()) == MAX_MESSAGE_BYTES
    async with open_accepted_connection(websocket_server(limited()), bearer=token("olga", operator=True)) as client:
        await client.init()
        await client.send(within)
        assert await client.next_message() == {"type": "pong"}
        await client.send(within + " ")
        assert await client.next_close() == (1009, "Message too big")


async def test_a_rate_limited_user_learns_when_to_retry(ask: Execute) -> None:
    engine = limited(rate_per_user=1)  # five at once
    ada = [await ask(engine, "{ me }", bearer=token("ada")) for _ in range(5)]
    assert [one.data for one in ada] == [{"me": "user:ada"}] * 5
    refused = await ask(engine, "{ me }", bearer=token("ada"))
    assert refused.codes == {"RATE_LIMITED"}
    assert refused.errors[0]["extensions"]["retryAfterSeconds"] == 1
    assert (refused.status, refused.retry_after) in {(429, "1"), (None, None)}
    assert (await ask(engine, "{ me }", bearer=token("bob"))).data == {"me": "user:bob"}


@pytest.fixture
def parsed_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The documents that were parsed and validated."""
    texts: list[str] = []
    parse = DocumentCache._parse_and_validate

    def record_and_parse(documents: DocumentCache, text: str) -> Any:
        texts.append(text)
        return parse(documents, text)

    monkeypatch.setattr(DocumentCache, "_parse_and_validate", record_and_parse)
    return texts


async def test_invalid_documents_count_and_are_not_parsed_beyond_the_rate(
    ask: Execute, parsed_texts: list[str]
) -> None:
    engine = limited(rate_per_user=1)
    for _ in range(5):
        assert (await ask(engine, "{", bearer=token("ada"))).codes == {"GRAPHQL_PARSE_FAILED"}
    for _ in range(2):
        assert (await ask(engine, "{", bearer=token("ada"))).codes == {"RATE_LIMITED"}
    assert parsed_texts == ["{"] * 5


@pytest.mark.parametrize("accept", ["", "text/event-stream", "application/json, text/event-stream"])
async def test_a_get_request_takes_one_token(accept: str, parsed_texts: list[str]) -> None:
    server = GraphQLOverHTTP(
        limited(rate_per_user=1), sample_schema.authenticator, sample_schema.state, graphiql=False, get_queries=True
    )
    replies = [await get_status(server, "{", accept=accept) for _ in range(7)]
    assert replies[5:] == [429, 429]
    assert 429 not in replies[:5]
    assert parsed_texts == ["{"] * 5
    fresh = GraphQLOverHTTP(
        limited(rate_per_user=1), sample_schema.authenticator, sample_schema.state, graphiql=False, get_queries=True
    )
    mutation = "mutation { spend(cost: 1) { __typename } }"
    assert [await get_status(fresh, mutation, accept=accept) for _ in range(6)] == [405] * 5 + [429]


async def get_status(server: GraphQLOverHTTP, query: str, *, accept: str) -> int:
    """The status of a GET."""
    return (await first_item(server, {"query": query}, method="GET", accept=accept))[0]


async def test_all_callers_at_a_client_address_share_its_rate(ask: Execute) -> None:
    engine = limited(rate_per_address=0.4)  # two at once
    for name in ("ada", "bob"):
        assert (await ask(engine, "{ hello }", bearer=token(name), address="192.0.2.1")).data
    refused = await ask(engine, "{ hello }", address="192.0.2.1")
    assert refused.codes == {"RATE_LIMITED"}
    assert refused.errors[0]["extensions"]["retryAfterSeconds"] == 3
    assert (await ask(engine, "{ hello }", address="192.0.2.2")).data


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "a bad token": ({"bearer": "nonsense"}, 401),
    "a bad key": ({"bearer": "ck_nonsense"}, 401),
    "a bad body": ({"body": b"{"}, 400),
    "a user's bad body": ({"body": b"{", "bearer": token("ada")}, 400),
    "a body that is too large": ({"body": b" " * (request_parsing.MAX_USER_BODY_BYTES + 1)}, 413),
    "another content type": ({"content_type": "text/plain"}, 415),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_refused_requests_count_for_their_client_address(what: str) -> None:
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


async def test_beyond_the_rate_of_its_address_neither_token_nor_body_of_a_request_is_read() -> None:
    server = GraphQLOverHTTP(
        limited(rate_per_address=0.4),
        Authenticator(UnusedVerifier(), ServiceKeyCache()),
        sample_schema.state,
        graphiql=False,
    )
    for _ in range(2):
        assert (await sent_from(server, "192.0.2.1", content_type="text/plain")).status == 415
    assert (await sent_from(server, "192.0.2.1", bearer=token("ada"))).status == 429
    assert (await sent_from(server, "192.0.2.1", body=None)).status == 429


class UnusedVerifier(TokenVerifier):
    """Fails the test when a token is verified."""

    def __init__(self) -> None: ...

    async def verify(self, token: str) -> Caller:
        pytest.fail("the token was verified")


async def test_a_valid_service_key_is_accepted_beyond_the_rate_of_its_address(db: str) -> None:
    made, key = build_authenticator(sample_schema.settings), await service_keys.create_key("executor", [Scope.CHARGE])
    server = GraphQLOverHTTP(limited(rate_per_address=0.4), made, sample_schema.state, graphiql=False)
    anonymous = [(await sent_from(server, "192.0.2.1", bearer="nonsense")).status for _ in range(3)]
    assert anonymous == [401, 401, 429]
    for _ in range(5):
        assert (await sent_from(server, "192.0.2.1", bearer=key)).status == 200
        assert (await sent_from(server, "192.0.2.1", bearer=key, body=b"{")).status == 400
        assert (await sent_from(server, "192.0.2.1", bearer=key, content_type="text/plain")).status == 415
    other = [(await sent_from(server, "192.0.2.2", bearer=key, body=b"{")).status for _ in range(5)]
    assert other == [400] * 5
    assert (await sent_from(server, "192.0.2.2")).status == 200  # requests of the service do not count there
    await made.close()


@pytest.mark.parametrize("credential", ["nonsense", "ck_nonsense"])
async def test_wrong_credentials_over_websocket_count_for_their_address(credential: str) -> None:
    engine = limited(rate_per_address=0.4)
    sockets = websocket_server(engine)
    ends = []
    for _ in range(3):
        async with open_accepted_connection(sockets, address="192.0.2.1") as client:
            await client.send({"type": "connection_init", "payload": {"token": credential}})
            ends.append(await client.next_close())
    assert ends == [(4403, "Forbidden")] * 2 + [(1013, "Too many requests: try again in 3 s.")]
    assert (await over_http(engine, "{ hello }", address="192.0.2.1")).status == 429
    async with open_accepted_connection(sockets, address="192.0.2.2", bearer=token()) as client:
        await client.init()


class CountingKeys(ServiceKeyCache):
    """Counts the reads of the database."""

    reads = 0

    async def _read(self, key_id: str) -> Any:
        self.reads += 1
        return await super()._read(key_id)


def invented_key(number: int) -> str:
    return f"ck_{number:016x}_{number:064x}"


async def test_invented_service_keys_are_read_only_at_the_rate_of_their_address(db: str) -> None:
    keys = CountingKeys()
    server = GraphQLOverHTTP(
        limited(rate_per_address=1), Authenticator(UnusedVerifier(), keys), sample_schema.state, graphiql=False
    )  # five at once

    replies = await asyncio.gather(*(sent_from(server, "192.0.2.1", bearer=invented_key(n)) for n in range(100)))

    assert sorted(reply.status for reply in replies) == [401] * 5 + [429] * 95
    assert {reply.code for reply in replies if reply.status == 429} == {"RATE_LIMITED"}
    assert keys.reads == 5
    assert (await sent_from(server, "192.0.2.2", bearer=invented_key(100))).status == 401  # of another address
    await keys.close()


async def test_invented_service_keys_over_websocket_are_read_only_at_the_rate_of_their_address(db: str) -> None:
    keys, engine = CountingKeys(), limited(rate_per_address=1)  # five at once
    sockets = GraphQLOverWebSocket(engine, Authenticator(UnusedVerifier(), keys), sample_schema.state)

    async def end_of(number: int) -> tuple[int, str]:
        async with open_accepted_connection(sockets, address="192.0.2.1") as client:
            await client.send({"type": "connection_init", "payload": {"token": invented_key(number)}})
            return await client.next_close()

    ends = await asyncio.gather(*(end_of(number) for number in range(20)))

    assert sorted(ends) == [(1013, "Too many requests: try again in 1 s.")] * 15 + [(4403, "Forbidden")] * 5
    assert keys.reads == 5
    await keys.close()


async def test_one_unknown_service_key_is_read_once_in_four_seconds(db: str) -> None:
    keys = CountingKeys()
    server = GraphQLOverHTTP(
        limited(rate_per_address=10), Authenticator(UnusedVerifier(), keys), sample_schema.state, graphiql=False
    )

    replies = [await sent_from(server, "192.0.2.1", bearer=invented_key(1)) for _ in range(20)]

    assert [reply.status for reply in replies] == [401] * 20
    assert keys.reads == 1
    await keys.close()


async def test_a_service_key_in_use_is_accepted_while_invented_keys_exhaust_the_rate_of_its_address(db: str) -> None:
    keys, key = CountingKeys(), await service_keys.create_key("executor", [Scope.CHARGE])
    server = GraphQLOverHTTP(
        limited(rate_per_address=0.4), Authenticator(UnusedVerifier(), keys), sample_schema.state, graphiql=False
    )  # two at once
    assert (await sent_from(server, "192.0.2.1", bearer=key)).status == 200

    invented = [(await sent_from(server, "192.0.2.1", bearer=invented_key(n))).status for n in range(4)]

    assert invented == [401, 429, 429, 429]
    assert (await sent_from(server, "192.0.2.1", bearer=key)).status == 200
    await keys.close()


async def test_beyond_the_rate_of_its_address_the_token_of_a_websocket_is_not_verified() -> None:
    engine = limited(rate_per_address=0.4)  # two at once
    sockets = GraphQLOverWebSocket(engine, Authenticator(UnusedVerifier(), ServiceKeyCache()), sample_schema.state)
    server = GraphQLOverHTTP(engine, sockets.authenticator, sample_schema.state, graphiql=False)
    for _ in range(2):
        assert (await sent_from(server, "192.0.2.1", content_type="text/plain")).status == 415

    async with open_accepted_connection(sockets, address="192.0.2.1") as client:
        await client.send({"type": "connection_init", "payload": {"token": token()}})

        assert await client.next_close() == (1013, "Too many requests: try again in 3 s.")


async def sent_from(server: GraphQLOverHTTP, address: str, body: bytes | None = HELLO, **how: Any) -> Reply:
    """The reply to a POST. `body`: None if it must not be read."""
    return await send_request([] if body is None else body, to=server, address=address, **how)


async def test_anonymous_callers_at_one_address_share_a_rate(ask: Execute) -> None:
    engine = limited(rate_per_user=0.2)  # one at once
    assert (await ask(engine, "{ hello }", address="192.0.2.1")).data
    assert (await ask(engine, "{ hello }", address="192.0.2.1")).codes == {"RATE_LIMITED"}
    assert (await ask(engine, "{ hello }", address="192.0.2.2")).data


@pytest.mark.parametrize("workers", [1, 2, 64])
async def test_a_client_of_one_worker_has_its_full_rate(workers: int) -> None:
    engine = limited(rate_per_user=1, workers=workers)
    answers = [await over_http(engine, "{ hello }", bearer=token()) for _ in range(6)]
    assert [one.status for one in answers] == [200] * 5 + [429]


async def error_code(engine: GraphQLEngine, query: str, caller: Caller | None) -> str | None:
    payload = (await engine.execute(GraphQLRequest(query), RequestContext(caller, sample_schema.state))).payload
    return payload["errors"][0]["extensions"]["code"] if "errors" in payload else None


async def test_unlimited_mutations_of_a_service_are_not_counted() -> None:
    engine = limited(rate_per_service=1, rate_per_user=1)
    spend = "mutation { spend(cost: 1) { __typename } }"
    aliased = "mutation { a: spend(cost: 1) { __typename } b: spendAll(costs: [1]) { __typename } }"
    assert {await error_code(engine, spend, SERVICE) for _ in range(20)} == {None}
    assert {await error_code(engine, aliased, SERVICE) for _ in range(6)} == {None}
    with_other_field = "mutation { spend(cost: 1) { __typename } __typename }"
    codes = [await error_code(engine, with_other_field, SERVICE) for _ in range(6)]
    assert codes == [None] * 5 + ["RATE_LIMITED"]
    assert await error_code(engine, spend, SERVICE) is None


async def test_unlimited_mutations_of_a_user_are_counted() -> None:
    engine = limited(rate_per_user=1)
    codes = [
        await error_code(engine, "mutation { spend(cost: 1) { __typename } }", sample_schema.USER) for _ in range(6)
    ]
    assert codes == ["FORBIDDEN"] * 5 + ["RATE_LIMITED"]


async def test_the_operations_of_a_user_at_once_are_limited(ask: Execute) -> None:
    engine = limited(operations_per_user=2)
    running = [asyncio.create_task(execute_slow(engine)) for _ in range(2)]
    await asyncio.sleep(0.01)
    refused = await ask(engine, "{ me }", bearer=token("ada"))
    assert refused.codes == {"RATE_LIMITED"}
    assert (await ask(engine, "{ me }", bearer=token("bob"))).data == {"me": "user:bob"}
    running[0].cancel()
    await asyncio.sleep(0.01)
    assert (await ask(engine, "{ me }", bearer=token("ada"))).data == {"me": "user:ada"}
    running[1].cancel()


async def execute_slow(engine: GraphQLEngine) -> None:
    await engine.execute(GraphQLRequest("{ slow }"), RequestContext(sample_schema.USER, sample_schema.state))


async def test_the_subscriptions_of_a_user_at_once_are_limited_over_each_transport(ask: Execute) -> None:
    if ask is over_http:
        return  # it has no subscriptions
    engine = limited(subscriptions_per_user=2)
    query = "subscription { toyTwice { name } }"
    streams = [
        engine.stream(GraphQLRequest(query), sample_schema.context(Caller(kind=CallerKind.USER, actor="user:ada")))
        for _ in "12"
    ]
    await anext(streams[0])
    assert (await ask(engine, query, bearer=token("ada"))).data == {"toyTwice": {"name": "bear"}}
    await anext(streams[1])
    refused = await ask(engine, query, bearer=token("ada"))
    assert (refused.codes, refused.data) == ({"RATE_LIMITED"}, None)
    for stream in streams:
        await stream.aclose()


async def test_a_closed_subscription_no_longer_counts() -> None:
    engine = limited(subscriptions_per_user=2)
    streams = [
        engine.stream(GraphQLRequest("subscription { toyTwice { name } }"), sample_schema.context(sample_schema.USER))
        for _ in range(3)
    ]
    first, second, third = streams
    await anext(first)
    await anext(second)
    with pytest.raises(OperationFailed) as failed:
        await anext(third)
    assert failed.value.errors[0]["extensions"] == {"code": "RATE_LIMITED", "retryAfterSeconds": 1}
    assert failed.value.retry_after_seconds == 1
    await first.aclose()
    again = sample_schema.decode_items(
        engine.stream(GraphQLRequest("subscription { toyTwice { name } }"), sample_schema.context(sample_schema.USER))
    )
    assert await anext(again) == {"data": {"toyTwice": {"name": "bear"}}}
    for stream in (second, again):
        await stream.aclose()


async def test_an_operation_that_takes_too_long_is_stopped(ask: Execute) -> None:
    engine = limited(operation_seconds=0.05)
    assert (await ask(engine, "{ hello }")).data == {"hello": "hello world"}
    late = await ask(engine, "{ slow }")
    assert late.codes == {"TIMED_OUT"}
    assert late.data is None


async def test_a_connection_beyond_the_limit_closes_the_oldest() -> None:
    engine = limited()
    sockets = websocket_server(engine, connections_per_caller=2)
    async with (
        open_accepted_connection(sockets, bearer=token("ada")) as first,
        open_accepted_connection(sockets, bearer=token("ada")) as second,
        open_accepted_connection(sockets, bearer=token("bob")) as other,
    ):
        for client in (first, second, other):
            await client.init()
        await first.subscribe("1", "subscription { forever }")
        assert await first.is_silent()
        async with open_accepted_connection(sockets, bearer=token("ada")) as third:
            await third.init()
            assert await first.next_close() == (
                connection_limits.TOO_MANY_CONNECTIONS_CODE,
                connection_limits.TOO_MANY_CONNECTIONS,
            )
            for client in (second, third, other):
                await client.send({"type": "ping"})
                assert await client.next_message() == {"type": "pong"}
    assert sockets.limits._established == {}


@pytest.mark.parametrize("kind", [CallerKind.SERVICE, CallerKind.OPERATOR])
async def test_services_and_operators_may_have_more_connections_than_users(
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
    engine = limited()
    sockets = GraphQLOverWebSocket(engine, made, sample_schema.state, connections_per_caller=2)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_accepted_connection(sockets, bearer=bearer)) for _ in range(4)]
        for client in clients[:3]:
            await client.init()
        for client in clients[:3]:
            await client.send({"type": "ping"})
            assert await client.next_message() == {"type": "pong"}
        await clients[3].init()
        assert await clients[0].next_close() == (
            connection_limits.TOO_MANY_CONNECTIONS_CODE,
            connection_limits.TOO_MANY_CONNECTIONS,
        )
    await made.close()


async def test_the_unauthenticated_connections_of_an_address_are_limited() -> None:
    assert connection_limits.MAX_PENDING_CONNECTIONS == 1_000
    engine = limited()
    sockets = websocket_server(engine, pending_per_address=2)
    async with AsyncExitStack() as stack:

        async def connect_from(address: str | None) -> Client:
            return await stack.enter_async_context(open_accepted_connection(sockets, address=address))

        known = [await connect_from("192.0.2.1") for _ in range(3)]
        assert await known[0].next_close() == (1013, connection_limits.TOO_MANY_PENDING)
        for client in known[1:]:
            await client.init({"token": token()})
        first, *waiting = [
            await connect_from(f"2001:db8::{number}") for number in range(3)
        ]  # authenticated connections do not count
        assert await first.next_close() == (1013, connection_limits.TOO_MANY_PENDING)
        for client in (*known[1:], *waiting, *[await connect_from(None) for _ in range(3)]):
            await client.send({"type": "ping"})
            assert await client.next_message() == {"type": "pong"}
    assert sockets.limits._pending == sockets.limits._established == {}


def test_a_connection_must_be_initialised_within_ten_seconds() -> None:
    assert websocket.INIT_SECONDS == 10
