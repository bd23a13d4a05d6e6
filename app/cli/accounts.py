"""`python -m app account OWNER`, `grant OWNER CREDITS --reason TEXT` and `erase OWNER --reason TEXT`"""

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from app.cli.connection import (
    COMMAND_LINE,
    command_line_action,
    database_url,
    open_database,
    owner_and_application_urls,
)
from app.cli.verify import missing_heads, read_heads, write_heads
from app.credits import MAX_CREDITS, check_key
from app.erasure.erase_owner import erase_owner
from app.errors import InvalidInput
from app.ledger import accounts, grants, notifications, queries, registered_keys
from app.ledger.grants import reason_problems
from app.ledger.rules.account_state import AccountBalance, GrantSource, Hold, LedgerEntry
from app.settings import get_settings
from app.state import configure_ledger
from app.tasks.queries import stopped_tasks
from app.tasks.rules import TaskState
from app.topups.auto_topup.configuration import NEVER_CONFIGURED, AutoTopUpView, find_views
from app.topups.refunds import rows as refund_rows
from app.topups.rules import TopUpTerms
from app.verify import verifier
from app.verify.verifier import AccountHead
from app.wording import counted

LISTED: Final = 10
"""The maximum number of items of each kind that are printed. The newest are printed."""


async def show(owner_id: str) -> None:
    """Print the figures of an account, and what may stop its tasks. Raises: InvalidInput: the owner has no account."""
    settings = get_settings()
    configure_ledger(settings)
    check_key(owner_id, path="OWNER")
    with database_url() as url:
        async with open_database(url):
            account_id = await accounts.find_account_id(owner_id)
            if account_id is None:
                raise InvalidInput.at("OWNER", f"{owner_id} has no account")
            await registered_keys.register_signing_key()  # due changes may add entries
            balance = (await queries.get_balances([account_id]))[account_id]
            stopped = await stopped_tasks(account_id, limit=LISTED)
            budget_keys = {(account_id, task.budget_hold) for task in stopped if task.budget_hold is not None}
            budgets = await queries.get_holds(budget_keys) if budget_keys else {}
            holds = await queries.list_holds(account_id, before_number=2**31 - 1, limit=LISTED, open_only=True)
            disputes = await refund_rows.list_open_disputes(limit=LISTED, account_id=account_id)
            views = await find_views([account_id], settings.payment_provider, TopUpTerms.from_settings(settings))
            entries = await queries.list_entries(account_id, before_seq=MAX_CREDITS, limit=LISTED)
            unread = await notifications.list_notifications(account_id, limit=LISTED, unread_only=True)
    owed = f", owed {balance.owed:,}" if balance.owed else ""
    print(f"Account {account_id} of {owner_id}, version {balance.version}")
    print(
        f"available {balance.available:,} = posted {balance.posted:,} - held {balance.held:,}"
        f" - frozen {balance.frozen:,}, at least 0{owed}"
    )
    _print_section("Auto top-up", [_auto_top_up_line(views.get(account_id, NEVER_CONFIGURED))])
    budget_of = {task.task_id: budgets.get((account_id, task.budget_hold or 0)) for task in stopped}
    _print_section("Stopped tasks", (_task_line(task, balance, budget_of[task.task_id]) for task in stopped))
    _print_section("Open holds", map(_hold_line, holds))
    _print_section(
        "Open disputes",
        (
            f"{_time(one.row.opened_at)}  {one.row.dispute_ref}  top-up {one.row.top_up_id}  "
            f"{one.row.frozen_credits:,} of {counted(one.row.credits, 'credit')} frozen"
            for one in disputes
        ),
    )
    _print_section("Newest entries", map(_entry_line, entries))
    _print_section("Unread notifications", (f"{_time(one.at)}  {one.kind}  {one.message}" for one in unread))


def _print_section(heading: str, lines: Iterable[str]) -> None:
    print(f"\n{heading}")
    for line in list(lines) or ["none"]:
        print(f"  {line}")


def _auto_top_up_line(view: AutoTopUpView) -> str:
    reason = f": {view.reason}" if view.reason is not None else ""
    retry = f", next at {_time(view.next_eligible_at)}" if view.next_eligible_at is not None else ""
    return f"{view.state}{reason}{retry}"


def _task_line(task: TaskState, balance: AccountBalance, budget: Hold | None) -> str:
    line = f"{_time(task.started_at)}  {task.task_id}  agent {task.agent_id}  {task.stop_reason}"
    if task.required is None:
        return line
    if budget is None:
        return f"{line}  required {task.required:,}, now missing in the account {balance.shortfall(task.required):,}"
    free = budget.remaining - budget.closing_reserve if budget.is_open else 0
    return f"{line}  required {task.required:,}, now missing in the budget {max(0, task.required - free):,}"


def _hold_line(hold: Hold) -> str:
    purpose = "budget" if hold.block_run_id is None else f"block run {hold.block_run_id}"
    held = counted(hold.remaining, "credit")
    return f"{_time(hold.placed_at)}  task {hold.task_id}  {purpose}  {held} held, expires {_time(hold.expires_at)}"


def _entry_line(entry: LedgerEntry) -> str:
    cause = entry.block_run_id or entry.task_id or entry.top_up_id or ""
    parts = (_time(entry.at), f"{entry.seq}", entry.kind, f"{entry.credits:+,}", f"balance {entry.balance_after:,}")
    return "  ".join([*parts, *filter(None, (cause, entry.actor, entry.reason))])


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


async def grant(
    owner_id: str,
    credits: int,
    *,
    reason: str,
    source: str,
    priority: int,
    expires_at: datetime | None,
    key: str | None,
) -> None:
    configure_ledger(get_settings())
    request = grants.GrantRequest(
        owner_id=owner_id,
        credits=credits,
        source=GrantSource(source),
        priority=priority,
        expires_at=expires_at,
        reason=reason,
        key=f"command-line-{secrets.token_hex(8)}" if key is None else key,
        actor=COMMAND_LINE,
        audit=command_line_action("grantCredits"),
    )
    with database_url() as url:
        async with open_database(url):
            await registered_keys.register_signing_key()
            granted = await grants.grant_credits(request)
    done = "granted before" if granted.replayed else "granted"
    print(f"{counted(granted.grant.credits, 'credit')} {done} to {owner_id}: {granted.balance.available:,} available")


async def erase(owner_id: str, *, reason: str, heads_file: Path | None) -> None:
    """Replace an owner id by a pseudonym. The account's ledger is verified before and after.

    Raises: InvalidInput: the account is not intact, or has running tasks, open payments or unhandled events.
    """
    check_key(owner_id, path="OWNER")
    if problems := reason_problems(reason):
        raise InvalidInput(problems=problems)
    configure_ledger(get_settings())
    heads = read_heads(heads_file) if heads_file is not None else []
    with owner_and_application_urls() as (owner_url, _):
        async with open_database(owner_url):
            await _check_intact(owner_id, heads)
            await registered_keys.register_signing_key()
            done = await erase_owner(owner_id, reason=reason, audit=command_line_action("eraseOwner"))
            if done is None:
                print(f"{owner_id} has no account: there is nothing to erase")
                return
            await _check_intact(done.pseudonym, [])
    if heads_file is not None:
        new = AccountHead(done.account_id, done.seq, done.mac)
        write_heads(heads_file, [new if head.account_id == new.account_id else head for head in heads])
    print(f"{owner_id} is now {done.pseudonym}")
    for customer in done.customers:
        print(f"delete this customer at the payment provider: {customer}")


async def _check_intact(owner_id: str, heads: list[AccountHead]) -> None:
    """Raises: InvalidInput: the account's ledger is not intact. New signatures of its entries would hide this."""
    report = await verifier.verify_ledger(owner_id)
    account_id = await accounts.find_account_id(owner_id)
    missing = await missing_heads([head for head in heads if head.account_id == account_id])
    if report.violations or report.missing_keys or missing:
        raise InvalidInput.at("OWNER", "has an account that is not intact: see `python -m app verify`")
