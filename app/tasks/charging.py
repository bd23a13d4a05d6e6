"""Charges block runs. A batch is priced, posted and recorded in one transaction; each item has its own result.

A charge is decided under its account's lock, in this order: was the block run charged before? does it have an open
hold? has the task ended? what is the price? is the task stopped? are enough credits available? The effects of an item
apply to the items after it. A refused item has no effect on the others.

`ChargeQueue` collects the charges that arrive while the previous batch commits (group commit).
"""

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from opentelemetry.trace import SpanContext

from app import metrics, tracing
from app.db import failures
from app.db.group_commit import LOOP_TURNS, BatchedReads, GroupCommit
from app.errors import (
    BillingError,
    BlockRunHeld,
    BudgetReached,
    IdempotencyConflict,
    InsufficientCredits,
    TaskNotFound,
    TaskStopped,
)
from app.ledger import posting, queries
from app.ledger.posting import LockWait, Posting
from app.ledger.rules.account_state import AccountBalance, AccountState, Cause, Hold, LedgerEntry
from app.pricing.quotes import Card, quote
from app.pricing.rate_card_cache import RateCardCache, StaleRateCards
from app.tasks import rows, task_accounts
from app.tasks.budgets import pay, renew_budget
from app.tasks.rules import (
    BlockRunState,
    ChargeRequest,
    SignalKind,
    TaskState,
    TaskStatus,
    apply_charge,
    check_cost_limit,
    check_not_ended,
    check_not_stopped,
)
from app.tasks.stop_and_resume import find_tasks_to_stop, stop_task
from app.tracing import NO_SPAN

HANG_SECONDS: Final = 8.0
"""A batch that takes longer is reported as hanging. Its statements and its lock wait have their own time limits."""
CHARGE_SECONDS: Final = 9.0
"""The longest time of a call of `charge` or `charge_batch`, with all waits. The caller can send the request again."""
_MAX_RATE_CARD_AGE_SECONDS: Final = 8.0
"""A batch reads rate cards again if they are older than this. They may be used until they are 9 seconds old (lease)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """An accepted charge.

    For a repeated request, `entry` and the cost are those of the first call; the task and the balance are the current
    ones. `entry` is None if the cost is 0. `signal` is STOP if at most a closing reserve is left to pay for the
    task. The executor must then start no more block runs except closing ones.
    """

    block_run: BlockRunState
    entry: LedgerEntry | None
    task: TaskState
    balance: AccountBalance
    replayed: bool
    signal: SignalKind | None = None


ChargeResult = Charge | BillingError
"""The result of one item. A refusal is returned, not raised, because it concerns only this item."""


class ChargeQueue:
    """Collects the charges of one process into batches."""

    def __init__(
        self, rate_cards: RateCardCache, *, queues: int, batch_limit: int, queue_limit: int, lock_seconds: float = 5.0
    ) -> None:
        self._rate_cards = rate_cards
        self._begun: dict[object, float] = {}
        """The time at which each batch that is being executed began, by the monotonic clock."""
        self._spans: dict[int, SpanContext | None] = {}
        """If tracing is on: the span of each waiting request, by the `id()` of the request."""
        self._charges: GroupCommit[tuple[int, ChargeRequest], ChargeResult] = GroupCommit(
            self._post,
            call_locked=self._post_locked,
            lock_seconds=lock_seconds,
            queues=queues,
            batch_limit=batch_limit,
            queue_limit=queue_limit,
            fails_whole_batch=failures.is_database_failure,
            loop_turns=LOOP_TURNS,
        )
        # Finds the accounts of tasks that other workers have started, with one query for many charges. One query for
        # each charge would take a fifth of the time of the charge.
        self._accounts = BatchedReads(
            task_accounts.find_accounts,
            batch_limit=batch_limit,
            queue_limit=queue_limit,
            fails_whole_batch=failures.is_database_failure,
            loop_turns=LOOP_TURNS,
        )

    async def charge(self, request: ChargeRequest) -> ChargeResult:
        """Charge one block run. Raises: Overloaded; TimeoutError: the block run may still be charged."""
        async with asyncio.timeout(CHARGE_SECONDS):
            account_id = task_accounts.cached_account(request.task_id) or await self._accounts.get(request.task_id)
            if account_id is None:
                result: ChargeResult = TaskNotFound(task_id=request.task_id)
            else:
                with self._traced([request]) if tracing.is_on() else NO_SPAN:
                    result = await self._charges.submit(account_id, (account_id, request))
        metrics.record_charge(_outcome(result))
        return result

    async def charge_batch(self, requests: Sequence[ChargeRequest]) -> list[ChargeResult | BaseException]:
        """Return the result of each block run, in order. If an item causes a fault, its result is the exception.

        Raises: Overloaded: nothing was decided; the first item's exception, if every item failed because of the
        database; TimeoutError: the block runs may still be charged.
        """
        async with asyncio.timeout(CHARGE_SECONDS):
            accounts = await task_accounts.find_accounts(request.task_id for request in requests)
            known = [
                (account_id, (account_id, request))
                for request in requests
                if (account_id := accounts.get(request.task_id)) is not None
            ]
            with self._traced(requests) if tracing.is_on() else NO_SPAN:
                charged = await self._charges.submit_all(known)
        unreachable = [one for one in charged if isinstance(one, BaseException) and failures.is_database_failure(one)]
        if unreachable and len(unreachable) == len(charged):
            raise unreachable[0]
        known_results = iter(charged)
        results = [
            next(known_results) if request.task_id in accounts else TaskNotFound(task_id=request.task_id)
            for request in requests
        ]
        for result in results:
            metrics.record_charge(_outcome(result))
        return results

    def find_problem(self) -> str | None:
        """Return a description of the problem if a batch hangs."""
        seconds = time.monotonic() - min(self._begun.values(), default=math.inf)
        return f"charges have not ended for {seconds:.0f} s" if seconds > HANG_SECONDS else None

    async def close(self) -> None:
        """Complete the waiting charges. Call it before the database pools are closed."""
        await self._accounts.close()
        await asyncio.sleep(0)  # so that charges whose account was just found enter the queue
        await self._charges.close()

    async def _post(self, items: Sequence[tuple[int, ChargeRequest]]) -> list[ChargeResult]:
        metrics.CHARGE_BATCH_SIZE.observe(len(items))
        metrics.CHARGE_QUEUE_LENGTH.set(self._charges.waiting())
        batch = object()
        self._begun[batch] = time.monotonic()
        try:
            with self._batch_span(items) if tracing.is_on() else NO_SPAN:
                return await charge_many(items, self._rate_cards, locks=LockWait(is_batch=True))
        finally:
            del self._begun[batch]

    @contextmanager
    def _traced(self, requests: Sequence[ChargeRequest]) -> Iterator[None]:
        """Link the spans of the batches of these requests to the current span."""
        context = tracing.current_context()
        for request in requests:
            self._spans[id(request)] = context
        try:
            yield
        finally:
            for request in requests:
                self._spans.pop(id(request), None)

    def _batch_span(self, items: Sequence[tuple[int, ChargeRequest]]) -> AbstractContextManager[Any]:
        spans = [self._spans.get(id(request)) for _, request in items]
        return tracing.batch_span("charge batch", spans, size=len(items))

    async def _post_locked(self, seconds: float, items: Sequence[tuple[int, ChargeRequest]]) -> list[ChargeResult]:
        return await charge_many(items, self._rate_cards, locks=LockWait(seconds=seconds, is_locked=True))


def _outcome(result: ChargeResult | BaseException) -> str:
    """Return the outcome of a charge for the metrics."""
    if not isinstance(result, Charge):
        return type(result).__name__
    if result.replayed:
        return "replayed"
    return "free" if result.entry is None else "charged"


async def charge_many(
    items: Sequence[tuple[int, ChargeRequest]], rate_cards: RateCardCache, *, locks: LockWait | None = None
) -> list[ChargeResult]:
    """Decide and write (account id, request) items in one transaction. Returns: the result of each item, in order."""
    await ensure_fresh_rate_cards(rate_cards)

    async def decide(posting: Posting) -> list[ChargeResult]:
        batch = _Batch(posting)
        for account_id, request in items:
            account = posting.accounts[account_id]
            card = await rate_card_at(rate_cards, posting, account)
            batch.decide(account, request, card)
        batch.write_tasks()
        return await batch.final_results()

    tasks = [(account_id, request.task_id) for account_id, request in items]
    runs = [(account_id, request.block_run_id) for account_id, request in items]
    return await posting.post(
        [account_id for account_id, _ in items],
        decide,
        reads=(rows.read_tasks(tasks), rows.read_block_runs(runs)),
        holds=[rows.read_budgets(tasks, only_open=True), rows.read_holds(runs, only_open=True)],
        locks=locks,
    )


async def ensure_fresh_rate_cards(rate_cards: RateCardCache) -> None:
    """Read the rate cards again before any lock is held, if their lease ends soon."""
    if not rate_cards.is_fresh(_MAX_RATE_CARD_AGE_SECONDS):
        await rate_cards.refresh()


async def rate_card_at(rate_cards: RateCardCache, posting: Posting, account: AccountState) -> Card:
    """Return the rate card in force at the time of the decision. It may differ from that at the time of the request."""
    try:
        return rate_cards.card_at(account.at, clock=posting.at)
    except StaleRateCards:
        return await rate_cards.load_card_at(account.at, clock=posting.at)


@dataclass(slots=True)
class _Recorded:
    """A block run that was recorded before, in the database or by this batch. `entry` is None until it is needed."""

    run: BlockRunState
    request_hash: bytes
    entry: LedgerEntry | None = None


_Replay = tuple[_Recorded, TaskState, AccountBalance]


@dataclass(slots=True)
class _Batch:
    """A batch while it is decided: the current tasks and block runs, and the results so far."""

    posting: Posting
    tasks: dict[tuple[int, str], TaskState] = field(default_factory=dict)
    recorded: dict[tuple[int, str], _Recorded] = field(default_factory=dict)
    held: dict[tuple[int, str], Hold] = field(default_factory=dict)
    changed: dict[tuple[int, str], TaskState] = field(default_factory=dict)
    results: list[ChargeResult | _Replay] = field(default_factory=list)

    def __post_init__(self) -> None:
        task_rows, run_rows = self.posting.rows
        for task, _ in rows.tasks_with_hash(task_rows):
            self.tasks[task.key] = task
        for run, request_hash in rows.block_runs_with_hash(run_rows):
            self.recorded[run.account_id, run.block_run_id] = _Recorded(run, request_hash)
        for account in self.posting.accounts.values():
            for hold in account.holds.values():
                if hold.block_run_id is not None and hold.is_open:
                    self.held[account.account_id, hold.block_run_id] = hold

    def decide(self, account: AccountState, request: ChargeRequest, card: Card) -> None:
        """Append the result of one item and apply its effects."""
        try:
            self.results.append(self._decide(account, request, card))
        except BillingError as error:
            self.results.append(error)

    def _decide(self, account: AccountState, request: ChargeRequest, card: Card) -> ChargeResult | _Replay:
        request_hash = request.request_hash()
        key = (account.account_id, request.task_id)
        run_key = (account.account_id, request.block_run_id)
        task = self.tasks.get(key)
        if (recorded := self.recorded.get(run_key)) is not None:
            if recorded.request_hash != request_hash or task is None:
                raise IdempotencyConflict(key=request.block_run_id)
            return recorded, task, account.balance()
        if (hold := self.held.get(run_key)) is not None:
            raise BlockRunHeld(block_run_id=request.block_run_id, held_credits=hold.remaining)
        if task is None:
            raise TaskNotFound(task_id=request.task_id)
        check_not_ended(task)
        price = quote(
            card,
            request.block,
            request.settings,
            uses_own_key=request.uses_own_key,
            measurements=request.measurements,
        )
        before = account.balance().audit_fields() if request.audit else None
        entry = None
        if price.credits:
            if not (request.closing and task.budget_hold is not None):
                check_not_stopped(task)
            check_cost_limit(task, price.credits)
            entry = self._pay(account, task, price.credits, request)
        renew_budget(account, task)
        task = self.tasks[key] = self.changed[key] = apply_charge(task, price.credits)
        run = BlockRunState(
            account_id=account.account_id,
            block_run_id=request.block_run_id,
            task_id=request.task_id,
            position=task.steps,
            block=request.block,
            model=price.model,
            cost=price.credits,
            reversed=0,
            uses_own_key=request.uses_own_key,
            charged_at=max(account.at, task.started_at),
            rate_card_version=price.rate_card_version,
            rule=price.rule,
            entry_seq=entry.seq if entry else None,
        )
        self.recorded[run_key] = _Recorded(run, request_hash, entry)
        rows.insert_block_run(
            self.posting.write, run, request_hash=request_hash, actor=request.actor, request_id=request.request_id
        )
        if request.audit is not None:
            subject = f"task {request.task_id} block run {request.block_run_id}"
            after = account.balance().audit_fields() | {"cost": price.credits}
            self.posting.record_audit(request.audit, account, subject=subject, before=before, after=after)
        return Charge(block_run=run, entry=entry, task=task, balance=account.balance(), replayed=False)

    def _pay(self, account: AccountState, task: TaskState, credits: int, request: ChargeRequest) -> LedgerEntry:
        """Charge the credits, or stop the task."""
        cause = Cause(
            actor=request.actor,
            task_id=request.task_id,
            block_run_id=request.block_run_id,
            request_id=request.request_id,
        )
        try:
            return pay(account, task, credits, cause, closing=request.closing)
        except (InsufficientCredits, BudgetReached, TaskStopped) as error:
            if task.status is TaskStatus.RUNNING:
                stopped = stop_task(self.posting, account, task, error, required=credits, audit=request.audit)
                self.tasks[task.key] = self.changed[task.key] = stopped
            raise

    def write_tasks(self) -> None:
        """Write the changed tasks and publish the change of their accounts."""
        rows.update_tasks(self.posting.write, self.changed.values())
        for account_id, _ in self.changed:
            self.posting.publish_change(account_id)

    async def final_results(self) -> list[ChargeResult]:
        """Return the results in order, with the first entries of repeated charges (one read) and STOP signals."""
        replays = [
            (recorded.run.account_id, recorded.run.entry_seq)
            for result in self.results
            if isinstance(result, tuple)
            and (recorded := result[0]).entry is None
            and recorded.run.entry_seq is not None
        ]
        entries = await queries.get_entries(replays, connection=self.posting.connection) if replays else {}
        results = [_to_charge(result, entries) if isinstance(result, tuple) else result for result in self.results]
        stops = await find_tasks_to_stop(self.posting, [one.task for one in results if isinstance(one, Charge)])
        if not stops:
            return results
        return [
            replace(one, signal=SignalKind.STOP) if isinstance(one, Charge) and one.task.key in stops else one
            for one in results
        ]


def _to_charge(replay: _Replay, entries: dict[tuple[int, int], LedgerEntry]) -> Charge:
    recorded, task, balance = replay
    entry = recorded.entry
    if entry is None and recorded.run.entry_seq is not None:
        entry = entries[recorded.run.account_id, recorded.run.entry_seq]
    return Charge(block_run=recorded.run, entry=entry, task=task, balance=balance, replayed=True)
