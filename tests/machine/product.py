"""The product as the machine sees it: a request in, the same facts out that the model answers with."""

import dataclasses
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from app.errors import BillingError, InsufficientCredits, InvalidInput
from app.ledger import grants
from app.ledger.book import Figures, Source
from app.ledger.grants import Granted, GrantRequest
from app.pricing.catalogue import Catalogue
from app.pricing.measurements import Measurements
from app.pricing.outcomes import Outcome
from app.tasks import charging, finishing, holding, lifecycle, resuming, reversing
from app.tasks.charging import Charged
from app.tasks.finishing import Finished, FinishRequest
from app.tasks.holding import CaptureRequest, Held, OverHold, PlaceRequest
from app.tasks.lifecycle import Changed, StartRequest
from app.tasks.resuming import ResumeRequest
from app.tasks.reversing import Reversed, TaskReversed
from app.tasks.rules import ChargeRequest, Status, Trigger
from tests.machine import requests
from tests.machine.paying import Moved, Till
from tests.machine.values import Answer

ACTOR = "service:machine"
REASON = "for a test"

Result = Charged | Held | Changed | Granted | Reversed | TaskReversed | Finished | Moved | BillingError

WORDS_OF_REFUSALS = {"balance", "reason", "rate_card_version", "problems"}
"""What a refusal says beyond its figures."""


class Product:
    """The use cases, for one owner."""

    def __init__(self, owner_id: str, catalogue: Catalogue) -> None:
        self.owner_id = owner_id
        self.account_id = 0
        self._catalogue = catalogue
        self._till = Till(owner_id)

    async def carry_out(self, request: requests.Request) -> Sequence[Result]:
        """One result, or one for each item of a list of charges."""
        if isinstance(request, requests.ChargeList | requests.Charge):
            items = request.items if isinstance(request, requests.ChargeList) else [request]
            charges = [(self.account_id, _charge(item)) for item in items]
            return await charging.charge_many(charges, self._catalogue)
        try:
            result = await self._one(request)
        except BillingError as refusal:
            return [refusal]
        if isinstance(result, Granted):
            self.account_id = result.balance.account_id
        return [result]

    async def _one(self, request: requests.Request) -> Result:  # noqa: PLR0911  one return for each kind of request
        match request:
            case requests.Start():
                return await lifecycle.start(self._start(request))
            case requests.Resume():
                return await resuming.resume(
                    ResumeRequest(task_id=request.task, add_budget=request.add_budget, key=request.key, actor=ACTOR)
                )
            case requests.End(status="CANCELLED"):
                return await lifecycle.cancel(request.task)
            case requests.End():
                return await lifecycle.finish(request.task, Status(request.status))
            case requests.Place():
                return await holding.place(_place(request), self._catalogue)
            case requests.Capture():
                return await holding.capture(_capture(request))
            case requests.Void():
                return await holding.void(request.task, request.run)
            case _:
                return await self._given(request)

    async def _given(self, request: requests.Request) -> Result:
        """Credits that are given, taken back, or given back."""
        match request:
            case requests.Give():
                return await grants.grant(self._give(request))
            case requests.Revoke():
                return await grants.revoke(self.account_id, request.number, reason=REASON, key=request.key, actor=ACTOR)
            case requests.ReverseCharge():
                return await reversing.reverse_charge(
                    request.task, request.run, credits=request.credits, reason=REASON, key=request.key, actor=ACTOR
                )
            case requests.ReverseTask():
                return await reversing.reverse_task(request.task, reason=REASON, key=request.key, actor=ACTOR)
            case requests.Finish():
                asked = FinishRequest(
                    task_id=request.task, block_run_id=request.run, outcome=Outcome(request.outcome), actor=ACTOR
                )
                return await finishing.finish_block_run(asked, self._catalogue)
            case _:
                return await self._till.carry_out(request, actor=ACTOR, reason=REASON)

    def _start(self, request: requests.Start) -> StartRequest:
        return StartRequest(
            task_id=request.task,
            owner_id=self.owner_id,
            agent_id="agent",
            trigger=Trigger.SCHEDULED if request.scheduled else Trigger.MANUAL,
            parent_task_id=request.parent,
            budget=request.budget,
            budget_timeout_seconds=request.timeout_seconds,
            landing_reserve=request.reserve,
            actor=ACTOR,
        )

    def _give(self, request: requests.Give) -> GrantRequest:
        return GrantRequest(
            owner_id=self.owner_id,
            credits=request.credits,
            source=Source(request.source),
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


def _place(request: requests.Place) -> PlaceRequest:
    return PlaceRequest(
        task_id=request.task,
        block_run_id=request.run,
        block=request.block,
        uses_own_key=request.own_key,
        at_most=_measurements(request.at_most),
        timeout_seconds=request.timeout_seconds,
        actor=ACTOR,
    )


def _capture(request: requests.Capture) -> CaptureRequest:
    return CaptureRequest(
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
    """What a result says, in the model's words."""
    match result:
        case InvalidInput():
            return {"refused": "InvalidInput", "paths": [problem.path for problem in result.problems]}
        case BillingError():
            if isinstance(result, InsufficientCredits) and isinstance(result.balance, Figures):
                # Who owes has nothing to begin with, though a promotional grant may be there.
                owing = {0} if result.balance.owed else set()
                assert result.available_credits in owing | {result.balance.available}
            return {"refused": type(result).__name__} | _fields(result)
        case Changed():
            return {"task": result.task.task_id, "status": result.task.status, "replayed": result.replayed}
        case Charged():
            run = result.block_run
            found = {"run": run.block_run_id, "cost": run.cost, "reversed": run.reversed, "total": result.task.total,
                     "status": result.task.status, "signal": result.signal}  # fmt: skip
        case Held():
            hold = result.hold
            found = {"hold": hold.status, "credits": hold.credits, "captured": hold.captured}
        case Granted():
            found = {"grant": result.lot.number, "revoked": result.revoked_credits}
        case Reversed() | Finished():
            found = {"credits": result.credits, "total": result.task.total}
        case TaskReversed():
            found = {"credits": result.credits, "entries": result.entries, "total": result.task.total}
        case Moved():
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


def lasting(result: Result) -> Any:
    """The part of a result that is the same whenever it is asked for again."""
    match result:
        case Charged() | Held():
            run = result.block_run
            return result.entry, run and run._replace(reversed=0, outcome=None, finished_at=None, outcome_seq=None)
        case Granted():
            return result.entry, result.lot.number, result.revoked_credits
        case Reversed() | Finished():
            return result.entry, result.credits
        case Moved():
            return result.lasting
        case _:
            return None
