"""Known documents: named by their hash over every transport, who may send others, and what is made of them at start."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.types import Message

from app import main
from app.auth.caller import Caller
from app.engine.context import RequestContext
from app.engine.documents import MAX_CACHED_LENGTH
from app.engine.execution import GraphQLEngine, GraphQLRequest
from app.engine.persisted.documents import CALLER_KINDS, MAX_LISTED_PROBLEMS, PersistedDocuments
from app.engine.persisted.files import PersistedDocument, document_hash
from app.engine.transports.http import GraphQLOverHTTP
from app.errors import Misconfigured
from tests.engine import sample_schema
from tests.engine.sample_schema import OPERATOR, SERVICE, USER, authenticator, state, token
from tests.engine.transports.all_transports import connected
from tests.engine.transports.http_client import GRAPHQL_JSON, got, sent
from tests.server.test_exposure import production

pytestmark = pytest.mark.anyio

HELLO = "query Hello($name: String!) { hello(name: $name) }"
COUNT = "subscription Count { count(to: 1) }"
SPEND = "mutation Spend { spend(cost: 1) { __typename } }"
TWO = 'query First { hello(name: "first") } query Second { hello(name: "second") }'
OLDER = 'query Greeting { hello(name: "older release") }'
NEWER = 'query Greeting { hello(name: "newer release") }'
KNOWN = (HELLO, COUNT, SPEND, TWO, OLDER, NEWER)
FREE = "{ hello }"

NOT_FOUND = {
    "message": "PersistedQueryNotFound",
    "extensions": {
        "code": "PERSISTED_QUERY_NOT_FOUND",
        "reason": (
            "No document of this hash is known. Documents are not registered at run time: add it to KNOWN_DOCUMENTS "
            "and start the server anew."
        ),
    },
}
NOT_A_DOCUMENT_ID = 'documentId must be "sha256:<64 hex digits>": the SHA-256 of the document\'s exact text.'
NOT_APOLLOS = 'extensions.persistedQuery must be {"version": 1, "sha256Hash": "<64 hex digits>"}.'

Parameters = Mapping[str, Any]
Ask = Callable[..., Awaitable[Any]]


def knowing(*texts: str, free_for: Collection[str] = ()) -> GraphQLEngine:
    """An edge that knows these documents, with plans or without them as this test runs."""
    return _made(texts, frozenset(free_for), plans=sample_schema.engine._cache is not None)


@cache
def _made(texts: tuple[str, ...], free_for: frozenset[str], *, plans: bool) -> GraphQLEngine:
    library = PersistedDocuments(
        [PersistedDocument(text, "known.graphql") for text in texts], arbitrary_documents=free_for
    )
    return GraphQLEngine(
        sample_schema.schema._schema, introspection=False, compile_operations=plans, persisted_documents=library
    )


def over_http(execution: GraphQLEngine) -> GraphQLOverHTTP:
    return GraphQLOverHTTP(execution, authenticator, state, graphiql=False, get_queries=True)


async def by_post(execution: GraphQLEngine, parameters: Parameters, bearer: str | None = None) -> Any:
    return (await sent(orjson.dumps(parameters), to=over_http(execution), bearer=bearer)).json


async def by_get(execution: GraphQLEngine, parameters: Parameters, bearer: str | None = None) -> Any:
    return (await got(parameters, to=over_http(execution), bearer=bearer)).json


async def by_event_stream(execution: GraphQLEngine, parameters: Parameters, bearer: str | None = None) -> Any:
    """The first item, or the answer that was given in the place of a stream."""
    asked: list[Message] = [{"type": "http.request", "body": orjson.dumps(parameters), "more_body": False}]
    replies: list[Message] = []

    async def receive() -> Message:
        if not asked:
            await asyncio.Event().wait()
        return asked.pop()

    async def send(message: Message) -> None:
        replies.append(message)

    headers = [(b"content-type", b"application/json"), (b"accept", b"text/event-stream")]
    if bearer is not None:
        headers.append((b"authorization", f"Bearer {bearer}".encode()))
    scope = {"type": "http", "method": "POST", "path": "/graphql", "query_string": b"", "headers": headers}
    await over_http(execution)(scope, receive, send)
    whole = b"".join(message.get("body", b"") for message in replies)
    if dict(replies[0]["headers"])[b"content-type"].startswith(b"text/event-stream"):
        first, _, rest = whole.partition(b"\n\n")
        assert rest == b"event: complete\ndata:\n\n"
        return orjson.loads(first.removeprefix(b"event: next\ndata: "))
    return orjson.loads(whole)


async def by_websocket(execution: GraphQLEngine, parameters: Parameters, bearer: str | None = None) -> Any:
    async with connected(execution, bearer=bearer) as client:
        await client.init()
        await client.say({"id": "1", "type": "subscribe", "payload": parameters})
        message = await client.said()
        if message["type"] == "error":
            await client.say({"type": "ping"})  # one operation that is refused never ends the others
            assert await client.said() == {"type": "pong"}
            return {"errors": message["payload"]}
        assert await client.said() == {"id": "1", "type": "complete"}
        return message["payload"]


WAYS: dict[str, Ask] = {
    "POST": by_post,
    "GET": by_get,
    "event stream": by_event_stream,
    "WebSocket": by_websocket,
}
every_way = pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)

NAMINGS: dict[str, Callable[[str], dict[str, Any]]] = {
    "documentId": lambda hash: {"documentId": f"sha256:{hash}"},
    "documentId in bare hex": lambda hash: {"documentId": hash},
    "documentId in capitals": lambda hash: {"documentId": hash.upper()},
    "Apollo": lambda hash: {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": hash}}},
    "Apollo with an empty text": lambda hash: {"query": ""} | NAMINGS["Apollo"](hash),
    "both alike": lambda hash: NAMINGS["documentId"](hash) | NAMINGS["Apollo"](hash),
}
every_naming = pytest.mark.parametrize("naming", NAMINGS.values(), ids=NAMINGS)


def refused(payload: Any) -> tuple[str, str]:
    """Code and message of the only error of an answer without data."""
    assert "data" not in payload
    [error] = payload["errors"]
    return error["extensions"]["code"], error["message"]


@every_way
@every_naming
async def test_a_known_document_is_carried_out_by_its_hash(ask: Ask, naming: Callable[[str], dict[str, Any]]) -> None:
    named = naming(document_hash(HELLO)) | {"variables": {"name": "ada"}}
    assert await ask(knowing(*KNOWN), named) == {"data": {"hello": "hello ada"}}


@pytest.mark.parametrize("ask", [by_event_stream, by_websocket])
@every_naming
async def test_a_known_subscription_is_followed_by_its_hash(ask: Ask, naming: Callable[[str], dict[str, Any]]) -> None:
    assert await ask(knowing(*KNOWN), naming(document_hash(COUNT)), token()) == {"data": {"count": 1}}


async def test_a_known_mutation_is_not_carried_out_by_get() -> None:
    by_hash = {"documentId": document_hash(SPEND)}
    operator = token("olga", operator=True)
    sample_schema.resolver_calls.clear()
    assert refused(await by_get(knowing(*KNOWN), by_hash, operator))[0] == "METHOD_NOT_ALLOWED"
    assert sample_schema.resolver_calls == []
    assert await by_post(knowing(*KNOWN), by_hash, operator) == {"data": {"spend": {"__typename": "SpendSuccess"}}}


@every_way
@every_naming
async def test_a_hash_that_is_not_known_is_told_in_the_words_that_stock_clients_know(
    ask: Ask, naming: Callable[[str], dict[str, Any]]
) -> None:
    assert await ask(knowing(*KNOWN), naming(document_hash(HELLO + " "))) == {"errors": [NOT_FOUND]}


@every_way
@pytest.mark.parametrize("free_for", [CALLER_KINDS, frozenset()], ids=["free", "not free"])
async def test_a_document_is_not_registered_by_sending_its_text_with_its_hash(
    ask: Ask, free_for: frozenset[str]
) -> None:
    execution, named = knowing(*KNOWN, free_for=free_for), NAMINGS["Apollo"](document_hash(FREE))

    assert await ask(execution, named) == {"errors": [NOT_FOUND]}
    with_text = await ask(execution, named | {"query": FREE})
    if free_for:
        assert with_text == {"data": {"hello": "hello world"}}
    else:
        assert refused(with_text)[0] == "DOCUMENT_NOT_ALLOWED"
    assert await ask(execution, named) == {"errors": [NOT_FOUND]}


@every_way
@pytest.mark.parametrize(
    "document_id",
    [
        "",
        "sha256:",
        "Hello",
        document_hash(HELLO)[1:],
        document_hash(HELLO) + "0",
        "md5:" + document_hash(HELLO),
        "g" * 64,
        "٣" * 64,
    ],
)
async def test_a_document_id_that_is_no_hash_is_told_what_it_must_be(ask: Ask, document_id: str) -> None:
    answer = await ask(knowing(*KNOWN, free_for=CALLER_KINDS), {"documentId": document_id, "query": FREE})
    assert refused(answer) == ("BAD_REQUEST", NOT_A_DOCUMENT_ID)


@pytest.mark.parametrize("ask", [by_post, by_event_stream, by_websocket])
@pytest.mark.parametrize("document_id", [7, True, [], {}])
async def test_a_document_id_that_is_no_text_is_told_the_same(ask: Ask, document_id: object) -> None:
    assert refused(await ask(knowing(*KNOWN), {"documentId": document_id})) == ("BAD_REQUEST", NOT_A_DOCUMENT_ID)


@every_way
@pytest.mark.parametrize("version", [0, 2, -1, 2**53])
async def test_another_version_of_apollos_extension_is_refused_with_the_one_to_send(ask: Ask, version: int) -> None:
    named = {"extensions": {"persistedQuery": {"version": version, "sha256Hash": document_hash(HELLO)}}}
    says = f"extensions.persistedQuery has version {version}, which is not supported: send version 1."
    assert refused(await ask(knowing(*KNOWN), named)) == ("BAD_REQUEST", says)


@every_way
@pytest.mark.parametrize(
    "extension",
    [
        {"sha256Hash": document_hash(HELLO)},
        {"version": "1", "sha256Hash": document_hash(HELLO)},
        {"version": None, "sha256Hash": document_hash(HELLO)},
        {"version": 1},
        {"version": 1, "sha256Hash": 7},
        {"version": 1, "sha256Hash": "Hello"},
        {"version": 1, "sha256Hash": ""},
        document_hash(HELLO),
        [],
    ],
)
async def test_another_shape_of_apollos_extension_is_refused_with_the_one_to_send(ask: Ask, extension: object) -> None:
    named = {"extensions": {"persistedQuery": extension}}
    assert refused(await ask(knowing(*KNOWN), named)) == ("BAD_REQUEST", NOT_APOLLOS)


@every_way
async def test_two_hashes_that_disagree_are_refused(ask: Ask) -> None:
    named = NAMINGS["documentId"](document_hash(HELLO)) | NAMINGS["Apollo"](document_hash(TWO))
    says = "documentId and extensions.persistedQuery differ: send one of them, or equal values."
    assert refused(await ask(knowing(*KNOWN), named)) == ("BAD_REQUEST", says)


@every_way
@every_naming
@pytest.mark.parametrize("text", [FREE, NEWER])
async def test_a_hash_and_a_text_that_disagree_are_refused(
    ask: Ask, naming: Callable[[str], dict[str, Any]], text: str
) -> None:
    answer = await ask(knowing(*KNOWN, free_for=CALLER_KINDS), naming(document_hash(OLDER)) | {"query": text})
    assert refused(answer) == ("BAD_REQUEST", "The hash is not the SHA-256 of the document sent with it.")


@pytest.mark.parametrize("accept", ["application/json", GRAPHQL_JSON])
async def test_what_names_no_document_is_no_request_and_a_hash_that_is_not_known_is_one(accept: str) -> None:
    edge = over_http(knowing(*KNOWN))
    assert (await sent(orjson.dumps({"documentId": "Hello"}), to=edge, accept=accept)).status == 400
    unknown = await sent(orjson.dumps({"documentId": "0" * 64}), to=edge, accept=accept)
    assert unknown.status == (200 if accept == "application/json" else 400)


KINDS: dict[str, Caller | None] = {"anonymous": None, "users": USER, "services": SERVICE, "operators": OPERATOR}


@pytest.mark.parametrize("free", [(), *[(kind,) for kind in KINDS], tuple(KINDS)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_text_of_ones_own_is_served_to_the_kinds_of_callers_that_may_send_one(
    kind: str, free: tuple[str, ...]
) -> None:
    execution = knowing(*KNOWN, free_for=free)
    answer = await execution.execute(GraphQLRequest(FREE), sample_schema.context(KINDS[kind]))
    if kind in free:
        assert answer.payload == {"data": {"hello": "hello world"}}
        return
    assert not answer.ran
    callers = "anonymous callers" if kind == "anonymous" else kind
    says = (
        f"Texts of one's own are not served to {callers} here: send a known document, by its hash or by exactly its "
        "text."
    )
    assert refused(answer.payload) == ("DOCUMENT_NOT_ALLOWED", says)


@every_way
@pytest.mark.parametrize(("bearer", "allowed"), [(None, False), ("user", False), ("operator", True)])
async def test_who_may_send_a_text_of_ones_own_is_the_same_over_every_transport(
    ask: Ask, bearer: str | None, allowed: bool
) -> None:
    proof = token("ada", operator=bearer == "operator") if bearer else None
    answer = await ask(knowing(*KNOWN, free_for=["operators", "services"]), {"query": FREE}, proof)
    if allowed:
        assert answer == {"data": {"hello": "hello world"}}
    else:
        assert refused(answer)[0] == "DOCUMENT_NOT_ALLOWED"


@every_way
async def test_a_text_that_equals_a_known_one_is_not_free_and_one_that_nearly_does_is(ask: Ask) -> None:
    execution = knowing(*KNOWN)
    assert await ask(execution, {"query": OLDER}) == {"data": {"hello": "hello older release"}}
    assert refused(await ask(execution, {"query": OLDER + " "}))[0] == "DOCUMENT_NOT_ALLOWED"


@every_way
async def test_texts_of_two_releases_with_one_operation_name_are_told_apart_by_their_hashes(ask: Ask) -> None:
    execution = knowing(*KNOWN)
    for text, greeting in ((OLDER, "hello older release"), (NEWER, "hello newer release")):
        asked = {"documentId": f"sha256:{document_hash(text)}", "operationName": "Greeting"}
        assert await ask(execution, asked) == {"data": {"hello": greeting}}


@every_way
async def test_of_a_document_of_several_operations_one_is_named(ask: Ask) -> None:
    execution, named = knowing(*KNOWN), {"documentId": document_hash(TWO)}
    assert await ask(execution, named | {"operationName": "First"}) == {"data": {"hello": "hello first"}}
    assert await ask(execution, named | {"operationName": "Second"}) == {"data": {"hello": "hello second"}}
    assert refused(await ask(execution, named)) == (
        "BAD_USER_INPUT",
        "The document must hold one operation, or operationName must name one of several.",
    )
    assert refused(await ask(execution, named | {"operationName": "Third"})) == (
        "BAD_USER_INPUT",
        "The document has no operation named 'Third'.",
    )


async def test_known_documents_are_compiled_before_the_first_request_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    long = HELLO + " #" + "x" * MAX_CACHED_LENGTH
    execution = _made.__wrapped__((*KNOWN, long), CALLER_KINDS, plans=True)
    made = {key: known.compiled for key, known in execution._ahead.items()}
    assert made.keys() == {
        *((text, name) for text in (HELLO, long) for name in (None, "Hello")),
        *((text, name) for text in (OLDER, NEWER) for name in (None, "Greeting")),
        *((COUNT, name) for name in (None, "Count")),
        *((SPEND, name) for name in (None, "Spend")),
        *((TWO, name) for name in ("First", "Second")),
    }
    assert None not in made.values()
    learnt = execution._cache
    assert learnt is not None
    assert (execution.execution_counts.compiled, len(learnt)) == (0, 0)

    def no_more(*_: object) -> None:
        raise AssertionError("a known document is prepared once, at start")

    monkeypatch.setattr(execution._documents, "parse_and_validate", no_more)
    for text in (HELLO, long):
        asked = GraphQLRequest("", {"name": "ada"}, document_hash=document_hash(text))
        answer = await execution.execute(asked, RequestContext(None, state))
        assert answer.payload == {"data": {"hello": "hello ada"}}
    assert (execution.execution_counts.compiled, len(learnt)) == (2, 0)


def test_a_server_does_not_start_with_documents_that_cannot_be_carried_out(tmp_path: Path) -> None:
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
        ("[]", "It is neither of the two shapes."),
        ("{", "It is not JSON"),
    ],
)
def test_a_server_does_not_start_with_documents_that_cannot_be_read(
    tmp_path: Path, text: str | None, says: str
) -> None:
    path = tmp_path / "manifest.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Misconfigured, match="Problems with KNOWN_DOCUMENTS: 1;") as refusal:
        main.create_app(production(known_documents=str(path)))
    assert says in str(refusal.value)


async def test_a_server_knows_the_documents_that_its_setting_names(tmp_path: Path) -> None:
    text = "query Anybody {\r\n  __typename\r\n}\r\n"
    (tmp_path / "anybody.graphql").write_bytes(text.encode())
    application = main.create_app(production(known_documents=str(tmp_path)))
    edge: Any = application
    for asked, outcome in (
        ({"documentId": document_hash(text)}, {"data": {"__typename": "Query"}}),
        ({"query": text}, {"data": {"__typename": "Query"}}),
        ({"query": text.replace("\r", "")}, "DOCUMENT_NOT_ALLOWED"),
    ):
        reply = await sent(orjson.dumps(asked), to=edge, host="credits.example.com")
        assert (reply.json if isinstance(outcome, dict) else reply.code) == outcome
