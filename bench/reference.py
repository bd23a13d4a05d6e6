"""`python -m bench.reference`: the same charge, written the usual way. It is what this server is compared with.

One ORM transaction for each request: the account's row is locked, a replay looked up, the task read, the price taken
from the same rate card in memory, entry and block run inserted, account and task updated. Strawberry's own view on
Starlette, with Strawberry's defaults, which parse and validate every request anew; `python -m bench.reference --caches`
is the same with its parser and validation caches. Callers are admitted by the same doorway as the product's. It keeps
less than the product does: no grants, no chain, no announcements.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import strawberry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.extensions import ParserCache, ValidationCache
from strawberry.permission import BasePermission
from strawberry.scalars import JSON
from strawberry.types import Info
from tortoise import Tortoise
from tortoise.transactions import in_transaction

from app.auth.authenticator import Authenticator, build_authenticator
from app.auth.caller import Caller, Scope, has_scope
from app.db import pools
from app.errors import BillingError, IdempotencyConflict, InsufficientCredits, TaskEnded, TaskNotFound
from app.pricing import rate_card_document
from app.pricing.quotes import Card, quote
from app.pricing.rate_card_json import default_rate_card
from app.settings import get_settings
from app.tasks.rules import ChargeRequest
from bench.reference_rows import Account, BlockRun, Entry, Task
from bench.serving import serve_books

CACHES: Final = "--caches"
CONNECTIONS: Final = 20
"""Of its pool. More do not make it quicker: it is its own CPU that it waits for."""


def tortoise_configuration(url: str) -> dict[str, Any]:
    pool = pools.connection_arguments(url) | {"minsize": 1, "maxsize": CONNECTIONS}
    return {
        "connections": {"default": {"engine": "tortoise.backends.asyncpg", "credentials": pool}},
        "apps": {
            "reference": {"models": ["bench.reference_rows"], "default_connection": "default"},
            "credits": {"models": ["app.auth.models"], "default_connection": "default"},
        },
        "use_tz": True,
        "timezone": "UTC",
    }


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[None]:
    """The pool, open."""
    await Tortoise.init(config=tortoise_configuration(url), _enable_global_fallback=True)
    try:
        yield
    finally:
        await Tortoise.close_connections()


async def post(request: ChargeRequest, card: Card) -> tuple[BlockRun, Account, bool]:
    """The block run, its account afterwards, and whether it is a replay. Raises: BillingError, nothing is written."""
    async with in_transaction() as connection:
        account = (
            await Account.filter(tasks__id=request.task_id)
            .using_db(connection)
            .select_for_update(no_key=True, of=("reference_account",))
            .get_or_none()
        )
        if account is None:
            raise TaskNotFound(task_id=request.task_id)
        print_ = request.request_hash()
        seen = await BlockRun.get_or_none(account=account, block_run_id=request.block_run_id, using_db=connection)
        if seen is not None:
            if seen.fingerprint != print_:
                raise IdempotencyConflict(key=request.block_run_id)
            return seen, account, True
        task = await Task.get(id=request.task_id, using_db=connection)
        if task.status != "RUNNING":
            raise TaskEnded(task_id=task.id, status=task.status)
        price = quote(card, request.block, request.settings, uses_own_key=request.uses_own_key)
        if price.credits > account.balance:
            raise InsufficientCredits(required_credits=price.credits, available_credits=account.balance)
        account.balance -= price.credits
        account.version += 1
        entry = await Entry.create(
            account=account,
            version=account.version,
            kind="CHARGE",
            credits=-price.credits,
            balance_after=account.balance,
            actor=request.actor,
            using_db=connection,
        )
        run = await BlockRun.create(
            account=account,
            task=task,
            entry=entry,
            block_run_id=request.block_run_id,
            block=request.block,
            model=price.model,
            cost=price.credits,
            price_version=price.rate_card_version,
            fingerprint=print_,
            using_db=connection,
        )
        task.steps += 1
        task.charged += price.credits
        await task.save(update_fields=["steps", "charged"], using_db=connection)
        await account.save(update_fields=["balance", "version"], using_db=connection)
        return run, account, False


@strawberry.input
class ChargeInput:
    task_id: strawberry.ID
    block_run_id: strawberry.ID
    block: str
    settings: JSON | None = None
    uses_own_key: bool = False


@strawberry.type
class Balance:
    available: int
    version: int


@strawberry.type
class ChargeSuccess:
    cost: int
    replayed: bool
    balance: Balance


@strawberry.interface
class UserError:
    message: str


@strawberry.type
class InsufficientCreditsError(UserError):
    required: int
    available: int


@strawberry.type
class ChargeRefusedError(UserError):
    pass


ChargeResult = Annotated[
    ChargeSuccess | InsufficientCreditsError | ChargeRefusedError, strawberry.union("ChargeResult")
]


class IsService(BasePermission):
    message = "This needs a service key."

    def has_permission(self, source: Any, info: Info[Any, Any], **kwargs: Any) -> bool:
        return has_scope(info.context["viewer"], Scope.CHARGE)


@strawberry.type
class Query:
    alive: bool = True


async def charge(info: Info[Any, Any], input: ChargeInput) -> ChargeResult:
    viewer: Caller = info.context["viewer"]
    given: object = input.settings
    request = ChargeRequest(
        task_id=input.task_id,
        block_run_id=input.block_run_id,
        block=input.block,
        settings=given if isinstance(given, dict) else None,
        uses_own_key=input.uses_own_key,
        actor=viewer.actor,
    )
    try:
        run, account, replayed = await post(request, info.context["card"])
    except InsufficientCredits as refusal:
        return InsufficientCreditsError(
            message=refusal.message, required=refusal.required_credits, available=refusal.available_credits
        )
    except BillingError as refusal:
        return ChargeRefusedError(message=refusal.message)
    balance = Balance(available=account.balance, version=account.version)
    return ChargeSuccess(cost=run.cost, replayed=replayed, balance=balance)


@strawberry.type
class Mutation:
    charge: ChargeResult = strawberry.mutation(resolver=charge, permission_classes=[IsService])


class View(GraphQL[Any, None]):
    """Strawberry's view, with what the resolvers need in its context."""

    def __init__(self, schema: strawberry.Schema, doorway: Authenticator, card: Card) -> None:
        super().__init__(schema, graphql_ide=None)
        self._doorway = doorway
        self._card = card

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Any:
        viewer = await self._doorway.authenticate(request.headers.get("authorization"))
        return {"request": request, "response": response, "viewer": viewer, "card": self._card}


def application(url: str, *, caches: bool) -> Starlette:
    """The server, on the database at `url`, whose tables `bench.databases` has made."""
    doorway = build_authenticator(get_settings())
    card = rate_card_document.parse_rate_card(default_rate_card(), version=1, effective_at=datetime.now(UTC))
    schema = strawberry.Schema(
        query=Query,
        mutation=Mutation,
        types=[InsufficientCreditsError],
        extensions=[ParserCache, ValidationCache] if caches else [],
    )

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        async with connected(url):
            yield
            await doorway.close()

    return Starlette(routes=[Route("/graphql", View(schema, doorway, card))], lifespan=life)


if __name__ == "__main__":
    serve_books(lambda url: application(url, caches=CACHES in sys.argv[1:]))
