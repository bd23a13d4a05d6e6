"""The subscriptions taskCost and taskSignals."""

from collections.abc import AsyncGenerator
from datetime import datetime
from functools import partial
from typing import Annotated

import strawberry
from strawberry.types.nodes import SelectedField

from app.api.context import ResolverInfo
from app.api.input_checks import check_ids, check_list_length
from app.api.objects import build_from
from app.api.owner_scope import readable_owners
from app.api.tasks.costs import COST_PARTS, TaskCost, to_task_cost
from app.engine import declare
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.subscriptions import retry_until_available
from app.tasks import costs, queries
from app.tasks.rules import ENDED_STATUSES, SignalKind, StopReason
from app.tasks.signals import SignalTracker

MAX_OWNERS = 1_000


@declare.type(description="A signal to the executors of tasks: stop or continue.", needs=Permission.INHERITED)
class TaskSignal:
    kind: SignalKind = declare.value(description="What to do.")
    owner_id: strawberry.ID = declare.value(description="The owner of the tasks.")
    task_ids: list[strawberry.ID] | None = declare.value(
        description="The tasks. Null means all open tasks of the owner that have neither a budget nor an open hold."
    )
    reason: StopReason | None = declare.value(description="Why tasks are stopped; null for RESUME.")
    version: Long = declare.value(
        description="The version of the account. Ignore a signal with a lower version than one already received for "
        "the same owner."
    )
    as_of: datetime = declare.value(description="When the state was read, by the clock of the database.")


TaskId = Annotated[strawberry.ID, strawberry.argument(description="The platform's id of the task.")]
OwnerIds = Annotated[
    list[strawberry.ID] | None,
    strawberry.argument(description=f"The owners of the tasks, 1 to {MAX_OWNERS:,}. Null means all owners."),
]


@strawberry.type(description="Subscriptions for tasks.")
class TaskSubscription:
    @declare.subscription(
        needs=Permission.AUTHENTICATED,
        description="Sends the current cost of a task, then a new item after every change of the task or of a task "
        "nested in it. Each item has a higher version than the one before, and shows one state. Slow clients may skip "
        "intermediate states. Completes when the task ends, or immediately if the caller may not read it.",
    )
    async def task_cost(self, info: ResolverInfo, task_id: TaskId) -> AsyncGenerator[TaskCost, None]:
        check_ids(taskId=task_id)
        owner_ids = readable_owners(info.context.authenticated_caller)

        async def find() -> queries.OwnedTask | None:
            return await retry_until_available(lambda: queries.find_task(task_id, owner_ids=owner_ids))

        if (owned := await find()) is None:
            return
        parts = requested_parts(info)
        seen = 0
        with info.context.state.change_feed.subscribe(owned.task.account_id, wake_on_sweep=True) as changes:
            while owned := await find():
                task = owned.task
                if task.version > seen:
                    state = await retry_until_available(partial(costs.cost_state, task.key, parts))
                    task = state.task
                    seen = task.version
                    yield to_task_cost(task, state)
                if task.status in ENDED_STATUSES:
                    return
                await changes.wait()

    @declare.subscription(
        needs=Permission.SERVICE,
        description="For executors and schedulers. Sends a STOP signal for everything that is stopped now, then a "
        "signal within a second after every change.",
    )
    async def task_signals(self, info: ResolverInfo, owner_ids: OwnerIds = None) -> AsyncGenerator[TaskSignal, None]:
        if owner_ids is not None:
            check_list_length(owner_ids, name="ownerIds", limit=MAX_OWNERS)
            check_ids(**{f"ownerIds.{position}": owner_id for position, owner_id in enumerate(owner_ids)})
        tracker = SignalTracker(frozenset(owner_ids) if owner_ids is not None else None)
        with info.context.state.change_feed.subscribe_to_signals() as changes:
            for signal in await retry_until_available(tracker.initial_signals):
                yield build_from(TaskSignal, signal)
            while True:
                changed = await changes.wait()
                for signal in await retry_until_available(lambda: tracker.new_signals(changed)):  # noqa: B023  awaited in the same iteration
                    yield build_from(TaskSignal, signal)


def requested_parts(info: ResolverInfo) -> list[str]:
    """Return the parts of CostState that the subscription requests, also in fragments."""
    names: set[str] = set()
    waiting = [field for selected in info.selected_fields for field in selected.selections]
    while waiting:
        one = waiting.pop()
        if isinstance(one, SelectedField):
            names.add(one.name)
        else:
            waiting += one.selections
    return [part for name, part in COST_PARTS.items() if name in names]
