"""GraphQL over HTTP: POST /graphql. In development also queries by GET, and GraphiQL.

Status codes follow the GraphQL over HTTP specification. If the operation did not run, for example because the document
is not valid, the status is 400 for application/graphql-response+json and 200 for application/json. If a rate limit was
exceeded, the status is 429. A client that prefers text/event-stream to JSON receives an event stream for every
operation (`sse`). A client that accepts both without this preference receives it only for a subscription.
"""

import asyncio
import logging
import re
from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

import orjson
from graphql import OperationType
from starlette.types import Receive, Scope, Send
from strawberry.http.ides import get_graphql_ide_html

from app import tracing
from app.auth.authenticator import Authenticator, has_service_key
from app.auth.caller import Caller
from app.db import failures
from app.engine.context import RequestContext, client_address_of
from app.engine.errors import DATABASE_UNAVAILABLE, ErrorCode, format_error, mask_fault
from app.engine.execution import GraphQLEngine, GraphQLRequest, GraphQLResponse, Prepared, operation_type
from app.engine.transports import request_parsing, sse
from app.engine.transports.authentication import authenticate
from app.engine.transports.content_negotiation import GRAPHQL_JSON, HTML, JSON, Accepted, negotiate
from app.errors import RateLimited, RejectedCredential, RequestError, Unavailable
from app.server.security_headers import SECURITY_HEADERS
from app.server.stopping import STOPPING

READ_METHODS: Final = frozenset({"GET", "HEAD"})
CLIENT_DISCONNECTED: Final = "CLIENT_DISCONNECTED"
"""An outcome in the request log. It is not sent to clients."""
UNCOUNTED_STATUSES: Final = frozenset({401, 429, 503})
"""Statuses that do not count here against the rate of the client address.

401: `authenticate` has counted the rejected credential. 429: the limit was already exceeded. 503: the request was not
the cause.
"""
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CHARSET: Final = re.compile(rb';[ \t]*charset[ \t]*=[ \t]*"?([^";\s]*)', re.IGNORECASE)

Headers = dict[bytes, bytes]

STOPPED: Final = "The server is stopping. A mutation may have been executed: send the same request again in a moment."

log = logging.getLogger(__name__)


class _Refused(Exception):
    """The response has this status and one error. No operation runs."""

    def __init__(
        self, status: int, message: str, code: str, *headers: tuple[bytes, bytes], reason: str | None = None
    ) -> None:
        """`reason` is for the request log."""
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.error = format_error(message, code)
        self.headers = headers


class _HTTPRequest(NamedTuple):
    method: str
    query_string: bytes
    headers: Headers
    authorization: str | None
    accepted: Accepted
    receive: Receive
    send: Send


class GraphQLOverHTTP:
    """The ASGI application of the HTTP and SSE transports."""

    def __init__(
        self,
        engine: GraphQLEngine,
        authenticator: Authenticator,
        state: Any,
        *,
        graphiql: bool,
        get_queries: bool = False,
    ) -> None:
        """`graphiql` says whether browsers receive GraphiQL by GET.

        `get_queries` says whether queries may be sent by GET.
        """
        self._engine = engine
        self._authenticator = authenticator
        self._state = state
        self._graphiql_page = get_graphql_ide_html("graphiql").encode() if graphiql else None
        self._methods = ("POST", "GET", "HEAD", "OPTIONS") if get_queries else ("POST", "OPTIONS")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if tracing.is_on():
            with tracing.request_span(f"{scope['method']} /graphql", scope["headers"]):
                await self._handle(scope, receive, send)
        else:
            await self._handle(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope["headers"])
        accept, authorization = headers.get(b"accept"), headers.get(b"authorization")
        request = _HTTPRequest(
            method=scope["method"],
            query_string=scope.get("query_string", b""),
            headers=headers,
            authorization=authorization.decode("latin-1") if authorization is not None else None,
            accepted=negotiate(accept),
            receive=receive,
            send=send,
        )
        if request.method == "OPTIONS":
            await _respond(request, 204, b"", more_headers=[_allow(*self._methods)])
            return
        if self._graphiql_page and request.method in READ_METHODS and accept is not None and HTML in accept:
            await _respond(request, 200, self._graphiql_page, HTML)
            return
        context = RequestContext(
            None, self._state, request_id=_request_id(headers), client_address=client_address_of(scope)
        )
        more_headers: Iterable[tuple[bytes, bytes]] = ()
        media_type = request.accepted.media_type or (GRAPHQL_JSON if request.accepted.accepts_stream else JSON)
        try:
            response = await self._execute(request, context)
            if response is None:
                return
            status = 200 if response.ran or media_type is JSON else 400
            if response.retry_after_seconds is not None:
                status, more_headers = 429, [_retry_after(response.retry_after_seconds)]
            payload = orjson.dumps(response.payload)
        except _Refused as refused:
            refused = self._record_failure(refused, request, context)
            status, more_headers = refused.status, refused.headers
            payload = orjson.dumps({"errors": [refused.error]})
            self._engine.log_refusal(context, refused.error, refused.reason)
        except request_parsing.ClientDisconnected:
            self._engine.log_refusal(context, format_error("The client disconnected.", CLIENT_DISCONNECTED))
            return
        except asyncio.CancelledError:
            # The server is stopping and cannot wait for this request any longer. The response of an event stream has
            # begun, so its status cannot change.
            if not STOPPING.has_begun or context.transport == "sse":
                raise
            error = format_error(STOPPED, Unavailable.code)
            status, more_headers, payload = 503, [_retry_after(1)], orjson.dumps({"errors": [error]})
            self._engine.log_refusal(context, error)
        except Exception as fault:
            error = mask_fault(fault, context)
            status, payload = 500, orjson.dumps({"errors": [error]})
            self._engine.log_refusal(context, error)
        await _respond(request, status, payload, media_type, more_headers)

    async def _execute(self, request: _HTTPRequest, context: RequestContext[Any]) -> GraphQLResponse | None:
        """Return the response, or None if an event stream was sent. Raises: _Refused, ClientDisconnected."""
        _check_headers(request, self._methods)
        context.caller = await self._authenticate(request.authorization, context)
        operation = await _parse(request, context.caller)
        accepted = request.accepted
        if request.method == "POST" and not accepted.accepts_stream:
            return await self._engine.execute(operation, context)
        if request.method == "POST" and accepted.prefers_stream:
            return await self._stream(request, operation, context)
        # The type of the operation decides. If the operation may not run, `execute` responds with the reason.
        prepared = self._engine.prepare(operation, context)
        kind = operation_type(prepared)
        if request.method in READ_METHODS and kind is OperationType.MUTATION:
            raise _Refused(405, "Send mutations by POST.", ErrorCode.METHOD_NOT_ALLOWED, _allow("POST"))
        streams = accepted.prefers_stream or (accepted.accepts_stream and kind is OperationType.SUBSCRIPTION)
        if not streams or request.method == "HEAD":
            return await self._engine.execute(operation, context, prepared)
        return await self._stream(request, operation, context, prepared)

    async def _stream(
        self,
        request: _HTTPRequest,
        operation: GraphQLRequest,
        context: RequestContext[Any],
        prepared: Prepared | None = None,
    ) -> GraphQLResponse | None:
        context.transport = "sse"
        context.last_seen_version = sse.parse_last_event_id(request.headers.get(b"last-event-id"))
        return await sse.stream_response(
            self._engine.stream(operation, context, prepared),
            context,
            request.receive,
            request.send,
            watch_revocation=lambda on_revoked: self._authenticator.watch_revocation(context.caller, on_revoked),
            on_error=lambda error: self._engine.log_refusal(context, error),
            accepts_json=request.accepted.media_type is not None,
        )

    async def _authenticate(self, authorization: str | None, context: RequestContext[Any]) -> Caller | None:
        try:
            if authorization is None:
                self._engine.check_address_rate(context)  # before the body is read
            return await authenticate(self._engine, self._authenticator, context, authorization)
        except RateLimited as error:
            raise _rate_limited(error) from None
        except RejectedCredential as error:
            raise _Refused(401, str(error), error.code, (b"www-authenticate", b"Bearer"), reason=error.reason) from None
        except RequestError as error:
            raise _Refused(503, str(error), error.code, _retry_after(1)) from None
        except Exception as error:
            if not failures.is_database_failure(error):
                raise
            log.warning("a service key could not be read: %s", error)
            raise _Refused(503, DATABASE_UNAVAILABLE, Unavailable.code, _retry_after(1)) from None

    def _record_failure(self, refused: _Refused, request: _HTTPRequest, context: RequestContext[Any]) -> _Refused:
        """Count the refusal against the rate of the client address.

        Returns: the refusal, or another one if there were too many. Requests with a service key do not count here, so
        that an accepted service is never rate limited.
        """
        if refused.status in UNCOUNTED_STATUSES or has_service_key(request.authorization):
            return refused
        try:
            self._engine.record_failure(context)
        except RateLimited as error:
            return _rate_limited(error)
        return refused


def _rate_limited(error: RateLimited) -> _Refused:
    refused = _Refused(429, str(error), error.code, _retry_after(error.retry_after_seconds))
    refused.error["extensions"]["retryAfterSeconds"] = error.retry_after_seconds
    return refused


def _check_headers(request: _HTTPRequest, methods: Collection[str]) -> None:
    """Raises: _Refused: the method, content type, encoding or accepted types are not supported."""
    if request.method not in methods:
        raise _Refused(405, "Send operations by POST.", ErrorCode.METHOD_NOT_ALLOWED, _allow(*methods))
    if request.method == "POST":
        if not _is_json_type(request.headers.get(b"content-type", b"")):
            raise _Refused(415, "Send Content-Type: application/json, in UTF-8.", ErrorCode.UNSUPPORTED_MEDIA_TYPE)
        if request.headers.get(b"content-encoding", b"identity").strip().lower() not in {b"identity", b""}:
            raise _Refused(400, "Send the body without Content-Encoding.", ErrorCode.BAD_REQUEST)
    if request.accepted.media_type is None and not request.accepted.accepts_stream:
        raise _Refused(
            406,
            "Accept application/graphql-response+json, application/json or text/event-stream.",
            ErrorCode.NOT_ACCEPTABLE,
        )


def _is_json_type(content_type: bytes) -> bool:
    """Return whether a body with this Content-Type is JSON in UTF-8. Parameters other than `charset` are ignored."""
    if content_type == JSON:
        return True
    charset = _CHARSET.search(content_type)
    is_utf8 = charset is None or charset[1].lower() in {b"utf-8", b"utf8"}
    return is_utf8 and content_type.partition(b";")[0].strip().lower() == JSON


async def _parse(request: _HTTPRequest, caller: Caller | None) -> GraphQLRequest:
    """Return the operation in the body or the URL. Raises: _Refused, ClientDisconnected."""
    limit = request_parsing.max_body_bytes(caller)
    try:
        if request.method in READ_METHODS:
            return request_parsing.parse_query_string(request.query_string, limit)
        length = request.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise request_parsing.BodyTooLarge
        return request_parsing.parse_body(await request_parsing.read_body(request.receive, limit))
    except request_parsing.BodyTooLarge:
        raise _Refused(413, f"The body exceeds {limit:,} bytes.", ErrorCode.PAYLOAD_TOO_LARGE) from None
    except request_parsing.MalformedRequest as error:
        raise _Refused(400, str(error), ErrorCode.BAD_REQUEST) from None


def _allow(*methods: str) -> tuple[bytes, bytes]:
    return b"allow", ", ".join(methods).encode()


def _retry_after(seconds: int) -> tuple[bytes, bytes]:
    return b"retry-after", b"%d" % seconds


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers. Repeated ones are joined with a comma, so two Authorization headers become an invalid one."""
    headers: Headers = {}
    for name, value in pairs:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _request_id(headers: Headers) -> str | None:
    """Return the value of X-Request-ID if it may be written to the log."""
    value = headers.get(b"x-request-id")
    return value.decode() if value is not None and _REQUEST_ID.fullmatch(value) else None


async def _respond(
    request: _HTTPRequest,
    status: int,
    payload: bytes,
    media_type: bytes | None = None,
    more_headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    headers = [*SECURITY_HEADERS, *more_headers]
    if media_type is not None:
        headers += [
            (b"content-type", media_type + b"; charset=utf-8"),
            (b"content-length", b"%d" % len(payload)),
        ]
    await request.send({"type": "http.response.start", "status": status, "headers": headers})
    await request.send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else payload})
