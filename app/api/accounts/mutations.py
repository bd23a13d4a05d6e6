"""The operator's mutations: grants and their revocation, reversals of charges."""

from datetime import datetime
from typing import Annotated

import strawberry

from app.api.accounts.balance import Balance, to_balance
from app.api.audit_context import audit_context
from app.api.context import ResolverInfo
from app.api.error_types import (
    BalanceLimitReachedError,
    BlockRunNotFoundError,
    GrantNotFoundError,
    IdempotencyConflictError,
    InvalidInputError,
    ReversalExceedsChargeError,
    TaskNotFoundError,
)
from app.api.input_checks import check_ids
from app.api.scalars import Credits
from app.api.tasks.block_runs import BlockRun, to_block_run
from app.api.tasks.entries import Entry, Grant, to_entry, to_grant
from app.api.tasks.types import Task, to_task
from app.engine import declare, global_ids
from app.engine.permissions import AuditPolicy, Permission
from app.errors import GrantNotFound
from app.ledger import grants
from app.ledger.grants import GrantRequest
from app.ledger.rules.account_state import GrantSource
from app.tasks import reversals


@strawberry.input(description="Credits to give. They only add, and never touch a card.")
class GrantCreditsInput:
    owner_id: strawberry.ID = strawberry.field(description="Whose account.")
    credits: Credits = strawberry.field(description="How many, from 1.")
    source: GrantSource = strawberry.field(default=GrantSource.PROMOTIONAL, description="Where they come from.")
    priority: int = strawberry.field(default=0, description="Lower burns first, from -1,000 to 1,000.")
    starts_at: datetime | None = strawberry.field(default=None, description="When they are posted; null: at once.")
    expires_at: datetime | None = strawberry.field(
        default=None, description="When what is unspent leaves; null: never. It must lie ahead."
    )
    pays_debt: bool | None = strawberry.field(
        default=None, description="Whether debt is paid of them first; null: unless they are PROMOTIONAL."
    )
    reason: str = strawberry.field(description="Why, in 1 to 1,000 characters: it stands in the entry.")
    idempotency_key: str = strawberry.field(description="The same key and request again gives the first result.")


@strawberry.input(description="A grant to take back, as far as it is unspent and unclaimed.")
class RevokeGrantInput:
    grant_id: strawberry.ID = strawberry.field(description="The grant's `id`.")
    reason: str = strawberry.field(description="Why, in 1 to 1,000 characters.")
    idempotency_key: str = strawberry.field(description="The same key and request again gives the first result.")


@strawberry.input(description="A charge to give back, in part or whole.")
class ReverseChargeInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    block_run_id: strawberry.ID = strawberry.field(description="The platform's id of the block run.")
    credits: Credits | None = strawberry.field(default=None, description="How many, from 1; null: all that is left.")
    reason: str = strawberry.field(description="Why, in 1 to 1,000 characters: it stands in the entry.")
    idempotency_key: str = strawberry.field(description="The same key and request again gives the first result.")


@strawberry.input(description="A task whose whole cost is to be given back.")
class ReverseTaskInput:
    task_id: strawberry.ID = strawberry.field(description="The platform's id of the task.")
    reason: str = strawberry.field(description="Why, in 1 to 1,000 characters: it stands in the entries.")
    idempotency_key: str = strawberry.field(description="The same key and request again gives the first result.")


@declare.type(description="The credits are granted.", needs=Permission.INHERITED)
class GrantCreditsSuccess:
    grant: Grant = declare.value(description="The grant.")
    entry: Entry | None = declare.value(description="Its entry; null until it starts.")
    balance: Balance = declare.value(description="The balance now.")
    replayed: bool = declare.value(description="Whether the same request had made it before.")


@declare.type(description="What was unspent of the grant is taken back.", needs=Permission.INHERITED)
class RevokeGrantSuccess:
    grant: Grant = declare.value(description="The grant.")
    entry: Entry | None = declare.value(description="What was taken back; null where nothing was left.")
    balance: Balance = declare.value(description="The balance now.")
    revoked: Credits = declare.value(description="How much was taken back.")
    replayed: bool = declare.value(description="Whether the same request had done it before.")


@declare.type(description="The charge is given back.", needs=Permission.INHERITED)
class ReverseChargeSuccess:
    reversed: Credits = declare.value(description="How much was given back by this request.")
    entry: Entry = declare.value(description="Its line in the account.")
    block_run: BlockRun = declare.value(description="The block run.")
    task: Task = declare.value(description="The task, with its cost now.")
    balance: Balance = declare.value(description="The balance now.")
    replayed: bool = declare.value(description="Whether the same request had done it before.")


@declare.type(description="All that the task still cost is given back.", needs=Permission.INHERITED)
class ReverseTaskSuccess:
    reversed: Credits = declare.value(description="How much was given back by this request; 0 where nothing was left.")
    entries: int = declare.value(description="In how many entries: one for each block run that still cost something.")
    task: Task = declare.value(description="The task, with its cost now.")
    balance: Balance = declare.value(description="The balance now.")
    replayed: bool = declare.value(description="Whether the same request had done it before.")


GrantCreditsResult = Annotated[
    GrantCreditsSuccess | InvalidInputError | IdempotencyConflictError | BalanceLimitReachedError,
    strawberry.union("GrantCreditsResult", description="Granted, or why not."),
]
RevokeGrantResult = Annotated[
    RevokeGrantSuccess | InvalidInputError | GrantNotFoundError | IdempotencyConflictError,
    strawberry.union("RevokeGrantResult", description="Taken back, or why not."),
]
ReverseChargeResult = Annotated[
    ReverseChargeSuccess
    | InvalidInputError
    | TaskNotFoundError
    | BlockRunNotFoundError
    | ReversalExceedsChargeError
    | IdempotencyConflictError
    | BalanceLimitReachedError,
    strawberry.union("ReverseChargeResult", description="Given back, or why not."),
]
ReverseTaskResult = Annotated[
    ReverseTaskSuccess | InvalidInputError | TaskNotFoundError | IdempotencyConflictError | BalanceLimitReachedError,
    strawberry.union("ReverseTaskResult", description="Given back, or why not."),
]

GrantInput = Annotated[GrantCreditsInput, strawberry.argument(description="What to give, to whom, and why.")]
RevokeInput = Annotated[RevokeGrantInput, strawberry.argument(description="Which grant, and why.")]
ReverseAllInput = Annotated[ReverseTaskInput, strawberry.argument(description="Which task, and why.")]
ReverseInput = Annotated[ReverseChargeInput, strawberry.argument(description="Which charge, how much, and why.")]


@strawberry.type(description="What an operator does to accounts.")
class AccountMutations:
    @declare.mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Give credits to an account, making it if need be.",
    )
    async def grant_credits(self, info: ResolverInfo, input: GrantInput) -> GrantCreditsResult:
        check_ids(**{"input.ownerId": input.owner_id})
        granted = await grants.grant_credits(
            GrantRequest(
                owner_id=input.owner_id,
                credits=input.credits,
                source=input.source,
                priority=input.priority,
                starts_at=input.starts_at,
                expires_at=input.expires_at,
                pays_debt=input.pays_debt,
                reason=input.reason,
                key=input.idempotency_key,
                actor=info.context.authenticated_caller.actor,
                request_id=info.context.request_id,
                audit=audit_context(info),
            )
        )
        return GrantCreditsSuccess(
            grant=to_grant(granted.balance.account_id, granted.grant),
            entry=to_entry(granted.entry) if granted.entry else None,
            balance=to_balance(granted.balance, info.context),
            replayed=granted.replayed,
        )

    @declare.mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Take back the unspent, unclaimed part of a grant.",
    )
    async def revoke_grant(self, info: ResolverInfo, input: RevokeInput) -> RevokeGrantResult:
        parts = global_ids.decode_id(input.grant_id, "Grant", int, int)
        if parts is None:
            raise GrantNotFound(grant_id=input.grant_id)
        account_id, number = int(parts[0]), int(parts[1])
        revoked = await grants.revoke_grant(
            account_id,
            number,
            reason=input.reason,
            key=input.idempotency_key,
            actor=info.context.authenticated_caller.actor,
            request_id=info.context.request_id,
            audit=audit_context(info),
        )
        return RevokeGrantSuccess(
            grant=to_grant(account_id, revoked.grant),
            entry=to_entry(revoked.entry) if revoked.entry else None,
            balance=to_balance(revoked.balance, info.context),
            revoked=Credits(revoked.revoked_credits),
            replayed=revoked.replayed,
        )

    @declare.mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Give back part or all of a charge, never more than it took, into the grants it came from.",
    )
    async def reverse_charge(self, info: ResolverInfo, input: ReverseInput) -> ReverseChargeResult:
        check_ids(**{"input.taskId": input.task_id, "input.blockRunId": input.block_run_id})
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

    @declare.mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Give back all that a task still costs, in one transaction. Tasks nested in it stand apart.",
    )
    async def reverse_task(self, info: ResolverInfo, input: ReverseAllInput) -> ReverseTaskResult:
        check_ids(**{"input.taskId": input.task_id})
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
            entries=done.entries,
            task=to_task(done.task, done.balance.owner_id),
            balance=to_balance(done.balance, info.context),
            replayed=done.replayed,
        )
