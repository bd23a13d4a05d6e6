"""A small schema with one example of everything that the engine supports, and engines for it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NewType, cast

import orjson
import strawberry
from strawberry.scalars import JSON
from strawberry.types.info import Info

from app.auth.authenticator import Authenticator
from app.auth.caller import Caller, CallerKind, Scope
from app.auth.development_keys import DevelopmentKeys
from app.auth.jwks import StaticKeys
from app.auth.service_key_cache import ServiceKeyCache
from app.auth.tokens import TokenRequirements, TokenVerifier
from app.engine import declare, global_ids, scalars
from app.engine.context import RequestContext
from app.engine.execution import GraphQLEngine
from app.engine.global_ids import INT32, KEY, LONG
from app.engine.pagination import After, Connection, First, paginate
from app.engine.permissions import Permission
from app.engine.scalars import Long, integer_scalar
from app.engine.schema import create_schema
from app.errors import BadRequest
from app.settings import Settings

USER = Caller(kind=CallerKind.USER, actor="user:ada", owner_id="ada")
SERVICE = Caller(kind=CallerKind.SERVICE, actor="service:executor", scopes=frozenset({Scope.CHARGE}))
READER = Caller(kind=CallerKind.SERVICE, actor="service:reports", scopes=frozenset({Scope.READ}))
OPERATOR = Caller(kind=CallerKind.OPERATOR, actor="operator:olga", scopes=frozenset({Scope.ADMIN}))
ACCOUNT = 7

Context = RequestContext[None]
ResolverInfo = Info[Context, None]
Credits = NewType("Credits", int)
SCALARS = {**scalars.SCALARS, Credits: integer_scalar("Credits", "Whole credits.")}

resolver_calls: list[str] = []
"""The resolvers that ran, in order."""


@declare.type(description="A toy that can be fetched by its id.", needs=Permission.INHERITED)
class Toy(global_ids.Node):
    name: str = declare.value(description="Its name.")
    secret: str = declare.value(description="For operators only.", needs=Permission.OPERATOR)

    @declare.field(description="The name in capitals.")
    async def loud(self, info: ResolverInfo) -> str:
        return await info.context.data_loader(load_loud).load(self.name)


async def load_loud(names: list[str]) -> list[str]:
    resolver_calls.append(f"load {','.join(names)}")
    return [name.upper() for name in names]


@global_ids.node_fetcher("Toy", LONG, KEY)
async def fetch_toy(context: Context, account_id: int, name: str) -> Toy | None:
    return toy(name) if account_id == ACCOUNT and context.caller == USER else None


def toy(name: str) -> Toy:
    return Toy(id=global_ids.encode_id("Toy", ACCOUNT, name), name=name, secret="hidden")


@dataclass(eq=False)
class InsufficientCredits(Exception):
    required: int

    def __str__(self) -> str:
        return f"This needs {self.required} credits and 100 are available."


class NegativeCost(Exception):
    """Spending less than nothing."""


class NotInUnion(Exception):
    """A refusal that the union of the field does not contain."""


@declare.interface(description="An expected refusal.", needs=Permission.INHERITED)
class UserError:
    message: str = declare.value(description="What is wrong.")


@declare.type(description="More than the purse holds.", needs=Permission.INHERITED)
class InsufficientCreditsError(UserError):
    required: Credits = declare.value(description="Credits needed.")


@declare.type(description="Less than nothing.", needs=Permission.INHERITED)
class InvalidInputError(UserError):
    path: str = declare.value(description="Which argument.")


@declare.type(description="A refusal that is in no union.", needs=Permission.INHERITED)
class NotInUnionError(UserError):
    pass


class ErrorHandler:
    """Turns an exception into a member of the field's union; for Strawberry's `exception_handlers`."""

    def __init__(self, exception_type: type[Exception], error_type: type[UserError]) -> None:
        self.exception_type = exception_type
        self.error_type = error_type

    def handle(self, exception: Exception, **_: Any) -> UserError:
        return to_user_error(exception)


ERROR_HANDLERS = (
    ErrorHandler(InsufficientCredits, InsufficientCreditsError),
    ErrorHandler(NegativeCost, InvalidInputError),
    ErrorHandler(NotInUnion, NotInUnionError),
)
REFUSALS = (InsufficientCredits, NegativeCost, NotInUnion)


def to_user_error(refusal: Exception) -> UserError:
    message = str(refusal)
    if isinstance(refusal, InsufficientCredits):
        return InsufficientCreditsError(message=message, required=Credits(refusal.required))
    return (
        InvalidInputError(message=message, path="cost")
        if isinstance(refusal, NegativeCost)
        else NotInUnionError(message=message)
    )


@declare.type(description="It worked.", needs=Permission.INHERITED)
class SpendSuccess:
    spent: Credits = declare.value(description="Credits spent.")


SpendResult = Annotated[
    SpendSuccess | InsufficientCreditsError | InvalidInputError,
    strawberry.union("SpendResult", description="Spent, or why not."),
]
Name = Annotated[str, strawberry.argument(description="A name.")]
Cost = Annotated[Credits, strawberry.argument(description="How much.")]


async def read_toys(limit: int, position: tuple[int] | None) -> Sequence[int]:
    start = position[0] if position is not None else 0
    return range(start, 5)[:limit]


@strawberry.type(description="Reads.")
class Query(global_ids.NodeQueries):
    @declare.query(needs=Permission.PUBLIC, description="A greeting.")
    def hello(self, name: Name = "world") -> str:
        return f"hello {name}"

    @declare.query(needs=Permission.AUTHENTICATED, description="The actor that calls.")
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
    async def toys(self, first: First = 25, after: After = None) -> Connection[Toy]:
        return await paginate(
            "toys",
            ACCOUNT,
            (INT32,),
            first=first,
            after=after,
            read=read_toys,
            position_of=lambda number: (number + 1,),
            node_of=lambda number: toy(f"toy{number}"),
        )

    @declare.query(needs=Permission.PUBLIC, description="Raises an unexpected exception.")
    def broken(self) -> str | None:
        raise ValueError("the password is hunter2")

    @declare.query(needs=Permission.PUBLIC, description="Returns another type than it declares.")
    def mistaken(self) -> Toy | None:
        return cast(Toy, "hunter2")

    @declare.query(needs=Permission.PUBLIC, description="Refuses, and has no union for it.")
    def unforeseen(self) -> str | None:
        raise NotInUnion("t1")

    @declare.query(needs=Permission.PUBLIC, description="Returns a number beyond the bounds of its scalar.")
    def overflown(self) -> Credits | None:
        return Credits(2**53)

    @declare.query(needs=Permission.PUBLIC, description="Returns a number beyond the bounds of Int.")
    def too_wide(self) -> int | None:
        return 2**40

    @declare.query(needs=Permission.PUBLIC, description="Takes an hour.")
    async def slow(self) -> str | None:
        await asyncio.sleep(3600)
        return "done"

    @declare.query(needs=Permission.PUBLIC, description="Returns its argument.")
    def credits(self, value: Cost) -> Credits:
        return value

    @declare.query(needs=Permission.PUBLIC, description="Returns its argument.")
    def long(self, value: Annotated[Long, strawberry.argument(description="A number.")]) -> Long:
        return value

    @declare.query(needs=Permission.PUBLIC, description="Returns its argument.")
    def instant(self, at: Annotated[datetime, strawberry.argument(description="An instant.")]) -> datetime:
        return at

    @declare.query(needs=Permission.PUBLIC, description="Returns its argument.")
    def json(self, value: Annotated[JSON, strawberry.argument(description="Anything.")]) -> JSON | None:
        return value


@strawberry.type(description="Writes.")
class Mutation:
    @declare.mutation(needs=Permission.SERVICE, description="Spends from a purse of 100.")
    async def spend(self, cost: Cost) -> SpendResult:
        resolver_calls.append("spend")
        return SpendSuccess(spent=spend(cost))

    @declare.mutation(needs=Permission.SERVICE, description="Spends several times, each with its own result.")
    async def spend_all(
        self, costs: Annotated[list[Credits], strawberry.argument(description="How much, each time.")]
    ) -> list[SpendResult]:
        return [spend_or_refuse(cost) for cost in costs]


def spend(cost: int) -> Credits:
    if cost < 0:
        raise NegativeCost("cost must not be negative")
    if cost > 100:
        raise InsufficientCredits(required=cost)
    if cost == 13:
        raise NotInUnion("unlucky")
    return Credits(cost)


def spend_or_refuse(cost: int) -> Any:
    try:
        return SpendSuccess(spent=spend(cost))
    except REFUSALS as refusal:
        return to_user_error(refusal)


@strawberry.type(description="Subscribes.")
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

    @declare.subscription(needs=Permission.PUBLIC, description="One item, then an exception.")
    async def breaking(
        self, politely: Annotated[bool, strawberry.argument(description="Whether it is an expected one.")] = False
    ) -> AsyncGenerator[int, None]:
        yield 1
        raise BadRequest("sinceVersion lies ahead") if politely else ValueError("the password is hunter2")

    @declare.subscription(needs=Permission.PUBLIC, description="Sends nothing and does not end by itself.")
    async def forever(self) -> AsyncGenerator[int, None]:
        resolver_calls.append("begun")
        try:
            await asyncio.sleep(3600)
            yield 1
        finally:
            resolver_calls.append("ended")


schema = create_schema(
    query=Query, mutation=Mutation, subscription=Subscription, scalars=SCALARS, exception_handlers=ERROR_HANDLERS
)
engine = GraphQLEngine(schema._schema, introspection=True, compile_operations=True)
production_engine = GraphQLEngine(schema._schema, introspection=False, compile_operations=True)
state = None
"""The engine passes the state of the application on to resolvers; those of this schema need none."""
keys = DevelopmentKeys.generate()
settings = Settings()
authenticator = Authenticator(
    TokenVerifier(StaticKeys([keys.verification_key()]), TokenRequirements.from_settings(settings)), ServiceKeyCache()
)


def token(name: str = "ada", *, seconds: float = 3600, operator: bool = False) -> str:
    roles = [settings.jwt_admin_role] if operator else []
    return keys.token(name, settings, timedelta(seconds=seconds), roles=roles)


async def decode_items(items: AsyncGenerator[bytes, None]) -> AsyncGenerator[Any, None]:
    """The items of a stream, decoded from JSON."""
    async with aclosing(items):
        async for item in items:
            yield orjson.loads(item)


def context(caller: Caller | None = None) -> Context:
    resolver_calls.clear()
    return RequestContext(caller, state)


def utc(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)
