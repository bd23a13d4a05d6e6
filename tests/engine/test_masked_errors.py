"""Faults in each kind of resolver over each transport: clients receive a reference and no SQL, path, host or stack."""

from collections.abc import AsyncGenerator
from typing import Any, cast

import asyncpg
import pytest
import strawberry

from app.engine import declare
from app.engine.execution import GraphQLEngine
from app.engine.permissions import Permission
from app.engine.scalars import SCALARS, Long
from app.engine.schema import create_schema
from tests.engine.sample_schema import ResolverInfo
from tests.engine.transports.all_transports import TRANSPORTS, Execute

pytestmark = pytest.mark.anyio

SECRETS = ("SELECT", "credit_grant", "/srv/app", "db.internal", "5432", "hunter2", "Traceback", "UndefinedTable")
WORDS = "SELECT * FROM credit_grant at /srv/app/rows.py of db.internal:5432, password hunter2"


def fault() -> Exception:
    """A database error and its cause."""
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

    @declare.field(description="Raises at once.")
    def sync(self) -> str:
        raise fault()

    @declare.field(description="Raises when awaited.")
    async def late(self) -> str:
        raise fault()

    @declare.field(description="Raises in its data loader.")
    async def loaded(self, info: ResolverInfo) -> str:
        return await info.context.data_loader(load).load(self.name)

    @declare.field(description="Its data loader returns an exception.")
    async def row(self, info: ResolverInfo) -> str:
        return await info.context.data_loader(load_each).load(self.name)

    @declare.field(description="Returns no number.")
    def number(self) -> Long:
        return cast(Long, WORDS)


@strawberry.type(description="Reads.")
class Query:
    @declare.query(needs=Permission.PUBLIC, description="Raises at once.")
    def sync(self) -> str:
        raise fault()

    @declare.query(needs=Permission.PUBLIC, description="Raises when awaited.")
    async def late(self) -> str | None:
        raise fault()

    @declare.query(needs=Permission.PUBLIC, description="A thing.")
    def thing(self) -> Thing | None:
        return Thing(name="a")

    @declare.query(needs=Permission.PUBLIC, description="Things.")
    async def things(self) -> list[Thing]:
        return [Thing(name="a"), Thing(name="b")]

    @declare.query(needs=Permission.PUBLIC, description="Returns no object.")
    def mistaken(self) -> Thing:
        return cast(Thing, WORDS)

    @declare.query(needs=Permission.PUBLIC, description="Returns no list.")
    def listless(self) -> list[Thing]:
        return cast(list[Thing], 5)

    @declare.query(needs=Permission.PUBLIC, description="Returns null for a non-null field.")
    def missing(self) -> str:
        return cast(str, None)


@strawberry.type(description="Writes.")
class Mutation:
    @declare.mutation(needs=Permission.PUBLIC, description="Raises.")
    async def change(self) -> str:
        raise fault()

    @declare.mutation(needs=Permission.PUBLIC, description="Raises, with `input_as_dict`.", input_as_dict=True)
    async def plain(self, info: ResolverInfo) -> str:
        raise fault()


@strawberry.type(description="Subscribes.")
class Subscription:
    @declare.subscription(needs=Permission.PUBLIC, description="Raises before its first event.")
    async def stillborn(self) -> AsyncGenerator[str, None]:
        raise fault()
        yield "never"

    @declare.subscription(needs=Permission.PUBLIC, description="The fields of its item raise.")
    async def items(self) -> AsyncGenerator[Thing, None]:
        yield Thing(name="a")


EXECUTION = GraphQLEngine(
    create_schema(query=Query, mutation=Mutation, subscription=Subscription, scalars=SCALARS)._schema,
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
    """Only references are sent, and each is logged with its exception."""
    assert outcome.codes == {"INTERNAL"}
    for error in outcome.errors:
        reference = error["extensions"]["reference"]
        assert error["message"] == f"Something went wrong on our side. Quote reference {reference}."
        assert error.keys() <= {"message", "extensions", "locations", "path"}
        assert any(reference in record.getMessage() and record.exc_info for record in caplog.records)
    sent = str(outcome)
    assert [secret for secret in SECRETS if secret in sent] == []


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("query", OPERATIONS)
async def test_a_fault_is_reported_by_a_reference_only(
    query: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask: Execute = TRANSPORTS[transport]
    check(await ask(EXECUTION, query), caplog)


@pytest.mark.parametrize("transport", [name for name in TRANSPORTS if name != "http"])
@pytest.mark.parametrize("query", STREAMS)
async def test_a_fault_in_a_subscription_is_reported_by_a_reference_only(
    query: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    check(await TRANSPORTS[transport](EXECUTION, query), caplog)
