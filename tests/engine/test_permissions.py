"""Permissions of fields, and the checks that a schema must pass."""

from collections.abc import AsyncGenerator
from enum import Enum
from typing import Annotated, Any

import pytest
import strawberry

from app.auth.caller import Caller
from app.engine import declare
from app.engine.execution import GraphQLEngine, GraphQLRequest
from app.engine.permissions import Permission, check_permission
from app.engine.scalars import SCALARS
from app.engine.schema import (
    IncompleteSchema,
    create_schema,
    describe_enum,
    fields_without_permission,
    format_schema,
    parts_without_description,
)
from app.errors import Forbidden, Unauthenticated
from tests.engine import sample_schema
from tests.engine.sample_schema import OPERATOR, READER, SERVICE, USER, context, engine

pytestmark = pytest.mark.anyio
compiled_and_interpreted = pytest.mark.usefixtures("compiled_and_interpreted")

EVERY_CALLER = [None, USER, READER, SERVICE, OPERATOR]


@pytest.mark.parametrize(
    ("needs", "allowed"),
    [
        (Permission.PUBLIC, EVERY_CALLER),
        (Permission.INHERITED, EVERY_CALLER),
        (Permission.AUTHENTICATED, [USER, READER, SERVICE, OPERATOR]),
        (Permission.SERVICE, [SERVICE]),
        (Permission.OPERATOR, [OPERATOR]),
    ],
)
def test_each_permission_allows_its_callers_only(needs: Permission, allowed: list[Caller | None]) -> None:
    for caller in EVERY_CALLER:
        if caller in allowed:
            check_permission(caller, needs)
        else:
            with pytest.raises(Unauthenticated if caller is None else Forbidden):
                check_permission(caller, needs)


async def execute(query: str, caller: Caller | None) -> dict[str, Any]:
    return dict((await engine.execute(GraphQLRequest(query), context(caller))).payload)


@compiled_and_interpreted
async def test_an_anonymous_caller_is_unauthenticated_and_no_resolver_runs() -> None:
    payload = await execute("{ me }", None)
    assert payload["data"] is None
    assert payload["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}
    assert payload["errors"][0]["path"] == ["me"]
    assert sample_schema.resolver_calls == []


@compiled_and_interpreted
async def test_a_caller_without_the_permission_is_forbidden_and_no_resolver_runs() -> None:
    payload = await execute("mutation { spend(cost: 5) { __typename } }", USER)
    assert payload["data"] is None
    assert payload["errors"][0]["extensions"] == {"code": "FORBIDDEN"}
    assert payload["errors"][0]["message"] == "This needs a service key with the scope charge."
    assert sample_schema.resolver_calls == []


@compiled_and_interpreted
async def test_a_caller_with_the_permission_receives_data() -> None:
    assert await execute("{ me }", USER) == {"data": {"me": "user:ada"}}
    assert await execute("{ audit }", OPERATOR) == {"data": {"audit": "exact"}}
    spent = await execute("mutation { spend(cost: 5) { ... on SpendSuccess { spent } } }", SERVICE)
    assert spent == {"data": {"spend": {"spent": 5}}}


@compiled_and_interpreted
async def test_an_attribute_may_need_more_than_its_type() -> None:
    assert await execute('{ toy(name: "bear") { name secret } }', OPERATOR) == {
        "data": {"toy": {"name": "bear", "secret": "hidden"}}
    }
    payload = await execute('{ toy(name: "bear") { name secret } }', USER)
    assert payload["data"] == {"toy": None}
    assert payload["errors"][0]["path"] == ["toy", "secret"]
    assert payload["errors"][0]["extensions"] == {"code": "FORBIDDEN"}


def query_type(**fields: Any) -> type:
    return strawberry.type(type("Query", (), fields), description="Reads.")


def create(**roots: Any) -> strawberry.Schema:
    return create_schema(**roots, scalars=SCALARS)


def test_a_root_field_needs_a_permission() -> None:
    def hello() -> str:
        return "hello"

    with pytest.raises(IncompleteSchema, match=r"Query\.hello"):
        create(query=query_type(hello=strawberry.field(resolver=hello, description="A greeting.")))


def test_a_root_field_cannot_inherit_its_permission() -> None:
    def hello() -> str:
        return "hello"

    declared = declare.query(needs=Permission.INHERITED, description="A greeting.")(hello)
    with pytest.raises(IncompleteSchema, match=r"Query\.hello"):
        create(query=query_type(hello=declared))


def test_mutations_and_subscriptions_need_a_permission() -> None:
    @strawberry.type(description="Reads.")
    class Query:
        @declare.query(needs=Permission.PUBLIC, description="A greeting.")
        def hello(self) -> str:
            return "hello"

    @strawberry.type(description="Writes.")
    class Mutation:
        @strawberry.mutation(description="Does.")  # type: ignore[untyped-decorator]  # a field without permission
        def act(self) -> int:
            return 1

    @strawberry.type(description="Subscribes.")
    class Subscription:
        @strawberry.subscription(description="Subscribes.")  # type: ignore[untyped-decorator]  # a field without permission
        async def follow(self) -> AsyncGenerator[int, None]:
            yield 1

    with pytest.raises(
        IncompleteSchema, match=r"Mutation\.act, Subscription\.follow|Subscription\.follow, Mutation\.act"
    ):
        create(query=Query, mutation=Mutation, subscription=Subscription)


def test_the_fields_of_a_type_need_a_permission() -> None:
    @strawberry.type(description="Undeclared.")
    class Thing:
        name: str = strawberry.field(description="Its name.")

    def thing() -> Thing:
        return Thing(name="x")

    declared = declare.query(needs=Permission.PUBLIC, description="A thing.", graphql_type=Thing)(thing)
    with pytest.raises(IncompleteSchema, match=r"Thing\.name"):
        create(query=query_type(thing=declared))


def test_a_field_that_is_not_declared_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Thing\.name: declare it with declare.value"):

        @declare.type(description="Half declared.", needs=Permission.INHERITED)
        class Thing:
            name: str


async def test_fields_inherit_the_permission_of_their_own_type() -> None:
    @declare.interface(description="Named.", needs=Permission.INHERITED)
    class Named:
        name: str = declare.value(description="Its name.")

    @declare.type(description="Public.", needs=Permission.INHERITED)
    class Shop(Named):
        pass

    @declare.type(description="For operators.", needs=Permission.OPERATOR)
    class Vault(Named):
        @declare.field(description="Its content.")
        def inside(self) -> int:
            return 5

    @strawberry.type(description="Reads.")
    class Query:
        @declare.query(needs=Permission.PUBLIC, description="A vault.")
        def vault(self) -> Vault:
            return Vault(name="v")

        @declare.query(needs=Permission.PUBLIC, description="A shop.")
        def shop(self) -> Shop:
            return Shop(name="s")

    engine = GraphQLEngine(create(query=Query)._schema, introspection=True)
    shop = await engine.execute(GraphQLRequest("{ shop { name } }"), context(None))
    assert shop.payload == {"data": {"shop": {"name": "s"}}}
    for field in ("name", "inside"):
        refusal = await engine.execute(GraphQLRequest(f"{{ vault {{ {field} }} }}"), context(USER))
        assert refusal.payload["errors"][0]["extensions"] == {"code": "FORBIDDEN"}
    vault = await engine.execute(GraphQLRequest("{ vault { name inside } }"), context(OPERATOR))
    assert vault.payload == {"data": {"vault": {"name": "v", "inside": 5}}}


def test_a_complete_schema_passes_the_checks() -> None:
    assert fields_without_permission(sample_schema.schema._schema) == []
    assert parts_without_description(sample_schema.schema._schema) == []


def test_parts_without_a_description_are_listed() -> None:
    class Colour(Enum):
        RED = "red"

    strawberry.enum(Colour, description="A colour.")

    @strawberry.input(description="A filter.")
    class Filter:
        colour: Colour

    @strawberry.type
    class Query:
        @declare.query(needs=Permission.PUBLIC, description=" ")
        def hello(self, filter: Filter) -> str:
            return "hello"

    with pytest.raises(IncompleteSchema) as incomplete:
        create(query=Query)
    listed = str(incomplete.value)
    for part in ("Query", "Query.hello", "Query.hello(filter)", "Filter.colour", "Colour.RED"):
        assert part in listed.replace(",", " ").split()


def test_each_member_of_an_enum_needs_a_description() -> None:
    class Colour(Enum):
        RED = "red"
        BLUE = "blue"

    with pytest.raises(TypeError, match="no description for BLUE"):
        describe_enum(Colour, description="A colour.", values={Colour.RED: "Like a rose."})
    describe_enum(Colour, description="A colour.", values={Colour.RED: "Like a rose.", Colour.BLUE: "Like the sky."})

    @strawberry.type(description="Reads.")
    class Query:
        @declare.query(needs=Permission.PUBLIC, description="Returns its argument.")
        def colour(self, colour: Annotated[Colour, strawberry.argument(description="Which.")]) -> Colour:
            return colour

    assert '"""Like the sky."""\n  BLUE' in format_schema(create(query=Query))


def test_the_schema_is_formatted_with_descriptions_and_sorted_types() -> None:
    text = format_schema(sample_schema.schema)
    names = [line.split()[1] for line in text.splitlines() if line.startswith(("type ", "interface ", "scalar "))]
    assert names == sorted(names)
    assert '"""Credits spent."""\n  spent: Credits!' in text
    assert "type ToyConnection {" in text
    assert "edges: [ToyEdge!]!" in text
