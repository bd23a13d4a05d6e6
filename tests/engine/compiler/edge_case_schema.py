"""A schema with one example of everything that an executor must handle, wrong return values included.

`resolver_calls` records which resolvers ran, in order: two executors must not only return the same, but also start the
same resolvers in the same order, because mutations and data loaders depend on it.
"""

from collections.abc import AsyncIterator, Generator, Iterator
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, TypeAlias, cast

import strawberry
from graphql import GraphQLError
from strawberry.scalars import JSON

from app.engine import declare, global_ids
from app.engine.pagination import After, Connection, Edge, First, PageInfo
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.schema import create_schema, describe_enum
from app.errors import BadRequest
from tests.engine.sample_schema import (
    ERROR_HANDLERS,
    REFUSALS,
    SCALARS,
    Credits,
    InsufficientCredits,
    InsufficientCreditsError,
    InvalidInputError,
    NegativeCost,
    NotInUnion,
    ResolverInfo,
    Toy,
    UserError,
    to_user_error,
)

resolver_calls: list[str] = []


class Diet(Enum):
    MEAT = "meat"
    PLANTS = "plants"
    ANYTHING = 3


describe_enum(
    Diet,
    description="What it eats.",
    values={Diet.MEAT: "Meat.", Diet.PLANTS: "Plants.", Diet.ANYTHING: "Whatever there is."},
)

Note = Annotated[str | None, strawberry.argument(description="Anything.")]


def argument(description: str = "An argument.", name: str | None = None) -> Any:
    return strawberry.argument(description=description, name=name)


@strawberry.input(description="How it is measured.")
class Measure:
    height: float = strawberry.field(description="In metres.")
    weights: list[int | None] | None = strawberry.field(default=None, description="Over time.")
    at: datetime | None = strawberry.field(default=None, description="When.")


@strawberry.input(description="What to look for.")
class Wish:
    name: str = strawberry.field(description="The name.")
    diet: Diet = strawberry.field(default=Diet.ANYTHING, description="What it eats.")
    diets: list[Diet] | None = strawberry.field(default=None, description="What it may eat.")
    limit: int | None = strawberry.field(default=3, description="How many.")
    measure: Measure | None = strawberry.field(default=None, description="How large.")
    instead: "Wish | None" = strawberry.field(default=None, description="If there is none.")
    extra: JSON | None = strawberry.field(default=None, description="Anything.")
    id: strawberry.ID | None = strawberry.field(default=None, description="Which.")
    credits: Credits | None = strawberry.field(default=None, description="What it may cost.")


@declare.interface(description="Whatever has a name.", needs=Permission.INHERITED)
class Named:
    name: str = declare.value(description="The name.")
    nickname: str | None = declare.value(description="Another name.", default=None)


class Delayed:
    """An awaitable that gives a value, or raises an exception, after so many turns of the event loop."""

    def __init__(self, value: Any, turns: int = 1) -> None:
        self._value = value
        self._turns = turns

    def __await__(self) -> Generator[Any, None, Any]:
        for _ in range(self._turns):
            yield
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


def untyped(value: object) -> Any:
    """A value that the type of the field does not allow: resolvers may have bugs."""
    return value


async def load_doubled(numbers: list[int]) -> list[int | ValueError]:
    resolver_calls.append(f"load {numbers}")
    return [ValueError(f"odd {number}") if number % 2 else number * 2 for number in numbers]


LaterAnimal: TypeAlias = Annotated["Animal", strawberry.lazy("tests.engine.compiler.edge_case_schema")]
LaterCage: TypeAlias = Annotated["Cage", strawberry.lazy("tests.engine.compiler.edge_case_schema")]


@declare.type(description="An animal that swims.", needs=Permission.INHERITED)
class Fish(Named):
    depth: int = declare.value(description="How deep.")
    price: Credits = declare.value(description="What it costs.")
    secret: str | None = declare.value(description="For operators.", needs=Permission.OPERATOR, default="psst")
    born: datetime | None = declare.value(description="When.", default=None)

    @declare.field(description="Said twice.")
    def twice(self, info: ResolverInfo, of: Annotated[str, argument()] = "blub") -> str:
        resolver_calls.append(f"twice {self.name}")
        return of * 2

    @declare.field(description="Twice the depth, read together; odd ones fail.")
    async def doubled(self, info: ResolverInfo) -> int | None:
        resolver_calls.append(f"doubled {self.depth}")
        return await info.context.data_loader(load_doubled).load(self.depth)

    @declare.field(description="The same, and never null.")
    async def doubled_surely(self, info: ResolverInfo) -> int:
        return await info.context.data_loader(load_doubled).load(self.depth)

    @declare.field(description="For operators, later.", needs=Permission.OPERATOR)
    async def guarded(self) -> str | None:
        resolver_calls.append("guarded")
        return "gold"

    @declare.field(description="Where the resolver is.")
    def where(self, info: ResolverInfo) -> str:
        return f"{info.path.as_list()} {info.field_name} {sorted(info.variable_values)}"


@declare.type(description="An animal that runs.", needs=Permission.INHERITED)
class Cat(Named):
    lives: int | None = declare.value(description="How many.")
    diet: Diet = declare.value(description="What it eats.")
    diets: list[Diet | None] | None = declare.value(description="What it likes.", default=None)
    owner_id: strawberry.ID = declare.value(description="Whose.")
    weight: float | None = declare.value(description="In kilograms.", default=None)
    tame: bool | None = declare.value(description="Whether it is.", default=None)
    price: Long | None = declare.value(description="What it costs.", default=None)

    @declare.field(description="Fails at once.")
    def hiss(self) -> str:
        resolver_calls.append(f"hiss {self.name}")
        raise ValueError("hiss")

    @declare.field(description="Fails later.")
    async def scratch(self, turns: Annotated[int, argument()] = 1) -> str | None:
        resolver_calls.append(f"scratch {self.name}")
        return untyped(await Delayed(BadRequest("scratched"), min(abs(turns), 5)))

    @declare.field(description="Where it lives.")
    async def cage(self) -> LaterCage | None:
        return untyped(await Delayed(cage(self.lives or 0)))

    @declare.field(description="Its friend.")
    def friend(self) -> LaterAnimal | None:
        return fish(2) if self.lives == 9 else self


@declare.type(description="An animal that is not there.", needs=Permission.INHERITED)
class Ghost:
    scare: str = declare.value(description="Boo.")
    lives: str | None = declare.value(description="Not a number.", default="none")


Animal = Annotated[Cat | Fish | Ghost, strawberry.union("Animal", description="Any.")]


@declare.type(description="Where animals live.", needs=Permission.INHERITED)
class Cage:
    number: int = declare.value(description="Its number.")
    label: str = declare.value(description="What it says.")
    animals: list[Animal] = declare.value(description="Who is in it.")
    named: list[Named | None] = declare.value(description="Who has a name.")
    table: list[list[int]] = declare.value(description="Numbers in rows.")
    loose: list[list[int | None] | None] | None = declare.value(description="Numbers, or not.")
    strict: list[int] | None = declare.value(description="Numbers that may be wrong.")
    first: Animal | None = declare.value(description="The first of them.", default=None)

    @declare.field(description="The cage beside it.")
    def next(self) -> LaterCage | None:
        return cage(self.number + 1)

    @declare.field(description="The cage beside it, later.")
    async def soon(self, turns: Annotated[int, argument()] = 2) -> LaterCage:
        resolver_calls.append(f"soon {self.number}")
        await Delayed(None, min(abs(turns), 5))
        return untyped(cage(self.number + 1))

    @declare.field(description="Items that come one by one.")
    def generated(self) -> list[int]:
        def numbers() -> Iterator[Any]:
            yield 1
            yield Delayed(2)
            if self.number % 2:
                raise ValueError("broken off")
            yield 3

        return untyped(numbers())

    @declare.field(description="Items that come one by one, later.")
    async def streamed(self) -> list[Named | None] | None:
        async def found() -> AsyncIterator[Any]:
            yield fish(1)
            yield Delayed(cat(1))
            if self.number % 2:
                raise ValueError("dried up")
            yield None

        return untyped(found())

    @declare.field(description="Items that wait, fail, or are faults.")
    def mixed(self) -> list[Named | None]:
        found: list[Any] = [Delayed(fish(self.number), 2), ValueError("an exception as an item")]
        return [*found, Delayed(ValueError("slow"), 1), cat(self.number), Stray("nobody")]

    @declare.field(description="The same, and none may be missing.")
    async def mixed_surely(self) -> list[Animal]:
        found: list[Any] = [Delayed(cat(1), 3), fish(1), Delayed(ValueError("slow"), self.number % 3)]
        return [*found, Stray("nobody")]

    @declare.field(description="No list at all.")
    def no_list(self) -> list[str] | None:
        return untyped("text" if self.number % 2 else {"a": 1})

    @declare.field(description="A set, a tuple or null.")
    def some_list(self) -> list[str] | None:
        return untyped(({"one"}, ("a", "b"), None)[self.number % 3])


class Stray:
    """An object that belongs to no GraphQL type."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return "a stray"


def fish(number: int) -> Fish:
    return Fish(
        name=f"fish{number}",
        nickname=None if number % 2 else "bubbles",
        depth=number,
        price=Credits(2**53 if number == 4 else number),
        born=datetime(2026, 1, 1, tzinfo=UTC if number % 3 else None),
    )


def cat(number: int) -> Cat:
    return Cat(
        name=untyped(None if number == 3 else f"cat{number}"),
        nickname=untyped(Delayed("kitty", number) if number % 2 else None),
        lives=untyped((9, "many", None, 2**40, "7", 1.0, True)[number % 7]),
        diet=untyped((Diet.MEAT, "plants", "poison", 3)[number % 4]),
        diets=untyped(([Diet.MEAT, None], [Diet.PLANTS, "poison"], "meat", None)[number % 4]),
        owner_id=untyped(strawberry.ID("a") if number % 2 else 7),
        weight=untyped((1.5, 2, float("nan"), "3.5", True)[number % 5]),
        tame=untyped((True, 0, 1, "yes", None)[number % 5]),
        price=untyped((Long(5), -1, "5", None)[number % 4]),
    )


def cage(number: int) -> Cage | None:
    if number > 5:
        return None
    return Cage(
        number=number,
        label=untyped((f"cage {number}", ValueError("unreadable"), None, 5)[number % 4]),
        animals=untyped([cat(number), fish(number), Ghost(scare="boo"), *([None] if number == 4 else [])]),
        named=untyped([fish(number), None, cat(number + 1), *([Ghost(scare="boo")] if number % 2 else [])]),
        table=untyped([[1, 2], [], [number, None] if number == 2 else [3]]),
        loose=untyped([None, [1, None, "x"], [2]] if number % 2 else None),
        strict=untyped([1, "wrong", 3] if number % 2 else [4]),
        first=untyped((cat(number), None, "no animal", Ghost(scare="boo"))[number % 4]),
    )


@declare.type(description="It was fed.", needs=Permission.INHERITED)
class Fed:
    meals: int = declare.value(description="How many meals.")
    spent: Credits = declare.value(description="What they cost.")

    @declare.field(description="Who was fed.")
    def who(self) -> Animal:
        return cat(self.meals)


FeedResult = Annotated[
    Fed | InsufficientCreditsError | InvalidInputError, strawberry.union("FeedResult", description="Fed, or why not.")
]


def fed(meals: int) -> Fed:
    resolver_calls.append(f"feed {meals}")
    if meals < 0:
        raise NegativeCost("meals must not be negative")
    if meals > 100:
        raise InsufficientCredits(required=meals)
    if meals == 13:
        raise NotInUnion("unlucky")
    if meals == 14:
        raise ValueError("choked")
    return Fed(meals=meals, spent=Credits(meals))


Meals = Annotated[int, argument("How many.")]


@strawberry.type(description="Reads.")
class Query:
    @declare.query(needs=Permission.PUBLIC, description="A cage.")
    def cage(self, number: Annotated[int, argument()] = 0) -> Cage | None:
        resolver_calls.append(f"cage {number}")
        return cage(number)

    @declare.query(needs=Permission.PUBLIC, description="A cage, later, and never null.")
    async def cage_surely(self, number: Annotated[int, argument()]) -> Cage:
        resolver_calls.append(f"cage surely {number}")
        return untyped(await Delayed(cage(number), 1))

    @declare.query(needs=Permission.AUTHENTICATED, description="For any authenticated caller.")
    async def mine(self, info: ResolverInfo) -> Fish | None:
        resolver_calls.append("mine")
        return fish(2)

    @declare.query(needs=Permission.OPERATOR, description="For operators.")
    def audit(self) -> str | None:
        return "exact"

    @declare.query(needs=Permission.PUBLIC, description="Any animal.")
    def animal(self, number: Annotated[int, argument()] = 1) -> Animal | None:
        found = (
            cat(number),
            fish(number),
            Ghost(scare="boo"),
            5,
            *(strawberry.cast(one, fish(2)) for one in (Cat, Ghost)),
        )
        return untyped(found[number % 6])

    @declare.query(needs=Permission.PUBLIC, description="Anything with a name.")
    async def named(self, number: Annotated[int | None, argument()] = None) -> Named | None:
        return untyped((cat(3), fish(1), Ghost(scare="boo"), Stray("s"), None)[(number or 0) % 5])

    @declare.query(needs=Permission.PUBLIC, description="What is wished for, as it arrived.")
    def wished(self, info: ResolverInfo, wish: Annotated[Wish, argument()], note: Note = None) -> str:
        return f"{wish} {note}"

    @declare.query(needs=Permission.PUBLIC, description="Wishes, as they arrived.")
    async def wishes(
        self,
        wishes: Annotated[list[Wish] | None, argument()] = None,
        diets: Annotated[list[Diet], argument(name="eats")] = [Diet.MEAT],  # noqa: B006  the default of a GraphQL argument
        grid: Annotated[list[list[int] | None] | None, argument()] = None,
    ) -> str:
        return f"{wishes} {diets} {grid}"

    @declare.query(needs=Permission.PUBLIC, description="Scalars, as they arrived.")
    def scalars(  # noqa: PLR0917  Strawberry calls it by names
        self,
        text: Annotated[str, argument()] = "default",
        number: Annotated[int, argument()] = 5,
        share: Annotated[float | None, argument()] = None,
        id: Annotated[strawberry.ID | None, argument()] = None,
        flag: Annotated[bool, argument()] = True,
        diet: Annotated[Diet | None, argument()] = Diet.MEAT,
        at: Annotated[datetime | None, argument()] = None,
        credits: Annotated[Credits | None, argument()] = None,
        long: Annotated[Long | None, argument()] = None,
        extra: Annotated[JSON | None, argument()] = None,
        maybe: Annotated[str | None, argument()] = strawberry.UNSET,
    ) -> str:
        return repr((text, number, share, id, flag, diet, at, credits, long, extra, maybe))

    @declare.query(needs=Permission.PUBLIC, description="JSON and back.")
    def json(self, value: Annotated[JSON | None, argument()] = None) -> JSON | None:
        return value

    @declare.query(needs=Permission.PUBLIC, description="Fails at once, with an unexpected exception.")
    def broken(self, note: Note = None) -> str | None:
        raise ValueError("the password is hunter2")

    @declare.query(needs=Permission.PUBLIC, description="Fails later, and must not be null.")
    async def broken_surely(self, turns: Annotated[int, argument()] = 0) -> str:
        return untyped(await Delayed(GraphQLError("said by graphql"), min(abs(turns), 5)))

    @declare.query(needs=Permission.PUBLIC, description="Returns what it should raise.")
    def returned(self) -> str | None:
        return untyped(ValueError("returned"))

    @declare.query(needs=Permission.PUBLIC, description="Fish, in pages.")
    def school(self, first: First = 2, after: After = None) -> Connection[Fish]:
        edges = [Edge(cursor=str(number), node=fish(number)) for number in range(4)[: max(first, 0)]]
        page_info = PageInfo(has_next_page=first < 4, has_previous_page=False, start_cursor=after, end_cursor=None)
        return Connection(edges=edges, page_info=page_info)

    @declare.query(needs=Permission.PUBLIC, description="An error's member of an interface.")
    def refusal(self, info: ResolverInfo, meals: Meals = 101) -> UserError | None:
        try:
            fed(meals)
        except REFUSALS as refusal:
            return to_user_error(refusal)
        return None

    @declare.query(needs=Permission.PUBLIC, description="A thing by its id.")
    async def node(self, id: Annotated[strawberry.ID, argument()]) -> global_ids.Node | None:
        return None


@strawberry.type(description="Writes.")
class Mutation:
    @declare.mutation(needs=Permission.SERVICE, description="Feeds, later.")
    async def feed(self, meals: Meals, turns: Annotated[int, argument()] = 0) -> FeedResult:
        await Delayed(None, min(abs(turns), 5))
        return fed(meals)

    @declare.mutation(needs=Permission.PUBLIC, description="Feeds at once.")
    def feed_now(self, meals: Meals) -> FeedResult:
        return fed(meals)

    @declare.mutation(needs=Permission.PUBLIC, description="Feeds at once, by way of something that waits.")
    def feed_through(self, meals: Meals) -> FeedResult:
        async def through() -> Fed:
            return fed(meals)

        return untyped(through())

    @declare.mutation(needs=Permission.SERVICE, description="As it arrived.", input_as_dict=True)
    async def feed_plainly(self, info: ResolverInfo, wish: Annotated[Wish, argument()]) -> FeedResult:
        resolver_calls.append(f"plainly {wish}")
        return untyped(fed(cast(Any, wish)["limit"] or 0))

    @declare.mutation(needs=Permission.PUBLIC, description="Feeds many.")
    async def feed_all(self, info: ResolverInfo, meals: Annotated[list[int], argument()]) -> list[FeedResult]:
        return [_feed_or_refuse(one) for one in meals]

    @declare.mutation(needs=Permission.PUBLIC, description="Notes that it ran; fails for some.")
    def note(self, text: Annotated[str, argument()]) -> int | None:
        resolver_calls.append(f"note {text}")
        return len(text) if "x" not in text else 2**40


def _feed_or_refuse(meals: int) -> Any:
    try:
        return fed(meals)
    except REFUSALS as refusal:
        return to_user_error(refusal)


@strawberry.type(description="Subscribes.")
class Subscription:
    @declare.subscription(needs=Permission.PUBLIC, description="Cages, one after the other.")
    async def cages(self, start: Annotated[int, argument()] = 0) -> AsyncIterator[Cage | None]:
        for number in range(max(start, 0), 4):
            yield cage(number)

    @declare.subscription(needs=Permission.PUBLIC, description="Fish, one after the other, each with rows of its own.")
    async def fishes(self) -> AsyncIterator[Fish]:
        yield fish(2)
        yield fish(2)
        yield fish(3)

    @declare.subscription(needs=Permission.AUTHENTICATED, description="Fish for callers only, then a fault.")
    async def sinking(self, count: Annotated[int, argument()]) -> AsyncIterator[Fish]:
        for number in range(min(count, 3)):  # generated documents ask for any count
            yield fish(number)
        raise ValueError("it sank")


schema = create_schema(
    query=Query,
    mutation=Mutation,
    subscription=Subscription,
    types=[Toy],
    scalars=SCALARS,
    exception_handlers=ERROR_HANDLERS,
)
