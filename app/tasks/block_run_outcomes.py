"""How a block run ended: what its outcome does not cost is given back, by the card that priced it.

The executor says it once. A block run that succeeded costs what it was charged; what a failed, cancelled or
provider-failed one costs stands in the rate card (`pricing.outcomes`). Credits go back into the grants they came from.
"""

from dataclasses import dataclass

from app.audit_log.records import AuditContext
from app.errors import BlockRunNotFound, IdempotencyConflict, TaskNotFound
from app.ledger import posting, queries
from app.ledger.posting import Posting
from app.ledger.rules.account_state import AccountBalance, AccountState, Cause, LedgerEntry
from app.pricing.outcomes import BlockRunOutcome, cost_after_outcome
from app.pricing.rate_card_cache import RateCardCache
from app.tasks import costs, rows, task_accounts
from app.tasks.reversals import get_task_and_block_run, reverse_block_run
from app.tasks.rules import BlockRunState, TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishBlockRunRequest:
    """What an executor says when a block run is over."""

    task_id: str
    block_run_id: str
    outcome: BlockRunOutcome
    actor: str
    request_id: str | None = None
    audit: AuditContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedBlockRun:
    """A block run that is over. `credits` were given back; `entry` says so, and is None where it was nothing."""

    credits: int
    entry: LedgerEntry | None
    block_run: BlockRunState
    task: TaskState
    balance: AccountBalance
    replayed: bool


async def finish_block_run(request: FinishBlockRunRequest, rate_cards: RateCardCache) -> FinishedBlockRun:
    """Record how a block run ended, and give back what it was charged above what that costs.

    Of a task that has ended too. What was reversed before counts. Raises: TaskNotFound; BlockRunNotFound: it was not
    charged in this task (one that is held is captured or voided first); IdempotencyConflict: it has ended otherwise;
    BalanceLimitReached.
    """
    account_id = await task_accounts.find_account(request.task_id)
    if account_id is None:
        raise TaskNotFound(task_id=request.task_id)
    key = (account_id, request.block_run_id)
    charged = (await costs.block_runs_by_id([key])).get(key)
    if charged is None:
        raise BlockRunNotFound(task_id=request.task_id, block_run_id=request.block_run_id)
    # Before the lock: the card that priced a block run never changes.
    card = await rate_cards.find_card(charged.price_version)
    if card is None:
        raise LookupError(f"rate card {charged.price_version}, which priced a block run, is not there")
    cost = cost_after_outcome(card.outcome_prices_of(charged.block), request.outcome, charged.cost)

    async def decide(posting: Posting) -> FinishedBlockRun:
        book = posting.accounts[account_id]
        task, run = get_task_and_block_run(posting, request.task_id, request.block_run_id)
        if run.outcome is not None:
            if run.outcome is not request.outcome:
                raise IdempotencyConflict(key=request.block_run_id)
            return await _replay(posting, book, task, run)
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
            _, entry = await reverse_block_run(posting, book, run, excess, cause)
            task = task._replace(reversed=task.reversed + excess, version=task.version + 1)
            rows.update_task(posting.write, task)
        run = run._replace(
            reversed=run.reversed + excess,
            outcome=request.outcome,
            finished_at=book.at,
            outcome_seq=entry.seq if entry is not None else None,
        )
        rows.update_outcome(posting.write, run)
        posting.record_audit(
            request.audit,
            book,
            subject=f"block run {request.block_run_id}",
            before={"reversed": run.reversed - excess},
            after={"reversed": run.reversed, "outcome": request.outcome},
        )
        return FinishedBlockRun(
            credits=excess, entry=entry, block_run=run, task=task, balance=book.balance(), replayed=False
        )

    return await posting.post(
        [account_id],
        decide,
        reads=[rows.read_tasks([(account_id, request.task_id)]), rows.read_block_runs([key])],
    )


async def _replay(posting: Posting, book: AccountState, task: TaskState, run: BlockRunState) -> FinishedBlockRun:
    entry = None
    if run.outcome_seq is not None:
        key = (run.account_id, run.outcome_seq)
        entry = (await queries.get_entries([key], connection=posting.connection))[key]
    credits = entry.credits if entry is not None else 0
    return FinishedBlockRun(
        credits=credits, entry=entry, block_run=run, task=task, balance=book.balance(), replayed=True
    )
