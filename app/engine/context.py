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
"""A request id consists of a random prefix for each process and a number. It need not be secret."""


class RequestContext(Generic[StateT]):
    """The context of a request or of one item of a subscription. Request id and data loaders are created on demand."""

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
        """`state` is the state of the application; `transport` is http, websocket or sse.

        `client_address` is reported by the server or its trusted proxy.
        """
        self.caller = caller
        self.state = state
        self.transport = transport
        self.client_address = client_address
        self.started_seconds = time.perf_counter()
        """The value of `time.perf_counter()` when the context was created."""
        self.last_seen_version: int | None = None
        """The version that the subscriber last received: given when it reconnects, then updated for each item."""
        self._request_id = request_id
        self._data_loaders: dict[object, DataLoader[Any, Any]] | None = None

    @property
    def request_id(self) -> str:
        """The id of this request in logs, masked errors and the audit log."""
        if self._request_id is None:
            self._request_id = f"{_PROCESS_ID}{next(_REQUEST_NUMBERS):06x}"
        return self._request_id

    @property
    def limit_key(self) -> str:
        """The key under which limits count this caller: its actor, or the client address of an anonymous caller."""
        return self.caller.actor if self.caller is not None else f"anonymous at {self.client_address}"

    @property
    def authenticated_caller(self) -> Caller:
        """The caller, for fields that need authentication. Raises: RuntimeError: the caller is anonymous."""
        if self.caller is None:
            raise RuntimeError("a field that uses the caller must need more than Permission.PUBLIC")
        return self.caller

    def data_loader(self, load: Callable[[list[K]], Awaitable[Sequence[V | BaseException]]]) -> DataLoader[K, V]:
        """Return this request's data loader for `load`. `load` is the key, so it must be a module-level function."""
        if self._data_loaders is None:
            self._data_loaders = {}
        if (found := self._data_loaders.get(load)) is None:
            found = self._data_loaders[load] = DataLoader(load_fn=load)
        return found

    def clear_loaders(self) -> None:
        """Remove loaded data, so that a mutation does not return what was loaded before it."""
        self._data_loaders = None

    def for_next_item(self) -> "RequestContext[StateT]":
        """Return the context of the next item of a subscription: the same request, without loaded data."""
        return RequestContext(
            self.caller,
            self.state,
            request_id=self._request_id,
            transport=self.transport,
            client_address=self.client_address,
        )


def client_address_of(scope: Mapping[str, Any]) -> str | None:
    """Return the client address of an ASGI scope. The server has already applied FORWARDED_ALLOW_IPS."""
    client = scope.get("client")
    return client[0] if client else None
