"""Holds and budgets as they are read: credits that are claimed and not spent yet."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, TypeAlias

import strawberry

from app.api.context import Context, ResolverInfo
from app.api.owner_scope import readable_owners
from app.api.scalars import Credits
from app.engine import declare, global_ids
from app.engine.permissions import Permission
from app.engine.schema import describe_enum
from app.ledger import owner_scope, queries
from app.ledger.rules.account_state import Hold as HoldState
from app.ledger.rules.account_state import HoldStatus

if TYPE_CHECKING:
    from app.api.tasks.types import Task

LazyTask: TypeAlias = Annotated["Task", strawberry.lazy("app.api.tasks.types")]

describe_enum(
    HoldStatus,
    name="HoldStatus",
    description="Where a hold stands.",
    values={
        HoldStatus.OPEN: "It claims credits.",
        HoldStatus.CAPTURED: "What was needed is drawn, the rest went back; of a budget: its task has ended.",
        HoldStatus.VOIDED: "It was let go of: all went back.",
        HoldStatus.EXPIRED: "Its time was over before anybody captured it: what was left went back.",
    },
)


@declare.type(
    description="Credits claimed of named grants: for one block run, or, as a budget, for a whole task. Nobody else "
    "can spend them.",
    needs=Permission.INHERITED,
)
class Hold(global_ids.Node):
    block_run_id: strawberry.ID | None = declare.value(description="The block run it is for; null for a task's budget.")
    block: str | None = declare.value(description="The block, as the rate card names it; null for a task's budget.")
    credits: Credits = declare.value(description="What it claimed in all, additions to a budget included.")
    captured: Credits = declare.value(description="What was drawn of it.")
    remaining: Credits = declare.value(description="What it claims now.")
    priced: Credits | None = declare.value(
        description="What the capture was priced at, by its measurements: more than `captured` where it was capped."
    )
    status: HoldStatus = declare.value(description="Where it stands.")
    placed_at: datetime = declare.value(description="When it was placed.")
    expires_at: datetime = declare.value(description="When it lapses by itself, or would have.")
    closed_at: datetime | None = declare.value(description="When it was captured, voided or lapsed; null while open.")
    key: strawberry.Private[tuple[int, str]]

    @declare.field(description="The task that it is for.")
    async def task(self, info: ResolverInfo) -> LazyTask | None:
        from app.api.tasks.types import load_task  # noqa: PLC0415  tasks show budgets, holds show tasks

        return await load_task(info.context, *self.key)


@declare.type(
    description="What a task may spend: credits held for it, whatever others spend meanwhile. What is left returns "
    "when the task ends, or when nobody charges within its timeout.",
    needs=Permission.INHERITED,
)
class Budget:
    task_id: strawberry.ID = declare.value(
        description="Whose budget it is: a nested task without one of its own draws on that of the task around it."
    )
    credits: Credits = declare.value(description="What was put into it.")
    spent: Credits = declare.value(description="Drawn, or claimed by holds and nested budgets taken from it.")
    remaining: Credits = declare.value(description="What block runs may still draw, the landing reserve included.")
    closing_reserve: Credits = declare.value(description="The part of the rest that only closing block runs may use.")
    expires_at: datetime = declare.value(description="When it lapses unless somebody charges before.")


def to_hold(account_id: int, hold: HoldState) -> Hold:
    """A hold as GraphQL shows it."""
    return Hold(
        id=global_ids.encode_id("Hold", account_id, hold.number),
        block_run_id=strawberry.ID(hold.block_run_id) if hold.block_run_id is not None else None,
        block=hold.terms["block"] if hold.terms else None,
        credits=Credits(hold.credits),
        captured=Credits(hold.captured),
        remaining=Credits(hold.remaining),
        priced=Credits(hold.priced_credits) if hold.priced_credits is not None else None,
        status=hold.status,
        placed_at=hold.placed_at,
        expires_at=hold.expires_at,
        closed_at=hold.closed_at,
        key=(account_id, hold.task_id),
    )


async def load_budget(context: Context, account_id: int, envelope: int | None) -> Budget | None:
    """The budget that pays for a task, batched with the others of this request."""
    if envelope is None:
        return None
    hold = await context.data_loader(_holds).load((account_id, envelope))
    if hold is None:
        return None
    return Budget(
        task_id=strawberry.ID(hold.task_id),
        credits=Credits(hold.credits),
        spent=Credits(hold.captured + hold.allocated),
        remaining=Credits(hold.remaining),
        closing_reserve=Credits(hold.closing_reserve),
        expires_at=hold.expires_at,
    )


async def load_hold(context: Context, account_id: int, number: int) -> Hold | None:
    """A hold by its key, batched with the others of this request."""
    hold = await context.data_loader(_holds).load((account_id, number))
    return to_hold(account_id, hold) if hold is not None else None


@global_ids.node_fetcher("Hold", int, int)
async def fetch_hold(context: Context, account_id: int, number: int) -> Hold | None:
    hold = await owner_scope.find_hold(account_id, number, owner_ids=readable_owners(context.authenticated_caller))
    return to_hold(account_id, hold) if hold is not None else None


async def load_held_credits(context: Context, account_id: int, task_id: str) -> Credits:
    """What a task holds now, batched with the others of this request."""
    return Credits(await context.data_loader(_held).load((account_id, task_id)))


async def _holds(keys: list[tuple[int, int]]) -> Sequence[HoldState | None]:
    found = await queries.get_holds(keys)
    return [found.get(key) for key in keys]


async def _held(keys: list[tuple[int, str]]) -> Sequence[int]:
    found = await queries.get_held_by_task(keys)
    return [found[key] for key in keys]
