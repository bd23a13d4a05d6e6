"""Who may ask for what, and that nothing stays silent about it."""

from collections.abc import AsyncGenerator
from enum import Enum
from typing import Annotated, Any

import pytest
import strawberry

from app.api.schema import build_schema
from app.auth.caller import Caller
from app.engine import declare
from app.engine.execution import GraphQLRequest
from app.engine.permissions import Permission, check_permission
from app.engine.schema import (
    IncompleteSchema,
    describe_enum,
    fields_without_permission,
    format_schema,
    parts_without_description,
)
from app.errors import Forbidden, Unauthenticated
from tests.engine import sample_schema
from tests.engine.sample_schema import OPERATOR, READER, SERVICE, USER, context, engine

pytestmark = pytest.mark.anyio

EVERYBODY = [None, USER, READER, SERVICE, OPERATOR]


@pytest.mark.parametrize(
    ("needs", "admitted"),
    [
        (Permission.PUBLIC, EVERYBODY),
        (Permission.INHERITED, EVERYBODY),
        (Permission.AUTHENTICATED, [USER, READER, SERVICE, OPERATOR]),
        (Permission.SERVICE, [SERVICE, OPERATOR]),
        (Permission.OPERATOR, [OPERATOR]),
    ],
)
def test_each_need_admits_its_callers_and_no_others(needs: Permission, admitted: list[Caller | None]) -> None:
    for viewer in EVERYBODY:
        if viewer in admitted:
            check_permission(viewer, needs)
        else:
            with pytest.raises(Unauthenticated if viewer is None else Forbidden):
                check_permission(viewer, needs)


async def asked(query: str, viewer: Caller | None) -> dict[str, Any]:
    return dict((await engine.execute(GraphQLRequest(query), context(viewer))).payload)


async def test_nobody_is_told_to_sign_in_and_nothing_ran() -> None:
    payload = await asked("{ me }", None)
    assert payload["data"] is None
    assert payload["errors"][0]["extensions"] == {"code": "UNAUTHENTICATED"}
    assert payload["errors"][0]["path"] == ["me"]
    assert sample_schema.resolver_calls == []


async def test_a_user_may_not_spend_and_nothing_ran() -> None:
    payload = await asked("mutation { spend(cost: 5) { __typename } }", USER)
    assert payload["data"] is None
    assert payload["errors"][0]["extensions"] == {"code": "FORBIDDEN"}
    assert payload["errors"][0]["message"] == "This needs a service key with the scope charge, or an operator."
    assert sample_schema.resolver_calls == []


async def test_who_may_is_answered() -> None:
    assert await asked("{ me }", USER) == {"data": {"me": "user:ada"}}
    assert await asked("{ audit }", OPERATOR) == {"data": {"audit": "exact"}}
    spent = await asked("mutation { spend(cost: 5) { ... on SpendSuccess { spent } } }", SERVICE)
    assert spent == {"data": {"spend": {"spent": 5}}}


async def test_an_attribute_may_need_more_than_its_type() -> None:
    assert await asked('{ toy(name: "bear") { name secret } }', OPERATOR) == {
        "data": {"toy": {"name": "bear", "secret": "hidden"}}
    }
    payload = await asked('{ toy(name: "bear") { name secret } }', USER)
    assert payload["data"] == {"toy": None}
    assert payload["errors"][0]["path"] == ["toy", "secret"]
    assert payload["errors"][0]["extensions"] == {"code": "FORBIDDEN"}


def plain_query(**fields: Any) -> type:
    return strawberry.type(type("Query", (), fields), description="Reads.")


def test_a_root_field_that_says_nothing_does_not_build() -> None:
    def hello() -> str:
        return "hello"

    with pytest.raises(IncompleteSchema, match=r"Query\.hello"):
        build_schema(query=plain_query(hello=strawberry.field(resolver=hello, description="Says hello.")))


def test_a_root_field_that_leaves_it_to_whoever_reached_it_does_not_build() -> None:
    def hello() -> str:
        return "hello"

    declared = declare.query(needs=Permission.INHERITED, description="Says hello.")(hello)
    with pytest.raises(IncompleteSchema, match=r"Query\.hello"):
        build_schema(query=plain_query(hello=declared))


def test_a_mutation_and_a_subscription_that_say_nothing_do_not_build() -> None:
    @strawberry.type(description="Writes.")
    class Mutation:
        @strawberry.mutation(description="Does.")  # type: ignore[untyped-decorator]  # what the frame refuses
        def act(self) -> int:
            return 1

    @strawberry.type(description="Follows.")
    class Subscription:
        @strawberry.subscription(description="Follows.")  # type: ignore[untyped-decorator]  # what the frame refuses
        async def follow(self) -> AsyncGenerator[int, None]:
            yield 1

    with pytest.raises(
        IncompleteSchema, match=r"Mutation\.act, Subscription\.follow|Subscription\.follow, Mutation\.act"
    ):
        build_schema(query=sample_schema.Query, mutation=Mutation, subscription=Subscription)


def test_a_type_that_says_nothing_does_not_build() -> None:
    @strawberry.type(description="Undeclared.")
    class Thing:
        name: str = strawberry.field(description="Its name.")

    def thing() -> Thing:
        return Thing(name="x")

    declared = declare.query(needs=Permission.PUBLIC, description="A thing.", graphql_type=Thing)(thing)
    with pytest.raises(IncompleteSchema, match=r"Thing\.name"):
        build_schema(query=plain_query(thing=declared))


def test_a_field_of_a_declared_type_that_cannot_hold_a_need_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"Thing\.name: declare it with access"):

        @declare.type(description="Half declared.", needs=Permission.INHERITED)
        class Thing:
            name: str


async def test_a_type_says_for_its_fields_what_they_need_and_its_interface_keeps_its_own() -> None:
    @declare.interface(description="Named.", needs=Permission.INHERITED)
    class Named:
        name: str = declare.value(description="Its name.")

    @declare.type(description="Public.", needs=Permission.INHERITED)
    class Shop(Named):
        pass

    @declare.type(description="For operators.", needs=Permission.OPERATOR)
    class Vault(Named):
        @declare.field(description="What is inside.")
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

    small = type(engine)(build_schema(query=Query)._schema, introspection=True)
    shop = await small.execute(GraphQLRequest("{ shop { name } }"), context(None))
    assert shop.payload == {"data": {"shop": {"name": "s"}}}
    for field in ("name", "inside"):
        refusal = await small.execute(GraphQLRequest(f"{{ vault {{ {field} }} }}"), context(USER))
        assert refusal.payload["errors"][0]["extensions"] == {"code": "FORBIDDEN"}
    vault = await small.execute(GraphQLRequest("{ vault { name inside } }"), context(OPERATOR))
    assert vault.payload == {"data": {"vault": {"name": "v", "inside": 5}}}


def test_everything_in_the_schema_is_declared_and_described() -> None:
    for schema in (build_schema(), sample_schema.schema):
        assert fields_without_permission(schema._schema) == []
        assert parts_without_description(schema._schema) == []


def test_what_has_no_description_is_named() -> None:
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

    with pytest.raises(IncompleteSchema) as refusal:
        build_schema(query=Query)
    named = str(refusal.value)
    for place in ("Query", "Query.hello", "Query.hello(filter)", "Filter.colour", "Colour.RED"):
        assert place in named.replace(",", " ").split()


def test_an_enum_of_the_domain_is_shown_with_a_description_for_each_value() -> None:
    class Colour(Enum):
        RED = "red"
        BLUE = "blue"

    with pytest.raises(TypeError, match="no description for BLUE"):
        describe_enum(Colour, description="A colour.", values={Colour.RED: "Like a rose."})
    describe_enum(Colour, description="A colour.", values={Colour.RED: "Like a rose.", Colour.BLUE: "Like the sky."})

    @strawberry.type(description="Reads.")
    class Query:
        @declare.query(needs=Permission.PUBLIC, description="A colour and back.")
        def colour(self, colour: Annotated[Colour, strawberry.argument(description="Which.")]) -> Colour:
            return colour

    assert '"""Like the sky."""\n  BLUE' in format_schema(build_schema(query=Query))


def test_the_schema_is_printed_with_its_descriptions_and_sorted_types() -> None:
    text = format_schema(sample_schema.schema)
    names = [line.split()[1] for line in text.splitlines() if line.startswith(("type ", "interface ", "scalar "))]
    assert names == sorted(names)
    assert '"""Credits that moved."""\n  spent: Credits!' in text
    assert "type ToyConnection {" in text
    assert "edges: [ToyEdge!]!" in text
    assert text == format_schema(
        build_schema(
            query=sample_schema.Query, mutation=sample_schema.Mutation, subscription=sample_schema.Subscription
        )
    )
