"""Mutations of accounts: grantCredits, revokeGrant and setLowBalanceThreshold."""

from datetime import datetime

import strawberry

from app.api.accounts.account import Account, to_account
from app.api.accounts.balance import Balance, to_balance
from app.api.accounts.grants import Grant, to_grant
from app.api.context import ResolverInfo, audit_context
from app.api.input_checks import check_input_ids
from app.api.objects import build_from
from app.api.owner_scope import require_writable_owner, writable_owners
from app.api.results import mutation
from app.api.scalars import Credits
from app.api.tasks.types import Entry, to_entry
from app.engine import declare, global_ids
from app.engine.permissions import AuditPolicy, Permission
from app.errors import BalanceLimitReached, GrantNotFound, IdempotencyConflict, InvalidInput
from app.ledger import grants, low_balance
from app.ledger.grants import GrantRequest
from app.ledger.rules.account_state import GrantSource


@strawberry.input(description="Credits to grant to an account.")
class GrantCreditsInput:
    owner_id: strawberry.ID = strawberry.field(description="The owner of the account.")
    credits: Credits = strawberry.field(description="The number of credits, at least 1.")
    source: GrantSource = strawberry.field(default=GrantSource.PROMOTIONAL, description="The source of the credits.")
    priority: int = strawberry.field(
        default=0, description="Grants with a lower priority are spent first; -1,000 to 1,000."
    )
    starts_at: datetime | None = strawberry.field(
        default=None, description="When to add the credits to the balance. Null means now."
    )
    expires_at: datetime | None = strawberry.field(
        default=None, description="When unspent credits expire, in the future. Null means never."
    )
    pays_debt: bool | None = strawberry.field(
        default=None,
        description="Whether the credits pay debt first. Null means yes, unless `source` is PROMOTIONAL.",
    )
    reason: str = strawberry.field(description="The reason, 1 to 1,000 characters. The entry shows it.")
    idempotency_key: str = strawberry.field(
        description="A repeated request with the same key returns the first result."
    )


@strawberry.input(description="The grant to revoke.")
class RevokeGrantInput:
    grant_id: strawberry.ID = strawberry.field(description="The `id` of the grant.")
    reason: str = strawberry.field(description="The reason, 1 to 1,000 characters. The entry shows it.")
    idempotency_key: str = strawberry.field(
        description="A repeated request with the same key returns the first result."
    )


@strawberry.input(description="The threshold of the status LOW.")
class SetLowBalanceThresholdInput:
    owner_id: strawberry.ID | None = strawberry.field(default=None, description="The owner. Null means the caller.")
    credits: Credits = strawberry.field(
        description="The balance has the status LOW if fewer credits are available. 0 means never."
    )
    idempotency_key: str = strawberry.field(
        description="A repeated request with the same key returns the first result."
    )


@declare.type(description="The credits are granted.", needs=Permission.INHERITED)
class GrantCreditsSuccess:
    grant: Grant = declare.value(description="The grant.")
    entry: Entry | None = declare.value(
        description="The entry that adds the credits to the balance; null until the grant starts."
    )
    balance: Balance = declare.value(description="The balance after the request.")
    replayed: bool = declare.value(description="Whether an earlier request with this key has made the grant.")


@declare.type(description="The unspent part of the grant is revoked.", needs=Permission.INHERITED)
class RevokeGrantSuccess:
    grant: Grant = declare.value(description="The grant.")
    entry: Entry | None = declare.value(
        description="The entry that takes the credits; null if there were none to take."
    )
    balance: Balance = declare.value(description="The balance after the request.")
    revoked: Credits = declare.value(description="The number of credits revoked.")
    replayed: bool = declare.value(description="Whether an earlier request with this key has revoked it.")


@declare.type(description="The threshold is set.", needs=Permission.INHERITED)
class SetLowBalanceThresholdSuccess:
    account: Account = declare.value(description="The account.")
    balance: Balance = declare.value(description="The balance, with its status by the new threshold.")
    replayed: bool = declare.value(description="Whether an earlier request with this key has set it.")


@strawberry.type(description="Mutations of accounts.")
class AccountMutations:
    @mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Grant credits to an account. The account is created if it does not exist.",
        errors=(InvalidInput, IdempotencyConflict, BalanceLimitReached),
    )
    async def grant_credits(self, info: ResolverInfo, input: GrantCreditsInput) -> GrantCreditsSuccess:
        check_input_ids(input, "owner_id")
        done = await grants.grant_credits(
            build_from(
                GrantRequest,
                input,
                key=input.idempotency_key,
                actor=info.context.authenticated_caller.actor,
                request_id=info.context.request_id,
                audit=audit_context(info),
            )
        )
        return GrantCreditsSuccess(
            grant=to_grant(done.balance.account_id, done.grant),
            entry=to_entry(done.entry) if done.entry else None,
            balance=to_balance(done.balance, info.context),
            replayed=done.replayed,
        )

    @mutation(
        needs=Permission.OPERATOR,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Revoke the part of a grant that is neither spent nor held.",
        errors=(InvalidInput, GrantNotFound, IdempotencyConflict),
    )
    async def revoke_grant(self, info: ResolverInfo, input: RevokeGrantInput) -> RevokeGrantSuccess:
        parts = global_ids.decode_id(input.grant_id, "Grant")
        if parts is None:
            raise GrantNotFound(grant_id=input.grant_id)
        account_id, number = parts
        done = await grants.revoke_grant(
            account_id,
            number,
            reason=input.reason,
            key=input.idempotency_key,
            actor=info.context.authenticated_caller.actor,
            request_id=info.context.request_id,
            audit=audit_context(info),
        )
        return RevokeGrantSuccess(
            grant=to_grant(account_id, done.grant),
            entry=to_entry(done.entry) if done.entry else None,
            balance=to_balance(done.balance, info.context),
            revoked=Credits(done.revoked_credits),
            replayed=done.replayed,
        )

    @mutation(
        needs=Permission.AUTHENTICATED,
        audit=AuditPolicy.SERVICES_AND_OPERATORS,
        description="Set the threshold below which the balance has the status LOW. Each time the balance falls below "
        "it, the owner is notified; setting the threshold itself notifies nobody.",
        errors=(InvalidInput, IdempotencyConflict),
    )
    async def set_low_balance_threshold(
        self, info: ResolverInfo, input: SetLowBalanceThresholdInput
    ) -> SetLowBalanceThresholdSuccess:
        done = await low_balance.set_low_balance_threshold(
            require_writable_owner(info.context, input.owner_id),
            input.credits,
            key=input.idempotency_key,
            actor=info.context.authenticated_caller.actor,
            owner_ids=writable_owners(info.context.authenticated_caller),
            audit=audit_context(info),
        )
        return SetLowBalanceThresholdSuccess(
            account=to_account(done.balance),
            balance=to_balance(done.balance, info.context),
            replayed=done.replayed,
        )
