"""State for tests, built through the use cases: nothing here writes a row by itself, but that a rate card takes effect
at once.
"""

import itertools
from datetime import datetime, timedelta
from typing import Any

from app import database
from app.ledger import grants, statements
from app.ledger.book import Figures, Source
from app.ledger.grants import Granted, GrantRequest
from app.pricing import publishing
from app.pricing.catalogue import Catalogue
from app.pricing.measurements import Measurements
from app.tasks import charging, lifecycle
from app.tasks.charging import Charged, Outcome
from app.tasks.holding import CaptureRequest, PlaceRequest
from app.tasks.lifecycle import StartRequest
from app.tasks.rules import ChargeRequest, TaskState

_numbers = itertools.count(1)

TEN_CREDITS = {"block": "ReplicateModelBlock"}
"""A block that costs 10 credits in the default rate card."""

ITEM_PRICES: dict[str, Any] = {
    "blocks": [
        {"block": "ItemBlock", "credits": 1, "unit": "item"},
        {"block": "ReplicateModelBlock", "credits": 10},
        {"block": "NoteBlock", "credits": 0},
    ]
}
"""A rate card by which a block run costs as many credits as it has items."""


def unique(prefix: str) -> str:
    """A name that no other call gives."""
    return f"{prefix}-{next(_numbers)}"


async def granted(owner_id: str, credits: int, **more: Any) -> Granted:
    """Credits for an owner, promotional unless said otherwise."""
    asked: dict[str, Any] = {
        "source": Source.PROMOTIONAL, "reason": "for a test", "key": unique("grant"), "actor": "operator:test",
    }  # fmt: skip
    return await grants.grant(GrantRequest(owner_id=owner_id, credits=credits, **(asked | more)))


async def a_task(owner_id: str = "alice", *, agent_id: str = "agent", **more: Any) -> TaskState:
    """A running task of an owner who has credits."""
    request = StartRequest(
        task_id=more.pop("task_id", None) or unique("task"), owner_id=owner_id, agent_id=agent_id,
        actor="service:test", **more,
    )  # fmt: skip
    return (await lifecycle.start(request)).task


async def some_tasks(count: int, *, sharing_credits: int, owner_id: str = "alice") -> list[TaskState]:
    """Running tasks of one owner, who has that many credits in all."""
    await granted(owner_id, sharing_credits)
    return [await a_task(owner_id) for _ in range(count)]


def a_block_run(task: TaskState | str, **more: Any) -> ChargeRequest:
    """A block run of that task that costs 10 credits unless `block` says otherwise."""
    task_id = task if isinstance(task, str) else task.task_id
    asked: dict[str, Any] = {"block_run_id": unique("run"), "actor": "service:test"} | TEN_CREDITS | more
    return ChargeRequest(task_id=task_id, **asked)


async def balance(account_id: int) -> Figures:
    """The account's figures as a reader sees it."""
    return (await statements.balances([account_id]))[account_id]


async def a_catalogue_of(document: dict[str, Any] = ITEM_PRICES) -> Catalogue:
    """The prices of `document`, published and in force from now on."""
    card = (await publishing.publish(document, actor="operator:test", key=unique("card"))).card
    await database.fetch(
        "UPDATE rate_card SET effective_at = clock_timestamp() WHERE version = $1 RETURNING 1", card.version
    )
    catalogue = Catalogue()
    await catalogue.refresh()
    return catalogue


def a_hold(task: TaskState | str, at_most: int = 30, **more: Any) -> PlaceRequest:
    """A hold for a block run of at most that many items, by ITEM_PRICES as many credits."""
    task_id = task if isinstance(task, str) else task.task_id
    asked: dict[str, Any] = {
        "block_run_id": unique("run"), "block": "ItemBlock", "timeout_seconds": 600, "actor": "service:test",
    }  # fmt: skip
    return PlaceRequest(task_id=task_id, at_most=Measurements(items=at_most), **(asked | more))


def a_capture(hold: PlaceRequest, items: int | None, **more: Any) -> CaptureRequest:
    """The capture of that hold, for as many items."""
    asked: dict[str, Any] = {"task_id": hold.task_id, "actor": "service:test"} | more
    return CaptureRequest(block_run_id=hold.block_run_id, measurements=Measurements(items=items), **asked)


async def outcome(task: TaskState, catalogue: Catalogue, **more: Any) -> Outcome:
    """What becomes of one block run of that task, of 10 credits unless `block` says otherwise."""
    [one] = await charging.charge_many([(task.account_id, a_block_run(task, **more))], catalogue)
    return one


async def charged(task: TaskState, catalogue: Catalogue, **more: Any) -> Charged:
    """As `outcome`, of a block run that is admitted."""
    one = await outcome(task, catalogue, **more)
    if not isinstance(one, Charged):
        raise one
    return one


async def in_seconds(seconds: float) -> datetime:
    """That instant of the database's clock."""
    now: datetime = (await database.fetch("SELECT clock_timestamp() AS now"))[0]["now"]
    return now + timedelta(seconds=seconds)


async def past(instant: datetime) -> None:
    """Wait until the database's clock is past that instant."""
    await database.fetch("SELECT pg_sleep_until($1)", instant)
