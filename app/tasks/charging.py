"""Charging block runs: price, post and record a whole list in one transaction, each item with its own outcome.

A charge is decided under its account's lock, in the order of DESIGN 4: seen before, task ended, price, task stopped,
funds. An item sees the effects of those before it in the list. One item's refusal never touches its neighbours.

`Charger` gathers what arrives while the previous list commits (group commit); `charge` and `charge_batch` are the same
code.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from app.db import failures
from app.db.group_commit import LOOP_TURNS, BatchedReads, GroupCommit
from app.errors import (
    BillingError,
    BudgetReached,
    IdempotencyConflict,
    InsufficientCredits,
    TaskNotFound,
    TaskStopped,
)
from app.ledger import posting, queries
from app.ledger.posting import Posting
from app.ledger.rules.account_state import AccountBalance, AccountState, Cause, LedgerEntry
from app.pricing.quotes import Card, quote
from app.pricing.rate_card_cache import RateCardCache, StaleRateCards
from app.tasks import rows, task_accounts
from app.tasks.budgets import find_tasks_to_stop, pay, renew_budget, stop_task
from app.tasks.rules import (
    BlockRunState,
    ChargeRequest,
    SignalKind,
    TaskState,
    TaskStatus,
    apply_charge,
    check_not_ended,
    check_not_stopped,
)

_CARD_SECONDS: Final = 8.0
"""Cards read longer ago than this are read again first: a second before their lease runs out (pricing.rate_cards)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A charge that was admitted, or its replay: then entry and cost are the first time's, task and balance today's."""

    block_run: BlockRunState
    entry: LedgerEntry | None
    task: TaskState
    balance: AccountBalance
    replayed: bool
    signal: SignalKind | None = None
    """STOP: nothing is left for this task to be paid with, so its executor should start no more block runs."""


ChargeResult = Charge | BillingError
"""What became of one item: a refusal is a value, because its neighbours are not concerned."""


class ChargeQueue:
    """The charge path of one process."""

    def __init__(self, rate_cards: RateCardCache, *, lanes: int, batch_limit: int, queue_limit: int) -> None:
        self._catalogue = rate_cards
        self._lanes: GroupCommit[tuple[int, ChargeRequest], ChargeResult] = GroupCommit(
            self._post,
            lanes=lanes,
            batch_limit=batch_limit,
            queue_limit=queue_limit,
            fails_whole_batch=failures.is_connection_failure,
            loop_turns=LOOP_TURNS,
        )
        # Of tasks that other workers have started: looked up one by one they cost a fifth of a charge.
        self._owners = BatchedReads(
            task_accounts.find_accounts,
            batch_limit=batch_limit,
            queue_limit=queue_limit,
            fails_whole_batch=failures.is_connection_failure,
            loop_turns=LOOP_TURNS,
        )

    async def charge(self, request: ChargeRequest) -> ChargeResult:
        """One block run. Raises: Overloaded."""
        account_id = task_accounts.cached_account(request.task_id) or await self._owners.get(request.task_id)
        if account_id is None:
            return TaskNotFound(task_id=request.task_id)
        return await self._lanes.submit(account_id, (account_id, request))

    async def charge_batch(self, requests: Sequence[ChargeRequest]) -> list[ChargeResult | BaseException]:
        """Each block run's own outcome, in order; a fault that one of them causes stands in its place alone.

        Raises: Overloaded, and nothing was decided.
        """
        accounts = await task_accounts.find_accounts(request.task_id for request in requests)
        known = [
            (account_id, (account_id, request))
            for request in requests
            if (account_id := accounts.get(request.task_id)) is not None
        ]
        outcomes = iter(await self._lanes.submit_all(known))
        return [
            next(outcomes) if request.task_id in accounts else TaskNotFound(task_id=request.task_id)
            for request in requests
        ]

    async def close(self) -> None:
        """Carry out what waits; the last thing before the database closes."""
        await self._owners.close()
        await asyncio.sleep(0)  # what was looked up takes its place in a lane
        await self._lanes.close()

    async def _post(self, items: Sequence[tuple[int, ChargeRequest]]) -> list[ChargeResult]:
        return await charge_many(items, self._catalogue)


async def charge_many(items: Sequence[tuple[int, ChargeRequest]], rate_cards: RateCardCache) -> list[ChargeResult]:
    """Decide and write a list of (account id, request) in one transaction: an outcome for each, in order."""
    await ensure_fresh_rate_cards(rate_cards)

    tasks = [(account_id, request.task_id) for account_id, request in items]

    async def decide(posting: Posting) -> list[ChargeResult]:
        batch = _Batch(posting)
        for account_id, request in items:
            book = posting.accounts[account_id]
            card = await rate_card_at(rate_cards, book)
            batch.decide(book, request, card)
        batch.gather()
        return await batch.outcomes()

    return await posting.post(
        [account_id for account_id, _ in items],
        decide,
        reads=(
            rows.read_tasks(tasks),
            rows.read_block_runs((account_id, request.block_run_id) for account_id, request in items),
        ),
        holds=[rows.read_budgets(tasks, only_open=True)],
    )


async def ensure_fresh_rate_cards(rate_cards: RateCardCache) -> None:
    """Have the cards at hand before any lock is held."""
    if not rate_cards.is_fresh(_CARD_SECONDS):
        await rate_cards.refresh()


async def rate_card_at(rate_cards: RateCardCache, book: AccountState) -> Card:
    """The card in force at the instant of the decision, not at that of the request."""
    try:
        return rate_cards.card_at(book.at)
    except StaleRateCards:
        return await rate_cards.load_card_at(book.at)


@dataclass(slots=True)
class _Seen:
    """A block run that is charged already, here or in the database; its entry is read when a replay asks for it."""

    run: BlockRunState
    fingerprint: bytes
    entry: LedgerEntry | None = None


@dataclass(slots=True)
class _Batch:
    """One list being decided: the rows as they are so far, and what became of each item."""

    posting: Posting
    tasks: dict[tuple[int, str], TaskState] = field(default_factory=dict)
    seen: dict[tuple[int, str], _Seen] = field(default_factory=dict)
    changed: dict[tuple[int, str], TaskState] = field(default_factory=dict)
    results: list[ChargeResult | tuple[_Seen, TaskState, AccountBalance]] = field(default_factory=list)

    def __post_init__(self) -> None:
        task_rows, run_rows = self.posting.rows
        for row in task_rows:
            task = rows.task_from_row(row)
            self.tasks[task.account_id, task.task_id] = task
        for row in run_rows:
            run = rows.block_run_from_row(row)
            self.seen[run.account_id, run.block_run_id] = _Seen(run, bytes(row[rows.BLOCK_RUN_WIDTH]))

    def decide(self, book: AccountState, request: ChargeRequest, card: Card) -> None:
        """Append what becomes of one item, and its effects for those after it."""
        try:
            self.results.append(self._decide(book, request, card))
        except BillingError as refusal:
            self.results.append(refusal)

    def _decide(
        self, book: AccountState, request: ChargeRequest, card: Card
    ) -> ChargeResult | tuple[_Seen, TaskState, AccountBalance]:
        print_ = request.request_hash()
        key = (book.account_id, request.task_id)
        task = self.tasks.get(key)
        if (seen := self.seen.get((book.account_id, request.block_run_id))) is not None:
            if seen.fingerprint != print_ or task is None:
                raise IdempotencyConflict(key=request.block_run_id)
            return seen, task, book.balance()
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
        before = book.balance().audit_fields() if request.audit else None
        entry = None
        if price.credits:
            if not (request.closing and task.budget_hold is not None):
                check_not_stopped(task)
            entry = self._pay(book, task, price.credits, request)
        renew_budget(book, task)
        task = self.tasks[key] = self.changed[key] = apply_charge(task, price.credits)
        run = BlockRunState(
            book.account_id,
            request.block_run_id,
            request.task_id,
            task.steps,
            request.block,
            price.model,
            price.credits,
            0,
            request.uses_own_key,
            book.at,
            price.rate_card_version,
            price.rule,
            entry.seq if entry else None,
        )
        self.seen[book.account_id, request.block_run_id] = _Seen(run, print_, entry)
        rows.insert_block_run(
            self.posting.write, run, request_hash=print_, actor=request.actor, request_id=request.request_id
        )
        if request.audit is not None:
            subject = f"task {request.task_id} block run {request.block_run_id}"
            after = book.balance().audit_fields() | {"cost": price.credits}
            self.posting.record_audit(request.audit, book, subject=subject, before=before, after=after)
        return Charge(block_run=run, entry=entry, task=task, balance=book.balance(), replayed=False)

    def _pay(self, book: AccountState, task: TaskState, credits: int, request: ChargeRequest) -> LedgerEntry:
        """Take the credits, or stop the task: from this commit on no worker admits a paid charge of it."""
        cause = Cause(
            actor=request.actor,
            task_id=request.task_id,
            block_run_id=request.block_run_id,
            request_id=request.request_id,
        )
        try:
            return pay(book, task, credits, cause, closing=request.closing)
        except (InsufficientCredits, BudgetReached, TaskStopped) as refusal:
            if task.status is TaskStatus.RUNNING:
                key = (task.account_id, task.task_id)
                stopped = stop_task(self.posting, book, task, refusal, required=credits, audit=request.audit)
                self.tasks[key] = self.changed[key] = stopped
            raise

    def gather(self) -> None:
        """Write what the tasks have become, and wake who follows them."""
        for (account_id, _), task in self.changed.items():
            rows.update_task(self.posting.write, task)
            self.posting.publish_change(account_id)

    async def outcomes(self) -> list[ChargeResult]:
        """The outcomes in order; replays are answered with their first entries, read together."""
        replays = [
            (seen.run.account_id, seen.run.entry_seq)
            for result in self.results
            if isinstance(result, tuple) and (seen := result[0]).entry is None and seen.run.entry_seq is not None
        ]
        entries = await queries.get_entries(replays, connection=self.posting.connection) if replays else {}
        outcomes = [_replay(*result, entries) if isinstance(result, tuple) else result for result in self.results]
        stops = await find_tasks_to_stop(self.posting, [one.task for one in outcomes if isinstance(one, Charge)])
        if not stops:
            return outcomes
        return [
            replace(one, signal=SignalKind.STOP)
            if isinstance(one, Charge) and (one.task.account_id, one.task.task_id) in stops
            else one
            for one in outcomes
        ]


def _replay(
    seen: _Seen, task: TaskState, balance: AccountBalance, entries: dict[tuple[int, int], LedgerEntry]
) -> Charge:
    entry = seen.entry
    if entry is None and seen.run.entry_seq is not None:
        entry = entries[seen.run.account_id, seen.run.entry_seq]
    return Charge(block_run=seen.run, entry=entry, task=task, balance=balance, replayed=True)
