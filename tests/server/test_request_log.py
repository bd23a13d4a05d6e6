"""The lines of requests, and how a process logs in production: an allow-list, whatever is put in."""

import asyncio
import logging
from typing import Any

import orjson
import pytest
from starlette.types import Message

from app.auth.caller import Caller, CallerKind
from app.engine.execution import GraphQLEngine, GraphQLRequest, OperationFailed
from app.engine.transports.http import GraphQLOverHTTP
from app.engine.transports.websocket import PROTOCOL, GraphQLOverWebSocket
from app.server.log_setup import JsonFormatter
from app.server.request_log import LoggedRequest, RequestLog
from tests.engine import sample_schema
from tests.engine.transports.all_transports import connected

pytestmark = pytest.mark.anyio

FIELDS = {"at", "level", "event", "transport", "kind", "operation", "caller", "outcome", "ms", "request", "reference"}
INIT = {"type": "connection_init"}
SUBSCRIBE = {"id": "1", "type": "subscribe", "payload": {"query": "subscription { forever }"}}
LINE = LoggedRequest("http", "service", "abc", "ok", 0.00123, "mutation", "charge")


class Written:
    """An edge whose log is kept here."""

    def __init__(self, keep: Any = "all") -> None:
        self.text = ""
        self.log = RequestLog("json", keep, write=self._write, clock=lambda: 1_767_225_600)
        self.execution = GraphQLEngine(
            sample_schema.schema._schema, introspection=True, compile_operations=True, request_log=self.log
        )

    def _write(self, text: str) -> None:
        self.text += text

    @property
    def lines(self) -> list[dict[str, Any]]:
        self.log.flush()
        return [orjson.loads(line) for line in self.text.splitlines()]


async def test_a_request_leaves_one_line_with_these_fields_and_no_others() -> None:
    written = Written()
    await written.execution.execute(GraphQLRequest("query Greet { hello }"), sample_schema.context(sample_schema.USER))
    [line] = written.lines
    assert line.keys() == FIELDS - {"reference"}
    assert line | {"ms": 0, "request": ""} == {
        "at": "2026-01-01T00:00:00Z", "level": "info", "event": "operation", "transport": "http", "kind": "query",
        "operation": "Greet", "caller": "user", "outcome": "ok", "ms": 0, "request": "",
    }  # fmt: skip
    assert 0 <= line["ms"] < 1000


@pytest.mark.parametrize(
    ("query", "viewer", "operation", "caller", "outcome"),
    [
        ("{ hello }", None, "hello", "nobody", "ok"),
        ("{ me }", None, "me", "nobody", "UNAUTHENTICATED"),
        ("{ audit }", sample_schema.USER, "audit", "user", "FORBIDDEN"),
        ("{", sample_schema.OPERATOR, "-", "operator", "GRAPHQL_PARSE_FAILED"),
        ("mutation { spend(cost: 500) { __typename } }", sample_schema.SERVICE, "spend", "service", "ok"),
        ("subscription { forever }", sample_schema.USER, "forever", "user", "BAD_REQUEST"),
        ("query " + "N" * 100 + " { hello }", sample_schema.USER, "N" * 64, "user", "ok"),
        ("{ ...F } fragment F on Query { hello }", sample_schema.USER, "fragment", "user", "ok"),
    ],
)
async def test_the_line_says_what_who_and_how_it_ended(
    query: str, viewer: Caller | None, operation: str, caller: str, outcome: str
) -> None:
    written = Written()
    await written.execution.execute(GraphQLRequest(query), sample_schema.context(viewer))
    [line] = written.lines
    assert (line["operation"], line["caller"], line["outcome"]) == (operation, caller, outcome)


async def test_a_fault_is_named_by_its_reference() -> None:
    written = Written()
    answer = await written.execution.execute(GraphQLRequest("{ broken }"), sample_schema.context(sample_schema.USER))
    [line] = written.lines
    assert line["outcome"] == "INTERNAL"
    assert line["reference"] == answer.payload["errors"][0]["extensions"]["reference"] == line["request"]


async def test_a_subscription_leaves_its_line_at_its_end() -> None:
    written = Written()
    stream = written.execution.stream(
        GraphQLRequest("subscription { toyTwice { name } }"), sample_schema.context(sample_schema.USER)
    )
    await anext(stream)
    assert written.lines == []
    await stream.aclose()
    with pytest.raises(OperationFailed):
        async for _ in written.execution.stream(
            GraphQLRequest("subscription { breaking }"), sample_schema.context(sample_schema.USER)
        ):
            pass
    assert [(line["kind"], line["outcome"]) for line in written.lines] == [
        ("subscription", "ok"),
        ("subscription", "INTERNAL"),
    ]


async def test_an_operation_that_a_connection_does_not_begin_leaves_its_line_too() -> None:
    written = Written()
    async with connected(written.execution) as client:
        await client.init()
        await client.say({"id": "1", "type": "subscribe", "payload": {"documentId": "no hash"}})
        assert (await client.said())["type"] == "error"
    assert [(line["transport"], line["outcome"]) for line in written.lines] == [("websocket", "BAD_REQUEST")]


REFUSED_CONNECTIONS: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "a bad token": ({}, [INIT | {"payload": {"token": "nonsense"}}], "CLOSED_4403"),
    "a key that was guessed": ({}, [INIT | {"payload": {"token": "ck_nonsense"}}], "CLOSED_4403"),
    "no JSON": ({}, ["{"], "CLOSED_4400"),
    "silence": ({}, [], "CLOSED_4408"),
    "no connection_init": ({}, [SUBSCRIBE], "CLOSED_4401"),
    "an id twice": ({}, [INIT, SUBSCRIBE, SUBSCRIBE], "CLOSED_4409"),
    "two connection_inits": ({}, [INIT, INIT], "CLOSED_4429"),
    "another page": ({"origin": "https://evil.example"}, [], "CLOSED_4403"),
    "another protocol": ({"subprotocols": ["graphql-ws"]}, [], "CLOSED_4406"),
}


@pytest.mark.parametrize("what", REFUSED_CONNECTIONS)
async def test_a_refused_connection_leaves_its_line(what: str) -> None:
    handshake, messages, outcome = REFUSED_CONNECTIONS[what]
    written = Written()
    await held(written.execution, messages, **handshake)
    [line] = [line for line in written.lines if line["kind"] == "request"]
    assert line.keys() == FIELDS - {"reference"}
    assert (line["transport"], line["caller"], line["outcome"]) == ("websocket", "nobody", outcome)


async def test_a_connection_whose_token_has_expired_was_not_refused() -> None:
    written = Written()
    await held(written.execution, [INIT | {"payload": {"token": sample_schema.token(seconds=-2)}}])
    assert written.lines == []


async def held(execution: GraphQLEngine, messages: list[Any], **handshake: Any) -> None:
    """A connection that says these things and then waits until the server closes it."""
    sockets = GraphQLOverWebSocket(execution, sample_schema.authenticator, sample_schema.state, init_seconds=0.2)
    waiting: asyncio.Queue[Message] = asyncio.Queue()
    for event in ({"type": "websocket.connect"}, *map(received, messages)):
        await waiting.put(event)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"origin", handshake["origin"].encode())] if "origin" in handshake else []
    scope = {"type": "websocket", "headers": headers, "subprotocols": handshake.get("subprotocols", [PROTOCOL])}
    async with asyncio.timeout(5):
        await sockets(scope, waiting.get, send)
    assert sent[-1]["type"] == "websocket.close"


def received(message: Any) -> Message:
    return {
        "type": "websocket.receive",
        "text": message if isinstance(message, str) else orjson.dumps(message).decode(),
    }


async def test_a_client_that_leaves_before_its_body_is_complete_leaves_a_line() -> None:
    written = Written()
    server = GraphQLOverHTTP(written.execution, sample_schema.authenticator, sample_schema.state, graphiql=False)
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        pytest.fail("nobody is there to be answered")

    await server(scope, gone, send)
    assert [(line["transport"], line["outcome"]) for line in written.lines] == [("http", "CLIENT_GONE")]


async def test_lines_are_written_together_within_a_tenth_of_a_second() -> None:
    written = Written()
    for _ in range(3):
        written.log.add(LINE)
    assert written.text == ""
    await asyncio.sleep(0.15)
    assert written.text.count("\n") == 3


def test_without_a_loop_a_line_is_written_at_once() -> None:
    written = Written()
    written.log.add(LINE)
    assert written.text.count("\n") == 1


@pytest.mark.parametrize(
    ("keep", "charges", "others"), [("all", True, True), ("without-charges", False, True), ("none", False, False)]
)
def test_charges_may_be_left_out(keep: Any, charges: bool, others: bool) -> None:
    log = RequestLog("json", keep)
    assert (log.is_logged(charges=True), log.is_logged(charges=False)) == (charges, others)


def test_in_development_a_line_reads_like_a_sentence() -> None:
    text: list[str] = []
    log = RequestLog("text", write=text.append, clock=lambda: 1_767_225_600)
    log.add(LINE)
    assert text == ["2026-01-01T00:00:00Z http mutation charge by service: ok in 1.23 ms (request abc)\n"]


def record(name: str, message: str, *arguments: object, fault: BaseException | None = None) -> Any:
    """What production writes of a record."""
    made = logging.LogRecord(
        name, logging.ERROR, "x.py", 1, message, arguments, (type(fault), fault, fault.__traceback__) if fault else None
    )
    return orjson.loads(JsonFormatter().format(made))


def raised(fault: Exception) -> Exception:
    try:
        raise fault
    except Exception as found:
        return found


def test_a_fault_is_logged_by_its_types_and_places_and_never_by_its_words() -> None:
    fault = raised(ValueError("the password is hunter2"))
    fault.__cause__ = KeyError("hunter2")
    line = record("app.engine.errors", "fault %s", "ab12", fault=fault)
    assert line.keys() == {"at", "level", "event", "logger", "text", "fault", "places"}
    assert (line["text"], line["fault"]) == ("fault ab12", ["ValueError", "KeyError"])
    assert line["places"][0].startswith("tests/server/test_request_log.py:")
    assert line["places"][0].endswith(" raised")
    assert "hunter2" not in str(line)


def test_a_fault_in_a_text_is_written_as_its_type() -> None:
    line = record("app.main", "not ready: %r", ConnectionError("to db.internal:5432 as postgres"))
    assert line["text"] == "not ready: 'ConnectionError'"


def test_the_text_of_another_library_is_left_out() -> None:
    assert "hunter2" not in str(record("asyncio", "Task exception was never retrieved: ValueError('hunter2')"))
    assert "text" not in record("stripe", "hunter2")


def test_the_kinds_of_callers_are_the_words_of_the_log() -> None:
    assert {str(kind) for kind in CallerKind} == {"user", "service", "operator"}
