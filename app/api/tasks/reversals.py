"""The mutation that says how a block run ended."""

from typing import Annotated

import strawberry

from app.api.accounts.balance import Balance, to_balance
from app.api.audit_context import audit_context
from app.api.context import ResolverInfo
from app.api.error_types import (
    BalanceLimitReachedError,
    BlockRunNotFoundError,
    IdempotencyConflictError,
    TaskNotFoundError,
)
from app.api.input_checks import check_ids
from app.api.scalars import Credits
from app.api.tasks.block_runs import BlockRun, to_block_run
from app.api.tasks.entries import Entry, to_entry
from app.api.tasks.types import Task, to_task
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.pricing.outcomes import BlockRunOutcome
from app.tasks import block_run_outcomes
from app.tasks.block_run_outcomes import FinishBlockRunRequest


@strawberry.input(description="A block run that is over, said once.")
class FinishBlockRunInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(description="The platform's id of the block run.")
    outcome: BlockRunOutcome = strawberry.field(description="How it ended.")


@declare.type(description="It is recorded how the block run ended.", needs=Permission.INHERITED)
class FinishBlockRunSuccess:
    reversed: Credits = declare.value(description="What its outcome does not cost, given back by this; 0 for nothing.")
    entry: Entry | None = declare.value(description="The line that gives it back; null where it was nothing.")
    block_run: BlockRun = declare.value(description="The block run.")
    task: Task = declare.value(description="The task, with its cost now.")
    balance: Balance = declare.value(description="The balance now.")
    replayed: bool = declare.value(description="Whether the same had been said before: nothing has moved now.")


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
class ReversalMutations:
    @declare.mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Say how a charged block run ended. What the rate card does not charge for such an outcome goes "
        "back into the grants it came from; of a task that has ended too.",
    )
    async def finish_block_run(self, info: ResolverInfo, input: FinishInput) -> FinishBlockRunResult:
        check_ids(**{"input.taskId": input.task_id, "input.blockRunId": input.block_run_id})
        done = await block_run_outcomes.finish_block_run(
            FinishBlockRunRequest(
                task_id=input.task_id,
                block_run_id=input.block_run_id,
                outcome=input.outcome,
                actor=info.context.authenticated_caller.actor,
                request_id=info.context.request_id,
                audit=audit_context(info),
            ),
            info.context.state.rate_cards,
        )
        return FinishBlockRunSuccess(
            reversed=Credits(done.credits),
            entry=to_entry(done.entry) if done.entry else None,
            block_run=to_block_run(done.block_run),
            task=to_task(done.task, done.balance.owner_id),
            balance=to_balance(done.balance, info.context),
            replayed=done.replayed,
        )
