"""GraphQL over server-sent events: graphql-sse's protocol, in distinct connections mode.

A request that takes text/event-stream is one operation, and its answer the stream of what it yields:

    event: next
    id: 17
    data: {"data": {"balance": {"available": 83, "version": 17}}}

    event: complete
    data:

`id` is the version of the balance in that item; who comes back with it as Last-Event-ID is told only what is newer.
What is refused before the stream begins is an ordinary answer to who takes one, too. Who takes nothing but a stream is
told of the errors by an item, as the protocol asks: its client takes every status but 200 for a lost connection, and
sends the same again. Such a status has only what may be served the next time: too much is asked for now, or the token
is not accepted.

A stream that ends without `complete` was cut off, by
the end of the caller's token or of the server: stock clients come back by themselves, with a fresh token.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from starlette.types import Receive, Send

from app.auth.service_key_cache import OnRevoked
from app.engine.context import RequestContext
from app.engine.errors import mask_fault
from app.engine.execution import GraphQLResponse, OperationFailed

KEEP_ALIVE_SECONDS: Final = 12.0
"""Silence after which a comment is sent, so that nobody on the way takes the connection for dead."""
FIRST_ITEM_SECONDS: Final = 0.25
"""How long the first item, or a refusal, is waited for before the stream is begun without it."""

HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),  # a proxy that gathers what it passes on would hold items back
)
CLOSE_SECONDS: Final = 2.0
"""How long a client that reads slowly may take to let the end of its stream in."""
COMMENT: Final = b":\n\n"
COMPLETE: Final = b"event: complete\ndata:\n\n"
_VERSION: Final = re.compile(rb"[0-9]{1,16}")

WatchRevocation = Callable[[OnRevoked], Callable[[], None]]
OnError = Callable[[Mapping[str, Any]], None]

log = logging.getLogger(__name__)


def parse_last_event_id(last_event_id: bytes | None) -> int | None:
    """The version in a Last-Event-ID; one that is not ours counts as none, so that all is told anew."""
    return int(last_event_id) if last_event_id is not None and _VERSION.fullmatch(last_event_id) else None


async def stream_response(
    items: AsyncGenerator[bytes, None],
    context: RequestContext[Any],
    receive: Receive,
    send: Send,
    *,
    watch_revocation: WatchRevocation,
    on_error: OnError,
    accepts_json: bool,
) -> GraphQLResponse | None:
    """Stream what an operation yields. `watch` has what it is given called when the caller's proof is withdrawn, and
    returns what ends the watch; `faulted` is told of a masked fault that ends the stream. `takes_answers`: whether the
    client takes an ordinary answer, too.

    Returns: the ordinary answer to an operation that was refused before its stream began; None: it was streamed.
    """
    async with aclosing(items):
        stream = _Stream(items, context, send, on_error)
        try:
            await stream.begin(takes_answers=accepts_json)
            gone = await _first_of(stream.carry_on(), _gone(receive), _expired(context), _revoked(watch_revocation))
            if not gone:
                await stream.end()
        except OperationFailed as failed:
            return GraphQLResponse({"errors": failed.errors}, ran=False, retry_after_seconds=failed.retry_after_seconds)
        finally:
            await stream.stop()
    return None


async def _first_of(sending: Coroutine[Any, Any, None], *watching: Coroutine[Any, Any, bool]) -> bool:
    """Run all until one ends, and end the others. Returns: whether the client has gone."""
    tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(one) for one in (sending, *watching)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return any(task.result() for task in done)
    except OSError:
        return True
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _gone(receive: Receive) -> bool:
    while (await receive())["type"] != "http.disconnect":
        pass
    return True


async def _expired(context: RequestContext[Any]) -> bool:
    ends_at = context.caller.expires_at if context.caller is not None else None
    if ends_at is None:
        await asyncio.Event().wait()
    else:
        await asyncio.sleep((ends_at - datetime.now(UTC)).total_seconds())
    return False


async def _revoked(watch: WatchRevocation) -> bool:
    """Wait until the caller's proof is withdrawn."""
    told = asyncio.Event()
    unwatch = watch(told.set)
    try:
        await told.wait()
    finally:
        unwatch()
    return False


class _Stream:
    """What is sent of one operation: an item is asked for when the one before it has been sent, so none is queued."""

    def __init__(
        self, items: AsyncGenerator[bytes, None], context: RequestContext[Any], send: Send, faulted: OnError
    ) -> None:
        self._items = items
        self._context = context
        self._send = send
        self._faulted = faulted
        self._told_version = context.last_seen_version
        self._upcoming: asyncio.Future[bytes | None] | None = None
        self._begun = False

    async def begin(self, *, takes_answers: bool) -> None:
        """Wait a moment for the first item, so that a refusal needs no stream.

        Raises: what the operation raises; not OperationFailed where it has to be streamed.
        """
        if (first := await self._within(FIRST_ITEM_SECONDS)) is None:
            return
        try:
            await first
        except OperationFailed as failed:
            if takes_answers or failed.retry_after_seconds is not None:
                raise

    async def carry_on(self) -> None:
        """Send until the operation ends. Raises: OSError: the client has gone."""
        await self._send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
        self._begun = True
        while (frame := await self._frame()) is not None:
            await self._body(frame)
        await self._body(COMPLETE)

    async def end(self) -> None:
        """Say that nothing more comes."""
        if not self._begun:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._body(b"", more=False)
        except (OSError, TimeoutError):
            log.debug("the client did not take the end of its stream")

    async def stop(self) -> None:
        """Let go of the item that is being waited for."""
        if self._upcoming is not None:
            self._upcoming.cancel()
            await asyncio.gather(self._upcoming, return_exceptions=True)

    async def _frame(self) -> bytes | None:
        """What is sent next; None: the operation has ended."""
        if (arrived := await self._within(KEEP_ALIVE_SECONDS)) is None:
            return COMMENT
        self._upcoming = None  # the next one is asked for when this one has been sent
        try:
            item = await arrived
        except OperationFailed as failed:
            item = orjson.dumps({"errors": failed.errors})
        except Exception as fault:
            problem = mask_fault(fault, self._context)
            self._faulted(problem)
            item = orjson.dumps({"errors": [problem]})
        if item is None:
            return None
        return b"event: next\n%bdata: %b\n\n" % (self._id(), item)

    async def _within(self, seconds: float) -> asyncio.Future[bytes | None] | None:
        """The next item if it comes in time; it is waited for once, however often this is called."""
        if self._upcoming is None:
            self._upcoming = asyncio.ensure_future(self._advance())
        done, _ = await asyncio.wait([self._upcoming], timeout=seconds)
        return self._upcoming if done else None

    async def _advance(self) -> bytes | None:
        return await anext(self._items, None)

    def _id(self) -> bytes:
        """The line that names the version of this item, where it has one that is new."""
        version = self._context.last_seen_version
        if version is None or version == self._told_version:
            return b""
        self._told_version = version
        return b"id: %d\n" % version

    async def _body(self, body: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
