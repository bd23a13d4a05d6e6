"""Budgets: credits held for a whole task. Decides whether a budget or the account pays for a block run.

A task without a budget pays from the account's available credits. A task with a budget pays only from its budget. A
nested task without its own budget draws on the budget of its closest ancestor that has one.
"""

from app.errors import BudgetReached, InvalidInput, TaskStopped
from app.ledger.rules import balance_changes, holds
from app.ledger.rules.account_state import AccountState, Cause, Hold, LedgerEntry
from app.tasks.rules import (
    DEFAULT_BUDGET_TIMEOUT_SECONDS,
    StopReason,
    TaskState,
    check_budget_has_credits,
    check_can_start,
)
from app.wording import quote_value


def pay(account: AccountState, task: TaskState, credits: int, cause: Cause, *, closing: bool = False) -> LedgerEntry:
    """Charge `credits` (> 0) to the budget or the account that pays for `task`.

    Raises: InsufficientCredits, BudgetReached; TaskStopped: the budget is closed.
    """
    if task.budget_hold is not None:
        return holds.charge_hold(account, require_open_budget(account, task), credits, cause, is_closing=closing)
    return balance_changes.charge(account, credits, cause)


def find_budget(account: AccountState, task: TaskState) -> Hold | None:
    """Return the open or closed budget that pays for `task`, its own or an ancestor's. None if the account pays."""
    return account.holds.get(task.budget_hold) if task.budget_hold is not None else None


def require_open_budget(account: AccountState, task: TaskState) -> Hold:
    """Return the budget that pays for `task`. Raises: TaskStopped: it has expired, or has ended with its task."""
    budget = find_budget(account, task)
    if budget is None or not budget.is_open:
        raise TaskStopped(task_id=task.task_id, stop_reason=StopReason.BUDGET_EXPIRED)
    return budget


def own_budget(account: AccountState, task: TaskState) -> Hold | None:
    """Return the open or closed budget of `task` itself. None if it has none or draws on an ancestor's."""
    budget = find_budget(account, task)
    return budget if budget is not None and budget.task_id == task.task_id else None


def renew_budget(account: AccountState, task: TaskState) -> None:
    """Restart the timeout of the budget that pays for `task`, and of the budgets that contain it."""
    budget = find_budget(account, task)
    if budget is not None and budget.is_open:
        holds.renew_timeout(account, budget)


def open_budget(
    account: AccountState,
    parent: TaskState | None,
    *,
    task_id: str,
    credits: int | None,
    timeout_seconds: int | None,
    closing_reserve: int | None,
    request_hash: bytes,
    actor: str,
) -> int | None:
    """Decide what pays for a new task. If `credits` is given, hold a budget for the task.

    The credits of a nested task's budget come from the budget that pays for its parent, if there is one.
    Returns: the number of the budget that pays for the task, or None if the account pays.
    Raises: InsufficientCredits; BudgetReached, TaskStopped: the parent's budget has too few credits, or is closed.
    """
    parent_budget: Hold | None = None
    if parent is not None and parent.budget_hold is not None:
        check_can_start(account, 0)
        parent_budget = check_budget_has_credits(find_budget(account, parent), parent, credits or 1)
    else:
        check_can_start(account, credits or 1)
    if credits is None:
        return parent_budget.number if parent_budget is not None else None
    return holds.place_hold(
        account,
        credits,
        task_id=task_id,
        block_run_id=None,
        timeout_seconds=timeout_seconds or DEFAULT_BUDGET_TIMEOUT_SECONDS,
        parent_budget=parent_budget,
        closing_reserve=closing_reserve or 0,
        terms={"closingReserve": closing_reserve} if closing_reserve else None,
        request_hash=request_hash,
        actor=actor,
    ).number


def fund_resumed_task(
    account: AccountState, task: TaskState, *, add_budget: int | None, needed: int, actor: str
) -> TaskState:
    """Check that credits are available for a task that is being resumed.

    First `add_budget` credits are added to its budget. Its closing reserve is restored, at most up to the amount that
    leaves `needed` credits of the budget outside it.
    Raises: InsufficientCredits, BudgetReached; InvalidInput: the task draws on the budget of another task.
    """
    if add_budget is not None:
        return _add_budget(account, task, add_budget, needed=needed, actor=actor)
    budget = find_budget(account, task)
    check_can_start(account, 1 if budget is None else 0)
    if budget is None:
        return task
    if not budget.is_open or budget.remaining <= budget.closing_reserve:
        raise BudgetReached(task_id=budget.task_id, required_credits=1, remaining_credits=0)
    holds.renew_timeout(account, budget)
    return task


def _add_budget(account: AccountState, task: TaskState, credits: int, *, needed: int, actor: str) -> TaskState:
    budget = find_budget(account, task)
    if budget is not None and budget.task_id != task.task_id:
        raise InvalidInput.at(
            "addBudget",
            f"task {quote_value(task.task_id)} draws on the budget of task {quote_value(budget.task_id)}: add credits "
            "to that one",
        )
    parent = account.holds[budget.parent_budget] if budget is not None and budget.parent_budget is not None else None
    check_can_start(account, 0 if parent is not None and parent.is_open else credits)
    if budget is not None:
        full_reserve = budget.terms["closingReserve"] if budget.terms else 0
        holds.add_to_budget(account, budget, credits, closing_reserve=full_reserve, outside_reserve=needed)
        return task
    made = holds.place_hold(
        account,
        credits,
        task_id=task.task_id,
        block_run_id=None,
        timeout_seconds=DEFAULT_BUDGET_TIMEOUT_SECONDS,
        actor=actor,
    )
    return task._replace(budget_hold=made.number)
