"""Reverses the cost of a block run or of a whole task, even after the task has ended.

Credits return to the grants that paid, never to a hold or budget. Never more is reversed than was charged.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from app.audit_log.records import AuditContext
from app.credits import check_amount, check_key
from app.errors import BlockRunNotFound, InvalidInput, ReversalExceedsCharge
from app.ledger import idempotency, posting, queries
from app.ledger.grants import reason_problems
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import AccountBalance, AccountState, Cause, LedgerEntry
from app.tasks import rows, task_accounts
from app.tasks.rules import BlockRunState, TaskState, apply_reversal

BLOCK_RUNS_PER_TRANSACTION: Final = 500
"""The most block runs that one transaction of `reverse_task` reverses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversal:
    """The credits reversed for one block run, with the task and the balance after the reversal."""

    credits: int
    entry: LedgerEntry
    block_run: BlockRunState
    task: TaskState
    balance: AccountBalance
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReversal:
    """The credits reversed for a whole task; 0 if it cost nothing. `entries` counts the entries, one per block run."""

    credits: int
    entries: int
    task: TaskState
    balance: AccountBalance
    replayed: bool


async def reverse_charge(
    task_id: str,
    block_run_id: str,
    *,
    credits: int | None,
    reason: str,
    idempotency_key: str,
    actor: str,
    request_id: str | None = None,
    audit: AuditContext | None = None,
) -> Reversal:
    """Reverse `credits` of one charge. If `credits` is None, everything that was not reversed before is reversed.

    Raises: TaskNotFound, BlockRunNotFound, ReversalExceedsCharge, IdempotencyConflict, InvalidInput,
    BalanceLimitReached.
    """
    if credits is not None:
        check_amount(credits)
    account_id = await _check(task_id, reason, idempotency_key)
    request_hash = idempotency.hash_request(
        "reverseCharge", {"taskId": task_id, "blockRunId": block_run_id, "credits": credits, "reason": reason}
    )

    async def decide(posting: Posting) -> Reversal:
        account = posting.accounts[account_id]
        first = await idempotency.find_result(posting, account, idempotency_key, request_hash)
        task, run = get_task_and_block_run(posting, task_id, block_run_id)
        if first is not None:
            entry_key = (account_id, int(first["seq"]))
            entries = await queries.get_entries([entry_key], connection=posting.connection)
            return Reversal(
                credits=first["credits"],
                entry=entries[entry_key],
                block_run=run,
                task=task,
                balance=account.balance(),
                replayed=True,
            )
        before = account.balance().audit_fields() | {"reversed": run.reversed}
        cause = Cause(actor=actor, reason=reason, task_id=task_id, block_run_id=block_run_id, request_id=request_id)
        given, entry = await reverse_block_run(posting, account, run, credits, cause)
        run = run._replace(reversed=run.reversed + given)
        task = apply_reversal(task, given)
        rows.update_reversed(posting.write, run)
        rows.update_task(posting.write, task)
        idempotency.save_result(
            posting,
            account,
            idempotency_key,
            kind="reverseCharge",
            request_hash=request_hash,
            result={"seq": entry.seq, "credits": given},
        )
        after = account.balance().audit_fields() | {"reversed": run.reversed}
        subject = f"task {task_id} block run {block_run_id}"
        posting.record_audit(audit, account, subject=subject, reason=reason, before=before, after=after)
        return Reversal(credits=given, entry=entry, block_run=run, task=task, balance=account.balance(), replayed=False)

    reads = [rows.read_tasks([(account_id, task_id)]), rows.read_block_runs([(account_id, block_run_id)])]
    return await posting.post([account_id], decide, reads=reads)


async def reverse_task(
    task_id: str,
    *,
    reason: str,
    idempotency_key: str,
    actor: str,
    request_id: str | None = None,
    audit: AuditContext | None = None,
) -> TaskReversal:
    """Reverse everything that a task costs at the time of the call. The cost of its children is not reversed.

    Each transaction reverses up to BLOCK_RUNS_PER_TRANSACTION block runs, so that the account is not locked for long.
    If the request is interrupted, a repetition with the same key continues it and returns the result of both together.
    Raises: TaskNotFound, IdempotencyConflict, InvalidInput, BalanceLimitReached.
    """
    account_id = await _check(task_id, reason, idempotency_key)
    request_hash = idempotency.hash_request("reverseTask", {"taskId": task_id, "reason": reason})
    has_reversed = False

    async def decide(posting: Posting) -> TaskReversal | None:
        """Reverse the next block runs. Return the total of all transactions, or None if more block runs are left."""
        account, task = posting.accounts[account_id], rows.posted_task(posting, task_id)
        first = await idempotency.find_result(posting, account, idempotency_key, request_hash)
        progress = _Progress(up_to=task.steps)
        if first is not None:
            saved = await idempotency.find_progress(posting, account, idempotency_key) if "upTo" in first else None
            progress = _Progress(**saved) if saved else _Progress(**first, is_complete=True)
        if progress.is_complete:
            return _task_reversal(account, task, progress, replayed=not has_reversed)
        cause = Cause(actor=actor, reason=reason, task_id=task_id, request_id=request_id)
        before = account.balance().audit_fields() | {"reversed": task.reversed}
        progress, task = await _reverse_block_runs(posting, account, task, progress, cause)
        if first is None:
            result = {"credits": progress.credits, "entries": progress.entries}
            idempotency.save_result(
                posting,
                account,
                idempotency_key,
                kind="reverseTask",
                request_hash=request_hash,
                result=result if progress.is_complete else {"upTo": progress.up_to},
            )
        if first is not None or not progress.is_complete:
            idempotency.save_progress(
                posting,
                account,
                idempotency_key,
                step=progress.position,
                kind="reverseTask",
                request_hash=request_hash,
                result=progress._asdict(),
            )
        after = account.balance().audit_fields() | {"reversed": task.reversed}
        posting.record_audit(audit, account, subject=f"task {task_id}", reason=reason, before=before, after=after)
        return _task_reversal(account, task, progress, replayed=False) if progress.is_complete else None

    while True:
        result = await posting.post([account_id], decide, reads=[rows.read_tasks([(account_id, task_id)])])
        if result is not None:
            return result
        has_reversed = True


class _Progress(NamedTuple):
    """The progress of a reversal of a task: block runs up to position `position` of `up_to` are reversed."""

    up_to: int = 0
    position: int = 0
    credits: int = 0
    entries: int = 0
    is_complete: bool = False


def _task_reversal(account: AccountState, task: TaskState, progress: _Progress, *, replayed: bool) -> TaskReversal:
    return TaskReversal(
        credits=progress.credits,
        entries=progress.entries,
        task=task,
        balance=account.balance(),
        replayed=replayed,
    )


async def _reverse_block_runs(
    posting: Posting, account: AccountState, task: TaskState, progress: _Progress, cause: Cause
) -> tuple[_Progress, TaskState]:
    """Reverse the block runs at the next positions, with one entry each."""
    last = min(progress.up_to, progress.position + BLOCK_RUNS_PER_TRANSACTION)
    runs = await rows.find_reversible_block_runs(posting, task, after_position=progress.position, up_to=last)
    await posting.load_grants(account, {number for _, draws in runs for number, _ in draws})
    for run, draws in runs:
        back = balance_changes.reversal_draws(draws, already_reversed=run.reversed, credits=run.cost - run.reversed)
        balance_changes.reverse(account, back, cause._replace(block_run_id=run.block_run_id))
        rows.update_reversed(posting.write, run._replace(reversed=run.cost))
    given = sum(run.cost - run.reversed for run, _ in runs)
    if given:
        task = apply_reversal(task, given)
        rows.update_task(posting.write, task)
    return (
        progress._replace(
            position=last,
            credits=progress.credits + given,
            entries=progress.entries + len(runs),
            is_complete=last == progress.up_to,
        ),
        task,
    )


async def _check(task_id: str, reason: str, idempotency_key: str) -> int:
    """Return the account id of the task. Raises: InvalidInput, TaskNotFound."""
    check_key(idempotency_key, path="idempotencyKey")
    if problems := reason_problems(reason):
        raise InvalidInput(problems=problems)
    return await task_accounts.require_account(task_id)


def get_task_and_block_run(posting: Posting, task_id: str, block_run_id: str) -> tuple[TaskState, BlockRunState]:
    """Return the task and the block run from the rows of `read_tasks` and `read_block_runs`.

    Raises: TaskNotFound, BlockRunNotFound.
    """
    task = rows.posted_task(posting, task_id)
    for run, _ in rows.block_runs_with_hash(posting.rows[1]):
        if run.task_id == task_id:
            return task, run
    raise BlockRunNotFound(task_id=task_id, block_run_id=block_run_id)


async def reverse_block_run(
    posting: Posting, account: AccountState, run: BlockRunState, credits: int | None, cause: Cause
) -> tuple[int, LedgerEntry]:
    """Reverse `credits` of a block run's charge.

    If `credits` is None, everything that was not reversed before is reversed.
    Returns: the reversed credits and their entry. Raises: ReversalExceedsCharge, BalanceLimitReached.
    """
    left = run.cost - run.reversed
    wanted = left if credits is None else credits
    if wanted > left or not wanted or run.entry_seq is None:
        raise ReversalExceedsCharge(requested_credits=wanted, reversible_credits=left)
    charge_key = (run.account_id, run.entry_seq)
    charge = (await queries.get_entries([charge_key], connection=posting.connection))[charge_key]
    draws = balance_changes.reversal_draws(charge.draws, already_reversed=run.reversed, credits=wanted)
    await posting.load_grants(account, [number for number, _ in draws])
    return wanted, balance_changes.reverse(account, draws, cause)[0]
