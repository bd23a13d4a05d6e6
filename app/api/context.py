"""What the resolvers of one request share, and what all requests of one process share."""

import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from strawberry.dataloader import DataLoader
from strawberry.types.info import Info

from app.auth.caller import Caller
from app.db.group_commit import BatchedReads
from app.ledger.rules.account_state import AccountBalance
from app.live.change_feed import ChangeFeed
from app.live.latest_state import LatestStates
from app.pricing.rate_card_cache import RateCardCache
from app.settings import Settings
from app.tasks.charging import ChargeQueue
from app.topups.provider import PaymentProvider

if TYPE_CHECKING:
    from app.api.accounts.balance import Balance

_PROCESS: Final = secrets.token_hex(5)
_NUMBERS: Final = itertools.count(1)
"""A request's id is no secret: random for each process, then counted."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """What lives as long as the process.

    `balances` reads for many callers at once, `newest` for all who follow. No `provider`: credits are not sold here.
    """

    settings: Settings
    change_feed: ChangeFeed
    rate_cards: RateCardCache
    charge_queue: ChargeQueue
    balance_reader: BatchedReads[int, AccountBalance]
    latest_balances: "LatestStates[Balance]"
    payment_provider: PaymentProvider | None


class Context:
    """Made for each request, and anew for each item of a subscription; what costs something is made when asked for."""

    __slots__ = (
        "_loaders",
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
        state: AppState,
        *,
        request_id: str | None = None,
        transport: str = "http",
        client_address: str | None = None,
    ) -> None:
        """`transport`: http, websocket or sse. `address`: the client's, as the server or its proxy knows it."""
        self.caller = caller
        self.state = state
        self.transport = transport
        self.client_address = client_address
        self.started_seconds = time.perf_counter()
        self.last_seen_version: int | None = None
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
    def limit_key(self) -> str:
        """What a caller is counted by: its actor, or the address of somebody who has not said who it is."""
        return self.caller.actor if self.caller is not None else f"nobody at {self.client_address}"

    @property
    def authenticated_caller(self) -> Caller:
        """The viewer, where the field's need has been checked. Raises: RuntimeError where it has not."""
        if self.caller is None:
            raise RuntimeError("a field that asks who calls must need more than ANYONE")
        return self.caller

    def data_loader(self, load: Callable[[list[K]], Awaitable[Sequence[V | BaseException]]]) -> DataLoader[K, V]:
        """The data loader of this request over `load` (a module's function: it is the key), for one read per list."""
        if self._loaders is None:
            self._loaders = {}
        if (found := self._loaders.get(load)) is None:
            found = self._loaders[load] = DataLoader(load_fn=load)
        return found

    def clear_loaders(self) -> None:
        """Load anew from here on: of several mutations of one request, none answers with what was true before it."""
        self._loaders = None

    def for_next_item(self) -> "Context":
        """The same caller with nothing loaded yet: the next item of a subscription must not see the last one's rows."""
        return Context(
            self.caller,
            self.state,
            request_id=self._request_id,
            transport=self.transport,
            client_address=self.client_address,
        )


def client_address_of(scope: Mapping[str, Any]) -> str | None:
    """The client's address in an ASGI scope; the server has believed its own proxies (FORWARDED_ALLOW_IPS)."""
    client = scope.get("client")
    return client[0] if client else None


ResolverInfo = Info[Context, None]
"""The type of a resolver's `info`."""
