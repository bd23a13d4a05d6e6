"""Work that is priced by measure: credits are held before it, at the most it may cost, and captured after it.

The block run is the hold's identity: one hold per block run, for ever. Capture, void and expiry are decided under the
account's lock, so whichever comes first is the one; every call again gets the first answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from app.errors import (
    BudgetReached,
    HoldClosed,
    HoldExceeded,
    HoldNotFound,
    IdempotencyConflict,
    InsufficientCredits,
    InvalidInput,
    TaskNotFound,
    TaskStopped,
)
from app.ledger import claims, posting, statements
from app.ledger.book import Book, Cause, Figures, Hold, HoldStatus, Posted
from app.ledger.claims import MAX_TIMEOUT_SECONDS
from app.ledger.posting import Posting
from app.pricing.catalogue import Catalogue
from app.pricing.measurements import Measurements
from app.pricing.rules import Quote, quote, recorded_price
from app.tasks import owners, rows
from app.tasks.charging import card_at, keep_cards_fresh
from app.tasks.paying import open_envelope, renew_envelope, stop
from app.tasks.rules import (
    BlockRunState,
    TaskState,
    charged,
    check_open,
    check_running,
    fingerprint,
    measured,
    touched,
)
from app.trail.records import Act

T = TypeVar("T")


class OverHold(StrEnum):
    """What a capture does that is priced above its hold."""

    REFUSE = "REFUSE"
    CAP = "CAP"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceRequest:
    """A block run that is about to be run and priced by measure; `at_most` are the measurements it stays under."""

    task_id: str
    block_run_id: str
    block: str
    settings: Mapping[str, Any] | None = None
    uses_own_key: bool = False
    at_most: Measurements
    timeout_seconds: int
    actor: str
    request_id: str | None = None
    act: Act | None = None

    def check(self) -> None:
        """Raises: InvalidInput."""
        if not 1 <= self.timeout_seconds <= MAX_TIMEOUT_SECONDS:
            raise InvalidInput.at("timeoutSeconds", f"must lie between 1 and {MAX_TIMEOUT_SECONDS:,} (24 hours)")

    def fingerprint(self) -> bytes:
        return fingerprint(
            "placeHold",
            self.task_id,
            self.block_run_id,
            self.block,
            self.settings or {},
            self.uses_own_key,
            measured(self.at_most),
            self.timeout_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """What the block run turned out to measure."""

    task_id: str
    block_run_id: str
    measurements: Measurements
    over_hold: OverHold = OverHold.REFUSE
    actor: str
    request_id: str | None = None
    act: Act | None = None

    def fingerprint(self) -> bytes:
        return fingerprint(
            "captureHold", self.task_id, self.block_run_id, measured(self.measurements), self.over_hold.value
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A hold after the call. A capture has the block run, and its entry where it cost anything."""

    hold: Hold
    task: TaskState
    balance: Figures
    replayed: bool
    block_run: BlockRunState | None = None
    entry: Posted | None = None


async def place(request: PlaceRequest, catalogue: Catalogue) -> Held:
    """Hold the most that a block run may cost. Like a refused charge, a hold that cannot be paid stops its task.

    Raises: InvalidInput, TaskNotFound, TaskEnded, TaskStopped, PriceNotFound, MeasurementMissing, InsufficientCredits,
    BudgetReached; IdempotencyConflict: the block run is held by another request, or charged already.
    """
    request.check()
    account_id = await _account_of(request.task_id)
    await keep_cards_fresh(catalogue)

    async def decide(posting: Posting) -> Held | InsufficientCredits | BudgetReached | TaskStopped:
        book = posting.books[account_id]
        task, hold, run = _found(posting, book, request.task_id, request.block_run_id)
        if hold is not None:
            if hold.fingerprint != request.fingerprint():
                raise IdempotencyConflict(key=request.block_run_id)
            return Held(hold=hold, task=task, balance=book.figures(), replayed=True)
        if run is not None:
            raise IdempotencyConflict(key=request.block_run_id)
        check_open(task)
        price = quote(
            await card_at(catalogue, book),
            request.block,
            request.settings,
            uses_own_key=request.uses_own_key,
            measurements=request.at_most,
        )
        if price.credits:
            check_running(task)
        try:
            hold = _place(book, task, price, request)
        except (InsufficientCredits, BudgetReached, TaskStopped) as refusal:
            # Returned, so that the stop is committed.
            stopped = stop(posting, book, task, refusal, required=price.credits, act=request.act)
            rows.change_task(posting.write, stopped)
            return refusal
        renew_envelope(book, task)
        task = touched(task)
        rows.change_task(posting.write, task)
        subject = f"task {request.task_id} block run {request.block_run_id}"
        after = {"status": hold.status, "held": hold.remaining}
        posting.leave(request.act, book, subject=subject, before=None, after=after)
        posting.announce(account_id)
        return Held(hold=hold, task=task, balance=book.figures(), replayed=False)

    outcome = await _post(account_id, request.task_id, request.block_run_id, decide)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def capture(request: CaptureRequest) -> Held:
    """Charge what the block run measured, at the prices recorded at placing, and let go of the rest.

    Of a task that was stopped or has ended meanwhile too: the work is done. Raises: TaskNotFound, HoldNotFound;
    HoldClosed: voided or expired before; HoldExceeded, MeasurementMissing, BalanceLimitReached; IdempotencyConflict:
    captured by another request, or charged without the hold.
    """
    account_id = await _account_of(request.task_id)

    async def decide(posting: Posting) -> Held:
        book = posting.books[account_id]
        task, hold, run = _found(posting, book, request.task_id, request.block_run_id)
        if hold is None or hold.task_id != request.task_id:
            raise HoldNotFound(task_id=request.task_id, block_run_id=request.block_run_id)
        if hold.status is HoldStatus.CAPTURED:
            if hold.capture_fingerprint != request.fingerprint() or run is None:
                raise IdempotencyConflict(key=request.block_run_id)
            entry = await _entry(posting, run)
            return Held(hold=hold, task=task, balance=book.figures(), replayed=True, block_run=run, entry=entry)
        if not hold.open:
            raise HoldClosed(block_run_id=request.block_run_id, status=hold.status)
        if run is not None:
            raise IdempotencyConflict(key=request.block_run_id)
        before = {"status": hold.status, "held": hold.remaining}
        priced = recorded_price(hold.terms["block"], hold.terms["rule"], request.measurements)
        if priced > hold.credits and request.over_hold is OverHold.REFUSE:
            raise HoldExceeded(block_run_id=request.block_run_id, required_credits=priced, held_credits=hold.credits)
        entry = _capture(book, hold, min(priced, hold.credits), request)
        hold.priced = priced
        hold.capture_fingerprint = request.fingerprint()
        renew_envelope(book, task)
        task = charged(task, hold.captured)
        run = _run_of(book, task, hold, entry)
        rows.change_task(posting.write, task)
        rows.add_block_run(
            posting.write,
            run,
            fingerprint=request.fingerprint(),
            actor=request.actor,
            request_id=request.request_id,
        )
        subject = f"task {request.task_id} block run {request.block_run_id}"
        after = {"status": hold.status, "held": 0, "cost": run.cost}
        posting.leave(request.act, book, subject=subject, before=before, after=after)
        posting.announce(account_id)
        return Held(hold=hold, task=task, balance=book.figures(), replayed=False, block_run=run, entry=entry)

    return await _post(account_id, request.task_id, request.block_run_id, decide)


async def void(task_id: str, block_run_id: str, *, act: Act | None = None) -> Held:
    """Let go of a hold whose block run was not run.

    Raises: TaskNotFound, HoldNotFound; HoldClosed: captured or expired before.
    """
    account_id = await _account_of(task_id)

    async def decide(posting: Posting) -> Held:
        book = posting.books[account_id]
        task, hold, _ = _found(posting, book, task_id, block_run_id)
        if hold is None or hold.task_id != task_id:
            raise HoldNotFound(task_id=task_id, block_run_id=block_run_id)
        if hold.status is HoldStatus.VOIDED:
            return Held(hold=hold, task=task, balance=book.figures(), replayed=True)
        if not hold.open:
            raise HoldClosed(block_run_id=block_run_id, status=hold.status)
        before = {"status": hold.status, "held": hold.remaining}
        claims.release(book, hold, HoldStatus.VOIDED)
        subject = f"task {task_id} block run {block_run_id}"
        posting.leave(act, book, subject=subject, before=before, after={"status": hold.status, "held": 0})
        task = touched(task)
        rows.change_task(posting.write, task)
        posting.announce(account_id)
        return Held(hold=hold, task=task, balance=book.figures(), replayed=False)

    return await _post(account_id, task_id, block_run_id, decide)


async def _account_of(task_id: str) -> int:
    account_id = await owners.find(task_id)
    if account_id is None:
        raise TaskNotFound(task_id=task_id)
    return account_id


async def _post(account_id: int, task_id: str, block_run_id: str, decide: posting.Decide[T]) -> T:
    task, run = [(account_id, task_id)], [(account_id, block_run_id)]
    return await posting.post(
        [account_id],
        decide,
        reads=[rows.read_tasks(task), rows.read_block_runs(run)],
        holds=[rows.read_envelopes(task), rows.read_holds(run)],
    )


def _found(
    posting: Posting, book: Book, task_id: str, block_run_id: str
) -> tuple[TaskState, Hold | None, BlockRunState | None]:
    tasks, runs = posting.rows
    if not tasks:
        raise TaskNotFound(task_id=task_id)
    hold = next((hold for hold in book.holds.values() if hold.block_run_id == block_run_id), None)
    return rows.task(tasks[0]), hold, rows.block_run(runs[0]) if runs else None


def _place(book: Book, task: TaskState, price: Quote, request: PlaceRequest) -> Hold:
    within = open_envelope(book, task) if task.envelope is not None and price.credits else None
    return claims.place(
        book,
        price.credits,
        task_id=request.task_id,
        block_run_id=request.block_run_id,
        timeout_seconds=request.timeout_seconds,
        within=within,
        terms={
            "block": request.block,
            "model": price.model,
            "usesOwnKey": request.uses_own_key,
            "priceVersion": price.rate_card_version,
            "rule": price.rule,
        },
        fingerprint=request.fingerprint(),
        actor=request.actor,
        request_id=request.request_id,
    )


def _capture(book: Book, hold: Hold, credits: int, request: CaptureRequest) -> Posted | None:
    """Draw `credits` of the hold and close it."""
    cause = Cause(
        actor=request.actor,
        task_id=request.task_id,
        block_run_id=request.block_run_id,
        request_id=request.request_id,
    )
    entry = claims.draw(book, hold, credits, cause) if credits else None
    claims.release(book, hold, HoldStatus.CAPTURED)
    return entry


def _run_of(book: Book, task: TaskState, hold: Hold, entry: Posted | None) -> BlockRunState:
    return BlockRunState(
        book.account_id,
        hold.block_run_id or "",
        hold.task_id,
        task.steps,
        hold.terms["block"],
        hold.terms["model"],
        hold.captured,
        0,
        hold.terms["usesOwnKey"],
        book.at,
        hold.terms["priceVersion"],
        hold.terms["rule"],
        entry.line.seq if entry else None,
    )


async def _entry(posting: Posting, run: BlockRunState) -> Posted | None:
    if run.entry_seq is None:
        return None
    key = (run.account_id, run.entry_seq)
    return (await statements.entries_by_seq([key], using=posting.connection))[key]
