"""Holds: credits that are claimed before a block run that is priced by measurement, and captured after it.

The block run id identifies the hold; a block run never has more than one. Capture, void and expiry are decided under
the account's lock. The first of them takes effect, and a repeated call returns the first result. While the hold is
open, `charge` refuses the block run, and a block run that was charged gets no hold. So a block run is never paid for
twice.
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
    TaskStopped,
)
from app.ledger import posting, queries
from app.ledger.posting import Posting
from app.ledger.rules import holds as hold_rules
from app.ledger.rules.account_state import AccountBalance, AccountState, Cause, Hold, HoldStatus, LedgerEntry
from app.ledger.rules.holds import MAX_TIMEOUT_SECONDS
from app.pricing.measurements import Measurements
from app.pricing.quotes import Quote, price_by_recorded_rule, quote
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import rows, task_accounts
from app.tasks.budgets import renew_budget, require_open_budget
from app.tasks.charging import ensure_fresh_rate_cards, rate_card_at
from app.tasks.rules import (
    BlockRunState,
    TaskState,
    apply_charge,
    bump_task_version,
    check_cost_limit,
    check_not_ended,
    check_not_stopped,
    measurement_values,
    request_hash,
)
from app.tasks.stop_and_resume import stop_task

T = TypeVar("T")


class OverHold(StrEnum):
    """What a capture does if its price is above the hold: refuse, or charge only the held credits."""

    REFUSE = "REFUSE"
    CAP = "CAP"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceHoldRequest:
    """A block run that is priced by measurement and is about to run.

    `at_most` contains upper bounds of its measurements.
    """

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
    """The measurements of a block run that has a hold."""

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
    """A hold after a call. `block_run` is None unless the hold is captured; `entry` is None if nothing was charged."""

    hold: Hold
    task: TaskState
    balance: AccountBalance
    replayed: bool
    block_run: BlockRunState | None = None
    entry: LedgerEntry | None = None


async def place_hold(request: PlaceHoldRequest, rate_cards: RateCardCache) -> HoldResult:
    """Hold the highest possible cost of a block run. If too few credits are available, the task stops, as for a charge.

    Raises: InvalidInput, TaskNotFound, TaskEnded, TaskStopped, PriceNotFound, MeasurementMissing, InsufficientCredits,
    BudgetReached; HoldClosed: the hold of this request was voided or has expired, so nothing is held;
    IdempotencyConflict: the block run has a hold for another request, or is already charged.
    """
    request.check()
    account_id = await task_accounts.require_account(request.task_id)
    await ensure_fresh_rate_cards(rate_cards)

    async def decide(posting: Posting) -> HoldResult | InsufficientCredits | BudgetReached | TaskStopped:
        account = posting.accounts[account_id]
        task, hold, run = _read(posting, account, request.task_id, request.block_run_id)
        if hold is not None:
            if hold.request_hash != request.request_hash():
                raise IdempotencyConflict(key=request.block_run_id)
            if hold.status in (HoldStatus.VOIDED, HoldStatus.EXPIRED):
                raise HoldClosed(block_run_id=request.block_run_id, status=hold.status)
            return HoldResult(hold=hold, task=task, balance=account.balance(), replayed=True)
        if run is not None:
            raise IdempotencyConflict(key=request.block_run_id)
        check_not_ended(task)
        price = quote(
            await rate_card_at(rate_cards, posting, account),
            request.block,
            request.settings,
            uses_own_key=request.uses_own_key,
            measurements=request.at_most,
        )
        if price.credits:
            check_not_stopped(task)
        try:
            hold = _place(account, task, price, request)
        except (InsufficientCredits, BudgetReached, TaskStopped) as error:
            stopped = stop_task(posting, account, task, error, required=price.credits, audit=request.audit)
            rows.update_task(posting.write, stopped)
            return error  # not raised, so that the transaction that stops the task is committed
        renew_budget(account, task)
        task = bump_task_version(task)
        _write(posting, account, task, hold, None, audit=request.audit)
        return HoldResult(hold=hold, task=task, balance=account.balance(), replayed=False)

    result = await _post(account_id, request.task_id, request.block_run_id, decide)
    if isinstance(result, Exception):
        raise result
    return result


async def capture_hold(request: CaptureHoldRequest) -> HoldResult:
    """Charge the measured cost at the prices recorded when the hold was placed, and release the rest.

    A task that has stopped or ended is accepted, because the work is done.
    Raises: TaskNotFound, HoldNotFound; HoldClosed: the hold was voided or expired; HoldExceeded, MeasurementMissing,
    BalanceLimitReached; IdempotencyConflict: the hold was captured by another request, or the block run was charged
    without it.
    """
    account_id = await task_accounts.require_account(request.task_id)

    async def decide(posting: Posting) -> HoldResult:
        account = posting.accounts[account_id]
        task, found, run = _read(posting, account, request.task_id, request.block_run_id)
        hold = _require_hold(found, request.task_id, request.block_run_id)
        if hold.status is HoldStatus.CAPTURED:
            if hold.capture_request_hash != request.request_hash() or run is None:
                raise IdempotencyConflict(key=request.block_run_id)
            entry = await _first_entry(posting, run)
            return HoldResult(
                hold=hold, task=task, balance=account.balance(), replayed=True, block_run=run, entry=entry
            )
        if not hold.is_open:
            raise HoldClosed(block_run_id=request.block_run_id, status=hold.status)
        if run is not None:
            raise IdempotencyConflict(key=request.block_run_id)
        before = _audit_state(hold)
        price = price_by_recorded_rule(hold.terms["block"], hold.terms["rule"], request.measurements)
        if price > hold.credits and request.over_hold is OverHold.REFUSE:
            raise HoldExceeded(block_run_id=request.block_run_id, required_credits=price, held_credits=hold.credits)
        credits = min(price, hold.credits)
        check_cost_limit(task, credits)
        entry = _capture(account, hold, credits, request)
        hold.priced_credits = price
        hold.capture_request_hash = request.request_hash()
        renew_budget(account, task)
        task = apply_charge(task, hold.captured)
        run = _block_run_of(account, task, hold, entry)
        rows.insert_block_run(
            posting.write,
            run,
            request_hash=request.request_hash(),
            actor=request.actor,
            request_id=request.request_id,
        )
        _write(posting, account, task, hold, before, audit=request.audit, cost=run.cost)
        return HoldResult(hold=hold, task=task, balance=account.balance(), replayed=False, block_run=run, entry=entry)

    return await _post(account_id, request.task_id, request.block_run_id, decide)


async def void_hold(task_id: str, block_run_id: str, *, audit: AuditContext | None = None) -> HoldResult:
    """Release the hold of a block run that was not run.

    Raises: TaskNotFound, HoldNotFound; HoldClosed: the hold was captured or expired.
    """
    account_id = await task_accounts.require_account(task_id)

    async def decide(posting: Posting) -> HoldResult:
        account = posting.accounts[account_id]
        task, found, _ = _read(posting, account, task_id, block_run_id)
        hold = _require_hold(found, task_id, block_run_id)
        if hold.status is HoldStatus.VOIDED:
            return HoldResult(hold=hold, task=task, balance=account.balance(), replayed=True)
        if not hold.is_open:
            raise HoldClosed(block_run_id=block_run_id, status=hold.status)
        before = _audit_state(hold)
        hold_rules.close_hold(account, hold, HoldStatus.VOIDED)
        task = bump_task_version(task)
        _write(posting, account, task, hold, before, audit=audit)
        return HoldResult(hold=hold, task=task, balance=account.balance(), replayed=False)

    return await _post(account_id, task_id, block_run_id, decide)


async def _post(account_id: int, task_id: str, block_run_id: str, decide: posting.Decide[T]) -> T:
    task, run = [(account_id, task_id)], [(account_id, block_run_id)]
    return await posting.post(
        [account_id],
        decide,
        reads=[rows.read_tasks(task), rows.read_block_runs(run)],
        holds=[rows.read_budgets(task), rows.read_holds(run)],
    )


def _read(
    posting: Posting, account: AccountState, task_id: str, block_run_id: str
) -> tuple[TaskState, Hold | None, BlockRunState | None]:
    """Return the task, and the hold and the block run if they exist. Raises: TaskNotFound."""
    task = rows.posted_task(posting, task_id)
    hold = next((hold for hold in account.holds.values() if hold.block_run_id == block_run_id), None)
    return task, hold, next((run for run, _ in rows.block_runs_with_hash(posting.rows[1])), None)


def _require_hold(hold: Hold | None, task_id: str, block_run_id: str) -> Hold:
    if hold is None or hold.task_id != task_id:
        raise HoldNotFound(task_id=task_id, block_run_id=block_run_id)
    return hold


def _audit_state(hold: Hold) -> dict[str, object]:
    return {"status": hold.status, "held": hold.remaining}


def _write(
    posting: Posting,
    account: AccountState,
    task: TaskState,
    hold: Hold,
    before: dict[str, object] | None,
    *,
    audit: AuditContext | None,
    **more: object,
) -> None:
    """Write the task and the audit record, and publish the change. The ledger writes the hold."""
    rows.update_task(posting.write, task)
    subject = f"task {hold.task_id} block run {hold.block_run_id}"
    posting.record_audit(audit, account, subject=subject, before=before, after=_audit_state(hold) | more)
    posting.publish_change(account.account_id)


def _place(account: AccountState, task: TaskState, price: Quote, request: PlaceHoldRequest) -> Hold:
    budget = require_open_budget(account, task) if task.budget_hold is not None and price.credits else None
    return hold_rules.place_hold(
        account,
        price.credits,
        task_id=request.task_id,
        block_run_id=request.block_run_id,
        timeout_seconds=request.timeout_seconds,
        parent_budget=budget,
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


def _capture(account: AccountState, hold: Hold, credits: int, request: CaptureHoldRequest) -> LedgerEntry | None:
    """Charge `credits` to the hold and close it."""
    cause = Cause(
        actor=request.actor,
        task_id=request.task_id,
        block_run_id=request.block_run_id,
        request_id=request.request_id,
    )
    entry = hold_rules.charge_hold(account, hold, credits, cause) if credits else None
    hold_rules.close_hold(account, hold, HoldStatus.CAPTURED)
    return entry


def _block_run_of(account: AccountState, task: TaskState, hold: Hold, entry: LedgerEntry | None) -> BlockRunState:
    return BlockRunState(
        account_id=account.account_id,
        block_run_id=hold.block_run_id or "",
        task_id=hold.task_id,
        position=task.steps,
        block=hold.terms["block"],
        model=hold.terms["model"],
        cost=hold.captured,
        reversed=0,
        uses_own_key=hold.terms["usesOwnKey"],
        charged_at=max(account.at, hold.placed_at),
        rate_card_version=hold.terms["rateCardVersion"],
        rule=hold.terms["rule"],
        entry_seq=entry.seq if entry else None,
    )


async def _first_entry(posting: Posting, run: BlockRunState) -> LedgerEntry | None:
    if run.entry_seq is None:
        return None
    key = (run.account_id, run.entry_seq)
    return (await queries.get_entries([key], connection=posting.connection))[key]
