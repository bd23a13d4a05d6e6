"""The state machine: requests and the passing of time in any order. Each step is compared with the model.

A task, hold or earlier request is chosen by a small number that counts back from the latest, so that a failing example
shrinks to small numbers.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from app.ledger import queries
from app.verify import verifier
from tests.state_machine import requests
from tests.state_machine.database import CHEAP, DEAR, MachineDatabase
from tests.state_machine.model_requests import LedgerModel
from tests.state_machine.product import Product, facts, replayable
from tests.state_machine.requests import Request
from tests.state_machine.stored_rows import StoredRows
from tests.state_machine.values import ENDED, SOURCES

T = TypeVar("T")

MAX_TASKS = 7
MAX_TOP_UPS = 3
MOMENT = timedelta(microseconds=1)

PICKS = st.integers(0, 5)
AMOUNTS = st.sampled_from([20, 11, 5, 1, 30, 47])
MEASURES = st.sampled_from([4, 5, 8, 3, 1, 20, 0])
TIMEOUTS = st.sampled_from([24 * 3600, 3600, 24 * 3600, 1])
BLOCKS = st.sampled_from([*CHEAP, "ReplicateModelBlock", "UnrealTextToSpeechBlock", "NoSuchBlock"])
HOURS = st.sampled_from([0.5, None, 1, 5, None, 25])
RARELY = st.sampled_from([False, False, False, True])

RUNS = st.fixed_dictionaries(
    {"task": PICKS, "block": BLOCKS, "quantity": MEASURES, "missing": RARELY, "own_key": RARELY, "closing": RARELY}
)
"""The arguments of a new block run."""


class LedgerMachine(RuleBasedStateMachine):
    """One account per example, in the product and in the model."""

    database: ClassVar[MachineDatabase]

    def __init__(self) -> None:
        super().__init__()
        database = self.database
        database.examples += 1
        self.owner_id = f"owner-{database.examples}"
        self.product = Product(self.owner_id, database.rate_cards)
        self.model = LedgerModel(CHEAP, database.now)
        self.stored = StoredRows(database, self.model)
        self.sent: list[Request] = []
        self.first: dict[Request, Any] = {}
        self.names = 0
        self.sound = True

    @classmethod
    def of(cls, database: MachineDatabase) -> type["LedgerMachine"]:
        """The machine class for this database."""
        return type("LedgerMachine", (cls,), {"database": database})

    # Requests.

    @initialize(
        credits=st.sampled_from([[100], [70, 30], [20, 20, 60]]),
        expires=st.sampled_from([0.5, None, 0.5, 5]),
        budgets=st.sampled_from([[60, 40], [60], [60, None], [60, 40, 20], [None, 30]]),
        timeout=TIMEOUTS,
        reserve=st.sampled_from([0, 0, 5]),
        held=st.sampled_from([4, None, 8]),
        refunded=st.sampled_from(["PENDING", None, "DONE"]),
    )
    def begin(
        self,
        *,
        credits: list[int],
        expires: float | None,
        budgets: list[int | None],
        timeout: int,
        reserve: int,
        held: int | None,
        refunded: str | None,
    ) -> None:
        """Grants, of which the first may expire; nested tasks; a hold in the innermost; a top-up with a refund."""
        for number, amount in enumerate(credits):
            self.grant(amount, "PURCHASED", 0, None, None if number else expires)
        for number, budget in enumerate(budgets):
            self.start(0 if number else None, budget, timeout, reserve, False)
        if held is not None:
            self.place(task=0, block="Mail", quantity=held, timeout=timeout, missing=False, own_key=False)
        if refunded is not None:
            self.buy(20)
            self.refund(0, 5, refunded)

    @precondition(lambda self: len(self.model.tasks) < MAX_TASKS)
    @rule(
        parent=st.none() | PICKS, budget=st.none() | AMOUNTS, timeout=st.none() | TIMEOUTS,
        reserve=st.sampled_from([None, 0, 1, 5]), scheduled=RARELY,
    )  # fmt: skip
    def start(
        self, parent: int | None, budget: int | None, timeout: int | None, reserve: int | None, scheduled: bool
    ) -> None:
        parent_id = None if parent is None or not self.model.tasks else self._task(parent)
        if budget is None:
            timeout = reserve = None
        elif reserve is not None:
            reserve = min(reserve, budget)
        self._send(
            requests.Start(task=self._name("task"), parent=parent_id, budget=budget, timeout_seconds=timeout,
                         reserve=reserve, scheduled=scheduled)
        )  # fmt: skip

    @precondition(lambda self: self.model.tasks)
    @rule(run=RUNS)
    def charge(self, run: dict[str, Any]) -> None:
        self._send(self._charge(**run))

    @precondition(lambda self: self.model.tasks)
    @rule(runs=st.lists(RUNS, min_size=2, max_size=6), twice=RARELY)
    def charge_list(self, runs: list[dict[str, Any]], twice: bool) -> None:
        charges = [self._charge(**run) for run in runs]
        self._send(requests.ChargeList(items=(*charges, charges[0]) if twice else tuple(charges)))

    def _charge(
        self, *, task: int, block: str, quantity: int, missing: bool, own_key: bool, closing: bool
    ) -> requests.Charge:
        return requests.Charge(
            task=self._task(task), run=self._name("run"), block=block, own_key=own_key, closing=closing,
            measured=() if missing else self._measured(block, quantity),
        )  # fmt: skip

    @precondition(lambda self: self.model.tasks)
    @rule(
        task=PICKS, block=st.sampled_from(["Mail", "Video", "UnrealTextToSpeechBlock"]), quantity=MEASURES,
        timeout=TIMEOUTS, missing=RARELY, own_key=RARELY,
    )  # fmt: skip
    def place(self, *, task: int, block: str, quantity: int, timeout: int, missing: bool, own_key: bool) -> None:
        self._send(
            requests.Place(
                task=self._task(task), run=self._name("run"), block=block, own_key=own_key, timeout_seconds=timeout,
                at_most=() if missing else self._measured(block, quantity),
            )
        )  # fmt: skip

    @precondition(lambda self: self._placed())
    @rule(hold=PICKS, quantity=MEASURES, cap=st.booleans(), missing=RARELY)
    def capture(self, hold: int, quantity: int, cap: bool, missing: bool) -> None:
        placed = self._hold(hold)
        measured = () if missing else self._measured(placed.block, quantity)
        self._send(requests.Capture(task=placed.task, run=placed.run, measured=measured, cap=cap))

    @precondition(lambda self: self._placed())
    @rule(hold=PICKS, task=PICKS, how=st.sampled_from(["void", "void", "charge", "void astray", "capture astray"]))
    def end_a_hold_otherwise(self, hold: int, task: int, how: str) -> None:
        """Void a hold; or charge its block run directly; or request the hold through another task."""
        placed = self._hold(hold)
        match how:
            case "void":
                self._send(requests.Void(task=placed.task, run=placed.run))
            case "charge":
                self._send(
                    requests.Charge(task=placed.task, run=placed.run, block=placed.block, measured=placed.at_most)
                )
            case "void astray":
                self._send(requests.Void(task=self._task(task), run=placed.run))
            case _:
                measured = self._measured(placed.block, 1)
                self._send(requests.Capture(task=self._task(task), run=placed.run, measured=measured))

    @precondition(lambda self: self.model.runs)
    @rule(run=PICKS, credits=st.sampled_from([None, 1, 3, 10]), how=st.sampled_from(["run", "run", "task", "astray"]))
    def reverse(self, run: int, credits: int | None, how: str) -> None:
        costing = [one for one in self.model.runs.values() if one.cost > one.reversed]
        charged = self._pick(costing if costing and run else list(self.model.runs.values()), run)
        key = self._name("key")
        if how == "task":
            self._send(requests.ReverseTask(key=key, task=charged.task))
        else:
            task = self._task(run) if how == "astray" else charged.task
            self._send(requests.ReverseCharge(key=key, task=task, run=charged.name, credits=credits))

    @precondition(lambda self: self.model.runs)
    @rule(run=PICKS, outcome=st.sampled_from(["FAILED", "PROVIDER_FAILED", "SUCCEEDED", "CANCELLED"]), astray=RARELY)
    def finish(self, run: int, outcome: str, astray: bool) -> None:
        charged = self._pick(list(self.model.runs.values()), run)
        task = self._task(run) if astray else charged.task
        self._send(requests.Finish(task=task, run=charged.name, outcome=outcome))

    @rule(credits=AMOUNTS, source=st.sampled_from(SOURCES), priority=st.sampled_from([0, 0, -1, 1]), starts=HOURS,
          expires=HOURS, pays_debt=st.sampled_from([None, None, True, False]))  # fmt: skip
    def grant(  # noqa: PLR0917  Hypothesis names them
        self, credits: int, source: str, priority: int, starts: float | None, expires: float | None,
        pays_debt: bool | None = None,
    ) -> None:  # fmt: skip
        now = self.database.now
        self._send(
            requests.AddGrant(
                key=self._name("key"), credits=credits, source=source, priority=priority,
                starts_at=None if starts is None else now + timedelta(hours=starts - 0.5),
                expires_at=None if expires is None else now + timedelta(hours=expires), pays_debt=pays_debt,
            )
        )  # fmt: skip

    @precondition(lambda self: len(self.model.grants) > 3)
    @rule(grant=PICKS)
    def revoke(self, grant: int) -> None:
        """Revoke one of the latest grants, sometimes one that does not exist."""
        number = len(self.model.grants) + 1 - grant
        self._send(requests.Revoke(key=self._name("key"), number=max(1, number)))

    @precondition(lambda self: len(self.model.top_ups) < MAX_TOP_UPS)
    @rule(credits=AMOUNTS)
    def buy(self, credits: int) -> None:
        self._send(requests.Buy(key=self._name("key"), credits=credits))

    @precondition(lambda self: self.model.top_ups)
    @rule(top_up=PICKS, credits=st.none() | AMOUNTS, answer=st.sampled_from(["DONE", "PENDING", "FAILED", "DONE"]))
    def refund(self, top_up: int, credits: int | None, answer: str) -> None:
        bought = self._pick(list(self.model.top_ups), top_up)
        self._send(requests.Refund(key=self._name("key"), top_up=bought, credits=credits, answer=answer))

    @precondition(lambda self: self.model.refunds)
    @rule(refund=PICKS, state=st.sampled_from(["DONE", "FAILED", "PENDING"]))
    def refund_event(self, refund: int, state: str) -> None:
        self._send(requests.RefundEvent(refund=self._pick(list(self.model.refunds), refund), state=state))

    @precondition(lambda self: self.model.top_ups)
    @rule(top_up=PICKS, state=st.sampled_from(["OPEN", "LOST", "WON"]), half=RARELY)
    def dispute_event(self, top_up: int, state: str, half: bool) -> None:
        bought = self._pick(list(self.model.top_ups), top_up)
        self._send(requests.DisputeEvent(top_up=bought, state=state, half=half))

    @precondition(lambda self: self.model.tasks)
    @rule(task=PICKS, add=st.none() | AMOUNTS, keyed=st.booleans())
    def resume(self, task: int, add: int | None, keyed: bool) -> None:
        stopped = [one.name for one in self.model.tasks.values() if one.status == "STOPPED"]
        name = self._pick(stopped, task) if stopped and task < 5 else self._task(task)
        self._send(requests.Resume(task=name, add_budget=add, key=self._name("key") if keyed else None))

    @precondition(lambda self: len(self._open_tasks()) > (self.names < 30))
    @rule(task=PICKS, status=st.sampled_from(["COMPLETED", "FAILED", "CANCELLED"]))
    def end(self, task: int, status: str) -> None:
        self._send(requests.End(task=self._task(task), status=status))

    @rule(earlier=st.integers(0, 20), otherwise=RARELY, amount=AMOUNTS)
    def replay(self, earlier: int, otherwise: bool, amount: int) -> None:
        """Repeat any request: unchanged it returns the first result and changes nothing; changed it conflicts."""
        request = self._pick(self.sent, earlier)
        self._send(self._otherwise(request, amount) if otherwise else request)

    def _otherwise(self, request: Any, amount: int) -> Request:
        """Another request with the same key."""
        match request:
            case requests.Start():
                request = replace(request, budget=amount, reserve=None)
            case requests.Charge() | requests.Place():
                request = replace(request, block="Mail" if request.block != "Mail" else "Video")
            case requests.Capture():
                request = replace(request, cap=not request.cap)
            case requests.AddGrant() | requests.ReverseCharge() | requests.Buy() | requests.Refund():
                request = replace(request, credits=amount)
            case requests.Revoke():
                request = replace(request, number=amount)
            case requests.Resume():
                request = replace(request, add_budget=amount)
            case requests.Finish():
                request = replace(request, outcome="FAILED" if request.outcome != "FAILED" else "SUCCEEDED")
            case requests.ReverseTask():
                request = requests.Revoke(key=request.key, number=1)
            case _:
                pass
        found: Request = request
        return found

    # Time.

    @rule(instant=PICKS, moments=st.sampled_from([-1, 0, 1]), read=st.booleans())
    def wait_until_something_happens(self, instant: int, moments: int, read: bool) -> None:
        """Move the clock to just before, at, or just after the next due change."""
        self.model.pass_time(self.database.now)
        coming = self.model.instants()
        if coming:
            self._wait(coming[instant % len(coming)] + moments * MOMENT - self.database.now, read)

    @rule(seconds=st.sampled_from([1800, 600, 0.5, 10, 23 * 3600]), read=st.booleans())
    def wait(self, seconds: float, read: bool) -> None:
        self._wait(timedelta(seconds=seconds), read)

    def _wait(self, span: timedelta, read: bool) -> None:
        """`read`: a read applies the due changes; otherwise the next request does."""
        self.database.run(self.database.set_clock(self.database.now + max(span, timedelta())))
        self.database.steps += 1
        if read:
            self._compare()

    @precondition(lambda self: len(self.model.cards) == 1)
    @rule()
    def raise_the_prices(self) -> None:
        """Publish higher prices that apply in a few seconds. Holds keep the prices of their placement."""
        self.model.cards.append(self.database.run(self.database.publish(DEAR)))

    # One step.

    def _send(self, request: Request) -> None:
        self.sound = False
        self.database.steps += 1
        self.sent.append(request)
        self.model.pass_time(self.database.now)
        expected = self.model.answer(request)
        results = self.database.run(self.product.carry_out(request))
        assert len(results) == len(expected)
        items: Sequence[Request] = request.items if isinstance(request, requests.ChargeList) else [request]
        for item, result, wanted in zip(items, results, expected, strict=True):
            found = facts(result)
            assert found == {name: wanted.get(name) for name in found}, (request, found, wanted)
            assert found.get("refused") == wanted.get("refused"), (request, found, wanted)
            kind = f"{type(item).__name__} {found.get('refused') or ('again' if found['replayed'] else 'done')}"
            self.database.answers[kind] += 1
            if "refused" not in found:
                first = self.first.setdefault(item, replayable(result))
                assert replayable(result) == first, request
        self._compare()

    def _compare(self) -> None:
        """Compare the balance and every row with the model."""
        self.sound = False
        self.model.pass_time(self.database.now)
        self.database.run(self._read())
        self.sound = True

    async def _read(self) -> None:
        account_id = self.product.account_id
        figures = (await queries.get_balances([account_id]))[account_id]
        model = self.model
        assert (figures.posted, figures.held, figures.frozen, figures.owed, figures.available) == (
            model.posted, model.held, model.frozen, model.owed, model.available,
        )  # fmt: skip
        await self.stored.compare(account_id)

    def teardown(self) -> None:
        if len(self.model.cards) > 1:  # the next example starts with the same prices
            effective_at, _ = self.database.run(self.database.publish(CHEAP))
            self.database.run(self.database.set_clock(effective_at))
        if self.sound and self.product.account_id:
            report = self.database.run(verifier.verify_ledger(self.owner_id))
            assert report.is_intact, [str(found) for found in report.violations]

    # Ids and choices.

    def _name(self, kind: str) -> str:
        self.names += 1
        return f"{self.owner_id}-{kind}-{self.names}"

    def _open_tasks(self) -> list[str]:
        return [task.name for task in self.model.tasks.values() if task.status not in ENDED]

    def _task(self, number: int) -> str:
        """A task, mostly a running one."""
        wanted = ["RUNNING"] if number < 4 else ["RUNNING", "STOPPED"] if number == 4 else []
        found = [task.name for task in self.model.tasks.values() if task.status in wanted]
        return self._pick(found or list(self.model.tasks), number)

    def _hold(self, number: int) -> requests.Place:
        """A hold, mostly an open one."""
        placed = self._placed(open_only=number < 5)
        return self._pick(placed or self._placed(), number)

    def _pick(self, among: Sequence[T], number: int) -> T:
        return among[-1 - number % len(among)]

    def _placed(self, *, open_only: bool = False) -> list[requests.Place]:
        return [
            hold.request
            for hold in self.model.holds.values()
            if isinstance(hold.request, requests.Place) and (hold.open or not open_only)
        ]

    def _measured(self, block: str, quantity: int) -> tuple[tuple[str, int], ...]:
        measure = CHEAP[block].measure if block in CHEAP else None
        return () if measure is None else ((measure, quantity * (5 if measure == "seconds" else 1)),)
