"""Top-ups: buying credits on the provider's page."""

from datetime import datetime
from typing import Annotated

import strawberry

from app.api.accounts.balance import Balance, to_balance
from app.api.audit_context import audit_context
from app.api.context import Context, ResolverInfo
from app.api.error_types import (
    BalanceLimitReachedError,
    IdempotencyConflictError,
    InvalidInputError,
    TopUpNotFoundError,
)
from app.api.owner_scope import readable_owners
from app.api.scalars import Credits
from app.api.topups.refunds import TopUpDispute, TopUpRefund, load_disputes, load_refunds
from app.engine import declare, global_ids
from app.engine.permissions import AuditPolicy, Permission
from app.engine.scalars import Long
from app.engine.schema import describe_enum
from app.errors import Forbidden, TopUpNotFound, Unavailable
from app.settings import server_url
from app.topups import owner_scope, purchases, receipts, rows
from app.topups.provider import PaymentProvider
from app.topups.purchases import TopUpRequest
from app.topups.refunds.rows import MAX_LISTED
from app.topups.rules import TopUpRow, TopUpStatus, TopUpTerms

describe_enum(
    TopUpStatus,
    name="TopUpStatus",
    description="Where a top-up stands.",
    values={
        TopUpStatus.PENDING: "Not paid yet.",
        TopUpStatus.PAID: "Paid, and its credits are in the account.",
        TopUpStatus.FAILED: "Declined.",
        TopUpStatus.EXPIRED: "Not paid in time.",
        TopUpStatus.REFUNDED: "The money went back.",
        TopUpStatus.DISPUTED: "The buyer disputes the payment.",
    },
)


@declare.type(description="Tax, as the provider reckons it.", needs=Permission.INHERITED)
class TaxLine:
    label: str = declare.value(description="What the provider calls it.")
    amount_minor: Long = declare.value(description="How much, in minor units of the receipt's currency.")
    inclusive: bool = declare.value(description="Whether the price has it in it; else it was paid on top.")


@declare.type(description="What a payment bought, for the buyer's books.", needs=Permission.INHERITED)
class Receipt:
    number: str = declare.value(description="The receipt's number.")
    credits_bought: Credits = declare.value(description="Credits paid for.")
    bonus: Credits = declare.value(description="Promotional credits that came with them.")
    amount_minor: Long = declare.value(description="The price, in minor units of the currency, without tax on top.")
    currency: str = declare.value(description="The currency, ISO 4217.")
    tax_lines: list[TaxLine] = declare.value(description="The taxes, as the provider told them.")
    total_minor: Long = declare.value(description="What was paid in all: the price, and the taxes on top of it.")
    paid_at: datetime = declare.value(description="When the payment was credited.")
    reference: str = declare.value(description="What the provider knows the payment by.")
    url: str = declare.value(description="A page to print. Whoever has this address can open it.")


@declare.type(description="A purchase of credits.", needs=Permission.INHERITED)
class TopUp(global_ids.Node):
    credits: Credits = declare.value(description="Credits bought.")
    amount_minor: Long = declare.value(description="The price, in minor units of the currency (cents).")
    currency: str = declare.value(description="The currency, ISO 4217.")
    status: TopUpStatus = declare.value(description="Where it stands.")
    payment_url: str | None = declare.value(description="Where to pay.")
    created_at: datetime = declare.value(description="When it was begun.")
    paid_at: datetime | None = declare.value(description="When its credits arrived.")
    refunded: Credits = declare.value(description="Credits that went back for money.")
    clawed_back: Credits = declare.value(description="Credits that lost disputes took back.")
    bonus: Credits = declare.value(description="Promotional credits that come with it when it is paid; they expire.")
    automatic: bool = declare.value(description="Whether the account bought it by itself: auto top-up.")
    state: strawberry.Private[TopUpRow]

    @declare.field(description="The receipt; null before it is paid.")
    def receipt(self, info: ResolverInfo) -> Receipt | None:
        return _receipt(self.state, info.context)

    @declare.field(description=f"Its refunds, newest first: the last {MAX_LISTED} where there are more.")
    async def refunds(self, info: ResolverInfo) -> list[TopUpRefund]:
        return await load_refunds(info.context, self.state)

    @declare.field(description=f"Its disputes, newest first: the last {MAX_LISTED} where there are more.")
    async def disputes(self, info: ResolverInfo) -> list[TopUpDispute]:
        return await load_disputes(info.context, self.state)


@strawberry.input(description="Credits to buy.")
class BeginTopUpInput:
    credits: Credits = strawberry.field(description="How many: at least 500, a multiple of 100 (the operator's terms).")
    currency: str | None = strawberry.field(default=None, description="ISO 4217; null: the one credits are sold in.")
    return_url: str | None = strawberry.field(
        default=None, description="Where the buyer returns to from the provider's page, http or https."
    )
    save_card: bool = strawberry.field(
        default=False,
        description="Whether the provider keeps the card, by the buyer's consent, for payments without the buyer.",
    )
    idempotency_key: str = strawberry.field(description="The same key and request again gives the same top-up.")


@strawberry.input(description="Where a buyer looks after cards and receipts.")
class OpenBillingPortalInput:
    return_url: str = strawberry.field(
        description="Where the buyer returns to from the provider's page, http or https."
    )


@strawberry.input(description="A top-up whose buyer has come back from the provider's page.")
class ConfirmTopUpInput:
    top_up_id: strawberry.ID = strawberry.field(description="The top-up's `id`.")


@declare.type(description="The top-up is begun: send the buyer to its paymentUrl.", needs=Permission.INHERITED)
class BeginTopUpSuccess:
    top_up: TopUp = declare.value(description="The top-up.")
    balance: Balance = declare.value(description="The balance; it moves when the top-up is paid.")
    replayed: bool = declare.value(description="Whether the same request had begun it before.")


@declare.type(description="Send the buyer to this page.", needs=Permission.INHERITED)
class OpenBillingPortalSuccess:
    url: str = declare.value(description="A page of the provider's, the buyer's own, for a few minutes.")


@declare.type(description="What the provider says of the top-up, and the balance with it.", needs=Permission.INHERITED)
class ConfirmTopUpSuccess:
    top_up: TopUp = declare.value(description="The top-up; PENDING where the provider does not know yet.")
    balance: Balance = declare.value(description="The balance now.")


BeginTopUpResult = Annotated[
    BeginTopUpSuccess | InvalidInputError | IdempotencyConflictError | BalanceLimitReachedError,
    strawberry.union("BeginTopUpResult", description="Begun, or why not."),
]
ConfirmTopUpResult = Annotated[
    ConfirmTopUpSuccess | TopUpNotFoundError | BalanceLimitReachedError,
    strawberry.union("ConfirmTopUpResult", description="Where it stands, or why that cannot be said."),
]

OpenBillingPortalResult = Annotated[
    OpenBillingPortalSuccess | InvalidInputError,
    strawberry.union("OpenBillingPortalResult", description="A page, or why not."),
]

TopUpId = Annotated[strawberry.ID, strawberry.argument(description="The top-up's `id`.")]
Begin = Annotated[BeginTopUpInput, strawberry.argument(description="How many credits.")]
Portal = Annotated[OpenBillingPortalInput, strawberry.argument(description="Where to return to.")]
Confirm = Annotated[ConfirmTopUpInput, strawberry.argument(description="Which top-up.")]


@strawberry.type(description="Reading top-ups.")
class TopUpQueries:
    @declare.query(needs=Permission.AUTHENTICATED, description="A top-up by its id; null where there is none for you.")
    async def top_up(self, info: ResolverInfo, id: TopUpId) -> TopUp | None:
        state = await find_top_up(info.context, id)
        return to_top_up(state) if state else None


@strawberry.type(description="Buying credits.")
class TopUpMutations:
    @declare.mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Begin to buy credits for one's own account.",
    )
    async def begin_top_up(self, info: ResolverInfo, input: Begin) -> BeginTopUpResult:
        viewer = info.context.authenticated_caller
        owner_id = _buyer(info.context)
        begun = await purchases.begin_top_up(
            TopUpRequest(
                owner_id=owner_id,
                credits=input.credits,
                currency=input.currency,
                return_url=input.return_url,
                save_card=input.save_card,
                key=input.idempotency_key,
                actor=viewer.actor,
                audit=audit_context(info),
            ),
            require_payment_provider(info.context),
            TopUpTerms.from_settings(info.context.state.settings),
        )
        return BeginTopUpSuccess(
            top_up=to_top_up(begun.top_up), balance=to_balance(begun.balance, info.context), replayed=begun.replayed
        )

    @declare.mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="For the return page: ask the provider and credit what is paid, should the page be there first.",
    )
    async def confirm_top_up(self, info: ResolverInfo, input: Confirm) -> ConfirmTopUpResult:
        state = await find_top_up(info.context, input.top_up_id)
        if state is None:
            raise TopUpNotFound(top_up_id=input.top_up_id)
        done = await purchases.confirm_top_up(
            state.account_id, state.id, require_payment_provider(info.context), audit=audit_context(info)
        )
        return ConfirmTopUpSuccess(top_up=to_top_up(done.top_up), balance=to_balance(done.balance, info.context))

    @declare.mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="A page of the provider's on which the caller looks after its own cards and receipts.",
    )
    async def open_billing_portal(self, info: ResolverInfo, input: Portal) -> OpenBillingPortalResult:
        owner_id = _buyer(info.context)
        url = await purchases.open_billing_portal(
            owner_id, require_payment_provider(info.context), input.return_url, audit=audit_context(info)
        )
        return OpenBillingPortalSuccess(url=url)


def _buyer(context: Context) -> str:
    """Raises: Forbidden: the caller has no account of its own."""
    if context.authenticated_caller.owner_id is None:
        raise Forbidden("Credits are bought by a user, for its own account.")
    return context.authenticated_caller.owner_id


def require_payment_provider(context: Context) -> PaymentProvider:
    """Whoever takes the money. Raises: Unavailable: there is none."""
    if (provider := context.state.payment_provider) is None:
        raise Unavailable("Credits are not sold here: the operator grants them.")
    return provider


def to_top_up(state: TopUpRow) -> TopUp:
    """A top-up as GraphQL shows it."""
    return TopUp(
        id=global_ids.encode_id("TopUp", state.account_id, state.id),
        credits=Credits(state.credits),
        amount_minor=Long(state.amount_minor),
        currency=state.currency,
        status=state.status,
        payment_url=state.payment_url,
        created_at=state.created_at,
        paid_at=state.paid_at,
        refunded=Credits(state.refunded_credits),
        clawed_back=Credits(state.clawed_back_credits),
        bonus=Credits(state.bonus_credits),
        automatic=state.automatic,
        state=state,
    )


def _receipt(state: TopUpRow, context: Context) -> Receipt | None:
    found = receipts.build_receipt(state)
    if found is None:
        return None
    chosen = context.state.settings
    server = (chosen.public_url or server_url(chosen)).rstrip("/")
    return Receipt(
        number=found.number,
        credits_bought=Credits(found.bought_credits),
        bonus=Credits(found.bonus_credits),
        amount_minor=Long(found.amount_minor),
        currency=found.currency,
        tax_lines=[
            TaxLine(label=line.label, amount_minor=Long(line.amount_minor), inclusive=line.inclusive)
            for line in found.tax_lines
        ],
        total_minor=Long(found.total_minor),
        paid_at=found.paid_at,
        reference=found.reference,
        url=f"{server}{receipts.PATH}/{found.token}",
    )


async def load_top_up(context: Context, account_id: int, top_up_id: str) -> TopUp | None:
    """A top-up by its key, batched with the others of this request."""
    state = await context.data_loader(_top_ups).load((account_id, top_up_id))
    return to_top_up(state) if state else None


@global_ids.node_fetcher("TopUp", int, str)
async def fetch_top_up(context: Context, account_id: int, top_up_id: str) -> TopUp | None:
    state = await owner_scope.find_top_up_in_scope(
        account_id, top_up_id, owner_ids=readable_owners(context.authenticated_caller)
    )
    return to_top_up(state) if state else None


async def find_top_up(context: Context, text: str) -> TopUpRow | None:
    """The top-up of an id, or None: there is none, or it is not for this viewer."""
    parts = global_ids.decode_id(text, "TopUp", int, str)
    if parts is None:
        return None
    return await owner_scope.find_top_up_in_scope(
        int(parts[0]), str(parts[1]), owner_ids=readable_owners(context.authenticated_caller)
    )


async def _top_ups(keys: list[tuple[int, str]]) -> list[TopUpRow | None]:
    found = await rows.find_many(keys)
    return [found.get(key) for key in keys]
