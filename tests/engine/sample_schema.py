"""A small schema over the frame, with one of everything that the frame promises to handle."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast

import orjson
import strawberry
from strawberry.scalars import JSON

from app.api.accounts.balance import open_latest_balances
from app.api.context import AppState, Context, ResolverInfo
from app.api.error_types import result_union, to_user_error
from app.api.scalars import Credits
from app.api.schema import build_schema
from app.auth.authenticator import Authenticator
from app.auth.caller import Caller, CallerKind, Scope
from app.auth.development_keys import DevelopmentKeys
from app.auth.jwks import StaticKeys
from app.auth.service_key_cache import ServiceKeyCache
from app.auth.tokens import TokenRequirements, TokenVerifier
from app.db.group_commit import BatchedReads
from app.engine import declare, global_ids
from app.engine.context import RequestContext
from app.engine.execution import GraphQLEngine
from app.engine.pagination import After, Connection, First, build_connection, check_first, decode_cursor, encode_cursor
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.errors import BadRequest, InsufficientCredits, InvalidInput, TaskNotFound
from app.ledger.queries import get_balances
from app.ledger.rules.account_state import AccountBalance
from app.live.change_feed import ChangeFeed
from app.pricing.rate_card_cache import RateCardCache
from app.settings import Settings
from app.tasks.charging import ChargeQueue
from app.topups.sandbox.provider import Sandbox

USER = Caller(kind=CallerKind.USER, actor="user:ada", owner_id="ada")
SERVICE = Caller(kind=CallerKind.SERVICE, actor="service:executor", scopes=frozenset({Scope.CHARGE}))
READER = Caller(kind=CallerKind.SERVICE, actor="service:reports", scopes=frozenset({Scope.READ}))
OPERATOR = Caller(kind=CallerKind.OPERATOR, actor="operator:olga", scopes=frozenset({Scope.ADMIN}))
ACCOUNT = 7

FIGURES = AccountBalance(
    account_id=ACCOUNT, owner_id="ada", version=1, posted=100, held=0, frozen=0, owed=0, as_of=datetime.now(UTC)
)

resolver_calls: list[str] = []
"""The resolvers that ran, so that a test can see that one did not."""


@declare.type(description="A toy that can be fetched by its id.", needs=Permission.INHERITED)
class Toy(global_ids.Node):
    name: str = declare.value(description="What it is called.")
    secret: str = declare.value(description="For operators only.", needs=Permission.OPERATOR)

    @declare.field(description="The name, loud.")
    async def loud(self, info: ResolverInfo) -> str:
        return await info.context.data_loader(load_loud).load(self.name)


async def load_loud(names: list[str]) -> list[str]:
    resolver_calls.append(f"load {','.join(names)}")
    return [name.upper() for name in names]


@global_ids.node_fetcher("Toy", int, str)
async def fetch_toy(context: Context, account_id: int, name: str) -> Toy | None:
    return toy(name) if account_id == ACCOUNT and context.caller == USER else None


def toy(name: str) -> Toy:
    return Toy(id=global_ids.encode_id("Toy", ACCOUNT, name), name=name, secret="hidden")


@declare.type(description="It worked.", needs=Permission.INHERITED)
class SpendSuccess:
    spent: Credits = declare.value(description="Credits that moved.")


SpendResult = result_union("SpendResult", SpendSuccess, (InsufficientCredits, InvalidInput))
Name = Annotated[str, strawberry.argument(description="A name.")]
Cost = Annotated[Credits, strawberry.argument(description="How much.")]


@strawberry.type(description="Reads.")
class Query(global_ids.NodeQueries):
    @declare.query(needs=Permission.PUBLIC, description="Says hello.")
    def hello(self, name: Name = "world") -> str:
        return f"hello {name}"

    @declare.query(needs=Permission.AUTHENTICATED, description="Who asks.")
    async def me(self, info: ResolverInfo) -> str:
        resolver_calls.append("me")
        return info.context.caller.actor if info.context.caller else "nobody"

    @declare.query(needs=Permission.OPERATOR, description="For operators.")
    async def audit(self) -> str:
        resolver_calls.append("audit")
        return "exact"

    @declare.query(needs=Permission.PUBLIC, description="A toy.")
    def toy(self, name: Name) -> Toy | None:
        return toy(name)

    @declare.query(needs=Permission.PUBLIC, description="Toys, in pages.")
    def toys(self, first: First = 25, after: After = None) -> Connection[Toy]:
        start = decode_cursor(after, "toys", ACCOUNT, shape=(int,)) or (0,)
        numbers = range(start[0], 5)[: check_first(first) + 1]
        return build_connection(
            numbers,
            first=first,
            after=after,
            cursor_of=lambda number: encode_cursor("toys", ACCOUNT, number + 1),
            node_of=lambda number: toy(f"toy{number}"),
        )

    @declare.query(needs=Permission.PUBLIC, description="Fails in a way nobody foresaw.")
    def broken(self) -> str | None:
        raise ValueError("the password is hunter2")

    @declare.query(needs=Permission.PUBLIC, description="Answers with something else than it says.")
    def mistaken(self) -> Toy | None:
        return cast(Toy, "hunter2")

    @declare.query(needs=Permission.PUBLIC, description="Refuses without a union that could say so.")
    def unforeseen(self) -> str | None:
        raise TaskNotFound(task_id="t1")

    @declare.query(needs=Permission.PUBLIC, description="Writes a number that its scalar does not hold.")
    def overflown(self) -> Credits | None:
        return Credits(2**53)

    @declare.query(needs=Permission.PUBLIC, description="Writes a number that GraphQL's own Int does not hold.")
    def too_wide(self) -> int | None:
        return 2**40

    @declare.query(needs=Permission.PUBLIC, description="Takes an hour.")
    async def slow(self) -> str | None:
        await asyncio.sleep(3600)
        return "done"

    @declare.query(needs=Permission.PUBLIC, description="Credits and back.")
    def credits(self, value: Cost) -> Credits:
        return value

    @declare.query(needs=Permission.PUBLIC, description="A long and back.")
    def long(self, value: Annotated[Long, strawberry.argument(description="A number.")]) -> Long:
        return value

    @declare.query(needs=Permission.PUBLIC, description="An instant and back.")
    def instant(self, at: Annotated[datetime, strawberry.argument(description="An instant.")]) -> datetime:
        return at

    @declare.query(needs=Permission.PUBLIC, description="JSON and back.")
    def json(self, value: Annotated[JSON, strawberry.argument(description="Anything.")]) -> JSON | None:
        return value


@strawberry.type(description="Writes.")
class Mutation:
    @declare.mutation(needs=Permission.SERVICE, description="Spends of a purse of 100.", graphql_type=SpendResult)
    async def spend(self, cost: Cost) -> SpendSuccess:
        resolver_calls.append("spend")
        return SpendSuccess(spent=spent(cost))

    @declare.mutation(
        needs=Permission.SERVICE,
        description="Spends again and again, each with its own result.",
        graphql_type=list[SpendResult],  # type: ignore[valid-type]  # made at run time
    )
    async def spend_all(
        self,
        info: ResolverInfo,
        costs: Annotated[list[Credits], strawberry.argument(description="How much, each time.")],
    ) -> list[Any]:
        return [settled(cost, info) for cost in costs]


def spent(cost: int) -> Credits:
    if cost < 0:
        raise InvalidInput.at("cost", "must not be negative")
    if cost > 100:
        raise InsufficientCredits(required_credits=cost, available_credits=100, balance=FIGURES)
    if cost == 13:
        raise TaskNotFound(task_id="unlucky")
    return Credits(cost)


def settled(cost: int, info: ResolverInfo) -> Any:
    try:
        return SpendSuccess(spent=spent(cost))
    except (InvalidInput, InsufficientCredits, TaskNotFound) as refusal:
        return to_user_error(refusal, info.context)


@strawberry.type(description="Follows.")
class Subscription:
    @declare.subscription(needs=Permission.AUTHENTICATED, description="Counts, then ends.")
    async def count(
        self, to: Annotated[int, strawberry.argument(description="The last number.")]
    ) -> AsyncGenerator[int, None]:
        for number in range(to):
            yield number + 1

    @declare.subscription(needs=Permission.PUBLIC, description="The same toy, twice.")
    async def toy_twice(self) -> AsyncGenerator[Toy, None]:
        yield toy("bear")
        yield toy("bear")

    @declare.subscription(needs=Permission.PUBLIC, description="One item, then a fault or a refusal.")
    async def breaking(
        self, politely: Annotated[bool, strawberry.argument(description="Whether it says why.")] = False
    ) -> AsyncGenerator[int, None]:
        yield 1
        raise BadRequest("sinceVersion lies ahead") if politely else ValueError("the password is hunter2")

    @declare.subscription(needs=Permission.PUBLIC, description="Sends nothing and never ends by itself.")
    async def forever(self) -> AsyncGenerator[int, None]:
        resolver_calls.append("begun")
        try:
            await asyncio.sleep(3600)
            yield 1
        finally:
            resolver_calls.append("ended")


schema = build_schema(query=Query, mutation=Mutation, subscription=Subscription)
engine = GraphQLEngine(schema._schema, introspection=True, compile_operations=True)
production_engine = GraphQLEngine(schema._schema, introspection=False, compile_operations=True)
change_feed = ChangeFeed(sweep_seconds=5, conflate_seconds=0)
rate_cards = RateCardCache()
state = AppState(
    settings=Settings(),
    change_feed=change_feed,
    rate_cards=rate_cards,
    charge_queue=ChargeQueue(rate_cards, lanes=1, batch_limit=10, queue_limit=10),
    balance_reader=BatchedReads(get_balances, batch_limit=10),
    latest_balances=open_latest_balances(change_feed, low_balance_threshold=0),
    payment_provider=Sandbox.open(Settings()),
)
keys = DevelopmentKeys.generate()
settings = Settings()
authenticator = Authenticator(
    TokenVerifier(StaticKeys([keys.verification_key()]), TokenRequirements.from_settings(settings)), ServiceKeyCache()
)


def token(name: str = "ada", *, seconds: float = 3600, operator: bool = False) -> str:
    roles = [settings.jwt_admin_role] if operator else []
    return keys.token(name, settings, timedelta(seconds=seconds), roles=roles)


async def decode_items(items: AsyncGenerator[bytes, None]) -> AsyncGenerator[Any, None]:
    """The payloads of a stream, out of their JSON."""
    async with aclosing(items):
        async for item in items:
            yield orjson.loads(item)


def context(viewer: Caller | None = None) -> Context:
    resolver_calls.clear()
    return RequestContext(viewer, state)


def utc(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)
