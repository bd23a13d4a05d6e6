"""A TCP proxy that forwards, delays, loses or cuts: between clients and the server, or the server and PostgreSQL."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

APPLICATION_NAME: Final = re.compile(rb"application_name\0([^\0]+)\0")
"""Its place in the first message of a PostgreSQL connection."""
CHUNK_BYTES: Final = 65_536


class Link:
    """One forwarded connection. A dead link forwards nothing more and closes nothing, as after a lost route."""

    def __init__(self, client: Streams, upstream: Streams) -> None:
        self.client = client
        self.upstream = upstream
        self.application_name = ""
        """That of a connection to PostgreSQL; empty if it has none."""
        self.is_dead = False
        self.is_released = asyncio.Event()

    def close(self) -> None:
        self.is_released.set()
        for _, writer in (self.client, self.upstream):
            writer.transport.abort()


class TcpProxy:
    """Listens on a port of its own; `connect` opens a connection to what is behind it."""

    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        self._connect = connect
        self.port = 0
        self.links: set[Link] = set()
        self.delay_seconds = 0.0
        """The time that each chunk takes, in each direction."""
        self.cut_share = 0.0
        """The share of replies that are lost: the connection is closed instead, or after a part of the reply."""
        self.cut_replies = 0
        self._dies_next: str | None = None
        self._is_open = asyncio.Event()
        self._is_open.set()

    def kill_links(self) -> None:
        """Make every link dead. New connections are not affected."""
        for link in self.links:
            link.is_dead = True

    def close_dead_links(self) -> None:
        """Let both ends see that the dead links are closed."""
        for link in [link for link in self.links if link.is_dead]:
            link.close()

    def kill_next_link(self, application_name: str) -> None:
        """Make the next link of this name that sends a request dead: the request arrives, its reply does not."""
        self._dies_next = application_name

    @asynccontextmanager
    async def black_hole(self) -> AsyncIterator[None]:
        """Make every link dead, and forward nothing of new connections until the end of the block."""
        self._is_open.clear()
        self.kill_links()
        try:
            yield
        finally:
            self._is_open.set()

    async def _forward_requests(self, link: Link) -> None:
        (reader, _), (_, writer) = link.client, link.upstream
        while data := await reader.read(CHUNK_BYTES):
            if found := APPLICATION_NAME.search(data):
                link.application_name = found[1].decode()
            await self._wait()
            if not link.is_dead:
                writer.write(data)
            if self._dies_next == link.application_name and not found:
                self._dies_next, link.is_dead = None, True

    async def _forward_replies(self, link: Link) -> None:
        (reader, _), (_, writer) = link.upstream, link.client
        while data := await reader.read(CHUNK_BYTES):
            await self._wait()
            if link.is_dead:
                continue
            if random.random() < self.cut_share:  # noqa: S311  not used for security
                self.cut_replies += 1
                writer.write(data[: random.choice((0, len(data) // 2))])  # noqa: S311  not used for security
                await asyncio.sleep(0)
                return
            writer.write(data)

    async def _wait(self) -> None:
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        if not self._is_open.is_set():
            await self._is_open.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until one of its ends closes it. A dead link stays open until it is closed."""
        try:
            upstream = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        link = Link((reader, writer), upstream)
        self.links.add(link)
        try:
            await _first(self._forward_requests(link), self._forward_replies(link))
            if link.is_dead:
                await link.is_released.wait()
        finally:
            self.links.discard(link)
            link.close()


async def _first(*forwarders: Coroutine[Any, Any, None]) -> None:
    """Wait until one of them ends, and cancel the others."""
    tasks = [asyncio.create_task(forwarder) for forwarder in forwarders]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(result, OSError | asyncio.CancelledError | None):
                raise result


@asynccontextmanager
async def running_proxy(connect: Callable[[], Awaitable[Streams]]) -> AsyncIterator[TcpProxy]:
    """A proxy on a free port, which ends with all its connections at the end of the block."""
    proxy = TcpProxy(connect)
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        for task in list(serving):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*serving, return_exceptions=True)
