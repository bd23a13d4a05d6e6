"""Giving back what a block run or a whole task cost: never more than it took, into the grants it came from.

Never into a hold or an envelope: what comes back is the account's. On a task that has ended too.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.credits import check_amount, check_key
from app.errors import BlockRunNotFound, InvalidInput, ReversalExceedsCharge, TaskNotFound
from app.ledger import operations, posting, rules, statements
from app.ledger.book import Book, Cause, Figures, Posted
from app.ledger.grants import reason_problems
from app.ledger.posting import Posting
from app.tasks import owners, rows
from app.tasks.rules import BlockRunState, TaskState
from app.trail.records import Act


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversed:
    """What was given back, with the task and the balance after it."""

    credits: int
    entry: Posted
    block_run: BlockRunState
    task: TaskState
    balance: Figures
    replayed: bool


async def reverse_charge(
    task_id: str,
    block_run_id: str,
    *,
    credits: int | None,
    reason: str,
    key: str,
    actor: str,
    request_id: str | None = None,
    act: Act | None = None,
) -> Reversed:
    """Give back `credits` of one charge; None: what is left of it. On an ended task too.

    Raises: TaskNotFound, BlockRunNotFound, ReversalExceedsCharge, IdempotencyConflict, InvalidInput.
    """
    check_key(key, path="idempotencyKey")
    if credits is not None:
        check_amount(credits)
    if problems := reason_problems(reason):
        raise InvalidInput(problems)
    account_id = await owners.find(task_id)
    if account_id is None:
        raise TaskNotFound(task_id=task_id)
    print_ = operations.fingerprint(
        "reverseCharge", {"taskId": task_id, "blockRunId": block_run_id, "credits": credits, "reason": reason}
    )

    async def decide(posting: Posting) -> Reversed:
        book = posting.books[account_id]
        first = await operations.replayed(posting, book, key, print_)
        task, run = found(posting, task_id, block_run_id)
        if first is not None:
            return await _replay(posting, book, task, run, first)
        before = book.figures().facts() | {"reversed": run.reversed}
        cause = Cause(actor=actor, reason=reason, task_id=task_id, block_run_id=block_run_id, request_id=request_id)
        given, entry = await give_back(posting, book, run, credits, cause)
        run = run._replace(reversed=run.reversed + given)
        task = task._replace(reversed=task.reversed + given, version=task.version + 1)
        rows.reverse_block_run(posting.write, run)
        rows.change_task(posting.write, task)
        operations.remember(
            posting, book, key, kind="reverseCharge", print_=print_, result={"seq": entry.line.seq, "credits": given}
        )
        after = book.figures().facts() | {"reversed": run.reversed}
        subject = f"task {task_id} block run {block_run_id}"
        posting.leave(act, book, subject=subject, reason=reason, before=before, after=after)
        return Reversed(credits=given, entry=entry, block_run=run, task=task, balance=book.figures(), replayed=False)

    return await posting.post(
        [account_id],
        decide,
        reads=[
            rows.read_tasks([(account_id, task_id)]),
            rows.read_block_runs([(account_id, block_run_id)]),
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReversed:
    """What was given back of a whole task: 0 where nothing was left. `entries`: one for each block run."""

    credits: int
    entries: int
    task: TaskState
    balance: Figures
    replayed: bool


async def reverse_task(
    task_id: str, *, reason: str, key: str, actor: str, request_id: str | None = None, act: Act | None = None
) -> TaskReversed:
    """Give back all that a task still costs, in one transaction. Its children stand apart.

    Raises: TaskNotFound, IdempotencyConflict, InvalidInput, BalanceLimitReached.
    """
    check_key(key, path="idempotencyKey")
    if problems := reason_problems(reason):
        raise InvalidInput(problems)
    account_id = await owners.find(task_id)
    if account_id is None:
        raise TaskNotFound(task_id=task_id)
    print_ = operations.fingerprint("reverseTask", {"taskId": task_id, "reason": reason})

    async def decide(posting: Posting) -> TaskReversed:
        book = posting.books[account_id]
        tasks, runs = posting.rows
        if not tasks:
            raise TaskNotFound(task_id=task_id)
        task = rows.task(tasks[0])
        first = await operations.replayed(posting, book, key, print_)
        if first is not None:
            return TaskReversed(
                credits=first["credits"], entries=first["entries"], task=task, balance=book.figures(), replayed=True
            )
        before = book.figures().facts() | {"reversed": task.reversed}
        cause = Cause(actor=actor, reason=reason, task_id=task_id, request_id=request_id)
        given = await _give_back_all(posting, book, task, runs, cause)
        if given:
            task = task._replace(reversed=task.reversed + given, version=task.version + 1)
            rows.change_task(posting.write, task)
        result = {"credits": given, "entries": len(runs)}
        operations.remember(posting, book, key, kind="reverseTask", print_=print_, result=result)
        after = book.figures().facts() | {"reversed": task.reversed}
        posting.leave(act, book, subject=f"task {task_id}", reason=reason, before=before, after=after)
        return TaskReversed(credits=given, entries=len(runs), task=task, balance=book.figures(), replayed=False)

    tasks = [(account_id, task_id)]
    return await posting.post([account_id], decide, reads=[rows.read_tasks(tasks), rows.read_reversible(tasks)])


async def _give_back_all(
    posting: Posting, book: Book, task: TaskState, runs: Sequence[Sequence[Any]], cause: Cause
) -> int:
    """One entry for each block run that still costs something. Returns: the credits given back."""
    found = [(rows.block_run(row), json.loads(row[rows.BLOCK_RUN_WIDTH])) for row in runs]
    await posting.load_lots(book, {number for _, draws in found for number, _ in draws})
    for run, drawn in found:
        draws = rules.tail(drawn, already=run.reversed, credits=run.cost - run.reversed)
        rules.give_back(book, draws, cause._replace(block_run_id=run.block_run_id))
        rows.reverse_block_run(posting.write, run._replace(reversed=run.cost))
    return sum(run.cost - run.reversed for run, _ in found)


def found(posting: Posting, task_id: str, block_run_id: str) -> tuple[TaskState, BlockRunState]:
    """The task and the block run that the posting has read. Raises: TaskNotFound, BlockRunNotFound."""
    tasks, runs = posting.rows
    if not tasks:
        raise TaskNotFound(task_id=task_id)
    if not runs or (run := rows.block_run(runs[0])).task_id != task_id:
        raise BlockRunNotFound(task_id=task_id, block_run_id=block_run_id)
    return rows.task(tasks[0]), run


async def give_back(
    posting: Posting, book: Book, run: BlockRunState, credits: int | None, cause: Cause
) -> tuple[int, Posted]:
    """Give back `credits` of a block run's charge; None: what is left of it. Returns: how much, and its entry.

    Raises: ReversalExceedsCharge, BalanceLimitReached.
    """
    left = run.cost - run.reversed
    wanted = left if credits is None else credits
    if wanted > left or not wanted or run.entry_seq is None:
        raise ReversalExceedsCharge(requested_credits=wanted, reversible_credits=left)
    charge_key = (run.account_id, run.entry_seq)
    charge = (await statements.entries_by_seq([charge_key], using=posting.connection))[charge_key]
    draws = rules.tail(charge.line.draws, already=run.reversed, credits=wanted)
    await posting.load_lots(book, [number for number, _ in draws])
    return wanted, rules.give_back(book, draws, cause)[0]


async def _replay(posting: Posting, book: Book, task: TaskState, run: BlockRunState, first: dict[str, Any]) -> Reversed:
    entry_key = (book.account_id, int(first["seq"]))
    entries = await statements.entries_by_seq([entry_key], using=posting.connection)
    return Reversed(
        credits=first["credits"],
        entry=entries[entry_key],
        block_run=run,
        task=task,
        balance=book.figures(),
        replayed=True,
    )
