"""A small schema over the frame, with one of everything that the frame promises to handle."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast

import orjson
import strawberry
from strawberry.scalars import JSON

from app.callers.development import DevelopmentKeys
from app.callers.doorway import Doorway
from app.callers.jwks import FixedKeys
from app.callers.ring import KeyRing
from app.callers.rules import Kind, Scope, Viewer
from app.callers.tokens import Expected, TokenVerifier
from app.coalescing import Shared
from app.errors import BadRequest, InsufficientCredits, InvalidInput, TaskNotFound
from app.graphql import access, nodes
from app.graphql.access import Needs
from app.graphql.balances import newest_balances
from app.graphql.context import Context, House, Information
from app.graphql.errors import InsufficientCreditsError, InvalidInputError
from app.graphql.execution import Execution
from app.graphql.pagination import After, Connection, First, checked_first, cursor, page, position
from app.graphql.refusals import as_member
from app.graphql.scalars import Credits, Long
from app.graphql.schema import build
from app.ledger.book import Figures
from app.ledger.statements import balances
from app.live import Feed
from app.pricing.catalogue import Catalogue
from app.settings import Settings
from app.tasks.charging import Charger
from app.topups.sandbox.provider import Sandbox

USER = Viewer(kind=Kind.USER, actor="user:ada", owner_id="ada")
SERVICE = Viewer(kind=Kind.SERVICE, actor="service:executor", scopes=frozenset({Scope.CHARGE}))
READER = Viewer(kind=Kind.SERVICE, actor="service:reports", scopes=frozenset({Scope.READ}))
OPERATOR = Viewer(kind=Kind.OPERATOR, actor="operator:olga", scopes=frozenset({Scope.ADMIN}))
ACCOUNT = 7

FIGURES = Figures(
    account_id=ACCOUNT, owner_id="ada", version=1, posted=100, held=0, frozen=0, owed=0, as_of=datetime.now(UTC)
)

ran: list[str] = []
"""The resolvers that ran, so that a test can see that one did not."""


@access.type(description="A toy that can be fetched by its id.", needs=Needs.REACHED)
class Toy(nodes.Node):
    name: str = access.value(description="What it is called.")
    secret: str = access.value(description="For operators only.", needs=Needs.OPERATOR)

    @access.field(description="The name, loud.")
    async def loud(self, info: Information) -> str:
        return await info.context.loader(load_loud).load(self.name)


async def load_loud(names: list[str]) -> list[str]:
    ran.append(f"load {','.join(names)}")
    return [name.upper() for name in names]


@nodes.fetches("Toy", int, str)
async def fetch_toy(context: Context, account_id: int, name: str) -> Toy | None:
    return toy(name) if account_id == ACCOUNT and context.viewer == USER else None


def toy(name: str) -> Toy:
    return Toy(id=nodes.encode_id("Toy", ACCOUNT, name), name=name, secret="hidden")


@access.type(description="It worked.", needs=Needs.REACHED)
class SpendSuccess:
    spent: Credits = access.value(description="Credits that moved.")


SpendResult = Annotated[
    SpendSuccess | InsufficientCreditsError | InvalidInputError,
    strawberry.union("SpendResult", description="Spent, or why not."),
]
Name = Annotated[str, strawberry.argument(description="A name.")]
Cost = Annotated[Credits, strawberry.argument(description="How much.")]


@strawberry.type(description="Reads.")
class Query(nodes.NodeQueries):
    @access.query(needs=Needs.ANYONE, description="Says hello.")
    def hello(self, name: Name = "world") -> str:
        return f"hello {name}"

    @access.query(needs=Needs.USER_OR_ABOVE, description="Who asks.")
    async def me(self, info: Information) -> str:
        ran.append("me")
        return info.context.viewer.actor if info.context.viewer else "nobody"

    @access.query(needs=Needs.OPERATOR, description="For operators.")
    async def audit(self) -> str:
        ran.append("audit")
        return "exact"

    @access.query(needs=Needs.ANYONE, description="A toy.")
    def toy(self, name: Name) -> Toy | None:
        return toy(name)

    @access.query(needs=Needs.ANYONE, description="Toys, in pages.")
    def toys(self, first: First = 25, after: After = None) -> Connection[Toy]:
        start = position(after, "toys", ACCOUNT, shape=(int,)) or (0,)
        numbers = range(start[0], 5)[: checked_first(first) + 1]
        return page(
            numbers,
            first=first,
            after=after,
            cursor_of=lambda number: cursor("toys", ACCOUNT, number + 1),
            node_of=lambda number: toy(f"toy{number}"),
        )

    @access.query(needs=Needs.ANYONE, description="Fails in a way nobody foresaw.")
    def broken(self) -> str | None:
        raise ValueError("the password is hunter2")

    @access.query(needs=Needs.ANYONE, description="Answers with something else than it says.")
    def mistaken(self) -> Toy | None:
        return cast(Toy, "hunter2")

    @access.query(needs=Needs.ANYONE, description="Refuses without a union that could say so.")
    def unforeseen(self) -> str | None:
        raise TaskNotFound(task_id="t1")

    @access.query(needs=Needs.ANYONE, description="Writes a number that its scalar does not hold.")
    def overflown(self) -> Credits | None:
        return Credits(2**53)

    @access.query(needs=Needs.ANYONE, description="Writes a number that GraphQL's own Int does not hold.")
    def too_wide(self) -> int | None:
        return 2**40

    @access.query(needs=Needs.ANYONE, description="Takes an hour.")
    async def slow(self) -> str | None:
        await asyncio.sleep(3600)
        return "done"

    @access.query(needs=Needs.ANYONE, description="Credits and back.")
    def credits(self, value: Cost) -> Credits:
        return value

    @access.query(needs=Needs.ANYONE, description="A long and back.")
    def long(self, value: Annotated[Long, strawberry.argument(description="A number.")]) -> Long:
        return value

    @access.query(needs=Needs.ANYONE, description="An instant and back.")
    def instant(self, at: Annotated[datetime, strawberry.argument(description="An instant.")]) -> datetime:
        return at

    @access.query(needs=Needs.ANYONE, description="JSON and back.")
    def json(self, value: Annotated[JSON, strawberry.argument(description="Anything.")]) -> JSON | None:
        return value


@strawberry.type(description="Writes.")
class Mutation:
    @access.mutation(needs=Needs.SERVICE, description="Spends of a purse of 100.")
    async def spend(self, cost: Cost) -> SpendResult:
        ran.append("spend")
        return SpendSuccess(spent=spent(cost))

    @access.mutation(needs=Needs.SERVICE, description="Spends again and again, each with its own result.")
    async def spend_all(
        self,
        info: Information,
        costs: Annotated[list[Credits], strawberry.argument(description="How much, each time.")],
    ) -> list[SpendResult]:
        return [settled(cost, info) for cost in costs]


def spent(cost: int) -> Credits:
    if cost < 0:
        raise InvalidInput.at("cost", "must not be negative")
    if cost > 100:
        raise InsufficientCredits(required_credits=cost, available_credits=100, balance=FIGURES)
    if cost == 13:
        raise TaskNotFound(task_id="unlucky")
    return Credits(cost)


def settled(cost: int, info: Information) -> Any:
    try:
        return SpendSuccess(spent=spent(cost))
    except (InvalidInput, InsufficientCredits, TaskNotFound) as refusal:
        return as_member(refusal, info.context)


@strawberry.type(description="Follows.")
class Subscription:
    @access.subscription(needs=Needs.USER_OR_ABOVE, description="Counts, then ends.")
    async def count(
        self, to: Annotated[int, strawberry.argument(description="The last number.")]
    ) -> AsyncGenerator[int, None]:
        for number in range(to):
            yield number + 1

    @access.subscription(needs=Needs.ANYONE, description="The same toy, twice.")
    async def toy_twice(self) -> AsyncGenerator[Toy, None]:
        yield toy("bear")
        yield toy("bear")

    @access.subscription(needs=Needs.ANYONE, description="One item, then a fault or a refusal.")
    async def breaking(
        self, politely: Annotated[bool, strawberry.argument(description="Whether it says why.")] = False
    ) -> AsyncGenerator[int, None]:
        yield 1
        raise BadRequest("sinceVersion lies ahead") if politely else ValueError("the password is hunter2")

    @access.subscription(needs=Needs.ANYONE, description="Sends nothing and never ends by itself.")
    async def forever(self) -> AsyncGenerator[int, None]:
        ran.append("begun")
        try:
            await asyncio.sleep(3600)
            yield 1
        finally:
            ran.append("ended")


schema = build(query=Query, mutation=Mutation, subscription=Subscription)
execution = Execution(schema._schema, open_to_explorers=True, plans=True)
production = Execution(schema._schema, open_to_explorers=False, plans=True)
feed = Feed(sweep_seconds=5, conflate_seconds=0)
catalogue = Catalogue()
house = House(
    settings=Settings(),
    live=feed,
    catalogue=catalogue,
    charger=Charger(catalogue, lanes=1, batch_limit=10, queue_limit=10),
    balances=Shared(balances, list_limit=10),
    newest=newest_balances(feed, low_balance_at=0),
    provider=Sandbox.open(Settings()),
)
keys = DevelopmentKeys.generate()
chosen = Settings()
doorway = Doorway(TokenVerifier(FixedKeys([keys.verification_key()]), Expected.by(chosen)), KeyRing())


def token(name: str = "ada", *, seconds: float = 3600, operator: bool = False) -> str:
    roles = [chosen.jwt_admin_role] if operator else []
    return keys.token(name, chosen, timedelta(seconds=seconds), roles=roles)


async def read(items: AsyncGenerator[bytes, None]) -> AsyncGenerator[Any, None]:
    """The payloads of a stream, out of their JSON."""
    async with aclosing(items):
        async for item in items:
            yield orjson.loads(item)


def context(viewer: Viewer | None = None) -> Context:
    ran.clear()
    return Context(viewer, house)


def aware(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)
