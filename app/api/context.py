"""The state that all requests of a process share, and the data that resolvers read from their `info`."""

from dataclasses import dataclass
from typing import Any

from strawberry.types.info import Info

from app.audit_log.records import AuditContext
from app.auth.caller import Caller, CallerKind
from app.db.group_commit import BatchedReads
from app.engine.context import RequestContext
from app.ledger.rules.account_state import AccountBalance
from app.live.change_feed import ChangeFeed
from app.live.latest_state import LatestStates
from app.outgoing_webhooks.secret_box import SecretBox
from app.pricing.rate_card_cache import RateCardCache
from app.settings import Settings
from app.tasks.charging import ChargeQueue
from app.topups.provider import PaymentProvider


@dataclass(frozen=True, slots=True, kw_only=True)
class AppState:
    """The state of the process that all requests share."""

    settings: Settings
    change_feed: ChangeFeed
    rate_cards: RateCardCache
    charge_queue: ChargeQueue
    balance_reader: BatchedReads[int, AccountBalance]
    """Reads balances for many requests in one statement."""
    latest_balances: LatestStates[Any]
    """The newest `Balance` of each account with subscribers; the type is Any because `Balance` imports this module."""
    payment_provider: PaymentProvider | None
    """If it is None, credits are not sold, only granted."""
    webhook_secrets: SecretBox
    """Encrypts the secrets of webhook endpoints."""


Context = RequestContext[AppState]
"""For annotations only. To create a context, call `RequestContext` itself: a call through the alias is slower."""

ResolverInfo = Info[Context, None]
"""The type of a resolver's `info`."""


def audit_context(info: ResolverInfo) -> AuditContext | None:
    """Return the data of this mutation for the audit log.

    Returns None for a user, because changes to one's own account are not recorded.
    """
    caller = info.context.authenticated_caller
    return None if caller.kind is CallerKind.USER else _audit_context(caller, info)


def operator_audit_context(info: ResolverInfo) -> AuditContext | None:
    """Like `audit_context`, but return None for a service as well.

    It is used by mutations whose entry, hold or block run names the service. For an operator, `key_id` is the key that
    signed the token.
    """
    caller = info.context.authenticated_caller
    return _audit_context(caller, info) if caller.kind is CallerKind.OPERATOR else None


def _audit_context(caller: Caller, info: ResolverInfo) -> AuditContext:
    return AuditContext(
        action=info.field_name,
        actor=caller.actor,
        key_id=caller.key_id,
        scope=", ".join(sorted(caller.scopes)) or "none",
        request_id=info.context.request_id,
    )
