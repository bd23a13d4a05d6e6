"""GraphQL over HTTP: POST /graphql, and GraphiQL by GET in development.

Status codes follow the GraphQL over HTTP specification: who accepts application/graphql-response+json gets 400 where
the operation did not run; with application/json a well-formed request is always answered 200.
"""

import logging
import re
from collections.abc import Iterable
from typing import Any, Final

import orjson
from starlette.types import Receive, Scope, Send
from strawberry.http.ides import get_graphql_ide_html

from app import database
from app.callers.doorway import Doorway
from app.callers.rules import Viewer
from app.errors import RequestError, Unauthenticated, Unavailable
from app.graphql import body
from app.graphql.context import Context, House, address_of
from app.graphql.execution import Answer, Execution
from app.graphql.faults import OUT_OF_REACH, Code, error, masked

JSON: Final = b"application/json"
GRAPHQL_JSON: Final = b"application/graphql-response+json"
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_JSON_TYPE: Final = re.compile(rb'application/json *(; *charset *= *"?utf-?8"? *)?', re.IGNORECASE)

Headers = dict[bytes, bytes]

log = logging.getLogger(__name__)


class _Refused(Exception):
    """The request is not executed; it is answered with this status and one error."""

    def __init__(self, status: int, message: str, code: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status = status
        self.error = error(message, code)
        self.headers = headers


class GraphQLOverHTTP:
    """The ASGI application of the HTTP transport."""

    def __init__(self, execution: Execution, doorway: Doorway, house: House, *, explorer: bool) -> None:
        """`explorer`: whether GET shows GraphiQL."""
        self._execution = execution
        self._doorway = doorway
        self._house = house
        self._explorer_page = get_graphql_ide_html("graphiql").encode() if explorer else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope["headers"])
        if scope["method"] == "GET" and self._explorer_page and b"text/html" in headers.get(b"accept", b""):
            await _respond(send, 200, self._explorer_page, b"text/html; charset=utf-8")
            return
        media_type = GRAPHQL_JSON if GRAPHQL_JSON in headers.get(b"accept", b"") else JSON
        more_headers: Iterable[tuple[bytes, bytes]] = ()
        context = Context(None, self._house, request_id=_request_id(headers), address=address_of(scope))
        try:
            answer = await self._answer(scope["method"], headers, receive, context)
            status = 200 if answer.ran or media_type is JSON else 400
            if answer.retry_after_seconds is not None:
                status, more_headers = 429, [(b"retry-after", b"%d" % answer.retry_after_seconds)]
            payload = orjson.dumps(answer.payload)
        except _Refused as refused:
            status, more_headers = refused.status, refused.headers
            payload = orjson.dumps({"errors": [refused.error]})
            self._execution.refused(context, refused.error)
        except body.Gone:
            return
        except Exception as fault:
            problem = masked(fault, context)
            status, payload = 500, orjson.dumps({"errors": [problem]})
            self._execution.refused(context, problem)
        await _respond(send, status, payload, media_type + b"; charset=utf-8", more_headers)

    async def _answer(self, method: str, headers: Headers, receive: Receive, context: Context) -> Answer:
        _check(method, headers)
        context.viewer = await self._identify(headers)
        limit = body.allowed_bytes(context.viewer)
        try:
            if headers.get(b"content-length", b"0").isdigit() and int(headers.get(b"content-length", b"0")) > limit:
                raise body.TooLarge
            request = body.parse(await body.read(receive, limit))
        except body.TooLarge:
            raise _Refused(413, f"The body may take at most {limit:,} bytes.", Code.PAYLOAD_TOO_LARGE) from None
        except body.Malformed as malformed:
            raise _Refused(400, str(malformed), Code.BAD_REQUEST) from None
        return await self._execution.answer(request, context)

    async def _identify(self, headers: Headers) -> Viewer | None:
        authorization = headers.get(b"authorization")
        if authorization is None:
            return None
        try:
            return await self._doorway.identify(authorization.decode("latin-1"))
        except Unauthenticated as refusal:
            raise _Refused(401, str(refusal), refusal.code, (b"www-authenticate", b"Bearer")) from None
        except RequestError as refusal:
            raise _Refused(503, str(refusal), refusal.code, (b"retry-after", b"1")) from None
        except Exception as fault:
            if not database.is_lost(fault):
                raise
            log.warning("a service key could not be looked up: %s", fault)
            raise _Refused(503, OUT_OF_REACH, Unavailable.code, (b"retry-after", b"1")) from None


def _check(method: str, headers: Headers) -> None:
    if method != "POST":
        raise _Refused(405, "Send operations by POST.", Code.METHOD_NOT_ALLOWED, (b"allow", b"POST"))
    content_type = headers.get(b"content-type", b"")
    if content_type != JSON and not _JSON_TYPE.fullmatch(content_type.strip()):
        raise _Refused(415, "Send Content-Type: application/json.", Code.UNSUPPORTED_MEDIA_TYPE)
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise _Refused(400, "Send the body without Content-Encoding.", Code.BAD_REQUEST)


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
    send: Send, status: int, payload: bytes, content_type: bytes, more_headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    start: dict[str, Any] = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(payload)),
            (b"cache-control", b"no-store"),
            *more_headers,
        ],
    }
    await send(start)
    await send({"type": "http.response.body", "body": payload})
