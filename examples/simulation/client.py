"""A GraphQL client over HTTP that repeats failed requests, as an executor should."""

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

MAX_ATTEMPTS: Final = 5
FIRST_PAUSE_SECONDS: Final = 0.2
TIMEOUT_SECONDS: Final = 30.0
KEEP_ALIVE_SECONDS: Final = 2.0
"""Shorter than the server's keep-alive time, so that no request is sent on a connection that the server closes."""


class UnexpectedResponse(Exception):
    """A response that a correct server does not send."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of the callers. `user` returns the token of an owner by the owner's id."""

    service: str
    operator: str
    user: Callable[[str], str]


class Client:
    def __init__(self, url: str, *, connections: int) -> None:
        self.url = url.rstrip("/")
        self.latencies: dict[str, list[float]] = defaultdict(list)
        """The duration in seconds of each successful request, by operation."""
        self.events: Counter[str] = Counter()
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEP_ALIVE_SECONDS
        )
        self.http = httpx.AsyncClient(limits=limits, timeout=TIMEOUT_SECONDS, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def check_ready(self) -> None:
        """Raises: Unavailable: the server does not respond or is not ready."""
        try:
            response = await self.http.get(f"{self.url}/readyz")
        except httpx.HTTPError:
            raise Unavailable(
                f"No server responds at {self.url}: start it with `make serve` in another shell, or set --url."
            ) from None
        if response.status_code != 200:
            raise Unavailable(f"The server at {self.url} is not ready: {response.text[:200]}")

    async def execute(self, token: str, operation: Operation, **variables: Any) -> Any:
        """Send the operation, and return the value of its root field.

        Raises: Unavailable: the server stopped responding; RequestError: it refuses the token; UnexpectedResponse.
        """
        return await self._with_retries(lambda: self._execute_once(token, operation, variables))

    async def request_page(self, method: str, url: str, form: dict[str, str] | None = None) -> httpx.Response:
        """Request an HTML page as a browser does. Raises: Unavailable: the server stopped responding."""
        return await self._with_retries(lambda: self.http.request(method, url, data=form))

    async def _with_retries(self, send: Callable[[], Awaitable[T]]) -> T:
        """Repeat a failed request. This is safe, because every request of the simulation is idempotent."""
        attempts = 0
        while True:
            try:
                return await send()
            except (httpx.TransportError, _Retry) as error:
                attempts += 1
                self.events["requests repeated"] += 1
                if attempts == MAX_ATTEMPTS:
                    raise Unavailable(f"The server at {self.url} has stopped responding: {error!r}") from error
            await asyncio.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempts - 1))

    async def _execute_once(self, token: str, operation: Operation, variables: dict[str, Any]) -> Any:
        started_at = time.perf_counter()
        response = await self.http.send(self._request(token, operation, variables))
        elapsed = time.perf_counter() - started_at
        try:
            body = orjson.loads(response.content)
        except ValueError:
            raise UnexpectedResponse(
                f"{operation.name}: {response.status_code} without JSON: {response.text[:200]}"
            ) from None
        if errors := body.get("errors"):
            _raise(operation, errors[0])
        self.latencies[operation.name].append(elapsed)
        return body["data"][operation.name]

    async def execute_and_disconnect(
        self, token: str, operation: Operation, *, wait_for_response: bool, **variables: Any
    ) -> None:
        """Send a request and close the connection before the response, or when it arrives, without reading it.

        Uses a new connection outside httpx, whose pool may never release the connection of a cancelled request.
        """
        request = self._request(token, operation, variables)
        lines = [f"POST {request.url.raw_path.decode()} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        is_https = request.url.scheme == "https"
        port = request.url.port or (443 if is_https else 80)
        with suppress(OSError):  # also timeouts; if the server is broken, the next request reports it
            async with asyncio.timeout(TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection(request.url.host, port, ssl=is_https or None)
                writer.write("\r\n".join([*lines, "", ""]).encode() + request.content)
                await writer.drain()
                if wait_for_response:
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


class _Retry(Exception):
    """The response says that the request may be repeated."""


def _raise(operation: Operation, error: dict[str, Any]) -> None:
    code, message = error.get("extensions", {}).get("code"), error.get("message")
    if code in {"OVERLOADED", "UNAVAILABLE"}:
        raise _Retry(message)
    if code == "UNAUTHENTICATED":
        raise RequestError(
            f"The server does not accept this installation's tokens ({message}): run the simulation with the DATA_DIR "
            "and DATABASE_URL of the server."
        )
    raise UnexpectedResponse(f"{operation.name}: {code}: {message}")


def expect_success(response: Any, description: str) -> Any:
    """Return the result of a mutation. Raises: UnexpectedResponse: the mutation was refused."""
    if response["__typename"].endswith("Success"):
        return response
    raise UnexpectedResponse(f"{description} was refused: {response['__typename']}: {response.get('message')}")
