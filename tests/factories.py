"""State for tests, made by the use cases of the product. Only the instant of a rate card is set by SQL."""

import itertools
from datetime import datetime, timedelta
from typing import Any

from app.db import pools
from app.ledger import grants, queries
from app.ledger.grants import GrantRequest, GrantResult
from app.ledger.rules.account_state import AccountBalance, GrantSource
from app.pricing import publishing
from app.pricing.measurements import Measurements
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import charging, lifecycle, reversals
from app.tasks import queries as task_queries
from app.tasks.charging import Charge, ChargeResult
from app.tasks.holds import CaptureHoldRequest, PlaceHoldRequest
from app.tasks.lifecycle import StartTaskRequest
from app.tasks.reversals import Reversal
from app.tasks.rules import BlockRunState, ChargeRequest, TaskState

_numbers = itertools.count(1)

BLOCK_OF_TEN_CREDITS = {"block": "ReplicateModelBlock"}
"""A block that costs 10 credits in the default rate card."""

ITEM_PRICES: dict[str, Any] = {
    "blocks": [
        {"block": "ItemBlock", "credits": 1, "unit": "item"},
        {"block": "ReplicateModelBlock", "credits": 10},
        {"block": "NoteBlock", "credits": 0},
    ]
}
"""A rate card with a block that costs one credit per item."""


def unique_id(prefix: str) -> str:
    """An id that no other call returns."""
    return f"{prefix}-{next(_numbers)}"


async def grant_credits(owner_id: str, credits: int, **more: Any) -> GrantResult:
    """Grant credits to an owner, promotional by default."""
    asked: dict[str, Any] = {
        "source": GrantSource.PROMOTIONAL, "reason": "for a test", "key": unique_id("grant"), "actor": "operator:test",
    }  # fmt: skip
    return await grants.grant_credits(GrantRequest(owner_id=owner_id, credits=credits, **(asked | more)))


async def start_task(owner_id: str = "alice", *, agent_id: str = "agent", **more: Any) -> TaskState:
    """Start a task. The owner must have credits."""
    request = StartTaskRequest(
        task_id=more.pop("task_id", None) or unique_id("task"), owner_id=owner_id, agent_id=agent_id,
        actor="service:test", **more,
    )  # fmt: skip
    return (await lifecycle.start_task(request)).task


async def start_tasks(count: int, *, sharing_credits: int, owner_id: str = "alice") -> list[TaskState]:
    """Start tasks of one owner, who is granted `sharing_credits` first."""
    await grant_credits(owner_id, sharing_credits)
    return [await start_task(owner_id) for _ in range(count)]


def block_run_request(task: TaskState | str, **more: Any) -> ChargeRequest:
    """A request to charge a block run of the task; 10 credits by default."""
    task_id = task if isinstance(task, str) else task.task_id
    asked: dict[str, Any] = {"block_run_id": unique_id("run"), "actor": "service:test"} | BLOCK_OF_TEN_CREDITS | more
    return ChargeRequest(task_id=task_id, **asked)


async def get_balance(account_id: int) -> AccountBalance:
    """The current figures of the account."""
    return (await queries.get_balances([account_id]))[account_id]


async def get_figures(task: TaskState) -> tuple[int, int, int]:
    """(posted, held, available) of the task's account."""
    balance = await get_balance(task.account_id)
    return balance.posted, balance.held, balance.available


async def get_task(task: TaskState) -> TaskState:
    """The current state of the task."""
    return (await task_queries.tasks_by_id([task.key]))[task.key]


async def reverse_block_run(run: BlockRunState, credits: int) -> Reversal:
    """Give back credits of a charged block run."""
    return await reversals.reverse_charge(
        run.task_id,
        run.block_run_id,
        credits=credits,
        reason="for a test",
        idempotency_key=unique_id("reversal"),
        actor="operator:test",
    )


async def publish_rate_cards(document: dict[str, Any] = ITEM_PRICES) -> RateCardCache:
    """Publish `document`, in force from now on."""
    card = (await publishing.publish_rate_card(document, actor="operator:test", idempotency_key=unique_id("card"))).card
    await pools.fetch(
        "UPDATE rate_card SET effective_at = clock_timestamp() WHERE version = $1 RETURNING 1", card.version
    )
    rate_cards = RateCardCache()
    await rate_cards.refresh()
    return rate_cards


def hold_request(task: TaskState | str, at_most: int = 30, **more: Any) -> PlaceHoldRequest:
    """A request to hold credits for up to `at_most` items: as many credits, by ITEM_PRICES."""
    task_id = task if isinstance(task, str) else task.task_id
    asked: dict[str, Any] = {
        "block_run_id": unique_id("run"), "block": "ItemBlock", "timeout_seconds": 600, "actor": "service:test",
    }  # fmt: skip
    return PlaceHoldRequest(task_id=task_id, at_most=Measurements(items=at_most), **(asked | more))


def capture_request(hold: PlaceHoldRequest, items: int | None, **more: Any) -> CaptureHoldRequest:
    """A request to capture the hold for that many items."""
    asked: dict[str, Any] = {"task_id": hold.task_id, "actor": "service:test"} | more
    return CaptureHoldRequest(block_run_id=hold.block_run_id, measurements=Measurements(items=items), **asked)


async def try_charge(task: TaskState, rate_cards: RateCardCache, **more: Any) -> ChargeResult:
    """Charge one block run of the task, 10 credits by default. Returns: the charge, or the refusal."""
    [one] = await charging.charge_many([(task.account_id, block_run_request(task, **more))], rate_cards)
    return one


async def charge_block_run(task: TaskState, rate_cards: RateCardCache, **more: Any) -> Charge:
    """Charge one block run of the task, 10 credits by default. Raises: the refusal."""
    one = await try_charge(task, rate_cards, **more)
    if not isinstance(one, Charge):
        raise one
    return one


async def seconds_from_now(seconds: float) -> datetime:
    """The instant in so many seconds, by the database's clock."""
    now: datetime = (await pools.fetch("SELECT clock_timestamp() AS now"))[0]["now"]
    return now + timedelta(seconds=seconds)


async def wait_until(instant: datetime) -> None:
    """Wait until the database's clock has reached the instant."""
    await pools.fetch("SELECT pg_sleep_until($1)", instant)
