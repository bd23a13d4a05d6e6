"""Disputes that an operator decides, because the provider reports an unknown status, or reports no decision."""

from dataclasses import dataclass, replace
from typing import Final

from app.audit_log.records import AuditContext
from app.credits import check_key
from app.errors import InvalidInput
from app.ledger import posting
from app.ledger.grants import reason_problems
from app.ledger.posting import Posting
from app.topups import inbox, queries
from app.topups.provider import Dispute, DisputeStatus, InvalidProviderEvent, PaymentProvider, ProviderEvent
from app.topups.provider_events import EventNotApplied, EventOutcome, parse_stored_event
from app.topups.refunds import dispute_effects
from app.topups.refunds import rows as refund_rows
from app.topups.refunds.amounts import DisputeRow
from app.topups.refunds.locked_top_up import load_locked_top_up, select_locked_top_up
from app.topups.rules import Reference

_MOST_PARKED: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeDecision:
    """An operator's decision. `status` is WON (the credits become available) or LOST (they are taken back)."""

    dispute_ref: str
    status: DisputeStatus
    reason: str
    audit: AuditContext


async def decide_dispute(decision: DisputeDecision, provider: PaymentProvider) -> EventOutcome:
    """Apply the decision like a report of the provider, and mark the parked events of the dispute as handled.

    The amount is that of the newest parked event. Without one, it is the amount of the stored dispute. A later report
    of the provider replaces the decision.
    Raises: InvalidInput: there is no such dispute, or its payment is not known.
    """
    check_key(decision.dispute_ref, path="dispute")
    if problems := reason_problems(decision.reason):
        raise InvalidInput(problems=problems)
    events = await _find_parked_events(decision.dispute_ref, provider)
    known = await refund_rows.find_dispute(decision.dispute_ref)
    reference = await _find_top_up(known, events)
    top_up = await queries.find_top_up(*reference) if reference is not None else None
    if reference is None or top_up is None:
        raise InvalidInput.at(
            "dispute", f"{decision.dispute_ref} is not known: see `python -m app provider-events disputes`"
        )
    amount_minor = events[0][1].amount_minor if events else known.amount_minor if known is not None else 0
    reported = Dispute(
        provider=top_up.provider,
        live=top_up.live,
        dispute_ref=decision.dispute_ref,
        payment_ref=top_up.payment_ref or "",
        status=decision.status,
        amount_minor=amount_minor,
        currency=top_up.currency,
    )

    async def decide(posting: Posting) -> EventOutcome:
        locked = await load_locked_top_up(posting, posting.rows)
        if locked is None:
            raise InvalidInput.at("dispute", "belongs to a top-up that does not exist")
        before = locked.account.balance().audit_fields()
        try:
            outcome = dispute_effects.apply_dispute_event(locked, replace(reported, reported_at=locked.account.at))
        except EventNotApplied as error:
            raise InvalidInput.at("dispute", error.reason) from error
        if locked.changed_ids:
            locked.write_changes(posting)
        for event, _ in events:
            inbox.mark_handled(posting, event, outcome)
        posting.record_audit(
            decision.audit,
            locked.account,
            subject=f"dispute {decision.dispute_ref}",
            reason=decision.reason,
            before=before,
            after=locked.account.balance().audit_fields() | {"status": decision.status},
        )
        return outcome

    return await posting.post([reference.account_id], decide, reads=select_locked_top_up(reference))


async def _find_parked_events(dispute_ref: str, provider: PaymentProvider) -> list[tuple[ProviderEvent, Dispute]]:
    """Return the parked events of a dispute, the latest first."""
    found = []
    for stored in await inbox.find_parked_bodies(provider.name, limit=_MOST_PARKED):
        try:
            event = parse_stored_event(provider, stored.body)
        except InvalidProviderEvent:
            continue
        if event is not None and isinstance(event.object, Dispute) and event.object.dispute_ref == dispute_ref:
            found.append((event, event.object))
    return found


async def _find_top_up(known: DisputeRow | None, events: list[tuple[ProviderEvent, Dispute]]) -> Reference | None:
    if known is not None:
        return Reference(known.account_id, known.top_up_id)
    return await queries.find_by_payment(events[0][1].payment_ref) if events else None
