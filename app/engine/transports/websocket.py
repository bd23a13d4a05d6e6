"""GraphQL over WebSocket, by the graphql-transport-ws protocol. No other protocol is supported.

Close codes are those of the protocol, with one exception: a rejected or expired credential closes with 4403. Common
clients retry after 4403 with a new token, but not after 4401.

Back-pressure: the next message is read after the previous one was handled, and the next item of a subscription is
requested after the previous one was sent. This module limits messages, operations and pings of the GraphQL protocol on
any server. `app.server.websocket_limits` limits bytes and pings of the WebSocket protocol.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import ExitStack, aclosing, suppress
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from starlette.types import Receive, Scope, Send
from strawberry.http.websocket_origin import is_same_origin

from app import exact_json
from app.auth.authenticator import Authenticator
from app.auth.caller import Caller
from app.engine.context import RequestContext, client_address_of
from app.engine.errors import ErrorCode, format_error, mask_fault
from app.engine.execution import GraphQLEngine, GraphQLRequest, OperationFailed
from app.engine.limits.rate_limiter import TokenBuckets
from app.engine.transports import connection_limits, request_parsing
from app.engine.transports.authentication import authenticate
from app.engine.transports.connection_limits import ConnectionLimits
from app.errors import RejectedCredential, RequestError

PROTOCOL: Final = "graphql-transport-ws"
EXPIRED: Final = "Forbidden: the token has expired"
INIT_SECONDS: Final = 10.0
MAX_OPERATIONS: Final = 100
"""The maximum number of concurrent operations of one connection, including subscriptions."""
MAX_MESSAGE_BYTES: Final = request_parsing.MAX_USER_BODY_BYTES
"""The maximum size of a message. Larger requests must be sent by HTTP."""
PINGS_PER_SECOND: Final = 10
PING_BURST: Final = 100
"""How many pings and pongs of the GraphQL protocol a client may send at once. Common clients send few."""
MAX_REASON_LENGTH: Final = 100
"""The maximum number of characters of a close reason. A WebSocket allows 123 bytes."""

log = logging.getLogger(__name__)


class _Closed(Exception):
    """The server closes the connection with this code and reason."""

    def __init__(self, code: int, reason: str, *, logged_reason: str | None = None) -> None:
        """`logged_reason` is for the request log."""
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.logged_reason = logged_reason

    def as_error(self) -> dict[str, Any]:
        """Return the error for the request log."""
        return format_error(self.reason, f"CLOSED_{self.code}")


class GraphQLOverWebSocket:
    """The ASGI application of the WebSocket transport."""

    def __init__(
        self,
        engine: GraphQLEngine,
        authenticator: Authenticator,
        state: Any,
        *,
        allowed_origins: Collection[str] = (),
        allow_same_host: bool = True,
        init_seconds: float = INIT_SECONDS,
        connections_per_caller: int = 20,
        pending_per_address: int = connection_limits.MAX_PENDING_CONNECTIONS,
    ) -> None:
        """`allowed_origins` are origins whose pages may connect; "*" means any origin.

        `allow_same_host` also allows pages of the host that the request addresses. `init_seconds` is how long a
        connection may wait for connection_init. `connections_per_caller` applies to users and anonymous callers.
        """
        self.engine = engine
        self.authenticator = authenticator
        self.state = state
        self.init_seconds = init_seconds
        self.limits = ConnectionLimits(connections_per_caller, pending_per_address)
        self._allowed_origins = frozenset(allowed_origins)
        self._allow_same_host = allow_same_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        context = RequestContext(None, self.state, transport="websocket", client_address=client_address_of(scope))
        if not self._is_origin_allowed(headers.get(b"origin"), headers.get(b"host")):
            await self._reject(_Closed(4403, "Origin not allowed"), context, send)
            return
        is_supported = PROTOCOL in scope["subprotocols"]
        await send({"type": "websocket.accept", "subprotocol": PROTOCOL if is_supported else None})
        if not is_supported:
            await self._reject(_Closed(4406, "Subprotocol not acceptable"), context, send)
            return
        await _Connection(self, context, receive, send).run(headers.get(b"authorization"))

    async def _reject(self, closed: _Closed, context: RequestContext[Any], send: Send) -> None:
        self.engine.log_refusal(context, closed.as_error())
        await send({"type": "websocket.close", "code": closed.code, "reason": closed.reason})

    def _is_origin_allowed(self, origin: str | None, host: str | None) -> bool:
        """Return whether a page of this origin may connect.

        CORS does not apply to WebSockets. Without this check any page could connect from its visitor's network.
        """
        if origin is None or self._allowed_origins & {"*", origin.lower()}:
            return True
        return self._allow_same_host and is_same_origin(origin, host)


class _Connection:
    """One accepted connection: its caller and its operations."""

    def __init__(
        self, server: GraphQLOverWebSocket, context: RequestContext[Any], receive: Receive, send: Send
    ) -> None:
        self._server = server
        self._engine = server.engine
        self._handshake_context = context
        self._receive = receive
        self._send_event = send
        self._is_acknowledged = False
        self._caller: Caller | None = None
        self._operations: dict[str, asyncio.Task[None]] = {}
        self._pings = TokenBuckets(PINGS_PER_SECOND, burst=PING_BURST)
        self._until_closed = ExitStack()
        self._until_acknowledged = ExitStack()
        self._timeout_close = _Closed(4408, "Connection initialisation timeout")
        """The code and reason with which the connection is closed when its timeout expires."""

    async def run(self, authorization: str | None) -> None:
        """Serve the connection until it is closed.

        `authorization` is the handshake's header, used if connection_init has none.
        """
        self._authorization = authorization
        async with asyncio.TaskGroup() as self._tasks:
            try:
                await self._receive_messages()
            except _Closed as closed:
                if closed.reason != EXPIRED:  # the normal end of a long connection is not logged as a refusal
                    self._handshake_context.caller = self._caller
                    self._engine.log_refusal(self._handshake_context, closed.as_error(), closed.logged_reason)
                await self._close(closed)
            except OSError:
                pass  # the client disconnected while a response was sent
            finally:
                self._until_closed.close()
                for task in self._operations.values():
                    task.cancel()

    async def _receive_messages(self) -> None:
        try:
            # The timeout is first that of connection_init, then that of the credential's expiry.
            async with asyncio.timeout(self._server.init_seconds) as self._timeout:
                with self._until_acknowledged:
                    self._until_acknowledged.enter_context(
                        self._server.limits.pending(self._context(), self._close_as_pending)
                    )
                    while (text := await self._receive_text()) is not None:
                        await self._handle(text)
        except TimeoutError:
            raise self._timeout_close from None

    async def _receive_text(self) -> str | None:
        """Return the next message, or None if the client has disconnected."""
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            return None
        text = event.get("text")
        if not isinstance(text, str):
            raise _Closed(4400, "Messages must be text")
        if len(text) > MAX_MESSAGE_BYTES or (not text.isascii() and len(text.encode()) > MAX_MESSAGE_BYTES):
            raise _Closed(1009, "Message too big")
        return text

    async def _handle(self, text: str) -> None:
        try:
            message = exact_json.loads(text)
        except ValueError:
            raise _Closed(4400, "Messages must be JSON") from None
        match message:
            case {"type": "connection_init"}:
                await self._handle_init(message.get("payload"))
            case {"type": "ping" | "pong" as kind} if isinstance(message.get("payload"), dict | None):
                await self._handle_ping(kind)
            case {"type": "subscribe", "id": str(id), "payload": dict(payload)} if id:
                await self._handle_subscribe(id, payload)
            case {"type": "complete", "id": str(id)}:
                if task := self._operations.pop(id, None):
                    task.cancel()
            case _:
                raise _Closed(4400, "Invalid message")

    async def _handle_ping(self, kind: str) -> None:
        """Answer a ping. Pings do not count against the caller's rate; each connection has a separate rate for them."""
        if self._pings.take(""):
            raise _Closed(1008, "Too many pings")
        if kind == "ping":
            await self._send({"type": "pong"})

    async def _handle_init(self, payload: object) -> None:
        if self._is_acknowledged:
            raise _Closed(4429, "Too many initialisation requests")
        if not isinstance(payload, dict | None):
            raise _Closed(4400, "Invalid connection_init payload")
        try:
            self._caller = await self._authenticate(payload or {})
        except RejectedCredential as rejected:
            text = f"Forbidden: {rejected.reason}"[:MAX_REASON_LENGTH] if rejected.is_revealed else "Forbidden"
            raise _Closed(4403, text, logged_reason=rejected.reason) from None
        except RequestError as error:
            raise _Closed(1013, str(error)[:MAX_REASON_LENGTH]) from None
        self._is_acknowledged = True
        self._until_acknowledged.close()
        self._timeout_close = _Closed(4403, EXPIRED)
        self._timeout.reschedule(_to_loop_time(self._caller.expires_at) if self._caller else None)
        self._until_closed.callback(self._server.authenticator.watch_revocation(self._caller, self._close_as_revoked))
        self._until_closed.enter_context(self._server.limits.established(self._context(), self._close_as_oldest))
        await self._send({"type": "connection_ack"})

    async def _authenticate(self, payload: Mapping[str, object]) -> Caller | None:
        """Raises: RateLimited, RejectedCredential, Unavailable."""
        values = {name.lower(): value for name, value in payload.items() if value is not None}
        match values.get("authorization"), values.get("token"):
            case None, None:
                authorization = self._authorization
            case str(text), _:
                authorization = text
            case None, str(token):
                authorization = f"Bearer {token}"
            case _:
                authorization = ""  # not a string: rejected
        return await authenticate(self._engine, self._server.authenticator, self._context(), authorization)

    def _context(self) -> RequestContext[Any]:
        return RequestContext(
            self._caller,
            self._server.state,
            transport="websocket",
            client_address=self._handshake_context.client_address,
        )

    def _close_as_revoked(self) -> None:
        self._close_now(_Closed(4403, "Forbidden: the key was revoked"))

    def _close_as_pending(self) -> None:
        self._close_now(_Closed(1013, connection_limits.TOO_MANY_PENDING))

    def _close_as_oldest(self) -> None:
        self._close_now(_Closed(connection_limits.TOO_MANY_CONNECTIONS_CODE, connection_limits.TOO_MANY_CONNECTIONS))

    def _close_now(self, closed: _Closed) -> None:
        self._timeout_close = closed
        with suppress(RuntimeError):  # the timeout has expired or ended already
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def _handle_subscribe(self, id: str, payload: dict[str, Any]) -> None:
        if not self._is_acknowledged:
            raise _Closed(4401, "Unauthorized")
        if id in self._operations:
            raise _Closed(4409, f"Subscriber for {id[:40]} already exists")
        try:
            request = request_parsing.parse_request(payload)
        except request_parsing.InvalidDocumentId as error:
            await self._refuse_operation(id, str(error))
            return
        except request_parsing.MalformedRequest:
            raise _Closed(4400, "Invalid subscribe payload") from None
        if len(self._operations) >= MAX_OPERATIONS:
            await self._refuse_operation(id, f"A connection may have at most {MAX_OPERATIONS} operations at a time.")
            return
        self._operations[id] = self._tasks.create_task(self._run_operation(id, request))

    async def _refuse_operation(self, id: str, message: str) -> None:
        """Refuse one operation. The connection stays open."""
        error = format_error(message, ErrorCode.BAD_REQUEST)
        self._engine.log_refusal(self._context(), error)
        await self._send({"id": id, "type": "error", "payload": [error]})

    async def _run_operation(self, id: str, request: GraphQLRequest) -> None:
        """Send the items of an operation, then its end. Handles all exceptions, so that other operations continue."""
        context = self._context()
        try:
            last_message: dict[str, Any] = {"id": id, "type": "complete"}
            try:
                async with aclosing(self._engine.stream(request, context)) as items:
                    async for item in items:
                        await self._send({"id": id, "type": "next", "payload": orjson.Fragment(item)})
            except OperationFailed as failed:
                last_message = {"id": id, "type": "error", "payload": failed.errors}
            self._release_id(id)  # first, because the client may then use the id again
            await self._send(last_message)
        except OSError:
            pass  # the client has disconnected; `run` detects that too
        except Exception as fault:
            self._release_id(id)
            error = mask_fault(fault, context)
            self._engine.log_refusal(context, error)
            await self._send_last_error(id, error)

    async def _send_last_error(self, id: str, error: dict[str, Any]) -> None:
        try:
            await self._send({"id": id, "type": "error", "payload": [error]})
        except (OSError, RuntimeError):
            log.debug("the client disconnected before it received an error")

    def _release_id(self, id: str) -> None:
        if self._operations.get(id) is asyncio.current_task():  # the client may have reused the id
            del self._operations[id]

    async def _send(self, message: Mapping[str, Any]) -> None:
        text = orjson.dumps(message).decode()
        try:
            await self._send_event({"type": "websocket.send", "text": text})
        except RuntimeError as error:  # the server has closed: a message was too big, or not UTF-8
            raise ConnectionAbortedError("the connection was closed") from error

    async def _close(self, closed: _Closed) -> None:
        try:
            await self._send_event({"type": "websocket.close", "code": closed.code, "reason": closed.reason})
        except (OSError, RuntimeError):
            log.debug("the client closed first")


def _to_loop_time(at: datetime | None) -> float | None:
    """Return the time of the event loop's clock, or None if `at` is None."""
    if at is None:
        return None
    return asyncio.get_running_loop().time() + (at - datetime.now(UTC)).total_seconds()
