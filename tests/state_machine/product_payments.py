"""Payments of the product: top-ups paid in the sandbox, and the provider's events about refunds and disputes."""

from dataclasses import dataclass
from typing import Any

from app.errors import Unavailable
from app.ledger import queries
from app.ledger.rules.account_state import AccountBalance
from app.topups import purchases
from app.topups import queries as top_up_queries
from app.topups.provider import Dispute, DisputeStatus, ProviderEvent, Refund, RefundOrder, RefundStatus
from app.topups.purchases import TopUpRequest
from app.topups.refunds import requests as refunds
from app.topups.refunds import rows as refund_rows
from app.topups.refunds.requests import RefundRequest
from app.topups.rules import Payment, PaymentStatus, Reference, TopUpRow, TopUpTerms
from app.topups.sandbox.provider import Sandbox
from app.topups.settlement import settle
from tests.factories import unique_id
from tests.state_machine import requests
from tests.state_machine.values import Answer

TERMS = TopUpTerms(minimum_credits=1, maximum_credits=1_000, multiple_credits=1, currency="USD", minor_per_credit=1)
SECRET = b"a secret of the sandbox in tests, long enough"


@dataclass(frozen=True, slots=True)
class ScriptedSandbox(Sandbox):
    """A sandbox that answers every refund with one status; PENDING: the answer does not arrive."""

    says: RefundStatus = RefundStatus.DONE

    async def create_refund(self, order: RefundOrder) -> Refund:
        if self.says is RefundStatus.PENDING:
            raise Unavailable("The connection was lost.")
        return a_refund(order.payment_ref, order.reference, order.amount_minor, self.says)


@dataclass(frozen=True, slots=True)
class PaymentResult:
    """The result of a payment request."""

    facts: Answer
    balance: AccountBalance
    replayed: bool
    replayable: Any = None


class ProductPayments:
    """The top-ups and refunds of one owner, by idempotency key."""

    def __init__(self, owner_id: str) -> None:
        self._owner_id = owner_id
        self._top_ups: dict[str, TopUpRow] = {}
        self._refunds: dict[str, tuple[str, str]] = {}

    async def carry_out(self, request: requests.Request, *, actor: str, reason: str) -> PaymentResult:
        match request:
            case requests.Buy():
                return await self._buy(request, actor)
            case requests.Refund():
                return await self._refund(request, actor, reason)
            case requests.RefundEvent():
                return await self._refund_event(request)
            case requests.DisputeEvent():
                return await self._dispute_event(request)
            case _:
                raise TypeError(f"not about money: {request!r}")

    async def _buy(self, request: requests.Buy, actor: str) -> PaymentResult:
        sandbox = Sandbox("http://credits.example", SECRET)
        asked = TopUpRequest(owner_id=self._owner_id, credits=request.credits, key=request.key, actor=actor)
        begun = await purchases.begin_top_up(asked, sandbox, TERMS)
        top_up = begun.top_up
        payment = Payment(
            provider="sandbox", provider_ref=str(top_up.provider_ref), payment_ref=top_up.provider_ref,
            reference=top_up.reference, status=PaymentStatus.PAID, amount_minor=top_up.amount_minor, currency="USD",
        )  # fmt: skip
        await settle(ProviderEvent(event_id=unique_id("sandbox:evt"), object=payment, body={}))
        found = await top_up_queries.find_top_up(top_up.account_id, top_up.id)
        assert found is not None
        self._top_ups[request.key] = found
        facts = {"bought": found.credits}
        return PaymentResult(facts, await _balance(found), begun.replayed, replayable=found.id)

    async def _refund(self, request: requests.Refund, actor: str, reason: str) -> PaymentResult:
        top_up = self._top_ups[request.top_up]
        asked = RefundRequest(
            account_id=top_up.account_id, top_up_id=top_up.id, credits=request.credits, reason=reason, key=request.key,
            actor=actor,
        )  # fmt: skip
        says = ScriptedSandbox("http://credits.example", SECRET, says=RefundStatus(request.answer))
        done = await refunds.request_refund(asked, says)
        row = done.refund
        self._refunds[request.key] = request.top_up, row.id
        facts = {"refund": row.status, "credits": row.credits, "debt": row.debt_credits}
        return PaymentResult(facts, done.balance, done.replayed, replayable=(row.id, row.credits, row.debt_credits))

    async def _refund_event(self, request: requests.RefundEvent) -> PaymentResult:
        key, name = self._refunds[request.refund]
        top_up = self._top_ups[key]
        reference = Reference(top_up.account_id, name)
        row = await refund_rows.find_refund(reference)
        assert row is not None
        event_object = a_refund(str(top_up.payment_ref), str(reference), row.amount_minor, RefundStatus(request.state))
        return await self._report(top_up, event_object)

    async def _dispute_event(self, request: requests.DisputeEvent) -> PaymentResult:
        top_up = self._top_ups[request.top_up]
        amount = -(-top_up.amount_minor // 2) if request.half else top_up.amount_minor
        event_object = Dispute(
            provider="sandbox", live=False, dispute_ref=f"dp_{top_up.id}", payment_ref=str(top_up.payment_ref),
            status=DisputeStatus(request.state), amount_minor=amount, currency="USD",
        )  # fmt: skip
        return await self._report(top_up, event_object)

    async def _report(self, top_up: TopUpRow, event_object: Refund | Dispute) -> PaymentResult:
        outcome = await settle(ProviderEvent(event_id=unique_id("sandbox:evt"), object=event_object, body={}))
        return PaymentResult({"outcome": outcome.value}, await _balance(top_up), replayed=False)


def a_refund(payment_ref: str, reference: str, amount_minor: int, state: RefundStatus) -> Refund:
    """The provider's state of one of our refunds."""
    return Refund(
        provider="sandbox", live=False, refund_ref=f"re_{reference}", payment_ref=payment_ref, reference=reference,
        status=state, amount_minor=amount_minor, currency="USD",
    )  # fmt: skip


async def _balance(top_up: TopUpRow) -> AccountBalance:
    return (await queries.get_balances([top_up.account_id]))[top_up.account_id]
