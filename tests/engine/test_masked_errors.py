"""A fault in each kind of resolver, over each transport: a reference, and never SQL, a path, a host or a stack."""

from collections.abc import AsyncGenerator
from typing import Any, cast

import asyncpg
import pytest
import strawberry

from app.api.context import ResolverInfo
from app.api.scalars import Credits
from app.api.schema import build_schema
from app.engine import declare
from app.engine.execution import GraphQLEngine
from app.engine.permissions import Permission
from tests.engine.transports.all_transports import TRANSPORTS, Ask

pytestmark = pytest.mark.anyio

SECRETS = ("SELECT", "credit_grant", "/srv/app", "db.internal", "5432", "hunter2", "Traceback", "UndefinedTable")
WORDS = "SELECT * FROM credit_grant at /srv/app/rows.py of db.internal:5432, password hunter2"


def fault() -> Exception:
    """What a database says, and what caused it."""
    found: Exception = asyncpg.UndefinedTableError(WORDS)
    found.__cause__ = ConnectionAbortedError(WORDS)
    return found


async def load(names: list[str]) -> list[str]:
    raise fault()


async def load_each(names: list[str]) -> list[str | BaseException]:
    return [fault() for _ in names]


@declare.type(description="A thing.", needs=Permission.INHERITED)
class Thing:
    name: str = declare.value(description="Its name.")

    @declare.field(description="Faults at once.")
    def sync(self) -> str:
        raise fault()

    @declare.field(description="Faults after a while.")
    async def late(self) -> str:
        raise fault()

    @declare.field(description="Faults where a list is loaded.")
    async def loaded(self, info: ResolverInfo) -> str:
        return await info.context.data_loader(load).load(self.name)

    @declare.field(description="Faults for one row of a list.")
    async def row(self, info: ResolverInfo) -> str:
        return await info.context.data_loader(load_each).load(self.name)

    @declare.field(description="A number that its type does not hold.")
    def number(self) -> Credits:
        return cast(Credits, WORDS)


@strawberry.type(description="Reads.")
class Query:
    @declare.query(needs=Permission.PUBLIC, description="Faults at once.")
    def sync(self) -> str:
        raise fault()

    @declare.query(needs=Permission.PUBLIC, description="Faults after a while.")
    async def late(self) -> str | None:
        raise fault()

    @declare.query(needs=Permission.PUBLIC, description="A thing.")
    def thing(self) -> Thing | None:
        return Thing(name="a")

    @declare.query(needs=Permission.PUBLIC, description="Things.")
    async def things(self) -> list[Thing]:
        return [Thing(name="a"), Thing(name="b")]

    @declare.query(needs=Permission.PUBLIC, description="No thing at all.")
    def mistaken(self) -> Thing:
        return cast(Thing, WORDS)

    @declare.query(needs=Permission.PUBLIC, description="No list at all.")
    def listless(self) -> list[Thing]:
        return cast(list[Thing], 5)

    @declare.query(needs=Permission.PUBLIC, description="Null where there may be none.")
    def missing(self) -> str:
        return cast(str, None)


@strawberry.type(description="Writes.")
class Mutation:
    @declare.mutation(needs=Permission.PUBLIC, description="Faults.")
    async def change(self) -> str:
        raise fault()

    @declare.mutation(needs=Permission.PUBLIC, description="Faults, taking its input plainly.", input_as_dict=True)
    async def plain(self, info: ResolverInfo) -> str:
        raise fault()


@strawberry.type(description="Follows.")
class Subscription:
    @declare.subscription(needs=Permission.PUBLIC, description="Faults before its first item.")
    async def stillborn(self) -> AsyncGenerator[str, None]:
        raise fault()
        yield "never"

    @declare.subscription(needs=Permission.PUBLIC, description="Its item faults.")
    async def items(self) -> AsyncGenerator[Thing, None]:
        yield Thing(name="a")


EXECUTION = GraphQLEngine(
    build_schema(query=Query, mutation=Mutation, subscription=Subscription)._schema,
    introspection=True,
    compile_operations=True,
)
OPERATIONS = [
    "{ sync }",
    "{ late }",
    "{ a: late b: late }",
    *(f"{{ thing {{ {field} }} }}" for field in ("sync", "late", "loaded", "row", "number")),
    *(f"{{ things {{ {field} }} }}" for field in ("sync", "late", "loaded", "row", "number")),
    "{ mistaken { name } }",
    "{ listless { name } }",
    "{ missing }",
    "mutation { change }",
    "mutation { plain }",
    "query ($n: Boolean = true) { late @include(if: $n) ...F } fragment F on Query { thing { late } }",
]
STREAMS = ["subscription { stillborn }", *(f"subscription {{ items {{ {field} }} }}" for field in ("sync", "loaded"))]


def check(outcome: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Only references are told, and each stands in the log with its fault."""
    assert outcome.codes == {"INTERNAL"}
    for error in outcome.errors:
        reference = error["extensions"]["reference"]
        assert error["message"] == f"Something went wrong on our side. Quote reference {reference}."
        assert error.keys() <= {"message", "extensions", "locations", "path"}
        assert any(reference in record.getMessage() and record.exc_info for record in caplog.records)
    told = str(outcome)
    assert [secret for secret in SECRETS if secret in told] == []


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("query", OPERATIONS)
async def test_a_fault_is_told_by_a_reference_only(
    query: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask: Ask = TRANSPORTS[transport]
    check(await ask(EXECUTION, query), caplog)


@pytest.mark.parametrize("transport", [name for name in TRANSPORTS if name != "http"])
@pytest.mark.parametrize("query", STREAMS)
async def test_a_fault_of_a_subscription_is_told_by_a_reference_only(
    query: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    check(await TRANSPORTS[transport](EXECUTION, query), caplog)
