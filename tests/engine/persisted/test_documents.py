"""Persisted documents: requested by hash over every transport, who may send others, and what happens at start."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest

from app import main
from app.auth import service_keys
from app.auth.caller import Caller, Scope
from app.engine.context import RequestContext
from app.engine.documents import MAX_CACHED_LENGTH
from app.engine.execution import GraphQLEngine, GraphQLRequest
from app.engine.persisted.documents import CALLER_KINDS, MAX_LISTED_PROBLEMS, PersistedDocuments
from app.engine.persisted.files import PersistedDocument, document_hash
from app.engine.transports.http import GraphQLOverHTTP
from app.errors import Misconfigured
from tests.engine import sample_schema
from tests.engine.sample_schema import OPERATOR, SERVICE, USER, authenticator, state, token
from tests.engine.transports.all_transports import first_item
from tests.engine.transports.http_client import GRAPHQL_JSON, send_get_request, send_request
from tests.engine.transports.websocket_client import open_accepted_connection, websocket_server
from tests.server.test_exposure import production

pytestmark = pytest.mark.anyio

HELLO = "query Hello($name: String!) { hello(name: $name) }"
COUNT = "subscription Count { count(to: 1) }"
SPEND = "mutation Spend { spend(cost: 1) { __typename } }"
TWO = 'query First { hello(name: "first") } query Second { hello(name: "second") }'
OLDER = 'query Greeting { hello(name: "older release") }'
NEWER = 'query Greeting { hello(name: "newer release") }'
PERSISTED = (HELLO, COUNT, SPEND, TWO, OLDER, NEWER)
ARBITRARY = "{ hello }"

NOT_FOUND = {
    "message": "PersistedQueryNotFound",
    "extensions": {
        "code": "PERSISTED_QUERY_NOT_FOUND",
        "reason": (
            "No document has this hash. Documents are not registered at run time: add it to KNOWN_DOCUMENTS and "
            "restart the server."
        ),
    },
}
NOT_A_DOCUMENT_ID = 'documentId must be "sha256:<64 hex digits>": the SHA-256 of the document\'s exact text.'
NOT_APOLLOS = 'extensions.persistedQuery must be {"version": 1, "sha256Hash": "<64 hex digits>"}.'

Parameters = Mapping[str, Any]
Send = Callable[..., Awaitable[Any]]


@cache
def engine_with(*texts: str, arbitrary_documents: Collection[str] = ()) -> GraphQLEngine:
    """An engine with these persisted documents."""
    documents = [PersistedDocument(text, "persisted.graphql") for text in texts]
    return GraphQLEngine(
        sample_schema.schema._schema,
        introspection=False,
        compile_operations=True,
        persisted_documents=PersistedDocuments(documents, arbitrary_documents=arbitrary_documents),
    )


def http_app(engine: GraphQLEngine) -> GraphQLOverHTTP:
    return GraphQLOverHTTP(engine, authenticator, state, graphiql=False, get_queries=True)


async def by_post(engine: GraphQLEngine, parameters: Parameters, bearer: str | None = None) -> Any:
    return (await send_request(orjson.dumps(parameters), to=http_app(engine), bearer=bearer)).json


async def by_get(engine: GraphQLEngine, parameters: Parameters, bearer: str | None = None) -> Any:
    return (await send_get_request(parameters, to=http_app(engine), bearer=bearer)).json


async def by_event_stream(engine: GraphQLEngine, parameters: Parameters, bearer: str | None = None) -> Any:
    """The first item, or the response that was sent instead of a stream."""
    return (await first_item(http_app(engine), parameters, bearer=bearer))[2]


async def by_websocket(engine: GraphQLEngine, parameters: Parameters, bearer: str | None = None) -> Any:
    async with open_accepted_connection(websocket_server(engine), bearer=bearer) as client:
        await client.init()
        await client.send({"id": "1", "type": "subscribe", "payload": parameters})
        message = await client.next_message()
        if message["type"] == "error":
            await client.send({"type": "ping"})  # a refused operation does not end the others
            assert await client.next_message() == {"type": "pong"}
            return {"errors": message["payload"]}
        assert await client.next_message() == {"id": "1", "type": "complete"}
        return message["payload"]


TRANSPORTS: dict[str, Send] = {
    "POST": by_post,
    "GET": by_get,
    "event stream": by_event_stream,
    "WebSocket": by_websocket,
}
every_transport = pytest.mark.parametrize("send", TRANSPORTS.values(), ids=TRANSPORTS)

HASH_FORMS: dict[str, Callable[[str], dict[str, Any]]] = {
    "documentId": lambda hash: {"documentId": f"sha256:{hash}"},
    "documentId in bare hex": lambda hash: {"documentId": hash},
    "documentId in capitals": lambda hash: {"documentId": hash.upper()},
    "Apollo": lambda hash: {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": hash}}},
    "Apollo with an empty text": lambda hash: {"query": ""} | HASH_FORMS["Apollo"](hash),
    "both alike": lambda hash: HASH_FORMS["documentId"](hash) | HASH_FORMS["Apollo"](hash),
}


def refused(payload: Any) -> tuple[str, str]:
    """Code and message of the only error in a response without data."""
    assert "data" not in payload
    [error] = payload["errors"]
    return error["extensions"]["code"], error["message"]


@every_transport
async def test_a_persisted_document_is_executed_by_its_hash(send: Send) -> None:
    for form in HASH_FORMS.values():
        request = form(document_hash(HELLO)) | {"variables": {"name": "ada"}}
        assert await send(engine_with(*PERSISTED), request) == {"data": {"hello": "hello ada"}}


@pytest.mark.parametrize("send", [by_event_stream, by_websocket])
async def test_a_persisted_subscription_is_started_by_its_hash(send: Send) -> None:
    for form in HASH_FORMS.values():
        assert await send(engine_with(*PERSISTED), form(document_hash(COUNT)), token()) == {"data": {"count": 1}}


async def test_a_persisted_mutation_is_not_executed_by_get(db: None) -> None:
    by_hash = {"documentId": document_hash(SPEND)}
    key = await service_keys.create_key("executor", [Scope.CHARGE])
    sample_schema.resolver_calls.clear()
    assert refused(await by_get(engine_with(*PERSISTED), by_hash, key))[0] == "METHOD_NOT_ALLOWED"
    assert sample_schema.resolver_calls == []
    assert await by_post(engine_with(*PERSISTED), by_hash, key) == {"data": {"spend": {"__typename": "SpendSuccess"}}}


@every_transport
async def test_an_unknown_hash_is_reported_with_the_message_that_clients_expect(send: Send) -> None:
    for form in HASH_FORMS.values():
        request = form(document_hash(HELLO + " "))
        assert await send(engine_with(*PERSISTED), request) == {"errors": [NOT_FOUND]}


@every_transport
@pytest.mark.parametrize("allowed", [CALLER_KINDS, frozenset()], ids=["arbitrary documents", "persisted only"])
async def test_sending_text_and_hash_does_not_register_a_document(send: Send, allowed: frozenset[str]) -> None:
    engine, by_hash = (
        engine_with(*PERSISTED, arbitrary_documents=allowed),
        HASH_FORMS["Apollo"](document_hash(ARBITRARY)),
    )

    assert await send(engine, by_hash) == {"errors": [NOT_FOUND]}
    with_text = await send(engine, by_hash | {"query": ARBITRARY})
    if allowed:
        assert with_text == {"data": {"hello": "hello world"}}
    else:
        assert refused(with_text)[0] == "DOCUMENT_NOT_ALLOWED"
    assert await send(engine, by_hash) == {"errors": [NOT_FOUND]}


@every_transport
async def test_an_invalid_document_id_is_refused_with_the_expected_format(send: Send) -> None:
    hash = document_hash(HELLO)
    invalid: list[object] = ["", "sha256:", "Hello", hash[1:], hash + "0", "md5:" + hash, "g" * 64, "٣" * 64]
    if send is not by_get:
        invalid += [7, True, [], {}]
    engine = engine_with(*PERSISTED, arbitrary_documents=CALLER_KINDS)
    for document_id in invalid:
        response = await send(engine, {"documentId": document_id, "query": ARBITRARY})
        assert refused(response) == ("BAD_REQUEST", NOT_A_DOCUMENT_ID)


@every_transport
async def test_another_version_of_apollos_extension_is_refused(send: Send) -> None:
    for version in (0, 2, -1, 2**53):
        request = {"extensions": {"persistedQuery": {"version": version, "sha256Hash": document_hash(HELLO)}}}
        message = f"extensions.persistedQuery has version {version}, which is not supported: send version 1."
        assert refused(await send(engine_with(*PERSISTED), request)) == ("BAD_REQUEST", message)


@every_transport
async def test_another_shape_of_apollos_extension_is_refused(send: Send) -> None:
    invalid: list[object] = [
        {"sha256Hash": document_hash(HELLO)},
        {"version": "1", "sha256Hash": document_hash(HELLO)},
        {"version": None, "sha256Hash": document_hash(HELLO)},
        {"version": 1},
        {"version": 1, "sha256Hash": 7},
        {"version": 1, "sha256Hash": "Hello"},
        {"version": 1, "sha256Hash": ""},
        document_hash(HELLO),
        [],
    ]
    for extension in invalid:
        request = {"extensions": {"persistedQuery": extension}}
        assert refused(await send(engine_with(*PERSISTED), request)) == ("BAD_REQUEST", NOT_APOLLOS)


@every_transport
async def test_two_different_hashes_are_refused(send: Send) -> None:
    request = HASH_FORMS["documentId"](document_hash(HELLO)) | HASH_FORMS["Apollo"](document_hash(TWO))
    message = "documentId and extensions.persistedQuery differ: send one of them, or equal values."
    assert refused(await send(engine_with(*PERSISTED), request)) == ("BAD_REQUEST", message)


@every_transport
async def test_a_hash_of_another_text_than_the_one_sent_is_refused(send: Send) -> None:
    engine = engine_with(*PERSISTED, arbitrary_documents=CALLER_KINDS)
    for form in HASH_FORMS.values():
        for text in (ARBITRARY, NEWER):
            response = await send(engine, form(document_hash(OLDER)) | {"query": text})
            assert refused(response) == ("BAD_REQUEST", "The hash is not the SHA-256 of the document sent with it.")


@pytest.mark.parametrize("accept", ["application/json", GRAPHQL_JSON])
async def test_an_invalid_document_id_is_a_bad_request_and_an_unknown_hash_is_a_graphql_error(accept: str) -> None:
    app = http_app(engine_with(*PERSISTED))
    assert (await send_request(orjson.dumps({"documentId": "Hello"}), to=app, accept=accept)).status == 400
    unknown = await send_request(orjson.dumps({"documentId": "0" * 64}), to=app, accept=accept)
    assert unknown.status == (200 if accept == "application/json" else 400)


KINDS: dict[str, Caller | None] = {"anonymous": None, "users": USER, "services": SERVICE, "operators": OPERATOR}


@pytest.mark.parametrize("allowed", [(), *[(kind,) for kind in KINDS], tuple(KINDS)], ids=str)
async def test_arbitrary_documents_are_executed_for_the_allowed_kinds_of_callers(allowed: tuple[str, ...]) -> None:
    engine = engine_with(*PERSISTED, arbitrary_documents=allowed)
    for kind, caller in KINDS.items():
        response = await engine.execute(GraphQLRequest(ARBITRARY), sample_schema.context(caller))
        if kind in allowed:
            assert response.payload == {"data": {"hello": "hello world"}}
            continue
        assert not response.ran
        callers = "anonymous callers" if kind == "anonymous" else kind
        code, message = refused(response.payload)
        assert code == "DOCUMENT_NOT_ALLOWED"
        assert message.startswith(f"This server does not execute arbitrary documents of {callers}: ")


@every_transport
@pytest.mark.parametrize(("bearer", "allowed"), [(None, False), ("user", False), ("operator", True)])
async def test_arbitrary_documents_are_refused_over_every_transport(
    send: Send, bearer: str | None, allowed: bool
) -> None:
    proof = token("ada", operator=bearer == "operator") if bearer else None
    engine = engine_with(*PERSISTED, arbitrary_documents=("operators", "services"))
    response = await send(engine, {"query": ARBITRARY}, proof)
    if allowed:
        assert response == {"data": {"hello": "hello world"}}
    else:
        assert refused(response)[0] == "DOCUMENT_NOT_ALLOWED"


@every_transport
async def test_a_text_must_equal_a_persisted_document_exactly(send: Send) -> None:
    engine = engine_with(*PERSISTED)
    assert await send(engine, {"query": OLDER}) == {"data": {"hello": "hello older release"}}
    assert refused(await send(engine, {"query": OLDER + " "}))[0] == "DOCUMENT_NOT_ALLOWED"


@every_transport
async def test_two_documents_may_have_an_operation_of_the_same_name(send: Send) -> None:
    engine = engine_with(*PERSISTED)
    for text, greeting in ((OLDER, "hello older release"), (NEWER, "hello newer release")):
        request = {"documentId": f"sha256:{document_hash(text)}", "operationName": "Greeting"}
        assert await send(engine, request) == {"data": {"hello": greeting}}


@every_transport
async def test_a_document_with_several_operations_needs_an_operation_name(send: Send) -> None:
    engine, request = engine_with(*PERSISTED), {"documentId": document_hash(TWO)}
    assert await send(engine, request | {"operationName": "First"}) == {"data": {"hello": "hello first"}}
    assert await send(engine, request | {"operationName": "Second"}) == {"data": {"hello": "hello second"}}
    assert refused(await send(engine, request)) == (
        "BAD_USER_INPUT",
        "The document must hold one operation, or operationName must name one of several.",
    )
    assert refused(await send(engine, request | {"operationName": "Third"})) == (
        "BAD_USER_INPUT",
        'The document has no operation named "Third".',
    )


async def test_persisted_documents_are_compiled_at_start_and_never_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    long = HELLO + " #" + "x" * MAX_CACHED_LENGTH
    engine = engine_with.__wrapped__(*PERSISTED, long, arbitrary_documents=CALLER_KINDS)
    compiled = {key: prepared.compiled for key, prepared in engine._persisted_operations.items()}
    assert compiled.keys() == {
        *((text, name) for text in (HELLO, long) for name in (None, "Hello")),
        *((text, name) for text in (OLDER, NEWER) for name in (None, "Greeting")),
        *((COUNT, name) for name in (None, "Count")),
        *((SPEND, name) for name in (None, "Spend")),
        *((TWO, name) for name in ("First", "Second")),
    }
    assert None not in compiled.values()
    cache = engine._cache
    assert (engine.execution_counts.compiled, len(cache)) == (0, 0)

    def parse_again(*_: object) -> None:
        raise AssertionError("persisted documents are parsed only at start")

    monkeypatch.setattr(engine._documents, "parse_and_validate", parse_again)
    for text in (HELLO, long):
        request = GraphQLRequest("", {"name": "ada"}, document_hash=document_hash(text))
        response = await engine.execute(request, RequestContext(None, state))
        assert response.payload == {"data": {"hello": "hello ada"}}
    assert (engine.execution_counts.compiled, len(cache)) == (2, 0)


def test_the_server_does_not_start_with_invalid_documents(tmp_path: Path) -> None:
    for number in range(MAX_LISTED_PROBLEMS + 1):
        (tmp_path / f"{number:02}.graphql").write_text("query Old {\n  balanceOfOldTimes\n}\n")
    with pytest.raises(Misconfigured) as refusal:
        main.create_app(production(known_documents=str(tmp_path)))
    first, *listed = str(refusal.value).splitlines()
    assert first == "Problems with KNOWN_DOCUMENTS: 11; `python -m app documents check` lists all:"
    assert listed == [
        f"{tmp_path}/{number:02}.graphql:2: Cannot query field 'balanceOfOldTimes' on type 'Query'. "
        "Change the document to what schema.graphql and the limits allow."
        for number in range(MAX_LISTED_PROBLEMS)
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "There is no such file or directory. Set KNOWN_DOCUMENTS to one, or unset it."),
        ("[]", "It is in neither format."),
        ("{", "It is not JSON"),
    ],
)
def test_the_server_does_not_start_with_unreadable_documents(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "manifest.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Misconfigured, match="Problems with KNOWN_DOCUMENTS: 1;") as refusal:
        main.create_app(production(known_documents=str(path)))
    assert says in str(refusal.value)


async def test_the_server_loads_the_documents_of_the_setting(tmp_path: Path) -> None:
    text = "query Anybody {\r\n  __typename\r\n}\r\n"
    (tmp_path / "anybody.graphql").write_bytes(text.encode())
    app: Any = main.create_app(production(known_documents=str(tmp_path)))
    for request, outcome in (
        ({"documentId": document_hash(text)}, {"data": {"__typename": "Query"}}),
        ({"query": text}, {"data": {"__typename": "Query"}}),
        ({"query": text.replace("\r", "")}, "DOCUMENT_NOT_ALLOWED"),
    ):
        reply = await send_request(orjson.dumps(request), to=app, host="credits.example.com")
        assert (reply.json if isinstance(outcome, dict) else reply.code) == outcome
