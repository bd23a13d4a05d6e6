"""The API over an empty database, called in process: tests receive what a transport would send."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from app.api.accounts.balance import open_latest_balances
from app.api.context import AppState
from app.api.schema import build_schema
from app.auth.caller import Caller, CallerKind, Scope
from app.db.group_commit import BatchedReads
from app.engine.context import RequestContext
from app.engine.execution import GraphQLEngine, GraphQLRequest
from app.ledger import queries
from app.live.change_feed import ChangeFeed
from app.outgoing_webhooks.secret_box import SecretBox
from app.pricing.rate_card_cache import RateCardCache
from app.settings import Settings
from app.tasks.charging import ChargeQueue
from app.topups.sandbox.provider import Sandbox
from tests.engine.sample_schema import decode_items

ALICE = Caller(kind=CallerKind.USER, actor="user:alice", owner_id="alice", organisations=frozenset({"guild"}))
BOB = Caller(kind=CallerKind.USER, actor="user:bob", owner_id="bob")
SERVICE = Caller(kind=CallerKind.SERVICE, actor="service:executor", scopes=frozenset({Scope.CHARGE}))
READER = Caller(kind=CallerKind.SERVICE, actor="service:reports", scopes=frozenset({Scope.READ}))
OPERATOR = Caller(kind=CallerKind.OPERATOR, actor="operator:olivia", owner_id="olivia", scopes=frozenset({Scope.ADMIN}))

ENGINE = GraphQLEngine(build_schema()._schema, introspection=True, compile_operations=True)


@pytest.fixture(autouse=True, scope="session")
def operations_are_compiled() -> Iterator[None]:
    """All operations of the tests are compiled, except introspection."""
    yield
    assert ENGINE.execution_counts.interpreted.keys() <= {"introspection"}


@dataclass(frozen=True, slots=True)
class Api:
    """The API of one process. `listener`: the task that receives database notifications."""

    state: AppState
    listener: asyncio.Task[None]

    async def execute(self, caller: Caller | None, query: str, **variables: Any) -> Mapping[str, Any]:
        """The whole response."""
        return (await ENGINE.execute(GraphQLRequest(query, variables), RequestContext(caller, self.state))).payload

    async def data(self, caller: Caller | None, query: str, **variables: Any) -> Any:
        """The data of a response without errors."""
        response = await self.execute(caller, query, **variables)
        assert "errors" not in response, response["errors"]
        return response["data"]

    async def error(self, caller: Caller | None, query: str, **variables: Any) -> tuple[str, str]:
        """Code and message of the only error of a response without data."""
        response = await self.execute(caller, query, **variables)
        assert not any((response.get("data") or {}).values()), response
        [error] = response["errors"]
        return error["extensions"]["code"], error["message"]

    def subscribe(self, caller: Caller | None, query: str, **variables: Any) -> Any:
        """The responses of a subscription."""
        return decode_items(ENGINE.stream(GraphQLRequest(query, variables), RequestContext(caller, self.state)))


@pytest.fixture
async def api(db: str, rate_cards: RateCardCache) -> AsyncIterator[Api]:
    """The API, with a change feed that listens to the database."""
    settings = Settings(low_balance_threshold=50)
    feed = ChangeFeed(sweep_seconds=5, conflate_seconds=0.005)
    charge_queue = ChargeQueue(rate_cards, queues=2, batch_limit=256, queue_limit=4096)
    listener = asyncio.create_task(feed.run(db))
    yield Api(
        AppState(
            settings=settings,
            change_feed=feed,
            rate_cards=rate_cards,
            charge_queue=charge_queue,
            balance_reader=BatchedReads(queries.get_balances, batch_limit=1000),
            latest_balances=open_latest_balances(feed, low_balance_threshold=settings.low_balance_threshold),
            payment_provider=Sandbox("http://testserver", b"a secret of the sandbox, long enough"),
            webhook_secrets=SecretBox([bytes(32)]),
        ),
        listener,
    )
    await charge_queue.close()
    listener.cancel()
    with suppress(asyncio.CancelledError):
        await listener
