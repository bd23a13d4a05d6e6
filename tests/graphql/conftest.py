"""The real schema over an empty database, asked in process: what a transport would send is what a test gets."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from app.callers.rules import Kind, Scope, Viewer
from app.coalescing import Shared
from app.graphql.balances import newest_balances
from app.graphql.context import Context, House
from app.graphql.execution import Execution, Request
from app.graphql.schema import build
from app.ledger import statements
from app.live import Feed
from app.pricing.catalogue import Catalogue
from app.settings import Settings
from app.tasks.charging import Charger
from app.topups.sandbox.provider import Sandbox
from tests.graphql import toy
from tests.graphql.toy import read

ALICE = Viewer(kind=Kind.USER, actor="user:alice", owner_id="alice", organisations=frozenset({"guild"}))
BOB = Viewer(kind=Kind.USER, actor="user:bob", owner_id="bob")
SERVICE = Viewer(kind=Kind.SERVICE, actor="service:executor", scopes=frozenset({Scope.CHARGE}))
READER = Viewer(kind=Kind.SERVICE, actor="service:reports", scopes=frozenset({Scope.READ}))
OPERATOR = Viewer(kind=Kind.OPERATOR, actor="operator:olivia", owner_id="olivia", scopes=frozenset({Scope.ADMIN}))

EXECUTION = Execution(build()._schema, open_to_explorers=True, plans=True)


@pytest.fixture(autouse=True, params=["plans", "no plans"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test of the edge runs with plans and without them: no answer may differ."""
    if request.param == "no plans":
        for execution in (EXECUTION, toy.execution, toy.production):
            monkeypatch.setattr(execution, "_plans", None)


@pytest.fixture(autouse=True, scope="session")
def plans_are_used() -> Iterator[None]:
    """What tests of the edge ask is compiled; only introspection is left to the ordinary executor."""
    yield
    for execution in (EXECUTION, toy.execution, toy.production):
        assert execution.tally.ordinary.keys() <= {"introspection", "length"}


@dataclass(frozen=True, slots=True)
class Api:
    """The edge of one process."""

    house: House

    async def ask(self, viewer: Viewer | None, query: str, **variables: Any) -> Mapping[str, Any]:
        """The whole answer, errors as they are sent."""
        return (await EXECUTION.answer(Request(query, variables), Context(viewer, self.house))).payload

    async def data(self, viewer: Viewer | None, query: str, **variables: Any) -> Any:
        """The data of an answer without errors."""
        answer = await self.ask(viewer, query, **variables)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    async def refused(self, viewer: Viewer | None, query: str, **variables: Any) -> tuple[str, str]:
        """Code and message of the only error of an answer without data."""
        answer = await self.ask(viewer, query, **variables)
        assert not any((answer.get("data") or {}).values()), answer
        [error] = answer["errors"]
        return error["extensions"]["code"], error["message"]

    def follow(self, viewer: Viewer | None, query: str, **variables: Any) -> Any:
        """The payloads of a subscription."""
        return read(EXECUTION.stream(Request(query, variables), Context(viewer, self.house)))


@pytest.fixture
async def api(db: str, catalogue: Catalogue) -> AsyncIterator[Api]:
    """The edge, with its live feed listening."""
    chosen = Settings(low_balance_at=50)
    feed = Feed(sweep_seconds=5, conflate_seconds=0.005)
    charger = Charger(catalogue, lanes=2, batch_limit=256, queue_limit=4096)
    listening = asyncio.create_task(feed.run(db))
    yield Api(
        House(
            settings=chosen,
            live=feed,
            catalogue=catalogue,
            charger=charger,
            balances=Shared(statements.balances, list_limit=1000),
            newest=newest_balances(feed, low_balance_at=chosen.low_balance_at),
            provider=Sandbox("http://testserver", b"a secret of the sandbox, long enough"),
        )
    )
    await charger.close()
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening
