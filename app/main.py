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

from app import webhooks
from app.api.accounts.balance import open_latest_balances
from app.api.context import AppState
from app.api.schema import UNLIMITED_MUTATIONS, build_schema
from app.auth.authenticator import build_authenticator
from app.auth.development_keys import development_secret
from app.db import migrations, pools
from app.db.group_commit import LOOP_TURNS, BatchedReads
from app.engine.context import RequestContext, client_address_of
from app.engine.errors import ErrorCode, format_error
from app.engine.execution import GraphQLEngine
from app.engine.limits.rate_limiter import RateLimiter
from app.engine.persisted.documents import load_persisted_documents
from app.engine.transports.http import GraphQLOverHTTP
from app.engine.transports.websocket import GraphQLOverWebSocket
from app.errors import Misconfigured
from app.ledger import expiry_notifications, posting, queries
from app.live.change_feed import ChangeFeed
from app.pricing.rate_card_cache import RateCardCache
from app.server import host_allowlist
from app.server.exposure import Exposure
from app.server.request_log import RequestLog
from app.server.security_headers import with_security_headers
from app.settings import Settings, get_settings, log_format
from app.tasks import lapses
from app.tasks.charging import ChargeQueue
from app.topups import inbox_retries, pending_sweep
from app.topups.auto_topup import worker
from app.topups.configured_provider import open_provider
from app.topups.provider import PaymentProvider
from app.topups.refunds import requests
from app.topups.rules import TopUpTerms

GRAPHQL_PATH: Final = "/graphql"
RESTART_SECONDS: Final = 1.0
SETTLE_SECONDS: Final = 0.5
EXPIRY_NOTIFICATION_SECONDS: Final = 60.0
REFUND_SWEEP_SECONDS: Final = 300.0
READY_SECONDS: Final = 2.0
CORS_ALLOWED_HEADERS: Final = ("Authorization", "Content-Type", "Last-Event-ID", "X-Request-ID")
"""The headers that pages of other origins may send in production."""
GC_THRESHOLD: Final = 20_000
"""New objects between two collections, some megabytes. With Python's 700 (10,000 since 3.13) the objects of requests in
flight were found alive each time, for 6% of the CPU of charges and a fifth of an unseen document's; with these 1%."""

Loop = Callable[[], Awaitable[None]]

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> Starlette:
    """The application. Raises: Misconfigured."""
    here = settings or get_settings()
    exposure = Exposure.from_settings(here)
    log.log(logging.INFO if here.environment == "production" else logging.WARNING, exposure.summary)
    if here.database_url is None:
        raise Misconfigured("DATABASE_URL is not set: `python -m app serve` starts a database when there is none.")
    url = here.database_url
    library = load_persisted_documents(here.known_documents, arbitrary_documents=exposure.arbitrary_documents)
    lines = RequestLog(log_format(here), here.request_log)
    execution = GraphQLEngine(
        build_schema()._schema,
        introspection=exposure.introspection,
        compile_operations=here.compile_operations == "on",
        unlimited_mutations=UNLIMITED_MUTATIONS,
        persisted_documents=library,
        rate_limiter=RateLimiter(here),
        request_log=lines,
    )
    doorway = build_authenticator(here)
    house = build_state(here)
    loops: dict[str, Loop] = {
        "live feed": lambda: house.change_feed.run(url),
        "rate cards": house.rate_cards.refresh_periodically,
        "time": settle_due_accounts,
        **auto_top_up_loop(house),
        "notices of expiry": lambda: notify_of_expiring_grants(here.expiry_notification_days),
    }
    if (provider := house.payment_provider) is not None:
        loops |= {
            "refunds": lambda: reconcile_refunds(provider),
            "payment notices": lambda: inbox_retries.run_retries(provider),
            "pending top-ups": lambda: pending_sweep.run_sweep(provider),
        }

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        await pools.connect(url)
        try:
            async with run_in_background(loops):
                # What start-up has made lives as long as the process: frozen, it is not walked by each full collection,
                # which stopped everybody for 80 ms twice a second under load.
                gc.collect()
                gc.freeze()
                gc.set_threshold(GC_THRESHOLD)
                yield
        finally:
            await house.charge_queue.close()
            await doorway.close()
            if provider is not None:
                await provider.close()
            await pools.disconnect()
            lines.flush()

    graphql = GraphQLOverHTTP(
        execution, doorway, house, graphiql=exposure.introspection, get_queries=exposure.get_queries
    )
    sockets = GraphQLOverWebSocket(
        execution,
        doorway,
        house,
        allowed_origins=exposure.websocket_origins,
        allow_same_host=exposure.same_host_websockets,
        connections_per_caller=here.connections_per_user,
    )

    def misaddressed(scope: Scope) -> None:
        kind = "websocket" if scope["type"] == "websocket" else "http"
        problem = format_error(host_allowlist.HOST_NOT_ALLOWED, ErrorCode.BAD_REQUEST)
        execution.log_refusal(
            RequestContext(None, house, transport=kind, client_address=client_address_of(scope)), problem
        )

    return Application(
        graphql,
        sockets,
        exposure.allowed_hosts,
        misaddressed,
        routes=[
            Route(GRAPHQL_PATH, graphql),
            Route("/healthz", healthz),
            Route("/readyz", Readiness().readyz),
            *webhooks.payment_routes(house.payment_provider, seller=here.receipt_seller),
        ],
        # Tokens travel in headers and never in cookies, so that a page of another host gains nothing by being let in.
        middleware=[
            Middleware(
                CORSMiddleware,
                allow_origins=exposure.allowed_origins,
                allow_methods=["POST", "GET"] if exposure.get_queries else ["POST"],
                allow_headers=["*"] if exposure.introspection else CORS_ALLOWED_HEADERS,
                expose_headers=["Retry-After"],
            )
        ]
        if exposure.allowed_origins
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
        websockets: ASGIApp,
        allowed_hosts: Collection[str] | None,
        on_host_rejected: Callable[[Scope], None],
        **options: Any,
    ) -> None:
        """`hosts`: the names by which it may be addressed; None: any. `misaddressed` is told of what names no such."""
        super().__init__(**options)
        self.router.redirect_slashes = False
        self._graphql = graphql
        self._sockets = websockets
        self._hosts = allowed_hosts
        self._misaddressed = on_host_rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            self._hosts is not None
            and scope["type"] != "lifespan"
            and not host_allowlist.is_allowed_host(scope, self._hosts)
        ):
            self._misaddressed(scope)
            await host_allowlist.reject_host(scope, send)
        elif scope["type"] == "http" and scope["path"] == GRAPHQL_PATH and not _has_origin(scope):
            await self._graphql(scope, receive, send)
        elif scope["type"] == "websocket" and scope["path"] == GRAPHQL_PATH:
            await self._sockets(scope, receive, send)
        else:
            await super().__call__(scope, receive, with_security_headers(send))


def _has_origin(scope: Scope) -> bool:
    return any(name == b"origin" for name, _ in scope["headers"])


def build_state(here: Settings) -> AppState:
    """What all requests of this process share. Raises: Misconfigured."""
    configure_ledger(here)
    rate_cards = RateCardCache()
    feed = ChangeFeed(sweep_seconds=here.sweep_seconds, conflate_seconds=here.conflate_ms / 1000)
    return AppState(
        settings=here,
        change_feed=feed,
        rate_cards=rate_cards,
        charge_queue=ChargeQueue(
            rate_cards, lanes=here.posting_connections, batch_limit=here.batch_limit, queue_limit=here.queue_limit
        ),
        balance_reader=BatchedReads(queries.get_balances, batch_limit=1_000, loop_turns=LOOP_TURNS),
        latest_balances=open_latest_balances(feed, low_balance_at=here.low_balance_threshold),
        payment_provider=open_provider(here),
    )


def auto_top_up_loop(state: AppState) -> Mapping[str, Loop]:
    """The loop of automatic top-ups, where credits are sold."""
    provider = state.payment_provider
    if provider is None:
        return {}
    return {
        "auto top-up": lambda: worker.run_worker(state.change_feed, provider, TopUpTerms.from_settings(state.settings))
    }


def configure_ledger(here: Settings) -> None:
    """Make this process ready to write books. Raises: Misconfigured."""
    lapses.configure_ledger(ledger_key(here), low_balance_at=here.low_balance_threshold)


def ledger_key(here: Settings) -> bytes:
    """The key that signs entries. Raises: Misconfigured: production without one, or one that is too short."""
    if here.ledger_key is None:
        return development_secret("ledger", settings=here)
    try:
        key = bytes.fromhex(here.ledger_key)
    except ValueError:
        key = b""
    if len(key) < 32:
        raise Misconfigured("LEDGER_KEY must be at least 64 hex digits: make one with `openssl rand -hex 32`.")
    return key


async def settle_due_accounts() -> None:
    """Settle what falls due by time, so that subscribers hear of it; whoever touches such an account does the same."""
    while True:
        if await posting.apply_all_due_changes() == 0:
            await asyncio.sleep(SETTLE_SECONDS)


async def notify_of_expiring_grants(days: Sequence[int]) -> None:
    """Give notice of what expires within `days`; other processes do the same, and each is told once."""
    while True:
        if await expiry_notifications.notify_expiring_grants(days) == 0:
            await asyncio.sleep(EXPIRY_NOTIFICATION_SECONDS)


async def reconcile_refunds(provider: PaymentProvider) -> None:
    """Ask the provider about refunds whose outcome is not known; other processes do the same, each is asked once."""
    while True:
        if await requests.reconcile_refunds(provider) == 0:
            await asyncio.sleep(REFUND_SWEEP_SECONDS)


@asynccontextmanager
async def run_in_background(loops: Mapping[str, Loop]) -> AsyncIterator[None]:
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


async def healthz(_: Request) -> JSONResponse:
    return JSONResponse({"alive": True})


class Readiness:
    """200 where requests can be served: the database answers and has every migration."""

    def __init__(self) -> None:
        self._migrated = False  # believed once seen: reading the plan costs milliseconds, and anybody may ask

    async def readyz(self, _: Request) -> JSONResponse:
        reason = await self._reason()
        return JSONResponse({"ready": reason is None, "reason": reason}, status_code=503 if reason else 200)

    async def _reason(self) -> str | None:
        """What stands in the way."""
        try:
            async with asyncio.timeout(READY_SECONDS):
                if self._migrated:
                    await pools.fetch("SELECT 1")
                elif missing := await migrations.pending():
                    return f"migrations are pending: {', '.join(missing)}"
        except Exception as fault:
            log.warning("not ready: %r", fault)
            return (
                "the database does not answer" if pools.is_connection_failure(fault) else "the database cannot be read"
            )
        self._migrated = True
        return None


def __getattr__(name: str) -> Any:
    """`app`, for `uvicorn app.main:app`; made when asked for, so that an import alone reads no settings."""
    if name == "app":
        return create_app()
    raise AttributeError(name)
