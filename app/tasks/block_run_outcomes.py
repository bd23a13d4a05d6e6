"""Outcomes of block runs. If a block run did not succeed, some or all of its charge is reversed.

The executor reports the outcome once, after the block run has ended. A block run that succeeded costs what it was
charged. The rate card that priced a block run contains the cost of the other outcomes (`pricing.outcomes`).
"""

from dataclasses import dataclass

from app.audit_log.records import AuditContext
from app.errors import BlockRunNotFound, IdempotencyConflict
from app.ledger import posting, queries
from app.ledger.posting import Posting
from app.ledger.rules.account_state import AccountBalance, AccountState, Cause, LedgerEntry
from app.pricing.outcomes import BlockRunOutcome, cost_after_outcome
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import rows, task_accounts
from app.tasks.queries import block_runs_by_id
from app.tasks.reversals import get_task_and_block_run, reverse_block_run
from app.tasks.rules import BlockRunState, TaskState, apply_reversal


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishBlockRunRequest:
    """The outcome that an executor reports."""

    task_id: str
    block_run_id: str
    outcome: BlockRunOutcome
    actor: str
    request_id: str | None = None
    audit: AuditContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedBlockRun:
    """A block run with its outcome. `entry` reversed `credits`; it is None if `credits` is 0."""

    credits: int
    entry: LedgerEntry | None
    block_run: BlockRunState
    task: TaskState
    balance: AccountBalance
    replayed: bool


async def finish_block_run(request: FinishBlockRunRequest, rate_cards: RateCardCache) -> FinishedBlockRun:
    """Record the outcome of a block run, and reverse the part of its charge that exceeds the cost of the outcome.

    Credits that were reversed before are subtracted from this part. The task may have ended.
    Raises: TaskNotFound; BlockRunNotFound: the block run was not charged in this task (a hold must be captured first);
    IdempotencyConflict: another outcome was reported before; BalanceLimitReached.
    """
    account_id = await task_accounts.require_account(request.task_id)
    key = (account_id, request.block_run_id)
    recorded = (await block_runs_by_id([key])).get(key)
    if recorded is None:
        raise BlockRunNotFound(task_id=request.task_id, block_run_id=request.block_run_id)
    # The card can be read before the lock, because the rate card that priced a block run never changes.
    card = await rate_cards.find_card(recorded.rate_card_version)
    if card is None:
        raise LookupError(f"rate card {recorded.rate_card_version}, which priced a block run, does not exist")
    cost = cost_after_outcome(card.outcome_prices_of(recorded.block), request.outcome, recorded.cost)

    async def decide(posting: Posting) -> FinishedBlockRun:
        account = posting.accounts[account_id]
        task, run = get_task_and_block_run(posting, request.task_id, request.block_run_id)
        if run.outcome is not None:
            if run.outcome is not request.outcome:
                raise IdempotencyConflict(key=request.block_run_id)
            return await _replay(posting, account, task, run)
        before = {"reversed": run.reversed}
        excess = max(0, run.cost - run.reversed - cost)
        entry = None
        if excess:
            cause = Cause(
                actor=request.actor,
                reason=f"the block run ended as {request.outcome}",
                task_id=request.task_id,
                block_run_id=request.block_run_id,
                request_id=request.request_id,
            )
            _, entry = await reverse_block_run(posting, account, run, excess, cause)
            task = apply_reversal(task, excess)
            rows.update_task(posting.write, task)
        run = run._replace(
            reversed=run.reversed + excess,
            outcome=request.outcome,
            finished_at=max(account.at, run.charged_at),
            outcome_seq=entry.seq if entry is not None else None,
        )
        rows.update_outcome(posting.write, run)
        posting.record_audit(
            request.audit,
            account,
            subject=f"block run {request.block_run_id}",
            before=before,
            after={"reversed": run.reversed, "outcome": request.outcome},
        )
        return FinishedBlockRun(
            credits=excess, entry=entry, block_run=run, task=task, balance=account.balance(), replayed=False
        )

    reads = [rows.read_tasks([(account_id, request.task_id)]), rows.read_block_runs([key])]
    return await posting.post([account_id], decide, reads=reads)


async def _replay(posting: Posting, account: AccountState, task: TaskState, run: BlockRunState) -> FinishedBlockRun:
    entry = None
    if run.outcome_seq is not None:
        key = (run.account_id, run.outcome_seq)
        entry = (await queries.get_entries([key], connection=posting.connection))[key]
    return FinishedBlockRun(
        credits=entry.credits if entry is not None else 0,
        entry=entry,
        block_run=run,
        task=task,
        balance=account.balance(),
        replayed=True,
    )
