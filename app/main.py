"""The ASGI application: routes, middleware and lifespan.

`python -m app serve` serves it. Any other ASGI server can serve it as `app.main:app`.
"""

import gc
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app import tracing, webhooks
from app.api.schema import UNLIMITED_MUTATIONS, build_schema
from app.auth.authenticator import build_authenticator
from app.background import background_loops, run_in_background
from app.bounded_waits import wait_at_most
from app.db import pools
from app.engine.context import RequestContext, client_address_of
from app.engine.errors import ErrorCode, format_error
from app.engine.execution import GraphQLEngine
from app.engine.limits.rate_limiter import RateLimiter
from app.engine.persisted.documents import load_persisted_documents
from app.engine.transports.http import GraphQLOverHTTP
from app.engine.transports.websocket import GraphQLOverWebSocket
from app.errors import Misconfigured
from app.ledger import registered_keys
from app.live.change_notifier import NOTIFIER
from app.server import host_allowlist
from app.server.body_deadline import call_with_body_deadline
from app.server.exposure import Exposure
from app.server.health import Readiness, healthz
from app.server.metrics_endpoint import MetricsEndpoint
from app.server.request_log import RequestLog
from app.server.security_headers import with_security_headers
from app.settings import Settings, get_settings, log_format, reveal
from app.state import build_state

GRAPHQL_PATH: Final = "/graphql"
CORS_ALLOWED_HEADERS: Final = ("Authorization", "Content-Type", "Last-Event-ID", "X-Request-ID")
"""In production, pages of other origins may send these request headers."""
GC_THRESHOLD: Final = 20_000
"""The number of new objects between two garbage collections. Collections scan the objects of requests in progress, and
take 1% of the CPU time of charges. With Python's default (700, or 10,000 since 3.13) they take 6%."""
CLOSE_SECONDS: Final = 2.0
"""The time in which charges in progress are completed and connections closed when the server stops."""
NO_PROTOCOL_LIMITS: Final = (
    "PRODUCTION without the protocol classes of `python -m app serve`: slow or large headers, pipelined requests and "
    "WebSocket pings are not limited. Start the server with `python -m app serve`, or let a proxy limit them."
)

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None, *, has_protocol_limits: bool = False) -> Starlette:
    """Create the application.

    `has_protocol_limits` means that the server uses the protocol classes of `app.server`, as `serve` does. Without
    them, the application limits the time of request bodies itself, and in production it logs a warning about the limits
    that are missing.

    Raises: Misconfigured.
    """
    settings = settings or get_settings()
    exposure = Exposure.from_settings(settings)
    is_production = settings.environment == "production"
    log.log(logging.INFO if is_production else logging.WARNING, exposure.summary)
    if is_production and not has_protocol_limits:
        log.warning(NO_PROTOCOL_LIMITS)
    database_url = reveal(settings.database_url)
    if database_url is None:
        raise Misconfigured("DATABASE_URL is not set: `python -m app serve` starts a database if there is none.")
    documents = load_persisted_documents(settings.known_documents, arbitrary_documents=exposure.arbitrary_documents)
    if settings.traces == "otlp":
        tracing.start()
    request_log = RequestLog(log_format(settings), settings.request_log)
    engine = GraphQLEngine(
        build_schema()._schema,
        introspection=exposure.introspection,
        compile_operations=settings.compile_operations == "on",
        unlimited_mutations=UNLIMITED_MUTATIONS,
        persisted_documents=documents,
        rate_limiter=RateLimiter(settings),
        request_log=request_log,
    )
    authenticator = build_authenticator(settings)
    state = build_state(settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await pools.connect(database_url, is_server=True)
        try:
            await registered_keys.register_signing_key()
            if problem := await registered_keys.missing_keys_problem():
                log.warning(problem)
            async with run_in_background(background_loops(state, database_url=database_url)):
                with suppress(Exception):  # the refresh loop logs it, and `/readyz` answers 503
                    await state.rate_cards.refresh()
                # The objects created so far exist until the process ends. Freezing excludes them from full collections,
                # which otherwise stop all requests for 80 ms, twice per second under load.
                gc.collect()
                gc.freeze()
                gc.set_threshold(GC_THRESHOLD)
                yield
        finally:
            with suppress(TimeoutError):
                await wait_at_most(CLOSE_SECONDS, close())
            request_log.flush()

    async def close() -> None:
        await state.charge_queue.close()
        await NOTIFIER.flush()
        await authenticator.close()
        if state.payment_provider is not None:
            await state.payment_provider.close()
        await pools.disconnect()

    graphql = GraphQLOverHTTP(
        engine, authenticator, state, graphiql=exposure.introspection, get_queries=exposure.get_queries
    )
    websockets = GraphQLOverWebSocket(
        engine,
        authenticator,
        state,
        allowed_origins=exposure.websocket_origins,
        allow_same_host=exposure.same_host_websockets,
        connections_per_caller=settings.connections_per_user,
    )

    readiness = Readiness(
        {
            "charges": state.charge_queue.find_problem,
            "changeFeed": state.change_feed.find_problem,
            "rateCards": state.rate_cards.find_problem,
        }
    )

    def log_rejected_host(scope: Scope) -> None:
        transport = "websocket" if scope["type"] == "websocket" else "http"
        context = RequestContext(None, state, transport=transport, client_address=client_address_of(scope))
        engine.log_refusal(context, format_error(host_allowlist.HOST_NOT_ALLOWED, ErrorCode.BAD_REQUEST))

    return Application(
        graphql=graphql,
        websockets=websockets,
        allowed_hosts=exposure.allowed_hosts,
        on_host_rejected=log_rejected_host,
        body_seconds=None if has_protocol_limits else settings.request_seconds,
        routes=[
            Route(GRAPHQL_PATH, graphql),
            Route("/healthz", healthz),
            Route("/readyz", readiness.readyz),
            *_metrics_routes(settings),
            *webhooks.payment_routes(state.payment_provider, seller=settings.receipt_seller),
        ],
        # Credentials are sent in a header, never in a cookie. So the browser never adds them by itself, and an allowed
        # page can only use a token that the page already has.
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
        lifespan=lifespan,
    )


def _metrics_routes(settings: Settings) -> list[Route]:
    token = settings.metrics_token
    if token is None and settings.environment == "production":
        return []
    return [Route("/metrics", MetricsEndpoint(None if token is None else token.get_secret_value()).respond)]


class Application(Starlette):
    """Starlette, with a faster path for GraphQL requests that need no middleware.

    Requests without an Origin header skip CORS, because browsers send this header with requests to another origin. The
    WebSocket transport checks the Origin header itself.
    """

    def __init__(
        self,
        *,
        graphql: ASGIApp,
        websockets: ASGIApp,
        allowed_hosts: Collection[str] | None,
        on_host_rejected: Callable[[Scope], None],
        body_seconds: float | None,
        **options: Any,
    ) -> None:
        """If `allowed_hosts` is None, all hosts are allowed. `on_host_rejected` is called before a host is refused.

        `body_seconds` is the deadline for request bodies, or None if the server has one. `options` are passed to
        Starlette.
        """
        super().__init__(**options)
        self.router.redirect_slashes = False
        self._graphql = graphql
        self._websockets = websockets
        self._allowed_hosts = allowed_hosts
        self._on_host_rejected = on_host_rejected
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            self._allowed_hosts is not None
            and scope["type"] != "lifespan"
            and not host_allowlist.is_allowed_host(scope, self._allowed_hosts)
        ):
            self._on_host_rejected(scope)
            await host_allowlist.reject_host(scope, send)
        elif self._body_seconds is None:
            await self._route(scope, receive, send)
        else:
            await call_with_body_deadline(self._route, scope, receive, send, seconds=self._body_seconds)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == GRAPHQL_PATH and not _has_origin(scope):
            await self._graphql(scope, receive, send)
        elif scope["type"] == "websocket" and scope["path"] == GRAPHQL_PATH:
            await self._websockets(scope, receive, send)
        else:
            await super().__call__(scope, receive, with_security_headers(send))


def _has_origin(scope: Scope) -> bool:
    return any(name == b"origin" for name, _ in scope["headers"])


def __getattr__(name: str) -> Any:
    """Create `app` on first access, for `uvicorn app.main:app`. So importing this module reads no settings."""
    if name == "app":
        return create_app()
    raise AttributeError(name)
