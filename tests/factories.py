"""State for tests, built through the use cases: nothing here writes a row by itself."""

import itertools
from typing import Any

from app.ledger import grants, statements
from app.ledger.book import Figures, Source
from app.ledger.grants import Granted, GrantRequest
from app.tasks import lifecycle
from app.tasks.lifecycle import StartRequest
from app.tasks.rules import ChargeRequest, TaskState

_numbers = itertools.count(1)

TEN_CREDITS = {"block": "ReplicateModelBlock"}
"""A block that costs 10 credits in the default rate card."""


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
