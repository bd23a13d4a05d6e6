"""GraphQL over server-sent events: the graphql-sse protocol in distinct connections mode.

A request with `Accept: text/event-stream` executes one operation and receives a stream of its items:

    event: next
    id: 17
    data: {"data": {"balance": {"available": 83, "version": 17}}}

    event: complete
    data:

`id` is the version of the item. A client that reconnects with it as Last-Event-ID receives only newer items.

A refusal before the first item is an ordinary response if the client accepts one. If the client accepts only event
streams, the refusal is an item of a stream with status 200, because graphql-sse retries after any other status. Only
refusals after which a retry may succeed have another status: a rate limit (429) or a rejected token (401).

A stream that ends without `complete` was interrupted: the caller's credential expired or was revoked, or the server
stopped. Clients then reconnect with a new token. No `retry` line is sent, because graphql-sse rejects it.
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
from app.server.security_headers import SECURITY_HEADERS
from app.server.stopping import STOPPING

KEEP_ALIVE_SECONDS: Final = 12.0
"""If no item was sent for this time, a comment is sent, so that proxies do not close the connection as idle."""
FIRST_ITEM_SECONDS: Final = 0.25
"""The time that the response waits for the first item or a refusal. Then the stream starts without it."""
CLOSE_SECONDS: Final = 2.0
"""The time that a slow client may take to read the end of its stream."""
HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    *SECURITY_HEADERS,
    (b"x-accel-buffering", b"no"),  # nginx would otherwise buffer items
)
COMMENT: Final = b":\n\n"
COMPLETE: Final = b"event: complete\ndata:\n\n"
_VERSION: Final = re.compile(rb"[0-9]{1,16}")

WatchRevocation = Callable[[OnRevoked], Callable[[], None]]
OnError = Callable[[Mapping[str, Any]], None]

log = logging.getLogger(__name__)


def parse_last_event_id(last_event_id: bytes | None) -> int | None:
    """Return the version in a Last-Event-ID header, or None if there is no header or its value is not a version."""
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
    """Send the items of an operation as an event stream.

    `watch_revocation` registers a function that is called when the caller's credential is revoked, and returns a
    function that removes it. `on_error` is called with a masked error that ends the stream. `accepts_json` means that
    the client also accepts an ordinary response.

    Returns: None, or the ordinary response to an operation that was refused before its stream started.
    """
    async with aclosing(items):
        stream = _EventStream(items, context, send, on_error)
        try:
            await stream.wait_for_first_item(accepts_json=accepts_json)
            has_disconnected = await _run_until_one_ends(
                stream.send_items(),
                _wait_for_disconnect(receive),
                _wait_for_expiry(context),
                _wait_for_revocation(watch_revocation),
                _wait_for_stop(),
            )
            if not has_disconnected:
                await stream.end()
        except OperationFailed as failed:
            return GraphQLResponse({"errors": failed.errors}, ran=False, retry_after_seconds=failed.retry_after_seconds)
        finally:
            await stream.cancel_next_item()
    return None


async def _run_until_one_ends(sending: Coroutine[Any, Any, None], *waiting: Coroutine[Any, Any, bool]) -> bool:
    """Run all until one ends, then cancel the others. Returns: whether the client has disconnected."""
    tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(coroutine) for coroutine in (sending, *waiting)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return any(task.result() for task in done)
    except OSError:
        return True
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> bool:
    while (await receive())["type"] != "http.disconnect":
        pass
    return True


async def _wait_for_expiry(context: RequestContext[Any]) -> bool:
    expires_at = context.caller.expires_at if context.caller is not None else None
    if expires_at is None:
        await asyncio.Event().wait()
    else:
        await asyncio.sleep((expires_at - datetime.now(UTC)).total_seconds())
    return False


async def _wait_for_revocation(watch_revocation: WatchRevocation) -> bool:
    revoked = asyncio.Event()
    stop_watching = watch_revocation(revoked.set)
    try:
        await revoked.wait()
    finally:
        stop_watching()
    return False


async def _wait_for_stop() -> bool:
    stopped = asyncio.Event()
    with STOPPING.calls(stopped.set):
        await stopped.wait()
    return False


class _EventStream:
    """The stream of one operation.

    An item is requested only after the previous one was sent, so no items are queued.
    """

    def __init__(
        self, items: AsyncGenerator[bytes, None], context: RequestContext[Any], send: Send, on_error: OnError
    ) -> None:
        self._items = items
        self._context = context
        self._send = send
        self._on_error = on_error
        self._last_sent_version = context.last_seen_version
        self._next_item: asyncio.Future[bytes | None] | None = None
        self._has_started = False

    async def wait_for_first_item(self, *, accepts_json: bool) -> None:
        """Wait briefly for the first item, so that a refusal can be sent as an ordinary response.

        Raises: OperationFailed: the operation was refused, and the client receives an ordinary response.
        """
        if (first := await self._wait_for_item(FIRST_ITEM_SECONDS)) is None:
            return
        try:
            await first
        except OperationFailed as failed:
            if accepts_json or failed.retry_after_seconds is not None:
                raise

    async def send_items(self) -> None:
        """Send items until the operation ends. Raises: OSError: the client has disconnected."""
        await self._send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
        self._has_started = True
        while (event := await self._next_event()) is not None:
            await self._send_body(event)
        await self._send_body(COMPLETE)

    async def end(self) -> None:
        """End the response body."""
        if not self._has_started:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._send_body(b"", more=False)
        except (OSError, TimeoutError):
            log.debug("the client did not read the end of its stream")

    async def cancel_next_item(self) -> None:
        if self._next_item is not None:
            self._next_item.cancel()
            await asyncio.gather(self._next_item, return_exceptions=True)

    async def _next_event(self) -> bytes | None:
        """Return the next event or comment, or None if the operation has ended."""
        if (arrived := await self._wait_for_item(KEEP_ALIVE_SECONDS)) is None:
            return COMMENT
        self._next_item = None
        try:
            item = await arrived
        except OperationFailed as failed:
            item = orjson.dumps({"errors": failed.errors})
        except Exception as fault:
            error = mask_fault(fault, self._context)
            self._on_error(error)
            item = orjson.dumps({"errors": [error]})
        if item is None:
            return None
        return b"event: next\n%bdata: %b\n\n" % (self._id_line(), item)

    async def _wait_for_item(self, seconds: float) -> asyncio.Future[bytes | None] | None:
        """Return the next item if it arrives in time. Otherwise the next call waits for the same item."""
        if self._next_item is None:
            self._next_item = asyncio.ensure_future(self._advance())
        done, _ = await asyncio.wait([self._next_item], timeout=seconds)
        return self._next_item if done else None

    async def _advance(self) -> bytes | None:
        return await anext(self._items, None)

    def _id_line(self) -> bytes:
        """Return the `id` line with the version of the item. It is empty if the version is missing or unchanged."""
        version = self._context.last_seen_version
        if version is None or version == self._last_sent_version:
            return b""
        self._last_sent_version = version
        return b"id: %d\n" % version

    async def _send_body(self, body: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
