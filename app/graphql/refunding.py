"""Refunds of top-ups: the operator's."""

from datetime import datetime
from typing import Annotated

import strawberry

from app.errors import TopUpNotFound
from app.graphql import access
from app.graphql.access import Needs
from app.graphql.balances import Balance, balance_of
from app.graphql.context import Information
from app.graphql.enums import shown
from app.graphql.errors import (
    BalanceLimitReachedError,
    IdempotencyConflictError,
    InvalidInputError,
    RefundExceedsTopUpError,
    TopUpNotFoundError,
    TopUpNotPaidError,
)
from app.graphql.scalars import Credits, Long
from app.graphql.topups import TopUp, provider_of, top_up_of, visible_top_up
from app.topups.giving_back import refunds
from app.topups.giving_back.refunds import RefundRequest
from app.topups.giving_back.shares import RefundRow
from app.topups.provider import RefundState

shown(
    RefundState,
    name="RefundStatus",
    description="Where a refund stands. Its credits are gone in all but FAILED.",
    values={
        RefundState.PENDING: "The provider has not said yet that the money went back.",
        RefundState.DONE: "The money went back; or none did, because spent bonus was worth as much.",
        RefundState.FAILED: "The provider refused: the credits are back.",
    },
)


@access.type(description="Credits of a top-up that go back for money.", needs=Needs.REACHED)
class TopUpRefund:
    credits: Credits = access.value(description="Bought credits that were taken back.")
    debt: Credits = access.value(description="Of these, what had been spent or is held: it became debt.")
    bonus: Credits = access.value(description="Bonus credits that were taken back with them.")
    amount_minor: Long = access.value(description="The money that goes back, in minor units of the top-up's currency.")
    reduced_minor: Long = access.value(description="By how much spent bonus has reduced the money.")
    status: RefundState = access.value(description="Where it stands.")
    reason: str = access.value(description="Why.")
    created_at: datetime = access.value(description="When it was asked for.")
    decided_at: datetime | None = access.value(description="When the provider decided it.")


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
            ),
            provider_of(info.context),
        )
        return RefundTopUpSuccess(
            top_up=top_up_of(done.top_up),
            refund=_refund_of(done.refund),
            balance=balance_of(done.balance, info.context),
            replayed=done.replayed,
        )


def _refund_of(row: RefundRow) -> TopUpRefund:
    return TopUpRefund(
        credits=Credits(row.credits),
        debt=Credits(row.debt_credits),
        bonus=Credits(row.bonus_credits),
        amount_minor=Long(row.amount_minor),
        reduced_minor=Long(row.reduced_minor),
        status=row.state,
        reason=row.reason,
        created_at=row.created_at,
        decided_at=row.decided_at,
    )
