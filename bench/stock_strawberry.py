"""`python -m bench.stock_strawberry`: the header's subscription, written the usual way. This server's pushes are compared with it.

Strawberry's own ASGI view over graphql-transport-ws, with its defaults. It is woken by the same feed as this server's
subscriptions (the other end of LISTEN and NOTIFY, with the same pause between changes), admits callers by the same
doorway, and reads the balance by one query for each push.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, Final

import strawberry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.exceptions import ConnectionRejectionError
from strawberry.types import Info

from app.auth.authenticator import Authenticator, build_authenticator
from app.auth.caller import Caller
from app.background import run_in_background
from app.db import pools
from app.errors import Unauthenticated
from app.live.change_feed import ChangeFeed
from app.settings import get_settings
from bench.serving import serve_books

ACCOUNT: Final = "SELECT account_id FROM owner WHERE owner_id = $1"
BALANCE: Final = "SELECT posted, held, frozen, owed, version FROM account WHERE id = $1"


@strawberry.enum
class BalanceStatus(StrEnum):
    OK = "OK"
    LOW = "LOW"
    EMPTY = "EMPTY"
    OWING = "OWING"


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
        viewer: Caller = info.context["viewer"]
        feed: ChangeFeed = info.context["feed"]
        [found] = await pools.fetch(ACCOUNT, viewer.owner_id)
        number = found["account_id"]
        with feed.subscribe(number) as watch:
            seen = -1
            while True:
                [row] = await pools.fetch(BALANCE, number)
                if row["version"] > seen:
                    seen = row["version"]
                    yield balance_of(row, low_at=get_settings().low_balance_threshold)
                await watch.wait()


def balance_of(row: Mapping[str, int], *, low_at: int) -> Balance:
    available = max(row["posted"] - row["held"] - row["frozen"], 0)
    if row["owed"]:
        status = BalanceStatus.OWING
    elif not available:
        status = BalanceStatus.EMPTY
    else:
        status = BalanceStatus.LOW if available < low_at else BalanceStatus.OK
    return Balance(available=available, held=row["held"], owed=row["owed"], version=row["version"], status=status)


class View(GraphQL[Any, None]):
    """Strawberry's view, with what the resolvers need in its context."""

    def __init__(self, schema: strawberry.Schema, doorway: Authenticator, feed: ChangeFeed) -> None:
        super().__init__(schema, graphql_ide=None)
        self._doorway = doorway
        self._feed = feed

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Any:
        return {"request": request, "response": response, "feed": self._feed}

    async def on_ws_connect(self, context: Any) -> Any:
        """Raises: ConnectionRejectionError: nobody is known by this token."""
        try:
            context["viewer"] = await self._doorway.authenticate(context["connection_params"].get("authorization"))
        except Unauthenticated:
            raise ConnectionRejectionError from None
        if context["viewer"] is None:
            raise ConnectionRejectionError
        return await super().on_ws_connect(context)


def application(url: str) -> Starlette:
    """The server, on the books at `url`."""
    here = get_settings()
    doorway = build_authenticator(here)
    feed = ChangeFeed(sweep_seconds=here.sweep_seconds, conflate_seconds=here.conflate_ms / 1_000)
    view = View(strawberry.Schema(query=Query, subscription=Subscription), doorway, feed)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        await pools.connect(url)
        try:
            async with run_in_background({"live feed": lambda: feed.run(url)}):
                yield
        finally:
            await doorway.close()
            await pools.disconnect()

    return Starlette(routes=[Route("/graphql", view), WebSocketRoute("/graphql", view)], lifespan=life)


if __name__ == "__main__":
    serve_books(application)
