"""The subscription of executors and schedulers: who has to stop, who may go on."""

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Annotated

import strawberry

from app.api.context import ResolverInfo
from app.api.input_checks import check_ids, check_list_length
from app.engine import declare
from app.engine.permissions import Permission
from app.engine.scalars import Long
from app.engine.subscriptions import retry_until_available
from app.tasks.rules import SignalKind, StopReason
from app.tasks.signals import Signal, SignalTracker

MAX_OWNERS = 1_000


@declare.type(description="Who has to stop, or may go on.", needs=Permission.INHERITED)
class TaskSignal:
    kind: SignalKind = declare.value(description="Stop, or go on.")
    owner_id: strawberry.ID = declare.value(description="Whose tasks.")
    task_ids: list[strawberry.ID] | None = declare.value(
        description="Which tasks; null: every open task of the owner that has neither a budget nor an open hold."
    )
    reason: StopReason | None = declare.value(description="Why to stop; null where they may go on.")
    version: Long = declare.value(description="The account's version: ignore a signal older than one you have seen.")
    at: datetime = declare.value(description="When it was derived, by the database's clock.")


OwnerIds = Annotated[
    list[strawberry.ID] | None,
    strawberry.argument(description=f"Whose tasks, 1 to {MAX_OWNERS:,} owners; null: everybody's."),
]


@strawberry.type(description="What executors are told.")
class TaskSubscription:
    @declare.subscription(
        needs=Permission.SERVICE,
        description="For executors and schedulers: what is stopped now, then every change, within a second.",
    )
    async def task_signals(self, info: ResolverInfo, owner_ids: OwnerIds = None) -> AsyncGenerator[TaskSignal, None]:
        if owner_ids is not None:
            check_list_length(owner_ids, name="ownerIds", limit=MAX_OWNERS)
            check_ids(**{f"ownerIds.{place}": owner_id for place, owner_id in enumerate(owner_ids)})
        follower = SignalTracker(frozenset(owner_ids) if owner_ids is not None else None)
        with info.context.state.change_feed.subscribe_to_signals() as watch:
            for signal in await retry_until_available(follower.initial_signals):
                yield _shown(signal)
            while True:
                signalled = await watch.wait()
                for signal in await retry_until_available(lambda: follower.new_signals(signalled)):  # noqa: B023  awaited at once
                    yield _shown(signal)


def _shown(signal: Signal) -> TaskSignal:
    return TaskSignal(
        kind=signal.kind,
        owner_id=strawberry.ID(signal.owner_id),
        task_ids=[strawberry.ID(one) for one in signal.task_ids] if signal.task_ids is not None else None,
        reason=signal.reason,
        version=Long(signal.version),
        at=signal.as_of,
    )
