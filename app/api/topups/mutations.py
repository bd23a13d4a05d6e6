"""Refunds of top-ups: the operator's."""

from typing import Annotated

import strawberry

from app.api.accounts.balance import Balance, to_balance
from app.api.audit_context import audit_context
from app.api.context import ResolverInfo
from app.api.error_types import (
    BalanceLimitReachedError,
    IdempotencyConflictError,
    InvalidInputError,
    RefundExceedsTopUpError,
    TopUpNotFoundError,
    TopUpNotPaidError,
)
from app.api.scalars import Credits
from app.api.topups.refunds import TopUpRefund, to_refund
from app.api.topups.types import TopUp, find_top_up, require_payment_provider, to_top_up
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.errors import TopUpNotFound
from app.topups.refunds import requests
from app.topups.refunds.requests import RefundRequest


@strawberry.input(description="A top-up to give back, in part or whole.")
class RefundTopUpInput:
    top_up_id: strawberry.ID = strawberry.field(description="The top-up's `id`.")
    credits: Credits | None = strawberry.field(
        default=None, description="How many credits, from 1; null: all that can still go back."
    )
    reason: str = strawberry.field(description="Why, in 1 to 1,000 characters: it stands in the entries.")
    idempotency_key: str = strawberry.field(description="The same key and request again gives the first result.")


@declare.type(
    description="The credits have left the account, and the provider was told to give the money back.",
    needs=Permission.INHERITED,
)
class RefundTopUpSuccess:
    top_up: TopUp = declare.value(description="The top-up.")
    refund: TopUpRefund = declare.value(description="The refund; FAILED where the provider refused at once.")
    balance: Balance = declare.value(description="The balance now.")
    replayed: bool = declare.value(description="Whether the same request had made it before.")


RefundTopUpResult = Annotated[
    RefundTopUpSuccess
    | InvalidInputError
    | TopUpNotFoundError
    | TopUpNotPaidError
    | RefundExceedsTopUpError
    | IdempotencyConflictError
    | BalanceLimitReachedError,
    strawberry.union("RefundTopUpResult", description="Refunded, or why not."),
]

RefundInput = Annotated[RefundTopUpInput, strawberry.argument(description="Which top-up, how much, and why.")]


@strawberry.type(description="What an operator does to top-ups.")
class RefundMutations:
    @declare.mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Give a top-up back: its credits leave now, those that were spent become debt, its bonus goes with "
        "them, and spent bonus reduces the money. They return if the provider refuses.",
    )
    async def refund_top_up(self, info: ResolverInfo, input: RefundInput) -> RefundTopUpResult:
        state = await find_top_up(info.context, input.top_up_id)
        if state is None:
            raise TopUpNotFound(top_up_id=input.top_up_id)
        done = await requests.request_refund(
            RefundRequest(
                account_id=state.account_id,
                top_up_id=state.id,
                credits=input.credits,
                reason=input.reason,
                key=input.idempotency_key,
                actor=info.context.authenticated_caller.actor,
                audit=audit_context(info),
            ),
            require_payment_provider(info.context),
        )
        return RefundTopUpSuccess(
            top_up=to_top_up(done.top_up),
            refund=to_refund(done.refund),
            balance=to_balance(done.balance, info.context),
            replayed=done.replayed,
        )
