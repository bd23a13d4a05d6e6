"""Giving back what a block run or a whole task cost: never more than it took, into the grants it came from.

Never into a hold or an envelope: what comes back is the account's. On a task that has ended too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.audit_log.records import AuditContext
from app.credits import check_amount, check_key
from app.errors import BlockRunNotFound, InvalidInput, ReversalExceedsCharge, TaskNotFound
from app.ledger import idempotency, posting, queries
from app.ledger.grants import reason_problems
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes
from app.ledger.rules.account_state import AccountBalance, AccountState, Cause, LedgerEntry
from app.tasks import rows, task_accounts
from app.tasks.rules import BlockRunState, TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversal:
    """What was given back, with the task and the balance after it."""

    credits: int
    entry: LedgerEntry
    block_run: BlockRunState
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
    """Give back `credits` of one charge; None: what is left of it. On an ended task too.

    Raises: TaskNotFound, BlockRunNotFound, ReversalExceedsCharge, IdempotencyConflict, InvalidInput.
    """
    check_key(idempotency_key, path="idempotencyKey")
    if credits is not None:
        check_amount(credits)
    if problems := reason_problems(reason):
        raise InvalidInput(problems=problems)
    account_id = await task_accounts.find_account(task_id)
    if account_id is None:
        raise TaskNotFound(task_id=task_id)
    print_ = idempotency.hash_request(
        "reverseCharge", {"taskId": task_id, "blockRunId": block_run_id, "credits": credits, "reason": reason}
    )

    async def decide(posting: Posting) -> Reversal:
        book = posting.accounts[account_id]
        first = await idempotency.find_result(posting, book, idempotency_key, print_)
        task, run = get_task_and_block_run(posting, task_id, block_run_id)
        if first is not None:
            return await _replay(posting, book, task, run, first)
        before = book.balance().audit_fields() | {"reversed": run.reversed}
        cause = Cause(actor=actor, reason=reason, task_id=task_id, block_run_id=block_run_id, request_id=request_id)
        given, entry = await reverse_block_run(posting, book, run, credits, cause)
        run = run._replace(reversed=run.reversed + given)
        task = task._replace(reversed=task.reversed + given, version=task.version + 1)
        rows.update_reversed(posting.write, run)
        rows.update_task(posting.write, task)
        idempotency.save_result(
            posting,
            book,
            idempotency_key,
            kind="reverseCharge",
            request_hash=print_,
            result={"seq": entry.seq, "credits": given},
        )
        after = book.balance().audit_fields() | {"reversed": run.reversed}
        subject = f"task {task_id} block run {block_run_id}"
        posting.record_audit(audit, book, subject=subject, reason=reason, before=before, after=after)
        return Reversal(credits=given, entry=entry, block_run=run, task=task, balance=book.balance(), replayed=False)

    return await posting.post(
        [account_id],
        decide,
        reads=[
            rows.read_tasks([(account_id, task_id)]),
            rows.read_block_runs([(account_id, block_run_id)]),
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReversal:
    """What was given back of a whole task: 0 where nothing was left. `entries`: one for each block run."""

    credits: int
    entries: int
    task: TaskState
    balance: AccountBalance
    replayed: bool


async def reverse_task(
    task_id: str,
    *,
    reason: str,
    idempotency_key: str,
    actor: str,
    request_id: str | None = None,
    audit: AuditContext | None = None,
) -> TaskReversal:
    """Give back all that a task still costs, in one transaction. Its children stand apart.

    Raises: TaskNotFound, IdempotencyConflict, InvalidInput, BalanceLimitReached.
    """
    check_key(idempotency_key, path="idempotencyKey")
    if problems := reason_problems(reason):
        raise InvalidInput(problems=problems)
    account_id = await task_accounts.find_account(task_id)
    if account_id is None:
        raise TaskNotFound(task_id=task_id)
    print_ = idempotency.hash_request("reverseTask", {"taskId": task_id, "reason": reason})

    async def decide(posting: Posting) -> TaskReversal:
        book = posting.accounts[account_id]
        tasks, runs = posting.rows
        if not tasks:
            raise TaskNotFound(task_id=task_id)
        task = rows.task_from_row(tasks[0])
        first = await idempotency.find_result(posting, book, idempotency_key, print_)
        if first is not None:
            return TaskReversal(
                credits=first["credits"], entries=first["entries"], task=task, balance=book.balance(), replayed=True
            )
        before = book.balance().audit_fields() | {"reversed": task.reversed}
        cause = Cause(actor=actor, reason=reason, task_id=task_id, request_id=request_id)
        given = await _give_back_all(posting, book, task, runs, cause)
        if given:
            task = task._replace(reversed=task.reversed + given, version=task.version + 1)
            rows.update_task(posting.write, task)
        result = {"credits": given, "entries": len(runs)}
        idempotency.save_result(posting, book, idempotency_key, kind="reverseTask", request_hash=print_, result=result)
        after = book.balance().audit_fields() | {"reversed": task.reversed}
        posting.record_audit(audit, book, subject=f"task {task_id}", reason=reason, before=before, after=after)
        return TaskReversal(credits=given, entries=len(runs), task=task, balance=book.balance(), replayed=False)

    tasks = [(account_id, task_id)]
    return await posting.post(
        [account_id], decide, reads=[rows.read_tasks(tasks), rows.read_reversible_block_runs(tasks)]
    )


async def _give_back_all(
    posting: Posting, book: AccountState, task: TaskState, runs: Sequence[Sequence[Any]], cause: Cause
) -> int:
    """One entry for each block run that still costs something. Returns: the credits given back."""
    found = [(rows.block_run_from_row(row), json.loads(row[rows.BLOCK_RUN_WIDTH])) for row in runs]
    await posting.load_grants(book, {number for _, draws in found for number, _ in draws})
    for run, drawn in found:
        draws = balance_changes.reversal_draws(drawn, already_reversed=run.reversed, credits=run.cost - run.reversed)
        balance_changes.reverse(book, draws, cause._replace(block_run_id=run.block_run_id))
        rows.update_reversed(posting.write, run._replace(reversed=run.cost))
    return sum(run.cost - run.reversed for run, _ in found)


def get_task_and_block_run(posting: Posting, task_id: str, block_run_id: str) -> tuple[TaskState, BlockRunState]:
    """The task and the block run that the posting has read. Raises: TaskNotFound, BlockRunNotFound."""
    tasks, runs = posting.rows
    if not tasks:
        raise TaskNotFound(task_id=task_id)
    if not runs or (run := rows.block_run_from_row(runs[0])).task_id != task_id:
        raise BlockRunNotFound(task_id=task_id, block_run_id=block_run_id)
    return rows.task_from_row(tasks[0]), run


async def reverse_block_run(
    posting: Posting, book: AccountState, run: BlockRunState, credits: int | None, cause: Cause
) -> tuple[int, LedgerEntry]:
    """Give back `credits` of a block run's charge; None: what is left of it. Returns: how much, and its entry.

    Raises: ReversalExceedsCharge, BalanceLimitReached.
    """
    left = run.cost - run.reversed
    wanted = left if credits is None else credits
    if wanted > left or not wanted or run.entry_seq is None:
        raise ReversalExceedsCharge(requested_credits=wanted, reversible_credits=left)
    charge_key = (run.account_id, run.entry_seq)
    charge = (await queries.get_entries([charge_key], connection=posting.connection))[charge_key]
    draws = balance_changes.reversal_draws(charge.draws, already_reversed=run.reversed, credits=wanted)
    await posting.load_grants(book, [number for number, _ in draws])
    return wanted, balance_changes.reverse(book, draws, cause)[0]


async def _replay(
    posting: Posting, book: AccountState, task: TaskState, run: BlockRunState, first: dict[str, Any]
) -> Reversal:
    entry_key = (book.account_id, int(first["seq"]))
    entries = await queries.get_entries([entry_key], connection=posting.connection)
    return Reversal(
        credits=first["credits"],
        entry=entries[entry_key],
        block_run=run,
        task=task,
        balance=book.balance(),
        replayed=True,
    )
