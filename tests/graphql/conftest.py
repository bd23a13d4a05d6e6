"""The real schema over an empty database, asked in process: what a transport would send is what a test gets."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from app.callers.rules import Caller, CallerKind, Scope
from app.coalescing import BatchedReads
from app.graphql.balances import open_latest_balances
from app.graphql.context import AppState, Context
from app.graphql.execution import GraphQLEngine, GraphQLRequest
from app.graphql.schema import build_schema
from app.ledger import statements
from app.live import ChangeFeed
from app.pricing.catalogue import RateCardCache
from app.settings import Settings
from app.tasks.charging import ChargeQueue
from app.topups.sandbox.provider import Sandbox
from tests.graphql import toy
from tests.graphql.toy import decode_items

ALICE = Caller(kind=CallerKind.USER, actor="user:alice", owner_id="alice", organisations=frozenset({"guild"}))
BOB = Caller(kind=CallerKind.USER, actor="user:bob", owner_id="bob")
SERVICE = Caller(kind=CallerKind.SERVICE, actor="service:executor", scopes=frozenset({Scope.CHARGE}))
READER = Caller(kind=CallerKind.SERVICE, actor="service:reports", scopes=frozenset({Scope.READ}))
OPERATOR = Caller(kind=CallerKind.OPERATOR, actor="operator:olivia", owner_id="olivia", scopes=frozenset({Scope.ADMIN}))

EXECUTION = GraphQLEngine(build_schema()._schema, introspection=True, compile_operations=True)


@pytest.fixture(autouse=True, params=["plans", "no plans"])
def compiled_and_interpreted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test of the edge runs with plans and without them: no answer may differ."""
    if request.param == "no plans":
        for execution in (EXECUTION, toy.engine, toy.production_engine):
            monkeypatch.setattr(execution, "_plans", None)


@pytest.fixture(autouse=True, scope="session")
def operations_are_compiled() -> Iterator[None]:
    """What tests of the edge ask is compiled; only introspection is left to the ordinary executor."""
    yield
    for execution in (EXECUTION, toy.engine, toy.production_engine):
        assert execution.execution_counts.interpreted.keys() <= {"introspection", "length"}


@dataclass(frozen=True, slots=True)
class Api:
    """The edge of one process."""

    house: AppState

    async def execute(self, viewer: Caller | None, query: str, **variables: Any) -> Mapping[str, Any]:
        """The whole answer, errors as they are sent."""
        return (await EXECUTION.execute(GraphQLRequest(query, variables), Context(viewer, self.house))).payload

    async def data(self, viewer: Caller | None, query: str, **variables: Any) -> Any:
        """The data of an answer without errors."""
        answer = await self.execute(viewer, query, **variables)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    async def error(self, viewer: Caller | None, query: str, **variables: Any) -> tuple[str, str]:
        """Code and message of the only error of an answer without data."""
        answer = await self.execute(viewer, query, **variables)
        assert not any((answer.get("data") or {}).values()), answer
        [error] = answer["errors"]
        return error["extensions"]["code"], error["message"]

    def subscribe(self, viewer: Caller | None, query: str, **variables: Any) -> Any:
        """The payloads of a subscription."""
        return decode_items(EXECUTION.stream(GraphQLRequest(query, variables), Context(viewer, self.house)))


@pytest.fixture
async def api(db: str, catalogue: RateCardCache) -> AsyncIterator[Api]:
    """The edge, with its live feed listening."""
    chosen = Settings(low_balance_threshold=50)
    feed = ChangeFeed(sweep_seconds=5, conflate_seconds=0.005)
    charger = ChargeQueue(catalogue, lanes=2, batch_limit=256, queue_limit=4096)
    listening = asyncio.create_task(feed.run(db))
    yield Api(
        AppState(
            settings=chosen,
            change_feed=feed,
            rate_cards=catalogue,
            charge_queue=charger,
            balance_reader=BatchedReads(statements.get_balances, batch_limit=1000),
            latest_balances=open_latest_balances(feed, low_balance_at=chosen.low_balance_threshold),
            payment_provider=Sandbox("http://testserver", b"a secret of the sandbox, long enough"),
        )
    )
    await charger.close()
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening
