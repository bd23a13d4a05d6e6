"""The request log, and the redaction of log records in production."""

import asyncio
import logging
from typing import Any

import orjson
import pytest
from starlette.types import Message

from app.auth.caller import Caller, CallerKind
from app.engine.execution import GraphQLEngine, GraphQLRequest, OperationFailed
from app.engine.transports.http import GraphQLOverHTTP
from app.server.log_setup import JsonFormatter
from app.server.request_log import LoggedRequest, RequestLog
from tests.engine import sample_schema
from tests.engine.transports.http_client import graphql_body, send_request
from tests.engine.transports.websocket_client import open_accepted_connection, open_connection, websocket_server

pytestmark = pytest.mark.anyio

FIELDS = {
    "at",
    "level",
    "event",
    "transport",
    "kind",
    "operation",
    "caller",
    "outcome",
    "ms",
    "request",
    "reference",
    "reason",
}
INIT = {"type": "connection_init"}
SUBSCRIBE = {"id": "1", "type": "subscribe", "payload": {"query": "subscription { forever }"}}
LINE = LoggedRequest("http", "service", "abc", "ok", 0.00123, "mutation", "charge")


class LoggingEngine:
    """An engine of the sample schema with its request log."""

    def __init__(self, mode: Any = "all") -> None:
        self.text = ""
        self.log = RequestLog("json", mode, write=self._write, clock=lambda: 1_767_225_600)
        self.engine = GraphQLEngine(
            sample_schema.schema._schema, introspection=True, compile_operations=True, request_log=self.log
        )

    def _write(self, text: str) -> None:
        self.text += text

    @property
    def lines(self) -> list[dict[str, Any]]:
        self.log.flush()
        return [orjson.loads(line) for line in self.text.splitlines()]


async def test_a_request_is_logged_as_one_line_with_these_fields() -> None:
    logged = LoggingEngine()
    await logged.engine.execute(GraphQLRequest("query Greet { hello }"), sample_schema.context(sample_schema.USER))
    [line] = logged.lines
    assert line.keys() == FIELDS - {"reference", "reason"}
    assert line | {"ms": 0, "request": ""} == {
        "at": "2026-01-01T00:00:00Z", "level": "info", "event": "operation", "transport": "http", "kind": "query",
        "operation": "Greet", "caller": "user", "outcome": "ok", "ms": 0, "request": "",
    }  # fmt: skip
    assert 0 <= line["ms"] < 1000


@pytest.mark.parametrize(
    ("query", "caller", "operation", "logged_caller", "outcome"),
    [
        ("{ hello }", None, "hello", "anonymous", "ok"),
        ("{ me }", None, "me", "anonymous", "UNAUTHENTICATED"),
        ("{ audit }", sample_schema.USER, "audit", "user", "FORBIDDEN"),
        ("{", sample_schema.OPERATOR, "-", "operator", "GRAPHQL_PARSE_FAILED"),
        ("mutation { spend(cost: 500) { __typename } }", sample_schema.SERVICE, "spend", "service", "ok"),
        ("subscription { forever }", sample_schema.USER, "forever", "user", "BAD_REQUEST"),
        ("query " + "N" * 100 + " { hello }", sample_schema.USER, "N" * 64, "user", "ok"),
        ("{ ...F } fragment F on Query { hello }", sample_schema.USER, "fragment", "user", "ok"),
    ],
)
async def test_a_line_has_operation_caller_and_outcome(
    query: str, caller: Caller | None, operation: str, logged_caller: str, outcome: str
) -> None:
    logged = LoggingEngine()
    await logged.engine.execute(GraphQLRequest(query), sample_schema.context(caller))
    [line] = logged.lines
    assert (line["operation"], line["caller"], line["outcome"]) == (operation, logged_caller, outcome)


async def test_an_internal_error_is_logged_with_its_reference() -> None:
    logged = LoggingEngine()
    answer = await logged.engine.execute(GraphQLRequest("{ broken }"), sample_schema.context(sample_schema.USER))
    [line] = logged.lines
    assert line["outcome"] == "INTERNAL"
    assert line["reference"] == answer.payload["errors"][0]["extensions"]["reference"] == line["request"]


async def test_a_subscription_is_logged_when_it_ends() -> None:
    logged = LoggingEngine()
    stream = logged.engine.stream(
        GraphQLRequest("subscription { toyTwice { name } }"), sample_schema.context(sample_schema.USER)
    )
    await anext(stream)
    assert logged.lines == []
    await stream.aclose()
    with pytest.raises(OperationFailed):
        async for _ in logged.engine.stream(
            GraphQLRequest("subscription { breaking }"), sample_schema.context(sample_schema.USER)
        ):
            pass
    assert [(line["kind"], line["outcome"]) for line in logged.lines] == [
        ("subscription", "ok"),
        ("subscription", "INTERNAL"),
    ]


async def test_an_operation_that_a_websocket_refuses_is_logged() -> None:
    logged = LoggingEngine()
    async with open_accepted_connection(websocket_server(logged.engine)) as client:
        await client.init()
        await client.send({"id": "1", "type": "subscribe", "payload": {"documentId": "no hash"}})
        assert (await client.next_message())["type"] == "error"
    assert [(line["transport"], line["outcome"]) for line in logged.lines] == [("websocket", "BAD_REQUEST")]


REFUSED_CONNECTIONS: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "a bad token": ({}, [INIT | {"payload": {"token": "nonsense"}}], "CLOSED_4403"),
    "a bad service key": ({}, [INIT | {"payload": {"token": "ck_nonsense"}}], "CLOSED_4403"),
    "not JSON": ({}, ["{"], "CLOSED_4400"),
    "silence": ({}, [], "CLOSED_4408"),
    "no connection_init": ({}, [SUBSCRIBE], "CLOSED_4401"),
    "a duplicate id": ({}, [INIT, SUBSCRIBE, SUBSCRIBE], "CLOSED_4409"),
    "two connection_inits": ({}, [INIT, INIT], "CLOSED_4429"),
    "another origin": ({"origin": "https://evil.example"}, [], "CLOSED_4403"),
    "another subprotocol": ({"subprotocols": ["graphql-ws"]}, [], "CLOSED_4406"),
}


REJECTIONS = {"a bad token": "malformed token", "a bad service key": "malformed service key"}


@pytest.mark.parametrize("case", REFUSED_CONNECTIONS)
async def test_a_refused_websocket_is_logged(case: str) -> None:
    handshake, messages, outcome = REFUSED_CONNECTIONS[case]
    logged = LoggingEngine()
    await run_until_closed(logged.engine, messages, **handshake)
    [line] = [line for line in logged.lines if line["kind"] == "request"]
    assert line.keys() - {"reason"} == FIELDS - {"reference", "reason"}
    assert (line["transport"], line["caller"], line["outcome"]) == ("websocket", "anonymous", outcome)
    assert line.get("reason") == REJECTIONS.get(case)


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("Bearer nonsense", "malformed token"),
        ("Bearer ck_nonsense", "malformed service key"),
        ("Basic YTpi", "Authorization header without 'Bearer <token or service key>'"),
    ],
)
async def test_a_rejected_credential_is_logged_with_its_reason(authorization: str, reason: str) -> None:
    logged = LoggingEngine()
    server = GraphQLOverHTTP(logged.engine, sample_schema.authenticator, sample_schema.state, graphiql=False)
    reply = await send_request(graphql_body("{ hello }"), to=server, authorization=authorization)
    [line] = logged.lines
    assert (reply.status, line["outcome"], line["reason"]) == (401, "UNAUTHENTICATED", reason)
    assert reason.encode() not in reply.body


async def test_a_websocket_that_closes_because_its_token_expired_is_not_logged() -> None:
    logged = LoggingEngine()
    await run_until_closed(logged.engine, [INIT | {"payload": {"token": sample_schema.token(seconds=-2)}}])
    assert logged.lines == []


async def run_until_closed(engine: GraphQLEngine, messages: list[Any], **handshake: Any) -> None:
    """Open a WebSocket, send the messages and wait until the server closes it."""
    async with open_connection(websocket_server(engine, init_seconds=0.2), **handshake) as client:
        await client.send(*messages)
        while (await client.next_event())["type"] != "websocket.close":
            pass


async def test_a_client_that_disconnects_before_its_body_is_complete_is_logged() -> None:
    logged = LoggingEngine()
    server = GraphQLOverHTTP(logged.engine, sample_schema.authenticator, sample_schema.state, graphiql=False)
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}

    async def disconnect() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        pytest.fail("the client has disconnected")

    await server(scope, disconnect, send)
    assert [(line["transport"], line["outcome"]) for line in logged.lines] == [("http", "CLIENT_DISCONNECTED")]


async def test_lines_are_buffered_for_a_tenth_of_a_second() -> None:
    logged = LoggingEngine()
    for _ in range(3):
        logged.log.add(LINE)
    assert logged.text == ""
    await asyncio.sleep(0.15)
    assert logged.text.count("\n") == 3


def test_without_an_event_loop_a_line_is_written_at_once() -> None:
    logged = LoggingEngine()
    logged.log.add(LINE)
    assert logged.text.count("\n") == 1


@pytest.mark.parametrize(
    ("mode", "charges", "others"), [("all", True, True), ("without-charges", False, True), ("none", False, False)]
)
def test_the_mode_may_exclude_charges_or_everything(mode: Any, charges: bool, others: bool) -> None:
    log = RequestLog("json", mode)
    assert (log.is_logged(charges=True), log.is_logged(charges=False)) == (charges, others)


def test_a_line_in_the_text_format() -> None:
    text: list[str] = []
    log = RequestLog("text", write=text.append, clock=lambda: 1_767_225_600)
    log.add(LINE)
    assert text == ["2026-01-01T00:00:00Z http mutation charge by service: ok in 1.23 ms (request abc)\n"]


def json_record(name: str, message: str, *arguments: object, error: BaseException | None = None) -> Any:
    """The JSON object that production writes for a record."""
    exc_info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord(name, logging.ERROR, "x.py", 1, message, arguments, exc_info)
    return orjson.loads(JsonFormatter().format(record))


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_an_exception_is_logged_with_types_and_stack_and_without_its_message() -> None:
    error = raised(ValueError("the password is hunter2"))
    error.__cause__ = KeyError("hunter2")
    line = json_record("app.engine.errors", "error %s", "ab12", error=error)
    assert line.keys() == {"at", "level", "event", "logger", "message", "error", "stack"}
    assert (line["message"], line["error"]) == ("error ab12", ["ValueError", "KeyError"])
    assert line["stack"][0].startswith("tests/server/test_request_log.py:")
    assert line["stack"][0].endswith(" raised")
    assert "hunter2" not in str(line)


def test_an_exception_in_a_message_is_logged_as_its_type() -> None:
    line = json_record("app.server.health", "not ready: %r", ConnectionError("to db.internal:5432 as postgres"))
    assert line["message"] == "not ready: 'ConnectionError'"


def test_the_messages_of_other_libraries_are_not_logged() -> None:
    assert "hunter2" not in str(json_record("asyncio", "Task exception was never retrieved: ValueError('hunter2')"))
    assert "message" not in json_record("stripe", "hunter2")


def test_the_kinds_of_callers_are_the_values_of_the_log() -> None:
    assert {str(kind) for kind in CallerKind} == {"user", "service", "operator"}
