"""Work that is priced by measure: credits are held before it, at the most it may cost, and captured after it.

The block run is the hold's identity: one hold per block run, for ever. Capture, void and expiry are decided under the
account's lock, so whichever comes first is the one; every call again gets the first answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from app.audit_log.records import AuditContext
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
from app.ledger import posting, queries
from app.ledger.posting import Posting
from app.ledger.rules import holds
from app.ledger.rules.account_state import AccountBalance, AccountState, Cause, Hold, HoldStatus, LedgerEntry
from app.ledger.rules.holds import MAX_TIMEOUT_SECONDS
from app.pricing.measurements import Measurements
from app.pricing.quotes import Quote, price_by_recorded_rule, quote
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import rows, task_accounts
from app.tasks.budgets import renew_budget, require_open_budget, stop_task
from app.tasks.charging import ensure_fresh_rate_cards, rate_card_at
from app.tasks.rules import (
    BlockRunState,
    TaskState,
    apply_charge,
    bump_task_version,
    check_not_ended,
    check_not_stopped,
    measurement_values,
    request_hash,
)

T = TypeVar("T")


class OverHold(StrEnum):
    """What a capture does that is priced above its hold."""

    REFUSE = "REFUSE"
    CAP = "CAP"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceHoldRequest:
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
    audit: AuditContext | None = None

    def check(self) -> None:
        """Raises: InvalidInput."""
        if not 1 <= self.timeout_seconds <= MAX_TIMEOUT_SECONDS:
            raise InvalidInput.at("timeoutSeconds", f"must lie between 1 and {MAX_TIMEOUT_SECONDS:,} (24 hours)")

    def request_hash(self) -> bytes:
        return request_hash(
            "placeHold",
            self.task_id,
            self.block_run_id,
            self.block,
            self.settings or {},
            self.uses_own_key,
            measurement_values(self.at_most),
            self.timeout_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureHoldRequest:
    """What the block run turned out to measure."""

    task_id: str
    block_run_id: str
    measurements: Measurements
    over_hold: OverHold = OverHold.REFUSE
    actor: str
    request_id: str | None = None
    audit: AuditContext | None = None

    def request_hash(self) -> bytes:
        return request_hash(
            "captureHold", self.task_id, self.block_run_id, measurement_values(self.measurements), self.over_hold.value
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldResult:
    """A hold after the call. A capture has the block run, and its entry where it cost anything."""

    hold: Hold
    task: TaskState
    balance: AccountBalance
    replayed: bool
    block_run: BlockRunState | None = None
    entry: LedgerEntry | None = None


async def place_hold(request: PlaceHoldRequest, rate_cards: RateCardCache) -> HoldResult:
    """Hold the most that a block run may cost. Like a refused charge, a hold that cannot be paid stops its task.

    Raises: InvalidInput, TaskNotFound, TaskEnded, TaskStopped, PriceNotFound, MeasurementMissing, InsufficientCredits,
    BudgetReached; IdempotencyConflict: the block run is held by another request, or charged already.
    """
    request.check()
    account_id = await _account_of(request.task_id)
    await ensure_fresh_rate_cards(rate_cards)

    async def decide(posting: Posting) -> HoldResult | InsufficientCredits | BudgetReached | TaskStopped:
        book = posting.accounts[account_id]
        task, hold, run = _found(posting, book, request.task_id, request.block_run_id)
        if hold is not None:
            if hold.request_hash != request.request_hash():
                raise IdempotencyConflict(key=request.block_run_id)
            return HoldResult(hold=hold, task=task, balance=book.balance(), replayed=True)
        if run is not None:
            raise IdempotencyConflict(key=request.block_run_id)
        check_not_ended(task)
        price = quote(
            await rate_card_at(rate_cards, book),
            request.block,
            request.settings,
            uses_own_key=request.uses_own_key,
            measurements=request.at_most,
        )
        if price.credits:
            check_not_stopped(task)
        try:
            hold = _place(book, task, price, request)
        except (InsufficientCredits, BudgetReached, TaskStopped) as refusal:
            # Returned, so that the stop is committed.
            stopped = stop_task(posting, book, task, refusal, required=price.credits, audit=request.audit)
            rows.update_task(posting.write, stopped)
            return refusal
        renew_budget(book, task)
        task = bump_task_version(task)
        rows.update_task(posting.write, task)
        subject = f"task {request.task_id} block run {request.block_run_id}"
        after = {"status": hold.status, "held": hold.remaining}
        posting.record_audit(request.audit, book, subject=subject, before=None, after=after)
        posting.publish_change(account_id)
        return HoldResult(hold=hold, task=task, balance=book.balance(), replayed=False)

    outcome = await _post(account_id, request.task_id, request.block_run_id, decide)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def capture_hold(request: CaptureHoldRequest) -> HoldResult:
    """Charge what the block run measured, at the prices recorded at placing, and let go of the rest.

    Of a task that was stopped or has ended meanwhile too: the work is done. Raises: TaskNotFound, HoldNotFound;
    HoldClosed: voided or expired before; HoldExceeded, MeasurementMissing, BalanceLimitReached; IdempotencyConflict:
    captured by another request, or charged without the hold.
    """
    account_id = await _account_of(request.task_id)

    async def decide(posting: Posting) -> HoldResult:
        book = posting.accounts[account_id]
        task, hold, run = _found(posting, book, request.task_id, request.block_run_id)
        if hold is None or hold.task_id != request.task_id:
            raise HoldNotFound(task_id=request.task_id, block_run_id=request.block_run_id)
        if hold.status is HoldStatus.CAPTURED:
            if hold.capture_request_hash != request.request_hash() or run is None:
                raise IdempotencyConflict(key=request.block_run_id)
            entry = await _entry(posting, run)
            return HoldResult(hold=hold, task=task, balance=book.balance(), replayed=True, block_run=run, entry=entry)
        if not hold.is_open:
            raise HoldClosed(block_run_id=request.block_run_id, status=hold.status)
        if run is not None:
            raise IdempotencyConflict(key=request.block_run_id)
        before = {"status": hold.status, "held": hold.remaining}
        priced = price_by_recorded_rule(hold.terms["block"], hold.terms["rule"], request.measurements)
        if priced > hold.credits and request.over_hold is OverHold.REFUSE:
            raise HoldExceeded(block_run_id=request.block_run_id, required_credits=priced, held_credits=hold.credits)
        entry = _capture(book, hold, min(priced, hold.credits), request)
        hold.priced_credits = priced
        hold.capture_request_hash = request.request_hash()
        renew_budget(book, task)
        task = apply_charge(task, hold.captured)
        run = _run_of(book, task, hold, entry)
        rows.update_task(posting.write, task)
        rows.insert_block_run(
            posting.write,
            run,
            request_hash=request.request_hash(),
            actor=request.actor,
            request_id=request.request_id,
        )
        subject = f"task {request.task_id} block run {request.block_run_id}"
        after = {"status": hold.status, "held": 0, "cost": run.cost}
        posting.record_audit(request.audit, book, subject=subject, before=before, after=after)
        posting.publish_change(account_id)
        return HoldResult(hold=hold, task=task, balance=book.balance(), replayed=False, block_run=run, entry=entry)

    return await _post(account_id, request.task_id, request.block_run_id, decide)


async def void_hold(task_id: str, block_run_id: str, *, audit: AuditContext | None = None) -> HoldResult:
    """Let go of a hold whose block run was not run.

    Raises: TaskNotFound, HoldNotFound; HoldClosed: captured or expired before.
    """
    account_id = await _account_of(task_id)

    async def decide(posting: Posting) -> HoldResult:
        book = posting.accounts[account_id]
        task, hold, _ = _found(posting, book, task_id, block_run_id)
        if hold is None or hold.task_id != task_id:
            raise HoldNotFound(task_id=task_id, block_run_id=block_run_id)
        if hold.status is HoldStatus.VOIDED:
            return HoldResult(hold=hold, task=task, balance=book.balance(), replayed=True)
        if not hold.is_open:
            raise HoldClosed(block_run_id=block_run_id, status=hold.status)
        before = {"status": hold.status, "held": hold.remaining}
        holds.close_hold(book, hold, HoldStatus.VOIDED)
        subject = f"task {task_id} block run {block_run_id}"
        posting.record_audit(audit, book, subject=subject, before=before, after={"status": hold.status, "held": 0})
        task = bump_task_version(task)
        rows.update_task(posting.write, task)
        posting.publish_change(account_id)
        return HoldResult(hold=hold, task=task, balance=book.balance(), replayed=False)

    return await _post(account_id, task_id, block_run_id, decide)


async def _account_of(task_id: str) -> int:
    account_id = await task_accounts.find_account(task_id)
    if account_id is None:
        raise TaskNotFound(task_id=task_id)
    return account_id


async def _post(account_id: int, task_id: str, block_run_id: str, decide: posting.Decide[T]) -> T:
    task, run = [(account_id, task_id)], [(account_id, block_run_id)]
    return await posting.post(
        [account_id],
        decide,
        reads=[rows.read_tasks(task), rows.read_block_runs(run)],
        holds=[rows.read_budgets(task), rows.read_holds(run)],
    )


def _found(
    posting: Posting, book: AccountState, task_id: str, block_run_id: str
) -> tuple[TaskState, Hold | None, BlockRunState | None]:
    tasks, runs = posting.rows
    if not tasks:
        raise TaskNotFound(task_id=task_id)
    hold = next((hold for hold in book.holds.values() if hold.block_run_id == block_run_id), None)
    return rows.task_from_row(tasks[0]), hold, rows.block_run_from_row(runs[0]) if runs else None


def _place(book: AccountState, task: TaskState, price: Quote, request: PlaceHoldRequest) -> Hold:
    within = require_open_budget(book, task) if task.budget_hold is not None and price.credits else None
    return holds.place_hold(
        book,
        price.credits,
        task_id=request.task_id,
        block_run_id=request.block_run_id,
        timeout_seconds=request.timeout_seconds,
        parent_budget=within,
        terms={
            "block": request.block,
            "model": price.model,
            "usesOwnKey": request.uses_own_key,
            "rateCardVersion": price.rate_card_version,
            "rule": price.rule,
        },
        request_hash=request.request_hash(),
        actor=request.actor,
        request_id=request.request_id,
    )


def _capture(book: AccountState, hold: Hold, credits: int, request: CaptureHoldRequest) -> LedgerEntry | None:
    """Draw `credits` of the hold and close it."""
    cause = Cause(
        actor=request.actor,
        task_id=request.task_id,
        block_run_id=request.block_run_id,
        request_id=request.request_id,
    )
    entry = holds.charge_hold(book, hold, credits, cause) if credits else None
    holds.close_hold(book, hold, HoldStatus.CAPTURED)
    return entry


def _run_of(book: AccountState, task: TaskState, hold: Hold, entry: LedgerEntry | None) -> BlockRunState:
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
        hold.terms["rateCardVersion"],
        hold.terms["rule"],
        entry.seq if entry else None,
    )


async def _entry(posting: Posting, run: BlockRunState) -> LedgerEntry | None:
    if run.entry_seq is None:
        return None
    key = (run.account_id, run.entry_seq)
    return (await queries.get_entries([key], connection=posting.connection))[key]
