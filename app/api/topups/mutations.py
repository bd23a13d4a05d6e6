"""Mutations and the query for top-ups: buying credits, refunds, and the configuration of auto top-up."""

from typing import Annotated

import strawberry

from app.api.accounts.account import Account, to_account
from app.api.accounts.balance import Balance, load_auto_top_up, to_balance
from app.api.context import Context, ResolverInfo, audit_context
from app.api.objects import build_from
from app.api.owner_scope import require_writable_owner, writable_owners
from app.api.results import mutation
from app.api.scalars import Credits
from app.api.topups.auto_top_up import AutoTopUp, to_auto_top_up
from app.api.topups.types import TopUp, TopUpRefund, find_top_up, to_refund, to_top_up
from app.engine import declare
from app.engine.permissions import AuditPolicy, Permission
from app.errors import BalanceLimitReached, Forbidden, IdempotencyConflict, InvalidInput, Unavailable
from app.topups import purchases
from app.topups.auto_topup import configuration
from app.topups.auto_topup.configuration import ConfigureRequest
from app.topups.auto_topup.rules import MAX_COUNT_PER_DAY, MAX_COUNT_PER_MONTH, AutoTopUpConfig
from app.topups.errors import PaymentRefused, RefundExceedsTopUp, TopUpNotFound, TopUpNotPaid
from app.topups.provider import PaymentProvider
from app.topups.purchases import TopUpRequest
from app.topups.refunds import requests
from app.topups.refunds.requests import RefundRequest
from app.topups.rules import TopUpRow, TopUpTerms


@strawberry.input(description="The credits to buy.")
class BeginTopUpInput:
    credits: Credits = strawberry.field(
        description="The number of credits. By default it must be a multiple of 100 and at least 500; the operator can "
        "change this."
    )
    currency: str | None = strawberry.field(
        default=None, description="The currency, ISO 4217. Null means the currency in which credits are sold."
    )
    return_url: str | None = strawberry.field(
        default=None, description="Where the provider sends the buyer after the payment, an http or https URL."
    )
    save_card: bool = strawberry.field(
        default=False, description="Whether the provider saves the card for automatic payments, if the buyer consents."
    )
    idempotency_key: str = strawberry.field(description="A repeated request with the same key returns the same top-up.")


@strawberry.input(description="The top-up to confirm after the buyer has returned from the payment page.")
class ConfirmTopUpInput:
    top_up_id: strawberry.ID = strawberry.field(description="The `id` of the top-up.")


@strawberry.input(description="The billing portal to open.")
class OpenBillingPortalInput:
    return_url: str = strawberry.field(
        description="Where the provider sends the buyer afterwards, an http or https URL."
    )


@strawberry.input(description="The top-up to refund, in part or whole.")
class RefundTopUpInput:
    top_up_id: strawberry.ID = strawberry.field(description="The `id` of the top-up.")
    credits: Credits | None = strawberry.field(
        default=None, description="The number of credits, at least 1. Null means all that can still be refunded."
    )
    reason: str = strawberry.field(description="The reason, 1 to 1,000 characters. The entries show it.")
    idempotency_key: str = strawberry.field(
        description="A repeated request with the same key returns the first result."
    )


@strawberry.input(description="The configuration of auto top-up.")
class SetAutoTopUpInput:
    enabled: bool = strawberry.field(
        description="Whether to switch it on. If false, all other fields except `ownerId` are ignored."
    )
    threshold: Credits | None = strawberry.field(
        default=None, description="Credits are bought when fewer than these are available. Required to switch it on."
    )
    amount: Credits | None = strawberry.field(
        default=None, description="The credits of each purchase. Either this or `target` is required."
    )
    target: Credits | None = strawberry.field(
        default=None,
        description="Each purchase brings the available credits to at least this number, unless that needs "
        "more than the largest top-up.",
    )
    max_per_day: Credits | None = strawberry.field(
        default=None, description="The most credits to buy in a day (UTC). Null means no limit."
    )
    max_per_month: Credits | None = strawberry.field(
        default=None, description="The most credits to buy in a calendar month (UTC). Null means no limit."
    )
    max_count_per_day: int | None = strawberry.field(
        default=None,
        description=f"The most purchases in a day (UTC), 1 to {MAX_COUNT_PER_DAY}. Null means {MAX_COUNT_PER_DAY}.",
    )
    max_count_per_month: int | None = strawberry.field(
        default=None,
        description=f"The most purchases in a calendar month (UTC), 1 to {MAX_COUNT_PER_MONTH}. "
        f"Null means {MAX_COUNT_PER_MONTH}.",
    )
    consent_version: str | None = strawberry.field(
        default=None, description="The version of the text that the owner has agreed to. Required to switch it on."
    )
    owner_id: strawberry.ID | None = strawberry.field(
        default=None, description="The owner. Null means the caller. Only the owner can switch it on."
    )
    idempotency_key: str | None = strawberry.field(
        default=None, description="A repeated request with the same key returns the first result."
    )


@declare.type(description="The top-up is begun. Send the buyer to its `paymentUrl`.", needs=Permission.INHERITED)
class BeginTopUpSuccess:
    top_up: TopUp = declare.value(description="The top-up.")
    balance: Balance = declare.value(description="The balance. It changes when the top-up is paid.")
    replayed: bool = declare.value(description="Whether an earlier request with this key has begun it.")


@declare.type(description="The status of the top-up at the provider.", needs=Permission.INHERITED)
class ConfirmTopUpSuccess:
    top_up: TopUp = declare.value(description="The top-up. Its status is PENDING if the provider has no result yet.")
    balance: Balance = declare.value(description="The balance after the request.")


@declare.type(description="The billing portal. Send the buyer to `url`.", needs=Permission.INHERITED)
class OpenBillingPortalSuccess:
    url: str = declare.value(description="The buyer's page at the provider. It is valid for a few minutes.")


@declare.type(
    description="The credits are taken from the account. If money is left to refund, the provider was asked to refund "
    "it.",
    needs=Permission.INHERITED,
)
class RefundTopUpSuccess:
    top_up: TopUp = declare.value(description="The top-up.")
    refund: TopUpRefund = declare.value(
        description="The refund. Its status is FAILED if the provider has already refused it."
    )
    balance: Balance = declare.value(description="The balance after the request.")
    replayed: bool = declare.value(description="Whether an earlier request with this key has made the refund.")


@declare.type(description="Auto top-up is configured.", needs=Permission.INHERITED)
class SetAutoTopUpSuccess:
    account: Account = declare.value(description="The account.")
    auto_top_up: AutoTopUp = declare.value(description="The configuration and state of auto top-up.")
    balance: Balance = declare.value(description="The balance.")
    replayed: bool = declare.value(description="Whether an earlier request with this key has configured it.")


TopUpId = Annotated[strawberry.ID, strawberry.argument(description="The `id` of the top-up.")]


@strawberry.type(description="Queries for top-ups.")
class TopUpQueries:
    @declare.query(
        needs=Permission.AUTHENTICATED,
        description="A top-up. Null if it does not exist or the caller may not read it.",
    )
    async def top_up(self, info: ResolverInfo, id: TopUpId) -> TopUp | None:
        row = await find_top_up(info.context, id)
        return to_top_up(row) if row else None


@strawberry.type(description="Mutations of top-ups.")
class TopUpMutations:
    @mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Begin a purchase of credits for the caller's own account.",
        errors=(InvalidInput, IdempotencyConflict, BalanceLimitReached, PaymentRefused),
    )
    async def begin_top_up(self, info: ResolverInfo, input: BeginTopUpInput) -> BeginTopUpSuccess:
        owner_id = _buyer(info.context)
        done = await purchases.begin_top_up(
            build_from(
                TopUpRequest,
                input,
                owner_id=owner_id,
                key=input.idempotency_key,
                actor=info.context.authenticated_caller.actor,
                audit=audit_context(info),
            ),
            _payment_provider(info.context),
            TopUpTerms.from_settings(info.context.state.settings),
        )
        return BeginTopUpSuccess(
            top_up=to_top_up(done.top_up), balance=to_balance(done.balance, info.context), replayed=done.replayed
        )

    @mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Query the provider for the result of a payment, and add the credits if it was made. The page to "
        "which the buyer returns calls this, so that it need not wait for the provider's webhook.",
        errors=(TopUpNotFound, BalanceLimitReached),
    )
    async def confirm_top_up(self, info: ResolverInfo, input: ConfirmTopUpInput) -> ConfirmTopUpSuccess:
        row = await _require_top_up(info.context, input.top_up_id)
        provider = _payment_provider(info.context)
        done = await purchases.confirm_top_up(row.account_id, row.id, provider, audit=audit_context(info))
        return ConfirmTopUpSuccess(top_up=to_top_up(done.top_up), balance=to_balance(done.balance, info.context))

    @mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Open the provider's billing portal, where the caller manages its cards and receipts.",
        errors=(InvalidInput, PaymentRefused),
    )
    async def open_billing_portal(self, info: ResolverInfo, input: OpenBillingPortalInput) -> OpenBillingPortalSuccess:
        owner_id = _buyer(info.context)
        provider = _payment_provider(info.context)
        url = await purchases.open_billing_portal(owner_id, provider, input.return_url, audit=audit_context(info))
        return OpenBillingPortalSuccess(url=url)

    @mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Refund a top-up, in part or whole. Its credits are taken immediately; those already spent become "
        "debt. A proportional part of the bonus is taken too; spent bonus reduces the money refunded. If the provider "
        "refuses, the credits are returned.",
        errors=(
            InvalidInput,
            TopUpNotFound,
            TopUpNotPaid,
            RefundExceedsTopUp,
            IdempotencyConflict,
            BalanceLimitReached,
        ),
    )
    async def refund_top_up(self, info: ResolverInfo, input: RefundTopUpInput) -> RefundTopUpSuccess:
        row = await _require_top_up(info.context, input.top_up_id)
        done = await requests.request_refund(
            RefundRequest(
                account_id=row.account_id,
                top_up_id=row.id,
                credits=input.credits,
                reason=input.reason,
                key=input.idempotency_key,
                actor=info.context.authenticated_caller.actor,
                audit=audit_context(info),
            ),
            _payment_provider(info.context),
        )
        return RefundTopUpSuccess(
            top_up=to_top_up(done.top_up),
            refund=to_refund(done.refund),
            balance=to_balance(done.balance, info.context),
            replayed=done.replayed,
        )

    @mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Switch auto top-up on or off. When it is on, it buys credits with the saved card whenever "
        "fewer than the threshold are available, within the caps. If fewer are available now, it buys at once.",
        errors=(InvalidInput, IdempotencyConflict),
    )
    async def set_auto_top_up(self, info: ResolverInfo, input: SetAutoTopUpInput) -> SetAutoTopUpSuccess:
        context = info.context
        caller = context.authenticated_caller
        owner = _owner_to_configure(context, input)
        done = await configuration.configure(
            ConfigureRequest(
                owner_id=owner,
                config=build_from(AutoTopUpConfig, input),
                consent_version=input.consent_version,
                key=input.idempotency_key,
                actor=caller.actor,
                owner_ids=[caller.owner_id or ""] if input.enabled else writable_owners(caller),
                audit=audit_context(info),
            ),
            TopUpTerms.from_settings(context.state.settings),
        )
        if input.enabled:
            context.state.change_feed.report_account(done.balance.account_id)  # auto top-up checks it at once
        return SetAutoTopUpSuccess(
            account=to_account(done.balance),
            auto_top_up=to_auto_top_up(await load_auto_top_up(done.balance.account_id, context)),
            balance=to_balance(done.balance, context),
            replayed=done.replayed,
        )


def _buyer(context: Context) -> str:
    """Return the owner of the caller's own account. Raises: Forbidden: the caller has no account."""
    if context.authenticated_caller.owner_id is None:
        raise Forbidden("Only a user can buy credits, for its own account.")
    return context.authenticated_caller.owner_id


def _payment_provider(context: Context) -> PaymentProvider:
    """Raises: Unavailable: this installation sells no credits."""
    if (provider := context.state.payment_provider) is None:
        raise Unavailable("This installation does not sell credits. Ask its operator to grant some.")
    return provider


async def _require_top_up(context: Context, node_id: str) -> TopUpRow:
    row = await find_top_up(context, node_id)
    if row is None:
        raise TopUpNotFound(top_up_id=node_id)
    return row


def _owner_to_configure(context: Context, input: SetAutoTopUpInput) -> str:
    """Return the owner whose auto top-up is configured. Raises: Forbidden, BadRequest, Unavailable."""
    owner = require_writable_owner(context, input.owner_id)
    if input.enabled:
        if context.authenticated_caller.owner_id != owner:
            raise Forbidden("Only the owner of an account can switch auto top-up on.")
        _payment_provider(context)
    return owner
