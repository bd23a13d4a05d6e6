"""Out of which pocket a task pays, and what happens where it is empty.

A task without a budget pays from what the account has available. One with a budget pays from its envelope and from
nothing else; a nested task without a budget of its own pays from the envelope of the task around it. Whatever could not
be paid stops the task, under the account's lock: from that commit on no worker admits a paid block run of it.
"""

from collections.abc import Iterable
from typing import Final

from app.audit_log.records import AuditContext
from app.errors import BillingError, BudgetReached, InsufficientCredits, TaskStopped
from app.ledger import notifications
from app.ledger.notifications import NotificationKind
from app.ledger.posting import Posting
from app.ledger.rules import balance_changes, holds
from app.ledger.rules.account_state import AccountState, Cause, Hold, LedgerEntry
from app.tasks.rules import ENDED_STATUSES, StopReason, TaskState, apply_stop

# `timeout_seconds > 0` is always true, and opens the index of open holds by task (migration 0004).
_WITH_OPEN_HOLDS: Final = """
    SELECT DISTINCT account_id, task_id FROM hold
    WHERE account_id = ANY($1::bigint[]) AND task_id = ANY($2::text[]) AND status = 'OPEN' AND timeout_seconds > 0
"""


def pay(book: AccountState, task: TaskState, credits: int, cause: Cause, *, closing: bool = False) -> LedgerEntry:
    """Take the credits (> 0). Raises: InsufficientCredits, BudgetReached, TaskStopped (the envelope is gone)."""
    if task.budget_hold is None:
        try:
            return balance_changes.charge(book, credits, cause)
        except InsufficientCredits as refusal:
            refusal.balance = book.balance()
            raise
    return holds.charge_hold(book, require_open_budget(book, task), credits, cause, is_closing=closing)


def require_open_budget(book: AccountState, task: TaskState) -> Hold:
    """The envelope that pays for `task`. Raises: TaskStopped: it has lapsed, or ended with the task that it was for."""
    envelope = book.holds.get(task.budget_hold) if task.budget_hold is not None else None
    if envelope is None or not envelope.is_open:
        raise TaskStopped(task_id=task.task_id, stop_reason=StopReason.BUDGET_EXPIRED)
    return envelope


def own_budget(book: AccountState, task: TaskState) -> Hold | None:
    """The envelope that was made for `task` itself, open or not; None where it has none, or draws on another's."""
    envelope = book.holds.get(task.budget_hold) if task.budget_hold is not None else None
    return envelope if envelope is not None and envelope.task_id == task.task_id else None


def renew_budget(book: AccountState, task: TaskState) -> None:
    """Somebody works on `task`: the timeouts of what pays for it start anew."""
    envelope = book.holds.get(task.budget_hold) if task.budget_hold is not None else None
    if envelope is not None and envelope.is_open:
        holds.renew_timeout(book, envelope)


def stop_task(
    posting: Posting,
    book: AccountState,
    task: TaskState,
    refusal: BillingError,
    *,
    required: int,
    audit: AuditContext | None = None,
) -> TaskState:
    """The task after a block run of `required` credits that `refusal` says cannot be paid. The caller writes it; that
    `act` has stopped it stands in the trail.
    """
    posting.signal_tasks(book.account_id)
    after = _stopped(posting, book, task, refusal, required)
    said = {"status": after.status, "stopReason": after.stop_reason, "required": required}
    posting.record_audit(audit, book, subject=f"task {task.task_id}", before={"status": task.status}, after=said)
    return after


def _stopped(posting: Posting, book: AccountState, task: TaskState, refusal: BillingError, required: int) -> TaskState:
    if isinstance(refusal, InsufficientCredits):
        refusal.balance = book.balance()
        missing = refusal.shortfall_credits
        notifications.notify(
            book,
            posting.write,
            NotificationKind.OUT_OF_CREDITS,
            f"Agent {task.agent_id!r} was stopped: a block run costs {required:,} credits, and "
            f"{refusal.available_credits:,} are available.",
            agent_id=task.agent_id,
        )
        return apply_stop(task, StopReason.OUT_OF_CREDITS, required=required, shortfall=missing)
    if isinstance(refusal, BudgetReached):
        return apply_stop(task, StopReason.BUDGET_REACHED, required=required, shortfall=refusal.shortfall_credits)
    return apply_stop(task, StopReason.BUDGET_EXPIRED, required=required, shortfall=required)


async def find_tasks_to_stop(posting: Posting, tasks: Iterable[TaskState]) -> set[tuple[int, str]]:
    """Those of the tasks, by (account, task id), that have nothing left to be paid with, as the books stand now.

    A task that holds the account's last credits has: its own hold is no reason to stop it.
    """
    stops: set[tuple[int, str]] = set()
    unsure: set[tuple[int, str]] = set()
    for task in tasks:
        if task.status in ENDED_STATUSES:
            continue
        book = posting.accounts[task.account_id]
        if task.budget_hold is not None:
            envelope = book.holds.get(task.budget_hold)
            if envelope is None or not envelope.is_open or not envelope.remaining:
                stops.add((task.account_id, task.task_id))
        elif not book.available:
            (unsure if book.open_holds else stops).add((task.account_id, task.task_id))
    if unsure:
        # Rarely anything: an account without available credits that has open holds.
        accounts = [account_id for account_id, _ in unsure]
        _, found = await posting.connection.execute_query(_WITH_OPEN_HOLDS, [accounts, [name for _, name in unsure]])
        stops |= unsure - {(record["account_id"], record["task_id"]) for record in found}
    return stops
