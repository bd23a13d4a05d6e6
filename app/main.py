"""The ASGI application: its routes, and its life from open database to clean stop."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app import database, hosts, migrating, webhooks
from app.callers.development import development_secret
from app.callers.doorway import open_doorway
from app.coalescing import TURNS, Shared
from app.errors import Misconfigured
from app.exposure import Exposure
from app.graphql.balances import newest_balances
from app.graphql.context import Context, House, address_of
from app.graphql.execution import Execution
from app.graphql.faults import Code, error
from app.graphql.known import open_library
from app.graphql.limits.gate import Gate
from app.graphql.schema import build
from app.graphql.transports.view import GraphQLOverHTTP
from app.graphql.transports.websocket import GraphQLOverWebSocket
from app.ledger import expiring, posting, statements
from app.live import Feed
from app.plain import plainly
from app.pricing.catalogue import Catalogue
from app.request_log import RequestLog
from app.settings import Settings, log_format, settings
from app.tasks import lapses
from app.tasks.charging import Charger
from app.topups import retries, sweep
from app.topups.choice import open_provider
from app.topups.giving_back import refunds
from app.topups.provider import PaymentProvider
from app.topups.refills import refilling
from app.topups.rules import Terms

GRAPHQL: Final = "/graphql"
RESTART_SECONDS: Final = 1.0
SETTLE_SECONDS: Final = 0.5
EXPIRY_NOTICE_SECONDS: Final = 60.0
REFUND_SWEEP_SECONDS: Final = 300.0
READY_SECONDS: Final = 2.0
CALLED_WITH: Final = ("Authorization", "Content-Type", "Last-Event-ID", "X-Request-ID")
"""The headers that pages of other origins may send in production."""
COLLECTED_EVERY: Final = 20_000
"""New objects between two collections, some megabytes. With Python's 700 (10,000 since 3.13) the objects of requests in
flight were found alive each time, for 6% of the CPU of charges and a fifth of an unseen document's; with these 1%."""

Loop = Callable[[], Awaitable[None]]

log = logging.getLogger(__name__)


def create(chosen: Settings | None = None) -> Starlette:
    """The application. Raises: Misconfigured."""
    here = chosen or settings()
    exposure = Exposure.of(here)
    log.log(logging.INFO if here.environment == "production" else logging.WARNING, exposure.summary)
    if here.database_url is None:
        raise Misconfigured("DATABASE_URL is not set: `python -m app serve` starts a database when there is none.")
    url = here.database_url
    library = open_library(here.known_documents, free_for=exposure.free_for)
    lines = RequestLog(log_format(here), here.request_log)
    execution = Execution(
        build()._schema,
        open_to_explorers=exposure.explorers,
        plans=here.plans == "on",
        library=library,
        gate=Gate(here),
        log=lines,
    )
    doorway = open_doorway(here)
    house = furnish(here)
    loops: dict[str, Loop] = {
        "live feed": lambda: house.live.run(url),
        "rate cards": house.catalogue.keep_fresh,
        "time": settle_in_time,
        **refills(house),
        "notices of expiry": lambda: tell_of_expiry(here.expiry_notice_days),
    }
    if (provider := house.provider) is not None:
        loops |= {
            "refunds": lambda: reconcile_refunds(provider),
            "payment notices": lambda: retries.keep_trying(provider),
            "pending top-ups": lambda: sweep.keep_sweeping(provider),
        }

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        await database.connect(url)
        try:
            async with running(loops):
                # What start-up has made lives as long as the process: frozen, it is not walked by each full collection,
                # which stopped everybody for 80 ms twice a second under load.
                gc.collect()
                gc.freeze()
                gc.set_threshold(COLLECTED_EVERY)
                yield
        finally:
            await house.charger.close()
            await doorway.close()
            if provider is not None:
                await provider.close()
            await database.disconnect()
            lines.flush()

    graphql = GraphQLOverHTTP(
        execution, doorway, house, explorer=exposure.explorers, reads_by_get=exposure.reads_by_get
    )
    sockets = GraphQLOverWebSocket(
        execution,
        doorway,
        house,
        allowed_origins=exposure.socket_origins,
        same_host=exposure.same_host_sockets,
        connections_per_caller=here.connections_per_user,
    )

    def misaddressed(scope: Scope) -> None:
        kind = "websocket" if scope["type"] == "websocket" else "http"
        problem = error(hosts.UNKNOWN, Code.BAD_REQUEST)
        execution.refused(Context(None, house, transport=kind, address=address_of(scope)), problem)

    return Application(
        graphql,
        sockets,
        exposure.hosts,
        misaddressed,
        routes=[
            Route(GRAPHQL, graphql),
            Route("/healthz", alive),
            Route("/readyz", Readiness().check),
            *webhooks.routes(house.provider, seller=here.receipt_seller),
        ],
        # Tokens travel in headers and never in cookies, so that a page of another host gains nothing by being let in.
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=exposure.origins,
                allow_methods=["POST", "GET"] if exposure.reads_by_get else ["POST"],
                allow_headers=["*"] if exposure.explorers else CALLED_WITH,
                expose_headers=["Retry-After"],
            )
        ]
        if exposure.origins
        else [],
        lifespan=life,
    )


class Application(Starlette):
    """Starlette, with the path of every charge and of every header's balance straight to its door.

    A request of a page in a browser (with an Origin) takes the way through the middleware; a backend needs none of it,
    and a WebSocket looks at its Origin itself.
    """

    def __init__(
        self,
        graphql: ASGIApp,
        sockets: ASGIApp,
        hosts: Collection[str] | None,
        misaddressed: Callable[[Scope], None],
        **options: Any,
    ) -> None:
        """`hosts`: the names by which it may be addressed; None: any. `misaddressed` is told of what names no such."""
        super().__init__(**options)
        self.router.redirect_slashes = False
        self._graphql = graphql
        self._sockets = sockets
        self._hosts = hosts
        self._misaddressed = misaddressed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._hosts is not None and scope["type"] != "lifespan" and not hosts.is_addressed(scope, self._hosts):
            self._misaddressed(scope)
            await hosts.refuse(scope, send)
        elif scope["type"] == "http" and scope["path"] == GRAPHQL and not _has_origin(scope):
            await self._graphql(scope, receive, send)
        elif scope["type"] == "websocket" and scope["path"] == GRAPHQL:
            await self._sockets(scope, receive, send)
        else:
            await super().__call__(scope, receive, plainly(send))


def _has_origin(scope: Scope) -> bool:
    return any(name == b"origin" for name, _ in scope["headers"])


def furnish(here: Settings) -> House:
    """What all requests of this process share. Raises: Misconfigured."""
    open_books(here)
    catalogue = Catalogue()
    feed = Feed(sweep_seconds=here.sweep_seconds, conflate_seconds=here.conflate_ms / 1000)
    return House(
        settings=here,
        live=feed,
        catalogue=catalogue,
        charger=Charger(catalogue, lanes=here.lanes, batch_limit=here.batch_limit, queue_limit=here.queue_limit),
        balances=Shared(statements.balances, list_limit=1_000, turns=TURNS),
        newest=newest_balances(feed, low_balance_at=here.low_balance_at),
        provider=open_provider(here),
    )


def refills(house: House) -> Mapping[str, Loop]:
    """The loop of automatic top-ups, where credits are sold."""
    provider = house.provider
    if provider is None:
        return {}
    return {"auto top-up": lambda: refilling.follow(house.live, provider, Terms.of(house.settings))}


def open_books(here: Settings) -> None:
    """Make this process ready to write books. Raises: Misconfigured."""
    lapses.open_books(ledger_key(here), low_balance_at=here.low_balance_at)


def ledger_key(here: Settings) -> bytes:
    """The key that signs entries. Raises: Misconfigured: production without one, or one that is too short."""
    if here.ledger_key is None:
        return development_secret("ledger", chosen=here)
    try:
        key = bytes.fromhex(here.ledger_key)
    except ValueError:
        key = b""
    if len(key) < 32:
        raise Misconfigured("LEDGER_KEY must be at least 64 hex digits: make one with `openssl rand -hex 32`.")
    return key


async def settle_in_time() -> None:
    """Settle what falls due by time, so that subscribers hear of it; whoever touches such an account does the same."""
    while True:
        if await posting.settle_due() == 0:
            await asyncio.sleep(SETTLE_SECONDS)


async def tell_of_expiry(days: Sequence[int]) -> None:
    """Give notice of what expires within `days`; other processes do the same, and each is told once."""
    while True:
        if await expiring.give_notices(days) == 0:
            await asyncio.sleep(EXPIRY_NOTICE_SECONDS)


async def reconcile_refunds(provider: PaymentProvider) -> None:
    """Ask the provider about refunds whose outcome is not known; other processes do the same, each is asked once."""
    while True:
        if await refunds.reconcile(provider) == 0:
            await asyncio.sleep(REFUND_SWEEP_SECONDS)


@asynccontextmanager
async def running(loops: Mapping[str, Loop]) -> AsyncIterator[None]:
    """Keep each loop running until the block ends: one that faults or returns is logged and started again."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_kept_running(name, loop), name=name) for name, loop in loops.items()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _kept_running(name: str, loop: Loop) -> None:
    while True:
        try:
            await loop()
            log.error("%s ended by itself and is started again", name)
        except Exception:
            log.exception("%s failed and is started again", name)
        await asyncio.sleep(RESTART_SECONDS)


async def alive(_: Request) -> JSONResponse:
    return JSONResponse({"alive": True})


class Readiness:
    """200 where requests can be served: the database answers and has every migration."""

    def __init__(self) -> None:
        self._migrated = False  # believed once seen: reading the plan costs milliseconds, and anybody may ask

    async def check(self, _: Request) -> JSONResponse:
        reason = await self._reason()
        return JSONResponse({"ready": reason is None, "reason": reason}, status_code=503 if reason else 200)

    async def _reason(self) -> str | None:
        """What stands in the way."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                if self._migrated:
                    await database.fetch("SELECT 1")
                elif missing := await migrating.pending():
                    return f"migrations are pending: {', '.join(missing)}"
        except Exception as fault:
            log.warning("not ready: %r", fault)
            return "the database does not answer" if database.is_lost(fault) else "the database cannot be read"
        self._migrated = True
        return None


def __getattr__(name: str) -> Any:
    """`app`, for `uvicorn app.main:app`; made when asked for, so that an import alone reads no settings."""
    if name == "app":
        return create()
    raise AttributeError(name)
