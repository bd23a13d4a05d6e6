"""GraphQL over HTTP: POST /graphql; in development also queries by GET, and GraphiQL.

Status codes follow the GraphQL over HTTP specification: who accepts application/graphql-response+json gets 400 where
the operation did not run; with application/json a well-formed request is always answered 200. Who asks for
text/event-stream gets one (`event_stream`), and who asks for a subscription and takes one as well.
"""

import logging
import re
from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

import orjson
from graphql import OperationType
from starlette.types import Receive, Scope, Send
from strawberry.http.ides import get_graphql_ide_html

from app.auth.authenticator import Authenticator, has_service_key
from app.auth.caller import Caller
from app.db import failures
from app.engine.context import RequestContext, client_address_of
from app.engine.errors import DATABASE_UNAVAILABLE, ErrorCode, format_error, mask_fault
from app.engine.execution import GraphQLEngine, GraphQLRequest, GraphQLResponse, Prepared, operation_type
from app.engine.transports import request_parsing, sse
from app.engine.transports.content_negotiation import GRAPHQL_JSON, HTML, JSON, Accepted, negotiate
from app.errors import RateLimited, RequestError, Unauthenticated, Unavailable

READ_METHODS: Final = frozenset({"GET", "HEAD"})
CLIENT_DISCONNECTED: Final = "CLIENT_GONE"
"""In the log only: nobody is there to be told."""
UNCOUNTED_STATUSES: Final = frozenset({429, 503})
"""Refusals that are not for what was sent."""
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_JSON_TYPE: Final = re.compile(rb'application/json *(; *charset *= *"?utf-?8"? *)?', re.IGNORECASE)

Headers = dict[bytes, bytes]

log = logging.getLogger(__name__)


class _Refused(Exception):
    """The request is not executed; it is answered with this status and one error."""

    def __init__(self, status: int, message: str, code: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status = status
        self.error = format_error(message, code)
        self.headers = headers


class _Call(NamedTuple):
    """One request as it came, and the way back."""

    method: str
    query_string: bytes
    headers: Headers
    authorization: str | None
    takes: Accepted
    receive: Receive
    send: Send


class GraphQLOverHTTP:
    """The ASGI application of the HTTP transport."""

    def __init__(
        self,
        execution: GraphQLEngine,
        authenticator: Authenticator,
        state: Any,
        *,
        graphiql: bool,
        get_queries: bool = False,
    ) -> None:
        """`explorer`: whether GET shows GraphiQL to browsers. `reads_by_get`: whether GET carries out queries."""
        self._execution = execution
        self._doorway = authenticator
        self._house = state
        self._explorer_page = get_graphql_ide_html("graphiql").encode() if graphiql else None
        self._methods = ("POST", "GET", "HEAD", "OPTIONS") if get_queries else ("POST", "OPTIONS")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope["headers"])
        accept, authorization = headers.get(b"accept"), headers.get(b"authorization")
        call = _Call(
            scope["method"],
            scope.get("query_string", b""),
            headers,
            authorization.decode("latin-1") if authorization is not None else None,
            negotiate(accept),
            receive,
            send,
        )
        if call.method == "OPTIONS":
            await _respond(call, 204, b"", more_headers=[_allow(*self._methods)])
            return
        if self._explorer_page and call.method in READ_METHODS and accept is not None and HTML in accept:
            await _respond(call, 200, self._explorer_page, HTML)
            return
        context = RequestContext(
            None, self._house, request_id=_request_id(headers), client_address=client_address_of(scope)
        )
        more_headers: Iterable[tuple[bytes, bytes]] = ()
        media_type = call.takes.media_type or (GRAPHQL_JSON if call.takes.accepts_stream else JSON)
        try:
            answer = await self._answer(call, context)
            if answer is None:
                return
            status = 200 if answer.ran or media_type is JSON else 400
            if answer.retry_after_seconds is not None:
                status, more_headers = 429, [(b"retry-after", b"%d" % answer.retry_after_seconds)]
            payload = orjson.dumps(answer.payload)
        except _Refused as found:
            refused = self._counted(found, call, context)
            status, more_headers = refused.status, refused.headers
            payload = orjson.dumps({"errors": [refused.error]})
            self._execution.log_refusal(context, refused.error)
        except request_parsing.ClientDisconnected:
            self._execution.log_refusal(context, format_error("The client left.", CLIENT_DISCONNECTED))
            return
        except Exception as fault:
            problem = mask_fault(fault, context)
            status, payload = 500, orjson.dumps({"errors": [problem]})
            self._execution.log_refusal(context, problem)
        await _respond(call, status, payload, media_type, more_headers)

    async def _answer(self, call: _Call, context: RequestContext[Any]) -> GraphQLResponse | None:
        """The answer; None: an event stream was sent. Raises: _Refused; Gone."""
        if not has_service_key(call.authorization):
            try:
                self._execution.check_address_rate(context)
            except RateLimited as limit:
                raise _too_often(limit) from None
        _check(call, self._methods)
        context.caller = await self._identify(call.authorization)
        request = await _request(call, context.caller)
        if call.method == "POST" and not call.takes.accepts_stream:
            return await self._execution.execute(request, context)
        if call.method == "POST" and call.takes.prefers_stream:
            return await self._streamed(call, request, context)
        # Here it counts what kind of operation it is; `answer` says why one cannot be carried out at all.
        looked = self._execution.prepare(request, context)
        kind = operation_type(looked)
        if call.method in READ_METHODS and kind is OperationType.MUTATION:
            raise _Refused(405, "Mutations are carried out by POST only.", ErrorCode.METHOD_NOT_ALLOWED, _allow("POST"))
        streams = call.takes.prefers_stream or (call.takes.accepts_stream and kind is OperationType.SUBSCRIPTION)
        if not streams or call.method == "HEAD":
            return await self._execution.execute(request, context, looked)
        return await self._streamed(call, request, context, looked)

    def _counted(self, refused: _Refused, call: _Call, context: RequestContext[Any]) -> _Refused:
        """The refusal, counted for its address; or that there were too many. A service is never told that instead: of
        what brings its key only the refused key counts."""
        if refused.status in UNCOUNTED_STATUSES or (refused.status != 401 and has_service_key(call.authorization)):
            return refused
        try:
            self._execution.record_failure(context)
        except RateLimited as limit:
            return _too_often(limit)
        return refused

    async def _streamed(
        self, call: _Call, request: GraphQLRequest, context: RequestContext[Any], looked: Prepared | None = None
    ) -> GraphQLResponse | None:
        context.transport = "sse"
        context.last_seen_version = sse.parse_last_event_id(call.headers.get(b"last-event-id"))
        items = self._execution.stream(request, context, looked)
        return await sse.stream_response(
            items,
            context,
            call.receive,
            call.send,
            watch_revocation=lambda ended: self._doorway.watch_revocation(context.caller, ended),
            on_error=lambda problem: self._execution.log_refusal(context, problem),
            accepts_json=call.takes.media_type is not None,
        )

    async def _identify(self, authorization: str | None) -> Caller | None:
        try:
            return await self._doorway.authenticate(authorization)
        except Unauthenticated as refusal:
            raise _Refused(401, str(refusal), refusal.code, (b"www-authenticate", b"Bearer")) from None
        except RequestError as refusal:
            raise _Refused(503, str(refusal), refusal.code, (b"retry-after", b"1")) from None
        except Exception as fault:
            if not failures.is_connection_failure(fault):
                raise
            log.warning("a service key could not be looked up: %s", fault)
            raise _Refused(503, DATABASE_UNAVAILABLE, Unavailable.code, (b"retry-after", b"1")) from None


def _too_often(limit: RateLimited) -> _Refused:
    refused = _Refused(429, str(limit), limit.code, (b"retry-after", b"%d" % limit.retry_after_seconds))
    refused.error["extensions"]["retryAfterSeconds"] = limit.retry_after_seconds
    return refused


def _check(call: _Call, methods: Collection[str]) -> None:
    """Raises: _Refused: whatever its body says, the request is not served as it came."""
    if call.method not in methods:
        raise _Refused(405, "Send operations by POST.", ErrorCode.METHOD_NOT_ALLOWED, _allow(*methods))
    if call.method == "POST":
        content_type = call.headers.get(b"content-type", b"")
        if content_type != JSON and not _JSON_TYPE.fullmatch(content_type.strip()):
            raise _Refused(415, "Send Content-Type: application/json.", ErrorCode.UNSUPPORTED_MEDIA_TYPE)
        if call.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _Refused(400, "Send the body without Content-Encoding.", ErrorCode.BAD_REQUEST)
    if call.takes.media_type is None and not call.takes.accepts_stream:
        raise _Refused(
            406,
            "Accept application/graphql-response+json, application/json or text/event-stream.",
            ErrorCode.NOT_ACCEPTABLE,
        )


async def _request(call: _Call, caller: Caller | None) -> GraphQLRequest:
    """The operation that was sent. Raises: _Refused; Gone."""
    limit = request_parsing.max_body_bytes(caller)
    try:
        if call.method in READ_METHODS:
            return request_parsing.parse_query_string(call.query_string, limit)
        length = call.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise request_parsing.BodyTooLarge
        return request_parsing.parse_body(await request_parsing.read_body(call.receive, limit))
    except request_parsing.BodyTooLarge:
        raise _Refused(413, f"The body may take at most {limit:,} bytes.", ErrorCode.PAYLOAD_TOO_LARGE) from None
    except request_parsing.MalformedRequest as malformed:
        raise _Refused(400, str(malformed), ErrorCode.BAD_REQUEST) from None


def _allow(*methods: str) -> tuple[bytes, bytes]:
    return b"allow", ", ".join(methods).encode()


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
    """A repeated header is joined by a comma: two Authorization headers are then no valid one."""
    headers: Headers = {}
    for name, value in pairs:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _request_id(headers: Headers) -> str | None:
    """The id that a proxy or client gave the request, if it can stand in a log."""
    given = headers.get(b"x-request-id")
    return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else None


async def _respond(
    call: _Call,
    status: int,
    payload: bytes,
    media_type: bytes | None = None,
    more_headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    headers = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"), *more_headers]
    if media_type is not None:
        headers += [
            (b"content-type", media_type + b"; charset=utf-8"),
            (b"content-length", b"%d" % len(payload)),
        ]
    await call.send({"type": "http.response.start", "status": status, "headers": headers})
    await call.send({"type": "http.response.body", "body": b"" if call.method == "HEAD" else payload})
