"""The subscriptions: the balance in the header, and a task's cost while it runs.

Each registers before it reads, so nothing falls in between; a wake-up has no value, so the newest state is read and
sent, and versions rise strictly.
"""

from collections.abc import AsyncGenerator
from typing import Annotated

import strawberry

from app.errors import Forbidden
from app.graphql import access
from app.graphql.access import Needs
from app.graphql.balances import Balance, balance_of, figures_of
from app.graphql.context import Information
from app.graphql.inputs import checked
from app.graphql.patience import patiently
from app.graphql.scalars import Long
from app.graphql.sight import owner_asked, owners_seen
from app.graphql.tasks import TaskCost, cost_of
from app.ledger import sight
from app.tasks import sight as tasks
from app.tasks.rules import ENDED

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
class FollowingSubscription:
    @access.subscription(
        needs=Needs.USER_OR_ABOVE,
        description="The whole state of the balance, newest only: a snapshot first, then every change. The header "
        "subscribes to this.",
    )
    async def balance(
        self, info: Information, owner_id: Owner = None, since_version: Since = None
    ) -> AsyncGenerator[Balance, None]:
        checked(ownerId=owner_id)
        owner = owner_asked(info.context, owner_id)
        if owner is None:
            raise Forbidden("You may not look at that owner's balance.")
        context = info.context
        feed, visible = context.house.live, owners_seen(context.caller)
        # Who came back with both has seen the newer of them.
        seen = max(value for value in (-1, since_version, context.seen_version) if value is not None)
        if await sight.account(owner, owner_ids=visible) is None:
            # Nothing was ever written for this owner: the first write is announced by the owner's name.
            with feed.watch(owner) as watch:
                while await patiently(lambda: sight.account(owner, owner_ids=visible)) is None:
                    figures = await patiently(lambda: figures_of(owner, context))
                    seen = _of_these_books(seen, figures.version)
                    if figures.version > seen:
                        seen = context.seen_version = figures.version
                        yield balance_of(figures, context)
                    await watch.changed()
        number = await sight.account(owner, owner_ids=visible)
        if number is None:
            raise LookupError(f"the account of {owner!r} was there a moment ago")
        with context.house.newest.follow(number) as follower:
            seen = _of_these_books(seen, (await follower.newer_than(-1)).version)
            while True:
                balance = await follower.newer_than(seen)
                seen = context.seen_version = balance.version
                yield balance

    @access.subscription(
        needs=Needs.USER_OR_ABOVE,
        description="What a task costs, newest only: a snapshot, then every change. Completes when the task ends.",
    )
    async def task_cost(self, info: Information, task_id: TaskId) -> AsyncGenerator[TaskCost, None]:
        checked(taskId=task_id)
        context = info.context
        visible = owners_seen(context.caller)
        seen = 0
        # A task that is another's is answered like one that does not exist: the stream ends without an item.
        there = (await patiently(lambda: tasks.find([task_id], owner_ids=visible))).get(task_id)
        if there is None:
            return
        with context.house.live.watch(there.task.account_id, swept=True) as watch:
            while found := (await patiently(lambda: tasks.find([task_id], owner_ids=visible))).get(task_id):
                if found.task.version > seen:
                    seen = found.task.version
                    yield cost_of(found.task)
                if found.task.status in ENDED:
                    return
                await watch.changed()


def _of_these_books(seen: int, version: int) -> int:
    """What was seen, if it can be of books that are at `version`; -1: it was another account's, or comes from before a
    restore, and waiting for a newer one could last for ever."""
    return seen if seen <= version else -1
