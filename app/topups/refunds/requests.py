"""Refunds that an operator requests, and the reconciliation of refunds whose outcome is unknown.

The refund is written and its credits leave the account before the provider is called. The call is made once, outside
any transaction, with our reference. If the provider does not answer, the refund stays PENDING. Reconciliation then
queries the provider by the reference, and repeats the call only if the provider does not know the reference.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

from app.audit_log.records import AuditContext
from app.credits import check_amount, check_key
from app.db import failures
from app.errors import InvalidInput, Unavailable
from app.ledger import idempotency, posting
from app.ledger import queries as ledger_queries
from app.ledger.grants import reason_problems
from app.ledger.posting import Posting
from app.ledger.rules.account_state import AccountBalance
from app.topups import queries
from app.topups.errors import TopUpNotFound, TopUpNotPaid
from app.topups.provider import PaymentProvider, RefundOrder, RefundStatus
from app.topups.provider_events import refund_query_event
from app.topups.refunds import rows as refund_rows
from app.topups.refunds.amounts import RefundRow
from app.topups.refunds.locked_top_up import LockedTopUp, load_locked_top_up, select_locked_top_up
from app.topups.refunds.refund_effects import begin_refund
from app.topups.rules import UNPAID_STATUSES, Reference, TopUpRow
from app.topups.settlement import settle

UNKNOWN_AFTER_SECONDS: Final = 600
"""The provider is queried about a refund that has had no outcome for this time."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """An operator's request. If `credits` is None, all credits that can be refunded are refunded."""

    account_id: int
    top_up_id: str
    credits: int | None = None
    reason: str
    key: str
    actor: str
    audit: AuditContext | None = None

    def check(self) -> None:
        """Raises: InvalidInput."""
        check_key(self.key, path="idempotencyKey")
        if self.credits is not None:
            check_amount(self.credits)
        if problems := reason_problems(self.reason):
            raise InvalidInput(problems=problems)

    def request_hash(self) -> bytes:
        return idempotency.hash_request(
            "refundTopUp", {"topUp": self.top_up_id, "credits": self.credits, "reason": self.reason}
        )


@dataclass(frozen=True, slots=True)
class RefundResult:
    """A refund and its top-up after the call. `replayed` is True if an earlier call made the refund."""

    top_up: TopUpRow
    refund: RefundRow
    balance: AccountBalance
    replayed: bool


async def request_refund(request: RefundRequest, provider: PaymentProvider) -> RefundResult:
    """Take credits of a top-up back and return the money for them.

    Raises: InvalidInput, IdempotencyConflict, TopUpNotFound, TopUpNotPaid, RefundExceedsTopUp; BalanceLimitReached: the
    debt would be too high; Unavailable: the top-up was paid through another provider than the configured one.
    """
    request.check()
    request_hash = request.request_hash()

    async def decide(posting: Posting) -> tuple[TopUpRow, RefundRow, bool]:
        locked = await load_locked_top_up(posting, posting.rows) if posting.accounts else None
        if locked is None:
            raise TopUpNotFound(top_up_id=request.top_up_id)
        if (first := await idempotency.find_result(posting, locked.account, request.key, request_hash)) is not None:
            return locked.top_up, locked.refunds[first["refund"]], True
        _check_refundable(locked.top_up, provider)
        before = _audit_fields(locked)
        refund = begin_refund(locked, request.credits, reason=request.reason, actor=request.actor)
        locked.write_changes(posting)
        result = {"topUp": locked.top_up.id, "refund": refund.id}
        idempotency.save_result(
            posting, locked.account, request.key, kind="refundTopUp", request_hash=request_hash, result=result
        )
        after = {"refund": refund.id, "credits": refund.credits, "amountMinor": refund.amount_minor}
        posting.record_audit(
            request.audit,
            locked.account,
            subject=f"top-up {locked.top_up.id}",
            reason=request.reason,
            before=before,
            after=_audit_fields(locked) | after,
        )
        return locked.top_up, refund, False

    reference = Reference(request.account_id, request.top_up_id)
    top_up, refund, replayed = await posting.post([request.account_id], decide, reads=select_locked_top_up(reference))
    if refund.status is RefundStatus.PENDING and not replayed:
        try:
            await _send(top_up, refund, provider)
        except Unavailable as error:
            log.warning("the outcome of refund %s is unknown and will be queried: %s", refund.id, error)
    return RefundResult(
        top_up=await queries.find_top_up(*reference) or top_up,
        refund=await refund_rows.find_refund(Reference(refund.account_id, refund.id)) or refund,
        balance=(await ledger_queries.get_balances([request.account_id]))[request.account_id],
        replayed=replayed,
    )


async def reconcile_refunds(
    provider: PaymentProvider, *, after_seconds: int = UNKNOWN_AFTER_SECONDS, limit: int = 100
) -> int:
    """Query the provider about refunds that have been PENDING for `after_seconds`.

    If the provider does not know a refund, it never received the call. Then the call is repeated with the same
    reference.
    Returns: the number of refunds, at most `limit`.
    """
    claimed = await refund_rows.claim_unknown(after_seconds=after_seconds, limit=limit)
    for reference in claimed:
        try:
            await _query(reference, provider)
        except Exception as error:
            if failures.is_connection_failure(error):
                raise
            # Other refunds are not affected. This one is queried again later.
            failures.log_failure(log, error, "the outcome of refund %s could not be queried", reference)
    return len(claimed)


def _check_refundable(top_up: TopUpRow, provider: PaymentProvider) -> None:
    if top_up.status in UNPAID_STATUSES:
        raise TopUpNotPaid(status=top_up.status)
    if (top_up.provider, top_up.live) != (provider.name, provider.live) or top_up.payment_ref is None:
        raise Unavailable(f"This top-up was not paid through the configured provider ({provider.name}).")


def _audit_fields(locked: LockedTopUp) -> dict[str, Any]:
    figures = locked.account.balance().audit_fields()
    return figures | {"status": locked.top_up.status, "refunded": locked.top_up.refunded_credits}


async def _query(reference: Reference, provider: PaymentProvider) -> None:
    refund = await refund_rows.find_refund(reference)
    top_up = await queries.find_top_up(reference.account_id, refund.top_up_id) if refund is not None else None
    if refund is None or top_up is None or top_up.payment_ref is None or refund.status is not RefundStatus.PENDING:
        return
    if (top_up.provider, top_up.live) != (provider.name, provider.live):
        log.error("refund %s belongs to provider %s, which is not configured", refund.id, top_up.provider)
        return
    found = await provider.find_refund(str(reference), top_up.payment_ref)
    if found is None:
        await _send(top_up, refund, provider)
    else:
        await settle(refund_query_event(found))


async def _send(top_up: TopUpRow, refund: RefundRow, provider: PaymentProvider) -> None:
    """Call the provider and settle its answer."""
    if top_up.payment_ref is None:
        raise ValueError(f"top-up {top_up.id} has no payment to refund")
    order = RefundOrder(
        reference=str(Reference(refund.account_id, refund.id)),
        payment_ref=top_up.payment_ref,
        amount_minor=refund.amount_minor,
        currency=top_up.currency,
    )
    await settle(refund_query_event(await provider.create_refund(order)))
