"""Refunding a top-up: `refund` asks the provider, `reconcile` asks about what became of refunds without an answer.

The refund's row is written, and its credits have left, before the provider is called: outside any transaction, once,
under a reference of ours. An answer that does not come leaves the refund PENDING; whether the call arrived is found out
by its reference, and only a provider that knows nothing of it is called again.
"""

import logging
from dataclasses import dataclass
from typing import Final

from app.audit_log.records import AuditContext
from app.credits import check_amount, check_key
from app.errors import InvalidInput, TopUpNotFound, TopUpNotPaid, Unavailable
from app.ledger import idempotency, posting, queries
from app.ledger.grants import reason_problems
from app.ledger.posting import Posting
from app.ledger.rules.account_state import AccountBalance
from app.topups import provider_events, rows
from app.topups.provider import PaymentProvider, Refund, RefundOrder, RefundStatus
from app.topups.refunds import locked_top_up, refund_effects
from app.topups.refunds import rows as refund_rows
from app.topups.refunds.amounts import RefundRow
from app.topups.rules import UNPAID_STATUSES, Reference, TopUpRow
from app.topups.settlement import settle

UNKNOWN_AFTER_SECONDS: Final = 600
"""How long a refund may be without an outcome before the provider is asked about it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """What an operator asks for. `credits` None: all that can still go back."""

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
    """A refund and its top-up after the call. `replayed`: the same call had made it before."""

    top_up: TopUpRow
    refund: RefundRow
    balance: AccountBalance
    replayed: bool


async def request_refund(request: RefundRequest, provider: PaymentProvider) -> RefundResult:
    """Take back credits of a top-up, and give the money back for them.

    Raises: InvalidInput, IdempotencyConflict, TopUpNotFound, TopUpNotPaid, RefundExceedsTopUp; BalanceLimitReached, of
    the debt; Unavailable: it was paid through another provider than the one that is set up here.
    """
    request.check()
    print_ = request.request_hash()

    async def decide(posting: Posting) -> tuple[TopUpRow, RefundRow, bool]:
        case = await locked_top_up.load_locked_top_up(posting, posting.rows) if posting.accounts else None
        if case is None:
            raise TopUpNotFound(top_up_id=request.top_up_id)
        if (first := await idempotency.find_result(posting, case.book, request.key, print_)) is not None:
            return case.top_up, case.refunds[first["refund"]], True
        _check(case.top_up, provider)
        before = case.book.balance().audit_fields() | {
            "status": case.top_up.status,
            "refunded": case.top_up.refunded_credits,
        }
        made = refund_effects.begin_refund(case, request.credits, reason=request.reason, actor=request.actor)
        case.write_changes(posting)
        result = {"topUp": case.top_up.id, "refund": made.id}
        idempotency.save_result(posting, case.book, request.key, kind="refundTopUp", request_hash=print_, result=result)
        after = case.book.balance().audit_fields() | {
            "status": case.top_up.status,
            "refunded": case.top_up.refunded_credits,
        }
        after |= {"refund": made.id, "credits": made.credits, "amountMinor": made.amount_minor}
        subject = f"top-up {case.top_up.id}"
        posting.record_audit(
            request.audit, case.book, subject=subject, reason=request.reason, before=before, after=after
        )
        return case.top_up, made, False

    reference = Reference(request.account_id, request.top_up_id)
    top_up, made, replayed = await posting.post(
        [request.account_id], decide, reads=locked_top_up.select_locked_top_up(reference)
    )
    if made.status is RefundStatus.PENDING and not replayed:
        try:
            await _order(top_up, made, provider)
        except Unavailable as fault:
            log.warning("the outcome of refund %s is unknown, and will be asked for: %s", made.id, fault)
    return RefundResult(
        top_up=await rows.find(*reference) or top_up,
        refund=await refund_rows.find_refund(Reference(made.account_id, made.id)) or made,
        balance=(await queries.get_balances([request.account_id]))[request.account_id],
        replayed=replayed,
    )


async def reconcile_refunds(
    provider: PaymentProvider, *, after_seconds: int = UNKNOWN_AFTER_SECONDS, limit: int = 100
) -> int:
    """Ask the provider about refunds that have been PENDING for so long, `limit` at most. Returns: how many.

    One that it knows nothing of never arrived, and is ordered again under the same reference.
    """
    waiting = await refund_rows.claim_unknown(after_seconds=after_seconds, limit=limit)
    for reference in waiting:
        try:
            await _ask(reference, provider)
        except Exception:
            # The others have not failed; this one's turn comes again.
            log.exception("the outcome of refund %s could not be found out", reference)
    return len(waiting)


def _check(top_up: TopUpRow, provider: PaymentProvider) -> None:
    if top_up.status in UNPAID_STATUSES:
        raise TopUpNotPaid(status=top_up.status)
    if (top_up.provider, top_up.live) != (provider.name, provider.live) or top_up.payment_ref is None:
        raise Unavailable(f"This top-up was not paid through the provider that is set up here ({provider.name}).")


async def _ask(reference: Reference, provider: PaymentProvider) -> None:
    refund = await refund_rows.find_refund(reference)
    top_up = await rows.find(reference.account_id, refund.top_up_id) if refund is not None else None
    if refund is None or top_up is None or top_up.payment_ref is None or refund.status is not RefundStatus.PENDING:
        return
    if (top_up.provider, top_up.live) != (provider.name, provider.live):
        log.error("refund %s waits for provider %s, which is not set up here", refund.id, top_up.provider)
        return
    found = await provider.find_refund(str(reference), top_up.payment_ref)
    if found is None:
        await _order(top_up, refund, provider)
    else:
        await _learn(found)


async def _order(top_up: TopUpRow, refund: RefundRow, provider: PaymentProvider) -> None:
    if top_up.payment_ref is None:
        raise ValueError(f"top-up {top_up.id} has no payment to give back")
    order = RefundOrder(
        reference=str(Reference(refund.account_id, refund.id)),
        payment_ref=top_up.payment_ref,
        amount_minor=refund.amount_minor,
        currency=top_up.currency,
    )
    await _learn(await provider.create_refund(order))


async def _learn(answer: Refund) -> None:
    """Settle an answer as if a notice had brought it."""
    await settle(provider_events.refund_query_event(answer))
