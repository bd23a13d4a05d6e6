"""Block runs: what was executed, and what it cost."""

from collections.abc import Sequence
from datetime import datetime

import strawberry
from strawberry.scalars import JSON

from app.api.context import Context, ResolverInfo
from app.api.owner_scope import readable_owners
from app.api.scalars import Credits
from app.api.tasks.entries import Entry, load_entry, to_entry
from app.engine import declare, global_ids
from app.engine.permissions import Permission
from app.engine.scalars import to_json
from app.engine.schema import describe_enum
from app.ledger.rules.account_state import LedgerEntry
from app.pricing.outcomes import BlockRunOutcome
from app.tasks import costs, queries
from app.tasks.rules import BlockRunState

describe_enum(
    BlockRunOutcome,
    name="BlockRunOutcome",
    description="How a block run ended.",
    values={
        BlockRunOutcome.SUCCEEDED: "It did its work.",
        BlockRunOutcome.FAILED: "It failed.",
        BlockRunOutcome.CANCELLED: "It was cancelled.",
        BlockRunOutcome.PROVIDER_FAILED: "The provider behind it failed.",
    },
)


@declare.type(description="One execution of one block inside a task.", needs=Permission.INHERITED)
class BlockRun(global_ids.Node):
    block_run_id: strawberry.ID = declare.value(description="The platform's id of the execution.")
    block: str = declare.value(description="The block.")
    model: str | None = declare.value(description="The language model, where the price went by it.")
    cost: Credits = declare.value(description="What it was charged: reversals stand in entries of their own.")
    uses_own_key: bool = declare.value(description="Whether it used the customer's own provider key, and so cost 0.")
    at: datetime = declare.value(description="When it was charged.")
    rate_card_version: int = declare.value(description="The rate card that priced it.")
    rule: JSON | None = declare.value(description="The rule of that card that said so.")
    outcome: BlockRunOutcome | None = declare.value(description="How it ended; null until its executor has said so.")
    finished_at: datetime | None = declare.value(description="When its executor said so.")
    state: strawberry.Private[BlockRunState]
    posted: strawberry.Private[LedgerEntry | None] = None

    @declare.field(description="Its charge in the account; null at cost 0.")
    async def entry(self, info: ResolverInfo) -> Entry | None:
        if self.posted is not None:
            return to_entry(self.posted)
        if self.state.entry_seq is None:
            return None
        return await load_entry(info.context, self.state.account_id, self.state.entry_seq)


def to_block_run(state: BlockRunState, posted: LedgerEntry | None = None) -> BlockRun:
    """A block run as GraphQL shows it; with its entry, where that is at hand."""
    return BlockRun(
        id=global_ids.encode_id("BlockRun", state.account_id, state.block_run_id),
        block_run_id=strawberry.ID(state.block_run_id),
        block=state.block,
        model=state.model,
        cost=Credits(state.cost),
        uses_own_key=state.uses_own_key,
        at=state.charged_at,
        rate_card_version=state.price_version,
        rule=to_json(state.rule),
        outcome=state.outcome,
        finished_at=state.finished_at,
        state=state,
        posted=posted,
    )


async def load_block_run(context: Context, account_id: int, block_run_id: str) -> BlockRun | None:
    """A block run by its key, batched with the others of this request."""
    state = await context.data_loader(_block_runs).load((account_id, block_run_id))
    return to_block_run(state) if state else None


@global_ids.node_fetcher("BlockRun", int, str)
async def fetch_block_run(context: Context, account_id: int, block_run_id: str) -> BlockRun | None:
    state = await queries.find_block_run(
        account_id, block_run_id, owner_ids=readable_owners(context.authenticated_caller)
    )
    return to_block_run(state) if state else None


async def _block_runs(keys: list[tuple[int, str]]) -> Sequence[BlockRunState | None]:
    found = await costs.block_runs_by_id(keys)
    return [found.get(key) for key in keys]
