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

from app import database
from app.coalescing import TURNS, Lanes, Shared
from app.errors import (
    BillingError,
    BudgetReached,
    IdempotencyConflict,
    InsufficientCredits,
    TaskNotFound,
    TaskStopped,
)
from app.ledger import posting, statements
from app.ledger.book import Book, Cause, Figures, Posted
from app.ledger.posting import Posting
from app.pricing.catalogue import Catalogue, Stale
from app.pricing.rules import Card, quote
from app.tasks import owners, rows
from app.tasks.paying import pay, renew_envelope, stop, to_stop
from app.tasks.rules import (
    BlockRunState,
    ChargeRequest,
    SignalKind,
    Status,
    TaskState,
    charged,
    check_open,
    check_running,
)

_CARD_SECONDS: Final = 8.0
"""Cards read longer ago than this are read again first: a second before their lease runs out (pricing.catalogue)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """A charge that was admitted, or its replay: then entry and cost are the first time's, task and balance today's."""

    block_run: BlockRunState
    entry: Posted | None
    task: TaskState
    balance: Figures
    replayed: bool
    signal: SignalKind | None = None
    """STOP: nothing is left for this task to be paid with, so its executor should start no more block runs."""


Outcome = Charged | BillingError
"""What became of one item: a refusal is a value, because its neighbours are not concerned."""


class Charger:
    """The charge path of one process."""

    def __init__(self, catalogue: Catalogue, *, lanes: int, batch_limit: int, queue_limit: int) -> None:
        self._catalogue = catalogue
        self._lanes: Lanes[tuple[int, ChargeRequest], Outcome] = Lanes(
            self._post,
            lanes=lanes,
            list_limit=batch_limit,
            queue_limit=queue_limit,
            hopeless=database.is_lost,
            turns=TURNS,
        )
        # Of tasks that other workers have started: looked up one by one they cost a fifth of a charge.
        self._owners = Shared(
            owners.find_many,
            list_limit=batch_limit,
            queue_limit=queue_limit,
            hopeless=database.is_lost,
            turns=TURNS,
        )

    async def charge(self, request: ChargeRequest) -> Outcome:
        """One block run. Raises: Overloaded."""
        account_id = owners.remembered(request.task_id) or await self._owners.get(request.task_id)
        if account_id is None:
            return TaskNotFound(task_id=request.task_id)
        return await self._lanes.submit(account_id, (account_id, request))

    async def charge_batch(self, requests: Sequence[ChargeRequest]) -> list[Outcome | BaseException]:
        """Each block run's own outcome, in order; a fault that one of them causes stands in its place alone.

        Raises: Overloaded, and nothing was decided.
        """
        accounts = await owners.find_many(request.task_id for request in requests)
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

    async def _post(self, items: Sequence[tuple[int, ChargeRequest]]) -> list[Outcome]:
        return await charge_many(items, self._catalogue)


async def charge_many(items: Sequence[tuple[int, ChargeRequest]], catalogue: Catalogue) -> list[Outcome]:
    """Decide and write a list of (account id, request) in one transaction: an outcome for each, in order."""
    await keep_cards_fresh(catalogue)

    tasks = [(account_id, request.task_id) for account_id, request in items]

    async def decide(posting: Posting) -> list[Outcome]:
        batch = _Batch(posting)
        for account_id, request in items:
            book = posting.books[account_id]
            card = await card_at(catalogue, book)
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
        holds=[rows.read_envelopes(tasks, only_open=True)],
    )


async def keep_cards_fresh(catalogue: Catalogue) -> None:
    """Have the cards at hand before any lock is held."""
    if not catalogue.is_fresh(_CARD_SECONDS):
        await catalogue.refresh()


async def card_at(catalogue: Catalogue, book: Book) -> Card:
    """The card in force at the instant of the decision, not at that of the request."""
    try:
        return catalogue.at(book.at)
    except Stale:
        return await catalogue.in_force(book.at)


@dataclass(slots=True)
class _Seen:
    """A block run that is charged already, here or in the database; its entry is read when a replay asks for it."""

    run: BlockRunState
    fingerprint: bytes
    entry: Posted | None = None


@dataclass(slots=True)
class _Batch:
    """One list being decided: the rows as they are so far, and what became of each item."""

    posting: Posting
    tasks: dict[tuple[int, str], TaskState] = field(default_factory=dict)
    seen: dict[tuple[int, str], _Seen] = field(default_factory=dict)
    changed: dict[tuple[int, str], TaskState] = field(default_factory=dict)
    results: list[Outcome | tuple[_Seen, TaskState, Figures]] = field(default_factory=list)

    def __post_init__(self) -> None:
        task_rows, run_rows = self.posting.rows
        for row in task_rows:
            task = rows.task(row)
            self.tasks[task.account_id, task.task_id] = task
        for row in run_rows:
            run = rows.block_run(row)
            self.seen[run.account_id, run.block_run_id] = _Seen(run, bytes(row[rows.BLOCK_RUN_WIDTH]))

    def decide(self, book: Book, request: ChargeRequest, card: Card) -> None:
        """Append what becomes of one item, and its effects for those after it."""
        try:
            self.results.append(self._decide(book, request, card))
        except BillingError as refusal:
            self.results.append(refusal)

    def _decide(self, book: Book, request: ChargeRequest, card: Card) -> Outcome | tuple[_Seen, TaskState, Figures]:
        print_ = request.fingerprint()
        key = (book.account_id, request.task_id)
        task = self.tasks.get(key)
        if (seen := self.seen.get((book.account_id, request.block_run_id))) is not None:
            if seen.fingerprint != print_ or task is None:
                raise IdempotencyConflict(key=request.block_run_id)
            return seen, task, book.figures()
        if task is None:
            raise TaskNotFound(task_id=request.task_id)
        check_open(task)
        price = quote(
            card,
            request.block,
            request.settings,
            uses_own_key=request.uses_own_key,
            measurements=request.measurements,
        )
        before = book.figures().facts() if request.act else None
        entry = None
        if price.credits:
            if not (request.closing and task.envelope is not None):
                check_running(task)
            entry = self._pay(book, task, price.credits, request)
        renew_envelope(book, task)
        task = self.tasks[key] = self.changed[key] = charged(task, price.credits)
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
            entry.line.seq if entry else None,
        )
        self.seen[book.account_id, request.block_run_id] = _Seen(run, print_, entry)
        rows.add_block_run(
            self.posting.write, run, fingerprint=print_, actor=request.actor, request_id=request.request_id
        )
        if request.act is not None:
            subject = f"task {request.task_id} block run {request.block_run_id}"
            after = book.figures().facts() | {"cost": price.credits}
            self.posting.leave(request.act, book, subject=subject, before=before, after=after)
        return Charged(block_run=run, entry=entry, task=task, balance=book.figures(), replayed=False)

    def _pay(self, book: Book, task: TaskState, credits: int, request: ChargeRequest) -> Posted:
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
            if task.status is Status.RUNNING:
                key = (task.account_id, task.task_id)
                stopped = stop(self.posting, book, task, refusal, required=credits, act=request.act)
                self.tasks[key] = self.changed[key] = stopped
            raise

    def gather(self) -> None:
        """Write what the tasks have become, and wake who follows them."""
        for (account_id, _), task in self.changed.items():
            rows.change_task(self.posting.write, task)
            self.posting.announce(account_id)

    async def outcomes(self) -> list[Outcome]:
        """The outcomes in order; replays are answered with their first entries, read together."""
        replays = [
            (seen.run.account_id, seen.run.entry_seq)
            for result in self.results
            if isinstance(result, tuple) and (seen := result[0]).entry is None and seen.run.entry_seq is not None
        ]
        entries = await statements.entries_by_seq(replays, using=self.posting.connection) if replays else {}
        outcomes = [_replay(*result, entries) if isinstance(result, tuple) else result for result in self.results]
        stops = await to_stop(self.posting, [one.task for one in outcomes if isinstance(one, Charged)])
        if not stops:
            return outcomes
        return [
            replace(one, signal=SignalKind.STOP)
            if isinstance(one, Charged) and (one.task.account_id, one.task.task_id) in stops
            else one
            for one in outcomes
        ]


def _replay(seen: _Seen, task: TaskState, balance: Figures, entries: dict[tuple[int, int], Posted]) -> Charged:
    entry = seen.entry
    if entry is None and seen.run.entry_seq is not None:
        entry = entries[seen.run.account_id, seen.run.entry_seq]
    return Charged(block_run=seen.run, entry=entry, task=task, balance=balance, replayed=True)
