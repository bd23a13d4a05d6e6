"""GraphQL over HTTP as an executor's client sends it, with the patience that one needs."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
import orjson

from app.errors import RequestError, Unavailable
from examples.simulation.documents import Operation

T = TypeVar("T")

ATTEMPTS: Final = 5
PAUSE_SECONDS: Final = 0.1
TIMEOUT_SECONDS: Final = 30.0
KEEP_ALIVE_SECONDS: Final = 2.0
"""Shorter than the server's, so that no request is sent on a connection that it is just closing."""


class UnexpectedResponse(Exception):
    """An answer that no sound server gives."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Who calls: the platform's backend, an operator, and each user by the owner's id."""

    service: str
    operator: str
    user: Callable[[str], str]


class Client:
    def __init__(self, url: str, *, connections: int) -> None:
        self.url = url.rstrip("/")
        self.latencies: dict[str, list[float]] = defaultdict(list)
        """Seconds, by operation; what was lost or repeated is not in it."""
        self.events: Counter[str] = Counter()
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEP_ALIVE_SECONDS
        )
        self.http = httpx.AsyncClient(limits=limits, timeout=TIMEOUT_SECONDS, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def check_ready(self) -> None:
        """Raises: Unavailable: nobody answers there."""
        try:
            ready = await self.http.get(f"{self.url}/readyz")
        except httpx.HTTPError:
            raise Unavailable(
                f"No server answers at {self.url}: start it with `make serve` in another shell, or name one with --url."
            ) from None
        if ready.status_code != 200:
            raise Unavailable(f"The server at {self.url} is not ready: {ready.text[:200]}")

    async def execute(self, token: str, operation: Operation, **variables: Any) -> Any:
        """The operation's one field.

        Raises: Unavailable: the server is gone; RequestError: it refuses the request; Unexpected.
        """
        return await self._patiently(lambda: self._once(token, operation, variables))

    async def request_page(self, method: str, url: str, form: dict[str, str] | None = None) -> httpx.Response:
        """What a person's browser does with a page. Raises: Unavailable: the server is gone."""
        return await self._patiently(lambda: self.http.request(method, url, data=form))

    async def _patiently(self, send: Callable[[], Awaitable[T]]) -> T:
        """What can pass is waited for and sent again: everything that is sent here may be repeated."""
        attempt = 0
        while True:
            try:
                return await send()
            except (httpx.TransportError, _TryAgain) as fault:
                attempt += 1
                self.events["requests repeated"] += 1
                if attempt == ATTEMPTS:
                    raise Unavailable(f"The server at {self.url} does not answer any more: {fault!r}") from fault
            await asyncio.sleep(PAUSE_SECONDS * 2**attempt)

    async def _once(self, token: str, operation: Operation, variables: dict[str, Any]) -> Any:
        began = time.perf_counter()
        reply = await self.http.send(self._request(token, operation, variables))
        elapsed = time.perf_counter() - began
        try:
            body = orjson.loads(reply.content)
        except ValueError:
            raise UnexpectedResponse(f"{operation.name}: {reply.status_code} and no JSON: {reply.text[:200]}") from None
        if errors := body.get("errors"):
            _raise(operation, errors[0])
        self.latencies[operation.name].append(elapsed)
        return body["data"][operation.name]

    async def execute_and_disconnect(
        self, token: str, operation: Operation, *, answered: bool, **variables: Any
    ) -> None:
        """Send a request in full and drop its connection before the reply, or (`answered`) with the reply unread.

        On a connection of its own: a request that is cancelled half-way may keep its place in the pool for ever.
        """
        request = self._request(token, operation, variables)
        lines = [f"POST {request.url.raw_path.decode()} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        secure = request.url.scheme == "https"
        port = request.url.port or (443 if secure else 80)
        with suppress(OSError):  # what is wrong with the server, the next request tells; a timeout is one too
            async with asyncio.timeout(TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection(request.url.host, port, ssl=secure or None)
                writer.write("\r\n".join([*lines, "", ""]).encode() + request.content)
                await writer.drain()
                if answered:
                    await reader.read(1)
                writer.close()
                await writer.wait_closed()
        self.events["connections dropped"] += 1

    def _request(self, token: str, operation: Operation, variables: dict[str, Any]) -> httpx.Request:
        return self.http.build_request(
            "POST",
            f"{self.url}/graphql",
            content=orjson.dumps({"query": operation.document, "variables": variables}),
            headers={
                "Content-Type": "application/json",
                "Accept": "application/graphql-response+json",
                "Authorization": f"Bearer {token}",
            },
        )


class _TryAgain(Exception):
    """The server says that it would like to be asked again."""


def _raise(operation: Operation, error: dict[str, Any]) -> None:
    code, message = error.get("extensions", {}).get("code"), error.get("message")
    if code in {"OVERLOADED", "UNAVAILABLE"}:
        raise _TryAgain(message)
    if code == "UNAUTHENTICATED":
        raise RequestError(
            f"The server does not know this installation's tokens ({message}): give simulate the same DATA_DIR and "
            "DATABASE_URL as serve."
        )
    raise UnexpectedResponse(f"{operation.name}: {code}: {message}")
