"""A simple model of one account. It uses neither a database nor code of the product, and it need not be fast.

Every credit of a grant is in one pocket: that of the account, of a task's budget, or of a hold for one block run. A
charge takes credits out of a pocket, in burn order. Placing a hold or budget moves credits to its pocket; closing it
moves them back, or out of the account if their grant has expired. All figures are computed from the pockets.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from tests.state_machine.values import (
    ACCOUNT,
    DAY,
    ENDED,
    FREE,
    SOURCES,
    Answer,
    Entry,
    Grant,
    Hold,
    ModelRefund,
    Price,
    Refused,
    Run,
    Task,
    TopUp,
    budget_of,
)


class ModelAccount:
    """One owner's account at the instant `now`."""

    def __init__(self, prices: Mapping[str, Price], now: datetime) -> None:
        self.cards = [(now, prices)]
        """Rate cards: (instant from which it applies, prices)."""
        self.now = now
        self.grants: list[Grant] = []
        self.tasks: dict[str, Task] = {}
        self.holds: dict[str, Hold] = {}
        self.runs: dict[str, Run] = {}
        self.keys: dict[str, tuple[object, Answer]] = {}
        self.skipped: set[str] = set()
        self.entries: list[Entry] = []
        self.top_ups: dict[str, TopUp] = {}
        self.refunds: dict[str, ModelRefund] = {}
        self.owed = 0
        self.signals = 0
        """How many times tasks were stopped or resumed."""
        self.detached = False
        """Whether a budget has lost its parent: it still counts as allocated there."""

    # Figures.

    @property
    def posted(self) -> int:
        return sum(sum(grant.pockets.values()) for grant in self.grants)

    @property
    def available(self) -> int:
        return max(0, self.inside(ACCOUNT) - self.frozen)

    @property
    def held(self) -> int:
        return self.posted - self.inside(ACCOUNT)

    @property
    def frozen(self) -> int:
        return sum(top_up.frozen for top_up in self.top_ups.values())

    def inside(self, pocket: str) -> int:
        return sum(grant.inside(pocket) for grant in self.grants)

    def lent(self, pocket: str) -> int:
        """The credits that holds inside a budget claim or have spent."""
        parent_budget = [hold for hold in self.holds.values() if hold.parent == pocket]
        return sum(self.inside(hold.pocket) + hold.captured + self.lent(hold.pocket) for hold in parent_budget)

    # Time.

    def instants(self) -> list[datetime]:
        """The future instants at which time alone changes the account."""
        return sorted(when for when, *_ in self._events())

    def _events(self) -> Iterable[tuple[datetime, int, int, Grant | Hold]]:
        """(instant, rank, order, what): starts, then hold expiries from the inside out, then grant expiries."""
        for grant in self.grants:
            if not grant.started and not grant.revoked and grant.starts_at is not None:
                yield grant.starts_at, 0, grant.number, grant
            if grant.started and grant.inside(ACCOUNT) and grant.expires_at is not None:
                yield grant.expires_at, 2, grant.number, grant
        for age, hold in enumerate(self.holds.values()):
            if hold.open:
                yield hold.expires_at, 1, -age, hold

    def pass_time(self, until: datetime) -> None:
        """Apply all due changes in order, each at its own instant."""
        while due := [event for event in self._events() if event[0] <= until]:
            when, _, _, what = min(due, key=lambda event: event[:3])
            self.now = max(self.now, when)
            if isinstance(what, Hold):
                self._let_go(what, "EXPIRED")
                if what.run is None:
                    for task in self.tasks.values():
                        if task.pocket == what.pocket and task.status == "RUNNING":
                            task.status, task.reason = "STOPPED", "BUDGET_EXPIRED"
                            self.signals += 1
            elif what.started:
                self._expire(what)
            else:
                what.started = True
                self._enter_grant(what)
                self._pay_debt()
        self.now = until

    def _expire(self, grant: Grant) -> None:
        """Remove the unclaimed credits of an expired grant."""
        if credits := grant.inside(ACCOUNT):
            grant.move(credits, ACCOUNT, None)
            self._enter("EXPIRY", -credits, [(grant.number, credits)])

    def _enter_grant(self, grant: Grant) -> None:
        grant.pockets[ACCOUNT] = grant.credits
        self._enter(grant.kind, grant.credits, [(grant.number, grant.credits)])

    def _pay_debt(self) -> None:
        """Pay debt from what is available in grants that pay debt."""
        payers = [grant for grant in self.grants if grant.pays_debt and not grant.expired(self.now)]
        credits = min(self.owed, self.available, sum(grant.inside(ACCOUNT) for grant in payers))
        if credits:
            draws = self._take(credits, ACCOUNT, None, among=payers)
            self._enter("DEBT_PAID", -credits, draws, owed=-credits)

    def _enter(
        self, kind: str, credits: int, draws: Iterable[tuple[int, int]], run: Run | None = None, *, owed: int = 0
    ) -> None:
        self.owed += owed
        named = (run.task, run.name) if run is not None else (None, None)
        self.entries.append(Entry(kind=kind, credits=credits, at=self.now, task=named[0], run=named[1],
                                  draws=tuple(draws), owed=owed))  # fmt: skip

    # Moving credits between pockets.

    def _take(
        self, credits: int, pocket: str, target: str | None, *, among: Iterable[Grant] | None = None
    ) -> list[tuple[int, int]]:
        """Move credits out of a pocket in burn order. Returns: (grant, credits) pairs."""
        never = datetime.max.replace(tzinfo=self.now.tzinfo)
        order = sorted(
            self.grants if among is None else among,
            key=lambda one: (one.priority, one.expires_at or never, SOURCES.index(one.source), one.number),
        )
        draws = []
        for grant in order:
            if taken := min(credits, grant.inside(pocket)):
                grant.move(taken, pocket, target)
                draws.append((grant.number, taken))
                credits -= taken
        assert credits == 0
        return draws

    def _give_back(self, task: Task, run: Run, credits: int) -> None:
        """Return credits to their grants, the last draw first. Credits of an expired grant expire at once."""
        skipped = run.reversed
        back: list[tuple[int, int]] = []
        for number, drawn in reversed(run.draws):
            already = min(skipped, drawn)
            skipped -= already
            if given := min(drawn - already, credits - sum(some for _, some in back)):
                back.append((number, given))
        self._enter("REVERSAL", credits, back, run)
        for number, given in back:
            grant = self.grants[number - 1]
            grant.pockets[ACCOUNT] = grant.inside(ACCOUNT) + given
        for number, _ in back:
            if self.grants[number - 1].expired(self.now):
                self._expire(self.grants[number - 1])
        self._pay_debt()
        run.reversed += credits
        task.reversed += credits

    def _let_go(self, hold: Hold, status: str) -> None:
        """Close a hold. What is left returns to its open parent, else to the account; expired credits leave."""
        parent = self.holds.get(hold.parent)
        target = hold.parent if parent is not None and parent.open else ACCOUNT
        hold.status = status
        hold.reserve = 0
        for grant in self.grants:
            if credits := grant.inside(hold.pocket):
                grant.move(credits, hold.pocket, ACCOUNT if grant.expired(self.now) else target)
                if grant.expired(self.now):
                    self._expire(grant)
        self._pay_debt()

    def _renew(self, pocket: str) -> None:
        """Renew the timeouts of an open budget and those around it, up to 24 h after the expiry of their grants."""
        hold = self.holds.get(pocket)
        if hold is None or not hold.open:
            return
        while hold is not None:
            if hold.open:
                hold.expires_at = self._until(hold.pocket, hold.timeout)
            hold = self.holds.get(hold.parent)

    def _until(self, pocket: str, timeout: timedelta) -> datetime:
        ends = [grant.expires_at + DAY for grant in self.grants if grant.expires_at and grant.inside(pocket)]
        return min([self.now + timeout, *ends])

    def _claim(self, hold: Hold) -> None:
        self.holds[hold.pocket] = hold
        self._take(hold.credits, hold.parent, hold.pocket)
        hold.expires_at = self._until(hold.pocket, hold.timeout)

    def _check_budget(self, task: Task, credits: int, *, closing: bool = False) -> None:
        """Check that the budget of a task has these credits. Raises: Refused."""
        budget = self.holds[task.pocket]
        if not budget.open:
            raise Refused("TaskStopped", task_id=task.name, stop_reason="BUDGET_EXPIRED")
        self._check_inside(budget, credits, closing=closing)

    def _check_inside(self, budget: Hold, credits: int, *, closing: bool = False) -> None:
        left = self.inside(budget.pocket) - (0 if closing else budget.reserve)
        if credits > left:
            raise Refused("BudgetReached", task_id=budget.task, required_credits=credits, remaining_credits=left)

    def _check_can_start(self, credits: int) -> None:
        """With debt no task starts, even if a promotional grant is available."""
        if self.owed:
            raise self._insufficient(credits)
        self._check_available(credits)

    def _check_available(self, credits: int) -> None:
        if credits > self.available:
            raise self._insufficient(credits)

    def _insufficient(self, credits: int) -> Refused:
        missing = max(0, credits + self.frozen - self.inside(ACCOUNT))
        return Refused(
            "InsufficientCredits", required_credits=credits, available_credits=self.available,
            shortfall_credits=missing + self.owed,
        )  # fmt: skip

    def _task(self, name: str) -> Task:
        if name not in self.tasks:
            raise Refused("TaskNotFound", task_id=name)
        return self.tasks[name]

    def _open_task(self, name: str) -> Task:
        task = self._task(name)
        if task.status in ENDED:
            raise Refused("TaskEnded", task_id=name, status=task.status)
        return task

    def _price(self, block: str, own_key: bool) -> Price:
        if own_key:
            return FREE
        [*_, prices] = [prices for effective_at, prices in self.cards if effective_at <= self.now]
        if block not in prices:
            raise Refused("PriceNotFound", block=block)
        return prices[block]

    def _check_running(self, task: Task) -> None:
        if task.status == "STOPPED":
            raise Refused("TaskStopped", task_id=task.name, stop_reason=task.reason)

    def _stop(self, task: Task, why: Refused, required: int) -> None:
        """Stop a task whose charge could not be paid."""
        if task.status == "RUNNING":
            reasons = {"InsufficientCredits": "OUT_OF_CREDITS", "BudgetReached": "BUDGET_REACHED"}
            had = why.answer.get("remaining_credits") or 0
            task.status, task.reason = "STOPPED", reasons.get(why.answer["refused"], "BUDGET_EXPIRED")
            task.required = required
            task.shortfall = why.answer.get("shortfall_credits", required - had)
            self.signals += 1

    def _check_room(self, pocket: str, credits: int) -> None:
        if pocket == ACCOUNT:
            self._check_available(credits)
        else:
            self._check_inside(self.holds[pocket], credits)

    def _make_budget(self, task: str, credits: int, parent: str, seconds: int | None, reserve: int) -> str:
        timeout = timedelta(seconds=seconds) if seconds is not None else timedelta(hours=1)
        budget = Hold(
            pocket=budget_of(task), task=task, run=None, parent=parent, credits=credits, reserve=reserve,
            timeout=timeout, expires_at=self.now,
        )  # fmt: skip
        self._claim(budget)
        return budget.pocket

    def _add_budget(self, task: Task, budget: Hold | None, credits: int) -> None:
        if budget is None:
            self._check_can_start(credits)
            task.pocket = self._make_budget(task.name, credits, ACCOUNT, None, 0)
            return
        if budget.task != task.name:
            raise Refused("InvalidInput", paths=["addBudget"])
        parent = self.holds.get(budget.parent)
        source = ACCOUNT if parent is None or not parent.open else parent.pocket
        self._check_can_start(credits if source == ACCOUNT else 0)
        self._check_room(source, credits)
        self._take(credits, source, budget.pocket)
        self.detached |= budget.parent != source
        budget.parent, budget.status = source, "OPEN"
        budget.credits += credits
        self._renew(budget.pocket)

    def remembered(self, key: str, request: object) -> Answer | None:
        """The first answer to this key, or None. Raises: Refused: the first request was different."""
        if key in self.keys:
            first, answer = self.keys[key]
            if first != request:
                raise Refused("IdempotencyConflict", key=key)
            return answer | {"replayed": True}
        return None

    def remember(self, key: str, request: object, answer: Answer) -> Answer:
        self.keys[key] = request, answer
        return answer | {"replayed": False}
