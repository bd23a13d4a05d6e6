"""`python -m bench.reference_servers route | pages | balance`: servers with which this server is compared.

`route` is a Starlette route that reads and writes JSON, as the lower bound of server CPU. `pages` and `balance` run on
Strawberry's own ASGI view with its defaults: `pages` serves this server's schema and resolvers, so that the difference
is the GraphQL engine; `balance` serves a simple balance subscription that uses the same change feed and reads the
balance with one query for each push. Callers are authenticated as in this server. No background tasks run.
"""

import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import strawberry
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.types import Info

from app.api.accounts.balance import BalanceStatus
from app.api.context import AppState, Context
from app.api.schema import build_schema
from app.auth.authenticator import Authenticator, build_authenticator
from app.background import run_in_background
from app.db import pools
from app.engine.context import RequestContext
from app.errors import Unauthenticated
from app.live.change_feed import ChangeFeed
from app.settings import get_settings, reveal
from app.state import build_state

ACCOUNT: Final = "SELECT account_id FROM owner WHERE owner_id = $1"
BALANCE: Final = "SELECT posted, held, frozen, owed, version FROM account WHERE id = $1"


@strawberry.type
class Balance:
    available: int
    held: int
    owed: int
    version: int
    status: BalanceStatus


@strawberry.type
class Query:
    alive: bool = True


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def balance(self, info: Info[Any, Any]) -> AsyncGenerator[Balance, None]:
        feed: ChangeFeed = info.context["feed"]
        [found] = await pools.fetch(ACCOUNT, info.context["caller"].owner_id)
        account_id = found["account_id"]
        with feed.subscribe(account_id) as changes:
            seen = -1
            while True:
                [row] = await pools.fetch(BALANCE, account_id)
                if row["version"] > seen:
                    seen = row["version"]
                    yield balance_of(row, low_at=get_settings().low_balance_threshold)
                await changes.wait()


def balance_of(row: Mapping[str, int], *, low_at: int) -> Balance:
    available = max(row["posted"] - row["held"] - row["frozen"], 0)
    if row["owed"]:
        status = BalanceStatus.IN_DEBT
    elif not available:
        status = BalanceStatus.EMPTY
    else:
        status = BalanceStatus.LOW if available < low_at else BalanceStatus.OK
    return Balance(available=available, held=row["held"], owed=row["owed"], version=row["version"], status=status)


class PagesView(GraphQL[Context, None]):
    def __init__(self, authenticator: Authenticator, state: AppState) -> None:
        super().__init__(build_schema(), graphql_ide=None)
        self._authenticator = authenticator
        self._state = state

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        return RequestContext(await self._authenticator.authenticate(request.headers.get("authorization")), self._state)


class BalanceView(GraphQL[Any, None]):
    def __init__(self, authenticator: Authenticator, feed: ChangeFeed) -> None:
        super().__init__(strawberry.Schema(query=Query, subscription=Subscription), graphql_ide=None)
        self._authenticator = authenticator
        self._feed = feed

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Any:
        return {"request": request, "response": response, "feed": self._feed}

    async def on_ws_connect(self, context: Any) -> Any:
        """Raises: ConnectionRejectionError: the token is missing or not valid."""
        try:
            credential = context["connection_params"].get("authorization")
            context["caller"] = await self._authenticator.authenticate(credential)
        except Unauthenticated:
            raise ConnectionRejectionError from None
        if context["caller"] is None:
            raise ConnectionRejectionError
        return await super().on_ws_connect(context)


def application(kind: str, url: str) -> Starlette:
    authenticator, state = build_authenticator(get_settings()), build_state(get_settings())
    view = PagesView(authenticator, state) if kind == "pages" else BalanceView(authenticator, state.change_feed)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(pools.disconnect)
            stack.push_async_callback(authenticator.close)
            stack.push_async_callback(state.charge_queue.close)
            await pools.connect(url)
            if kind == "balance":
                await stack.enter_async_context(run_in_background({"change feed": lambda: state.change_feed.run(url)}))
            yield

    return Starlette(routes=[Route("/graphql", view), WebSocketRoute("/graphql", view)], lifespan=lifespan)


async def respond(request: Request) -> JSONResponse:
    match (await request.json())["variables"]:
        case {"input": {"blockRunId": block_run_id}}:
            success = {"__typename": "ChargeSuccess", "cost": 1, "replayed": False}
            return JSONResponse({"data": {"charge": success, "blockRunId": block_run_id}})
    return JSONResponse({"errors": "The route takes single charges."}, status_code=400)


def serve(application: Starlette) -> None:
    """Serve on a free port, which is printed, with the uvicorn settings of `python -m app serve`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)
        print(f"Serving on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(
            application,
            loop="uvloop",
            http="httptools",
            ws="websockets-sansio",
            log_level="warning",
            access_log=False,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    if sys.argv[1] == "route":
        serve(Starlette(routes=[Route("/graphql", respond, methods=["POST"])]))
    else:
        serve(application(sys.argv[1], reveal(get_settings().database_url) or ""))
