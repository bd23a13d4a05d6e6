"""An account with something in every list, and a recorder of SQL statements."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from app.db import pools
from app.engine.global_ids import encode_id
from app.errors import InsufficientCredits
from app.ledger import accounts
from app.pricing.rate_card_cache import RateCardCache
from app.tasks.rules import TaskTrigger
from tests.api.conftest import SERVICE, Api
from tests.factories import charge_block_run, grant_credits, start_task, unique_id
from tests.topups.refund_fixtures import create_paid_top_up

KINDS = (
    "Account", "Balance", "Agent", "Task", "TaskCost", "BlockRun", "Entry", "Grant", "Hold", "Notification", "TopUp",
)  # fmt: skip
HOLD = """mutation($input: PlaceHoldInput!) { placeHold(input: $input) { __typename
    ... on PlaceHoldSuccess { hold { id } } } }"""


@dataclass(frozen=True, slots=True)
class PopulatedAccount:
    """An account with something in every list. `node_ids`: one id of each type; `platform_ids`: ids of the platform."""

    owner_id: str
    account_id: int
    node_ids: Mapping[str, str]
    platform_ids: Mapping[str, str]


async def populate_account(api: Api, rate_cards: RateCardCache, owner_id: str) -> PopulatedAccount:
    """Two of everything that is paginated, so that a page of one item has a next page."""
    for _ in range(2):
        with suppress(InsufficientCredits):
            await start_task(owner_id, agent_id=f"{owner_id}-agent", trigger=TaskTrigger.SCHEDULED)
    for _ in range(2):
        await grant_credits(owner_id, 1_000)
        await create_paid_top_up(owner_id)
    top_up = await create_paid_top_up(owner_id)
    task = await start_task(owner_id, agent_id=f"{owner_id}-agent")
    await start_task(owner_id, agent_id=f"{owner_id}-other-agent")
    runs = [await charge_block_run(task, rate_cards) for _ in range(2)]
    for _ in range(2):
        await start_task(owner_id, agent_id=f"{owner_id}-agent", parent_task_id=task.task_id)
        await _a_stopped_task(owner_id)
        asked = {"taskId": task.task_id, "blockRunId": unique_id("held"), "block": "ReplicateModelBlock"}
        held = await api.data(SERVICE, HOLD, input=asked | {"atMost": {}, "timeoutSeconds": 600})
        assert held["placeHold"]["__typename"] == "PlaceHoldSuccess"
    stopped = await _a_stopped_task(owner_id)
    number = await accounts.find_account_id(owner_id)
    assert number is not None
    rows = await pools.fetch("SELECT number FROM notification WHERE account_id = $1 ORDER BY number DESC", number)
    if len(rows) < 2:
        await _insert_notifications(number)
        rows = await pools.fetch("SELECT number FROM notification WHERE account_id = $1 ORDER BY number DESC", number)
    run, entry = runs[0].block_run, runs[0].entry
    assert entry is not None
    nodes: dict[str, tuple[Any, ...]] = {
        "Account": (owner_id,), "Balance": (owner_id,), "Agent": (owner_id, f"{owner_id}-agent"),
        "Task": (number, task.task_id), "TaskCost": (number, task.task_id), "BlockRun": (number, run.block_run_id),
        "Entry": (number, entry.seq), "Grant": (number, 1), "Hold": (number, 1),
        "Notification": (number, rows[0]["number"]), "TopUp": (number, top_up.id),
    }  # fmt: skip
    names = {
        "ownerId": owner_id, "agentId": f"{owner_id}-agent", "taskId": task.task_id, "blockRunId": run.block_run_id,
        "stopped": stopped,
    }  # fmt: skip
    return PopulatedAccount(owner_id, number, {kind: encode_id(kind, *parts) for kind, parts in nodes.items()}, names)


async def _a_stopped_task(owner_id: str) -> str:
    task_id = (await start_task(owner_id, agent_id=f"{owner_id}-agent")).task_id
    await pools.fetch("UPDATE task SET status = 'STOPPED', stop_reason = 'OUT_OF_CREDITS' WHERE task_id = $1", task_id)
    return task_id


async def _insert_notifications(number: int) -> None:
    await pools.fetch(
        "WITH made AS (INSERT INTO notification (account_id, number, kind, agent_id, subject, message, at)"
        " SELECT $1, n, 'EXPIRING', '', 'test ' || n, 'soon', now() FROM generate_series(101, 102) AS n RETURNING 1)"
        " UPDATE account SET notification_count = 102 WHERE id = $1 AND (SELECT count(*) FROM made) = 2",
        number,
    )


_RECORDING: ContextVar[list[str] | None] = ContextVar("recording", default=None)


@pytest.fixture
def record_statements(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`with record_statements() as statements`: the SQL statements sent by this task inside the block."""
    fetch = asyncpg.connection.Connection.fetch

    async def recorded(self: Any, query: str, *values: Any, **more: Any) -> Any:
        sent = _RECORDING.get()
        if sent is not None:
            sent.append(query)
        return await fetch(self, query, *values, **more)

    monkeypatch.setattr(asyncpg.connection.Connection, "fetch", recorded)

    @contextmanager
    def recording() -> Iterator[list[str]]:
        sent: list[str] = []
        token = _RECORDING.set(sent)
        try:
            yield sent
        finally:
            _RECORDING.reset(token)

    return recording
