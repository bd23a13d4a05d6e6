"""`python -m bench.stock_pages`: this server's schema and resolvers, served by Strawberry's own view.

What the edge of this server saves is what remains: the same reads by the same resolvers from the same books, through
Strawberry's defaults, which parse, validate and execute every request anew. Callers are admitted by the same doorway.
It serves reads; nothing of what a process does besides (the live feed, what falls due by time) is started.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import strawberry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL

from app.api.context import AppState, Context
from app.api.schema import build_schema
from app.auth.authenticator import Authenticator, build_authenticator
from app.db import pools
from app.engine.context import RequestContext
from app.settings import get_settings
from app.state import build_state
from bench.serving import serve_books


class View(GraphQL[Context, None]):
    """Strawberry's view, with what the resolvers need as its context."""

    def __init__(self, schema: strawberry.Schema, doorway: Authenticator, house: AppState) -> None:
        super().__init__(schema, graphql_ide=None)
        self._doorway = doorway
        self._house = house

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        return RequestContext(await self._doorway.authenticate(request.headers.get("authorization")), self._house)


def application(url: str) -> Starlette:
    """The server, on the books at `url`."""
    doorway = build_authenticator(get_settings())
    house = build_state(get_settings())

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        await pools.connect(url)
        try:
            yield
        finally:
            await house.charge_queue.close()
            await doorway.close()
            await pools.disconnect()

    return Starlette(routes=[Route("/graphql", View(build_schema(), doorway, house))], lifespan=life)


if __name__ == "__main__":
    serve_books(application)
