"""Auto top-up: how it stands, and switching it on and off."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, TypeAlias

import strawberry

from app.api.accounts.balance import Balance, account_node_id, load_auto_top_up, to_balance
from app.api.audit_context import audit_context
from app.api.context import ResolverInfo
from app.api.error_types import IdempotencyConflictError, InvalidInputError
from app.api.input_checks import check_ids
from app.api.owner_scope import check_can_change, resolve_owner, writable_owners
from app.api.scalars import Credits
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.engine.schema import describe_enum
from app.errors import Forbidden, Unavailable
from app.topups.auto_topup import purchasing
from app.topups.auto_topup.purchasing import AutoTopUpView, ConfigureRequest
from app.topups.auto_topup.rules import (
    MAX_COUNT_PER_DAY,
    MAX_COUNT_PER_MONTH,
    AutoTopUpConfig,
    AutoTopUpState,
    SkipReason,
)
from app.topups.rules import TopUpTerms

if TYPE_CHECKING:
    from app.api.accounts.types import Account

LazyAccount: TypeAlias = Annotated["Account", strawberry.lazy("app.api.accounts.types")]

describe_enum(
    SkipReason,
    name="AutoTopUpBlockedReason",
    description="Why auto top-up buys nothing now.",
    values={
        SkipReason.DISABLED: "It is switched off.",
        SkipReason.ABOVE_THRESHOLD: "Enough is available.",
        SkipReason.NO_CARD: "No card is saved.",
        SkipReason.OPEN_INTENT: "A purchase is under way; or nobody knows yet what became of it, and it is asked for.",
        SkipReason.ACTION_REQUIRED: "A purchase waits for the owner to confirm it at the bank: see actionUrl.",
        SkipReason.IN_DEBT: "The account owes: a person pays by hand first.",
        SkipReason.DISPUTED: "A payment is disputed.",
        SkipReason.DECLINED_TOO_OFTEN: "Declined three times: until another card is saved, or a person pays by hand.",
        SkipReason.BACKING_OFF: "The last payment was declined: the next is tried later.",
        SkipReason.PROVIDER_UNAVAILABLE: "The payment provider could not be reached: the next is tried later.",
        SkipReason.COOLDOWN: "The last purchase is less than a minute ago.",
        SkipReason.DAY_COUNT: "It has bought as often today (UTC) as it may.",
        SkipReason.MONTH_COUNT: "It has bought as often this month (UTC) as it may.",
        SkipReason.DAY_CAP: "One more purchase would be more than it may buy today (UTC).",
        SkipReason.MONTH_CAP: "One more purchase would be more than it may buy this month (UTC).",
    },
)


@declare.type(description="Buying credits by itself when few are left.", needs=Permission.INHERITED)
class AutoTopUp:
    enabled: bool = declare.value(description="Whether it is switched on.")
    threshold: Credits | None = declare.value(description="It buys when less than this is available.")
    amount: Credits | None = declare.value(description="How many credits it buys at a time; null: see target.")
    target: Credits | None = declare.value(description="It buys what is missing to this; null: see amount.")
    max_per_day: Credits | None = declare.value(description="Credits that it buys in a day (UTC) at most.")
    max_per_month: Credits | None = declare.value(description="Credits that it buys in a calendar month (UTC) at most.")
    max_count_per_day: int = declare.value(description="How often it buys in a day (UTC) at most.")
    max_count_per_month: int = declare.value(description="How often it buys in a calendar month (UTC) at most.")
    consent_version: str | None = declare.value(description="The version of the text that its owner has agreed to.")
    consent_at: datetime | None = declare.value(description="When its owner agreed.")
    state: AutoTopUpState = declare.value(description="How it stands.")
    blocked_reason: SkipReason | None = declare.value(
        description="Why it buys nothing now; null where it would, or where enough is available."
    )
    next_eligible_at: datetime | None = declare.value(
        description="When time alone ends that; null: never, or something else has to happen."
    )
    action_url: str | None = declare.value(description="Where the owner confirms a payment; null: there is none to.")
    spent_this_month: Credits = declare.value(
        description="Credits bought by itself in this calendar month (UTC), with those that may yet turn out bought."
    )


@strawberry.input(description="How credits are to be bought by themselves, or that they are not.")
class SetAutoTopUpInput:
    enabled: bool = strawberry.field(description="On or off. Off needs nothing else: the rest is not looked at.")
    threshold: Credits | None = strawberry.field(default=None, description="Buy when less than this is available.")
    amount: Credits | None = strawberry.field(default=None, description="Credits at a time; or give target.")
    target: Credits | None = strawberry.field(default=None, description="Buy what is missing to this; or give amount.")
    max_per_day: Credits | None = strawberry.field(default=None, description="Credits in a day (UTC) at most.")
    max_per_month: Credits | None = strawberry.field(default=None, description="Credits in a month (UTC) at most.")
    max_count_per_day: int | None = strawberry.field(
        default=None,
        description=f"Purchases in a day (UTC) at most: 1 to {MAX_COUNT_PER_DAY}, and that where it is null.",
    )
    max_count_per_month: int | None = strawberry.field(
        default=None,
        description=f"Purchases in a month (UTC) at most: 1 to {MAX_COUNT_PER_MONTH}, and that where it is null.",
    )
    consent_version: str | None = strawberry.field(
        default=None, description="The version of the text that the owner has just agreed to: needed for on."
    )
    owner_id: strawberry.ID | None = strawberry.field(
        default=None, description="Whose account; null: one's own. Another's can be switched off, and never on."
    )
    idempotency_key: str | None = strawberry.field(
        default=None, description="The same key and request again changes nothing more."
    )


@declare.type(description="It is set.", needs=Permission.INHERITED)
class SetAutoTopUpSuccess:
    account: LazyAccount = declare.value(description="The account.")
    auto_top_up: AutoTopUp = declare.value(description="How it stands now.")
    balance: Balance = declare.value(description="The balance.")
    replayed: bool = declare.value(description="Whether the same request had set it before.")


SetAutoTopUpResult = Annotated[
    SetAutoTopUpSuccess | InvalidInputError | IdempotencyConflictError,
    strawberry.union("SetAutoTopUpResult", description="Set, or why not."),
]
Set = Annotated[SetAutoTopUpInput, strawberry.argument(description="How it is to be.")]


@strawberry.type(description="Letting an account buy credits by itself.")
class AutoTopUpMutations:
    @declare.mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Switch auto top-up on for one's own account, with caps and consent, or off. It buys within them "
        "with the saved card whenever too little is left.",
    )
    async def set_auto_top_up(self, info: ResolverInfo, input: Set) -> SetAutoTopUpResult:
        from app.api.accounts.types import Account  # noqa: PLC0415  accounts show auto top-up

        context = info.context
        owner = _owner_to_change(info, input)
        request = ConfigureRequest(
            owner_id=owner,
            config=_wishes(input),
            consent_version=input.consent_version,
            key=input.idempotency_key,
            actor=context.authenticated_caller.actor,
            owner_ids=[context.authenticated_caller.owner_id or ""]
            if input.enabled
            else writable_owners(context.authenticated_caller),
            audit=audit_context(info),
        )
        done = await purchasing.configure(request, TopUpTerms.from_settings(context.state.settings))
        return SetAutoTopUpSuccess(
            account=Account(id=account_node_id(owner), owner_id=strawberry.ID(owner), figures=done.balance),
            auto_top_up=to_auto_top_up(await load_auto_top_up(done.balance.account_id, context)),
            balance=to_balance(done.balance, context),
            replayed=done.replayed,
        )


def to_auto_top_up(view: AutoTopUpView) -> AutoTopUp:
    """Auto top-up as GraphQL shows it."""
    wishes = view.config
    return AutoTopUp(
        enabled=wishes.enabled,
        threshold=_credits(wishes.threshold),
        amount=_credits(wishes.amount),
        target=_credits(wishes.target),
        max_per_day=_credits(wishes.max_per_day),
        max_per_month=_credits(wishes.max_per_month),
        max_count_per_day=wishes.max_count_per_day or MAX_COUNT_PER_DAY,
        max_count_per_month=wishes.max_count_per_month or MAX_COUNT_PER_MONTH,
        consent_version=view.consent_version,
        consent_at=view.consent_at,
        state=view.state,
        blocked_reason=view.reason,
        next_eligible_at=view.next_eligible_at,
        action_url=view.action_url,
        spent_this_month=Credits(view.spent_this_month),
    )


def _owner_to_change(info: ResolverInfo, input: SetAutoTopUpInput) -> str:
    """The owner whose account is to be changed. Raises: Forbidden, BadRequest; Unavailable: nothing is sold here."""
    check_ids(**{"input.ownerId": input.owner_id})
    owner = resolve_owner(info.context, input.owner_id)
    if owner is None:
        raise Forbidden("You may not look at that owner's account.")
    check_can_change(info.context, owner, f"The account of {owner!r}")
    if input.enabled and info.context.authenticated_caller.owner_id != owner:
        raise Forbidden("Only its owner may agree that an account buys credits by itself.")
    if input.enabled and info.context.state.payment_provider is None:
        raise Unavailable("Credits are not sold here: the operator grants them.")
    return owner


def _wishes(input: SetAutoTopUpInput) -> AutoTopUpConfig:
    return AutoTopUpConfig(
        enabled=input.enabled,
        threshold=input.threshold,
        amount=input.amount,
        target=input.target,
        max_per_day=input.max_per_day,
        max_per_month=input.max_per_month,
        max_count_per_day=input.max_count_per_day,
        max_count_per_month=input.max_count_per_month,
    )


def _credits(credits: int | None) -> Credits | None:
    return None if credits is None else Credits(credits)
