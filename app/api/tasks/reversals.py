"""The mutations finishBlockRun, reverseCharge and reverseTask, which return credits of charges."""

import strawberry

from app.api.accounts.balance import Balance, to_balance
from app.api.context import ResolverInfo, audit_context
from app.api.input_checks import check_input_ids
from app.api.objects import build_from
from app.api.results import mutation
from app.api.scalars import Credits
from app.api.tasks.types import BlockRun, Entry, Task, to_block_run, to_entry, to_task
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.errors import (
    BalanceLimitReached,
    BlockRunNotFound,
    IdempotencyConflict,
    InvalidInput,
    ReversalExceedsCharge,
    TaskNotFound,
)
from app.pricing.outcomes import BlockRunOutcome
from app.tasks import block_run_outcomes, reversals
from app.tasks.block_run_outcomes import FinishBlockRunRequest


@strawberry.input(description="The block run that has finished and its outcome.")
class FinishBlockRunInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(description="The platform's id of the block run.")
    outcome: BlockRunOutcome = strawberry.field(description="The outcome.")


@strawberry.input(description="The charge to reverse, in part or whole.")
class ReverseChargeInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(description="The platform's id of the block run.")
    credits: Credits | None = strawberry.field(
        default=None, description="The number of credits, at least 1. Null means all that are not reversed yet."
    )
    reason: str = strawberry.field(description="The reason, 1 to 1,000 characters. The entry shows it.")
    idempotency_key: str = strawberry.field(
        description="A repeated request with the same key returns the first result."
    )


@strawberry.input(description="The task whose charges are all reversed.")
class ReverseTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    reason: str = strawberry.field(description="The reason, 1 to 1,000 characters. The entries show it.")
    idempotency_key: str = strawberry.field(
        description="A repeated request with the same key returns the first result."
    )


@declare.type(description="The outcome is recorded.", needs=Permission.INHERITED)
class FinishBlockRunSuccess:
    reversed: Credits = declare.value(description="The credits returned because of the outcome; 0 if none.")
    entry: Entry | None = declare.value(description="The entry that returns them; null if there are none.")
    block_run: BlockRun = declare.value(description="The block run.")
    task: Task = declare.value(description="The task, with its cost after the request.")
    balance: Balance = declare.value(description="The balance after the request.")
    replayed: bool = declare.value(description="Whether the same outcome was already recorded.")


@declare.type(description="The charge is reversed.", needs=Permission.INHERITED)
class ReverseChargeSuccess:
    reversed: Credits = declare.value(description="The credits returned.")
    entry: Entry = declare.value(description="The entry of the reversal.")
    block_run: BlockRun = declare.value(description="The block run.")
    task: Task = declare.value(description="The task, with its cost after the request.")
    balance: Balance = declare.value(description="The balance after the request.")
    replayed: bool = declare.value(description="Whether an earlier request with this key has reversed it.")


@declare.type(description="All charges of the task are reversed.", needs=Permission.INHERITED)
class ReverseTaskSuccess:
    reversed: Credits = declare.value(description="The credits returned; 0 if all were reversed before.")
    entry_count: int = declare.value(description="The number of entries: one for each block run with credits returned.")
    task: Task = declare.value(description="The task, with its cost after the request.")
    balance: Balance = declare.value(description="The balance after the request.")
    replayed: bool = declare.value(description="Whether an earlier request with this key has reversed it.")


@strawberry.type(description="Mutations that reverse charges.")
class ReversalMutations:
    @mutation(
        needs=Permission.SERVICE,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Report the outcome of a charged block run. If the rate card charges less for this outcome, the "
        "rest is returned to the grants that paid. This is also accepted after the task has ended.",
        errors=(TaskNotFound, BlockRunNotFound, IdempotencyConflict, BalanceLimitReached),
    )
    async def finish_block_run(self, info: ResolverInfo, input: FinishBlockRunInput) -> FinishBlockRunSuccess:
        check_input_ids(input, "task_id", "block_run_id")
        done = await block_run_outcomes.finish_block_run(
            build_from(
                FinishBlockRunRequest,
                input,
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

    @mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Reverse a charge, in part or whole. The credits return to the grants that paid.",
        errors=(
            InvalidInput,
            TaskNotFound,
            BlockRunNotFound,
            ReversalExceedsCharge,
            IdempotencyConflict,
            BalanceLimitReached,
        ),
    )
    async def reverse_charge(self, info: ResolverInfo, input: ReverseChargeInput) -> ReverseChargeSuccess:
        check_input_ids(input, "task_id", "block_run_id")
        done = await reversals.reverse_charge(
            input.task_id,
            input.block_run_id,
            credits=input.credits,
            reason=input.reason,
            idempotency_key=input.idempotency_key,
            actor=info.context.authenticated_caller.actor,
            request_id=info.context.request_id,
            audit=audit_context(info),
        )
        return ReverseChargeSuccess(
            reversed=Credits(done.credits),
            entry=to_entry(done.entry),
            block_run=to_block_run(done.block_run),
            task=to_task(done.task, done.balance.owner_id),
            balance=to_balance(done.balance, info.context),
            replayed=done.replayed,
        )

    @mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Reverse all charges that a task has now. Nested tasks are not included. A large task is reversed "
        "in several transactions: if the request ends without an answer, send it again with the same key, and it "
        "continues. The result is that of the whole.",
        errors=(InvalidInput, TaskNotFound, IdempotencyConflict, BalanceLimitReached),
    )
    async def reverse_task(self, info: ResolverInfo, input: ReverseTaskInput) -> ReverseTaskSuccess:
        check_input_ids(input, "task_id")
        done = await reversals.reverse_task(
            input.task_id,
            reason=input.reason,
            idempotency_key=input.idempotency_key,
            actor=info.context.authenticated_caller.actor,
            request_id=info.context.request_id,
            audit=audit_context(info),
        )
        return ReverseTaskSuccess(
            reversed=Credits(done.credits),
            entry_count=done.entries,
            task=to_task(done.task, done.balance.owner_id),
            balance=to_balance(done.balance, info.context),
            replayed=done.replayed,
        )
