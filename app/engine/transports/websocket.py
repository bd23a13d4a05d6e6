"""GraphQL over WebSocket: the graphql-transport-ws protocol, and no other.

Close codes are the protocol's. 4403 is what stock clients retry with a fresh token (4401 is fatal to them): it answers
a refused token, and ends a connection whose token has expired.
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

from app.auth.authenticator import Authenticator
from app.auth.caller import Caller
from app.engine.context import RequestContext, client_address_of
from app.engine.errors import ErrorCode, format_error, mask_fault
from app.engine.execution import GraphQLEngine, GraphQLRequest, OperationFailed
from app.engine.limits.rate_limiter import TokenBuckets
from app.engine.transports import connection_limits, request_parsing
from app.engine.transports.connection_limits import ConnectionLimits
from app.errors import RateLimited, RequestError, Unauthenticated

PROTOCOL: Final = "graphql-transport-ws"
TOKEN_EXPIRED: Final = "Forbidden: the token has expired"
INIT_SECONDS: Final = 10.0
MAX_OPERATIONS: Final = 100
"""At once, in one connection, subscriptions among them."""
MAX_MESSAGE_BYTES: Final = request_parsing.MAX_USER_BODY_BYTES
"""In bytes: more is sent by HTTP."""
PINGS_PER_SECOND: Final = 10
"""And ten seconds' worth at once, pongs among them: clients send one in several seconds."""

log = logging.getLogger(__name__)


class _Closed(Exception):
    """The conversation ends with this close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def as_error(self) -> dict[str, Any]:
        """For the log."""
        return format_error(self.reason, f"CLOSED_{self.code}")


class GraphQLOverWebSocket:
    """The ASGI application of the WebSocket transport."""

    def __init__(
        self,
        execution: GraphQLEngine,
        authenticator: Authenticator,
        state: Any,
        *,
        allowed_origins: Collection[str] = (),
        allow_same_host: bool = True,
        init_seconds: float = INIT_SECONDS,
        connections_per_caller: int = 20,
        pending_per_address: int = connection_limits.MAX_PENDING_CONNECTIONS,
    ) -> None:
        """`allowed_origins`: pages that may connect; "*" allows all. `same_host`: so may any of the host addressed."""
        self._execution = execution
        self._doorway = authenticator
        self._house = state
        self._allowed_origins = frozenset(allowed_origins)
        self._same_host = allow_same_host
        self._init_seconds = init_seconds
        self._connections = ConnectionLimits(connections_per_caller, pending_per_address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        context = RequestContext(None, self._house, transport="websocket", client_address=client_address_of(scope))
        if not self._is_welcome(headers.get(b"origin"), headers.get(b"host")):
            await self._turn_away(_Closed(4403, "Origin not allowed"), context, send)
            return
        spoken = PROTOCOL in scope["subprotocols"]
        await send({"type": "websocket.accept", "subprotocol": PROTOCOL if spoken else None})
        if not spoken:
            await self._turn_away(_Closed(4406, "Subprotocol not acceptable"), context, send)
            return
        conversation = _Conversation(self._execution, self._doorway, self._house, receive, send)
        conversation.address, conversation.connections = context.client_address, self._connections
        await conversation.hold(headers.get(b"authorization"), self._init_seconds)

    async def _turn_away(self, closed: _Closed, context: RequestContext[Any], send: Send) -> None:
        self._execution.log_refusal(context, closed.as_error())
        await send({"type": "websocket.close", "code": closed.code, "reason": closed.reason})

    def _is_welcome(self, origin: str | None, host: str | None) -> bool:
        """A page of another host may not use its visitor's network position, not even to read what anyone may."""
        if origin is None or self._allowed_origins & {"*", origin.lower()}:
            return True
        return self._same_host and is_same_origin(origin, host)


class _Conversation:
    """One connection: its viewer, its operations, and its end."""

    def __init__(
        self, execution: GraphQLEngine, authenticator: Authenticator, state: Any, receive: Receive, send: Send
    ) -> None:
        self._execution = execution
        self._doorway = authenticator
        self._house = state
        self._receive = receive
        self._send_event = send
        self._acknowledged = False
        self._viewer: Caller | None = None
        self._operations: dict[str, asyncio.Task[None]] = {}
        self._ends = ExitStack()
        """What has to be let go of at the end."""
        self._closed = _Closed(4408, "Connection initialisation timeout")
        """How the conversation ends if it is cut off now."""
        self._wait = ExitStack()
        """For connection_init."""
        self._pings = TokenBuckets(PINGS_PER_SECOND, burst=10 * PINGS_PER_SECOND)
        self.address: str | None = None
        self.connections = ConnectionLimits(1)

    async def hold(self, authorization: str | None, init_seconds: float) -> None:
        """Converse until either side closes. `authorization`: the handshake's, should connection_init bring none."""
        self._authorization = authorization
        connection = self._context()
        async with asyncio.TaskGroup() as self._group:
            try:
                await self._until_closed(init_seconds)
            except _Closed as closed:
                if closed.reason != TOKEN_EXPIRED:  # which is how a good one ends
                    connection.caller = self._viewer
                    self._execution.log_refusal(connection, closed.as_error())
                await self._close(closed)
            except OSError:
                pass  # the client went while it was being answered
            finally:
                self._ends.close()
                for task in self._operations.values():
                    task.cancel()

    async def _until_closed(self, init_seconds: float) -> None:
        try:
            async with asyncio.timeout(init_seconds) as self._timeout:  # moved to the token's end when it is known
                with self._wait:
                    self._wait.enter_context(self.connections.pending(self._context(), self._one_waits_too_many))
                    while (text := await self._received()) is not None:
                        await self._handle(text)
        except TimeoutError:
            raise self._closed from None

    async def _received(self) -> str | None:
        """The next message; None: the client has left."""
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
            message = orjson.loads(text)
        except ValueError:
            raise _Closed(4400, "Messages must be JSON") from None
        match message:
            case {"type": "connection_init"}:
                await self._init(message.get("payload"))
            case {"type": "ping" | "pong" as kind}:
                await self._ponder(kind)
            case {"type": "subscribe", "id": str(id), "payload": dict(payload)} if id:
                await self._subscribe(id, payload)
            case {"type": "complete", "id": str(id)}:
                if task := self._operations.pop(id, None):
                    task.cancel()
            case _:
                raise _Closed(4400, "Invalid message")

    async def _ponder(self, kind: str) -> None:
        """Answer a ping. They cost no token of the caller's: who sends very many is sent away."""
        if self._pings.take(""):
            raise _Closed(1008, "Too many pings")
        if kind == "ping":
            await self._say({"type": "pong"})

    async def _init(self, payload: object) -> None:
        if self._acknowledged:
            raise _Closed(4429, "Too many initialisation requests")
        if not isinstance(payload, dict | None):
            raise _Closed(4400, "Invalid connection_init payload")
        try:
            self._viewer = await self._identify(payload or {})
        except Unauthenticated:
            raise self._forbidden() from None
        except RequestError as refusal:
            raise _Closed(1013, str(refusal)[:100]) from None
        self._acknowledged = True
        self._wait.close()
        self._closed = _Closed(4403, TOKEN_EXPIRED)
        self._timeout.reschedule(_loop_time(self._viewer.expires_at) if self._viewer else None)
        self._ends.callback(self._doorway.watch_revocation(self._viewer, self._revoked))
        self._ends.enter_context(self.connections.established(self._context(), self._one_too_many))
        await self._say({"type": "connection_ack"})

    def _forbidden(self) -> _Closed:
        """How credentials are refused: those that come too often, by a code that says to wait."""
        try:
            self._execution.record_failure(self._context())
        except RateLimited as limit:
            return _Closed(1013, str(limit))
        return _Closed(4403, "Forbidden")

    def _context(self) -> RequestContext[Any]:
        return RequestContext(self._viewer, self._house, transport="websocket", client_address=self.address)

    def _revoked(self) -> None:
        """The key was revoked: that ends the conversation as a token's end does."""
        self._cut(_Closed(4403, "Forbidden: the key was revoked"))

    def _one_waits_too_many(self) -> None:
        """Its address has opened a newer connection than may wait for connection_init."""
        self._cut(_Closed(1013, connection_limits.TOO_MANY_PENDING))

    def _one_too_many(self) -> None:
        """The caller has opened a newer connection than it may have."""
        self._cut(_Closed(connection_limits.TOO_MANY_CONNECTIONS_CODE, connection_limits.TOO_MANY_CONNECTIONS))

    def _cut(self, closed: _Closed) -> None:
        """Ended from outside, like this."""
        self._closed = closed
        with suppress(RuntimeError):  # it is ending already
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def _identify(self, payload: Mapping[str, object]) -> Caller | None:
        """Raises: Unauthenticated. Unavailable."""
        given = {name.lower(): value for name, value in payload.items() if value is not None}
        match given.get("authorization"), given.get("token"):
            case None, None:
                return await self._doorway.authenticate(self._authorization)
            case str(authorization), _:
                return await self._doorway.authenticate(authorization)
            case None, str(token):
                return await self._doorway.authenticate_credential(token)
        raise Unauthenticated("authorization and token are strings")

    async def _subscribe(self, id: str, payload: dict[str, Any]) -> None:
        if not self._acknowledged:
            raise _Closed(4401, "Unauthorized")
        if id in self._operations:
            raise _Closed(4409, f"Subscriber for {id[:40]} already exists")
        try:
            request = request_parsing.parse_request(payload)
        except request_parsing.InvalidDocumentId as misnamed:
            await self._refuse(id, str(misnamed))
            return
        except request_parsing.MalformedRequest:
            raise _Closed(4400, "Invalid subscribe payload") from None
        if len(self._operations) >= MAX_OPERATIONS:
            await self._refuse(id, f"A connection carries at most {MAX_OPERATIONS} operations at once.")
            return
        self._operations[id] = self._group.create_task(self._carry_out(id, request))

    async def _refuse(self, id: str, message: str) -> None:
        """The operation does not begin; the others go on."""
        problem = format_error(message, ErrorCode.BAD_REQUEST)
        self._execution.log_refusal(self._context(), problem)
        await self._say({"id": id, "type": "error", "payload": [problem]})

    async def _carry_out(self, id: str, request: GraphQLRequest) -> None:
        """Send what the operation yields, then its end. Raises nothing: one operation never ends the others."""
        context = self._context()
        try:
            last: dict[str, Any] = {"id": id, "type": "complete"}
            try:
                async with aclosing(self._execution.stream(request, context)) as items:
                    async for item in items:
                        await self._say({"id": id, "type": "next", "payload": orjson.Fragment(item)})
            except OperationFailed as failed:
                last = {"id": id, "type": "error", "payload": failed.errors}
            self._forget(id)  # before the last message: its id is free for the client as soon as it reads that
            await self._say(last)
        except OSError:
            pass  # the client has gone; `hold` sees it too
        except Exception as fault:
            self._forget(id)
            problem = mask_fault(fault, context)
            self._execution.log_refusal(context, problem)
            await self._give_up(id, problem)

    async def _give_up(self, id: str, problem: dict[str, Any]) -> None:
        try:
            await self._say({"id": id, "type": "error", "payload": [problem]})
        except (OSError, RuntimeError):
            log.debug("the client left before it was told of a fault")

    def _forget(self, id: str) -> None:
        if self._operations.get(id) is asyncio.current_task():  # else the client ended it and may have used the id anew
            del self._operations[id]

    async def _say(self, message: Mapping[str, Any]) -> None:
        text = orjson.dumps(message).decode()
        try:
            await self._send_event({"type": "websocket.send", "text": text})
        except RuntimeError as closed:  # by the server under this, meanwhile: a message was too big, or no UTF-8
            raise ConnectionAbortedError("the connection was closed") from closed

    async def _close(self, closed: _Closed) -> None:
        try:
            await self._send_event({"type": "websocket.close", "code": closed.code, "reason": closed.reason})
        except (OSError, RuntimeError):
            log.debug("the client closed first")


def _loop_time(instant: datetime | None) -> float | None:
    """The event loop's clock at `instant`."""
    if instant is None:
        return None
    return asyncio.get_running_loop().time() + (instant - datetime.now(UTC)).total_seconds()
