"""The subscriptions: the balance in the header, and a task's cost while it runs.

Each registers before it reads, so nothing falls in between; a wake-up has no value, so the newest state is read and
sent, and versions rise strictly.
"""

from collections.abc import AsyncGenerator
from typing import Annotated

import strawberry

from app.api.accounts.balance import Balance, load_figures, to_balance
from app.api.context import ResolverInfo
from app.api.input_checks import check_ids
from app.api.owner_scope import readable_owners, resolve_owner
from app.api.tasks.types import TaskCost, to_task_cost
from app.engine import declare
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.subscriptions import retry_until_available
from app.errors import Forbidden
from app.ledger import owner_scope
from app.tasks import queries as tasks
from app.tasks.rules import ENDED_STATUSES

Owner = Annotated[strawberry.ID | None, strawberry.argument(description="Whose balance; null: one's own.")]
Since = Annotated[
    Long | None,
    strawberry.argument(
        description="The last version seen: the first item comes once there is a newer one; at once, if there has been "
        "no such version."
    ),
]
TaskId = Annotated[strawberry.ID, strawberry.argument(description="The platform's id of the task.")]


@strawberry.type(description="Balances and costs, as they change.")
class AccountSubscription:
    @declare.subscription(
        needs=Permission.AUTHENTICATED,
        description="The whole state of the balance, newest only: a snapshot first, then every change. The header "
        "subscribes to this.",
    )
    async def balance(
        self, info: ResolverInfo, owner_id: Owner = None, since_version: Since = None
    ) -> AsyncGenerator[Balance, None]:
        check_ids(ownerId=owner_id)
        owner = resolve_owner(info.context, owner_id)
        if owner is None:
            raise Forbidden("You may not look at that owner's balance.")
        context = info.context
        feed, visible = context.state.change_feed, readable_owners(context.authenticated_caller)
        # Who came back with both has seen the newer of them.
        seen = max(value for value in (-1, since_version, context.last_seen_version) if value is not None)
        if await owner_scope.find_account_id(owner, owner_ids=visible) is None:
            # Nothing was ever written for this owner: the first write is announced by the owner's name.
            with feed.subscribe(owner) as watch:
                while (
                    await retry_until_available(lambda: owner_scope.find_account_id(owner, owner_ids=visible)) is None
                ):
                    figures = await retry_until_available(lambda: load_figures(owner, context))
                    seen = _of_these_books(seen, figures.version)
                    if figures.version > seen:
                        seen = context.last_seen_version = figures.version
                        yield to_balance(figures, context)
                    await watch.wait()
        number = await owner_scope.find_account_id(owner, owner_ids=visible)
        if number is None:
            raise LookupError(f"the account of {owner!r} was there a moment ago")
        with context.state.latest_balances.subscribe(number) as follower:
            seen = _of_these_books(seen, (await follower.wait_for_newer(-1)).version)
            while True:
                balance = await follower.wait_for_newer(seen)
                seen = context.last_seen_version = balance.version
                yield balance

    @declare.subscription(
        needs=Permission.AUTHENTICATED,
        description="What a task costs, newest only: a snapshot, then every change. Completes when the task ends.",
    )
    async def task_cost(self, info: ResolverInfo, task_id: TaskId) -> AsyncGenerator[TaskCost, None]:
        check_ids(taskId=task_id)
        context = info.context
        visible = readable_owners(context.authenticated_caller)
        seen = 0
        # A task that is another's is answered like one that does not exist: the stream ends without an item.
        there = (await retry_until_available(lambda: tasks.find_tasks([task_id], owner_ids=visible))).get(task_id)
        if there is None:
            return
        with context.state.change_feed.subscribe(there.task.account_id, wake_on_sweep=True) as watch:
            while found := (await retry_until_available(lambda: tasks.find_tasks([task_id], owner_ids=visible))).get(
                task_id
            ):
                if found.task.version > seen:
                    seen = found.task.version
                    yield to_task_cost(found.task)
                if found.task.status in ENDED_STATUSES:
                    return
                await watch.wait()


def _of_these_books(seen: int, version: int) -> int:
    """What was seen, if it can be of books that are at `version`; -1: it was another account's, or comes from before a
    restore, and waiting for a newer one could last for ever."""
    return seen if seen <= version else -1
