"""What the resolvers of one request share, and what all requests of one process share."""

import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from strawberry.dataloader import DataLoader
from strawberry.types.info import Info

from app.callers.rules import Viewer
from app.coalescing import Shared
from app.ledger.book import Figures
from app.live import Feed
from app.newest import Newest
from app.pricing.catalogue import Catalogue
from app.settings import Settings
from app.tasks.charging import Charger
from app.topups.provider import PaymentProvider

if TYPE_CHECKING:
    from app.graphql.balances import Balance

_PROCESS: Final = secrets.token_hex(5)
_NUMBERS: Final = itertools.count(1)
"""A request's id is no secret: random for each process, then counted."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What lives as long as the process.

    `balances` reads for many callers at once, `newest` for all who follow. No `provider`: credits are not sold here.
    """

    settings: Settings
    live: Feed
    catalogue: Catalogue
    charger: Charger
    balances: Shared[int, Figures]
    newest: "Newest[Balance]"
    provider: PaymentProvider | None


class Context:
    """Made for each request, and anew for each item of a subscription; what costs something is made when asked for."""

    __slots__ = ("_loaders", "_request_id", "address", "begun_at", "house", "seen_version", "transport", "viewer")

    def __init__(
        self,
        viewer: Viewer | None,
        house: House,
        *,
        request_id: str | None = None,
        transport: str = "http",
        address: str | None = None,
    ) -> None:
        """`transport`: http, websocket or sse. `address`: the client's, as the server or its proxy knows it."""
        self.viewer = viewer
        self.house = house
        self.transport = transport
        self.address = address
        self.begun_at = time.perf_counter()
        self.seen_version: int | None = None
        """The version of the balance that the follower has seen: what it came back with, then that of each item."""
        self._request_id = request_id
        self._loaders: dict[object, DataLoader[Any, Any]] | None = None

    @property
    def request_id(self) -> str:
        """What logs, masked errors and entries call this request."""
        if self._request_id is None:
            self._request_id = f"{_PROCESS}{next(_NUMBERS):06x}"
        return self._request_id

    @property
    def caller_key(self) -> str:
        """What a caller is counted by: its actor, or the address of somebody who has not said who it is."""
        return self.viewer.actor if self.viewer is not None else f"nobody at {self.address}"

    @property
    def caller(self) -> Viewer:
        """The viewer, where the field's need has been checked. Raises: RuntimeError where it has not."""
        if self.viewer is None:
            raise RuntimeError("a field that asks who calls must need more than ANYONE")
        return self.viewer

    def loader(self, load: Callable[[list[K]], Awaitable[Sequence[V | BaseException]]]) -> DataLoader[K, V]:
        """The data loader of this request over `load` (a module's function: it is the key), for one read per list."""
        if self._loaders is None:
            self._loaders = {}
        if (found := self._loaders.get(load)) is None:
            found = self._loaders[load] = DataLoader(load_fn=load)
        return found

    def forget(self) -> None:
        """Load anew from here on: of several mutations of one request, none answers with what was true before it."""
        self._loaders = None

    def renewed(self) -> "Context":
        """The same caller with nothing loaded yet: the next item of a subscription must not see the last one's rows."""
        return Context(
            self.viewer, self.house, request_id=self._request_id, transport=self.transport, address=self.address
        )


def address_of(scope: Mapping[str, Any]) -> str | None:
    """The client's address in an ASGI scope; the server has believed its own proxies (FORWARDED_ALLOW_IPS)."""
    client = scope.get("client")
    return client[0] if client else None


Information = Info[Context, None]
"""The type of a resolver's `info`."""
