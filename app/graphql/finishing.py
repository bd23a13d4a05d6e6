"""The mutation that says how a block run ended."""

from typing import Annotated

import strawberry

from app.graphql import access
from app.graphql.access import Needs, Trail
from app.graphql.acts import act_of
from app.graphql.balances import Balance, balance_of
from app.graphql.block_runs import BlockRun, block_run_of
from app.graphql.context import Information
from app.graphql.entries import Entry, entry_of
from app.graphql.errors import (
    BalanceLimitReachedError,
    BlockRunNotFoundError,
    IdempotencyConflictError,
    TaskNotFoundError,
)
from app.graphql.inputs import checked
from app.graphql.scalars import Credits
from app.graphql.tasks import Task, task_of
from app.pricing.outcomes import Outcome
from app.tasks import finishing
from app.tasks.finishing import FinishRequest


@strawberry.input(description="A block run that is over, said once.")
class FinishBlockRunInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(description="The platform's id of the block run.")
    outcome: Outcome = strawberry.field(description="How it ended.")


@access.type(description="It is recorded how the block run ended.", needs=Needs.REACHED)
class FinishBlockRunSuccess:
    reversed: Credits = access.value(description="What its outcome does not cost, given back by this; 0 for nothing.")
    entry: Entry | None = access.value(description="The line that gives it back; null where it was nothing.")
    block_run: BlockRun = access.value(description="The block run.")
    task: Task = access.value(description="The task, with its cost now.")
    balance: Balance = access.value(description="The balance now.")
    replayed: bool = access.value(description="Whether the same had been said before: nothing has moved now.")


FinishBlockRunResult = Annotated[
    FinishBlockRunSuccess
    | TaskNotFoundError
    | BlockRunNotFoundError
    | IdempotencyConflictError
    | BalanceLimitReachedError,
    strawberry.union("FinishBlockRunResult", description="Recorded, or why not."),
]

FinishInput = Annotated[FinishBlockRunInput, strawberry.argument(description="Which block run, and how it ended.")]


@strawberry.type(description="Saying how block runs ended.")
class FinishingMutations:
    @access.mutation(
        needs=Needs.SERVICE,
        trail=Trail.RECORD,
        description="Say how a charged block run ended. What the rate card does not charge for such an outcome goes "
        "back into the grants it came from; of a task that has ended too.",
    )
    async def finish_block_run(self, info: Information, input: FinishInput) -> FinishBlockRunResult:
        checked(**{"input.taskId": input.task_id, "input.blockRunId": input.block_run_id})
        done = await finishing.finish_block_run(
            FinishRequest(
                task_id=input.task_id,
                block_run_id=input.block_run_id,
                outcome=input.outcome,
                actor=info.context.caller.actor,
                request_id=info.context.request_id,
                act=act_of(info),
            ),
            info.context.house.catalogue,
        )
        return FinishBlockRunSuccess(
            reversed=Credits(done.credits),
            entry=entry_of(done.entry) if done.entry else None,
            block_run=block_run_of(done.block_run),
            task=task_of(done.task, done.balance.owner_id),
            balance=balance_of(done.balance, info.context),
            replayed=done.replayed,
        )
