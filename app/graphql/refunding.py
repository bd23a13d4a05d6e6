"""Refunds of top-ups: the operator's."""

from typing import Annotated

import strawberry

from app.errors import TopUpNotFound
from app.graphql import access
from app.graphql.access import Needs, Trail
from app.graphql.acts import act_of
from app.graphql.balances import Balance, balance_of
from app.graphql.context import Information
from app.graphql.errors import (
    BalanceLimitReachedError,
    IdempotencyConflictError,
    InvalidInputError,
    RefundExceedsTopUpError,
    TopUpNotFoundError,
    TopUpNotPaidError,
)
from app.graphql.giving_back import TopUpRefund, refund_of
from app.graphql.scalars import Credits
from app.graphql.topups import TopUp, provider_of, top_up_of, visible_top_up
from app.topups.giving_back import refunds
from app.topups.giving_back.refunds import RefundRequest


@strawberry.input(description="A top-up to give back, in part or whole.")
class RefundTopUpInput:
    top_up_id: strawberry.ID = strawberry.field(description="The top-up's `id`.")
    credits: Credits | None = strawberry.field(
        default=None, description="How many credits, from 1; null: all that can still go back."
    )
    reason: str = strawberry.field(description="Why, in 1 to 1,000 characters: it stands in the entries.")
    idempotency_key: str = strawberry.field(description="The same key and request again gives the first result.")


@access.type(
    description="The credits have left the account, and the provider was told to give the money back.",
    needs=Needs.REACHED,
)
class RefundTopUpSuccess:
    top_up: TopUp = access.value(description="The top-up.")
    refund: TopUpRefund = access.value(description="The refund; FAILED where the provider refused at once.")
    balance: Balance = access.value(description="The balance now.")
    replayed: bool = access.value(description="Whether the same request had made it before.")


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
class RefundingMutations:
    @access.mutation(
        needs=Needs.OPERATOR,
        trail=Trail.RECORD,
        description="Give a top-up back: its credits leave now, those that were spent become debt, its bonus goes with "
        "them, and spent bonus reduces the money. They return if the provider refuses.",
    )
    async def refund_top_up(self, info: Information, input: RefundInput) -> RefundTopUpResult:
        state = await visible_top_up(info.context, input.top_up_id)
        if state is None:
            raise TopUpNotFound(top_up_id=input.top_up_id)
        done = await refunds.refund(
            RefundRequest(
                account_id=state.account_id,
                top_up_id=state.id,
                credits=input.credits,
                reason=input.reason,
                key=input.idempotency_key,
                actor=info.context.caller.actor,
                act=act_of(info),
            ),
            provider_of(info.context),
        )
        return RefundTopUpSuccess(
            top_up=top_up_of(done.top_up),
            refund=refund_of(done.refund),
            balance=balance_of(done.balance, info.context),
            replayed=done.replayed,
        )
