"""The product behind the interface of the model: takes requests, returns the same facts."""

import dataclasses
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from app.errors import BillingError, InsufficientCredits, InvalidInput
from app.ledger import grants
from app.ledger.grants import GrantRequest, GrantResult
from app.ledger.rules.account_state import AccountBalance, GrantSource
from app.pricing.measurements import Measurements
from app.pricing.outcomes import BlockRunOutcome
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import block_run_outcomes, charging, holds, lifecycle, reversals, stop_and_resume
from app.tasks.block_run_outcomes import FinishBlockRunRequest, FinishedBlockRun
from app.tasks.charging import Charge
from app.tasks.holds import CaptureHoldRequest, HoldResult, OverHold, PlaceHoldRequest
from app.tasks.lifecycle import StartTaskRequest, TaskChange
from app.tasks.reversals import Reversal, TaskReversal
from app.tasks.rules import ChargeRequest, TaskStatus, TaskTrigger
from app.tasks.stop_and_resume import ResumeTaskRequest
from tests.state_machine import requests
from tests.state_machine.product_payments import PaymentResult, ProductPayments
from tests.state_machine.values import Answer

ACTOR = "service:machine"
REASON = "for a test"

Result = (
    Charge
    | HoldResult
    | TaskChange
    | GrantResult
    | Reversal
    | TaskReversal
    | FinishedBlockRun
    | PaymentResult
    | BillingError
)

WORDS_OF_REFUSALS = {"balance", "reason", "rate_card_version", "problems"}
"""Fields of errors that are not compared."""


class Product:
    """The use cases of the product, for one owner."""

    def __init__(self, owner_id: str, rate_cards: RateCardCache) -> None:
        self.owner_id = owner_id
        self.account_id = 0
        self._catalogue = rate_cards
        self._till = ProductPayments(owner_id)

    async def carry_out(self, request: requests.Request) -> Sequence[Result]:
        """One result, or one per item of a list of charges."""
        if isinstance(request, requests.ChargeList | requests.Charge):
            items = request.items if isinstance(request, requests.ChargeList) else [request]
            charges = [(self.account_id, _charge(item)) for item in items]
            return await charging.charge_many(charges, self._catalogue)
        try:
            result = await self._one(request)
        except BillingError as refusal:
            return [refusal]
        if isinstance(result, GrantResult):
            self.account_id = result.balance.account_id
        return [result]

    async def _one(self, request: requests.Request) -> Result:  # noqa: PLR0911  one return for each kind of request
        match request:
            case requests.Start():
                return await lifecycle.start_task(self._start(request))
            case requests.Resume():
                return await stop_and_resume.resume_task(
                    ResumeTaskRequest(
                        task_id=request.task, add_budget=request.add_budget, idempotency_key=request.key, actor=ACTOR
                    )
                )
            case requests.End(status="CANCELLED"):
                return await lifecycle.cancel_task(request.task)
            case requests.End():
                return await lifecycle.finish_task(request.task, TaskStatus(request.status))
            case requests.Place():
                return await holds.place_hold(_place(request), self._catalogue)
            case requests.Capture():
                return await holds.capture_hold(_capture(request))
            case requests.Void():
                return await holds.void_hold(request.task, request.run)
            case _:
                return await self._given(request)

    async def _given(self, request: requests.Request) -> Result:
        """Grants, revocations and reversals."""
        match request:
            case requests.AddGrant():
                return await grants.grant_credits(self._give(request))
            case requests.Revoke():
                return await grants.revoke_grant(
                    self.account_id, request.number, reason=REASON, key=request.key, actor=ACTOR
                )
            case requests.ReverseCharge():
                return await reversals.reverse_charge(
                    request.task,
                    request.run,
                    credits=request.credits,
                    reason=REASON,
                    idempotency_key=request.key,
                    actor=ACTOR,
                )
            case requests.ReverseTask():
                return await reversals.reverse_task(
                    request.task, reason=REASON, idempotency_key=request.key, actor=ACTOR
                )
            case requests.Finish():
                asked = FinishBlockRunRequest(
                    task_id=request.task,
                    block_run_id=request.run,
                    outcome=BlockRunOutcome(request.outcome),
                    actor=ACTOR,
                )
                return await block_run_outcomes.finish_block_run(asked, self._catalogue)
            case _:
                return await self._till.carry_out(request, actor=ACTOR, reason=REASON)

    def _start(self, request: requests.Start) -> StartTaskRequest:
        return StartTaskRequest(
            task_id=request.task,
            owner_id=self.owner_id,
            agent_id="agent",
            trigger=TaskTrigger.SCHEDULED if request.scheduled else TaskTrigger.MANUAL,
            parent_task_id=request.parent,
            budget=request.budget,
            budget_timeout_seconds=request.timeout_seconds,
            closing_reserve=request.reserve,
            actor=ACTOR,
        )

    def _give(self, request: requests.AddGrant) -> GrantRequest:
        return GrantRequest(
            owner_id=self.owner_id,
            credits=request.credits,
            source=GrantSource(request.source),
            priority=request.priority,
            starts_at=request.starts_at,
            expires_at=request.expires_at,
            pays_debt=request.pays_debt,
            reason=REASON,
            key=request.key,
            actor=ACTOR,
        )


def _charge(request: requests.Charge) -> ChargeRequest:
    return ChargeRequest(
        task_id=request.task,
        block_run_id=request.run,
        block=request.block,
        uses_own_key=request.own_key,
        measurements=_measurements(request.measured) if request.measured else None,
        closing=request.closing,
        actor=ACTOR,
    )


def _place(request: requests.Place) -> PlaceHoldRequest:
    return PlaceHoldRequest(
        task_id=request.task,
        block_run_id=request.run,
        block=request.block,
        uses_own_key=request.own_key,
        at_most=_measurements(request.at_most),
        timeout_seconds=request.timeout_seconds,
        actor=ACTOR,
    )


def _capture(request: requests.Capture) -> CaptureHoldRequest:
    return CaptureHoldRequest(
        task_id=request.task,
        block_run_id=request.run,
        measurements=_measurements(request.measured),
        over_hold=OverHold.CAP if request.cap else OverHold.REFUSE,
        actor=ACTOR,
    )


def _measurements(measured: Sequence[tuple[str, int]]) -> Measurements:
    quantities = dict(measured)
    seconds = quantities.get("seconds")
    return Measurements(seconds=None if seconds is None else Decimal(seconds), items=quantities.get("items"))


def facts(result: Result) -> Answer:
    """The facts of a result, with the model's names."""
    match result:
        case InvalidInput():
            return {"refused": "InvalidInput", "paths": [problem.path for problem in result.problems]}
        case BillingError():
            if isinstance(result, InsufficientCredits) and isinstance(result.balance, AccountBalance):
                assert result.available_credits == result.balance.available
            return {"refused": type(result).__name__} | _fields(result)
        case TaskChange():
            return {"task": result.task.task_id, "status": result.task.status, "replayed": result.replayed,
                    "cancelled": result.cancelled_children}  # fmt: skip
        case Charge():
            run = result.block_run
            found = {"run": run.block_run_id, "cost": run.cost, "reversed": run.reversed, "total": result.task.total,
                     "status": result.task.status, "signal": result.signal}  # fmt: skip
        case HoldResult():
            hold = result.hold
            found = {"hold": hold.status, "credits": hold.credits, "captured": hold.captured}
        case GrantResult():
            found = {"grant": result.grant.number, "revoked": result.revoked_credits}
        case Reversal() | FinishedBlockRun():
            found = {"credits": result.credits, "total": result.task.total}
        case TaskReversal():
            found = {"credits": result.credits, "entries": result.entries, "total": result.task.total}
        case PaymentResult():
            found = dict(result.facts)
        case _:
            raise TypeError(f"not a result: {result!r}")
    return found | {"replayed": result.replayed, "posted": result.balance.posted, "held": result.balance.held}


def _fields(refusal: Any) -> Answer:
    return {
        field.name: getattr(refusal, field.name)
        for field in dataclasses.fields(refusal)
        if field.name not in WORDS_OF_REFUSALS
    }


def replayable(result: Result) -> Any:
    """The part of a result that a replay must return unchanged."""
    match result:
        case Charge() | HoldResult():
            run = result.block_run
            return result.entry, run and run._replace(reversed=0, outcome=None, finished_at=None, outcome_seq=None)
        case GrantResult():
            return result.entry, result.grant.number, result.revoked_credits
        case Reversal() | FinishedBlockRun():
            return result.entry, result.credits
        case PaymentResult():
            return result.replayable
        case _:
            return None
