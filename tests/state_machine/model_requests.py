"""The model's answers to requests, one method for each. It uses no code of the product.

A method changes the model and returns facts, or raises `Refused`. A refusal changes nothing, except that a lack of
credits stops the task.
"""

from datetime import timedelta
from typing import Any

from tests.state_machine.model_payments import ModelPayments
from tests.state_machine.requests import (
    AddGrant,
    Buy,
    Capture,
    Charge,
    ChargeList,
    DisputeEvent,
    End,
    Finish,
    Place,
    Refund,
    RefundEvent,
    Request,
    Resume,
    ReverseCharge,
    ReverseTask,
    Revoke,
    Start,
    Void,
)
from tests.state_machine.values import ACCOUNT, ENDED, FEE, Answer, Grant, Hold, Refused, Run, Task, budget_of, hold_for


class LedgerModel(ModelPayments):
    """The account with its answers to requests."""

    def answer(self, request: Request) -> list[Answer]:
        """The answers to a request: one, or one per item of a list of charges."""
        if isinstance(request, ChargeList):
            answers = [self._one(item) for item in request.items]
            return [self._signalled(item, answer) for item, answer in zip(request.items, answers, strict=True)]
        answer = self._one(request)
        return [self._signalled(request, answer) if isinstance(request, Charge) else answer]

    def _one(self, request: Request) -> Answer:
        handlers: dict[type, Any] = {
            Start: self._start, Charge: self._charge, Place: self._place, Capture: self._capture, Void: self._void,
            AddGrant: self._give, Revoke: self._revoke, ReverseCharge: self._reverse_charge,
            ReverseTask: self._reverse_task, Finish: self._finish, Resume: self._resume, End: self._end, Buy: self._buy,
            Refund: self._refund, RefundEvent: self._report_of_refund, DisputeEvent: self._report_of_dispute,
        }  # fmt: skip
        try:
            answer: Answer = handlers[type(request)](request)
        except Refused as refusal:
            return refusal.answer
        return answer | {"posted": self.posted, "held": self.held}

    # Tasks.

    def _start(self, asked: Start) -> Answer:
        if asked.task in self.tasks:
            if self.tasks[asked.task].request != asked:
                raise Refused("IdempotencyConflict", key=asked.task)
            return self._shown(self.tasks[asked.task], replayed=True)
        parent = None
        if asked.parent is not None:
            parent = self._open_task(asked.parent)
            self._check_running(parent)
        try:
            pocket = ACCOUNT if parent is None else parent.pocket
            if pocket == ACCOUNT or parent is None:
                self._check_can_start(asked.budget or 1)
            else:
                self._check_can_start(0)
                self._check_budget(parent, asked.budget or 1)
        except Refused as why:
            if asked.scheduled and why.answer["refused"] == "InsufficientCredits":
                self.skipped.add(asked.task)
            raise
        if asked.budget is not None:
            pocket = self._make_budget(asked.task, asked.budget, pocket, asked.timeout_seconds, asked.reserve or 0)
        task = self.tasks[asked.task] = Task(name=asked.task, pocket=pocket, request=asked)
        return self._shown(task)

    def _end(self, asked: End) -> Answer:
        task = self._task(asked.task)
        replayed = task.status in ENDED
        if replayed and task.status != asked.status:
            raise Refused("TaskEnded", task_id=task.name, status=task.status)
        nested = self._nested([task]) if asked.status == "CANCELLED" else []
        still_open = [one for one in nested if one.status not in ENDED]
        for one in (task, *still_open) if not replayed else still_open:
            one.status, one.reason = asked.status, None
            if one.pocket == budget_of(one.name) and self.holds[one.pocket].open:
                self._let_go(self.holds[one.pocket], "CAPTURED")
        return self._shown(task, replayed=replayed, cancelled=len(still_open))

    def _nested(self, parents: list[Task]) -> list[Task]:
        """Return the tasks nested in these, at any depth, outermost first."""
        names = {task.name for task in parents}
        children = [task for task in self.tasks.values() if task.request.parent in names]
        return children + self._nested(children) if children else []

    def _resume(self, asked: Resume) -> Answer:
        task = self._task(asked.task)
        if asked.key is not None and self.remembered(asked.key, asked) is not None:
            return self._shown(task, replayed=True)
        self._open_task(asked.task)
        is_stopped = task.status == "STOPPED"
        if not is_stopped and (asked.add_budget is None or asked.key is None):
            raise Refused("TaskNotStopped", task_id=task.name, status=task.status)
        budget = self.holds.get(task.pocket)
        if asked.add_budget is not None:
            self._add_budget(task, budget, asked.add_budget)
            if budget is not None:
                outside = (task.required or 1) if is_stopped else 0
                full = min(task.request.reserve or 0, self.inside(budget.pocket) - outside)
                budget.reserve = max(budget.reserve, full)
        else:
            self._check_can_start(1 if budget is None else 0)
        if asked.add_budget is not None or budget is None:
            pass
        elif not budget.open:
            raise Refused("BudgetReached", task_id=budget.task, required_credits=1, remaining_credits=0)
        else:
            self._check_inside(budget, 1)
            self._renew(task.pocket)
        task.status, task.reason, task.required, task.shortfall = "RUNNING", None, None, None
        self.signals += 1
        if asked.key is not None:
            self.keys[asked.key] = asked, {}
        return self._shown(task)

    def _shown(self, task: Task, *, replayed: bool = False, cancelled: int = 0) -> Answer:
        return {"task": task.name, "status": task.status, "replayed": replayed, "cancelled": cancelled}

    # Block runs.

    def _charge(self, asked: Charge) -> Answer:
        if asked.run in self.runs:
            run = self.runs[asked.run]
            if run.request != asked or asked.task not in self.tasks:
                raise Refused("IdempotencyConflict", key=asked.run)
            return self._paid(run, replayed=True)
        if asked.task not in self.tasks:
            raise Refused("TaskNotFound", task_id=asked.task)
        if (hold := self.holds.get(hold_for(asked.run))) is not None and hold.open:
            raise Refused("BlockRunHeld", block_run_id=asked.run, held_credits=self.inside(hold.pocket))
        task = self._open_task(asked.task)
        cost = self._price(asked.block, asked.own_key).of(asked.block, dict(asked.measured))
        run = Run(name=asked.run, task=task.name, cost=cost, request=asked, draws=[])
        if cost:
            if not (asked.closing and task.pocket != ACCOUNT):
                self._check_running(task)
            try:
                if task.pocket == ACCOUNT:
                    self._check_available(cost)
                else:
                    self._check_budget(task, cost, closing=asked.closing)
            except Refused as why:
                self._stop(task, why, cost)
                raise
            self._draw(run, task.pocket)
        self._renew(task.pocket)
        self._record(task, run)
        return self._paid(run)

    def _draw(self, run: Run, pocket: str) -> None:
        run.draws = self._take(run.cost, pocket, None)
        self._enter("CHARGE", -run.cost, run.draws, run)
        if hold := self.holds.get(pocket):
            hold.captured += run.cost
            hold.reserve = min(hold.reserve, self.inside(pocket))

    def _record(self, task: Task, run: Run) -> None:
        self.runs[run.name] = run
        task.steps += 1
        task.charged += run.cost

    def _paid(self, run: Run, *, replayed: bool = False) -> Answer:
        task = self.tasks[run.task]
        return {"run": run.name, "cost": run.cost, "reversed": run.reversed, "total": task.charged - task.reversed,
                "status": task.status, "replayed": replayed}  # fmt: skip

    def _signalled(self, asked: Charge, answer: Answer) -> Answer:
        """The reply to a charge has a STOP signal if nothing but a closing reserve is left to pay for its task."""
        if "refused" in answer:
            return answer
        task = self.tasks[asked.task]
        if task.status in ENDED:
            left = True
        elif task.pocket == ACCOUNT:
            left = bool(self.available) or any(hold.open and hold.task == task.name for hold in self.holds.values())
        else:
            budget = self.holds[task.pocket]
            left = budget.open and self.inside(task.pocket) > budget.reserve
        return answer | {"signal": None if left else "STOP"}

    def _place(self, asked: Place) -> Answer:
        task = self._task(asked.task)
        hold = self.holds.get(hold_for(asked.run))
        if hold is not None:
            if hold.request != asked:
                raise Refused("IdempotencyConflict", key=asked.run)
            if hold.status in ("VOIDED", "EXPIRED"):
                raise Refused("HoldClosed", block_run_id=asked.run, status=hold.status)
            return self._held(hold, replayed=True)
        if asked.run in self.runs:
            raise Refused("IdempotencyConflict", key=asked.run)
        self._open_task(asked.task)
        price = self._price(asked.block, asked.own_key)
        most = price.of(asked.block, dict(asked.at_most))
        parent = ACCOUNT
        if most:
            self._check_running(task)
            parent = task.pocket
            try:
                if parent == ACCOUNT:
                    self._check_available(most)
                else:
                    self._check_budget(task, most)
            except Refused as why:
                self._stop(task, why, most)
                raise
        hold = Hold(
            pocket=hold_for(asked.run), task=task.name, run=asked.run, parent=parent, credits=most, reserve=0,
            timeout=timedelta(seconds=asked.timeout_seconds), expires_at=self.now, price=price, request=asked,
        )  # fmt: skip
        self._claim(hold)
        self._renew(task.pocket)
        return self._held(hold)

    def _capture(self, asked: Capture) -> Answer:
        task, hold = self._held_by(asked.task, asked.run)
        if hold.status == "CAPTURED":
            if hold.capture != asked:
                raise Refused("IdempotencyConflict", key=asked.run)
            return self._held(hold, replayed=True)
        if not hold.open:
            raise Refused("HoldClosed", block_run_id=asked.run, status=hold.status)
        if asked.run in self.runs:
            raise Refused("IdempotencyConflict", key=asked.run)
        assert hold.price is not None
        assert isinstance(hold.request, Place)
        priced = hold.price.of(hold.request.block, dict(asked.measured))
        if priced > hold.credits and not asked.cap:
            raise Refused("HoldExceeded", block_run_id=asked.run, required_credits=priced, held_credits=hold.credits)
        run = Run(name=asked.run, task=task.name, cost=min(priced, hold.credits), request=asked, draws=[])
        if run.cost:
            self._draw(run, hold.pocket)
        self._let_go(hold, "CAPTURED")
        hold.capture = asked
        self._renew(task.pocket)
        self._record(task, run)
        return self._held(hold)

    def _void(self, asked: Void) -> Answer:
        _, hold = self._held_by(asked.task, asked.run)
        if hold.status == "VOIDED":
            return self._held(hold, replayed=True)
        if not hold.open:
            raise Refused("HoldClosed", block_run_id=asked.run, status=hold.status)
        self._let_go(hold, "VOIDED")
        return self._held(hold)

    def _held_by(self, name: str, run: str) -> tuple[Task, Hold]:
        task = self._task(name)
        hold = self.holds.get(hold_for(run))
        if hold is None or hold.task != name:
            raise Refused("HoldNotFound", task_id=name, block_run_id=run)
        return task, hold

    def _held(self, hold: Hold, *, replayed: bool = False) -> Answer:
        return {"hold": hold.status, "credits": hold.credits, "captured": hold.captured, "replayed": replayed}

    # Operator requests.

    def _give(self, asked: AddGrant) -> Answer:
        if asked.starts_at is not None and asked.expires_at is not None and asked.expires_at <= asked.starts_at:
            raise Refused("InvalidInput", paths=["expiresAt"])
        if (first := self.remembered(asked.key, asked)) is not None:
            return first
        if asked.expires_at is not None and asked.expires_at <= self.now:
            raise Refused("InvalidInput", paths=["expiresAt"])
        grant = Grant(
            number=len(self.grants) + 1, source=asked.source, credits=asked.credits, priority=asked.priority,
            starts_at=asked.starts_at, expires_at=asked.expires_at,
            started=asked.starts_at is None or asked.starts_at <= self.now,
            pays_debt=asked.source != "PROMOTIONAL" if asked.pays_debt is None else asked.pays_debt,
            kind="ADJUSTMENT" if asked.source == "ADJUSTMENT" else "GRANT",
        )  # fmt: skip
        self.grants.append(grant)
        if grant.started:
            self._enter_grant(grant)
            self._pay_debt()
        return self.remember(asked.key, asked, {"grant": grant.number, "revoked": 0})

    def _revoke(self, asked: Revoke) -> Answer:
        if (first := self.remembered(asked.key, asked)) is not None:
            return first
        if not 1 <= asked.number <= len(self.grants):
            raise Refused("GrantNotFound", grant_id=str(asked.number))
        grant = self.grants[asked.number - 1]
        if not grant.started:
            grant.revoked = True
        credits = min(grant.inside(ACCOUNT), self.available)
        if credits:
            grant.move(credits, ACCOUNT, None)
            self._enter("ADJUSTMENT", -credits, [(grant.number, credits)])
        return self.remember(asked.key, asked, {"grant": grant.number, "revoked": credits})

    def _reverse_charge(self, asked: ReverseCharge) -> Answer:
        task = self._task(asked.task)
        first = self.remembered(asked.key, asked)
        run = self.runs.get(asked.run)
        if run is None or run.task != asked.task:
            raise Refused("BlockRunNotFound", task_id=asked.task, block_run_id=asked.run)
        if first is not None:
            return first | self._total(task)
        left = run.cost - run.reversed
        wanted = left if asked.credits is None else asked.credits
        if wanted > left or not wanted:
            raise Refused("ReversalExceedsCharge", requested_credits=wanted, reversible_credits=left)
        self._give_back(task, run, wanted)
        return self.remember(asked.key, asked, {"credits": wanted}) | self._total(task)

    def _reverse_task(self, asked: ReverseTask) -> Answer:
        task = self._task(asked.task)
        if (first := self.remembered(asked.key, asked)) is not None:
            return first | self._total(task)
        costing = [run for run in self.runs.values() if run.task == task.name and run.cost > run.reversed]
        given = sum(run.cost - run.reversed for run in costing)
        for run in costing:
            self._give_back(task, run, run.cost - run.reversed)
        return self.remember(asked.key, asked, {"credits": given, "entries": len(costing)}) | self._total(task)

    def _finish(self, asked: Finish) -> Answer:
        """A failed block run costs the fee, a provider failure nothing, a cancelled block run the full price."""
        task = self._task(asked.task)
        run = self.runs.get(asked.run)
        if run is None or run.task != asked.task:
            raise Refused("BlockRunNotFound", task_id=asked.task, block_run_id=asked.run)
        if run.outcome is not None:
            if run.outcome != asked.outcome:
                raise Refused("IdempotencyConflict", key=asked.run)
            return {"credits": run.given_back, "replayed": True} | self._total(task)
        costs = {"FAILED": min(FEE, run.cost), "PROVIDER_FAILED": 0}.get(asked.outcome, run.cost)
        run.outcome = asked.outcome
        run.given_back = max(0, run.cost - run.reversed - costs)
        if run.given_back:
            self._give_back(task, run, run.given_back)
        return {"credits": run.given_back, "replayed": False} | self._total(task)

    def _total(self, task: Task) -> Answer:
        return {"total": task.charged - task.reversed}
