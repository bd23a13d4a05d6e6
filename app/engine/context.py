"""The context of one request, which its resolvers share."""

import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from strawberry.dataloader import DataLoader

from app.auth.caller import Caller

StateT = TypeVar("StateT")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_PROCESS_ID: Final = secrets.token_hex(5)
_REQUEST_NUMBERS: Final = itertools.count(1)
"""A request id need not be secret: a random prefix for each process, then a number."""


class RequestContext(Generic[StateT]):
    """Created for each request and each item of a subscription, so request id and data loaders are made on demand."""

    __slots__ = (
        "_data_loaders",
        "_request_id",
        "caller",
        "client_address",
        "last_seen_version",
        "started_seconds",
        "state",
        "transport",
    )

    def __init__(
        self,
        caller: Caller | None,
        state: StateT,
        *,
        request_id: str | None = None,
        transport: str = "http",
        client_address: str | None = None,
    ) -> None:
        """`state`: the state of the application. `transport`: http, websocket or sse.

        `client_address`: the client's, as the server or its trusted proxy reports it.
        """
        self.caller = caller
        self.state = state
        self.transport = transport
        self.client_address = client_address
        self.started_seconds = time.perf_counter()
        """By `time.perf_counter`."""
        self.last_seen_version: int | None = None
        """The version that a subscriber has seen: the one it reconnected with, then that of each item sent."""
        self._request_id = request_id
        self._data_loaders: dict[object, DataLoader[Any, Any]] | None = None

    @property
    def request_id(self) -> str:
        """Identifies this request in logs, masked errors and the audit log."""
        if self._request_id is None:
            self._request_id = f"{_PROCESS_ID}{next(_REQUEST_NUMBERS):06x}"
        return self._request_id

    @property
    def limit_key(self) -> str:
        """The key under which limits count this caller: its actor; for anonymous callers, the client address."""
        return self.caller.actor if self.caller is not None else f"anonymous at {self.client_address}"

    @property
    def authenticated_caller(self) -> Caller:
        """The caller, in fields that need authentication. Raises: RuntimeError: the caller is anonymous."""
        if self.caller is None:
            raise RuntimeError("a field that uses the caller must need more than Permission.PUBLIC")
        return self.caller

    def data_loader(self, load: Callable[[list[K]], Awaitable[Sequence[V | BaseException]]]) -> DataLoader[K, V]:
        """This request's data loader for `load`, which must be a module-level function: it is the key."""
        if self._data_loaders is None:
            self._data_loaders = {}
        if (found := self._data_loaders.get(load)) is None:
            found = self._data_loaders[load] = DataLoader(load_fn=load)
        return found

    def clear_loaders(self) -> None:
        """Read everything again from here on, so that a mutation does not return what was loaded before it."""
        self._data_loaders = None

    def for_next_item(self) -> "RequestContext[StateT]":
        """The context of the next item of a subscription: the same request, with nothing loaded."""
        return RequestContext(
            self.caller,
            self.state,
            request_id=self._request_id,
            transport=self.transport,
            client_address=self.client_address,
        )


def client_address_of(scope: Mapping[str, Any]) -> str | None:
    """The client address in an ASGI scope. The server has already applied FORWARDED_ALLOW_IPS."""
    client = scope.get("client")
    return client[0] if client else None
